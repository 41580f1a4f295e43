"""File names and images of recent results, in memory only, limited in bytes and in time."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

_OVERHEAD_BYTES = 600


@dataclass(frozen=True, slots=True)
class Artifact:
    """The file name of an upload and its PNG images by kind, which the pages show with a stored result."""

    name: str
    pictures: Mapping[str, bytes]
    expires: float

    @property
    def size(self) -> int:
        """Bytes held, roughly."""
        return _OVERHEAD_BYTES + len(self.name) + sum(len(png) for png in self.pictures.values())


class Artifacts:
    """A cache by case id; the oldest entries go first when ``limit_bytes`` is reached or their time is over."""

    def __init__(self, limit_bytes: int, keep_s: float) -> None:
        self._limit, self._keep_s = limit_bytes, keep_s
        self._entries: OrderedDict[str, Artifact] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._size

    def put(self, case: str, name: str, pictures: Mapping[str, bytes]) -> None:
        """Remember the name and pictures of one case."""
        entry = Artifact(name, dict(pictures), time.monotonic() + self._keep_s)
        with self._lock:
            self._drop(case)
            self._entries[case] = entry
            self._size += entry.size
            self._expire()

    def get(self, case: str) -> Artifact | None:
        """Return the artifacts of a case, or None."""
        with self._lock:
            self._expire()
            return self._entries.get(case)

    def forget(self, case: str) -> None:
        """Forget one case."""
        with self._lock:
            self._drop(case)

    def _drop(self, case: str) -> None:
        entry = self._entries.pop(case, None)
        if entry is not None:
            self._size -= entry.size

    def _expire(self) -> None:
        now = time.monotonic()
        while self._entries:
            case, entry = next(iter(self._entries.items()))
            if entry.expires > now and self._size <= self._limit:
                return
            self._drop(case)
