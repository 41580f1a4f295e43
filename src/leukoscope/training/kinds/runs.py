"""One run of a study: fit a recipe on all laboratories but some, examine it, return what it measured."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from leukoscope.core.io import replacing
from leukoscope.training.kinds.bank import Bank, build_bank
from leukoscope.training.kinds.classes import NAMES
from leukoscope.training.kinds.fit import FitSettings, Fitted, fit
from leukoscope.training.kinds.network import KindsNetwork, create_network
from leukoscope.training.kinds.packing import read_items, read_pack
from leukoscope.training.kinds.protocol import FOLDS, RECIPES, Examined, Recipe, examine, training_rows
from leukoscope.training.kinds.views import INPUT_PX, ViewSettings

_KEPT_ROWS = 600


@dataclass(frozen=True)
class StudySettings:
    """Where a study reads and writes, and how large it is.

    Attributes
    ----------
    pack, initial
        The pack, and the folder of initial weights named after their architecture.
    out
        Folder of the results.
    minutes
        Limit of the whole.
    device
        ``cuda`` or ``cpu``.
    processes
        How many runs go on at once; 1 runs in this process.
    input_px, batch
        Smaller ones are for trying the study out.
    rows
        Use only each ``every``-th row of the pack; 1 for all.
    resume
        Resume from the states and results in ``out``.
    """

    pack: Path
    initial: Path
    out: Path
    minutes: float
    device: str = "cuda"
    processes: int = 2
    input_px: int = INPUT_PX
    batch: int = 128
    every: int = 1
    resume: bool = False


@dataclass(frozen=True)
class Job:
    """One run: a recipe on a fold, or the final one on all laboratories.

    Attributes
    ----------
    until
        Unix time of its end. A run that has less than ``at_least`` seconds left is skipped.
    """

    recipe: Recipe
    fold: str
    seconds: float
    until: float
    at_least: float = 3.0
    seed: int = 0


@dataclass
class Done:
    """What a run returns."""

    recipe: str
    fold: str
    skipped: bool = False
    steps: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    views_per_second: float = 0.0
    measures: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class Runner:
    """Runs jobs in one process, with the bank on the device."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        rows = None
        if settings.every > 1:
            rows = list(range(0, len(read_items(settings.pack)), settings.every))
        self.bank: Bank = build_bank(read_pack(settings.pack, rows), self.device)

    def run(self, job: Job) -> Done:
        """Run a job."""
        now = time.time()
        seconds = min(job.seconds, job.until - now)
        if job.fold not in FOLDS:
            seconds = max(seconds, 1.0)  # the final run is never skipped
        elif seconds < job.at_least:
            return Done(job.recipe.name, job.fold, skipped=True)
        left_out = FOLDS.get(job.fold, ())
        fitted = self._fit(job, left_out, seconds)
        examined = examine(fitted.network, self.bank, left_out, self.settings.input_px)
        if not left_out:
            self._write_weights(job.recipe, fitted.network, fitted.steps)
        return Done(
            job.recipe.name,
            job.fold,
            steps=fitted.steps,
            seconds=round(fitted.seconds, 2),
            loss=fitted.loss,
            views_per_second=round(fitted.steps * self.settings.batch / fitted.seconds, 1),
            measures=examined.measures,
            arrays=kept_arrays(examined, job),
        )

    def warm_up(self) -> None:
        """Fit each architecture for some steps: the first ones of a process take seconds, which no recipe shall pay."""
        rows = training_rows(self.bank)
        views = ViewSettings(self.settings.input_px)
        for arch in dict.fromkeys(recipe.arch for recipe in RECIPES):
            network = create_network(arch, self.settings.initial / f"{arch}.safetensors").to(self.device)
            fit(network, self.bank, rows, FitSettings(steps=5, batch=self.settings.batch, views=views))

    def _fit(self, job: Job, left_out: tuple[str, ...], seconds: float) -> Fitted:
        settings, recipe = self.settings, job.recipe
        views = ViewSettings(
            settings.input_px,
            cut_out_share=recipe.cut_out_share,
            stain_mix_share=ViewSettings.stain_mix_share if recipe.style else 0.0,
        )
        network = create_network(
            recipe.arch, settings.initial / f"{recipe.arch}.safetensors", recipe.norm, recipe.style
        )
        fit_settings = FitSettings(
            steps=20_000, seconds=seconds, batch=settings.batch, seed=job.seed, views=views
        )
        state = settings.out / "states" / f"{recipe.name}-{job.fold}.safetensors" if settings.resume else None
        written = time.monotonic()

        def progress(step: int, loss: float, averaged: KindsNetwork) -> None:
            nonlocal written
            if not left_out and time.monotonic() - written > 20.0:
                self._write_weights(recipe, averaged, step)
                written = time.monotonic()

        return fit(
            network.to(self.device),
            self.bank,
            training_rows(self.bank, left_out),
            fit_settings,
            progress=progress,
            state=state,
        )

    def _write_weights(self, recipe: Recipe, network: KindsNetwork, steps: int) -> None:
        """Write weights as half precision (running variances in single: they exceed it)."""
        tensors = {
            name: (tensor if "running" in name or not tensor.is_floating_point() else tensor.half())
            .cpu()
            .contiguous()
            .clone()
            for name, tensor in network.state_dict().items()
        }
        record = {
            "recipe": asdict(recipe),
            "kinds": NAMES,
            "input_px": self.settings.input_px,
            "steps": steps,
        }
        with replacing(self.settings.out / f"{recipe.arch}.safetensors") as part:
            save_file(tensors, part, metadata={"record": json.dumps(record)})


def kept_arrays(examined: Examined, job: Job) -> dict[str, NDArray[Any]]:
    """Return rows, probabilities and embeddings of the parts, at most 600 rows each, spread evenly.

    Of folds only what was left out is kept, of the final run everything.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for part, (rows, predicted) in examined.predictions.items():
        if job.fold in FOLDS and "left_out" not in part:
            continue
        taken = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _KEPT_ROWS)).round().astype(int))
        key = f"{job.recipe.name}/{job.fold}/{part}"
        arrays[f"{key}/rows"] = rows[taken].astype(np.int32)
        arrays[f"{key}/probabilities"] = predicted.probabilities[taken].astype(np.float16)
        if part.endswith("_context") or (part.startswith("cnmc") and part.endswith("cut_out")):
            arrays[f"{key}/embeddings"] = predicted.embeddings[taken]
    return arrays
