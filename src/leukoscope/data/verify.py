"""Compare files with the official ones by SHA-256, independent of name and folder."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from leukoscope.core.errors import UsageError
from leukoscope.core.text import escape_surrogates
from leukoscope.data.layouts import IMAGE_SUFFIXES, walk_files
from leukoscope.data.measure import Measurement, Progress, identify_file, map_files
from leukoscope.data.official import OfficialFile, official_by_sha256, official_by_tail, official_files


class FileStatus(StrEnum):
    """Status of a file compared with the official list."""

    OFFICIAL = "official"
    RENAMED = "renamed"
    """The official bytes under another name or in another folder."""
    CONVERTED = "converted"
    """Another format with the pixels of an official training file."""
    COPY = "copy"
    """The official bytes once more than the archive holds them."""
    ALTERED = "altered"
    """The name and place of an official file, other content."""
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    """A file, folder or link that cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One checked file."""

    file: str
    status: FileStatus
    official: str
    """Path of the official file it is, or claims to be; empty for an unknown one."""
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Verification:
    """The files of a folder compared with the official list."""

    source: str
    files: tuple[VerifiedFile, ...]
    missing: tuple[str, ...]
    """Official paths without a matching file."""
    counts: dict[str, dict[str, int]]
    """By part (``fold_0`` ... ``final_test``, and ``no part`` for unknown files): files of each status, and missing."""
    system_files: tuple[str, ...] = ()
    """Files and folders of an operating system, which were skipped."""

    @property
    def trustworthy(self) -> bool:
        """Whether every checked file is an official one."""
        bad = (FileStatus.ALTERED, FileStatus.UNKNOWN, FileStatus.UNREADABLE)
        return not any(file.status in bad for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the verification as plain data."""
        return {**dataclasses.asdict(self), "trustworthy": self.trustworthy}


def verify_files(
    source: Path, *, workers: int | None = None, progress: Progress | None = None
) -> Verification:
    """Compare all images below a folder with the official list.

    Parameters
    ----------
    source
        Folder.
    workers
        Threads; the number of processors where it is left out.
    progress
        Called with files done and files in all.

    Raises
    ------
    UsageError
        No such folder, or no image in it.
    """
    if not source.is_dir():
        raise UsageError(f"{source}: no such folder; name the one that holds the images")
    gaps: list[VerifiedFile] = []

    def unreadable(path: Path, why: str) -> None:
        name = path.relative_to(source).as_posix() if path.is_relative_to(source) else str(path)
        gaps.append(VerifiedFile(escape_surrogates(name), FileStatus.UNREADABLE, "", why))

    system: list[str] = []

    def skipped(path: Path) -> None:
        system.append(escape_surrogates(path.relative_to(source).as_posix()))

    files = [
        file for file in walk_files(source, unreadable, skipped) if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files and not gaps:
        raise UsageError(
            f"{source}: no image found; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    measured = map_files(identify_file, files, workers or os.cpu_count() or 1, progress)
    claims = [_claim(source.resolve() / file.relative_to(source)) for file in files]
    scored, found = _predict(source, files, measured, claims)
    scored += gaps
    missing = tuple(official.path for official in official_files() if official.path not in found)
    return Verification(str(source), tuple(scored), missing, _count(scored, missing), tuple(system))


def _claim(file: Path) -> OfficialFile | None:
    """Return the official file whose name and folders a file has, with any suffix."""
    known = official_by_tail()
    for depth in (3, 2):
        if found := known.get("/".join((*file.parts[-depth:-1], file.stem))):
            return found
    return None


def _predict(
    source: Path,
    files: Sequence[Path],
    measured: Sequence[Measurement],
    claims: Sequence[OfficialFile | None],
) -> tuple[list[VerifiedFile], set[str]]:
    known = official_by_sha256()
    # Files in their own place first: of two identical official files each then finds itself.
    order = sorted(range(len(files)), key=lambda i: claims[i] not in known.get(_digest(measured[i]), ()))
    found: set[str] = set()
    scored: dict[int, VerifiedFile] = {}
    for i in order:
        same, claim = known.get(_digest(measured[i]), ()), claims[i]
        name = escape_surrogates(files[i].relative_to(source).as_posix())
        if not measured[i].sha256:
            scored[i] = VerifiedFile(name, FileStatus.UNREADABLE, "", measured[i].trouble)
        elif same:
            free = [official for official in same if official.path not in found]
            target = claim if claim in free else (free or same)[0]
            status = _status_of_same(measured[i], target, claim, bool(free))
            found.add(target.path)
            scored[i] = VerifiedFile(name, status, target.path)
        elif claim is not None:
            scored[i] = VerifiedFile(name, FileStatus.ALTERED, claim.path, _why_altered(measured[i], claim))
        else:
            scored[i] = VerifiedFile(name, FileStatus.UNKNOWN, "", measured[i].trouble)
    return [scored[i] for i in range(len(files))], found


def _digest(measured: Measurement) -> str:
    known = official_by_sha256()
    return measured.sha256 if measured.sha256 in known else measured.official_sha256


def _status_of_same(
    measured: Measurement, target: OfficialFile, claim: OfficialFile | None, free: bool
) -> FileStatus:
    if not free:
        return FileStatus.COPY
    if measured.sha256 != target.sha256:
        return FileStatus.CONVERTED
    return FileStatus.OFFICIAL if claim is target else FileStatus.RENAMED


def _why_altered(measured: Measurement, claim: OfficialFile) -> str:
    if measured.trouble:
        return measured.trouble
    if measured.official_sha256 and not claim.name:
        return "converted copies of the test sets cannot be recognized; restore the official BMP"
    return f"SHA-256 {measured.sha256[:12]}..., official {claim.sha256[:12]}...; restore the official file"


def _count(scored: Sequence[VerifiedFile], missing: Sequence[str]) -> dict[str, dict[str, int]]:
    part_of = {official.path: official.fold for official in official_files()}
    counts: dict[str, Counter[str]] = {part: Counter() for part in sorted(set(part_of.values()))}
    for file in scored:
        counts.setdefault(part_of.get(file.official, "no part"), Counter())[file.status.value] += 1
    for path in missing:
        counts[part_of[path]]["missing"] += 1
    return {part: dict(found) for part, found in counts.items()}
