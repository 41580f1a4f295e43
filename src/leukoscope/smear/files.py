"""Decode field images, with separate limits, and read the scale from their metadata."""

import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.decode import DecodeLimits, load_pixels, orient, read_file, resolve_transparency
from leukoscope.imaging.formats import Container, read_container
from leukoscope.inference.sources import SUFFIXES
from leukoscope.smear.metadata import read_directory, scale_in_metadata
from leukoscope.smear.picture import ArrayPicture, Picture, PillowPicture

FIELD_LIMITS = DecodeLimits(
    max_bytes=640 * 1024 * 1024, max_pixels=120_000_000, max_side_px=100_000, min_side_px=64
)
"""Limits of one field; more belongs to a whole slide."""
FIELD_SUFFIXES = SUFFIXES | {".dcm", ".dicom"}
"""Names that are taken from folders and archives of fields."""

_AS_ARRAY_PIXELS = 25_000_000  # larger images stay with Pillow: 4 bytes per pixel instead of 7


@dataclass(frozen=True)
class FieldFile:
    """A decoded field with the metadata of its file.

    Attributes
    ----------
    picture
        Pixels, upright.
    sha256
        Of the file.
    scale
        Micrometers per pixel and what names it, by the file's metadata; None where they are silent or implausible.
    form
        ``field``, or ``cutout`` where a large part is transparent.
    """

    picture: Picture
    sha256: str
    scale: tuple[float, str] | None
    transparent_share: float = 0.0


def open_field(source: bytes | Path, limits: DecodeLimits = FIELD_LIMITS) -> FieldFile:
    """Decode a field.

    Parameters
    ----------
    source
        The file's content or its path.
    limits
        Limits of files.

    Raises
    ------
    ImageError
        The file cannot be read as one color image within the limits.
    """
    content = read_file(source, limits) if isinstance(source, Path) else source
    if not content:
        raise ImageError(Reason.EMPTY_FILE, "the file is empty (0 bytes); export or copy it again")
    if len(content) > limits.max_bytes:
        raise ImageError(
            Reason.FILE_TOO_LARGE,
            f"the file has {len(content):,} bytes, the limit is {limits.max_bytes:,}; cut the slide into fields",
        )
    digest = sha256(content).hexdigest()
    dicom = content[128:132] == b"DICM"
    if dicom:
        from leukoscope.smear.dicom import read_dicom

        pixels, scale = read_dicom(content)
        if isinstance(pixels, np.ndarray):
            _check_size(pixels.shape[1], pixels.shape[0], limits)
            return FieldFile(ArrayPicture(pixels), digest, scale)
        content = pixels
    else:
        scale = scale_in_metadata(content)
    container = read_container(content, field=True)
    del content
    _check_size(container.width_px, container.height_px, limits)
    picture, clear = _decode(container)
    return FieldFile(picture, digest, scale, clear)


def take_array(rgb: NDArray[np.uint8], limits: DecodeLimits = FIELD_LIMITS) -> FieldFile:
    """Take an array for a field without metadata; its digest is of the pixels, row by row.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    limits
        What is refused.

    Raises
    ------
    ImageError
        It is too large or too small.
    """
    _check_size(rgb.shape[1], rgb.shape[0], limits)
    pixels = np.ascontiguousarray(rgb)
    return FieldFile(ArrayPicture(pixels), sha256(pixels.data).hexdigest(), None)


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    size = f"the image has {width:,} x {height:,} px"
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"{size}, the limit is {limits.max_pixels:,} pixels and {limits.max_side_px:,} px a side; "
            "cut it into fields",
        )
    if min(width, height) < limits.min_side_px:
        raise ImageError(
            Reason.TOO_SMALL,
            f"{size}, the least is {limits.min_side_px} px a side; give the image at full size",
        )


def _decode(container: Container) -> tuple[Picture, float]:
    try:
        deep = _deep_tiff(container)
        if deep is not None:
            return ArrayPicture(orient(deep, container.orientation)), 0.0
        image = load_pixels(container)
        clear = 0.0
        if image.mode in ("RGBA", "PA", "RGBa") or "transparency" in image.info:
            alpha = np.asarray(image.convert("RGBA").resize((64, 64)).getchannel("A"))
            clear = float((alpha < 128).mean())
        image = resolve_transparency(image, (255, 255, 255))
    except MemoryError:
        size = f"{container.width_px} x {container.height_px} px"
        raise ImageError(
            Reason.TOO_MANY_PIXELS, f"{size} do not fit into memory; cut it into fields"
        ) from None
    except ImageError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, struct.error and more on damaged files
        detail = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ImageError(
            Reason.UNREADABLE, f"the image is damaged or cut short ({detail}); export or copy the file again"
        ) from None
    if image.width * image.height > _AS_ARRAY_PIXELS:
        return PillowPicture(image, container.orientation), clear
    return ArrayPicture(orient(np.array(image), container.orientation)), clear


def _deep_tiff(container: Container) -> NDArray[np.uint8] | None:
    """Return the 8 bits that a 16-bit TIFF uses; None for other files, which Pillow reads.

    Cameras write 10, 12 or 14 bits into 16; Pillow would take the upper 8 of 16 and leave a dark image.
    """
    if container.format != "TIFF":
        return None
    content = container.content
    order, tags = read_directory(content)
    bits = tags.get(258, [1])
    if bits[0] != 16:
        return None
    compression, samples = tags.get(259, [1])[0], tags.get(277, [1])[0]
    if compression not in (1, 8, 32946) or samples not in (3, 4) or tags.get(284, [1])[0] != 1 or 324 in tags:
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            f"a TIFF with 16 bits per channel and compression {compression} in tiles or planes is not read; "
            "save it as 8-bit RGB",
        )
    height, width = container.height_px, container.width_px
    rows_each = min(tags.get(278, [height])[0], height)
    values = np.zeros((height, width, samples), np.uint16)
    for index, (start, size) in enumerate(zip(tags[273], tags[279], strict=True)):
        top = index * rows_each
        rows = min(rows_each, height - top)
        strip = _strip(content[start : start + size], compression, rows * width * samples * 2)
        part = np.frombuffer(strip, order + "u2").reshape(rows, width, samples)
        if tags.get(317, [1])[0] == 2:
            part = np.cumsum(part, axis=1, dtype=np.uint16)
        values[top : top + rows] = part
    used = max(8, int(values[..., :3].max()).bit_length())
    return (values[..., :3] >> (used - 8)).astype(np.uint8)


def _strip(data: bytes, compression: int, size: int) -> bytes:
    if compression != 1:
        data = zlib.decompressobj().decompress(data, size)
    if len(data) < size:
        raise struct.error(f"a strip has {len(data):,} of {size:,} bytes")
    return data[:size]
