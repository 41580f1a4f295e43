"""Train the finder: samples drawn on the device, a learning rate that follows the time, averaged weights."""

import json
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leukoscope.core.errors import DivergedError
from leukoscope.training.finder.bank import Bank
from leukoscope.training.finder.colors import ColorSettings, change_colors
from leukoscope.training.finder.losses import finder_losses, total_loss
from leukoscope.training.finder.network import FinderNetwork
from leukoscope.training.finder.refresh import refresh_labels
from leukoscope.training.finder.samples import SampleSettings, draw_samples

Log = Callable[[dict[str, Any]], None]
CHECKPOINT = "checkpoint.safetensors"
STATE = "state.json"
_GROUND_S = 20.0


@dataclass(frozen=True)
class FitSettings:
    """How long, how fast.

    Attributes
    ----------
    minutes
        Time of training; with ``steps`` given, it is not used.
    steps
        Number of steps; None: as many as fit into ``minutes``.
    batch
        Samples a step.
    rate, encoder_rate
        Highest learning rates of the decoder and of the encoder.
    weight_decay, warmup, ema
        As usual; ``warmup`` is a share of the whole, ``ema`` the largest factor of the averaged weights.
    refresh_at
        Shares of the whole at which rough outlines are replaced by the network's own.
    checkpoint_s
        Seconds between checkpoints.
    seed
        Random seed.
    """

    minutes: float = 8.0
    steps: int | None = None
    batch: int = 64
    rate: float = 2e-3
    encoder_rate: float = 5e-4
    weight_decay: float = 0.02
    warmup: float = 0.03
    ema: float = 0.999
    refresh_at: tuple[float, ...] = (0.4, 0.65)
    checkpoint_s: float = 60.0
    seed: int = 0
    samples: SampleSettings = field(default_factory=SampleSettings)
    colors: ColorSettings = field(default_factory=ColorSettings)


@dataclass
class Progress:
    """Progress of a fit: steps done, share of the whole, refreshes done, seconds used."""

    step: int = 0
    share: float = 0.0
    refreshed: int = 0
    used_s: float = 0.0


def fit_finder(  # noqa: PLR0917
    network: FinderNetwork, bank: Bank, settings: FitSettings, folder: Path, log: Log, resume: bool = False,
    saved_callback: Callable[[FinderNetwork], None] | None = None,
) -> FinderNetwork:  # fmt: skip
    """Train and return the network with averaged weights, in evaluation mode.

    Parameters
    ----------
    network
        On the device of training; it is changed in place.
    bank
        On the same device; the labels of rough tiles are changed when they are refreshed.
    settings
        How.
    folder
        Checkpoints are written there.
    log
        Called with the figures of each interval.
    resume
        Continue from the checkpoint in ``folder``.
    saved_callback
        Called with the averaged network at every checkpoint.

    Raises
    ------
    DivergedError
        The loss is no longer a number.
    """
    device = bank.images.device
    averaged = deepcopy(network).eval().requires_grad_(False)
    optimizer = _optimizer(network, settings)
    progress = Progress()
    if resume:
        progress = _resume(network, averaged, optimizer, bank, folder)
    rng = torch.Generator(device=device).manual_seed(settings.seed + progress.step)
    network.train()
    sums: dict[str, Tensor] = {}
    counted = 0
    started = saved = reported = time.monotonic()
    used_before = progress.used_s
    while progress.share < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * _rate_factor(progress.share, settings.warmup)
        losses = _step(network, bank, optimizer, settings, rng)
        progress.step += 1
        _average(averaged, network, min(settings.ema, (1 + progress.step) / (10 + progress.step)))
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
        counted += 1
        now = time.monotonic()
        progress.used_s = used_before + now - started
        progress.share = _share(progress, settings)
        if now - reported > _GROUND_S or progress.share >= 1.0:
            log(_figures(progress, sums, counted))
            sums, counted, reported = {}, 0, now
        if (
            progress.refreshed < len(settings.refresh_at)
            and progress.share >= settings.refresh_at[progress.refreshed]
        ):
            log({"event": "refresh", "step": progress.step, **refresh_labels(averaged, bank)})
            progress.refreshed += 1
        if now - saved > settings.checkpoint_s or progress.share >= 1.0:
            save_checkpoint(network, averaged, optimizer, bank, progress, folder)
            if saved_callback is not None:
                saved_callback(averaged)
            saved = now
    return averaged


def _step(
    network: nn.Module,
    bank: Bank,
    optimizer: torch.optim.Optimizer,
    settings: FitSettings,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    device = bank.images.device
    with torch.no_grad():
        samples = draw_samples(bank, settings.batch, settings.samples, rng)
        pixels = change_colors(samples.pixels, samples.background, settings.colors, rng)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        raw = network(pixels)
    losses = finder_losses(raw.float(), samples.targets)
    total = total_loss(losses)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return {"loss": total, **losses}


def _optimizer(network: FinderNetwork, settings: FitSettings) -> torch.optim.Optimizer:
    groups = []
    for parameters, rate in (
        (network.encoder_parameters(), settings.encoder_rate),
        (network.decoder_parameters(), settings.rate),
    ):
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decayed]
            groups.append(
                {
                    "params": chosen,
                    "highest": rate,
                    "lr": rate,
                    "weight_decay": settings.weight_decay if decayed else 0.0,
                }
            )
    return torch.optim.AdamW(groups)


def _rate_factor(share: float, warmup: float) -> float:
    if share < warmup:
        return max(0.02, share / warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _share(progress: Progress, settings: FitSettings) -> float:
    if settings.steps is not None:
        return progress.step / settings.steps
    return progress.used_s / (60 * settings.minutes)


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, factor: float) -> None:
    targets = [t for t in averaged.state_dict().values() if t.is_floating_point()]
    values = [t for t in network.state_dict().values() if t.is_floating_point()]
    torch._foreach_lerp_(targets, values, 1 - factor)


def _figures(progress: Progress, sums: dict[str, Tensor], counted: int) -> dict[str, Any]:
    figures = {name: round(float(value) / counted, 4) for name, value in sums.items()}
    if not math.isfinite(figures["loss"]):
        raise DivergedError(f"the loss at step {progress.step} is {figures['loss']}; lower the learning rate")
    rate = round(progress.step / max(progress.used_s, 1e-9), 2)
    return {"step": progress.step, "seconds": round(progress.used_s, 1), "steps_per_s": rate, **figures}


def save_checkpoint(  # noqa: PLR0917
    network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, bank: Bank, progress: Progress,
    folder: Path,
) -> None:  # fmt: skip
    """Write weights, averaged weights, the optimizer's moments and the labels; the old checkpoint is replaced."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    for name, tensor in _moments(optimizer):
        tensors[f"optimizer.{name}"] = tensor
    tensors["labels"] = bank.labels
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{CHECKPOINT}.part"
    save_file(
        {k: v.detach().contiguous().cpu().clone() for k, v in tensors.items()},
        part,
        metadata={"progress": json.dumps(vars(progress))},
    )
    part.replace(folder / CHECKPOINT)


def _resume(
    network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, bank: Bank, folder: Path
) -> Progress:
    from safetensors import safe_open

    path = folder / CHECKPOINT
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
    for prefix, module in (("network.", network), ("averaged.", averaged)):
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    bank.labels.copy_(tensors["labels"])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    for name, tensor in _moments(optimizer):
        tensor.copy_(tensors[f"optimizer.{name}"])
    return progress


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    index = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in sorted(optimizer.state.get(parameter, {}).items()):
                yield f"{index}.{name}", value
            index += 1
