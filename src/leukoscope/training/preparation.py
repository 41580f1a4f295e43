"""Statistics that are taken from the training cells before training starts."""

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.training.feeding import PLAIN_VIEW, Feeder, PixelFeeder
from leukoscope.training.freezing import collect_batch_norm_statistics
from leukoscope.training.listening import Listener
from leukoscope.training.network import CellNetwork
from leukoscope.training.settings import TrainSettings

_CHOICE = 3
_SMALLEST_STD = 1e-6


@torch.no_grad()
def reestimate_batch_norm(
    network: CellNetwork,
    feeder: PixelFeeder,
    rows: NDArray[np.int64],
    settings: TrainSettings,
    listener: Listener,
) -> None:
    """Replace the backbone's batch-norm statistics by those of some training cells, where the settings ask for it."""
    count = min(settings.batch_norm.reestimate_cells, len(rows))
    if not count:
        return
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, _CHOICE]))
    chosen = rng.permutation(rows)[:count]
    listener.begin("Batch-norm statistics", count)
    momenta = collect_batch_norm_statistics(network)
    size = settings.engine.batch_size
    for begin in range(0, count, size):
        batch = chosen[begin : begin + size]
        if len(batch) > 1:
            network.backbone(feeder.batch(batch, PLAIN_VIEW).activations)
        listener.advance(len(batch))
    for module, momentum in momenta:
        module.momentum = momentum  # type: ignore[assignment]
    network.eval()
    listener.end()


@torch.no_grad()
def standardise_inputs(
    network: CellNetwork, feeder: Feeder, rows: NDArray[np.int64], settings: TrainSettings, listener: Listener
) -> None:
    """Set the feature and descriptor statistics from the unchanged training cells, where the network uses them."""
    wants_features = settings.network.standardise_features
    if not wants_features and network.descriptor_head is None:
        return
    network.eval()
    listener.begin("Feature statistics", len(rows))
    embeddings, descriptors = [], []
    for begin in range(0, len(rows), settings.engine.batch_size):
        batch = feeder.batch(rows[begin : begin + settings.engine.batch_size], PLAIN_VIEW)
        if wants_features:
            embeddings.append(network.embed(batch.activations, feeder.start).double())
        if batch.descriptors is not None:
            descriptors.append(batch.descriptors.double())
        listener.advance(min(settings.engine.batch_size, len(rows) - begin))
    if embeddings:
        joined = torch.cat(embeddings)
        network.feature_mean.copy_(joined.mean(dim=0))
        network.feature_std.copy_(joined.std(dim=0).clamp(min=_SMALLEST_STD))
    if descriptors:
        joined = torch.cat(descriptors)
        network.descriptor_mean.copy_(joined.mean(dim=0))
        network.descriptor_std.copy_(joined.std(dim=0).clamp(min=_SMALLEST_STD))
    listener.end()
