"""Convert inputs (paths, bytes, Pillow images, arrays, folders, iterables) into sources."""

import io
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user
from leukoscope.inference.cells import Content, Source
from leukoscope.inference.sources import iterate_sources

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image | np.ndarray[Any, Any]"
)
"""One image: a path, the bytes of a file, a Pillow image, or a uint8 array (H, W, 3) or (H, W, 4)."""

_EXPECTED = (
    "expected a path, the bytes of an image file, a PIL.Image, a uint8 array (H, W, 3), "
    "or a folder or an iterable of these"
)


class InputTypeError(UsageError, TypeError):
    """A value of a type that is no image."""


def is_one_image(value: object) -> bool:
    """Tell whether a value is one image rather than a folder, an archive, a pattern or an iterable."""
    if isinstance(value, str | os.PathLike):
        return not _names_several(os.fspath(value))
    return isinstance(value, bytes | bytearray | memoryview | np.ndarray | Source) or _is_pillow(value)


def as_source(value: Any, *, name: str | None = None, subject: str | None = None) -> Source:
    """Return one image as a source.

    Parameters
    ----------
    value
        ``ImageLike`` or ``Source``.
    name
        Name in the result; the path if there is one, else ``image``.
    subject
        Subject that the cell belongs to.

    Raises
    ------
    InputTypeError
        The value is of another type, or an array of another shape or dtype.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, str | os.PathLike):
        path = expand_user(_text(value))
        return Source(name or str(path), path, subject)
    return Source(name or "image", _content(value), subject)


def iterate_images(values: Any, *, subject: str | None = None) -> Iterator[Source]:
    """Yield the sources of one value or of an iterable of values, in their order, one at a time.

    Parameters
    ----------
    values
        One image, a folder, a ZIP archive, a glob pattern, or an iterable of these.
    subject
        Subject that all cells belong to.

    Raises
    ------
    InputTypeError
        A value is of another type.
    UsageError
        A folder or pattern holds no image.
    """
    if isinstance(values, str | os.PathLike) or is_one_image(values):
        yield from _one(values, 1, subject)
        return
    if isinstance(values, dict) or not isinstance(values, Iterable):
        raise InputTypeError(f"{_describe(values)}: {_EXPECTED}")
    for number, value in enumerate(values, 1):
        yield from _one(value, number, subject)


def _one(value: Any, number: int, subject: str | None) -> Iterator[Source]:
    if isinstance(value, str | os.PathLike) and _names_several(_text(value)):
        yield from iterate_sources([_text(value)], subject_of=lambda _: subject)
    else:
        named = isinstance(value, str | os.PathLike | Source)
        yield as_source(value, name=None if named else f"image {number}", subject=subject)


def _text(value: "str | os.PathLike[str]") -> str:
    text = os.fspath(value)
    if isinstance(text, bytes):  # a path object may give bytes
        text = os.fsdecode(text)
    if not text:
        raise UsageError("'': an empty path; give the path of an image or folder")
    return text


def _names_several(text: str | bytes) -> bool:
    text = os.fsdecode(text)
    path = expand_user(text)
    if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
        return True
    return any(sign in text for sign in "*?[") and not path.exists()


def _content(value: Any) -> Content:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return _array(value)
    if _is_pillow(value):
        return _pillow(value)
    raise InputTypeError(f"{_describe(value)}: {_EXPECTED}")


def _array(value: "np.ndarray[Any, Any]") -> Content:
    if value.dtype == np.uint8 and value.ndim == 3 and value.size:
        if value.shape[2] == 3:
            return np.ascontiguousarray(value)
        if value.shape[2] == 4:
            from PIL.Image import fromarray

            return _pillow(fromarray(value))
    remedy = ""
    if value.ndim == 3 and value.shape[0] in (3, 4) and value.shape[2] not in (3, 4):
        remedy = "; channels must be last: array.transpose(1, 2, 0)"
    elif value.dtype != np.uint8 and np.issubdtype(value.dtype, np.number):
        remedy = "; give values of 0 to 255: for 0..1 (array * 255).round().astype('uint8')"
    elif value.ndim == 2:
        remedy = "; the stain's color is needed, a gray image cannot be classified"
    raise InputTypeError(
        f"array of {value.dtype} {value.shape}: expected uint8 RGB (H, W, 3) or RGBA (H, W, 4){remedy}"
    )


def _is_pillow(value: object) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" == "PIL.Image.Image" for kind in type(value).__mro__)


def _pillow(image: "Image") -> Content:
    """Return an RGB image as an array; other modes go through the decoder, which has the rules for them."""
    if image.mode == "RGB":
        return np.asarray(image, dtype=np.uint8)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if image.mode in ("CMYK", "F") else "PNG")
    return stream.getvalue()


def _describe(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"
