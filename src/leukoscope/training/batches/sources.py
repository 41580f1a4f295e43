"""Which batch source the stages, the validation and the scores of one model get."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from leukoscope.training.batches.activation_cache import ActivationBatchSource
from leukoscope.training.batches.augment import StainStatistics, measure_stain
from leukoscope.training.batches.dataset import CellSet
from leukoscope.training.batches.embedding_store import EmbeddingStore
from leukoscope.training.batches.frozen_source import (
    FrozenBatchSource,
    FrozenPart,
    GraphEngine,
    choose_engine,
)
from leukoscope.training.batches.pixel_source import (
    PLAIN_VIEW,
    BatchSource,
    PixelBatchSource,
    TurnedBatchSource,
)
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.state import Task
from leukoscope.training.networks.freezing import freeze_boundary
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import StageSettings, TrainSettings

LARGEST_DISK_SHARE = 0.8


class BatchSources:
    """Makes the batch sources of one model.

    Parameters
    ----------
    fabric
        Launched.
    network, cells, task, settings
        As in ``Finetuner``.
    callback
        Is called if activations are not cached because disk space is low.
    engine
        Computes frozen parts where the settings allow it; None for torch.
    shared
        Folder for embeddings of a backbone that is frozen as a whole.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: CellNetwork,
        cells: CellSet,
        task: Task,
        *,
        settings: TrainSettings,
        callback: TrainingCallback,
        engine: GraphEngine | None,
        shared: Path | None,
    ) -> None:
        self._fabric, self._network, self._cells, self._task = fabric, network, cells, task
        self._settings, self._callback, self._shared = settings, callback, shared
        self._engine = choose_engine(settings.engine, fabric.device, len(cells.labels), engine)
        self._folder = task.folder / f"cache-{fabric.global_rank}"
        self._end = len(network.backbone)
        self.pixels = self._pixel_batch_source()
        self.of_run: BatchSource = self.pixels

    @property
    def forward_name(self) -> str:
        """What computes frozen parts, for the run's provenance."""
        if self._engine is None:
            return f"torch {self._settings.engine.precision}"
        engine, precision = self._engine
        return f"{engine.name} {precision}"

    def start(self) -> BatchSource:
        """Decide on the batch source of the whole run; the layers that no stage trains have their final values."""
        boundary = freeze_boundary(self._network, self._settings.stages)
        store: Callable[[int], EmbeddingStore] | None = None
        if self._shared is not None and boundary == self._end and self._fabric.world_size == 1:
            store = partial(self._store, self._shared)
        self.of_run = self._behind(self.pixels, boundary, "", store)
        return self.of_run

    def of_stage(self, number: int, stage: StageSettings) -> BatchSource:
        """Return the batch source of a stage that begins: it may freeze more layers than the run as a whole."""
        of_run, stop = self.of_run, freeze_boundary(self._network, (stage,))
        if stop <= of_run.start:
            return of_run
        keeps = isinstance(of_run, ActivationBatchSource) and of_run.keep_views
        return self._behind(of_run if keeps else self.pixels, stop, f"stage-{number}")

    def of_scores(self) -> list[BatchSource]:
        """Return one batch source for each view that a score averages; the whole network has its final values."""
        turned = [
            TurnedBatchSource(self.pixels, number % 4, number >= 4)
            for number in range(1, self._settings.score.tta)
        ]
        if self._engine is None:
            return [self.of_run, *turned]
        part = self._part(0, self._end)
        plain = self.of_run if self.of_run.start == self._end else FrozenBatchSource(self.pixels, part)
        return [plain, *(FrozenBatchSource(pixels, part) for pixels in turned)]

    def _behind(
        self,
        source: BatchSource,
        stop: int,
        name: str,
        store: Callable[[int], EmbeddingStore] | None = None,
    ) -> BatchSource:
        """Return a batch source of unit ``stop``, which caches activations if that is useful."""
        engine = self._settings.engine
        keeping = engine.activation_cache == "auto"
        if stop <= source.start or not (keeping or self._engine):
            return source
        frozen = FrozenBatchSource(source, self._part(source.start, stop))
        if not keeping:
            return frozen
        augment = self._settings.augment
        views = augment.views if augment.changes_anything else 0
        batch_source = ActivationBatchSource(
            frozen,
            folder=self._folder / name,
            dtype="float32" if name and stop == self._end else engine.cache_dtype,
            batch_size=engine.batch_size,
            device=self._fabric.device,
            keep_views=views > 0,
            store=store,
        )
        needed = batch_source.view_bytes * (views + 1)
        self._task.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._task.folder).free
        if needed > LARGEST_DISK_SHARE * free:
            self._callback.say(
                f"{self._task.name}: activations are not kept, they would take {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free in {self._task.folder}"
            )
            return frozen
        return batch_source

    def _store(self, folder: Path, view: int) -> EmbeddingStore:
        settings = self._settings
        changes = None if view == PLAIN_VIEW else (settings.augment, settings.seed, view)
        dtype = np.dtype(settings.engine.cache_dtype)
        return EmbeddingStore(folder, self._network, self._cells, dtype, self.forward_name, changes=changes)

    def _part(self, start: int, stop: int) -> FrozenPart:
        return FrozenPart(self._network, start, stop, fabric=self._fabric, engine=self._engine)

    def _pixel_batch_source(self) -> PixelBatchSource:
        stain = None
        if self._settings.augment.stain_mix:
            mean, std = measure_stain(self._cells.images)
            stain = StainStatistics(mean, std, self._cells.groups, self._task.train)
        return PixelBatchSource(
            self._network,
            self._cells,
            self._settings.augment,
            seed=self._settings.seed,
            device=self._fabric.device,
            stain=stain,
        )
