"""Read masks from files: nonzero pixels belong to the mask."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.decode import DecodeLimits


def read_mask(path: Path, limits: DecodeLimits | None = None) -> NDArray[np.bool_]:
    """Read a mask of one or eight bits per pixel (PNG).

    Parameters
    ----------
    path
        The file.
    limits
        Largest size that is decoded.

    Returns
    -------
    ndarray
        (H, W) bool.

    Raises
    ------
    ImageError
        Not a PNG file, unreadable, or larger than the limits.
    """
    limits = limits or DecodeLimits()
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > limits.max_pixels:
                raise ImageError(
                    Reason.TOO_MANY_PIXELS,
                    f"{path.name}: {image.width} x {image.height} px, the limit is {limits.max_pixels:,} pixels; "
                    "save the mask at the size of its image",
                )
            values = np.asarray(image if image.mode in {"1", "L"} else image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            Reason.UNREADABLE, f"{path.name}: no readable PNG mask ({error}); save it as an 8-bit PNG"
        ) from None
    return values > 0
