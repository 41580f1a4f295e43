"""Boxes and classes of cells in other tools' files: Pascal VOC, YOLO, COCO and GeoJSON (QuPath)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.text import TextError, read_text

_FAULTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, TextError)


@dataclass(frozen=True)
class Annotation:
    """One annotated cell: (y0, x0, y1, x1) in px of the upright image, half-open, and its class."""

    box: tuple[float, float, float, float]
    label: str


class Annotations:
    """Finds the annotations of an image: in the folder of the image, or in one file for all images.

    Parameters
    ----------
    source
        A COCO or GeoJSON file for all images, a folder that holds a file per image (VOC ``.xml``, YOLO ``.txt``,
        ``.geojson``), or None: the files are in the folders of the images.
    names
        Class names of YOLO numbers, in order; a ``classes.txt`` or ``data.yaml`` names list is the user's to give.
    """

    def __init__(self, source: Path | None = None, names: tuple[str, ...] = ()) -> None:
        self._folder = source if source is not None and source.is_dir() else None
        self._names = names
        self._common: dict[str, list[Annotation]] | None = None
        if source is not None and self._folder is None:
            if not source.is_file():
                raise UsageError(f"{source}: no such file or folder of annotations")
            self._common = _read_common(source)

    def of(self, image: Path, width_px: int, height_px: int) -> list[Annotation] | None:
        """Return the annotations of an image; None if the image is not annotated, empty if it has no cells.

        Raises
        ------
        CohortError
            The annotation file is damaged.
        """
        if self._common is not None:
            return self._common.get(image.name, self._common.get(image.stem))
        place = (self._folder or image.parent) / image.name
        for suffix in (".xml", ".geojson", ".txt"):
            path = place.with_suffix(suffix)
            if path.is_file() and path.name != "classes.txt":
                return self._read(path, width_px, height_px)
        return None

    def _read(self, path: Path, width_px: int, height_px: int) -> list[Annotation]:
        try:
            text = read_text(path)
            if path.suffix == ".xml":
                return read_voc(text)
            if path.suffix == ".geojson":
                return [annotation for _, annotation in read_geojson(json.loads(text))]
            return read_yolo(text, width_px, height_px, self._names)
        except (*_FAULTS, ElementTree.ParseError) as error:
            raise CohortError(f"{path}: cannot be read ({error}); export it again") from None


def read_voc(text: str) -> list[Annotation]:
    """Read Pascal VOC; its numbers count from 1 and include the last pixel."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which are not read")
    found = []
    for entry in ElementTree.fromstring(text).iter("object"):  # noqa: S314 - entities are refused above
        y0, x0, y1, x1 = (
            float(entry.findtext(f"bndbox/{name}", "nan")) for name in ("ymin", "xmin", "ymax", "xmax")
        )
        found.append(_checked((y0 - 1, x0 - 1, y1, x1), entry.findtext("name", "")))
    return found


def read_yolo(text: str, width_px: int, height_px: int, names: tuple[str, ...] = ()) -> list[Annotation]:
    """Read YOLO: class number, then center and size as shares of the image."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) < 5:
            raise ValueError(f"line {number} has {len(parts)} numbers, expected 5")
        x, y, width, height = (float(part) for part in parts[1:5])
        index = int(parts[0])
        label = names[index] if 0 <= index < len(names) else parts[0]
        box = (
            (y - height / 2) * height_px, (x - width / 2) * width_px,
            (y + height / 2) * height_px, (x + width / 2) * width_px,
        )  # fmt: skip
        found.append(_checked(box, label))
    return found


def read_geojson(content: Any) -> list[tuple[str, Annotation]]:
    """Read polygons of QuPath or of our own: image (empty if not stated) and annotation."""
    features = content["features"] if isinstance(content, dict) and "features" in content else content
    if isinstance(features, dict):
        features = [features]
    found = []
    for feature in features:
        points = list(_points(feature["geometry"]["coordinates"]))
        properties = feature.get("properties") or {}
        label = (properties.get("classification") or {}).get("name") or properties.get("label") or ""
        image = (properties.get("metadata") or {}).get("image") or ""
        ys, xs = [y for _, y in points], [x for x, _ in points]
        found.append((str(image), _checked((min(ys), min(xs), max(ys), max(xs)), str(label))))
    return found


def read_coco(content: Any) -> dict[str, list[Annotation]]:
    """Read COCO: annotations by file name; images without any have an empty list."""
    names = {
        image["id"]: Path(str(image["file_name"]).replace("\\", "/")).name for image in content["images"]
    }
    kinds = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    found: dict[str, list[Annotation]] = {name: [] for name in names.values()}
    for entry in content.get("annotations", []):
        x, y, width, height = (float(value) for value in entry["bbox"])
        label = kinds.get(entry.get("category_id"), "")
        found[names[entry["image_id"]]].append(_checked((y, x, y + height, x + width), label))
    return found


def _read_common(path: Path) -> dict[str, list[Annotation]]:
    try:
        content = json.loads(read_text(path))
        if isinstance(content, dict) and "images" in content:
            return read_coco(content)
        by_image: dict[str, list[Annotation]] = {}
        for image, annotation in read_geojson(content):
            by_image.setdefault(Path(image.replace("\\", "/")).name or path.stem, []).append(annotation)
        return by_image
    except _FAULTS as error:
        raise CohortError(f"{path}: neither COCO nor GeoJSON ({error}); export it again") from None


def _points(coordinates: Any) -> Iterable[tuple[float, float]]:
    if coordinates and isinstance(coordinates[0], int | float):
        yield float(coordinates[0]), float(coordinates[1])
        return
    for part in coordinates:
        yield from _points(part)


def _checked(box: tuple[float, float, float, float], label: str) -> Annotation:
    if not all(abs(value) < 1e7 for value in box):
        raise ValueError(f"the box {box} is no box of pixels")
    y0, x0, y1, x1 = box
    return Annotation((min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1)), label.strip())
