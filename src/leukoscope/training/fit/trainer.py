"""One model: two stages, early stopping, a checkpoint after every epoch."""

import gc
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.core.errors import DivergedError, TrainingError
from leukoscope.training.batches.activation_cache import ActivationBatchSource
from leukoscope.training.batches.dataset import CellSet, check_classes, epoch_order
from leukoscope.training.batches.frozen_source import GraphEngine
from leukoscope.training.batches.pixel_source import PLAIN_VIEW, Batch, BatchSource
from leukoscope.training.batches.sources import BatchSources
from leukoscope.training.fit import checkpoint
from leukoscope.training.fit.callbacks import EpochRecord, TrainingCallback
from leukoscope.training.fit.optimizer import (
    AveragedWeights,
    Objective,
    class_losses,
    make_optimizer,
    set_learning_rate,
)
from leukoscope.training.fit.prediction import accuracy, area_under_curve, explain_failures, predict_rows
from leukoscope.training.fit.preparation import prepare_heads, reestimate_batch_norm
from leukoscope.training.fit.state import Running, Task, Trainee, TrainingState
from leukoscope.training.networks.freezing import set_modes, set_trainable
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import STAGE_NAMES, StageSettings, TrainSettings

_ORDER, _DROPOUT = 1, 2


class Finetuner:
    """Trains one model.

    Parameters
    ----------
    fabric
        Launched.
    network
        With its first weights; changed in place.
    cells
        All cells of the run.
    task
        Which of them, and where to keep the state.
    settings
        The run's.
    callback
        Hears of progress.
    shared
        Folder for reuse by later runs: embeddings of a completely frozen backbone.
    engine
        Computes the frozen part where the settings allow it; None for torch.
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
        shared: Path | None = None,
        engine: GraphEngine | None = None,
    ) -> None:
        self.fabric, self.network, self.cells = fabric, network, cells
        self.task, self.settings, self.callback = task, settings, callback
        self.training_state = TrainingState()
        self._start_time = time.perf_counter()
        self._earlier_seconds = 0.0
        self.batch_sources = BatchSources(
            fabric, network, cells, task, settings=settings, callback=callback, engine=engine, shared=shared
        )
        self._batch_source: BatchSource = self.batch_sources.pixels
        check_classes(cells, task.train, "train")
        if len(task.validation):
            check_classes(cells, task.validation, "validation")

    def fit(self) -> TrainingState:
        """Train, or resume from the last checkpoint; afterwards the network has the kept weights.

        Raises
        ------
        TrainingError
            The loss is not a number, memory is out, a class is empty, a checkpoint is damaged.
        """
        self._start_time = time.perf_counter()
        final = self.task.folder / checkpoint.FINAL
        if final.is_file():
            self.training_state = TrainingState(**checkpoint.read_state(final))
            checkpoint.load_final(self.network, final)
            self.fabric.to_device(self.network)
            return self.training_state
        with explain_failures(self.settings.engine.batch_size):
            self._fit()
        self._take_time()
        if self.fabric.is_global_zero:
            checkpoint.write_tensors(final, self.network.state_dict(), asdict(self.training_state))
            for pattern in ("best-*", f"{checkpoint.LAST}*"):  # including incomplete files after a kill
                for path in self.task.folder.glob(pattern):
                    path.unlink()
        self.fabric.barrier()
        return self.training_state

    def _take_time(self) -> None:
        of_run = self.batch_sources.of_run
        self.training_state.recalled |= isinstance(of_run, ActivationBatchSource) and of_run.recalled
        self.training_state.seconds = self._earlier_seconds + time.perf_counter() - self._start_time

    def _fit(self) -> None:
        network, settings = self.network, self.settings
        last = self.task.folder / checkpoint.LAST
        sections: dict[str, dict[str, Tensor]] = {}
        if last.is_file():
            self.training_state = TrainingState(**checkpoint.read_record(last))
            self._earlier_seconds = self.training_state.seconds
            sections = checkpoint.read_sections(last)
            network.load_state_dict(sections["model"], strict=True)
        network.to(memory_format=torch.channels_last)
        self.fabric.to_device(network)
        if not sections:
            reestimate_batch_norm(
                network, self.batch_sources.pixels, self.task.train, settings, self.callback
            )
        batch_source = self.batch_sources.start()
        if not sections:
            prepare_heads(
                network, batch_source, self.cells, self.task.train, settings=settings, callback=self.callback
            )
        first = self.training_state.stage
        for number, stage in enumerate(settings.stages[first:], start=first):
            self._run_stage(number, stage, sections if number == first else {})

    @property
    def _stage_number(self) -> int:
        """Return the stage's number in the configuration: 2 for ``stage2``, whether or not ``stage1`` is run."""
        return STAGE_NAMES.index(self.settings.stage_names[self.training_state.stage]) + 1

    def _run_stage(self, number: int, stage: StageSettings, sections: dict[str, dict[str, Tensor]]) -> None:
        state = self.training_state
        if not sections:
            state = TrainingState(
                number, 0, state.total, best_epochs=state.best_epochs, history=state.history
            )
            self.training_state = state
        self._batch_source = self.batch_sources.of_stage(number, stage)
        running = self._start_stage(number, stage, sections)
        patience = stage.patience if running.select else 0
        while state.epoch < running.epochs and not (patience and state.stale >= patience):
            trained = self._train_epoch(running)
            self._finish_epoch(running, trained)
        average = running.average
        del running
        if self.fabric.world_size > 1:
            gc.collect()  # a DistributedDataParallel that lives on would join in the next stage's gradients
        self._keep_best(average)
        state.best_epochs.append(state.best_epoch or state.epoch)
        self.training_state = TrainingState(
            number + 1, 0, state.total, best_epochs=state.best_epochs, history=state.history
        )

    def _start_stage(
        self, number: int, stage: StageSettings, sections: dict[str, dict[str, Tensor]]
    ) -> Running:
        set_trainable(self.network, stage)
        optimizer = make_optimizer(self.network, stage, self.settings.optimizer)
        decay = self.settings.optimizer.ema_decay
        average = AveragedWeights(self.network, decay) if decay else None
        objective = self._objective()
        if sections:
            checkpoint.restore_optimizer(optimizer, sections.get("optimizer", {}))
            objective.group_weights = sections["objective"]["group_weights"].to(self.fabric.device)
            if average is not None:
                kept = dict(sections["average"])
                average.steps = int(kept.pop("steps"))
                average.tensors = {name: tensor.to(self.fabric.device) for name, tensor in kept.items()}
        module, optimizer = self.fabric.setup(Trainee(self.network), optimizer)
        epochs = self.task.epochs[number] if self.task.epochs else stage.epochs
        select = not self.task.epochs and len(self.task.validation) > 0
        return Running(number, epochs, select, optimizer, module, objective, average)

    def _objective(self) -> Objective:
        rows = self.task.train
        labels, groups = torch.from_numpy(self.cells.labels[rows]), torch.from_numpy(self.cells.groups[rows])
        return Objective(self.settings.loss, labels, groups, self.fabric.device, self.cells.classes.size)

    def _train_epoch(self, running: Running) -> dict[str, Any]:
        state, settings, fabric = self.training_state, self.settings, self.fabric
        batch_source = self._batch_source
        start_time = time.perf_counter()
        batches = self._local_batches(state.total)
        view = batch_source.view_of_epoch(state.total)
        cached_seconds = self._prepare_view(np.concatenate(batches), view)
        processor_start = time.process_time()
        set_modes(self.network, settings.batch_norm.unfrozen == "train")
        torch.manual_seed(_seed(settings.seed, _DROPOUT, state.total, fabric.global_rank))
        name = f"{self.task.name}: stage {self._stage_number}, epoch {state.epoch + 1} of {running.epochs}"
        self.callback.begin(name, sum(map(len, batches)))
        logits, total_loss, rate = [], 0.0, 0.0
        warmup = settings.optimizer.warmup_epochs / running.epochs
        for step, rows in enumerate(batches):
            progress = (state.epoch + step / len(batches)) / running.epochs
            rate = set_learning_rate(running.optimizer, settings.optimizer, progress, warmup)
            output, losses = self._step(running, batch_source.batch(rows, view), rows, step)
            if running.average is not None:
                running.average.update(self.network)
            total_loss += float(losses.sum())
            logits.append(output)
            self.callback.advance(len(rows), float(losses.mean()))
        self.callback.end()
        shown, labels = torch.cat(logits).numpy(), self.cells.labels[np.concatenate(batches)]
        seconds = time.perf_counter() - start_time
        return {
            "learning_rate": rate,
            "loss": total_loss / len(shown),
            "accuracy": accuracy(shown, labels),
            "auc": area_under_curve(shown, labels),
            "seconds": seconds,
            "cached_seconds": cached_seconds,
            "images_per_second": len(shown) * fabric.world_size / seconds,
            "processor_seconds": time.process_time() - processor_start,
        }

    def _step(
        self, running: Running, batch: Batch, rows: NDArray[np.int64], step: int
    ) -> tuple[Tensor, Tensor]:
        """Take one step; returns the logits and the losses of the batch's cells, on the CPU."""
        fabric, clip_norm = self.fabric, self.settings.optimizer.clip_norm
        targets = torch.from_numpy(self.cells.labels[rows]).to(fabric.device)
        output = running.module(batch.activations, batch.descriptors, self._batch_source.start)
        losses = running.objective.cell_losses(output, targets)
        groups = torch.from_numpy(self.cells.groups[rows])
        loss = running.objective.batch_loss(losses, groups, fabric.world_size)
        self._check_finite(loss, step)
        running.optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if clip_norm:
            fabric.clip_gradients(
                running.module, running.optimizer, max_norm=clip_norm, error_if_nonfinite=False
            )
        running.optimizer.step()
        return output.detach().float().cpu(), losses.detach().cpu()

    def _prepare_view(self, rows: NDArray[np.int64], view: int) -> float:
        batch_source, start = self._batch_source, time.perf_counter()
        if batch_source.start == 0:
            return 0.0  # the whole network runs in every step: nothing is done once
        absent = batch_source.count_absent(rows, view)
        if absent:
            self.callback.begin(f"{self.task.name}: frozen layers, view {view + 1}", absent)
        batch_source.prepare(rows, view, self.callback.advance)
        if absent:
            self.callback.end()
        return time.perf_counter() - start

    def _local_batches(self, total_epoch: int) -> list[NDArray[np.int64]]:
        """Return this process's share of every batch of an epoch.

        All shares of a batch are equally large, so that averaging gradients over processes is averaging over cells.
        Left over are fewer cells than processes, or a last batch that gives a process a single cell (which no
        batch norm can take).
        """
        settings, fabric = self.settings, self.fabric
        rng = np.random.default_rng(np.random.SeedSequence([settings.seed, _ORDER, total_epoch]))
        order = epoch_order(
            self.cells, self.task.train, settings.data.sampling, settings.data.epoch_cells, rng
        )
        size, world = settings.engine.batch_size, fabric.world_size
        batches = []
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            batch = batch[: len(batch) // world * world][fabric.global_rank :: world]
            if len(batch) > 1:
                batches.append(batch)
        if not batches:
            raise TrainingError(
                f"{len(order)} training cells in batches of {size} over {world} processes leave no process 2 cells; "
                "use fewer devices or larger batches"
            )
        return batches

    def _check_finite(self, loss: Tensor, step: int) -> None:
        if not bool(torch.isfinite(loss.detach())):
            state = self.training_state
            raise DivergedError(
                f"the loss became {float(loss.detach())} in stage {self._stage_number}, epoch {state.epoch + 1}, step "
                f"{step + 1}; lower the learning rate, or use --precision 32-true"
            )

    def _finish_epoch(self, running: Running, trained: dict[str, Any]) -> None:
        average = running.average
        state = self.training_state
        if average is not None:
            average.swap(self.network)
        validated = self._validate()
        loss = validated["validation_loss"]
        if running.select and loss is not None and (state.best_loss is None or loss < state.best_loss):
            state.best_loss, state.best_epoch, state.stale = loss, state.epoch + 1, 0
            state.best_file = f"best-{state.stage + 1}-{state.epoch + 1}.safetensors"
            if self.fabric.is_global_zero:
                checkpoint.write_tensors(self.task.folder / state.best_file, self.network.state_dict())
        else:
            state.stale += 1
        if average is not None:
            average.swap(self.network)
        state.epoch += 1
        state.total += 1
        figures: dict[str, Any] = {**trained, **validated}
        record = EpochRecord(self.task.name, self._stage_number, state.epoch, **figures)
        state.history.append(asdict(record))
        self._save(running)
        self.callback.epoch(record)

    def _validate(self) -> dict[str, float | None]:
        rows = self.task.validation
        names = ("validation_loss", "validation_accuracy", "validation_auc")
        if not len(rows):
            return dict.fromkeys(names)
        self._prepare_view(rows[self.fabric.global_rank :: self.fabric.world_size], PLAIN_VIEW)
        logits = predict_rows(
            self.fabric, self.network, self._batch_source, rows, batch_size=self.settings.score.batch_size
        )[0]
        labels = self.cells.labels[rows]
        classes = torch.from_numpy(labels).long().unsqueeze(1)
        loss = class_losses(torch.from_numpy(logits)).gather(1, classes).mean()
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"the validation loss became {float(loss)} in stage {self._stage_number}; "
                "lower the learning rate"
            )
        return dict(
            zip(names, (float(loss), accuracy(logits, labels), area_under_curve(logits, labels)), strict=True)
        )

    def _save(self, running: Running) -> None:
        if self.fabric.is_global_zero:
            moments = checkpoint.optimizer_tensors(running.optimizer)
            tensors = {f"model/{name}": tensor for name, tensor in self.network.state_dict().items()}
            tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
            tensors["objective/group_weights"] = running.objective.group_weights
            if (average := running.average) is not None:
                tensors |= {f"average/{name}": tensor for name, tensor in average.tensors.items()}
                tensors["average/steps"] = torch.tensor(average.steps)
            self._take_time()
            checkpoint.write_tensors(self.task.folder / checkpoint.LAST, tensors, asdict(self.training_state))
            for path in self.task.folder.glob("best-*.safetensors"):
                if path.name != self.training_state.best_file:
                    path.unlink()
        self.fabric.barrier()

    def _keep_best(self, average: AveragedWeights | None) -> None:
        self.fabric.barrier()
        if self.training_state.best_file is not None:
            checkpoint.load_final(self.network, self.task.folder / self.training_state.best_file)
        elif average is not None:
            average.swap(self.network)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
