"""State of one training: the data, the progress of the model, and the current stage."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.training.fit.optimizer import AveragedWeights, Objective
from leukoscope.training.networks.network import CellNetwork


@dataclass(frozen=True)
class Task:
    """What one model is trained on.

    Parameters
    ----------
    name
        ``final`` or ``inner-<number>``.
    train, validation
        Row numbers; validation may be empty, then there is no early stopping.
    folder
        For checkpoints and caches.
    epochs
        Epochs of each stage that is run, instead of the settings'; then every one of them is run.
    """

    name: str
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    folder: Path
    epochs: tuple[int, ...] | None = None


@dataclass
class TrainingState:
    """Progress of a model; a checkpoint records it together with the tensors.

    ``seconds`` is what training took so far, over all calls; ``recalled``, whether kept embeddings spared it a part.
    """

    stage: int = 0
    epoch: int = 0
    total: int = 0
    best_loss: float | None = None
    best_epoch: int = 0
    best_file: str | None = None
    stale: int = 0
    best_epochs: list[int] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    recalled: bool = False


@dataclass
class Running:
    """A stage under way."""

    number: int
    epochs: int
    select: bool
    optimizer: Any
    module: Any
    objective: Objective
    average: AveragedWeights | None


class Trainee(nn.Module):
    """What Fabric wraps: the trained part of the network, from activations to logits."""

    def __init__(self, network: CellNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, activations: Tensor, descriptors: Tensor | None, start: int) -> Tensor:
        """Return the logits (B, K), or (B, 1) of two classes."""
        features = self.network.standardize(self.network.embed(activations, start))
        return self.network.classify(features, descriptors)
