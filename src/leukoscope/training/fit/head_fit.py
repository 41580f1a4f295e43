"""Fit the linear head on a frozen backbone exactly: a penalized logistic regression."""

import torch
from torch import Tensor, nn

from leukoscope.core.errors import TrainingError
from leukoscope.training.fit.optimizer import Objective
from leukoscope.training.networks.network import CellNetwork, LinearHead

MOST_STEPS = 500
SMALLEST_GRADIENT = 1e-7
LARGEST_CURVATURE = 0.25
"""Of the logistic loss, in the log-odds."""


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
    layers: list[nn.Linear] = [head.dense]
    if network.descriptor_head is not None and descriptors is not None:
        layers.append(network.descriptor_head)
    problem = HeadProblem(
        head_inputs(network, embedding, descriptors), labels, weights=weights, objective=objective
    )
    solution, loss = problem.solve(penalty)
    _fill(layers, solution)
    return loss


def head_inputs(network: CellNetwork, embedding: Tensor, descriptors: Tensor | None) -> Tensor:
    """Return the standardized inputs of the heads, float64 (N, inputs), on the processor."""
    parts = [network.standardize(embedding)]
    if network.descriptor_head is not None and descriptors is not None:
        parts.append(network.expand(descriptors))
    return torch.cat([part.double().cpu() for part in parts], dim=1)


class HeadProblem:
    """A penalized logistic regression of some cells, for one or several penalties.

    The inputs are turned into their principal directions, and each direction is scaled by its curvature: in these
    coordinates the minimum is the same and the solver needs some dozen steps instead of hundreds.

    Parameters
    ----------
    inputs
        float64 (N, inputs), standardized.
    labels, weights, objective
        See ``fit_head``.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, *, weights: Tensor, objective: Objective) -> None:
        self._labels, self._weights = labels.double().cpu(), weights.double().cpu()
        self._objective = objective
        gram = (inputs * self._weights.unsqueeze(1)).T @ inputs / len(inputs)
        variances, self._directions = torch.linalg.eigh(gram)
        self._curvature = variances.clamp(min=0.0) * LARGEST_CURVATURE
        self._turned = inputs @ self._directions

    def solve(self, penalty: float) -> tuple[Tensor, float]:
        """Return the solution (inputs + 1, outputs), the intercept last, and the loss with its penalty.

        Raises
        ------
        TrainingError
            The loss is not finite.
        """
        outputs = 1 if self._objective.size == 2 else self._objective.size
        scale = (self._curvature + penalty).rsqrt().unsqueeze(1)
        scaled = self._turned * scale.T
        solution = torch.zeros(len(scale) + 1, outputs, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS(
            [solution],
            max_iter=MOST_STEPS,
            history_size=20,
            tolerance_grad=SMALLEST_GRADIENT,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            losses = self._objective.cell_losses(scaled @ solution[:-1] + solution[-1], self._labels)
            value: Tensor = (losses * self._weights).mean()
            penalized: Tensor = value + 0.5 * penalty * (scale * solution[:-1]).square().sum()
            return penalized

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
        weights = self._directions @ (scale * solution[:-1].detach())
        return torch.cat([weights, solution[-1:].detach()]), final


@torch.no_grad()
def _fill(layers: list[nn.Linear], solution: Tensor) -> None:
    start = 0
    for layer in layers:
        stop = start + layer.in_features
        layer.weight.copy_(solution[start:stop].T)
        start = stop
    layers[0].bias.copy_(solution[-1])
