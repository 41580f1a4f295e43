"""Scores of a trained network: logit and embedding of every cell, averaged over views where wanted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from lightning_fabric import Fabric
from numpy.typing import NDArray

from leukoscope.data.table import logit_columns
from leukoscope.training.batches.dataset import CellSet
from leukoscope.training.batches.pixel_source import BatchSource
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.prediction import predict_rows
from leukoscope.training.networks.network import CellNetwork


def score_rows(
    fabric: Fabric,
    network: CellNetwork,
    rows: NDArray[np.int64],
    *,
    views: Sequence[BatchSource],
    batch_size: int,
    callback: TrainingCallback,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N, K), of two classes (N, 1), and embeddings (N, D), both the mean over the views.

    Parameters
    ----------
    views
        A batch source for each view.
    batch_size
        Of a forward pass.
    """
    logits = np.zeros((len(rows), network.outputs))
    embeddings = np.zeros((len(rows), network.embedding_width))
    callback.begin("Scoring", len(rows) * len(views))
    for view in views:
        view_logits, view_embeddings = predict_rows(
            fabric, network, view, rows, batch_size=batch_size, callback=callback
        )
        logits += view_logits
        embeddings += view_embeddings
    callback.end()
    return (logits / len(views)).astype(np.float32), (embeddings / len(views)).astype(np.float32)


def score_table(
    cells: CellSet, rows: NDArray[np.int64], part: str, inner_fold: str, logits: NDArray[np.float32]
) -> pd.DataFrame:
    """Return rows of ``scores.csv``: one column ``logit`` for two classes, else ``logit_<class>`` for each."""
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
            **dict(zip(logit_columns(cells.classes), logits.T, strict=True)),
        }
    )
