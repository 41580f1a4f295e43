"""The most similar cells to a cell, as the network sees them: nearest neighbors among embeddings."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import UsageError
from leukoscope.inference.cells import Prediction


class Neighbor(NamedTuple):
    """A reference cell near the one that was asked about.

    Attributes
    ----------
    row
        Its place among the reference cells.
    distance
        Cosine distance of the embeddings, 0 (same direction) to 2.
    """

    row: int
    distance: float


class NeighborIndex:
    """Reference cells in the embedding space of one bundle; every question compares with all of them.

    Parameters
    ----------
    embeddings
        (N, D), finite, no row of zeros.
    subjects
        The subject of each row, so that cells of the same subject can be left out; None if unknown.

    Raises
    ------
    UsageError
        The shapes do not fit, or a row has no direction.
    """

    def __init__(self, embeddings: ArrayLike, subjects: Sequence[str | None] | None = None) -> None:
        values = np.asarray(embeddings, dtype=np.float32)
        if values.ndim != 2 or not len(values):
            raise UsageError(f"embeddings of shape {values.shape}: expected (N, D) with at least one cell")
        self.subjects = list(subjects) if subjects is not None else [None] * len(values)
        if len(self.subjects) != len(values):
            raise UsageError(f"{len(self.subjects)} subjects for {len(values)} embeddings: give one each")
        self._directions = _directions(values)

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Self:
        """Index classified cells; a prediction without an embedding (rejected by an input check) is an error."""
        missing = [one.result.source for one in predictions if one.embedding is None]
        if missing:
            raise UsageError(f"{missing[0]}: has no embedding, because it was refused; leave such images out")
        embeddings = [one.embedding for one in predictions if one.embedding is not None]
        return cls(np.array(embeddings), [one.result.subject for one in predictions])

    def nearest(
        self, embedding: ArrayLike, count: int = 5, *, without_subjects: Collection[str] = ()
    ) -> list[Neighbor]:
        """Return the nearest reference cells, the nearest first.

        Parameters
        ----------
        embedding
            (D,)
        count
            At most this many.
        without_subjects
            Subjects whose cells are skipped, for instance the subject of the query cell.
        """
        values = np.asarray(embedding, dtype=np.float32)
        width = self._directions.shape[1]
        if values.shape != (width,):
            raise UsageError(f"an embedding of shape {values.shape}: expected ({width},), of the same bundle")
        distances = 1 - self._directions @ _directions(values[None])[0]
        order = np.argsort(distances, kind="stable")
        kept = [row for row in order.tolist() if self.subjects[row] not in without_subjects]
        return [Neighbor(row, max(0.0, float(distances[row]))) for row in kept[:count]]


def _directions(values: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise UsageError("an embedding is zero or not finite, so that it has no direction; verify the bundle")
    return np.asarray(values / lengths, dtype=np.float32)
