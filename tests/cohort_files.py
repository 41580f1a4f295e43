"""A small cohort on disk: synthetic cells of two kinds, their table and a split."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leukoscope.data.splits import Split, make_plan, write_splits
from leukoscope.data.table import write_cells
from leukoscope.imaging.descriptors import describe_cell

SIDE = 96


def draw_cell(rng: np.random.Generator, blast: bool) -> np.ndarray:
    """Return a stained disc on black: blasts are larger, redder and smoother."""
    y, x = np.mgrid[:SIDE, :SIDE]
    radius = rng.uniform(26, 34) if blast else rng.uniform(18, 26)
    inside = (y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2 < radius**2
    color = np.array([150, 70, 150] if blast else [110, 80, 170]) + rng.normal(0, 8, 3)
    grain = rng.normal(0, 6 if blast else 18, (SIDE, SIDE, 1))
    return (np.clip(color + grain, 1, 255) * inside[:, :, None]).astype(np.uint8)


def write_cohort(
    folder: Path, subjects: int = 12, cells_each: int = 6, validation: bool = True
) -> tuple[Path, Path]:
    """Write images, ``cells.csv`` and ``splits.json`` (one split, ``only``); returns the paths of the two tables."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(subjects):
        blast = number % 2 == 0
        for count in range(cells_each):
            name = f"images/s{number}_{count}.png"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rgb = draw_cell(rng, blast)
            Image.fromarray(rgb).save(path)
            described = describe_cell(rgb)
            rows.append(
                {
                    "cell": name,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "label": "blast" if blast else "normal",
                    "subject": f"s{number}",
                    "group": f"s{number}",
                    "fold": "",
                    "width_px": SIDE,
                    "height_px": SIDE,
                    **{key: getattr(described, key) for key in described.__dataclass_fields__},
                }
            )
    cells = pd.DataFrame(rows)
    write_cells(cells, folder / "cells.csv")
    order = cells["subject"].str[1:].astype(int)
    held = {
        "test": order >= subjects - 2,
        "validation": order.between(subjects - 4, subjects - 3) & validation,
    }
    train = ~held["test"] & ~held["validation"]
    keys = {name: tuple(cells.loc[chosen, "cell"]) for name, chosen in held.items()}
    split = Split("only", tuple(cells.loc[train, "cell"]), keys["validation"], keys["test"])
    write_splits(make_plan(cells, "grouped", 0, False, [split]), cells, folder / "splits.json")
    return folder / "cells.csv", folder / "splits.json"
