"""Recall and precision of the finders on annotated fields that none of them was trained on.

    python tools/smear_fields.py FIELDS [--finder network] [--finder classical] [--json FILE]

FIELDS holds bccd/ (VOC), chula_wbc/ (YOLO), draaslan/ (annotations.csv), bccd_nucleus_masks/; the test files are those
of configs/finder/splits.json. A cell is found if its box has an IoU of at least 0.5 with an annotated box (each box
once), or if its center lies in one. Intervals: Wilson, by cell. Boxes at the border of a field are ignored.
"""

import argparse
import csv
import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

from leukoscope.smear.reading import read_smear
from leukoscope.stats.intervals import wilson

SPLITS = Path(__file__).resolve().parents[1] / "configs" / "finder" / "splits.json"
FOLDERS = {"bccd": "bccd", "chula": "chula_wbc", "draaslan": "draaslan"}


def test_files(folder: Path, name: str) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".webp", ".png"))
    split = json.loads(SPLITS.read_text())
    keys = set(split[name]["test_groups"])
    if name == "chula":  # the number of the slide, between the letter and the underscore
        return [path for path in files if path.stem.partition("_")[0].partition("-")[2] in keys]
    return [path for path in files if path.stem in keys]


def boxes_of(path: Path, name: str, size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    height, width = size
    if name == "bccd":
        tree = ET.parse(path.with_suffix(".xml"))
        return [
            tuple(float(item.find(f"bndbox/{side}").text) for side in ("ymin", "xmin", "ymax", "xmax"))
            for item in tree.iter("object")
            if item.find("name").text == "WBC"
        ]
    if name == "chula":
        rows = [line.split() for line in path.with_suffix(".txt").read_text().splitlines() if line.strip()]
        parts = [tuple(map(float, row[1:5])) for row in rows]
        return [
            ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
            for x, y, w, h in parts
        ]
    with (path.parent / "annotations.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["image"].split(".")[0] == path.stem and row["label"] == "wbc"
        ]
    return [
        (
            float(row["ymin"]) * height, float(row["xmin"]) * width,
            float(row["ymax"]) * height, float(row["xmax"]) * width,
        )
        for row in rows
    ]  # fmt: skip


def iou(one, other) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


def measure(folder: Path, name: str, finder: str) -> dict:
    counts = dict.fromkeys(("annotated", "found", "hit_iou", "hit_center", "rejected"), 0)
    dice, seconds, pixels = [], 0.0, 0
    for path in test_files(folder, name):
        began = time.perf_counter()
        (reading,) = read_smear(path, finder=finder)
        seconds += time.perf_counter() - began
        record = reading.record
        with Image.open(path) as image:
            width, height = image.size
        pixels += width * height
        counts["rejected"] += record.rejected
        known = boxes_of(path, name, (height, width))
        inner = [box for box in known if min(box[0], box[1], height - box[2], width - box[3]) > 2]
        edge = [box for box in known if box not in inner]
        cells = [cell.box for cell in record.cells if not cell.touches_border]
        cells = [cell for cell in cells if not any(iou(cell, box) > 0.3 for box in edge)]
        free = list(range(len(cells)))
        for box in inner:
            best = max(free, key=lambda index: iou(cells[index], box), default=None)
            if best is not None and iou(cells[best], box) >= 0.5:
                free.remove(best)
                counts["hit_iou"] += 1
            counts["hit_center"] += any(
                box[0] <= (cell[0] + cell[2]) / 2 < box[2] and box[1] <= (cell[1] + cell[3]) / 2 < box[3]
                for cell in cells
            )
        counts["annotated"] += len(inner)
        counts["found"] += len(cells)
        if name == "bccd":
            dice += _dice(path, record, (height, width))
    return {
        "set": name,
        "finder": finder,
        **counts,
        "recall": _share(counts["hit_iou"], counts["annotated"]),
        "precision": _share(counts["hit_iou"], counts["found"]),
        "recall_center": _share(counts["hit_center"], counts["annotated"]),
        "mask_dice": round(float(np.mean(dice)), 3) if dice else None,
        "seconds_per_megapixel": round(seconds / pixels * 1e6, 3),
    }


def _dice(path: Path, record, size: tuple[int, int]) -> list[float]:
    """Dice of the cells' outlines with the masks of the set, which cover whole white cells."""
    from PIL import ImageDraw

    place = path.parents[1] / "bccd_nucleus_masks" / f"{path.stem}.png"
    if not place.is_file():
        return []
    truth = np.asarray(Image.open(place).convert("L")) > 127
    drawn = Image.new("1", (size[1], size[0]))
    for cell in record.cells:
        for ring in cell.outline:
            ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for y, x in ring], fill=1)
    found = np.asarray(drawn)
    both = truth.sum() + found.sum()
    return [float(2 * (truth & found).sum() / both)] if both else []


def _share(part: int, whole: int) -> str:
    if not whole:
        return "not estimable"
    low, high = wilson(min(part, whole), whole)
    return f"{part / whole:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fields", type=Path)
    parser.add_argument("--finder", action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        measure(options.fields / folder, name, finder)
        for name, folder in FOLDERS.items()
        for finder in options.finder or ("network", "classical")
    ]
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
