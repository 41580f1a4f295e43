"""Fit a network of kinds on a bank of crops: sampled views, a set-valued loss, averaged weights, resumable.

Every step seeds itself from the run's seed and its number, so that a run that is stopped and resumed draws the views
it would have drawn. Where a run has a limit of time, the learning rate falls with whatever ends first, steps or time.
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.core.errors import DivergedError
from leukoscope.training.fit.checkpoint import (
    optimizer_tensors,
    read_record,
    read_sections,
    restore_optimizer,
    write_tensors,
)
from leukoscope.training.kinds.bank import Bank
from leukoscope.training.kinds.classes import NAMES, group_matrix
from leukoscope.training.kinds.network import KindsNetwork
from leukoscope.training.kinds.sampling import draw_weights
from leukoscope.training.kinds.views import Draw, ViewSettings, make_views, textures

_NOT_WHITE = NAMES.index("not_a_white_cell")


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    Attributes
    ----------
    steps, seconds
        The end of the run, whichever comes first; ``seconds`` None is no limit.
    batch
        Views a step.
    rate, decay
        Peak learning rate and weight decay of AdamW; the rate rises over the first twentieth and falls as a cosine.
    average
        Decay of the moving average of the weights, which is the result.
    smoothing
        Share of the loss that pulls toward all kinds alike.
    empty_share, texture_share
        Shares of a batch that are surroundings without a cell, and synthetic textures.
    seed
        Random seed.
    views
        How views are made.
    """

    steps: int = 1000
    seconds: float | None = None
    batch: int = 128
    rate: float = 5e-4
    decay: float = 0.02
    average: float = 0.998
    smoothing: float = 0.03
    empty_share: float = 0.03
    texture_share: float = 0.02
    seed: int = 0
    views: ViewSettings = field(default_factory=ViewSettings)


class Fitted(NamedTuple):
    """The averaged network, and how many steps of what loss were done in how many seconds."""

    network: KindsNetwork
    steps: int
    seconds: float
    loss: float


Progress = Callable[[int, float, KindsNetwork], None]
"""Called every 50 steps with the step, the mean loss since the last call and the averaged network."""

_REPORT_STEPS = 50


def set_loss(logits: Tensor, possible: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean loss of labels that are sets of kinds.

    Half of it is the negative logarithm of the summed probability of the possible kinds, half that of their whole
    groups: a band taken for a segmented neutrophil costs less than one taken for a blast.

    Parameters
    ----------
    logits
        (N, K).
    possible
        bool (N, K), at least one kind in each row.
    smoothing
        Share of the mean of the negative logarithms of all kinds, 0 to 1.
    """
    log = functional.log_softmax(logits.float(), dim=1)
    groups = torch.from_numpy(group_matrix()).to(logits.device, torch.float32)
    in_groups = (possible.float() @ groups @ groups.T) > 0
    exact, coarse = (
        -torch.logsumexp(log.masked_fill(~wanted, -torch.inf), dim=1) for wanted in (possible, in_groups)
    )
    return ((1.0 - smoothing) * 0.5 * (exact + coarse) - smoothing * log.mean(dim=1)).mean()


class Sampler:
    """Draws which crops a batch is made of.

    Parameters
    ----------
    bank
        All crops.
    rows
        The rows of training; nothing else is touched, neither as cell nor as surroundings or stain.
    """

    def __init__(self, bank: Bank, rows: NDArray[np.int64]) -> None:
        device = bank.images.device
        self.rows = torch.from_numpy(rows).to(device)
        self.weights = torch.from_numpy(draw_weights(bank.items, rows)).float().to(device)
        context = rows[[not bank.items[row].cut_out for row in rows]]
        laboratories = np.array([bank.items[row].laboratory for row in context])
        _, inverse, counts = np.unique(laboratories, return_inverse=True, return_counts=True)
        self.context = torch.from_numpy(context).to(device)
        self.context_weights = torch.from_numpy(1.0 / np.sqrt(counts[inverse])).float().to(device)

    def draw(self, count: int, empty: int, generator: torch.Generator) -> Draw:
        """Draw ``count`` cells, of which the first ``empty`` are surroundings without a cell."""
        rows = self.rows[torch.multinomial(self.weights, count, True, generator=generator)]
        rows[:empty] = -1
        around, stains = (
            self.context[torch.multinomial(self.context_weights, count, True, generator=generator)]
            for _ in range(2)
        )
        return Draw(rows, around, stains)


def fit(
    network: KindsNetwork,
    bank: Bank,
    rows: NDArray[np.int64],
    settings: FitSettings,
    *,
    progress: Progress | None = None,
    state: Path | None = None,
) -> Fitted:
    """Fit a network in place and return its averaged copy.

    Parameters
    ----------
    network
        On the bank's device.
    bank, rows
        All crops and those of training.
    settings
        How.
    progress
        Called every 50 steps.
    state
        File of the run's state, written at every call of ``progress`` and read at the start where it exists.

    Raises
    ------
    DivergedError
        The loss is not finite.
    """
    run = _Run(network, bank, rows, settings, state)
    losses: list[Tensor] = []
    loss = math.nan
    while run.fraction() < 1.0:
        losses.append(run.step())
        if run.steps % _REPORT_STEPS == 0 or run.fraction() >= 1.0:
            loss = float(torch.stack(losses).mean())
            losses = []
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} after {run.steps} steps; lower the learning rate")
            run.save()
            if progress is not None:
                progress(run.steps, loss, run.averaged)
    return Fitted(run.averaged.eval(), run.steps, run.elapsed(), loss)


class _Run:
    def __init__(
        self,
        network: KindsNetwork,
        bank: Bank,
        rows: NDArray[np.int64],
        settings: FitSettings,
        state: Path | None,
    ) -> None:
        self.bank, self.settings, self.state = bank, settings, state
        self.device = bank.images.device
        self.network = network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.averaged = deepcopy(self.network).eval().requires_grad_(False)
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.rate,
            fused=self.device.type == "cuda",
        )
        self.sampler = Sampler(bank, rows)
        self.generator = torch.Generator(self.device)
        self.steps = 0
        self._spent = 0.0
        if state is not None and state.is_file():
            self._load(state)
        self._started = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds of this run, earlier parts included."""
        return self._spent + time.monotonic() - self._started

    def fraction(self) -> float:
        """Return how much of the run is done, 0 to 1."""
        limit = self.settings.seconds
        return max(self.steps / self.settings.steps, self.elapsed() / limit if limit else 0.0)

    def step(self) -> Tensor:
        """Do one step and return its loss, still on the device."""
        settings = self.settings
        torch.manual_seed(settings.seed * 1_000_003 + self.steps)
        self.generator.manual_seed(settings.seed * 1_000_003 + self.steps)
        done = self.fraction()
        factor = min(1.0, done / 0.05 + 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * factor
        images, possible = self._batch()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(images).logits
        loss = set_loss(logits, possible, settings.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self._average()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def _batch(self) -> tuple[Tensor, Tensor]:
        settings, count = self.settings, self.settings.batch
        empty, synthetic = round(count * settings.empty_share), round(count * settings.texture_share)
        draw = self.sampler.draw(count, empty, self.generator)
        images = make_views(self.bank, draw, settings.views, self.generator)
        possible = self.bank.kinds[draw.rows.clamp_min(0)]
        nothing = functional.one_hot(torch.tensor(_NOT_WHITE), possible.shape[1]).bool().to(self.device)
        possible[:empty] = nothing
        if synthetic:
            images[-synthetic:] = textures(synthetic, settings.views.input_px, self.generator)
            possible[-synthetic:] = nothing
        return images.contiguous(memory_format=torch.channels_last), possible

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
        ours, theirs = self.averaged.state_dict(), self.network.state_dict()
        names = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n] for n in names], 1.0 - decay)

    def save(self) -> None:
        """Write the state, where a file for it was given."""
        if self.state is None:
            return
        sections = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        tensors = {f"{name}/{key}": tensor for name, part in sections.items() for key, tensor in part.items()}
        write_tensors(self.state, tensors, {"steps": self.steps, "seconds": self.elapsed()})

    def _load(self, state: Path) -> None:
        record, sections = read_record(state), read_sections(state)
        self.network.load_state_dict(sections["network"])
        self.averaged.load_state_dict(sections["averaged"])
        restore_optimizer(self.optimizer, sections["optimizer"])
        self.steps, self._spent = int(record["steps"]), float(record["seconds"])
