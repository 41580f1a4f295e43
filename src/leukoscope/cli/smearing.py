"""Run ``leukoscope smear``: read fields, write results to the terminal and into a folder."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.cli.options import check_scale
from leukoscope.cli.printing import printable, say, say_skipped
from leukoscope.core.errors import UsageError
from leukoscope.core.outputs import Outputs, json_with
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.core.text import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leukoscope.inference.cells import Source
    from leukoscope.smear.count import Differential
    from leukoscope.smear.naming import BundleClassifier
    from leukoscope.smear.records import FieldRecord

UNNAMED_CELLS = "none"
"""Word of ``--bundle`` that leaves the cells without names."""


@dataclass(frozen=True)
class SmearOptions:
    """Options of ``leukoscope smear``; see its ``--help``."""

    sources: tuple[str, ...]
    out: Path | None = None
    bundle: str = "leukoscope-kinds"
    as_json: bool = False
    quiet: bool = False
    resume: bool = False
    overwrite: bool = False
    subjects: Path | None = None
    finder: str = "finder"
    keep_spelling: bool = False
    profile: Path | None = None
    microns_per_pixel: float | None = None


def run_smear(options: SmearOptions) -> int:
    """Read all fields and return the exit code: 1 if one was rejected."""
    _check(options)
    _check_outputs(options)
    from leukoscope.cli.predicting import subject_of
    from leukoscope.inference.sources import Ignored, iterate_sources
    from leukoscope.smear.files import FIELD_LIMITS, FIELD_SUFFIXES
    from leukoscope.smear.finder_network import load_finder
    from leukoscope.smear.folder import SmearFolder
    from leukoscope.smear.reading import read_smear
    from leukoscope.smear.search import CLASSICAL

    ignored = Ignored()
    found = iterate_sources(
        options.sources,
        subject_of=subject_of(options.subjects, keep_spelling=options.keep_spelling),
        stdin=sys.stdin.buffer,
        ignored=ignored,
        limits=FIELD_LIMITS,
        suffixes=FIELD_SUFFIXES,
    )
    counts = _Counts(options)
    finder: Any = options.finder if options.finder == CLASSICAL else load_finder(options.finder)
    classifier = _classifier(options)
    reading_options: dict[str, Any] = {
        "microns_per_pixel": options.microns_per_pixel,
        "finder": finder,
        "classifier": classifier,
        "usual_microns_per_pixel": None if classifier is None else classifier.predictor.microns_per_pixel,
    }
    if options.out is None:
        for reading in read_smear(found, **reading_options):
            counts.add(reading.record)
    else:
        settings = {
            "microns_per_pixel": options.microns_per_pixel,
            "finder": getattr(finder, "name", options.finder),
            "finder_sha256": getattr(finder, "sha256", None),
            "model": None if classifier is None else classifier.model,
            "subjects": None,
        }
        if options.subjects is not None:
            settings["subjects"] = read_text(options.subjects)
        with SmearFolder(options.out, settings, resume=options.resume, overwrite=options.overwrite) as folder:
            for record in folder.records():
                counts.count(record)
            rest = _skip(found, folder.done)
            for reading in read_smear(rest, **reading_options):
                folder.add(reading)
                counts.add(reading.record)
            folder.finish()
    say_skipped(ignored, quiet=options.quiet)
    counts.finish()
    return 1 if counts.rejected else 0


def _check(options: SmearOptions) -> None:
    if not options.sources:
        raise UsageError("no image named; for example: leukoscope smear field.jpg --out results")
    if options.out is None and (options.resume or options.overwrite):
        raise UsageError("--resume and --overwrite are about a folder; name it with --out DIR")
    if options.resume and options.overwrite:
        raise UsageError("--resume continues and --overwrite starts again; give one of them")
    check_scale(options.microns_per_pixel)


def _classifier(options: SmearOptions) -> "BundleClassifier | None":
    """Open the bundle that names the cells; None for ``--bundle none``."""
    if options.bundle == UNNAMED_CELLS:
        if options.profile is not None:
            raise UsageError("--profile corrects the names of cells; leave it out with --bundle none")
        return None
    from leukoscope.smear.naming import BundleClassifier

    return BundleClassifier.open(options.bundle, options.profile)


def _check_outputs(options: SmearOptions) -> None:
    """Check the output before the work; raise an error if a file would be lost."""
    from leukoscope.smear.folder import OUTPUT_NAMES, SETTINGS

    outputs = Outputs(overwrite=options.overwrite)
    outputs.read(*(source for source in options.sources if source != "-"), options.subjects)
    own = json_with("microns_per_pixel", "finder")
    outputs.folder(options.out, "--out", OUTPUT_NAMES, marker=SETTINGS, own=own)
    outputs.check()


def _skip(sources: "Iterator[Source]", done: list[str]) -> "Iterator[Source]":
    """Skip the images in the folder, after checking that they are the same in the same order."""
    for number, name in enumerate(done, 1):
        source = next(sources, None)
        if source is None or source.name != name:
            given = "none" if source is None else source.name
            raise UsageError(
                f"image {number} of the folder is {name}, but of this call {given}; "
                "resume with the images of the first call, or name another folder"
            )
    return sources


class _Counts:
    """Counts fields and cells, and prints a row per field."""

    def __init__(self, options: SmearOptions) -> None:
        self._options = options
        self._fields = self._shown = 0
        self._cells: list[Any] = []
        self.rejected = 0

    def count(self, record: "FieldRecord") -> None:
        self._fields += 1
        self.rejected += record.rejected
        self._cells.extend(cell.counted() for cell in record.cells)

    def add(self, record: "FieldRecord") -> None:
        self.count(record)
        if self._options.as_json:
            print(record.model_dump_json())  # noqa: T201
        elif not self._options.quiet:
            self._print_row(record)

    def _print_row(self, record: "FieldRecord") -> None:
        if not self._shown:
            print(f"{'cells':>5}  {'um/px':<8}{'by':<22}image")  # noqa: T201
        self._shown += 1
        if record.rejected or record.scale is None:
            print(f"{'-':>5}  {'-':<8}{'rejected':<22}{printable(record.image)}\n       {record.message}")  # noqa: T201
            return
        scale = record.scale
        by = {
            "red_cells": f"{scale.n_red_cells} red cells",
            "red_cells_of_smear": "red cells of smear",
            "red_cells_by_network": f"{scale.n_red_cells} red cells",
        }
        source = by.get(scale.source, scale.source)
        print(f"{len(record.cells):>5}  {scale.value:<8.4f}{source:<22}{printable(record.image)}")  # noqa: T201
        for warning in record.warnings:
            print(f"       {warning}")  # noqa: T201

    def finish(self) -> None:
        if self._options.as_json or self._options.quiet:
            return
        from leukoscope.smear.count import count_cells

        counts = count_cells(self._cells)
        images = f"{self._fields:,} image{'' if self._fields == 1 else 's'}"
        cells = f"{counts.white_cells:,} white cell{'' if counts.white_cells == 1 else 's'}"
        print(f"\n{images}, {self.rejected:,} rejected: {cells}. {RESEARCH_USE}")  # noqa: T201
        if counts.blasts is not None:
            _print_differential(counts)
        if counts.warning:
            print(f"warning: {counts.warning}")  # noqa: T201
        if self._options.out is not None:
            say(f"written: {self._options.out} (open report.html)")


def _print_differential(counts: "Differential") -> None:
    for share in counts.shares:
        if share.share is not None:
            interval = f"{100 * (share.low or 0):.1f} to {100 * (share.high or 0):.1f}"
            print(f"{share.count:>5}  {share.name.replace('_', ' '):<22}{share.share:>7.1%}  ({interval})")  # noqa: T201
    blasts = counts.blasts
    if blasts is not None and blasts.share is not None:
        print(  # noqa: T201
            f"blasts per 100 white cells: {100 * blasts.share:.1f} "
            f"({100 * (blasts.low or 0):.1f} to {100 * (blasts.high or 0):.1f}); nucleated red cells per 100: "
            f"{counts.per_100_white_cells or 0:.1f}; uncertain {counts.uncertain}, rejected {counts.rejected}, "
            f"not white {counts.not_white}"
        )
