"""Activations at the freeze boundary that are computed once and kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.training.batches.embedding_store import EmbeddingStore, StoredEmbeddings
from leukoscope.training.batches.frozen_source import FrozenBatchSource
from leukoscope.training.batches.pixel_source import PLAIN_VIEW, Batch


class ActivationBatchSource:
    """Runs a frozen part once per cell and view, and caches its outputs.

    Parameters
    ----------
    source
        Computes the frozen part; its units must not change while this batch source lives.
    folder
        Folder of the caches; they are not used after the run.
    dtype
        ``float16`` or ``float32``.
    batch_size
        Of the frozen part's forward passes.
    device
        Where batches are made.
    keep_views
        Keep every view, because epochs show it again; otherwise only the plain one, which validation and scoring use.
    store
        Returns what keeps a view for later runs, where the backbone is frozen as a whole; None keeps nothing.
    """

    def __init__(
        self,
        source: FrozenBatchSource,
        *,
        folder: Path,
        dtype: str,
        batch_size: int,
        device: torch.device,
        keep_views: bool,
        store: Callable[[int], EmbeddingStore] | None = None,
    ) -> None:
        self.start, self.count = source.start, source.count
        self._source, self._folder, self._store = source, folder, store
        self._dtype, self._batch_size, self._device = np.dtype(dtype), batch_size, device
        self.keep_views = keep_views
        probe = source.probe()
        self._shape = tuple(probe.activations.shape[1:])
        self._has_descriptors = probe.descriptors is not None
        self._open: dict[int, StoredEmbeddings] = {}
        self._kept: dict[int, int] = {}
        self.recalled = False

    @property
    def view_bytes(self) -> int:
        """Size of one view of every cell."""
        return self.count * int(np.prod(self._shape)) * self._dtype.itemsize

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        return self._source.view_of_epoch(epoch)

    def keeps(self, view: int) -> bool:
        """Return whether a view is kept."""
        return self.keep_views or view == PLAIN_VIEW

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view; missing activations are computed."""
        if not self.keeps(view):
            return self._source.batch(rows, view)
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
        return len(np.unique(rows[~self._cache(view).filled[rows]])) if self.keeps(view) else 0

    def prepare(
        self, rows: NDArray[np.int64], view: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Compute a kept view of some cells in large batches, before the epoch that needs it."""
        if not self.keeps(view):
            self._source.prepare(rows, view)
            return
        cache = self._cache(view)
        absent = np.unique(rows[~cache.filled[rows]])
        for begin in range(0, len(absent), self._batch_size):
            chosen = absent[begin : begin + self._batch_size]
            self._compute(cache, chosen, view)
            if progress is not None:
                progress(len(chosen))

    def keep(self) -> None:
        """Write the views to their stores, where there are any and something is new."""
        if self._store is None:
            return
        for view, cache in self._open.items():
            if cache.filled.sum() > self._kept.get(view, 0):
                self._kept[view] = int(cache.filled.sum())
                self._store(view).save(cache)

    def _cache(self, view: int) -> StoredEmbeddings:
        if view not in self._open:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"view{view}.npy"
            # A new file every time: after a kill the old one may contain rows that were never written.
            activations = np.lib.format.open_memmap(
                path, mode="w+", dtype=self._dtype, shape=(self.count, *self._shape)
            )
            descriptors = np.zeros((self.count, 9), np.float32) if self._has_descriptors else None
            self._open[view] = StoredEmbeddings(activations, descriptors, np.zeros(self.count, bool))
            if self._store is not None:
                self._recall(view, self._store(view).load())
        return self._open[view]

    def _recall(self, view: int, kept: StoredEmbeddings | None) -> None:
        cache = self._open[view]
        if kept is None or kept.activations.shape != cache.activations.shape:
            return
        cache.activations[kept.filled] = kept.activations[kept.filled]
        if cache.descriptors is not None and kept.descriptors is not None:
            cache.descriptors[kept.filled] = kept.descriptors[kept.filled]
        cache.filled[:] = kept.filled
        self._kept[view] = int(kept.filled.sum())
        self.recalled = True

    def _compute(self, cache: StoredEmbeddings, rows: NDArray[np.int64], view: int) -> None:
        batch = self._source.batch(rows, view)
        cache.activations[rows] = batch.activations.cpu().numpy().astype(self._dtype)
        if cache.descriptors is not None and batch.descriptors is not None:
            cache.descriptors[rows] = batch.descriptors.cpu().numpy()
        cache.filled[rows] = True
