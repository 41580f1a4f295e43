"""The stain of a field, measured on what every smear carries: the empty background and the red cells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.smear.illumination import Illumination
from leukoscope.smear.picture import Picture
from leukoscope.smear.raster import Bools, Floats, erode, smooth
from leukoscope.smear.red_cells import foreground_threshold, nuclear_mask, otsu
from leukoscope.smear.scale import RedCellSize

FAR = 3.0
"""Distance above which a stain is reported as far from all reference laboratories."""

_SIDE_PX = 700  # of the picture that the stain is measured on
_LEAST_PIXELS = 200
_LEAST_THRESHOLD = 0.08

_HALF = 0.45  # of the nuclei's own median


@dataclass(frozen=True)
class Stain:
    """Colors of a field in optical density (decadic, channels R, G, B) above the background.

    Attributes
    ----------
    background_rgb
        Brightness of the background in the middle of the field before it was set to white, 0 to 255.
    red_cells
        Median of the red cells.
    red_cells_covariance
        float64 (3, 3), of their pixels.
    nuclei
        Median of what only nuclei and platelets absorb so strongly; None where there is nothing such.
    nuclear_threshold
        Of ``nuclear_signal``: above it a pixel belongs to a nucleus or platelet.
    foreground_threshold
        Optical density that parts cells from background.
    n_pixels
        Number of red-cell pixels; 0 if the defaults are used.
    """

    background_rgb: tuple[float, float, float]
    red_cells: tuple[float, float, float]
    red_cells_covariance: NDArray[np.float64]
    nuclei: tuple[float, float, float] | None
    nuclear_threshold: float
    foreground_threshold: float
    n_pixels: int

    @property
    def red_share(self) -> float:
        """What red cells absorb in red and half of green, by what they absorb in blue."""
        red, green, blue = self.red_cells
        return float(np.clip((red + 0.5 * green) / max(blue, 0.02), 0.5, 2.2))

    def nuclear_signal(self, density: Floats) -> Floats:
        """Return optical density in red and half of green, less that of red cells by what is absorbed in blue.

        Nuclei absorb red and green, hardly blue; red cells come to about 0 at any thickness, so overlaps do too.
        """
        return (
            density[..., 0]
            + 0.5 * density[..., 1]
            - np.float32(self.red_share) * np.maximum(density[..., 2], 0)
        )

    def distances(self) -> dict[str, float]:
        """Return the distance to each reference laboratory; see ``distance``."""
        return {name: distance(self.red_cells, reference) for name, reference in REFERENCES.items()}

    @property
    def is_far(self) -> bool:
        """Whether no reference laboratory is near."""
        return self.n_pixels > 0 and min(self.distances().values()) > FAR


_DEFAULT_RED_CELLS = (0.07, 0.15, 0.09)
_SPREAD = np.array([0.02, 0.03, 0.02])

# Medians over 30 fields of each, by ``measure_stain``.
REFERENCES: dict[str, tuple[float, float, float]] = {
    "Barcelona (PBC)": (0.094, 0.141, 0.084),
    "Munich (AML)": (0.092, 0.173, 0.090),
    "BCCD": (0.049, 0.110, 0.078),
    "Chulalongkorn": (0.048, 0.053, 0.048),
    "Draaslan": (0.006, 0.294, 0.138),
}


def distance(red_cells: tuple[float, float, float], reference: tuple[float, float, float]) -> float:
    """Return the distance of two red-cell colors, in standard deviations between fields of one laboratory."""
    steps = (np.array(red_cells) - np.array(reference)) / _SPREAD
    return float(np.sqrt(np.mean(steps**2)))


def measure_stain(picture: Picture, light: Illumination, size: RedCellSize) -> Stain:
    """Measure the stain on a shrunk picture of the field, or on its middle where it is large."""
    box, factor = _window(picture, size)
    shape = (max(1, round((box[2] - box[0]) / factor)), max(1, round((box[3] - box[1]) / factor)))
    density = smooth_channels(light.optical_density(picture.read(box, shape), box))
    noise = light.noise / factor
    absorbing = np.maximum(density[..., 1], density[..., 2])
    foreground = foreground_threshold(absorbing, noise)
    cells = absorbing > foreground
    red = erode(cells, 2.0) & ~nuclear_mask(density)
    pixels = density[red]
    if len(pixels) < _LEAST_PIXELS:
        color, covariance, count = np.array(_DEFAULT_RED_CELLS), np.diag([0.04, 0.06, 0.06]) ** 2, 0
    else:
        color, covariance = _robust(pixels)
        count = len(pixels)
    stain = Stain(light.mean_rgb, _triple(color), covariance, None, 0.0, float(foreground), count)
    signal = stain.nuclear_signal(density)
    threshold = _nuclear_threshold(signal, red)
    dark = signal > threshold
    nuclei = _triple(np.median(density[dark], axis=0)) if dark.sum() >= _LEAST_PIXELS // 4 else None
    return Stain(
        stain.background_rgb, stain.red_cells, covariance, nuclei, threshold, float(foreground), count
    )


def smooth_channels(density: Floats) -> Floats:
    """Average each channel over 3 x 3 px."""
    return np.stack([smooth(density[..., channel], 1, 1) for channel in range(3)], axis=-1)


def _window(picture: Picture, size: RedCellSize) -> tuple[tuple[int, int, int, int], float]:
    """Return a window that is read at about 24 px a red cell, and how much it is shrunk."""
    height, width = picture.height_px, picture.width_px
    factor = max(1.0, size.median_px / 24) if size.count else max(1.0, max(height, width) / _SIDE_PX)
    side_y, side_x = min(height, round(_SIDE_PX * factor)), min(width, round(_SIDE_PX * factor))
    top, left = (height - side_y) // 2, (width - side_x) // 2
    return (top, left, top + side_y, left + side_x), factor


def _robust(pixels: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return median and covariance of the middle pixels, without those far off in color."""
    values = pixels.astype(np.float64)
    for _ in range(2):
        middle = np.median(values, axis=0)
        spread = 1.48 * np.median(np.abs(values - middle), axis=0) + 0.005
        near = (np.abs(values - middle) < 3 * spread).all(axis=1)
        values = values[near]
    return np.median(values, axis=0), np.cov(values.T) + np.eye(3) * 1e-4


def _nuclear_threshold(signal: Floats, red: Bools) -> float:
    """Part nuclei from the rest of what is stained: halfway down from them, and above what red cells reach.

    Otsu's threshold over the smoothed signal finds the nuclei; refracting edges of cells are too thin to matter there.
    """
    wide = smooth(signal, 2)
    floor = _LEAST_THRESHOLD
    if red.any():
        values = wide[red]
        middle = float(np.median(values))
        floor = max(floor, middle + 3.0 * 1.48 * float(np.median(np.abs(values - middle))))
    stained = wide[wide > 0.6 * floor]
    if stained.size < _LEAST_PIXELS // 2:
        return max(floor, 0.15)
    first = max(otsu(np.minimum(stained, 0.6)), floor)
    nuclei = wide[wide > first]
    if nuclei.size < _LEAST_PIXELS // 4:
        return min(first, 0.35)
    middle = float(np.median(nuclei))
    return float(np.clip(_HALF * middle, min(floor, 0.6 * middle), 0.35))


def _triple(values: NDArray[np.floating]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
