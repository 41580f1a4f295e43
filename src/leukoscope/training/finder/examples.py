"""The annotated images that the finder learns from, read from the forms in which they are published."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import CohortError
from leukoscope.imaging.decode import decode_image

Form = Literal["field", "single", "cutout", "negative", "empty"]
Box = tuple[float, float, float, float]
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Example:
    """One image with its annotations.

    Parameters
    ----------
    name
        Unique within its source.
    source
        The data set.
    group
        Unit that is not split between training and test: a slide, or the file itself.
    form
        ``field`` (boxes), ``single`` (the cell in the middle), ``cutout`` (one cell on black), ``negative`` (no
        white cell in the middle), ``empty`` (no blood at all).
    path
        The image file.
    microns_per_pixel
        Scale of the file.
    white, red, platelets
        Boxes ``(y0, x0, y1, x1)`` in pixels of the file.
    mask
        File with the white cells' pixels (not 0), where there is one.
    red_complete
        Whether each red cell has its box.
    smudge
        Whether the middle cell is a smudge cell; None where unknown.
    """

    name: str
    source: str
    group: str
    form: Form
    path: Path
    microns_per_pixel: float
    white: tuple[Box, ...] = ()
    red: tuple[Box, ...] = ()
    platelets: tuple[Box, ...] = ()
    mask: Path | None = None
    red_complete: bool = False
    smudge: bool | None = None

    def read(self) -> NDArray[np.uint8]:
        """Return the image, uint8 (H, W, 3)."""
        return decode_image(self.path)


@dataclass(frozen=True)
class TestParts:
    """Held-out data by source: groups, and the rule that chose them.

    Parameters
    ----------
    groups
        Source -> groups of its test part.
    """

    groups: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "TestParts":
        """Read the JSON file ``{source: {"test_groups": [...]}}``."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls({source: frozenset(entry["test_groups"]) for source, entry in content.items()})

    def contains(self, example: Example) -> bool:
        """Whether an example belongs to a test part."""
        return example.group in self.groups.get(example.source, frozenset())


def read_voc(
    folder: Path, source: str, microns_per_pixel: float, names: dict[str, str], masks: Path | None = None
) -> Iterator[Example]:
    """Yield fields with Pascal-VOC boxes; ``names`` maps the file's class names to white, red and platelets."""
    for path in sorted(folder.glob("*.xml")):
        boxes: dict[str, list[Box]] = defaultdict(list)
        for entry in ElementTree.parse(path).iterfind("object"):  # noqa: S314  (files of a named data set)
            kind = names.get(entry.findtext("name", ""))
            corners = [
                float(entry.findtext(f"bndbox/{side}", "nan")) for side in ("ymin", "xmin", "ymax", "xmax")
            ]
            if kind and corners[2] - corners[0] > 1 and corners[3] - corners[1] > 1:
                boxes[kind].append((corners[0], corners[1], corners[2], corners[3]))
        mask = masks / f"{path.stem}.png" if masks else None
        yield Example(
            path.stem, source, path.stem, "field", image_beside(path), microns_per_pixel,
            tuple(boxes["white"]), tuple(boxes["red"]), tuple(boxes["platelets"]),
            mask if mask and mask.is_file() else None,
        )  # fmt: skip


def read_yolo(
    folder: Path, source: str, microns_per_pixel: float, groups: dict[str, str]
) -> Iterator[Example]:
    """Yield fields with YOLO boxes of white cells; ``groups`` maps the name before ``_`` (the slide) to a group."""
    for path in sorted(folder.glob("*.txt")):
        image = image_beside(path)
        height, width = decode_image(image).shape[:2]
        boxes = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                _, x, y, w, h = (float(part) for part in line.split())
                boxes.append(
                    ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
                )
        slide = path.stem.split("_")[0]
        yield Example(
            path.stem, source, groups.get(slide, slide), "field", image, microns_per_pixel, tuple(boxes)
        )


def read_box_table(
    folder: Path, source: str, microns_per_pixel: float, ending: str = ".webp"
) -> Iterator[Example]:
    """Yield fields with relative boxes in ``annotations.csv`` (columns image, xmin, ymin, xmax, ymax, label)."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (folder / "annotations.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[Path(row["image"]).stem].append(row)
    for stem in sorted(rows):
        path = folder / f"{stem}{ending}"
        height, width = decode_image(path).shape[:2]
        boxes: dict[str, list[Box]] = defaultdict(list)
        for row in rows[stem]:
            x0, y0, x1, y1 = (float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
            boxes[row["label"]].append((y0 * height, x0 * width, y1 * height, x1 * width))
        yield Example(
            stem, source, stem, "field", path, microns_per_pixel,
            tuple(boxes["wbc"]), tuple(boxes["rbc"]), red_complete=True,
        )  # fmt: skip


def read_folders(
    folder: Path,
    source: str,
    microns_per_pixel: float,
    negative: Iterable[str] = (),
    smudge: Iterable[str] = (),
) -> Iterator[Example]:
    """Yield single-cell images from folders named by kind; those in ``negative`` have no white cell in the middle."""
    without, smudged = frozenset(negative), frozenset(smudge)
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in IMAGE_ENDINGS:
            kind = path.parent.name
            form: Form = "negative" if kind in without else "single"
            yield Example(
                f"{kind}/{path.stem}",
                source,
                path.stem,
                form,
                path,
                microns_per_pixel,
                smudge=kind in smudged,
            )


def read_cutouts(folder: Path, source: str, microns_per_pixel: float) -> Iterator[Example]:
    """Yield cells cut out on black, from any depth of folders."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS:
            yield Example(path.stem, source, path.stem, "cutout", path, microns_per_pixel)


def image_beside(annotation: Path) -> Path:
    """Return the image with the same stem.

    Raises
    ------
    CohortError
        There is none.
    """
    for ending in IMAGE_ENDINGS:
        if (path := annotation.with_suffix(ending)).is_file():
            return path
    raise CohortError(f"{annotation}: no image of the same name in its folder ({', '.join(IMAGE_ENDINGS)})")


def read_negatives(folder: Path, source: str, microns_per_pixel: float) -> Iterator[Example]:
    """Yield images without any blood cell; the scale is a convention, they have none."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_ENDINGS:
            yield Example(path.stem, source, path.stem, "empty", path, microns_per_pixel, red_complete=True)
