"""Read image files in parallel: each file once, digest and descriptors from the same bytes.

Imports nothing heavy, since worker processes load it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from leukoscope.core.errors import ImageError
from leukoscope.data.cnmc import official_bmp_sha256
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.imaging.foreign_formats import name_foreign_format

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the number of files done and the number of all files."""
_PENDING_PER_WORKER = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """What one image file gave."""

    sha256: str
    """Of the file's bytes; empty where it cannot be read."""
    official_sha256: str = ""
    """Of the pixels as an official BMP, for files in another format; to recognize lossless copies."""
    width_px: int = 0
    height_px: int = 0
    descriptors: dict[str, int | float] = dataclasses.field(default_factory=dict)
    trouble: str = ""
    """Why there is no image; empty where there is one."""


def measure_file(path: Path) -> Measurement:
    """Hash, decode and describe one file; trouble is returned, not raised."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Measurement("", trouble=f"cannot be read: {error.strerror or error}")
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        rgb = decode_image(content)
    except ImageError as error:
        return Measurement(sha256, trouble=str(error))
    height, width = rgb.shape[:2]
    descriptors = {
        name: round(value, 6) if isinstance(value, float) else int(value)
        for name, value in dataclasses.asdict(describe_cell(rgb)).items()
    }
    official = "" if content[:2] == b"BM" else official_bmp_sha256(rgb)
    return Measurement(sha256, official, width, height, descriptors)


def identify_file(path: Path) -> Measurement:
    """Hash one file, and decode it only where it is no BMP; trouble is returned, not raised."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Measurement("", trouble=f"cannot be read: {error.strerror or error}")
    sha256 = hashlib.sha256(content).hexdigest()
    if content[:2] == b"BM" and name_foreign_format(content) is None:
        return Measurement(sha256)
    try:
        rgb = decode_image(content)
    except ImageError as error:
        return Measurement(sha256, trouble=str(error))
    return Measurement(sha256, official_bmp_sha256(rgb), rgb.shape[1], rgb.shape[0])


def map_files(
    function: Callable[[Path], T], files: Sequence[Path], workers: int, progress: Progress | None = None
) -> list[T]:
    """Apply a function to files in parallel, in order, with few results in flight.

    Parameters
    ----------
    function
        ``measure_file`` or ``identify_file``.
    files
        What to read.
    workers
        Threads, from 1. Decoding, hashing and NumPy release the interpreter lock.
    progress
        Called after every file.
    """
    if not files:
        return []
    with ThreadPoolExecutor(workers) as executor:
        results = []
        try:
            for result in _in_order(executor, function, files, workers * _PENDING_PER_WORKER):
                results.append(result)
                if progress:
                    progress(len(results), len(files))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _in_order(
    executor: Executor, function: Callable[[Path], T], files: Sequence[Path], pending: int
) -> Iterator[T]:
    waiting = iter(files)
    futures = [executor.submit(function, file) for file in islice(waiting, pending)]
    while futures:
        yield futures.pop(0).result()
        futures += [executor.submit(function, file) for file in islice(waiting, 1)]
