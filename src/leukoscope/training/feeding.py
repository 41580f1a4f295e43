"""What the trained part of the network is fed with: pixels, or activations kept at the freeze boundary.

Both feeders give the same numbers for the same view (up to the cache's rounding); which is used is a matter of speed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.training.augment import StainStatistics, augment, choose_partners, draw_view
from leukoscope.training.dataset import CellSet
from leukoscope.training.embedding_store import EmbeddingStore, StoredEmbeddings
from leukoscope.training.network import CellNetwork
from leukoscope.training.settings import AugmentSettings

PLAIN_VIEW = -1
"""The cells as they are, without random changes."""


class Batch(NamedTuple):
    """Input of the trained part for B cells."""

    activations: Tensor
    """Input of backbone unit ``start``."""
    descriptors: Tensor | None
    """(B, 9), or None without a descriptor head."""


class PixelFeeder:
    """Augments and normalises pixels; the whole network runs in every step.

    Parameters
    ----------
    network
        For the normalisation.
    cells
        All cells of the run.
    settings, seed
        Of the augmentation.
    device
        Where batches are made.
    stain
        Optical-density statistics; needed for ``stain_mix``.
    """

    start = 0

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
        self.count = len(cells.labels)
        self._drawn: tuple[int, Tensor] | None = None

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        if not self._settings.changes_anything:
            return PLAIN_VIEW
        return epoch % self._settings.views if self._settings.views else epoch

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view."""
        pixels = self.pixels(rows, view)
        images = self._network.normalise(pixels).contiguous(memory_format=torch.channels_last)
        return Batch(images, self._network.describe(pixels))

    def pixels(self, rows: NDArray[np.int64], view: int) -> Tensor:
        """Return (B, 3, S, S) float, 0..255."""
        ordered, back = np.unique(rows, return_inverse=True)  # a memory map reads fastest in its own order
        raw = torch.from_numpy(self._cells.images[ordered][back]).to(self._device)
        pixels = raw.permute(0, 3, 1, 2).float()
        if view == PLAIN_VIEW:
            return pixels
        draws = self._draws(view)[rows]
        partners = None
        if self._stain is not None and self._settings.stain_mix:
            partners = choose_partners(self._stain, rows, draws)
        return augment(pixels, draws, self._settings, partners)

    def _draws(self, view: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = (view, draw_view(len(self._cells.labels), self._seed, view))
        return self._drawn[1]


class ActivationFeeder:
    """Runs a frozen part once a cell and view, and keeps what comes out.

    Parameters
    ----------
    source
        Feeder of the frozen part: pixels, or activations kept at an earlier unit.
    network
        Its units before ``start`` must not change while this feeder lives.
    start
        Freeze boundary, from ``freezing.freeze_boundary``.
    folder
        Where the caches are written; they are worth nothing after the run.
    dtype
        ``float16`` or ``float32``.
    batch_size
        Of the frozen part's forward passes.
    fabric
        For the device and the precision of the forward passes.
    store
        Keeps the plain view for later runs, where the backbone is frozen as a whole.
    """

    def __init__(
        self,
        source: "PixelFeeder | ActivationFeeder",
        *,
        network: CellNetwork,
        start: int,
        folder: Path,
        dtype: str,
        batch_size: int,
        fabric: Fabric,
        store: EmbeddingStore | None = None,
    ) -> None:
        self.start = start
        self._store = store
        self.count: int = source.count
        self._source, self._network, self._folder = source, network, folder
        self._dtype, self._batch_size, self._fabric = np.dtype(dtype), batch_size, fabric
        self._device = fabric.device
        self._open: dict[int, StoredEmbeddings] = {}
        self._kept = 0
        self.recalled = False

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        return self._source.view_of_epoch(epoch)

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view; what is not there yet is computed."""
        self.prepare(rows, view)
        cache = self._cache(view)
        activations = torch.from_numpy(cache.activations[rows]).to(self._device).float()
        if activations.ndim == 4:
            activations = activations.contiguous(memory_format=torch.channels_last)
        descriptors = None
        if cache.descriptors is not None:
            descriptors = torch.from_numpy(cache.descriptors[rows]).to(self._device)
        return Batch(activations, descriptors)

    def count_absent(self, rows: NDArray[np.int64], view: int) -> int:
        """Return how many of the cells ``prepare`` would have to compute."""
        return len(np.unique(rows[~self._cache(view).filled[rows]]))

    def prepare(
        self, rows: NDArray[np.int64], view: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Compute a view of some cells in large batches, before the epoch that needs it."""
        cache = self._cache(view)
        absent = np.unique(rows[~cache.filled[rows]])
        for begin in range(0, len(absent), self._batch_size):
            self._compute(cache, absent[begin : begin + self._batch_size], view)
            if progress is not None:
                progress(min(self._batch_size, len(absent) - begin))

    def _cache(self, view: int) -> StoredEmbeddings:
        if view not in self._open:
            count = self.count
            shape = self._activation_shape()
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"view{view}.npy"
            # A fresh file every time: after a kill the old one may hold rows that were never written.
            activations = np.lib.format.open_memmap(path, mode="w+", dtype=self._dtype, shape=(count, *shape))
            has_descriptors = self._network.descriptor_head is not None
            descriptors = np.zeros((count, 9), np.float32) if has_descriptors else None
            self._open[view] = StoredEmbeddings(activations, descriptors, np.zeros(count, bool))
            if view == PLAIN_VIEW and self._store is not None:
                self._recall(self._open[view], self._store.load())
        return self._open[view]

    def _recall(self, cache: StoredEmbeddings, kept: StoredEmbeddings | None) -> None:
        if kept is None or kept.activations.shape != cache.activations.shape:
            return
        cache.activations[kept.filled] = kept.activations[kept.filled]
        if cache.descriptors is not None and kept.descriptors is not None:
            cache.descriptors[kept.filled] = kept.descriptors[kept.filled]
        cache.filled[:] = kept.filled
        self._kept = int(kept.filled.sum())
        self.recalled = True

    def keep(self) -> None:
        """Write the plain view to the store, where there is one and something new."""
        cache = self._open.get(PLAIN_VIEW)
        if self._store is not None and cache is not None and cache.filled.sum() > self._kept:
            self._kept = int(cache.filled.sum())
            self._store.save(cache)

    def _activation_shape(self) -> tuple[int, ...]:
        with torch.inference_mode():
            batch = self._source.batch(np.zeros(1, np.int64), PLAIN_VIEW)
            return tuple(self._frozen(batch.activations).shape[1:])

    def _frozen(self, images: Tensor) -> Tensor:
        modes = [(module, module.training) for module in self._network.modules()]
        self._network.eval()
        try:
            if self.start == len(self._network.backbone):
                return self._network.embed(images, self._source.start)
            activations: Tensor = self._network.backbone(images, self._source.start, self.start)
            return activations
        finally:
            for module, mode in modes:
                module.training = mode

    def _compute(self, cache: StoredEmbeddings, rows: NDArray[np.int64], view: int) -> None:
        with torch.inference_mode(), self._fabric.autocast():
            batch = self._source.batch(rows, view)
            activations = self._frozen(batch.activations)
            cache.activations[rows] = activations.float().cpu().numpy().astype(self._dtype)
            if cache.descriptors is not None and batch.descriptors is not None:
                cache.descriptors[rows] = batch.descriptors.cpu().numpy()
        cache.filled[rows] = True


Feeder = PixelFeeder | ActivationFeeder
