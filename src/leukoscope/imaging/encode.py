"""Pixels to the bytes of a file, for packs of training images."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode_webp(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Encode uint8 (H, W, 3) as lossy WebP of ``quality`` (0 to 100), by the slowest and smallest method."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()
