"""The state of a training after an epoch, in one safetensors file that is replaced as a whole.

Randomness needs no place in it: every epoch seeds itself from the run's seed and its number.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leukoscope.core.errors import TrainingError, UsageError, WeightsError
from leukoscope.core.io import file_sha256, replacing
from leukoscope.data.table import read_classes
from leukoscope.training.networks.network import CellNetwork, outputs_of
from leukoscope.training.pixel_statistics import why_not_of_weights
from leukoscope.training.recipe import read_settings
from leukoscope.training.weights.loading import check_tensors, read_tensors

LAST = "last.safetensors"
FINAL = "final.safetensors"
_RECORD = "record"
_BASE = "base"
"""Key of the record of a file that holds only what differs from another file: the other's path and SHA-256."""


def write_tensors(path: Path, tensors: dict[str, Tensor], record: dict[str, Any] | None = None) -> None:
    """Write tensors and a JSON record; an interrupted write leaves the old file in place."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={_RECORD: json.dumps(record or {})})
        with part.open("rb") as file:
            os.fsync(file.fileno())


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON record of a file of ``write_tensors``."""
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {}).get(_RECORD, "{}"))
            return record
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(
            f"{path}: damaged checkpoint ({error}); delete it to start this model again"
        ) from None


def read_state(path: Path) -> dict[str, Any]:
    """Return the fields of ``TrainingState`` that a checkpoint was written with."""
    return {name: value for name, value in read_record(path).items() if name != _BASE}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's moments as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        # A fused step needs moments in the same memory layout as their parameter.
        same = tensor.shape == parameter.shape
        laid = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if same else tensor
        state.setdefault(int(index), {})[name] = laid
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)


def read_sections(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read tensors named ``section/name`` into one mapping a section."""
    sections: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        section, _, name = key.partition("/")
        sections.setdefault(section, {})[name] = tensor
    return sections


def load_final(network: CellNetwork, path: Path) -> None:
    """Fill a network with the tensors of a finished model.

    Raises
    ------
    WeightsError
        No such file, its tensors are not the network's, or the file that it completes is another one now.
    """
    tensors = _read_whole(path)
    check_tensors(network.state_dict(), tensors, str(path))
    scale, shift = (tensors[name].flatten().tolist() for name in ("pixel_scale", "pixel_shift"))
    if reason := why_not_of_weights(scale, shift):
        raise WeightsError(
            f"{path}: the pixel statistics of these weights do not match: {reason}; train again"
        )
    network.load_state_dict(tensors, strict=True)


def shrink(paths: Iterable[Path], base: Path) -> None:
    """Rewrite finished models without the tensors that equal those of ``base``, a frozen backbone's for instance.

    ``load_final`` puts both together again; ``base`` must stay where it is.
    """
    records = {path: record for path in paths if _BASE not in (record := read_record(path))}
    if not records:
        return
    others, digest = load_file(base), file_sha256(base)
    for path, record in records.items():
        kept = {
            name: tensor
            for name, tensor in load_file(path).items()
            # torch.equal is False for other shapes
            if name not in others or not torch.equal(tensor, others[name])
        }
        record[_BASE] = {"path": os.path.relpath(base, path.parent), "sha256": digest}
        write_tensors(path, kept, record)


def _read_whole(path: Path) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    base = read_record(path).get(_BASE)
    if base is None:
        return tensors
    other = path.parent / base["path"]
    if not other.is_file() or file_sha256(other) != base["sha256"]:
        raise WeightsError(
            f"{path}: holds only what differs from {other}, which is missing or no longer the same; train again"
        )
    return {**read_tensors(other), **tensors}


def load_trained(run: Path) -> CellNetwork:
    """Return the trained network of a finished run, in evaluation mode.

    Raises
    ------
    UsageError
        The folder is not a run.
    WeightsError
        The run is not finished, or its checkpoint does not fit its configuration.
    """
    if not (run / "config.toml").is_file():
        raise UsageError(
            f"{run}: not a run folder (no config.toml); give a folder that 'leukoscope train' wrote"
        )
    settings = read_settings(run / "config.toml")
    path = run / "checkpoints" / FINAL
    if not path.is_file():
        raise WeightsError(
            f"{run}: training is not finished; resume it with 'leukoscope train --resume {run}'"
        )
    network = CellNetwork(settings.network, outputs_of(read_classes(run / "cells.csv")))
    load_final(network, path)
    return network.eval()
