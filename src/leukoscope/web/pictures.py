"""The two images of a case and the legend, as PNG.

The heat map is sent fully opaque; the page sets its opacity: a layer of opacity p over the cell is, pixel for pixel,
the overlay that the command line draws at opacity p.
"""

from functools import lru_cache

from leukoscope.imaging.overlay import OPACITY, color_legend, encode_png, heat_map_overlay
from leukoscope.inference.cells import Prediction

DEFAULT_OPACITY_PERCENT = round(100 * OPACITY)
_BAR_PX = 20
_FAST = 1


def draw(prediction: Prediction) -> dict[str, bytes]:
    """Return the pictures of a prediction by kind: ``cell``, and ``heat`` where there is an activation map."""
    if prediction.canvas is None:
        return {}
    pictures = {"cell": encode_png(prediction.canvas, _FAST)}
    if prediction.activation_map is not None:
        overlay = heat_map_overlay(prediction.canvas, prediction.activation_map, opacity=1.0)
        pictures["heat"] = encode_png(overlay, _FAST)
    return pictures


@lru_cache(maxsize=1)
def legend_bar() -> bytes:
    """Return the color scale without words; the page writes them."""
    return encode_png(color_legend(320, 2 * _BAR_PX + 4)[1 : _BAR_PX - 1, 1:-1].copy())
