"""Groups: subjects merged because they share identical images.

The official folds hold byte-identical images under different subject ids; a split between such subjects leaks. Subjects
are merged when any file links them, in the imported files or in the official list, so that subject 20 is in the group
``20+21`` even where no file of 21 is present.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Generic, TypeVar

from leukoscope.data.official import official_by_sha256

Key = TypeVar("Key", bound=Hashable)
UNKNOWN_SUBJECT_PREFIX = "sha256:"
"""Start of the group of a cell whose subject is unknown; identical files still share it."""


class UnionFind(Generic[Key]):
    """Disjoint sets with union by size and path halving."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}
        self._size: dict[Key, int] = {}

    def find(self, key: Key) -> Key:
        """Return the representative of the key's set; a new key becomes a new set."""
        parent = self._parent
        if key not in parent:
            parent[key] = key
            self._size[key] = 1
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def union(self, first: Key, second: Key) -> None:
        """Merge the sets of two keys."""
        large, small = self.find(first), self.find(second)
        if large == small:
            return
        if self._size[large] < self._size[small]:
            large, small = small, large
        self._parent[small] = large
        self._size[large] += self._size[small]

    def sets(self) -> list[set[Key]]:
        """Return all sets."""
        found: dict[Key, set[Key]] = {}
        for key in self._parent:
            found.setdefault(self.find(key), set()).add(key)
        return list(found.values())


@cache
def official_groups() -> Mapping[str, frozenset[str]]:
    """Return, for each of the 73 official training subjects, the subjects of its group (66 groups)."""
    merged: UnionFind[str] = UnionFind()
    for same in official_by_sha256().values():
        subjects = [file.subject for file in same if file.subject]
        for subject in subjects:
            merged.union(subjects[0], subject)
    return MappingProxyType({subject: frozenset(group) for group in merged.sets() for subject in group})


def group_name(subjects: Iterable[str]) -> str:
    """Name a group by its subjects, in natural order.

    Examples
    --------
    >>> group_name({"75", "h3", "8", "H10"})
    '8+75+H10+h3'
    """
    return "+".join(sorted(subjects, key=natural_order))


def assign_groups(
    subjects: Sequence[str], sha256: Sequence[str], official_subjects: Sequence[str]
) -> list[str]:
    """Name the group of every cell.

    Parameters
    ----------
    subjects
        Subject of each cell; empty where it is unknown.
    sha256
        SHA-256 of each cell's file, 64 hexadecimal digits.
    official_subjects
        The C-NMC id of each cell's subject; empty for cells of other cohorts, whose subject "20" is a different
        subject and must not be merged by the official list.

    Returns
    -------
    list of str
        Subjects joined by ``+``; for a cell whose subject is unknown and cannot be inferred from an identical file,
        ``sha256:`` and the first 12 digits.
    """
    # Keys are (kind, value). A file links all subjects it is found with, an official id those it is merged with.
    merged: UnionFind[tuple[str, str]] = UnionFind()
    for subject, digest, official in zip(subjects, sha256, official_subjects, strict=True):
        if subject:
            merged.union(("file", digest), ("subject", subject))
        for other in official_groups().get(official, ()):
            merged.union(("file", digest), ("official", other))
    names = {
        merged.find(next(iter(keys))): group_name({value for kind, value in keys if kind != "file"})
        for keys in merged.sets()
    }
    return [
        names.get(merged.find(("file", digest))) or UNKNOWN_SUBJECT_PREFIX + digest[:12] for digest in sha256
    ]


def natural_order(subject: str) -> tuple[str, int, str]:
    """Return the sorting key that puts 9 before 11, and 11 before H2."""
    letters = subject.rstrip("0123456789")
    digits = subject[len(letters) :]
    return letters, int(digits) if digits else -1, subject
