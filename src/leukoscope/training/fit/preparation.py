"""Statistics that are taken from the training cells before training starts."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.training.batches.dataset import CellSet, cell_chances
from leukoscope.training.batches.pixel_source import PLAIN_VIEW, BatchSource, PixelBatchSource
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.head_fit import fit_head
from leukoscope.training.fit.optimizer import Objective
from leukoscope.training.networks.freezing import collect_batch_norm_statistics
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import TrainSettings

_CHOICE = 3
_SMALLEST_STD = 1e-6


@torch.no_grad()
def reestimate_batch_norm(
    network: CellNetwork,
    batch_source: PixelBatchSource,
    rows: NDArray[np.int64],
    settings: TrainSettings,
    callback: TrainingCallback,
) -> None:
    """Replace the backbone's batch-norm statistics by those of some training cells, where the settings ask for it."""
    count = min(settings.batch_norm.reestimate_cells, len(rows))
    if not count:
        return
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, _CHOICE]))
    chosen = rng.permutation(rows)[:count]
    callback.begin("Batch-norm statistics", count)
    momenta = collect_batch_norm_statistics(network)
    size = settings.engine.batch_size
    for begin in range(0, count, size):
        batch = chosen[begin : begin + size]
        if len(batch) > 1:
            network.backbone(batch_source.batch(batch, PLAIN_VIEW).activations)
        callback.advance(len(batch))
    for module, momentum in momenta:
        module.momentum = momentum  # type: ignore[assignment]
    network.eval()
    callback.end()


class Inputs(NamedTuple):
    """The inputs of the heads for some cells."""

    embedding: Tensor
    """(N, D)"""
    descriptors: Tensor | None
    """(N, 9), or None without a descriptor head."""


@torch.no_grad()
def prepare_heads(
    network: CellNetwork,
    batch_source: BatchSource,
    cells: CellSet,
    rows: NDArray[np.int64],
    *,
    settings: TrainSettings,
    callback: TrainingCallback,
) -> None:
    """Set input statistics and the exact fit of the head from the unaugmented training cells, as configured."""
    if not settings.network.standardize_features and network.descriptor_head is None:
        return
    inputs = _gather_inputs(network, batch_source, rows, settings, callback)
    if settings.network.standardize_features:
        network.feature_mean.copy_(inputs.embedding.mean(dim=0))
        network.feature_std.copy_(inputs.embedding.std(dim=0).clamp(min=_SMALLEST_STD))
    if inputs.descriptors is not None:
        network.descriptor_mean.copy_(inputs.descriptors.mean(dim=0))
        network.descriptor_std.copy_(inputs.descriptors.std(dim=0).clamp(min=_SMALLEST_STD))
    if settings.head_fit.penalty:
        labels = torch.from_numpy(cells.labels[rows])
        groups = torch.from_numpy(cells.groups[rows])
        chances = cell_chances(cells, rows, settings.data.sampling)
        loss = fit_head(
            network,
            *inputs,
            labels,
            weights=torch.from_numpy(chances * len(rows)),
            objective=Objective(settings.loss, labels, groups, torch.device("cpu"), cells.classes.size),
            penalty=settings.head_fit.penalty,
        )
        callback.say(f"head fitted on {len(rows)} cells, loss with penalty {loss:.4f}")


def _gather_inputs(
    network: CellNetwork,
    batch_source: BatchSource,
    rows: NDArray[np.int64],
    settings: TrainSettings,
    callback: TrainingCallback,
) -> Inputs:
    network.eval()
    callback.begin("Feature statistics", len(rows))
    embeddings, descriptors = [], []
    for begin in range(0, len(rows), settings.engine.batch_size):
        chosen = rows[begin : begin + settings.engine.batch_size]
        batch = batch_source.batch(chosen, PLAIN_VIEW)
        embeddings.append(network.embed(batch.activations, batch_source.start).double())
        if batch.descriptors is not None:
            descriptors.append(batch.descriptors.double())
        callback.advance(len(chosen))
    callback.end()
    return Inputs(torch.cat(embeddings), torch.cat(descriptors) if descriptors else None)
