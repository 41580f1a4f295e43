"""The folder that ``leukoscope smear`` writes: a journal of fields, and the files made from it at the end."""

import dataclasses
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from leukoscope.core.errors import UsageError
from leukoscope.core.io import OutputFile
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.inference.locking import FolderLock
from leukoscope.smear.count import count_cells
from leukoscope.smear.drawing import draw_overlay
from leukoscope.smear.exports import (
    count_groups,
    file_stem,
    write_coco,
    write_geojson,
    write_picture,
    write_tables,
)
from leukoscope.smear.reading import FieldReading
from leukoscope.smear.records import CellRecord, FieldRecord
from leukoscope.smear.report import write_report

JOURNAL = "fields.jsonl"
LOCK = "smear.lock"
SETTINGS = "smear.settings.json"
REPORT = "report.html"
OUTPUT_NAMES = (
    SETTINGS, JOURNAL, REPORT, "cells.csv", "fields.csv", "smear.json", "cells.geojson", "coco.json", "crops",
    "overlays", "geojson",
)  # fmt: skip
"""Options of the output."""


class SmearFolder:
    """Results of one call on disk; survives a kill and can be continued.

    Parameters
    ----------
    directory
        Made where it is missing; locked against other processes until the ``with`` block is left.
    settings
        What the results depend on.
    resume
        Go on after the last whole field.
    overwrite
        Delete existing results and start again.

    Attributes
    ----------
    done
        Names of the images that were there already, in their order.

    Raises
    ------
    UsageError
        The folder holds results and neither ``resume`` nor ``overwrite`` is set, or they were made with other settings.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.directory = directory
        self._journal = directory / JOURNAL
        self._settings = settings
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{directory}: cannot be written ({error.strerror}); name another folder"
            ) from None
        self._lock = FolderLock(directory / LOCK)
        try:
            self._begin(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, resume: bool, overwrite: bool) -> None:
        if overwrite:
            self._journal.unlink(missing_ok=True)
        if self._journal.exists() and not resume:
            raise UsageError(
                f"{self._journal}: exists; continue with --resume, replace it with --overwrite, or name another folder"
            )
        place = self.directory / SETTINGS
        if self._journal.exists():
            _cut_last_line(self._journal)
            before = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
            changed = sorted(
                key for key in {*before, *self._settings} if before.get(key) != self._settings.get(key)
            )
            if changed:
                raise UsageError(
                    f"{place}: made with other settings ({', '.join(changed)}); name another folder"
                )
        else:
            with OutputFile(place) as file:
                json.dump(self._settings, file.stream, indent=1)
        self.done = [record.image for record in self.records()]
        self._file: BinaryIO = self._journal.open("ab")
        self._number = len(self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()

    def add(self, reading: FieldReading) -> None:
        """Write a field's overlay and crops, then its line in the journal."""
        self._number += 1
        stem = file_stem(self._number, reading.record.image)
        if reading.overview is not None:
            write_picture(
                self.directory / "overlays" / f"{stem}.png", draw_overlay(reading.overview, reading.record)
            )
        for cell, crop in zip(reading.record.cells, reading.crops, strict=True):
            write_picture(self.directory / "crops" / f"{stem}_{cell.cell:04d}.png", crop)
        self._file.write(reading.record.model_dump_json().encode() + b"\n")
        self._file.flush()

    def records(self) -> Iterator[FieldRecord]:
        """Yield every field from the first on."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield FieldRecord.model_validate_json(line)
                except ValidationError as error:
                    text = f"{self._journal}, line {number}: no field of this version ({error.errors()[0]['msg']})"
                    raise UsageError(f"{text}; start again with --overwrite") from None

    def finish(self) -> None:
        """Write tables, GeoJSON, COCO, ``smear.json`` and the report from the journal."""
        self._file.flush()
        groups = count_groups(self.records)
        write_tables(self.directory, self.records)
        write_geojson(self.directory / "cells.geojson", self.records)
        if self._number > 1:
            self._write_geojson_by_image()
        write_coco(self.directory / "coco.json", self.records)
        self._write_summary({what: dict(of) for what, of in groups.items()})
        write_report(self.directory / REPORT, self.records, groups, self._overlay, self._crop)

    def _write_geojson_by_image(self) -> None:
        (self.directory / "geojson").mkdir(exist_ok=True)
        for number, record in enumerate(self.records(), 1):
            path = self.directory / "geojson" / f"{file_stem(number, record.image)}.geojson"
            write_geojson(path, lambda one=record: [one])  # type: ignore[misc]

    def _write_summary(self, groups: dict[str, dict[str, Any]]) -> None:
        fields = [
            record.model_dump(mode="json", exclude={"cells", "notice"}) | _counts_of(record)
            for record in self.records()
        ]
        content = {
            "schema_version": 1,
            "notice": RESEARCH_USE,
            "versions": {
                "leukoscope": version("leukoscope"),
                "numpy": np.__version__,
                "pillow": version("pillow"),
            },
            "settings": self._settings,
            "counts": {
                what: {name: dataclasses.asdict(counts) for name, counts in of.items()}
                for what, of in groups.items()
            },
            "stain": _stain_of_smears(fields),
            "fields": fields,
        }
        with OutputFile(self.directory / "smear.json") as file:
            json.dump(content, file.stream, indent=1, ensure_ascii=False)
            file.stream.write("\n")

    def _overlay(self, number: int, record: FieldRecord) -> NDArray[np.uint8] | None:
        return _read_png(self.directory / "overlays" / f"{file_stem(number, record.image)}.png")

    def _crop(self, number: int, record: FieldRecord, cell: CellRecord) -> NDArray[np.uint8] | None:
        return _read_png(self.directory / "crops" / f"{file_stem(number, record.image)}_{cell.cell:04d}.png")


def _counts_of(record: FieldRecord) -> dict[str, Any]:
    counts = count_cells(cell.counted() for cell in record.cells)
    return {
        "cells": len(record.cells), "white_cells": counts.white_cells, "differential": dataclasses.asdict(counts),
    }  # fmt: skip


def _stain_of_smears(fields: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the median distance to each reference laboratory, by smear."""
    distances: dict[str, dict[str, list[float]]] = {}
    for field in fields:
        if field["stain"] is not None:
            of = distances.setdefault(field["smear"] or ".", {})
            for name, value in field["stain"]["distances"].items():
                of.setdefault(name, []).append(value)
    return {smear: {name: float(np.median(v)) for name, v in of.items()} for smear, of in distances.items()}


def _read_png(path: Path) -> NDArray[np.uint8] | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _cut_last_line(path: Path) -> None:
    """Remove an incomplete last line after a kill."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
