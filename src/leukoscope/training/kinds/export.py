"""The network of the kinds as the graph of a bundle: groups of kinds as classes, with Grad-CAM from the same pass."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leukoscope.core.errors import WeightsError
from leukoscope.training.export import write_graph
from leukoscope.training.kinds.classes import NAMES, class_members
from leukoscope.training.kinds.network import KindsNetwork

_ABSENT = -1.0e4  # log weight of a kind in a class that it does not belong to


class ClassGraph(nn.Module):
    """From uint8 crops to logits of classes, embedding and activation maps.

    A class is a set of kinds. Its logit is the log-sum-exp of theirs, so that the softmax over classes gives each the
    summed probability of its kinds. The gradient of that logit by the embedding is the mean of the kinds' weights, each
    counting by its share within the class; divided by the number of map cells these are the weights of Grad-CAM.

    Parameters
    ----------
    network
        In float32.
    members
        Positions of the kinds of each class; every kind in one class.
    """

    members: Tensor

    def __init__(self, network: KindsNetwork, members: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.network = network
        table = torch.zeros(len(members), len(NAMES))
        for row, kinds in enumerate(members):
            table[row, list(kinds)] = 1.0
        if not torch.equal(table.sum(dim=0), torch.ones(len(NAMES))):
            raise ValueError("every kind has to belong to one class")
        self.register_buffer("members", table)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, C), embedding (N, D) and activation maps (N, C, h, w) of cells uint8 (N, S, S, 3)."""
        maps = self.network.feature_maps(cells.permute(0, 3, 1, 2).float() / 255.0)
        embedding = maps.mean((2, 3))
        kinds = self.network.head(embedding)[:, None, :] + (1.0 - self.members) * _ABSENT
        logits = torch.logsumexp(kinds, dim=2)
        shares = (kinds - logits[:, :, None]).exp() * self.members
        weights = shares @ self.network.head.weight
        height, width = maps.shape[2:]
        activation = torch.relu(weights @ maps.flatten(2)) / float(height * width)
        return logits, embedding, activation.reshape(-1, len(self.members), height, width)


def read_weights(path: Path) -> tuple[KindsNetwork, dict[str, Any]]:
    """Read trained weights with their record (recipe, kinds, input_px, steps).

    Raises
    ------
    WeightsError
        The file is missing, is of other kinds, or does not fit its architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("record", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path}: no readable weights ({error}); train them with a study of kinds"
        ) from None
    if tuple(record.get("kinds", ())) != NAMES:
        raise WeightsError(f"{path}: weights of the kinds {record.get('kinds')}, expected {', '.join(NAMES)}")
    network = KindsNetwork(record["recipe"]["arch"])
    whole = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    try:
        network.load_state_dict(whole, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit {record['recipe']['arch']}: {error}") from None
    return network.eval(), record


def export_kinds(
    network: KindsNetwork, path: Path, input_px: int, weights_dtype: Literal["float16", "float32"] = "float16"
) -> dict[str, list[dict[str, Any]]]:
    """Write the graph of a bundle; ``weights_dtype`` and what is returned are those of ``export_onnx``."""
    graph = ClassGraph(network, class_members()).eval()
    example = torch.from_numpy(np.zeros((2, input_px, input_px, 3), np.uint8))
    return write_graph(graph, example, path, weights_dtype)


def count_flops(network: KindsNetwork, input_px: int) -> float:
    """Return the floating-point operations of one cell, Grad-CAM included; a multiply-add counts as two."""
    cells = torch.zeros(1, input_px, input_px, 3, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ClassGraph(network, class_members()).eval()(cells)
    return float(counter.get_total_flops())
