"""Forward skips whole parts, cell-level figures of them, and failures of memory in plain words."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from leukoscope.core.errors import TrainingError
from leukoscope.stats.metrics import class_auc, roc_auc
from leukoscope.training.batches.pixel_source import PLAIN_VIEW, BatchSource
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.networks.network import CellNetwork


def predict_rows(
    fabric: Fabric,
    network: CellNetwork,
    batch_source: BatchSource,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    callback: TrainingCallback | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N, K) and embeddings (N, D) of unchanged cells, computed by all processes together.

    Two classes have one logit, (N, 1).
    """
    network.eval()
    logits = torch.zeros(len(rows), network.outputs, device=fabric.device)
    embeddings = torch.zeros(len(rows), network.embedding_width, device=fabric.device)
    mine = np.arange(fabric.global_rank, len(rows), fabric.world_size)
    with torch.no_grad(), fabric.autocast():
        for begin in range(0, len(mine), batch_size):
            places = mine[begin : begin + batch_size]
            batch = batch_source.batch(rows[places], PLAIN_VIEW)
            embedding = network.embed(batch.activations, batch_source.start)
            output = network.classify(network.standardize(embedding), batch.descriptors)
            logits[places], embeddings[places] = output.float(), embedding.float()
            if callback is not None:
                callback.advance(len(places))
    if fabric.world_size > 1:
        logits = torch.as_tensor(fabric.all_reduce(logits, reduce_op="sum"))
        embeddings = torch.as_tensor(fabric.all_reduce(embeddings, reduce_op="sum"))
    return logits.cpu().numpy(), embeddings.cpu().numpy()


@contextmanager
def explain_failures(batch_size: int) -> Iterator[None]:
    """Turn the many ways of running out of memory into one ``TrainingError``."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        about_memory = "memory" in text.lower() and "alloc" in text.lower()
        if not about_memory and not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        raise TrainingError(
            f"out of memory at batch_size = {batch_size}; lower engine.batch_size or network.input_px "
            f"({text.splitlines()[0] if text else type(error).__name__})"
        ) from None


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Return the share of cells whose likeliest class is the true one; by cell; logits (N, K) or (N, 1)."""
    likeliest = (logits[:, 0] >= 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((likeliest == labels.astype(np.int64)).mean())


def area_under_curve(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float | None:
    """Return the area under the ROC curve by cell, of more classes the mean over each against the rest.

    None with a single class; a class without cells is left out.
    """
    if len(np.unique(labels)) < 2:
        return None
    classes = labels.astype(np.int64)
    if logits.shape[1] == 1:
        return float(roc_auc(classes, logits[:, 0]))
    return float(np.nanmean(class_auc(classes, logits)))
