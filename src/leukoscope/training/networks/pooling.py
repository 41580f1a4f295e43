"""Pooling between backbone and head: from feature maps to the embedding.

For every kind of pooling the embedding is a function of plain averages over a map, one value per channel, so that the
gradient of the logit by that map is the same everywhere and Grad-CAM has a closed form (see ``training.network``). The
map is called the explained one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.training.networks.layers import average_over_places

SMALLEST_SHARE = 1e-6
SMALLEST_VARIANCE = 1e-6


class Pooled(NamedTuple):
    """What pooling gives for a batch of N cells."""

    embedding: Tensor
    """(N, D)"""
    explained_map: Tensor
    """(N, C, h, w); the features ``explained`` of the embedding are a function of its averages over the last axes."""
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

    def averages(self, embedding: Tensor) -> Tensor:
        """Return the averages of the explained map (C,) that belong to an embedding (D,)."""
        return embedding[self.explained]

    def gradient(self, weights: Tensor, _embedding: Tensor) -> Tensor:
        """Return d logit / d averages (N, K, C) from d logit / d embedding (N, K, D)."""
        return weights[:, :, self.explained]


class MomentPooling(nn.Module):
    """Two moments of every channel over the cell, without the background; all maps are explained together.

    The moments are mean and mean square, or (``deviations``) mean and logarithm of the standard deviation: statistics
    pooling, D. Snyder et al. 2018, doi 10.1109/ICASSP.2018.8461375.
    The maps and their squares (or squared distances from the cell's mean) are weighted by the share of cell in each
    place and brought to the grid of the coarsest by averaging, which changes no average: one map of 2 x sum(channels)
    channels. Its averages are the embedding, or give it by half a logarithm.

    Parameters
    ----------
    channels
        Width of each map, in the order in which the maps come.
    deviations
        Take standard deviations in place of mean squares.
    """

    second: Tensor

    def __init__(self, channels: tuple[int, ...], *, deviations: bool = False) -> None:
        super().__init__()
        self.width = 2 * sum(channels)
        self.explained = slice(0, self.width)
        self.deviations = deviations
        second = torch.cat([torch.arange(2 * count) >= count for count in channels])
        self.register_buffer("second", second, persistent=False)

    def forward(self, maps: list[Tensor], images: Tensor) -> Pooled:
        """Pool maps (N, C, h, w), one per stage; sizes divide the side of ``images`` (N, 3, S, S), background 0."""
        foreground = find_foreground(images)
        side, grid = images.shape[-1], min(stage_map.shape[-1] for stage_map in maps)
        parts = []
        for stage_map in maps:
            size = stage_map.shape[-1]
            share = _weigh(foreground, side // size)
            weighted = stage_map * share
            squared = weighted * stage_map
            if (
                self.deviations
            ):  # about the mean, since a small variance would be lost in the mean square's rounding
                squared = share * (stage_map - average_over_places(weighted)).square()
            for moment in (weighted, squared):
                parts.append(functional.avg_pool2d(moment, size // grid) if size > grid else moment)
        joined = torch.cat(parts, dim=1)
        averages = average_over_places(joined).flatten(1)
        if self.deviations:
            averages = torch.where(self.second, 0.5 * averages.clamp(min=SMALLEST_VARIANCE).log(), averages)
        return Pooled(averages, joined, _weigh(foreground, side // grid))

    def averages(self, embedding: Tensor) -> Tensor:
        """Return the averages of the explained map (D,) that belong to an embedding (D,)."""
        return torch.where(self.second, (2.0 * embedding).exp(), embedding) if self.deviations else embedding

    def gradient(self, weights: Tensor, embedding: Tensor) -> Tensor:
        """Return d logit / d averages (N, K, D) from d logit / d embedding (N, K, D)."""
        if not self.deviations:
            return weights
        slope = torch.where(self.second, 0.5 * (-2.0 * embedding).exp(), torch.ones_like(embedding))
        return weights * slope.unsqueeze(1)


def _weigh(foreground: Tensor, factor: int) -> Tensor:
    share = functional.avg_pool2d(foreground, factor)
    return share / share.mean(dim=(2, 3), keepdim=True).clamp(min=SMALLEST_SHARE)


def find_foreground(images: Tensor) -> Tensor:
    """Return (N, 1, S, S) of 0 and 1 from normalized images (N, 3, S, S) whose background is exactly 0."""
    return (images.abs().amax(dim=1, keepdim=True) > 0).to(images.dtype)
