"""Small image files and cell tables for tests of the cohort."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leukoscope.data.table import COLUMNS


def cell_image(seed: int, side_px: int = 450) -> np.ndarray:
    """Draw one disc of noise on black."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px] - side_px // 2
    disc = rows**2 + columns**2 < (40 + seed % 30) ** 2
    return np.where(disc[..., None], rng.integers(60, 200, (side_px, side_px, 3)), 0).astype(np.uint8)


def write_image(path: Path, seed: int, side_px: int = 450) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cell_image(seed, side_px)).save(path)
    return path


def official_bmp(image: Image.Image) -> bytes:
    """Write a training image in the form of the archive: Pillow's BMP with 3779 pixels per meter."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    content[38:46] = (3779).to_bytes(4, "little") * 2
    return bytes(content)


def cell_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Fill rows of a cell table; every file is different, every subject its own group, unless stated otherwise."""
    filled = []
    for number, row in enumerate(rows):
        cell = str(row.get("cell", f"cells/{number}.bmp"))
        subject = str(row.get("subject", ""))
        filled.append(
            {
                **{name: kind() for name, kind in COLUMNS.items()},
                "cell": cell,
                "sha256": hashlib.sha256(cell.encode()).hexdigest(),
                "group": subject or f"sha256:{number:012d}",
                "width_px": 450,
                "height_px": 450,
                **row,
            }
        )
    return pd.DataFrame(filled, columns=list(COLUMNS))


def subjects_table(sizes: dict[str, tuple[str, str, int]]) -> pd.DataFrame:
    """Make a table of subjects: id -> (fold, label, number of cells)."""
    return cell_table(
        {"cell": f"{fold}/{subject}_{i}.bmp", "subject": subject, "fold": fold, "label": label}
        for subject, (fold, label, count) in sizes.items()
        for i in range(count)
    )
