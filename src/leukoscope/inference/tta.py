"""Rotation averaging: a cell has no upright, so its answer may be averaged over turned copies."""

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.canvas import rotate_quarter
from leukoscope.models.session import ForwardResult

TURNS = (1, 4, 8)
"""Nothing; the quarter rotations; these and their mirror images: the symmetries of the square, exact on pixels."""


def turn_cell(cell: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Return the turned copies of one prepared cell.

    Parameters
    ----------
    cell
        uint8 (S, S, 3).
    turns
        1, 4 or 8.

    Returns
    -------
    numpy.ndarray
        uint8 (turns, S, S, 3); the first is the cell itself, from the fifth on they are mirrored first.
    """
    if turns == 1:
        return cell[None]
    mirrored = np.ascontiguousarray(cell[:, ::-1])
    return np.stack([rotate_quarter(cell if turn < 4 else mirrored, turn % 4) for turn in range(turns)])


def join_turned(forward: ForwardResult, turns: int) -> ForwardResult:
    """Average the outputs of turned copies; the maps are turned back before.

    Parameters
    ----------
    forward
        Outputs for N x ``turns`` cells, the copies of one cell adjacent.
    turns
        1, 4 or 8.

    Returns
    -------
    ForwardResult
        For N cells. The map is the mean of the copies' Grad-CAM maps.
    """
    if turns == 1:
        return forward
    count = len(forward.logits) // turns
    maps = forward.activation_map.reshape(count, turns, *forward.activation_map.shape[1:])
    upright = []
    for turn in range(turns):
        back = np.rot90(maps[:, turn], -(turn % 4), axes=(-2, -1))
        upright.append(back if turn < 4 else back[..., ::-1])
    return ForwardResult(
        forward.logits.reshape(count, turns, -1).mean(axis=1, dtype=np.float32),
        forward.embedding.reshape(count, turns, -1).mean(axis=1, dtype=np.float32),
        np.mean(np.stack(upright), axis=0, dtype=np.float32),
    )
