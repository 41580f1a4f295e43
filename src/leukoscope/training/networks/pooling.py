"""Pooling between backbone and head: from feature maps to the embedding.

For every kind of pooling the embedding is a plain average over a map, so that the gradient of the logit by that map
is the same everywhere and Grad-CAM has a closed form (see ``training.network``). The map is called the explained one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.training.networks.layers import average_over_places

SMALLEST_SHARE = 1e-6


class Pooled(NamedTuple):
    """What pooling gives for a batch of N cells."""

    embedding: Tensor
    """(N, D)"""
    explained_map: Tensor
    """(N, C, h, w); its average over the last two axes are the features ``explained`` of the embedding."""
    weight: Tensor | None
    """(N, 1, h, w), what each place of the map counts, mean 1; None for equally."""


class AveragePooling(nn.Module):
    """Global averages of the maps, joined; the deepest map is explained.

    Parameters
    ----------
    channels
        Width of each map, in the order in which the maps come.
    deepest
        Place of the deepest one among them.
    """

    def __init__(self, channels: tuple[int, ...], deepest: int) -> None:
        super().__init__()
        self.width = sum(channels)
        self.explained = slice(sum(channels[:deepest]), sum(channels[: deepest + 1]))
        self._deepest = deepest

    def forward(self, maps: list[Tensor], _images: Tensor) -> Pooled:
        """Pool maps (N, C, h, w), one per stage."""
        embedding = torch.cat([average_over_places(stage_map).flatten(1) for stage_map in maps], dim=1)
        return Pooled(embedding, maps[self._deepest], None)


class MomentPooling(nn.Module):
    """Mean and mean square of every channel over the cell, without the background; all maps are explained together.

    The maps and their squares are weighted by the share of cell in each place and brought to the grid of the coarsest
    by averaging, which changes no average: one map of 2 x sum(channels) channels, whose average is the embedding.

    Parameters
    ----------
    channels
        Width of each map, in the order in which the maps come.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.width = 2 * sum(channels)
        self.explained = slice(0, self.width)

    def forward(self, maps: list[Tensor], images: Tensor) -> Pooled:
        """Pool maps (N, C, h, w), one per stage; sizes divide the side of ``images`` (N, 3, S, S), background 0."""
        foreground = find_foreground(images)
        side, grid = images.shape[-1], min(stage_map.shape[-1] for stage_map in maps)
        parts = []
        for stage_map in maps:
            size = stage_map.shape[-1]
            weighted = stage_map * _weigh(foreground, side // size)
            for moment in (weighted, weighted * stage_map):
                parts.append(functional.avg_pool2d(moment, size // grid) if size > grid else moment)
        joined = torch.cat(parts, dim=1)
        return Pooled(average_over_places(joined).flatten(1), joined, _weigh(foreground, side // grid))


def _weigh(foreground: Tensor, factor: int) -> Tensor:
    share = functional.avg_pool2d(foreground, factor)
    return share / share.mean(dim=(2, 3), keepdim=True).clamp(min=SMALLEST_SHARE)


def find_foreground(images: Tensor) -> Tensor:
    """Return (N, 1, S, S) of 0 and 1 from normalized images (N, 3, S, S) whose background is exactly 0."""
    return (images.abs().amax(dim=1, keepdim=True) > 0).to(images.dtype)
