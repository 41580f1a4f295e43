"""The trained finder: white cells of a field with masks of cell and nucleus."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.field import Instance, find_in_field
from leukoscope.imaging.instances import DecodeSettings
from leukoscope.inference.maps_session import MapsSession
from leukoscope.models.files import MODEL
from leukoscope.models.finder_bundle import FinderBundle
from leukoscope.models.registry import FINDER_MODEL, resolve_model
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.raster import fill_holes, label_parts
from leukoscope.smear.red_cells import RED_CELL_UM
from leukoscope.smear.scale import COARSEST_UM

LEAST_PART_UM2 = 2.0
"""Holes of a nucleus up to this area are filled, and parts of it up to this area are dropped."""
_FIRST_SIDES_PX = (
    512,
    1024,
    256,
    2048,
)  # longer side at which red cells are looked for where no scale is known
_FEWEST_RED = 3


def load_finder(model: str | os.PathLike[str] | None = None) -> "NetworkFinder":
    """Open a finder's bundle and compile its network; the same bundle is compiled once.

    Parameters
    ----------
    model
        A name of ``leukoscope.list_models("finder")`` or the folder of a bundle; None for the shipped one.

    Raises
    ------
    UsageError
        There is no such name and no such folder.
    BundleError
        The bundle is of another task, damaged or altered.
    """
    return _loaded(resolve_model(model, FINDER_MODEL))


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> "NetworkFinder":
    return NetworkFinder(FinderBundle.open(folder))


class NetworkFinder:
    """Finds white cells with the network.

    Parameters
    ----------
    bundle
        Of the task ``finder``.
    threads
        Of the engine; 0 lets the engine choose.
    """

    def __init__(self, bundle: FinderBundle, threads: int = 0) -> None:
        manifest = bundle.manifest
        self.name = f"{manifest.name} {manifest.version}"
        self.sha256 = bundle.sha256
        self._session = MapsSession(bundle.read(MODEL), threads)
        self._settings = DecodeSettings(
            center=manifest.center_threshold, cell=manifest.cell_threshold, nucleus=manifest.nucleus_threshold
        )

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
        found = find_in_field(rgb, scale, self._session.run, self._settings).cells
        return [_smoothed(cell, scale) for cell in found]

    def measure_red_cells(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the diameters of the red cells that the network sees, px of the image, float32 (n,).

        None if fewer than three are seen at any scale. Their median is assumed to be 7.2 um.
        """
        longer = max(rgb.shape[:2])
        for side in _FIRST_SIDES_PX:
            guess = 0.25 * side / longer
            if guess > COARSEST_UM:  # red cells of a few pixels
                continue
            for _ in range(2):  # a second look at the scale that the first one gives
                diameters = find_in_field(rgb, guess, self._session.run, self._settings).red_diameters_px
                if len(diameters) < _FEWEST_RED:
                    break
                measured = RED_CELL_UM / float(np.median(diameters))
                if 0.8 < measured / guess < 1.25:
                    return np.asarray(diameters, dtype=np.float32)
                guess = float(np.clip(measured, 0.4 * guess, 2.5 * guess))
        return None


def _smoothed(cell: Instance, microns_per_pixel: float) -> Instance:
    """Fill the holes of the cell; fill holes of the nucleus too small for a gap between lobes, drop parts as small."""
    least_px = LEAST_PART_UM2 / microns_per_pixel**2
    nucleus = fill_holes(cell.nucleus, least_px)
    parts = label_parts(nucleus)
    large = parts.areas_px > least_px
    return replace(cell, cell=fill_holes(cell.cell), nucleus=parts.select(large) if large.any() else nucleus)
