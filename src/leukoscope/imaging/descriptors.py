"""What can be said of a cell image without a network: size, colour, focus, contact with the border."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.cell_mask import cell_mask, count_components
from leukoscope.imaging.preprocess import CANVAS_PX, place_on_canvas


@dataclass(frozen=True)
class Descriptors:
    """Measures of one image on the canvas of 450 x 450 px; all are 0 for a blank image.

    Attributes
    ----------
    area_px
        Foreground pixels.
    box_height_px, box_width_px
        Sides of the foreground's bounding box.
    mean_r, mean_g, mean_b
        Channel means over the foreground, 0 to 255.
    std_r, std_g, std_b
        Channel standard deviations over the foreground (population), 0 to 127.5.
    focus
        Variance of the Laplacian of the brightness, divided by the variance of the brightness, over the
        pixels whose four neighbours are foreground too: the share of fine detail, 0 (smooth) to 64. It does
        not change with illumination or contrast, does not see the cut-out edge, and falls under blur.
    border_contact_px
        Foreground pixels on the outermost rows and columns of the canvas.
    foreground_share
        ``area_px`` by the canvas' area, 0 to 1.
    components
        Connected parts that hold at least ``COMPONENT_SHARE`` of the foreground.
    """

    area_px: int
    box_height_px: int
    box_width_px: int
    mean_r: float
    mean_g: float
    mean_b: float
    std_r: float
    std_g: float
    std_b: float
    focus: float
    border_contact_px: int
    foreground_share: float
    components: int


NINE_SCALARS: tuple[str, ...] = (
    "area_px",
    "box_height_px",
    "box_width_px",
    "mean_r",
    "mean_g",
    "mean_b",
    "std_r",
    "std_g",
    "std_b",
)
"""The measures of the shortcut baseline: what size and colour alone give away."""

_BLANK = Descriptors(0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0)


def describe_cell(rgb: NDArray[np.uint8], canvas_px: int = CANVAS_PX) -> Descriptors:
    """Measure one image on the canvas.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    canvas_px
        Side of the canvas the image is placed on first.

    Returns
    -------
    descriptors
        All 0 for an image without foreground; never not-a-number.
    """
    canvas = place_on_canvas(rgb, canvas_px)
    mask = cell_mask(canvas)
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return _BLANK
    columns = np.flatnonzero(mask.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    cut, cut_mask = canvas[box], mask[box]
    pixels = cut[cut_mask].T.astype(np.float64, order="C")
    mean, variance = _moments(pixels)
    std = np.sqrt(variance)
    contact = int(mask[0].sum() + mask[-1].sum() + mask[1:-1, 0].sum() + mask[1:-1, -1].sum())
    return Descriptors(
        area_px=pixels.shape[1],
        box_height_px=cut.shape[0],
        box_width_px=cut.shape[1],
        mean_r=float(mean[0]),
        mean_g=float(mean[1]),
        mean_b=float(mean[2]),
        std_r=float(std[0]),
        std_g=float(std[1]),
        std_b=float(std[2]),
        focus=_focus(cut, cut_mask),
        border_contact_px=contact,
        foreground_share=pixels.shape[1] / mask.size,
        components=count_components(cut_mask),
    )


def _focus(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Return the variance of the Laplacian by the variance of the brightness, inside the foreground."""
    if min(mask.shape) < 3:
        return 0.0
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    if not inner.any():
        return 0.0
    channels = rgb.astype(np.int16)
    grey = channels[..., 0] + channels[..., 1] + channels[..., 2]
    centre = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    _, variance = _moments(np.stack((laplacian[inner], centre[inner])).astype(np.float64))
    return float(variance[0] / variance[1]) if variance[1] > 0 else 0.0


def _moments(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and population variance of each row of (rows, N).

    The values are small whole numbers, so that both sums are exact in float64 and the result is the same on every
    machine, whatever order it adds in.
    """
    count = values.shape[1]
    mean = values.sum(axis=1) / count
    variance = np.einsum("ij,ij->i", values, values) / count - mean**2
    return mean, np.maximum(variance, 0.0)
