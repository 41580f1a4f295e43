"""The light of a field: the empty background between the cells, estimated and divided out."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.smear.raster import Floats

THUMBNAIL_PX = 200
WHITE = 242.0
"""Value of the empty background in every channel after correction, 0 to 255."""

_FLOOR = 4.0  # of brightness: below it a logarithm is noise
_ROUNDS = 12
_DEGREE = 4
_POWERS = [(i, degree - i) for degree in range(_DEGREE + 1) for i in range(degree + 1)]
_PULL = 1e-4
_STRIP_ROWS = 128  # that are computed at a time: floats of a whole tile would take 100 MB
_TERMS = (_DEGREE + 1) * (_DEGREE + 2) // 2


@dataclass(frozen=True)
class Illumination:
    """The brightness of the empty background everywhere in a field.

    Attributes
    ----------
    coefficients
        float64 (terms, 3): the logarithm of the brightness as a polynomial in y and x, both from -1 to 1.
    size
        (height, width) of the field in px.
    noise
        Standard deviation of the background in optical density, of the thumbnail.
    background_share
        Share of the field that is empty background, 0 to 1.
    """

    coefficients: NDArray[np.float64]
    size: tuple[int, int]
    noise: float
    background_share: float

    @property
    def mean_rgb(self) -> tuple[float, float, float]:
        """Brightness of the background in the middle of the field, 0 to 255."""
        red, green, blue = np.exp(
            _terms(np.zeros(1), np.zeros(1), len(self.coefficients)) @ self.coefficients
        )[0]
        return float(red), float(green), float(blue)

    @property
    def unevenness(self) -> float:
        """Largest by smallest brightness of the background over the field, of the channel that varies most."""
        grid = self._surface(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
        return float(np.exp((grid.max(axis=(0, 1)) - grid.min(axis=(0, 1))).max()))

    def background(self, box: tuple[int, int, int, int], shape: tuple[int, int]) -> Floats:
        """Return the background's brightness under a part of the field.

        Parameters
        ----------
        box
            Part of the field, px.
        shape
            Rows and columns to compute, which may be fewer than the box has pixels.

        Returns
        -------
        background
            float32 (rows, columns, 3), 0 to 255.
        """
        rows, columns = self._places(box, shape)
        return np.exp(self._surface(rows, columns))

    def optical_density(self, rgb: NDArray[np.uint8], box: tuple[int, int, int, int]) -> Floats:
        """Return the optical density of a part of the field above its background.

        Parameters
        ----------
        rgb
            uint8 (h, w, 3): the part, at any size.
        box
            Its position in the field, px.

        Returns
        -------
        density
            float32 (h, w, 3), decadic; 0 is background, below 0 is brighter.
        """
        rows, columns = self._places(box, (rgb.shape[0], rgb.shape[1]))
        density: Floats = self._surface(rows, columns) * np.float32(1 / np.log(10))
        density -= _LOG10[rgb]
        return density

    def normalize(self, rgb: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Divide the background out and set it to ``WHITE``; brighter is cut at 255."""
        rows, columns = self._places(box, (rgb.shape[0], rgb.shape[1]))
        even = np.empty(rgb.shape, np.uint8)
        for top in range(0, len(rows), _STRIP_ROWS):
            strip = np.s_[top : top + _STRIP_ROWS]
            bright = self._surface(rows[strip], columns)
            np.negative(bright, out=bright)
            np.exp(bright, out=bright)
            bright *= np.float32(WHITE)
            bright *= rgb[strip]
            bright += 0.5
            np.minimum(bright, 255, out=bright)
            even[strip] = bright
        return even

    def _places(
        self, box: tuple[int, int, int, int], shape: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = _centers(box[0], box[2], shape[0]) / self.size[0] * 2 - 1
        columns = _centers(box[1], box[3], shape[1]) / self.size[1] * 2 - 1
        return rows, columns

    def _surface(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the logarithm of the brightness, float32 (rows, columns, 3); separable, so by two small products."""
        grid = np.zeros((_DEGREE + 1, _DEGREE + 1, 3))
        for (i, j), value in zip(_POWERS, self.coefficients, strict=False):
            grid[i, j] = value
        y = np.stack([rows**i for i in range(_DEGREE + 1)], axis=1)
        x = np.stack([columns**j for j in range(_DEGREE + 1)], axis=1)
        by_row = np.einsum("ri,ijc->rjc", y, grid).astype(np.float32)
        return np.stack([by_row[..., channel] @ x.T.astype(np.float32) for channel in range(3)], axis=-1)


_LOG10 = np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


def estimate_illumination(thumbnail: NDArray[np.uint8], size: tuple[int, int]) -> Illumination:
    """Estimate the background's brightness from a small picture of the whole field.

    The brightest part of each patch starts a polynomial of the second degree (the shape of vignetting and of a lamp off
    the axis); then all pixels near the surface fit it again, at last with the fourth degree, and cells, which lie
    below, no longer take part.

    Parameters
    ----------
    thumbnail
        uint8 (h, w, 3): the field at a side of about ``THUMBNAIL_PX``.
    size
        (height, width) of the field in px.
    """
    height, width = thumbnail.shape[:2]
    bright = np.log(np.maximum(thumbnail, _FLOOR).astype(np.float64))
    y, x = np.meshgrid(
        _centers(0, height, height) / height * 2 - 1, _centers(0, width, width) / width * 2 - 1, indexing="ij"
    )
    chosen = _brightest(bright[..., 1])
    values = bright.reshape(-1, 3)
    terms = _terms(y.ravel(), x.ravel(), _TERMS)
    flat = chosen.ravel()
    start = _solve(terms[flat, :6], values[flat])
    coefficients, noise = np.concatenate((start, np.zeros((_TERMS - 6, 3)))), 0.02
    for round_ in range(_ROUNDS):
        residual = values - terms @ coefficients
        low, high = residual.min(axis=1), residual.max(axis=1)
        above = np.sort(residual[:, 1][(residual[:, 1] > 0) & (high < 0.25)])
        noise = float(np.clip(1.48 * np.median(above), 0.006, 0.05)) if above.size > 50 else noise
        near = (low > -2.0 * noise) & (high < 4.0 * noise + 0.02)
        if near.sum() < max(60, 0.004 * near.size):
            break
        used = 6 if round_ < _ROUNDS // 2 else _TERMS
        coefficients = np.zeros_like(coefficients)
        coefficients[:used] = _solve(terms[near, :used], values[near])
    residual = (values - terms @ coefficients).min(axis=1)
    share = float((residual > -3.0 * noise).mean())
    return Illumination(coefficients, size, noise / np.log(10), share)


def thumbnail_of(rgb: NDArray[np.uint8], side_px: int = THUMBNAIL_PX) -> NDArray[np.uint8]:
    """Shrink an image to a longer side of ``side_px`` by averaging; smaller ones stay as they are."""
    height, width = rgb.shape[:2]
    factor = max(height, width) / side_px
    if factor <= 1:
        return rgb
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def _brightest(green: NDArray[np.float64], patches: int = 6) -> NDArray[np.bool_]:
    """Return the brightest tenth of each patch, without the brightest hundredth (reflections, dirt)."""
    chosen = np.zeros(green.shape, np.bool_)
    rows = np.linspace(0, green.shape[0], patches + 1).astype(int)
    columns = np.linspace(0, green.shape[1], patches + 1).astype(int)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            patch = green[top:bottom, left:right]
            if patch.size:
                low, high = np.quantile(patch, (0.90, 0.99))
                chosen[top:bottom, left:right] = (patch >= low) & (patch <= high)
    return chosen


def _solve(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit by least squares with a slight pull toward an even light, for fields with background on one side only."""
    degrees = np.array([degree for degree in range(_DEGREE + 1) for _ in range(degree + 1)])[: terms.shape[1]]
    pull = np.diag(np.where(degrees > 0, 3.0**degrees, 0.0)) * _PULL * len(terms)
    return np.asarray(np.linalg.solve(terms.T @ terms + pull, terms.T @ values), dtype=np.float64)


def _terms(y: NDArray[np.float64], x: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.stack([y**i * x**j for i, j in _POWERS[:count]], axis=-1)


def _centers(start: float, stop: float, count: int) -> NDArray[np.float64]:
    centers: NDArray[np.float64] = start + (np.arange(count) + 0.5) * (stop - start) / count
    return centers
