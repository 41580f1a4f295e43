"""The simplest DICOM images: one frame, 8-bit color, uncompressed or one JPEG, with its pixel spacing."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.smear.scale import PLAUSIBLE_UM

_LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN"}
_SPACINGS = {(0x0028, 0x0030): "DICOM pixel spacing", (0x0018, 0x1164): "DICOM imager pixel spacing"}
_PIXELS = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_NATIVE = {"1.2.840.10008.1.2.1": True, "1.2.840.10008.1.2": False}
_JPEG = "1.2.840.10008.1.2.4.50"


def read_dicom(content: bytes) -> tuple[bytes | NDArray[np.uint8], tuple[float, str] | None]:
    """Return the image of a DICOM file, as the bytes of its JPEG or as pixels, and its scale.

    Raises
    ------
    ImageError
        More than one frame, another pixel format or transfer syntax, or a damaged file.
    """
    try:
        return _read(content)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise ImageError(Reason.UNREADABLE, f"the DICOM file is damaged ({error}); export it again") from None


def _read(content: bytes) -> tuple[bytes | NDArray[np.uint8], tuple[float, str] | None]:
    meta = dict(_elements(content, 132, explicit=True, group=0x0002))
    start = 132 + 12 + int.from_bytes(meta[0x0002, 0x0000], "little") if (2, 0) in meta else 132
    syntax = meta[0x0002, 0x0010].rstrip(b"\0 ").decode()
    if syntax not in _NATIVE and syntax != _JPEG:
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            f"DICOM with transfer syntax {syntax} is not read; export the image as TIFF or PNG",
        )
    data = dict(_elements(content, start, explicit=_NATIVE.get(syntax, True)))
    frames = int(data.get((0x0028, 0x0008), b"1").strip(b"\0 ") or b"1")
    if frames != 1:
        raise ImageError(
            Reason.MULTIPLE_FRAMES, f"the DICOM file holds {frames} frames; export each field alone"
        )
    scale = next((found for key, name in _SPACINGS.items() if (found := _spacing(data.get(key), name))), None)
    if syntax == _JPEG:
        return _frame(data[_PIXELS]), scale
    rows, columns, samples, bits = (
        int.from_bytes(data[0x0028, part][:2], "little") for part in (0x0010, 0x0011, 0x0002, 0x0100)
    )
    space = data.get((0x0028, 0x0004), b"").strip(b"\0 ").decode()
    if samples != 3 or bits != 8 or space != "RGB":
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            f"DICOM with {samples} channels of {bits} bits ({space}) is not read; export as RGB",
        )
    size = rows * columns * 3
    values = np.frombuffer(data[_PIXELS][:size], np.uint8)
    planar = int.from_bytes(data.get((0x0028, 0x0006), b"\0\0")[:2], "little")
    rgb = values.reshape(3, rows, columns).transpose(1, 2, 0) if planar else values.reshape(rows, columns, 3)
    return np.ascontiguousarray(rgb), scale


def _elements(
    content: bytes, at: int, *, explicit: bool, group: int | None = None
) -> Iterator[tuple[tuple[int, int], bytes]]:
    while at + 8 <= len(content):
        tag = struct.unpack_from("<HH", content, at)
        if group is not None and tag[0] != group:
            return
        kind = content[at + 4 : at + 6] if explicit else b""
        if kind in _LONG:
            (length,) = struct.unpack_from("<I", content, at + 8)
            at += 12
        elif explicit:
            (length,) = struct.unpack_from("<H", content, at + 6)
            at += 8
        else:
            (length,) = struct.unpack_from("<I", content, at + 4)
            at += 8
        if length == _UNDEFINED:
            if tag != _PIXELS:
                at = _skip_sequence(content, at)
                continue
            length = len(content) - at
        if at + length > len(content):
            raise ValueError(f"element {tag[0]:04x},{tag[1]:04x} is cut short")
        yield tag, content[at : at + length]
        at += length


def _skip_sequence(content: bytes, at: int) -> int:
    end = content.find(b"\xfe\xff\xdd\xe0", at)
    if end < 0:
        raise ValueError("a sequence does not end")
    return end + 8


def _frame(data: bytes) -> bytes:
    """Return the one frame of encapsulated pixel data: items after the offset table, joined."""
    at, parts = 0, []
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return b"".join(parts[1:])


def _spacing(value: bytes | None, name: str) -> tuple[float, str] | None:
    if not value:
        return None
    rows, columns = (float(part) * 1000 for part in value.rstrip(b"\0 ").split(b"\\"))
    if abs(rows / columns - 1) > 0.02 or not PLAUSIBLE_UM[0] <= rows <= PLAUSIBLE_UM[1]:
        return None
    return (rows * columns) ** 0.5, name
