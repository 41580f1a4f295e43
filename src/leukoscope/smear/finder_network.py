"""The trained finder: white cells of a field with masks of cell and nucleus."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.assets import finder_path
from leukoscope.imaging.field import find_in_field
from leukoscope.imaging.instances import DecodeSettings
from leukoscope.inference.maps_session import MapsSession
from leukoscope.smear.finder import FoundCell

RED_CELL_UM = 7.2
CENTER = 0.5
"""Least height of a center in the map of the shipped network, 0 to 1."""
_FIRST_SIDES_PX = (
    512,
    1024,
    256,
    2048,
)  # longer side at which red cells are looked for where no scale is known
_FEWEST_RED = 3


@lru_cache(maxsize=1)
def default_finder() -> "NetworkFinder":
    """Return the shipped finder, compiled at the first call."""
    return NetworkFinder(finder_path(), DecodeSettings(center=CENTER))


class NetworkFinder:
    """Finds white cells with the network.

    Parameters
    ----------
    model
        Path or content of the finder's ONNX graph.
    settings
        Thresholds of the decoder.
    threads
        Of the engine; 0 lets the engine choose.
    """

    name = "network"

    def __init__(self, model: Path | bytes, settings: DecodeSettings | None = None, threads: int = 0) -> None:
        self._session = MapsSession(model, threads)
        self._settings = settings or DecodeSettings()

    def find(self, rgb: NDArray[np.uint8], microns_per_pixel: float | None = None) -> list[FoundCell]:
        """Return the white cells, best score first.

        Parameters
        ----------
        rgb
            uint8 (H, W, 3).
        microns_per_pixel
            Scale; None: measured with the red cells that the network sees.

        Returns
        -------
        list of FoundCell
            Empty where no scale was given and no red cells give one.
        """
        scale = microns_per_pixel
        if scale is None:
            diameters = self.measure_red_cells(rgb)
            if diameters is None:
                return []
            scale = RED_CELL_UM / float(np.median(diameters))
        return list(find_in_field(rgb, scale, self._session.run, self._settings).cells)

    def measure_red_cells(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the diameters of the red cells that the network sees, px of the image, float32 (n,).

        None if fewer than three are seen at any scale. Their median is assumed to be 7.2 um.
        """
        longer = max(rgb.shape[:2])
        for side in _FIRST_SIDES_PX:
            guess = 0.25 * side / longer
            for _ in range(2):  # a second look at the scale that the first one gives
                diameters = find_in_field(rgb, guess, self._session.run, self._settings).red_diameters_px
                if len(diameters) < _FEWEST_RED:
                    break
                measured = RED_CELL_UM / float(np.median(diameters))
                if 0.8 < measured / guess < 1.25:
                    return np.asarray(diameters, dtype=np.float32)
                guess = float(np.clip(measured, 0.4 * guess, 2.5 * guess))
        return None
