"""Choose the penalty of the exact head fit on held-out subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.training.batches.dataset import CellSet, cell_chances
from leukoscope.training.batches.pixel_source import BatchSource
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.head_fit import HeadProblem, head_inputs
from leukoscope.training.fit.optimizer import class_losses
from leukoscope.training.fit.preparation import gather_inputs, make_objective, set_statistics
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import TrainSettings


@dataclass(frozen=True)
class PenaltyChoice:
    """The penalties that were tried and what became of them.

    Attributes
    ----------
    penalty
        The one with the lowest loss.
    losses
        Penalty and log-loss in nats over held-out cells, classes and the subjects within them of the same weight.
    """

    penalty: float
    losses: tuple[tuple[float, float], ...]


@torch.no_grad()
def choose_penalty(
    network: CellNetwork,
    batch_source: BatchSource,
    cells: CellSet,
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    settings: TrainSettings,
    callback: TrainingCallback,
) -> PenaltyChoice:
    """Fit the head with every penalty on every fold's training cells and compare the losses of those held out.

    Parameters
    ----------
    network
        With a frozen backbone; its statistics of the inputs are changed.
    folds
        Rows of training and of held-out cells.
    """
    rows = np.unique(np.concatenate([held_out for _, held_out in folds]))
    inputs = gather_inputs(network, batch_source, rows, settings, callback)
    views, count = 1 + settings.head_fit.views, len(rows)
    labels = torch.from_numpy(cells.labels)
    penalties = sorted(settings.head_fit.penalties)
    losses = np.zeros((len(penalties), count))
    callback.begin("Choice of the penalty", len(folds) * len(penalties))
    for train, held_out in folds:
        places, tested = np.searchsorted(rows, train), np.searchsorted(rows, held_out)
        shown = np.tile(train, views)
        chances = cell_chances(cells, shown, settings.data.sampling)
        fitted = inputs.rows(np.concatenate([places + view * count for view in range(views)]))
        set_statistics(network, fitted, torch.from_numpy(chances), settings)
        known, unknown = head_inputs(network, *fitted), head_inputs(network, *inputs.rows(tested))
        problem = HeadProblem(
            known,
            labels[shown],
            weights=torch.from_numpy(chances * len(shown)),
            objective=make_objective(cells, train, settings),
        )
        for number, penalty in enumerate(penalties):
            solution, _ = problem.solve(penalty)
            of_class = class_losses(unknown @ solution[:-1] + solution[-1])
            own = of_class.gather(1, labels[held_out].long().unsqueeze(1))[:, 0]
            losses[number, tested] = own.numpy()
            callback.advance(1)
    callback.end()
    means = losses @ cell_chances(cells, rows, "subject")
    found = tuple((penalty, float(mean)) for penalty, mean in zip(penalties, means, strict=True))
    best = min(found, key=lambda pair: pair[1])[0]
    shown_losses = ", ".join(f"{penalty:g}: {loss:.4f}" for penalty, loss in sorted(found))
    callback.say(f"penalty {best:g} chosen on held-out subjects (log-loss by penalty: {shown_losses})")
    return PenaltyChoice(best, tuple(sorted(found)))
