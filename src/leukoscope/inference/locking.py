"""One process at a time in a folder of results."""

import os
import sys
from pathlib import Path
from typing import BinaryIO

from leukoscope.core.errors import UsageError


class FolderLock:
    """An exclusive lock on a file; the system frees it when the process ends, however it ends.

    Where the file system has no locks, nothing is locked.

    Parameters
    ----------
    path
        The file, made where it is missing and left behind: removing it would let two processes in.

    Raises
    ------
    UsageError
        Another process holds the lock.
    OSError
        The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab")
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError):
            self._file.close()
            raise UsageError(
                f"{path.parent}: another process writes its results there; wait for its end, or name another folder"
            ) from None
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        """Let others in; may be called again."""
        self._file.close()


def _lock(file: BinaryIO) -> None:
    """Take the lock or raise ``BlockingIOError`` (POSIX) or ``PermissionError`` (Windows) at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0, os.SEEK_END)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
