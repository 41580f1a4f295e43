"""Output files: tables, QuPath's GeoJSON, COCO, crops, overlays."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.io import OutputFile
from leukoscope.smear.count import UNNAMED, Differential, count_cells
from leukoscope.smear.measure import MEASUREMENTS
from leukoscope.smear.raster import ring_area
from leukoscope.smear.records import CellRecord, FieldRecord, Ring

CELL_COLUMNS = (
    "image", "cell", "y0_px", "x0_px", "y1_px", "x1_px", "kind", "kind_probability", "prediction_set",
    "blast_probability", "immature_probability", "decision", "reasons", "microns_per_pixel", "subject", "smear",
    "score", "touches_border", "touches_cell", "in_focus", *MEASUREMENTS,
)  # fmt: skip
FIELD_COLUMNS = (
    "image", "subject", "smear", "sha256", "width_px", "height_px", "reason", "message", "cells", "smudge_cells",
    "white_cells", "kinds", "blasts", "blast_share", "blast_share_low", "blast_share_high", "nucleated_red_cells",
    "nucleated_red_cells_per_100", "not_white", "uncertain", "rejected_cells", "model",
    "microns_per_pixel", "scale_source", "n_red_cells", "scale_low", "scale_high", "scale_by_red_cells", "edge_um",
    "background_share", "unevenness", "red_cells_od_r", "red_cells_od_g", "red_cells_od_b", "nearest_stain",
    "nearest_stain_distance", "warnings",
)  # fmt: skip

KIND_COLORS = {
    "neutrophil": "#0061a0", "eosinophil": "#006b55", "basophil": "#9c3d7f", "lymphocyte": "#5b4db3",
    "monocyte": "#7a5c00", "immature_granulocyte": "#3f6b1f", "erythroblast": "#8c1d5b", "platelet": "#2f5d73",
    "not_a_white_cell": "#7d4a2d",
}  # fmt: skip
"""Colors of the usual kinds; other kinds have one of ``PALETTE``."""
PALETTE = ("#0b6e4f", "#1f4e9e", "#a23b00", "#7a3e9d", "#8a6d00", "#006d77", "#9d174d", "#4d5b00")
Records = Callable[[], Iterable[FieldRecord]]
"""Gives the fields from the first on, each time it is called: files are written field by field."""


def color_of(kind: str) -> str:
    """Return the color of a kind, the same in every file; ``#rrggbb``."""
    if kind == UNNAMED:
        return PALETTE[0]
    if "blast" in kind and "erythro" not in kind:
        return "#b3001b"
    if kind in KIND_COLORS:
        return KIND_COLORS[kind]
    return PALETTE[sum(kind.encode()) % len(PALETTE)]


def write_tables(directory: Path, records: Records) -> None:
    """Write ``cells.csv`` and ``fields.csv``; fields without cells have their row in the second."""
    with OutputFile(directory / "cells.csv") as cells, OutputFile(directory / "fields.csv") as fields:
        cell_rows = csv.writer(cells.stream, lineterminator="\n")
        field_rows = csv.writer(fields.stream, lineterminator="\n")
        cell_rows.writerow(CELL_COLUMNS)
        field_rows.writerow(FIELD_COLUMNS)
        for record in records():
            values = _field_values(record)
            field_rows.writerow([_text(values[name]) for name in FIELD_COLUMNS])
            for cell in record.cells:
                row = _cell_values(record, cell)
                cell_rows.writerow([_text(row[name]) for name in CELL_COLUMNS])


def _cell_values(record: FieldRecord, cell: CellRecord) -> dict[str, Any]:
    y0, x0, y1, x1 = cell.box
    return {
        "image": record.image, "cell": cell.cell, "y0_px": y0, "x0_px": x0, "y1_px": y1, "x1_px": x1,
        "kind": cell.kind, "kind_probability": cell.kind_probability, "blast_probability": cell.blast_probability,
        "immature_probability": cell.immature_probability, "prediction_set": " ".join(cell.prediction_set),
        "decision": cell.decision, "reasons": " ".join(cell.reasons),
        "microns_per_pixel": record.scale and round(record.scale.value, 6),
        "subject": record.subject, "smear": record.smear, "score": cell.score,
        "touches_border": cell.touches_border, "touches_cell": cell.touches_cell, "in_focus": cell.in_focus,
        **{name: cell.measurements.get(name) for name in MEASUREMENTS},
    }  # fmt: skip


def _field_values(record: FieldRecord) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(FIELD_COLUMNS)
    for name in ("image", "subject", "smear", "sha256", "width_px", "height_px", "message", "edge_um"):
        values[name] = getattr(record, name)
    values["reason"] = record.reason and record.reason.value
    values["model"] = record.model
    if not record.rejected:
        values |= _counted(record)
        values["smudge_cells"] = record.smudge_cells
    values["warnings"] = "; ".join(record.warnings)
    if record.scale is not None:
        low, high = record.scale.interval or (None, None)
        values |= {
            "microns_per_pixel": round(record.scale.value, 6), "scale_source": record.scale.source,
            "n_red_cells": record.scale.n_red_cells, "scale_low": low, "scale_high": high,
            "scale_by_red_cells": record.scale.measured,
        }  # fmt: skip
    if record.stain is not None:
        nearest = min(record.stain.distances.items(), key=lambda item: item[1])
        values |= {
            "background_share": record.stain.background_share, "unevenness": record.stain.unevenness,
            "nearest_stain": nearest[0], "nearest_stain_distance": nearest[1],
            **{f"red_cells_od_{name}": value for name, value in zip("rgb", record.stain.red_cells_od, strict=True)},
        }  # fmt: skip
    return values


def _counted(record: FieldRecord) -> dict[str, Any]:
    """Return the counts of one field; shares only where its cells are named."""
    counts = count_cells(cell.counted() for cell in record.cells)
    values: dict[str, Any] = {
        "cells": len(record.cells), "white_cells": counts.white_cells, "not_white": counts.not_white,
        "uncertain": counts.uncertain, "rejected_cells": counts.rejected,
    }  # fmt: skip
    if record.model is None:
        return values
    kinds = sorted(counts.shares, key=lambda share: share.name)
    values |= {
        "kinds": " ".join(f"{share.name.replace(' ', '_')}={share.count}" for share in kinds),
        "nucleated_red_cells": counts.nucleated_red_cells,
        "nucleated_red_cells_per_100": counts.per_100_white_cells,
    }
    if counts.blasts is not None:
        values |= {
            "blasts": counts.blasts.count, "blast_share": counts.blasts.share,
            "blast_share_low": counts.blasts.low, "blast_share_high": counts.blasts.high,
        }  # fmt: skip
    return values


def _text(value: object) -> str:
    """Return a table cell; text that a spreadsheet would run as a formula is kept as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return (
        f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    )


def write_geojson(path: Path, records: Records) -> None:
    """Write every cell as a QuPath cell object: outline, nucleus, class and measurements.

    Coordinates are px of the upright image, origin top left. QuPath reads one image at a time: of several images each
    feature says its own in ``image``, and ``geojson/`` holds one file per image.
    """
    with OutputFile(path) as file:
        file.stream.write('{"type":"FeatureCollection","features":[')
        _write_joined(
            file.stream, (feature_of(record, cell) for record in records() for cell in record.cells)
        )
        file.stream.write("]}\n")


def feature_of(record: FieldRecord, cell: CellRecord) -> dict[str, Any]:
    """Return one cell as a GeoJSON feature with QuPath's properties."""
    measurements = {
        label: cell.measurements[name]
        for name, label in MEASUREMENTS.items()
        if cell.measurements.get(name) is not None
    }
    measurements |= {"Detection probability": cell.score}
    if cell.kind_probability is not None:
        measurements["Kind probability"] = cell.kind_probability
    if cell.blast_probability is not None:
        measurements["Blast probability"] = cell.blast_probability
    if cell.immature_probability is not None:
        measurements["Immature probability"] = cell.immature_probability
    rgb = [int(color_of(cell.kind)[at : at + 2], 16) for at in (1, 3, 5)]
    feature: dict[str, Any] = {
        "type": "Feature",
        "geometry": geometry_of(cell.outline),
        "properties": {
            "objectType": "cell",
            "name": f"cell {cell.cell}",
            "classification": {"name": cell.kind, "color": rgb},
            "measurements": measurements,
            "metadata": {"image": record.image, "decision": cell.decision, "reasons": " ".join(cell.reasons)},
        },
    }
    if cell.nucleus_outline:
        feature["nucleusGeometry"] = geometry_of(cell.nucleus_outline)
    return feature


def geometry_of(rings: tuple[Ring, ...]) -> dict[str, Any]:
    """Return closed rings as a Polygon, or a MultiPolygon of several parts; each hole with the part around it."""
    parts = [ring for ring in rings if ring_area(np.array(ring)) > 0]
    holes = [ring for ring in rings if ring_area(np.array(ring)) <= 0]
    polygons = [[_closed(part)] for part in parts]
    for hole in holes:
        owner = next((i for i, part in enumerate(parts) if _inside(hole[0], part)), 0)
        polygons[owner].append(_closed(hole))
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _closed(ring: Ring) -> list[list[int]]:
    points = [[x, y] for y, x in ring]
    return [*points, points[0]]


def _inside(point: tuple[int, int], ring: Ring) -> bool:
    """Whether a point lies within a ring's bounding box: holes of another part do not."""
    ys, xs = [y for y, _ in ring], [x for _, x in ring]
    return min(ys) <= point[0] <= max(ys) and min(xs) <= point[1] <= max(xs)


def write_coco(path: Path, records: Records) -> None:
    """Write a COCO file with polygons; images without cells and rejected ones keep their entry."""
    with OutputFile(path) as file:
        names = sorted({cell.kind for record in records() for cell in record.cells}) or [UNNAMED]
        categories = [
            {"id": number, "name": name, "supercategory": "cell"} for number, name in enumerate(names, 1)
        ]
        file.stream.write('{"info":{"description":"leukoscope smear"},"categories":' + json.dumps(categories))
        file.stream.write(',"images":[')
        _write_joined(
            file.stream,
            (
                {
                    "id": number,
                    "file_name": record.image,
                    "width": record.width_px or 0,
                    "height": record.height_px or 0,
                }
                for number, record in enumerate(records(), 1)
            ),
        )
        file.stream.write('],"annotations":[')
        _write_joined(file.stream, _annotations(records, {name: i for i, name in enumerate(names, 1)}))
        file.stream.write("]}\n")


def _annotations(records: Records, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, record in enumerate(records(), 1):
        for cell in record.cells:
            number += 1
            y0, x0, y1, x1 = cell.box
            outer = [ring for ring in cell.outline if ring_area(np.array(ring)) > 0]
            yield {
                "id": number,
                "image_id": image,
                "category_id": numbers[cell.kind],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": sum(ring_area(np.array(ring)) for ring in cell.outline),
                "segmentation": [[value for y, x in ring for value in (x, y)] for ring in outer],
                "iscrowd": 0,
                "score": cell.score,
            }


def _write_joined(stream: IO[str], entries: Iterable[dict[str, Any]]) -> None:
    for index, entry in enumerate(entries):
        stream.write(
            ("," if index else "") + "\n" + json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
        )


def write_picture(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a PNG."""
    from leukoscope.imaging.overlay import encode_png

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(rgb, compress_level=4))


def file_stem(number: int, image: str) -> str:
    """Return a safe file name for the field ``number``: letters, digits, ``-`` and ``_``."""
    file = image.replace("\\", "/").rpartition("/")[2]
    stem = file.rpartition(".")[0] or file
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in stem
    )
    return f"{number:05d}_{safe[:80] or 'image'}"


def count_groups(records: Records) -> dict[str, dict[str, Differential]]:
    """Return the counts of each smear, each subject, and of all fields together."""
    groups: dict[str, dict[str, list[Any]]] = {"smears": {}, "subjects": {}, "all": {"all": []}}
    for record in records():
        counted = [cell.counted() for cell in record.cells]
        groups["smears"].setdefault(record.smear or ".", []).extend(counted)
        if record.subject is not None:
            groups["subjects"].setdefault(record.subject, []).extend(counted)
        groups["all"]["all"].extend(counted)
    return {what: {name: count_cells(cells) for name, cells in of.items()} for what, of in groups.items()}
