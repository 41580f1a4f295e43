"""All tiles as tensors on one device, with the data that augmentation needs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leukoscope.training.finder.outlines import background_color, optical_density
from leukoscope.training.finder.tiles import MOST_RED, TILE_PX, Tile

SOURCE_WEIGHTS = {
    "bccd": 0.22,
    "chula": 0.20,
    "draaslan": 0.12,
    "pbc": 0.22,
    "munich": 0.14,
    "photographs": 0.10,
}
"""How often each source is drawn as the ground of a sample; a source that is not named gets 0.1."""

NO_SMUDGE_LABEL = -1


@dataclass
class Bank:
    """The tiles of a training run.

    Parameters
    ----------
    images
        (N, 256, 256, 3) uint8.
    labels
        (N, 256, 256) uint8, see ``tiles``.
    sizes
        (N, 2) int64, the part that is image.
    red
        (N, 48, 3) float32 center and diameter of red cells, px; diameter 0 where there is none.
    red_complete, rough
        (N,) bool.
    smudge
        (N,) int64: 1 smudge cell, 0 none, -1 not known.
    background, density_mean, density_std
        (N, 3) float32: color of the empty background, optical density of the white cells.
    weights
        (N,) float64 chance of being drawn as a ground; 0 for cut-outs.
    pasted
        (P, 2) int64: tile and instance of the cells that are whole and may be pasted.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor
    red: Tensor
    red_complete: Tensor
    rough: Tensor
    smudge: Tensor
    background: Tensor
    density_mean: Tensor
    density_std: Tensor
    weights: Tensor
    pasted: Tensor

    def to(self, device: torch.device | str) -> "Bank":
        """Move every tensor."""
        return Bank(*(getattr(self, entry.name).to(device) for entry in fields(self)))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        save_file({entry.name: getattr(self, entry.name).contiguous() for entry in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Read what ``save`` wrote."""
        from safetensors.torch import load_file

        return cls(**load_file(path))


def build_bank(tiles: Sequence[Tile]) -> Bank:
    """Join tiles into a bank."""
    count = len(tiles)
    red = np.zeros((count, MOST_RED, 3), np.float32)
    background, mean, std = (np.zeros((count, 3), np.float32) for _ in range(3))
    pasted: list[tuple[int, int]] = []
    for index, tile in enumerate(tiles):
        red[index, : len(tile.red)] = tile.red
        background[index], mean[index], std[index] = _colors(tile)
        pasted.extend((index, number) for number in _whole_instances(tile))
    sources = [tile.example.source if tile.example.form != "cutout" else "" for tile in tiles]
    weights = np.zeros(count)
    for source in set(sources) - {""}:
        rows = [index for index, name in enumerate(sources) if name == source]
        weights[rows] = SOURCE_WEIGHTS.get(source, 0.1) / len(rows)
    smudge = [NO_SMUDGE_LABEL if tile.example.smudge is None else int(tile.example.smudge) for tile in tiles]
    return Bank(
        images=torch.from_numpy(np.stack([tile.rgb for tile in tiles])),
        labels=torch.from_numpy(np.stack([tile.labels for tile in tiles])),
        sizes=torch.tensor([tile.size for tile in tiles]),
        red=torch.from_numpy(red),
        red_complete=torch.tensor([tile.example.red_complete for tile in tiles]),
        rough=torch.tensor([tile.rough for tile in tiles]),
        smudge=torch.tensor(smudge),
        background=torch.from_numpy(background),
        density_mean=torch.from_numpy(mean),
        density_std=torch.from_numpy(std),
        weights=torch.from_numpy(weights),
        pasted=torch.tensor(pasted, dtype=torch.int64).reshape(-1, 2),
    )


def _colors(tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return background color and mean and deviation of the white cells' density (0 where there is none)."""
    height, width = tile.size
    cell = ((tile.labels & 7) > 0) & ((tile.labels & 7) < 7)
    if tile.example.form == "cutout":
        white = np.full(3, 235, np.float32)
    else:
        white = background_color(tile.rgb[:height, :width])
    if cell.sum() < 50:
        return white, np.zeros(3, np.float32), np.zeros(3, np.float32)
    density = optical_density(tile.rgb, white)[cell]
    return white, density.mean(axis=0), density.std(axis=0)


def _whole_instances(tile: Tile) -> list[int]:
    """Return the instances that do not reach the edge of the image."""
    height, width = tile.size
    instance = tile.labels & 7
    whole = []
    for number in range(1, 7):
        rows, columns = np.nonzero(instance == number)
        if rows.size < 400:
            continue
        inside = (
            rows.min() > 1 and columns.min() > 1 and rows.max() < height - 2 and columns.max() < width - 2
        )
        if tile.example.form == "cutout":
            inside = max(np.ptp(rows), np.ptp(columns)) < TILE_PX - 2
        if inside and not tile.example.smudge:
            whole.append(number)
    return whole
