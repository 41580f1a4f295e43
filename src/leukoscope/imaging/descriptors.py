"""Measurements of a cell image without a network: size, color, focus, contact with the border."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.canvas import CANVAS_PX, crop_to_canvas, place_on_canvas
from leukoscope.imaging.foreground import cell_mask, clean_ground, count_components, foreground_box


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
        pixels whose four neighbors are foreground too: the share of fine detail, 0 (smooth) to 64. It does
        not change with illumination or contrast, does not see the cut-out edge, and falls under blur.
    border_contact_px
        Foreground pixels on the outermost rows and columns of the canvas. Where the image is smaller than the canvas,
        those on the side of the image that has most of them: a whole cell cropped tightly touches every side briefly,
        one that is cut off touches a side at length.
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
"""The measurements of the shortcut baseline: size and color."""

_LEVELS = np.arange(256)
_BLANK = Descriptors(0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0)


def describe_cell(
    rgb: NDArray[np.uint8], canvas_px: int = CANVAS_PX, canvas: NDArray[np.uint8] | None = None
) -> Descriptors:
    """Measure one image on the canvas.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    canvas_px
        Side of the canvas the image is placed on first.
    canvas
        The image on its canvas with the ground cleaned, from a caller that has it; None makes it.

    Returns
    -------
    descriptors
        All 0 for an image without foreground; never not-a-number.
    """
    if canvas is None:
        canvas = clean_ground(place_on_canvas(rgb, canvas_px))
    found = foreground_box(canvas)
    if found is None:
        return _BLANK
    y0, x0, y1, x1 = found
    cut = canvas[y0:y1, x0:x1]
    mask = cell_mask(cut)
    area = int(np.count_nonzero(mask))
    moments = [_moments(cut[..., channel][mask]) for channel in range(3)]
    (mean_r, std_r), (mean_g, std_g), (mean_b, std_b) = moments
    return Descriptors(
        area_px=area,
        box_height_px=y1 - y0,
        box_width_px=x1 - x0,
        mean_r=mean_r,
        mean_g=mean_g,
        mean_b=mean_b,
        std_r=std_r,
        std_g=std_g,
        std_b=std_b,
        focus=_focus(cut, mask),
        border_contact_px=max(_border_contact(mask, found, canvas_px), _frame_contact(rgb, canvas_px)),
        foreground_share=area / canvas_px**2,
        components=count_components(mask),
    )


def _border_contact(mask: NDArray[np.bool_], box: tuple[int, int, int, int], canvas_px: int) -> int:
    """Count the foreground pixels on the canvas' outermost rows and columns; corners count once."""
    y0, x0, y1, x1 = box
    on_border = np.zeros_like(mask)
    on_border[0] |= y0 == 0
    on_border[-1] |= y1 == canvas_px
    on_border[:, 0] |= x0 == 0
    on_border[:, -1] |= x1 == canvas_px
    return int(np.count_nonzero(mask & on_border))


def _frame_contact(rgb: NDArray[np.uint8], canvas_px: int) -> int:
    """Count the foreground pixels on each side of the image that lies inside the canvas; return the largest count."""
    if min(rgb.shape[:2]) >= canvas_px:
        return 0
    shown = clean_ground(crop_to_canvas(rgb, canvas_px))
    height, width = shown.shape[:2]
    contact = 0
    if height < canvas_px:
        contact = int(cell_mask(shown[[0, -1]]).sum(axis=1).max())
    if width < canvas_px:
        contact = max(contact, int(cell_mask(shown[:, [0, -1]]).sum(axis=0).max()))
    return contact


def _focus(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Return the variance of the Laplacian by the variance of the brightness, inside the foreground."""
    if min(mask.shape) < 3:
        return 0.0
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    if not inner.any():
        return 0.0
    channels = rgb.astype(np.int16)
    gray = channels[..., 0] + channels[..., 1] + channels[..., 2]
    center = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * center
    contrast = _variance(center[inner])
    return _variance(laplacian[inner]) / contrast if contrast > 0 else 0.0


# Both sums are of whole numbers and stay exact in float64, so that the results do not depend on the order in which
# a machine adds.


def _variance(values: NDArray[np.int16]) -> float:
    exact = values.astype(np.float64)
    mean = float(exact.sum()) / exact.size
    return max(float(np.einsum("i,i->", exact, exact)) / exact.size - mean**2, 0.0)


def _moments(values: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and standard deviation by way of the histogram."""
    counts = np.bincount(values, minlength=256)
    mean = int(counts @ _LEVELS) / values.size
    variance = int(counts @ _LEVELS**2) / values.size - mean**2
    return mean, max(variance, 0.0) ** 0.5
