"""A bundle as files: which there may be, how large, and that no byte of them has changed."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.models.manifest import task_of

SUMS = "SHA256SUMS"
MODEL = "model.onnx"
MANIFEST = "manifest.json"
DECISION = "decision.json"
NOVELTY = "novelty.safetensors"
REPORT = "report.json"
CARD = "MODEL_CARD.md"
LICENSE = "LICENSE"
DATA_LICENSE = "DATA_LICENSE"
SAMPLE = "sample"
EXPECTED = f"{SAMPLE}/expected.json"

MIB = 1024 * 1024
LIMITS: dict[str, int] = {
    SUMS: MIB,
    MODEL: 1024 * MIB,
    MANIFEST: MIB,
    DECISION: MIB,
    NOVELTY: 64 * MIB,
    REPORT: 64 * MIB,
    CARD: MIB,
    LICENSE: MIB,
    DATA_LICENSE: MIB,
    EXPECTED: 16 * MIB,
}
"""Largest size of each file; nothing is read before its size is known."""

OPTIONAL = frozenset({REPORT})
OF_EVERY_TASK = frozenset({SUMS, MODEL, MANIFEST, REPORT, CARD, LICENSE, DATA_LICENSE})
"""A bundle of the task ``finder`` has these and no others."""
SAMPLE_LIMIT = 8 * MIB
MAX_SAMPLES = 256
SAMPLE_NAME = re.compile(rf"^{SAMPLE}/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}\.(bmp|png|webp)$")
_SUM_LINE = re.compile(r"^([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._/-]{0,200})$")


@dataclass(frozen=True)
class BundleFiles:
    """The files of one bundle, each of a known name and an allowed size.

    Attributes
    ----------
    directory
        The bundle's folder.
    sizes
        Name relative to the folder -> size in bytes.
    task
        What ``manifest.json`` states, which is not yet held against its hash.
    """

    directory: Path
    sizes: dict[str, int]
    task: str = "cell"

    def read(self, name: str) -> bytes:
        """Read one file; it must still be the regular file of the size that was listed."""
        path = self.directory / name
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
            with open(handle, "rb") as file:  # noqa: PTH123 - from a handle
                content = file.read(self.sizes[name] + 1)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from None
        if len(content) != self.sizes[name]:
            raise BundleError(f"{path}: changed while it was read; verify the bundle again")
        return content


def list_files(directory: Path) -> BundleFiles:
    """List a bundle's files.

    Raises
    ------
    BundleError
        The folder is missing; a file is missing, unknown, too large, a link or anything but a regular file.
    """
    if not directory.is_dir():
        what = "is not a folder" if directory.exists() else "there is no such folder"
        raise BundleError(f"{directory}: {what}; name the folder of a bundle")
    sizes: dict[str, int] = {}
    try:
        for entry in _entries(directory):
            sizes.update(_list_sample(directory) if entry.name == SAMPLE else _list_entry(entry, entry.name))
    except OSError as error:
        raise BundleError(f"{directory}: cannot be listed ({error.strerror})") from None
    sizes = dict(sorted(sizes.items()))
    task = task_of(BundleFiles(directory, sizes).read(MANIFEST)) if MANIFEST in sizes else "cell"
    allowed = OF_EVERY_TASK if task == "finder" else LIMITS.keys()
    missing = sorted(allowed - OPTIONAL - sizes.keys())
    if missing:
        raise BundleError(f"{directory}: missing {', '.join(missing)}; copy or export the bundle again")
    foreign = sorted(sizes.keys() - OF_EVERY_TASK) if task == "finder" else []
    if foreign:
        raise _foreign(directory / foreign[0])
    return BundleFiles(directory, sizes, task)


def read_sums(files: BundleFiles) -> dict[str, str]:
    """Return name -> SHA-256 from ``SHA256SUMS``, which must name every other file and nothing else."""
    sums: dict[str, str] = {}
    for line in files.read(SUMS).decode("utf-8", "replace").splitlines():
        match = _SUM_LINE.match(line)
        if match is None or match[2] in sums:
            raise BundleError(
                f"{files.directory / SUMS}: unreadable line {line[:80]!r}; copy the bundle again"
            )
        sums[match[2]] = match[1]
    unlisted = sorted(files.sizes.keys() - sums.keys() - {SUMS})
    absent = sorted(sums.keys() - files.sizes.keys())
    if unlisted or absent:
        raise BundleError(
            f"{files.directory}: {SUMS} and the files differ: {', '.join((unlisted + absent)[:5])}; "
            "copy or export the bundle again"
        )
    return sums


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_checked(files: BundleFiles, sums: dict[str, str], name: str) -> bytes:
    """Read one file and hold it against its hash.

    Raises
    ------
    BundleError
        The hash differs.
    """
    content = files.read(name)
    if hash_bytes(content) != sums[name]:
        raise BundleError(
            f"{files.directory / name}: the content does not have the SHA-256 that {SUMS} lists; "
            "the file was altered or damaged: copy the bundle again from its source"
        )
    return content


def render_sums(contents: dict[str, str]) -> str:
    """Return the text of ``SHA256SUMS`` from name -> SHA-256, as sha256sum reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(contents.items()))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        found = []
        for entry in entries:
            found.append(entry)
            if len(found) > MAX_SAMPLES + len(LIMITS):
                raise BundleError(f"{directory}: more files than a bundle has; name the folder of a bundle")
        return found


def _list_sample(directory: Path) -> dict[str, int]:
    folder = directory / SAMPLE
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"{folder}: expected a folder, not a link or file; copy the bundle again")
    sizes: dict[str, int] = {}
    for entry in _entries(folder):
        sizes.update(_list_entry(entry, f"{SAMPLE}/{entry.name}"))
    return sizes


def _list_entry(entry: os.DirEntry[str], name: str) -> dict[str, int]:
    limit = LIMITS.get(name, SAMPLE_LIMIT if SAMPLE_NAME.match(name) else -1)
    if limit < 0:
        raise _foreign(Path(entry.path))
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{entry.path}: not a regular file; a bundle holds no links, folders or devices")
    if status.st_size > limit:
        raise BundleError(
            f"{entry.path}: {status.st_size:,} bytes, the limit is {limit:,}; copy the bundle again"
        )
    return {name: status.st_size}


def _foreign(path: Path) -> BundleError:
    return BundleError(
        f"{path}: no file of this name belongs into a bundle of this task; remove it if you put it there, "
        "else do not use this bundle"
    )
