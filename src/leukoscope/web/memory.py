"""One budget for the bytes of uploads that the process holds in memory, over all requests and jobs."""

from threading import Lock

from flask import current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from leukoscope.web.problems import busy
from leukoscope.web.settings import MEBIBYTE

UPLOAD_ENDPOINTS = frozenset({"api.predict", "api.create_job", "api.extend_job", "pages.create_job"})
SMALL_BODY_BYTES = 32 * 1024
"""The largest request that takes no file: a review with a note of 2,000 characters, each written as 12 bytes."""
_RETRY_S = 3


class Memory:
    """Counts reserved bytes; a request is always admitted if no other is open, at any size."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._lock = Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes reserved now."""
        return self._held

    def reserve(self, size_bytes: int) -> "Reservation":
        """Set memory aside.

        Raises
        ------
        Problem
            503 with Retry-After where the budget is spent.
        """
        reservation = Reservation(self)
        reservation.expand(size_bytes)
        return reservation

    def take(self, size_bytes: int, own_bytes: int) -> None:
        """Count further bytes of who already holds ``own_bytes``."""
        with self._lock:
            others = self._held - own_bytes
            if others and self._held + size_bytes > self._limit:
                raise busy(
                    f"{self._held // MEBIBYTE} MB of images wait, at most {self._limit // MEBIBYTE} MB "
                    "are held at once; try again after the given seconds.",
                    _RETRY_S,
                )
            self._held += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Count bytes as free again."""
        with self._lock:
            self._held -= size_bytes


class Reservation:
    """What one request, or one part of a job, may hold."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._size = memory, 0

    def expand(self, size_bytes: int) -> None:
        """Set more aside; 503 where the budget is spent."""
        self._memory.take(size_bytes, self._size)
        self._size += size_bytes

    def hand_over(self) -> "Reservation":
        """Return a reservation that holds all of this one; this one holds nothing afterwards."""
        other = Reservation(self._memory)
        other._size, self._size = self._size, 0
        return other

    def release(self) -> None:
        """Release all reserved bytes; a second call has no effect."""
        size, self._size = self._size, 0
        self._memory.give_back(size)


def admit_body(memory: Memory) -> None:
    """Before anything reads the body: reserve memory for an upload, allow any other request a small body only."""
    if request.endpoint not in UPLOAD_ENDPOINTS:
        request.max_content_length = SMALL_BODY_BYTES
        return
    size = request.content_length or 0
    if size > current_app.config["MAX_CONTENT_LENGTH"]:
        raise RequestEntityTooLarge
    g.reservation = memory.reserve(size)


def reservation() -> Reservation:
    """Return what this request holds; it is released when the request ends."""
    held: Reservation = g.reservation
    return held


def release_body() -> None:
    """Release what this request still holds."""
    held: Reservation | None = g.pop("reservation", None)
    if held is not None:
        held.release()
