"""The ground of a cell image: black or white around a cut-out cell, or a photograph with the surroundings."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.foreground import (
    COMPONENT_SHARE,
    FOREGROUND_ABOVE,
    count_components,
    reached_from_outside,
    without_small,
)

Ground = Literal["black", "white", "photograph"]

WHITE_FROM = 245
"""A pixel is white ground if all its channels reach this value (0 to 255); lossy files come within 10 of white."""

_LEAST_BLACK_RIM = (
    0.25  # a cut-out that fills its frame touches it briefly, a photograph has hardly a black pixel
)
_LEAST_WHITE_RIM = 0.7  # tight crops have at least 0.79, photographs with few parts at most 0.47
_MOST_WHITE_PARTS = 3
_BRIGHT = 150  # green of what is not black: cells of C-NMC have at most 50 in the median
_LEAST_BRIGHT_SHARE = 0.3  # of the frame: the view through an eyepiece, not a cell


def ground_of(rgb: NDArray[np.uint8]) -> Ground:
    """Distinguish a cut-out cell on black or white from a photograph.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3); transparent pixels are black.

    Returns
    -------
    str
        ``black`` if black pixels make up a quarter of the frame's rim, ``white`` if white ones make up 70 % of it
        and at most three parts lie on them, else ``photograph``. A bright disk on black is the view through an
        eyepiece: a photograph.
    """
    rim = np.concatenate((rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]))
    if float((rim <= FOREGROUND_ABOVE).all(axis=1).mean()) >= _LEAST_BLACK_RIM:
        sample = rgb[::4, ::4].reshape(-1, 3)
        seen = sample[(sample > FOREGROUND_ABOVE).any(axis=1), 1]
        bright = seen.size >= _LEAST_BRIGHT_SHARE * len(sample) and float(np.median(seen)) >= _BRIGHT
        return "photograph" if bright else "black"
    if float((rim >= WHITE_FROM).all(axis=1).mean()) >= _LEAST_WHITE_RIM:
        mask: NDArray[np.bool_] = np.any(rgb < WHITE_FROM, axis=2)
        return "white" if mask.any() and count_components(mask) <= _MOST_WHITE_PARTS else "photograph"
    return "photograph"


def white_to_black(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make the white ground of a cut-out cell black.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3): 0 outside the parts that hold at least ``COMPONENT_SHARE`` of the foreground, so that the noise
        of lossy compression goes; white pixels inside a cell are kept.
    """
    kept = without_small(np.any(rgb < WHITE_FROM, axis=2), COMPONENT_SHARE)
    return np.where(reached_from_outside(~kept)[..., None], np.uint8(0), rgb)
