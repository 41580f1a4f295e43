"""Batch source of pixels: batches of some cells under one view.

All batch sources give the same numbers for the same view up to rounding; which is used is a matter of speed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.training.batches.augment import StainStatistics, augment, choose_partners, draw_view
from leukoscope.training.batches.dataset import CellSet
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import AugmentSettings

PLAIN_VIEW = -1
"""The cells as they are, without random changes."""


class Batch(NamedTuple):
    """Input of the trained part for B cells."""

    activations: Tensor
    """Input of backbone unit ``start``."""
    descriptors: Tensor | None
    """(B, 9), or None without a descriptor head."""


class BatchSource(Protocol):
    """Gives batches."""

    start: int
    """First unit of the backbone that the batches still have to go through."""
    count: int
    """Cells of the run."""

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        ...

    def count_absent(self, rows: NDArray[np.int64], view: int) -> int:
        """Return for how many of the cells ``prepare`` would compute something."""
        ...

    def prepare(
        self, rows: NDArray[np.int64], view: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Do before an epoch what need not be done in every batch."""
        ...

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view."""
        ...


class PixelBatchSource:
    """Augments and normalizes pixels; the whole network runs in every step.

    Parameters
    ----------
    network
        For the normalization.
    cells
        All cells of the run.
    settings, seed
        Of the augmentation.
    device
        Where batches are made.
    stain
        Optical-density statistics; needed for ``stain_mix``.
    """

    def __init__(
        self,
        network: CellNetwork,
        cells: CellSet,
        settings: AugmentSettings,
        *,
        seed: int,
        device: torch.device,
        stain: StainStatistics | None = None,
    ) -> None:
        self._network, self._cells, self._settings, self._seed = network, cells, settings, seed
        self._device, self._stain = device, stain
        self.start = 0
        self.count = len(cells.labels)
        self._drawn: tuple[int, Tensor] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        if not self._settings.changes_anything:
            return PLAIN_VIEW
        return epoch % self._settings.views if self._settings.views else epoch

    def count_absent(self, rows: NDArray[np.int64], view: int) -> int:
        """Return 0: nothing is computed in advance."""
        return 0

    def prepare(
        self, rows: NDArray[np.int64], view: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Do nothing."""

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view."""
        pixels, descriptors = self.pixels_and_descriptors(rows, view)
        images = self._network.normalize(pixels).contiguous(memory_format=torch.channels_last)
        return Batch(images, descriptors)

    def pixels_and_descriptors(self, rows: NDArray[np.int64], view: int) -> tuple[Tensor, Tensor | None]:
        """Return (B, 3, S, S) float, 0..255, and (B, 9) where the network has a descriptor head."""
        pixels = self.pixels(rows, view)
        return pixels, self._network.describe(pixels)

    def pixels(self, rows: NDArray[np.int64], view: int) -> Tensor:
        """Return (B, 3, S, S) float, 0..255."""
        if view == PLAIN_VIEW:
            return self._read(rows)
        draws = self._draws(view)
        if self._device.type != "cpu":
            return self._changed(rows, draws)
        side = self._cells.images.shape[1]
        pixels = torch.empty(len(rows), 3, side, side)

        def change(place: int) -> None:
            pixels[place] = self._changed(rows[place : place + 1], draws)[0]

        list(self._workers().map(change, range(len(rows))))
        return pixels

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        ordered, back = np.unique(rows, return_inverse=True)  # a memory map reads fastest in its own order
        raw = torch.from_numpy(self._cells.images[ordered][back]).to(self._device)
        return raw.permute(0, 3, 1, 2).float()

    def _changed(self, rows: NDArray[np.int64], draws: Tensor) -> Tensor:
        partners = None
        if self._stain is not None and self._settings.stain_mix:
            partners = choose_partners(self._stain, rows, draws[rows])
        return augment(self._read(rows), draws[rows], self._settings, partners)

    def _workers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            # One thread of torch in each worker; the setting is each thread's own.
            self._pool = ThreadPoolExecutor(
                torch.get_num_threads(), "augment", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self._pool

    def _draws(self, view: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = (view, draw_view(len(self._cells.labels), self._seed, view))
        return self._drawn[1]


class TurnedBatchSource(PixelBatchSource):
    """Feeds plain cells turned by quarters and mirrored: exact changes of the pixels, for averaging scores."""

    def __init__(self, pixels: PixelBatchSource, quarters: int, mirrored: bool) -> None:
        self.__dict__.update(pixels.__dict__)
        self._quarters, self._mirrored = quarters, mirrored

    def pixels(self, rows: NDArray[np.int64], view: int) -> Tensor:
        """Return the turned cells, (B, 3, S, S) float, 0..255."""
        turned = torch.rot90(super().pixels(rows, PLAIN_VIEW), self._quarters, dims=(2, 3))
        return turned.flip(3) if self._mirrored else turned
