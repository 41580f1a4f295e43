"""Damage in a TIFF's compressed strips and tiles that the decoder would read over."""

import struct
import zlib

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.formats import Container, Entry, read_tiff_directory

_DEFLATE = (8, 32946)
_OFFSETS, _SIZES = (273, 324), (279, 325)
_STEP_BYTES = 1 << 20


def check_strips(container: Container) -> None:
    """Unpack the strips or tiles of a TIFF with deflate, one after the other, and compare their checksums.

    libtiff stops where a strip has enough pixels, before the checksum: damaged bytes would become pixels. Other
    compressions of TIFF have no checksum.

    Parameters
    ----------
    container
        Of any format; all but TIFF with deflate are left alone.

    Raises
    ------
    ImageError
        ``UNREADABLE``: a strip or tile is damaged.
    """
    if container.format != "TIFF":
        return
    content = container.content
    order, entries = read_tiff_directory(content)
    tags = {entry[0]: entry for entry in entries}
    if _numbers(content, order, tags.get(259))[:1] not in [[method] for method in _DEFLATE]:
        return
    for offsets, sizes in zip(_OFFSETS, _SIZES, strict=True):
        parts = zip(
            _numbers(content, order, tags.get(offsets)),
            _numbers(content, order, tags.get(sizes)),
            strict=False,
        )
        for number, (start, size) in enumerate(parts, 1):
            try:
                _unpack(content[start : start + size])
            except zlib.error:
                raise ImageError(
                    Reason.UNREADABLE,
                    f"the image is damaged: part {number} of the TIFF does not have its checksum; "
                    "export or copy the file again",
                ) from None


def _unpack(data: bytes) -> None:
    """Unpack to nowhere, in steps: the checksum is compared at the end."""
    stream = zlib.decompressobj()
    while data and not stream.eof:
        stream.decompress(data, _STEP_BYTES)
        data = stream.unconsumed_tail


def _numbers(content: bytes, order: str, entry: Entry | None) -> list[int]:
    """Return the values of an entry of SHORT or LONG."""
    if entry is None or entry[1] not in (3, 4):
        return []
    _, kind, count, raw = entry
    code, size = ("H", 2) if kind == 3 else ("I", 4)
    if count * size <= 4:
        return list(struct.unpack_from(f"{order}{count}{code}", raw))
    (start,) = struct.unpack(order + "I", raw)
    return list(struct.unpack_from(f"{order}{count}{code}", content, start))
