"""The folders of cells that the kinds are trained on: crops of one scale with a label, a laboratory and a subject.

Every reader yields crops centered on one object, ``CROP_PX`` a side at ``MICRONS_PER_PIXEL``. What lies outside an
image is filled by reflection. Scales are those of the data sets or, where they give none, 7.3 um for the median
diameter of a red cell.
"""

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from leukoscope.imaging.decode import decode_image
from leukoscope.training.kinds.classes import UNSEEN

MICRONS_PER_PIXEL = 0.125
CROP_PX = 216  # 27 um
HELD_OUT_PERCENT = 20
NOT_WHITE = "not_a_white_cell"

_PBC_FINE = {
    "SNE": "neutrophil_segmented",
    "BNE": "neutrophil_band",
    "PMY": "promyelocyte",
    "MY": "myelocyte",
    "MMY": "metamyelocyte",
}
_MUNICH = {
    "lymphocyte_typical": "lymphocyte",
    "lymphocyte_atypical": UNSEEN,
    "promyelocyte_bilobed": "promyelocyte",
}
_CHULA = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Crop:
    """One object.

    Attributes
    ----------
    rgb
        uint8 (``CROP_PX``, ``CROP_PX``, 3).
    label
        What ``classes.label_kinds`` reads.
    laboratory
        The data set.
    subject
        Person, slide or image: what must not lie on both sides of a split.
    held_out
        Never trained on.
    cut_out
        On black instead of in its surroundings.
    """

    rgb: NDArray[np.uint8]
    label: str
    laboratory: str
    subject: str
    held_out: bool
    cut_out: bool = False


def is_held_out(key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Return, by a digest of the key, whether it is among the ``percent`` that are never trained on."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < percent


def cut_crop(
    rgb: NDArray[np.uint8], center: tuple[float, float], microns_per_pixel: float, crop_px: int = CROP_PX
) -> NDArray[np.uint8]:
    """Cut a square around ``center`` (y, x in px of ``rgb``) and bring it to ``MICRONS_PER_PIXEL``."""
    factor = MICRONS_PER_PIXEL / microns_per_pixel
    side = crop_px * factor
    pad = round(side / 2) + 2
    top, left = round(center[0] - side / 2) + pad, round(center[1] - side / 2) + pad
    pixels = round(side)
    padded = np.pad(rgb, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    window = padded[top : top + pixels, left : left + pixels].astype(np.float32)
    if factor > 1:
        window = ndimage.gaussian_filter(window, (0.4 * (factor - 1), 0.4 * (factor - 1), 0))
    positions = (np.arange(crop_px) + 0.5) * pixels / crop_px - 0.5
    rows, columns = np.meshgrid(positions, positions, indexing="ij")
    channels = [
        ndimage.map_coordinates(window[..., channel], [rows, columns], order=1, mode="nearest")
        for channel in range(3)
    ]
    crop: NDArray[np.uint8] = np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
    return crop


def read_pbc(folder: Path) -> Iterator[Crop]:
    """Yield the cells of Acevedo et al. (2020), about 0.103 um a pixel; there are no subjects."""
    for path in sorted(folder.glob("*/*.*")):
        kind = path.parent.name
        label = _PBC_FINE.get(path.name.split("_")[0], "immature_granulocyte" if kind == "ig" else kind)
        rgb = decode_image(path)
        crop = cut_crop(rgb, (rgb.shape[0] / 2, rgb.shape[1] / 2), 0.103)
        yield Crop(crop, label, "pbc", path.stem, is_held_out(path.stem))


def read_munich(folder: Path) -> Iterator[Crop]:
    """Yield the cells of Matek et al. (2019), 14.14 px a um; there are no subjects."""
    for path in sorted(folder.glob("*/*.*")):
        label = _MUNICH.get(path.parent.name, path.parent.name)
        rgb = decode_image(path)
        crop = cut_crop(rgb, (rgb.shape[0] / 2, rgb.shape[1] / 2), 1 / 14.14)
        yield Crop(crop, label, "munich", path.stem, label == UNSEEN)


def read_cnmc(
    folder: Path, cells_per_subject: int, held_out: frozenset[str], seed: int = 0
) -> Iterator[Crop]:
    """Yield cut-out cells of C-NMC 2019, at most ``cells_per_subject`` per subject, 0.07 um per pixel (14-um cells)."""
    rng = np.random.default_rng(seed)
    people: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("fold_*/*/*.*")):
        _, subject, *_ = path.stem.split("_")
        people.setdefault(f"{path.parent.name}-{subject}", []).append(path)
    for person, paths in sorted(people.items()):
        label = "lymphoblast" if person.startswith("all-") else "lymphoid_precursor"
        for index in sorted(rng.permutation(len(paths))[:cells_per_subject]):
            rgb = decode_image(paths[index])
            rows, columns = np.nonzero(rgb.max(axis=2) > 8)
            if rows.size:
                center = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
                yield Crop(
                    cut_crop(rgb, center, 0.07), label, "cnmc", person, person in held_out, cut_out=True
                )


def held_out_people(people: list[str], blast: int = 8, normal: int = 4, seed: int = 16) -> frozenset[str]:
    """Draw the people of C-NMC that are never trained on: ``all-`` and ``hem-`` names, sorted before the draw."""
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for prefix, count in (("all-", blast), ("hem-", normal)):
        names = sorted(person for person in people if person.startswith(prefix))
        chosen += [names[index] for index in rng.permutation(len(names))[:count]]
    return frozenset(chosen)


def read_chula(folder: Path, negatives: int = 5) -> Iterator[Crop]:
    """Yield the white cells of the Chulalongkorn fields and ``negatives`` other places of each field."""
    for path in sorted(folder.glob("*.webp")):
        rgb = decode_image(path)
        height, width = rgb.shape[:2]
        boxes: list[tuple[str, Box]] = []
        for line in path.with_suffix(".txt").read_text().splitlines():
            code, x, y, w, h = (float(value) for value in line.split())
            box = ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
            boxes.append((_CHULA[int(code)], box))
        yield from _field(
            rgb, boxes, "chula", path.stem.split("_")[0], microns_per_pixel=0.105, negatives=negatives
        )


def read_bccd(folder: Path, negatives: int = 2) -> Iterator[Crop]:
    """Yield white cells (kind unknown, mature), platelets and other places of the BCCD fields."""
    names = {"WBC": "mature_white_cell", "Platelets": "platelet", "RBC": ""}
    for path in sorted(folder.glob("*.jpg")):
        boxes: list[tuple[str, Box]] = []
        text = path.with_suffix(".xml").read_text()
        for entry in re.findall(r"<object>.*?</object>", text, re.DOTALL):
            name = re.findall(r"<name>(.*?)</name>", entry)[0]
            y0, x0, y1, x1 = (
                float(re.findall(rf"<{key}>(\d+)<", entry)[0]) for key in ("ymin", "xmin", "ymax", "xmax")
            )
            boxes.append((names[name], (y0, x0, y1, x1)))
        yield from _field(
            decode_image(path), boxes, "bccd", path.stem, microns_per_pixel=0.0703, negatives=negatives
        )


def read_draaslan(folder: Path, negatives: int = 3) -> Iterator[Crop]:
    """Yield white cells (kind unknown) and other places of draaslan's fields."""
    boxes: dict[str, list[tuple[str, Box]]] = {}
    with (folder / "annotations.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            y0, x0, y1, x1 = (float(row[key]) for key in ("ymin", "xmin", "ymax", "xmax"))
            label = "white_cell" if row["label"] == "wbc" else ""
            boxes.setdefault(row["image"], []).append((label, (y0, x0, y1, x1)))
    for name, entries in sorted(boxes.items()):
        path = folder / Path(name).with_suffix(".webp")
        rgb = decode_image(path)
        height, width = rgb.shape[:2]
        scaled = [
            (label, (y0 * height, x0 * width, y1 * height, x1 * width)) for label, (y0, x0, y1, x1) in entries
        ]
        yield from _field(rgb, scaled, "draaslan", path.stem, microns_per_pixel=0.137, negatives=negatives)


def _field(
    rgb: NDArray[np.uint8],
    boxes: list[tuple[str, Box]],
    laboratory: str,
    subject: str,
    *,
    microns_per_pixel: float,
    negatives: int,
) -> Iterator[Crop]:
    """Yield boxes with a label, and places away from them: half on boxes without label (red cells), half anywhere."""
    height, width = rgb.shape[:2]
    held_out = is_held_out(subject)
    labeled = [(label, _center(box)) for label, box in boxes if label]
    for (label, center), (_, box) in zip(labeled, [entry for entry in boxes if entry[0]], strict=True):
        margin = 0.2 * (box[3] - box[1])
        inside = (
            box[0] > -margin and box[1] > -margin and box[2] < height + margin and box[3] < width + margin
        )
        if inside:
            yield Crop(cut_crop(rgb, center, microns_per_pixel), label, laboratory, subject, held_out)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4], "big"))
    plain = [_center(box) for label, box in boxes if not label]
    found = 0
    for attempt in range(20 * negatives):
        if found == negatives:
            break
        use_box = bool(plain) and attempt % 2 == 0
        center = (
            plain[rng.integers(len(plain))] if use_box else (rng.uniform(0, height), rng.uniform(0, width))
        )
        distance_um = [np.hypot(center[0] - y, center[1] - x) * microns_per_pixel for _, (y, x) in labeled]
        if min(distance_um, default=99.0) > 9.0:
            found += 1
            yield Crop(cut_crop(rgb, center, microns_per_pixel), NOT_WHITE, laboratory, subject, held_out)


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
