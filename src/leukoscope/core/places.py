"""Folders of the user: ``~`` in paths, and the folders that the environment names."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from leukoscope.core.errors import UsageError


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~name`` expanded.

    Raises
    ------
    UsageError
        The path is empty, there is no such user, or the user has no home folder.
    """
    if not os.fspath(path):
        raise UsageError("'': an empty path; name a file or folder ('.' is the current folder)")
    place = Path(path)
    if not place.parts or not place.parts[0].startswith("~"):
        return place
    expanded = None
    with suppress(RuntimeError):
        expanded = place.expanduser()
    if expanded is None or (place.parts[0] == "~" and _home() is None):
        raise UsageError(
            f"{place}: no home folder is known for {place.parts[0]!r}; write the whole path, "
            f"or './{place}' for a file of this name"
        )
    return expanded


def user_folder(kind: str) -> Path | None:
    """Return the program's folder among the user's files; it need not exist.

    Parameters
    ----------
    kind
        ``data`` or ``cache``: ``$XDG_DATA_HOME`` or ``$XDG_CACHE_HOME``, else ``.local/share`` or ``.cache`` in the
        home folder; ``%LOCALAPPDATA%`` on Windows. A value that is no absolute path does not count, as the XDG
        specification says.

    Returns
    -------
    Path or None
        None if the user has no home folder.
    """
    variable = "LOCALAPPDATA" if sys.platform == "win32" else f"XDG_{kind.upper()}_HOME"
    base = os.environ.get(variable, "")
    if Path(base).is_absolute():
        return Path(base) / "leukoscope"
    home = _home()
    if home is None:
        return None
    return home.joinpath(*{"data": (".local", "share"), "cache": (".cache",)}[kind], "leukoscope")


def _home() -> Path | None:
    """Return the user's home folder; None if HOME is empty, ``~`` or relative, or there is none."""
    if os.name == "posix" and not Path(os.environ.get("HOME", "/")).is_absolute():
        return None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None
