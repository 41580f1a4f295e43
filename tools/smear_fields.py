"""Recall and precision of the finders on annotated test fields, and the measured scale of resized images.

    python tools/smear_fields.py DATA [--finder finder] [--finder classical] [--only fields|scale] [--json FILE]

DATA holds fields/bccd (VOC), fields/chula_wbc (YOLO), fields/draaslan (annotations.csv), fields/bccd_nucleus_masks,
pbc_normal_cells and aml_munich; the test files are those of configs/finder/splits.json. A cell is found if its box has
an IoU of at least 0.5 with an annotated box (each box once), or if its center lies in one. Intervals: Wilson, by cell;
of Dice and of ratios: percentiles of 2,000 resamples. Boxes at the border of a field are ignored. What ``--only``
leaves out is kept from FILE.
"""

import argparse
import csv
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leukoscope.assets import finder_bundle_path
from leukoscope.models.finder_bundle import FinderBundle
from leukoscope.models.finder_card import finder_table, scale_table
from leukoscope.models.finder_manifest import FinderMeasure, FinderReport, FinderRow, ScaleRow, Unit
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.finder_network import NetworkFinder
from leukoscope.smear.reading import read_smear
from leukoscope.smear.records import FieldRecord
from leukoscope.stats.intervals import wilson

Box = tuple[float, float, float, float]
SPLITS = Path(__file__).resolve().parents[1] / "configs" / "finder" / "splits.json"
FOLDERS = {"BCCD": "bccd", "Chula": "chula_wbc", "draaslan": "draaslan"}
CELL_FOLDERS = {"PBC": "pbc_normal_cells", "Munich": "aml_munich"}
FINDERS = ("finder", "classical", "scikit-image")
TITLES = {"finder": "network"}
FACTORS = (0.5, 0.7, 1.4, 2.0)
KNOWN_UM = {"Munich": 0.0707}
"""Published scales, micrometers per pixel; the other sets have none."""
SCALE_IMAGES = 60
COMMAND = "python tools/smear_fields.py DATA"
CAVEATS = (
    "The test sets are small, and the laboratories of these fields were seen in training, though not these files or "
    "slides: expect less on another microscope.",
    "The masks of BCCD (Banik et al. 2020) are called nucleus masks but outline whole white cells: Dice is that of "
    "whole cells.",
    "Cells whose box touches the border of a field are ignored.",
    "The scikit-image recipe is given the scale and the light that this program measures.",
)


def test_files(folder: Path, name: str) -> list[Path]:
    """Return the test fields of a set."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".webp", ".png"))
    keys = set(json.loads(SPLITS.read_text())[name.lower()]["test_groups"])
    if name == "Chula":  # the number of the slide, between the letter and the underscore
        return [path for path in files if path.stem.partition("_")[0].partition("-")[2] in keys]
    return [path for path in files if path.stem in keys]


def boxes_of(path: Path, name: str, size: tuple[int, int]) -> list[Box]:
    """Return the annotated white cells of a field of (height, width) px."""
    height, width = size
    if name == "BCCD":
        return [
            (_of(item, "ymin"), _of(item, "xmin"), _of(item, "ymax"), _of(item, "xmax"))
            for item in ET.parse(path.with_suffix(".xml")).iter("object")
            if item.findtext("name") == "WBC"
        ]
    if name == "Chula":
        rows = [line.split() for line in path.with_suffix(".txt").read_text().splitlines() if line.strip()]
        parts = [tuple(map(float, row[1:5])) for row in rows]
        return [
            ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
            for x, y, w, h in parts
        ]
    with (path.parent / "annotations.csv").open(newline="") as file:
        return [
            (
                float(row["ymin"]) * height, float(row["xmin"]) * width,
                float(row["ymax"]) * height, float(row["xmax"]) * width,
            )
            for row in csv.DictReader(file)
            if row["image"].split(".")[0] == path.stem and row["label"] == "wbc"
        ]  # fmt: skip


def _of(item: ET.Element, side: str) -> float:
    return float(item.findtext(f"bndbox/{side}") or "nan")


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


def contains(box: Sequence[float], cell: Sequence[float]) -> bool:
    """Return whether the center of a cell lies in a box."""
    y, x = (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
    return box[0] <= y < box[2] and box[1] <= x < box[3]


def measure(folder: Path, name: str, finder: str) -> FinderRow:
    """Run a finder on the test fields of a set."""
    counts = dict.fromkeys(("annotated", "found", "hit", "boxes_with_center", "cells_in_box", "rejected"), 0)
    dice: list[float] = []
    seconds, pixels = 0.0, 0
    files = test_files(folder, name)
    for path in files:
        began = time.perf_counter()
        (reading,) = read_smear(path, finder=_finder(finder), classifier=None)
        seconds += time.perf_counter() - began
        with Image.open(path) as image:
            width, height = image.size
        pixels += width * height
        counts["rejected"] += reading.record.rejected
        _count(counts, reading.record, boxes_of(path, name, (height, width)), (height, width))
        if name == "BCCD":
            dice += _dice(path, reading.record, (height, width))
    measures = {
        "recall": _share(counts["hit"], counts["annotated"]),
        "precision": _share(counts["hit"], counts["found"]),
        "recall_center": _share(counts["boxes_with_center"], counts["annotated"]),
        "precision_center": _share(counts["cells_in_box"], counts["found"]),
    }
    if dice:
        measures["mask_dice"] = _resampled(dice, "field", np.mean)
    return FinderRow(
        fields=name,
        finder=TITLES.get(finder, finder),
        split="test files of configs/finder/splits.json",
        n_fields=len(files),
        n_cells=counts["annotated"],
        found=counts["found"],
        rejected=counts["rejected"],
        measures=measures,
        seconds_per_megapixel=round(seconds / pixels * 1e6, 3),
    )


def _count(counts: dict[str, int], record: FieldRecord, known: list[Box], size: tuple[int, int]) -> None:
    inner = [box for box in known if min(box[0], box[1], size[0] - box[2], size[1] - box[3]) > 2]
    edge = [box for box in known if box not in inner]
    cells = [cell.box for cell in record.cells if not cell.touches_border]
    cells = [cell for cell in cells if not any(iou(cell, box) > 0.3 for box in edge)]
    free = list(range(len(cells)))
    for box in inner:
        best = max(free, key=lambda index: iou(cells[index], box), default=None)
        if best is not None and iou(cells[best], box) >= 0.5:
            free.remove(best)
            counts["hit"] += 1
        counts["boxes_with_center"] += any(contains(box, cell) for cell in cells)
    counts["cells_in_box"] += sum(any(contains(box, cell) for box in inner) for cell in cells)
    counts["annotated"] += len(inner)
    counts["found"] += len(cells)


def _finder(name: str) -> object:
    if name != "scikit-image":
        return name
    from smear_peer import ScikitImageFinder

    return ScikitImageFinder()


def _dice(path: Path, record: FieldRecord, size: tuple[int, int]) -> list[float]:
    """Dice of the cells' outlines with the masks of the set, which cover whole white cells."""
    place = path.parents[1] / "bccd_nucleus_masks" / f"{path.stem}.png"
    if not place.is_file():
        return []
    with Image.open(place) as image:
        truth = np.asarray(image.convert("L")) > 127
    drawn = Image.new("1", (size[1], size[0]))
    for cell in record.cells:
        for ring in cell.outline:
            ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for y, x in ring], fill=1)
    found = np.asarray(drawn)
    both = truth.sum() + found.sum()
    return [float(2 * (truth & found).sum() / both)] if both else []


def scale_files(data: Path, name: str, most: int) -> list[Path]:
    """Return up to ``most`` images, spread evenly over a set in the order of their names."""
    if name in CELL_FOLDERS:
        files = sorted(
            path for path in (data / CELL_FOLDERS[name]).rglob("*") if path.suffix in (".jpg", ".webp")
        )
    else:
        folder = data / "fields" / FOLDERS[name]
        files = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".webp", ".png"))
    chosen = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return [files[index] for index in chosen]


def measure_scale(data: Path, name: str, most: int) -> Iterator[ScaleRow]:
    """Compare measured scales with the published one, or those of resized images with the unchanged ones."""
    files = scale_files(data, name, most)
    finder = _RedCellFinder(FinderBundle.open(finder_bundle_path()))
    bases = [_scale_of(path, 1.0, finder) for path in files]
    if name in KNOWN_UM:
        ratios = [base / KNOWN_UM[name] for base in bases if base is not None]
        yield _scale_row(f"{name} ({KNOWN_UM[name]} um per px)", 1.0, ratios, len(files))
        return
    for factor in FACTORS:
        ratios = []
        for path, base in zip(files, bases, strict=True):
            resized = _scale_of(path, factor, finder) if base is not None else None
            if base is not None and resized is not None:
                ratios.append(resized * factor / base)
        yield _scale_row(name, factor, ratios, len(files))


def _scale_row(fields: str, factor: float, ratios: list[float], n_images: int) -> ScaleRow:
    near = sum(0.95 <= ratio <= 1.05 for ratio in ratios)
    return ScaleRow(
        fields=fields,
        factor=factor,
        n_images=n_images,
        rejected=n_images - len(ratios),
        ratio=_resampled(ratios, "image", np.median),
        within_5_percent=_share(near, len(ratios), "image"),
    )


class _RedCellFinder(NetworkFinder):
    """Measures red cells and finds no white cells, which the scale does not depend on."""

    def find(self, rgb: NDArray[np.uint8], microns_per_pixel: float | None = None) -> list[FoundCell]:
        """Return no cells."""
        return []


def _scale_of(path: Path, factor: float, finder: NetworkFinder) -> float | None:
    """Return the scale that is measured in one image by itself, without its smear."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if factor != 1.0:
        size = (round(rgb.width * factor), round(rgb.height * factor))
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    (reading,) = read_smear(np.asarray(rgb), finder=finder, classifier=None)
    return reading.record.scale.value if reading.record.scale is not None else None


def _share(part: int, whole: int, unit: Unit = "cell") -> FinderMeasure:
    if not whole:
        return FinderMeasure(value=None, n=0, unit=unit, method="Wilson")
    low, high = wilson(min(part, whole), whole)
    return FinderMeasure(
        value=round(part / whole, 4),
        low=round(low, 4),
        high=round(high, 4),
        n=whole,
        unit=unit,
        method="Wilson",
    )


def _resampled(values: list[float], unit: Unit, statistic: Callable[..., Any]) -> FinderMeasure:
    if not values:
        return FinderMeasure(value=None, n=0, unit=unit, method="bootstrap")
    rng = np.random.default_rng(0)
    array = np.array(values)
    drawn = statistic(array[rng.integers(len(array), size=(2000, len(array)))], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return FinderMeasure(
        value=round(float(statistic(array)), 4), low=round(float(low), 4), high=round(float(high), 4),
        n=len(array), unit=unit, method="percentiles of 2,000 resamples",
    )  # fmt: skip


def main() -> None:
    """Measure, print the tables and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--finder", action="append", choices=FINDERS)
    parser.add_argument("--only", choices=("fields", "scale"))
    parser.add_argument("--set", action="append", help="only these sets of the scale study")
    parser.add_argument("--images", type=int, default=SCALE_IMAGES, help="of each set of the scale study")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kept = None
    if options.only and options.json and options.json.exists():
        kept = FinderReport.from_json(options.json.read_bytes())
    rows, scale = (kept.rows, kept.scale) if kept else ((), ())
    if options.only != "scale":
        rows = tuple(
            measure(options.data / "fields" / folder, name, finder)
            for name, folder in FOLDERS.items()
            for finder in options.finder or FINDERS
        )
    if options.only != "fields":
        sets = options.set or ("Munich", "PBC", "BCCD", "Chula")
        scale = tuple(row for name in sets for row in measure_scale(options.data, name, options.images))
    report = FinderReport(
        title="White cells of fields that were not trained on",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=COMMAND,
        rows=rows,
        scale=scale,
        caveats=CAVEATS,
    )
    print(finder_table(report), scale_table(report), sep="\n\n")
    if options.json:
        options.json.write_text(report.to_json())


if __name__ == "__main__":
    main()
