"""Scales of pixel means and deviations: a network that is given the wrong one trains and predicts, but wrongly.

Three places hold them: settings and trained weights in pixels of 0 to 255, timm's configurations in 0 to 1.
"""

import math
from collections.abc import Sequence

LARGEST_STD = 127.5
"""Standard deviation of values that are 0 or 255, half of each: none is larger."""


def why_not_of_pixels(mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Say why these are no statistics of pixels of 0 to 255; None if they are.

    Parameters
    ----------
    mean, std
        One number per channel: red, green, blue.

    Examples
    --------
    >>> why_not_of_pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    'they are on the scale 0 to 1; expected 0 to 255, so multiply them by 255'
    >>> why_not_of_pixels((69.1, 29.8, 79.8), (20.3, 15.1, 16.2))
    """
    values = (*mean, *std)
    if not all(math.isfinite(value) for value in values):
        return "expected finite numbers"
    if max(std, default=LARGEST_STD) < 1.0 and max(mean, default=0.0) <= 1.0:
        return "they are on the scale 0 to 1; expected 0 to 255, so multiply them by 255"
    if not all(0.0 <= value <= 255.0 for value in mean):
        return "expected means of 0 to 255"
    if not all(1.0 <= value <= LARGEST_STD for value in std):
        return f"expected standard deviations of 1 to {LARGEST_STD} on the scale 0 to 255"
    return None


def why_not_of_timm(mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Say why these are no statistics of pixels of 0 to 1, as timm's configurations give them; None if they are.

    Examples
    --------
    >>> why_not_of_timm((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    'they are on the scale 0 to 255; expected 0 to 1, so divide them by 255'
    >>> why_not_of_timm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    values = (*mean, *std)
    if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(value) for value in values):
        return "expected three finite numbers each"
    if max(values) > 1.0:
        return "they are on the scale 0 to 255; expected 0 to 1, so divide them by 255"
    if min(mean) < 0.0 or min(std) <= 0.0:
        return "expected means of 0 to 1, and standard deviations above 0 and up to 1"
    return None


def why_not_of_weights(scale: Sequence[float], shift: Sequence[float]) -> str | None:
    """Say why the buffers of trained weights do not normalize pixels of 0 to 255; None if they do.

    Parameters
    ----------
    scale, shift
        ``pixel_scale`` and ``pixel_shift``: a pixel p becomes p * scale + shift, one number per channel.
    """
    if not all(math.isfinite(value) and value > 0.0 for value in scale):
        return "expected a finite scale above 0"
    std = [1.0 / value for value in scale]
    mean = [-offset * deviation for offset, deviation in zip(shift, std, strict=True)]
    if not all(math.isfinite(value) for value in mean):
        return "expected finite numbers"
    if max(std) < 0.999 and max(mean) <= 1.001:
        return "they are on the scale 0 to 1; expected 0 to 255"
    # A backbone that takes pixels as they are has a mean of 0 and a deviation of 1 or 255; rounding is no fault.
    if not all(-0.5 <= value <= 255.5 for value in mean) or not all(0.5 <= value <= 255.5 for value in std):
        return "expected means of 0 to 255, and standard deviations of 1 to 255"
    return None
