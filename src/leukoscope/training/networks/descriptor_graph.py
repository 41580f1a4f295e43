"""The nine scalars of the shortcut baseline as tensor operations, so that they can be a head of the network."""

import torch
from torch import Tensor

FOREGROUND = 0.5
"""Pixels with a channel above this are cell, in 0..255."""


def mask_foreground(pixels: Tensor) -> Tensor:
    """Return (N, 1, S, S) of 0 and 1, in the pixels' type, from pixels (N, 3, S, S), 0..255 on black."""
    return (pixels.amax(dim=1, keepdim=True) > FOREGROUND).to(pixels.dtype)


def describe_pixels(pixels: Tensor) -> Tensor:
    """Measure the nine scalars of each cell image.

    Parameters
    ----------
    pixels
        (N, 3, S, S) float, 0..255, black background. Foreground is where any channel is above ``FOREGROUND``, which
        for whole numbers is above 0.

    Returns
    -------
    Tensor
        (N, 9) float32 in the order of ``imaging.descriptors.NINE_SCALARS``: area, box height and width in pixels of
        the input, mean and population standard deviation of red, green and blue over the foreground, 0..255. All 0 for
        a black image.
    """
    pixels = pixels.float()
    weights = mask_foreground(pixels)
    foreground = weights.squeeze(1)
    area = foreground.sum(dim=(1, 2))
    height = _extent(foreground.amax(dim=2))
    width = _extent(foreground.amax(dim=1))
    count = area.clamp(min=1.0).unsqueeze(1)
    mean = (pixels * weights).sum(dim=(2, 3)) / count
    deviation = (pixels - mean[:, :, None, None]) * weights
    variance = (deviation * deviation).sum(dim=(2, 3)) / count
    return torch.cat([torch.stack([area, height, width], dim=1), mean, variance.sqrt()], dim=1)


def _extent(occupied: Tensor) -> Tensor:
    """Return the number of places from the first to the last occupied one; ``occupied`` is (N, S) of 0 and 1."""
    size = occupied.shape[1]
    place = torch.arange(size, dtype=occupied.dtype, device=occupied.device)
    last = (occupied * (place + 1.0)).amax(dim=1)
    first = size - (occupied * (size - place)).amax(dim=1)
    return (last - first).clamp(min=0.0)
