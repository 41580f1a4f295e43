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
    """The inputs of the heads for some cells, one view after the other."""

    embedding: Tensor
    """(V * N, D)"""
    descriptors: Tensor | None
    """(V * N, 9), or None without a descriptor head."""

    def rows(self, chosen: NDArray[np.int64]) -> "Inputs":
        """Return some rows."""
        return Inputs(self.embedding[chosen], None if self.descriptors is None else self.descriptors[chosen])


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
    """Set input statistics and the exact fit of the head from the training cells, as configured."""
    if not settings.network.standardize_features and network.descriptor_head is None:
        return
    inputs = gather_inputs(network, batch_source, rows, settings, callback)
    shown = np.tile(rows, 1 + settings.head_fit.views)
    chances = cell_chances(cells, shown, settings.data.sampling)
    set_statistics(network, inputs, torch.from_numpy(chances), settings)
    if settings.head_fit.penalty:
        labels = torch.from_numpy(cells.labels[shown])
        loss = fit_head(
            network,
            *inputs,
            labels,
            weights=torch.from_numpy(chances * len(shown)),
            objective=make_objective(cells, rows, settings),
            penalty=settings.head_fit.penalty,
        )
        callback.say(f"head fitted on {len(rows)} cells, loss with penalty {loss:.4f}")


@torch.no_grad()
def set_statistics(network: CellNetwork, inputs: Inputs, shares: Tensor, settings: TrainSettings) -> None:
    """Set the statistics that standardize the inputs of the heads.

    Parameters
    ----------
    shares
        (N,) weight of each row, of sum 1.
    """
    shares = shares.to(inputs.embedding)
    if settings.network.standardize_features:
        mean, deviation = _moments(inputs.embedding, shares)
        network.feature_mean.copy_(mean)
        network.feature_std.copy_(deviation)
    if inputs.descriptors is not None:
        mean, deviation = _moments(inputs.descriptors, shares)
        network.descriptor_mean.copy_(mean)
        network.descriptor_std.copy_(deviation)


def _moments(values: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    mean = shares @ values
    unbiased = len(values) / max(1, len(values) - 1)
    variance = unbiased * (shares @ (values - mean).square())
    return mean, variance.sqrt().clamp(min=_SMALLEST_STD)


def make_objective(cells: CellSet, rows: NDArray[np.int64], settings: TrainSettings) -> Objective:
    """Return the loss of a fit on some cells."""
    labels, groups = torch.from_numpy(cells.labels[rows]), torch.from_numpy(cells.groups[rows])
    return Objective(settings.loss, labels, groups, torch.device("cpu"), cells.classes.size)


@torch.no_grad()
def gather_inputs(
    network: CellNetwork,
    batch_source: BatchSource,
    rows: NDArray[np.int64],
    settings: TrainSettings,
    callback: TrainingCallback,
) -> Inputs:
    """Return the inputs of the heads for some cells: as they are, then in each view of ``head_fit.views``."""
    network.eval()
    views = (PLAIN_VIEW, *range(settings.head_fit.views))
    absent = sum(batch_source.count_absent(rows, view) for view in views)
    callback.begin("Features", len(views) * len(rows) if absent else 0)
    embeddings, descriptors = [], []
    for view in views:
        for begin in range(0, len(rows), settings.engine.batch_size):
            chosen = rows[begin : begin + settings.engine.batch_size]
            batch = batch_source.batch(chosen, view)
            embeddings.append(network.embed(batch.activations, batch_source.start).double())
            if batch.descriptors is not None:
                descriptors.append(batch.descriptors.double())
            if absent:
                callback.advance(len(chosen))
    callback.end()
    return Inputs(torch.cat(embeddings), torch.cat(descriptors) if descriptors else None)
