"""Scores of a trained network: logit and embedding of every cell, averaged over views where wanted."""

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from leukoscope.training.dataset import CellSet
from leukoscope.training.feeding import PLAIN_VIEW, Batch, Feeder, PixelFeeder
from leukoscope.training.listening import Listener
from leukoscope.training.network import CellNetwork
from leukoscope.training.prediction import predict_rows
from leukoscope.training.settings import ScoreSettings


class TurnedFeeder(PixelFeeder):
    """Feeds cells turned by quarters and mirrored: exact changes of the pixels, for averaging."""

    def __init__(self, pixels: PixelFeeder, quarters: int, mirrored: bool) -> None:
        self.__dict__.update(pixels.__dict__)
        self._quarters, self._mirrored = quarters, mirrored

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells, turned."""
        whole = super().batch(rows, PLAIN_VIEW)
        images = torch.rot90(whole.activations, self._quarters, dims=(2, 3))
        if self._mirrored:
            images = images.flip(3)
        images = images.contiguous(memory_format=torch.channels_last)
        descriptors = whole.descriptors
        if descriptors is not None and self._quarters % 2:
            descriptors = descriptors[:, [0, 2, 1, *range(3, 9)]]  # height and width change places
        return Batch(images, descriptors)


def score_rows(
    fabric: Fabric,
    network: CellNetwork,
    rows: NDArray[np.int64],
    *,
    feeder: Feeder,
    pixels: PixelFeeder,
    settings: ScoreSettings,
    listener: Listener,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N,) and embeddings (N, D), both the mean over the views.

    Parameters
    ----------
    feeder
        Gives the unturned view; an ``ActivationFeeder`` saves the frozen part.
    pixels
        Gives the turned ones.
    settings
        Number of views.
    """
    views: list[Feeder] = [feeder]
    for number in range(1, settings.tta):
        views.append(TurnedFeeder(pixels, number % 4, number >= 4))
    logits, embeddings = np.zeros(len(rows)), np.zeros((len(rows), network.embedding_width))
    listener.begin("Scoring", len(rows) * len(views))
    for view in views:
        view_logits, view_embeddings = predict_rows(
            fabric, network, view, rows, batch_size=settings.batch_size, listener=listener
        )
        logits += view_logits
        embeddings += view_embeddings
    listener.end()
    return (logits / len(views)).astype(np.float32), (embeddings / len(views)).astype(np.float32)


def score_table(
    cells: CellSet, rows: NDArray[np.int64], part: str, inner_fold: str, logits: NDArray[np.float32]
) -> pd.DataFrame:
    """Return rows of ``scores.csv``."""
    chosen = cells.table.iloc[rows]
    return pd.DataFrame(
        {
            "cell": chosen["cell"].to_numpy(),
            "sha256": chosen["sha256"].to_numpy(),
            "subject": chosen["subject"].to_numpy(),
            "group": chosen["group"].to_numpy(),
            "fold": chosen["fold"].to_numpy(),
            "part": part,
            "inner_fold": inner_fold,
            "label": cells.labels[rows].astype(np.int64),
            "logit": logits,
        }
    )
