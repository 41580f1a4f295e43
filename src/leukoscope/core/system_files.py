"""Files and folders that operating systems, sync tools and archivers create among images."""

_NAMES = frozenset(
    {
        "$recycle.bin",
        ".appledouble",
        ".ds_store",
        ".fseventsd",
        ".spotlight-v100",
        ".temporaryitems",
        ".thumbnails",
        ".trash",
        ".trashes",
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "found.000",
        "lost+found",
        "recycler",
        "system volume information",
        "thumbs.db",
    }
)
_PREFIXES = ("._", ".trash-", ".nfs", ".fuse_hidden", ".~lock.", "~$")


def is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system, independent of its ending.

    Examples
    --------
    >>> [is_system_name(name) for name in ("Thumbs.db", "@eaDir", "._cell.png", "cell.png")]
    [True, True, True, False]
    """
    lower = name.casefold()
    return lower in _NAMES or lower.startswith(_PREFIXES)


def has_system_part(path: str) -> bool:
    """Tell whether any part of a path with ``/`` or Windows' separators is such a name."""
    return any(is_system_name(part) for part in path.replace("\\", "/").split("/"))
