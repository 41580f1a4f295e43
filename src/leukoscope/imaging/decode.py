"""The one door to Pillow decoding: bytes or a path in, uint8 RGB or an ``ImageError`` out.

What a file says of itself is not believed: the name's ending is ignored, the format is told by the first
bytes, and size, frame count and pixel format are checked before a pixel is decoded.
"""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from leukoscope.errors import ImageError
from leukoscope.terms import Reason

FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused before it is decoded."""

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side_px: int = 20_000
    min_side_px: int = 32


def decode_image(source: bytes | Path, limits: DecodeLimits | None = None) -> NDArray[np.uint8]:
    """Decode one BMP, PNG, JPEG, TIFF or WebP image.

    Returns
    -------
    rgb
        uint8 (H, W, 3).

    Raises
    ------
    ImageError
        The file cannot be read as one 8-bit colour image within the limits.
    """
    limits = limits or DecodeLimits()
    content = source if isinstance(source, bytes) else _read(source, limits)
    if not content:
        raise ImageError(Reason.EMPTY_FILE, "the file is empty (0 bytes); export the image again")
    if len(content) > limits.max_bytes:
        raise ImageError(Reason.FILE_TOO_LARGE, f"{len(content):,} bytes, limit {limits.max_bytes:,}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _pixels(image, limits)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(Reason.UNKNOWN_FORMAT, "not a BMP, PNG, JPEG, TIFF or WebP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(Reason.TOO_MANY_PIXELS, str(error)) from None
    except Exception as error:
        raise ImageError(Reason.UNREADABLE, f"the image is damaged: {error}") from None


def _read(path: Path, limits: DecodeLimits) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Reason.NOT_A_FILE, f"{path}: not a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limits.max_bytes:
                raise ImageError(
                    Reason.FILE_TOO_LARGE, f"{path}: {status.st_size:,} bytes, limit {limits.max_bytes:,}"
                )
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise ImageError(Reason.NOT_FOUND, f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(Reason.UNREADABLE, f"{path}: cannot be read: {error}") from None


def _pixels(image: Image.Image, limits: DecodeLimits) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise ImageError(Reason.TOO_MANY_PIXELS, f"{width} x {height} px, limit {limits.max_pixels:,} pixels")
    if min(width, height) < limits.min_side_px:
        raise ImageError(Reason.TOO_SMALL, f"{width} x {height} px, at least {limits.min_side_px} a side")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(Reason.MULTIPLE_FRAMES, "more than one image in the file; save one image a file")
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ImageError(Reason.UNSUPPORTED_MODE, f"pixel format {image.mode}; save as 8-bit RGB")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGBA" or "transparency" in image.info:
        colour = image.convert("RGBA")
        black = Image.new("RGB", colour.size)
        black.paste(colour, mask=colour.getchannel("A"))
        return np.array(black)
    return np.array(image.convert("RGB"))
