"""Parameter groups, learning rates, averaged weights, the loss."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import LossSettings, OptimizerSettings, StageSettings


def make_optimizer(
    network: CellNetwork, stage: StageSettings, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Return the optimizer of a stage, with one parameter group for each learning rate and decay.

    The head has the stage's rate; each backbone stage has ``layer_decay`` times that of the one behind it. Biases and
    norms (vectors) are never decayed.
    """
    scale = _learning_rate_scales(network, settings.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale.get(name, 1.0), decay), []).append(parameter)
    entries = [
        {
            "params": parameters,
            "lr": stage.learning_rate * factor,
            "peak": stage.learning_rate * factor,
            "weight_decay": decay,
        }
        for (factor, decay), parameters in groups.items()
    ]
    # Fused: one pass over a tensor instead of nine, which was a third of a step that trains the last layers on a CPU.
    # On a GPU torch is fast without it, and gradients that were scaled for 16 bits could not be clipped.
    fused = True if next(network.parameters()).device.type == "cpu" else None
    if settings.name == "sgd":
        return torch.optim.SGD(entries, lr=stage.learning_rate, momentum=0.9, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(entries, lr=stage.learning_rate, fused=fused)


def _learning_rate_scales(network: CellNetwork, layer_decay: float) -> dict[str, float]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    ends = [stage.last_unit for stage in network.backbone.stages]
    scales = {}
    for index, unit in enumerate(network.backbone.units):
        stage = next((number for number, end in enumerate(ends) if index <= end), len(ends) - 1)
        for parameter in unit.parameters():
            scales[names[parameter]] = layer_decay ** (len(ends) - stage)
    return scales


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, progress: float, warmup: float
) -> float:
    """Set every group's rate for a moment of the stage; returns the largest.

    Parameters
    ----------
    progress
        Share of the stage that is behind, 0 to 1.
    warmup
        Share of the stage that is warm-up, 0 to 1.
    """
    if progress < warmup:
        factor = progress / warmup
    elif settings.schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / max(1.0 - warmup, 1e-9)))
    else:
        factor = 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


class AveragedWeights:
    """Exponential moving average of all trained tensors.

    Parameters
    ----------
    network
        Its trainable parameters and batch-norm statistics are followed.
    decay
        A step; early steps use (1 + n) / (10 + n) where that is less, so that the start is forgotten.
    """

    def __init__(self, network: CellNetwork, decay: float) -> None:
        self.decay, self.steps = decay, 0
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.tensors = {
            name: tensor.detach().clone()
            for name, tensor in network.state_dict().items()
            if name in trained or name.endswith(("running_mean", "running_var"))
        }

    @torch.no_grad()
    def update(self, network: CellNetwork) -> None:
        """Follow the network by one step."""
        self.steps += 1
        decay = min(self.decay, (1.0 + self.steps) / (10.0 + self.steps))
        state = network.state_dict()
        for name, tensor in self.tensors.items():
            tensor.lerp_(state[name], 1.0 - decay)

    @torch.no_grad()
    def swap(self, network: CellNetwork) -> None:
        """Exchange the averaged and the network's tensors; a second call undoes the first."""
        state = network.state_dict()
        for name, tensor in self.tensors.items():
            kept = state[name].clone()
            state[name].copy_(tensor)
            tensor.copy_(kept)


def with_two_logits(logits: Tensor) -> Tensor:
    """Return logits (B, K) in 32 bits or more; the log-odds z of two classes, (B, 1) or (B,), become [0, z]."""
    values = logits if logits.dtype == torch.float64 else logits.float()
    if values.ndim == 1:
        values = values.unsqueeze(1)
    return functional.pad(values, (1, 0)) if values.shape[1] == 1 else values


def class_losses(logits: Tensor) -> Tensor:
    """Return the loss of each cell for each class it might have, (B, K): -log of its softmax.

    Written as log(1 + exp(others - own)), which keeps its digits where a class is nearly certain: the usual form ends
    at 0 there, and later epochs would all be equally good. Of one logit it is torch's binary cross-entropy, to the bit.
    """
    values = with_two_logits(logits)
    if logits.ndim == 1 or logits.shape[1] == 1:
        log_odds = values[:, 1]
        both = (torch.full_like(log_odds, target) for target in (0.0, 1.0))
        entropy = functional.binary_cross_entropy_with_logits
        return torch.stack([entropy(log_odds, target, reduction="none") for target in both], dim=1)
    size = values.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=values.device)
    others = values.unsqueeze(1).expand(-1, size, -1).masked_fill(own, -torch.inf).logsumexp(dim=2)
    return torch.logaddexp(others - values, torch.zeros_like(values))


class Objective:
    """The loss of a batch, and the weights over groups where it is group-robust.

    Parameters
    ----------
    settings
        Smoothing, class weights, step of the group weights.
    labels, groups
        Labels and groups of the training cells, for the class shares and the number of groups.
    size
        Number of classes K.
    """

    def __init__(
        self, settings: LossSettings, labels: Tensor, groups: Tensor, device: torch.device, size: int = 2
    ) -> None:
        self.settings, self.size = settings, size
        counts = torch.bincount(labels.long().cpu(), minlength=size).double()
        weights = len(labels) / (size * counts) if settings.class_weights else torch.ones(size)
        self.class_weights = weights.float().to(device)
        self._number = {int(group): number for number, group in enumerate(torch.unique(groups))}
        self.group_weights = torch.full((len(self._number),), 1.0 / len(self._number), device=device)

    def cell_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each cell, (B,): cross-entropy of the softmax over the classes.

        Parameters
        ----------
        logits
            (B, K); (B, 1) or (B,) of two classes, the log-odds of the second.
        labels
            (B,), the number of each cell's class.
        """
        classes, smoothing = labels.long(), self.settings.label_smoothing
        losses = class_losses(logits)
        own = losses.gather(1, classes.unsqueeze(1))[:, 0]
        if smoothing:
            own = own * (1.0 - smoothing) + losses.mean(dim=1) * smoothing
        return own * self.class_weights.to(own)[classes]

    def batch_loss(self, losses: Tensor, groups: Tensor, world_size: int = 1) -> Tensor:
        """Return the batch's loss: the mean, or the sum of group means under weights that follow the worst groups.

        With several processes each holds an equal share of the batch; the group weights follow the sums of all.
        """
        if not self.settings.group_robust_rate:
            return losses.mean()
        numbers = torch.tensor([self._number[int(group)] for group in groups], device=losses.device)
        shape = (len(self.group_weights),)
        sums = torch.zeros(shape, device=losses.device).index_add(0, numbers, losses)
        counts = torch.zeros(shape, device=losses.device).index_add(0, numbers, torch.ones_like(losses))
        all_sums, all_counts = sums.detach().clone(), counts.clone()
        if world_size > 1:
            torch.distributed.all_reduce(all_sums)
            torch.distributed.all_reduce(all_counts)
        means = all_sums / all_counts.clamp(min=1.0)
        self.group_weights = self.group_weights * torch.exp(self.settings.group_robust_rate * means)
        self.group_weights /= self.group_weights.sum()
        present = (all_counts > 0).float()
        weights = self.group_weights * present
        weights = weights / weights.sum()
        # Gradients are averaged over processes, group means are over all of them: hence the factor.
        return (weights * sums / all_counts.clamp(min=1.0)).sum() * world_size
