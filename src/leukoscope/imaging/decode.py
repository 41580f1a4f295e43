"""Decode images with Pillow: bytes or a path in, uint8 RGB or an ``ImageError`` out.

The contents of a file are not trusted. The ending of its name is ignored and the format detected from the first bytes;
``formats`` parses the file, refuses anything but a single 8-bit color image and drops the metadata; the size is
checked against the limits; only then the Pillow plugin of that format decodes the pixels, and its output must
have the announced size.

Pixel formats: RGB as it is; a palette is resolved exactly; transparent pixels become black, the color of the canvas;
the EXIF orientation is applied; color profiles are ignored (C-NMC has none). Gray, CMYK, 16-bit and floating-point
images are refused: the stain's color is missing, or its values would be a guess.
"""

import io
import os
import stat
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.formats import Container, read_container
from leukoscope.imaging.tiff_strips import check_strips

# Plugins are loaded one by one: Image.open would import five of them for the first file, and all for the first WebP.
_PLUGINS = {
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
}

FORMATS: tuple[str, ...] = tuple(_PLUGINS)
"""The formats that are read."""


@dataclass(frozen=True)
class DecodeLimits:
    """Limits that apply before a pixel is decoded.

    Attributes
    ----------
    max_bytes
        Of the file. 64 MiB holds a 24-bit BMP of 22 million pixels.
    max_pixels
        Width by height. Decoding takes about 10 bytes per pixel at its peak.
    max_side_px, min_side_px
        Of either side.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side_px: int = 20_000
    min_side_px: int = 32


def decode_image(source: bytes | Path, limits: DecodeLimits | None = None) -> NDArray[np.uint8]:
    """Decode one BMP, PNG, JPEG, TIFF or WebP image.

    Parameters
    ----------
    source
        The file's content, or the path of a regular file (links are followed; a directory, pipe or device is refused
        without waiting for it).
    limits
        Defaults to ``DecodeLimits()``.

    Returns
    -------
    rgb
        uint8 (H, W, 3), C-contiguous and writable, rotated by the EXIF orientation.

    Raises
    ------
    ImageError
        The file cannot be read as one 8-bit color image within the limits; no other exception is raised.
    """
    limits = limits or DecodeLimits()
    content = read_file(source, limits) if isinstance(source, Path) else source
    if not content:
        raise ImageError(Reason.EMPTY_FILE, "the file is empty (0 bytes); export or copy it again")
    if len(content) > limits.max_bytes:
        raise _too_large(len(content), limits)
    container = read_container(content)
    _check_size(container, limits)
    try:
        rgb = _decode_pixels(container)
    except MemoryError:
        size = f"{container.width_px} x {container.height_px} px"
        raise ImageError(
            Reason.TOO_MANY_PIXELS, f"{size} do not fit into memory; give a smaller image"
        ) from None
    except ImageError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, struct.error and more on damaged files
        detail = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ImageError(
            Reason.UNREADABLE, f"the image is damaged or cut short ({detail}); export or copy the file again"
        ) from None
    return orient(rgb, container.orientation)


def read_file(path: Path, limits: DecodeLimits | None = None) -> bytes:
    """Read a regular file of bounded size, for ``decode_image``; any failure is an ``ImageError``.

    The handle is checked, not the name, so that the file cannot be exchanged in between.
    """
    limits = limits or DecodeLimits()
    try:
        # Without O_NONBLOCK opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(Reason.NOT_FOUND, "there is no such file; check the path") from None
    except ValueError:  # a null character in the path
        raise ImageError(Reason.NOT_FOUND, "the path is not valid; check the name") from None
    except OSError as error:
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - these never raise
            raise _not_a_file("a directory, pipe, socket or device") from None
        raise ImageError(
            Reason.UNREADABLE, f"the file cannot be opened ({error.strerror}); check its access rights"
        ) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file("a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device")
        if status.st_size > limits.max_bytes:
            raise _too_large(status.st_size, limits)
        with os.fdopen(handle, "rb", closefd=False) as file:
            # A buffer of the limit's 64 MiB would be mapped and given back for each file: three quarters of the time.
            return file.read(status.st_size)
    except OSError as error:
        raise ImageError(
            Reason.UNREADABLE, f"the file cannot be read ({error.strerror}); copy it again"
        ) from None
    finally:
        os.close(handle)


def _not_a_file(what: str) -> ImageError:
    return ImageError(Reason.NOT_A_FILE, f"this is {what}, not a regular file; name an image file")


def _too_large(size: int, limits: DecodeLimits) -> ImageError:
    return ImageError(
        Reason.FILE_TOO_LARGE,
        f"the file has {size:,} bytes, the limit is {limits.max_bytes:,}; give one cell image, not a scan of the slide",
    )


def _check_size(container: Container, limits: DecodeLimits) -> None:
    width, height = container.width_px, container.height_px
    size = f"the image has {width} x {height} px"
    if max(width, height) > limits.max_side_px:
        raise ImageError(
            Reason.TOO_MANY_PIXELS, f"{size}, the limit is {limits.max_side_px:,} px a side; cut the cell out"
        )
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS, f"{size}, the limit is {limits.max_pixels:,} pixels; cut the cell out"
        )
    if min(width, height) < limits.min_side_px:
        raise ImageError(
            Reason.TOO_SMALL,
            f"{size}, the least is {limits.min_side_px} px a side; give the image at full size",
        )


def _decode_pixels(container: Container) -> NDArray[np.uint8]:
    with load_pixels(container) as image:
        if image.mode == "RGB" and "transparency" not in image.info:
            return np.array(image)
        return np.array(resolve_transparency(image, (0, 0, 0)))


def load_pixels(container: Container) -> Image.Image:
    """Decode the pixels with the one plugin of the container's format.

    Returns
    -------
    image
        Loaded; of mode RGB, RGBA, RGBa, P, PA, RGBX or YCbCr.

    Raises
    ------
    ImageError
        The headers disagree, or the image is gray or of another mode. Plugins raise other errors for damaged files.
    """
    check_strips(container)
    module, name = _PLUGINS[container.format]
    plugin = getattr(import_module(module), name)
    image: Image.Image = plugin(io.BytesIO(container.content), "")
    announced = (container.width_px, container.height_px)
    if image.size != announced:
        raise ImageError(
            Reason.UNREADABLE,
            f"the headers disagree: {announced} and {image.size} px; export the file again",
        )
    image.load()
    if image.mode in ("RGB", "RGBA", "RGBa", "P", "PA", "RGBX", "YCbCr"):
        return image
    what = "a gray image (the stain's color is missing)" if image.mode in ("1", "L", "LA") else image.mode
    raise ImageError(
        Reason.UNSUPPORTED_MODE,
        f"the pixel format is {what}, only 8-bit color is read; save the image as 8-bit RGB",
    )


def resolve_transparency(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """Resolve palette and transparency to RGB; transparent pixels become ``ground``.

    Raises
    ------
    ImageError
        Every pixel is transparent: the colors below are not meant to be visible, or the channel is not transparency.
    """
    if image.mode in ("RGBX", "YCbCr") or (image.mode in ("P", "RGB") and "transparency" not in image.info):
        return image if image.mode == "RGB" else image.convert("RGB")
    color = image.convert("RGBA")
    alpha = color.getchannel("A")
    if alpha.getbbox() is None:
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            "every pixel is transparent (alpha 0), so there is nothing to see; save the image as 8-bit RGB without "
            "an alpha channel",
        )
    canvas = Image.new("RGB", color.size, ground)
    canvas.paste(color, mask=alpha)
    return canvas


def orient(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror the stored rows to the upright image (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)
