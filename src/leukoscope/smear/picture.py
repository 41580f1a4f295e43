"""A field as it is read: part by part, at any size, so that large ones need not be in memory as arrays."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.imaging.decode import orient

Box = tuple[int, int, int, int]


class Picture(Protocol):
    """An image that gives its parts."""

    @property
    def height_px(self) -> int:
        """Rows."""

    @property
    def width_px(self) -> int:
        """Columns."""

    def read(self, box: Box, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a part, shrunk by averaging to ``shape`` (rows, columns) where it is given; uint8 (h, w, 3)."""


class ArrayPicture:
    """An image that is in memory.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    """

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self._rgb = rgb
        self.height_px, self.width_px = int(rgb.shape[0]), int(rgb.shape[1])

    def read(self, box: Box, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a part; see ``Picture``."""
        part = self._rgb[box[0] : box[2], box[1] : box[3]]
        if shape is None or part.shape[:2] == shape:
            return part
        image = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(image.resize((shape[1], shape[0]), resampling(part.shape, shape)))


class PillowPicture:
    """A decoded image that Pillow holds: 4 bytes per pixel, and no second copy as an array.

    Parameters
    ----------
    image
        Of mode RGB, as stored.
    orientation
        EXIF orientation, 1 to 8, applied to each part that is read.
    """

    def __init__(self, image: Image.Image, orientation: int = 1) -> None:
        self._image = image
        self._orientation = orientation
        turned = orientation >= 5
        self.width_px, self.height_px = (image.height, image.width) if turned else (image.width, image.height)

    def read(self, box: Box, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a part; see ``Picture``."""
        y0, x0, y1, x1 = box
        if self._orientation in (2, 3, 6, 7):
            x0, x1 = self.width_px - x1, self.width_px - x0
        if self._orientation in (3, 4, 7, 8):
            y0, y1 = self.height_px - y1, self.height_px - y0
        size = shape or (box[2] - box[0], box[3] - box[1])
        if self._orientation >= 5:
            y0, x0, y1, x1, size = x0, y0, x1, y1, (size[1], size[0])
        if size == (y1 - y0, x1 - x0):
            part = np.array(self._image.crop((x0, y0, x1, y1)))
        else:
            part = np.array(
                self._image.resize(
                    (size[1], size[0]), resampling((y1 - y0, x1 - x0), size), box=(x0, y0, x1, y1)
                )
            )
        return orient(part, self._orientation)


def resampling(have: tuple[int, ...], want: tuple[int, int]) -> Image.Resampling:
    """Return the filter: averaging where an image shrinks by a half or more, else a bilinear one."""
    return Image.Resampling.BOX if have[0] >= 2 * want[0] else Image.Resampling.BILINEAR


def shrunk_shape(picture: Picture, side_px: int) -> tuple[int, int]:
    """Return the shape (rows, columns) at which the longer side has ``side_px``; smaller ones stay as they are."""
    factor = max(1.0, max(picture.height_px, picture.width_px) / side_px)
    return max(1, round(picture.height_px / factor)), max(1, round(picture.width_px / factor))
