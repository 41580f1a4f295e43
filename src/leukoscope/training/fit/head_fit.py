"""Fit the linear head on a frozen backbone exactly: a penalized logistic regression."""

import torch
from torch import Tensor, nn

from leukoscope.core.errors import TrainingError
from leukoscope.training.fit.optimizer import Objective
from leukoscope.training.networks.network import CellNetwork, LinearHead

MOST_STEPS = 500
SMALLEST_GRADIENT = 1e-7


def fit_head(
    network: CellNetwork,
    embedding: Tensor,
    descriptors: Tensor | None,
    labels: Tensor,
    *,
    weights: Tensor,
    objective: Objective,
    penalty: float,
) -> float:
    """Set the head's weights to the minimum of mean loss + penalty / 2 * (sum of squared weights); returns the loss.

    The intercept is not penalized. The problem is convex, so that neither a seed nor a learning rate plays a part.

    Parameters
    ----------
    network
        With its feature and descriptor statistics set; only its heads are changed.
    embedding
        (N, D), of the training cells.
    descriptors
        (N, 9), for a descriptor head.
    labels
        (N,), the number of each cell's class.
    weights
        (N,), how often each cell counts; mean 1.
    objective
        The loss of a cell: smoothing and class weights are the run's.
    penalty
        Above 0.

    Raises
    ------
    TrainingError
        The loss is not finite.
    """
    head = network.head
    if not isinstance(head, LinearHead):
        raise TypeError("only a linear head can be fitted exactly")
    parts = [network.standardize(embedding)]
    layers: list[nn.Linear] = [head.dense]
    if network.descriptor_head is not None and descriptors is not None:
        parts.append(network.expand(descriptors))
        layers.append(network.descriptor_head)
    inputs = torch.cat([part.double().cpu() for part in parts], dim=1)
    labels, weights = labels.double().cpu(), weights.double().cpu()
    solution = torch.zeros(inputs.shape[1] + 1, network.outputs, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [solution],
        max_iter=MOST_STEPS,
        history_size=20,
        tolerance_grad=SMALLEST_GRADIENT,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        losses = objective.cell_losses(inputs @ solution[:-1] + solution[-1], labels)
        value: Tensor = (losses * weights).mean() + 0.5 * penalty * solution[:-1].square().sum()
        return value

    def evaluate() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(evaluate)  # type: ignore[no-untyped-call]
    final = float(loss().detach())
    if not torch.isfinite(solution).all():
        raise TrainingError("the fit of the head did not end in finite weights; raise head_fit.penalty")
    _fill(layers, solution.detach())
    return final


@torch.no_grad()
def _fill(layers: list[nn.Linear], solution: Tensor) -> None:
    start = 0
    for layer in layers:
        stop = start + layer.in_features
        layer.weight.copy_(solution[start:stop].T)
        start = stop
    layers[0].bias.copy_(solution[-1])
