"""Results as rows: on the terminal and in CSV files."""

import csv
import json
import sys
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from leukoscope.core.classes import ClassSchema
from leukoscope.core.io import OutputFile
from leukoscope.core.terms import Status

if TYPE_CHECKING:
    from leukoscope.inference.results import CellResult, SubjectResult
    from leukoscope.inference.sources import Ignored

CSV_COLUMNS = (
    "source", "decision", "probability", "subject", "logit", "threshold", "prediction_set", "novelty",
    "reasons", "width_px", "height_px", "area_px", "heat_map", "duration_ms", "model", "model_sha256", "notice",
    "status", "label", "probabilities", "warnings", "cell", "cells", "box", "microns_per_pixel",
)  # fmt: skip
SUBJECT_COLUMNS = (
    "subject", "decision", "status", "label", "cells", "classified", "rejected", "uncertain", "blasts",
    "blast_share", "blast_share_low", "blast_share_high", "probability", "notice",
)  # fmt: skip
_STATUS_COLORS = {Status.UNCERTAIN: "yellow", Status.REJECTED: "bright_black"}
_CLASS_COLORS = (
    "blue",
    "green",
    "cyan",
    "magenta",
    "bright_blue",
    "bright_green",
    "bright_cyan",
    "bright_magenta",
)


class CsvFile:
    """A CSV file of results that is moved into place when it is complete."""

    def __init__(self, path: Path) -> None:
        self._file = OutputFile(path)
        self._writer = csv.writer(self._file.stream, lineterminator="\n")
        self._writer.writerow(CSV_COLUMNS)

    def __enter__(self) -> "CsvFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def add(self, result: "CellResult") -> None:
        """Write one row."""
        values = result.model_dump(mode="json")
        values["model"], values["model_sha256"] = (
            f"{result.model.name} {result.model.version}",
            result.model.sha256,
        )
        values["reasons"] = " ".join(reason.code.value for reason in result.reasons)
        values["warnings"] = " ".join(warning.code.value for warning in result.warnings)
        values["prediction_set"] = " ".join(result.prediction_set)
        values["probabilities"] = " ".join(
            f"{name}={share!r}" for name, share in result.probabilities.items()
        )
        values["box"] = None if result.box is None else " ".join(map(str, result.box))
        self._writer.writerow([_cell(values[column]) for column in CSV_COLUMNS])


def write_subjects(path: Path, subjects: "list[SubjectResult]") -> None:
    """Write the pooled results of subjects as CSV, in one step."""
    by_class = [f"{kind}:{name}" for kind in ("count", "probability") for name in subjects[0].counts]
    with OutputFile(path) as file:
        writer = csv.writer(file.stream, lineterminator="\n")
        writer.writerow([*SUBJECT_COLUMNS, *by_class])
        for entry in subjects:
            values = entry.model_dump(mode="json")
            values |= {f"count:{name}": number for name, number in entry.counts.items()}
            values |= {f"probability:{name}": entry.probabilities.get(name) for name in entry.counts}
            writer.writerow([_cell(values[name]) for name in (*SUBJECT_COLUMNS, *by_class)])


def _cell(value: object) -> str:
    """Return a table cell; text that a spreadsheet would run as a formula is kept as text."""
    if value is None:
        return ""
    text = str(value)
    return (
        f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    )


def print_json(result: "CellResult") -> None:
    """Print one result as a line of JSON, in ASCII where the terminal or pipe is not set to UTF-8."""
    text = result.model_dump_json()
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" and not text.isascii():
        text = "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in text)
    print(text)  # noqa: T201


def print_row(result: "CellResult", classes: ClassSchema, *, first: bool) -> None:
    """Print one result as a row of the table; the first call prints the header."""
    width = _decision_width(classes)
    likeliest = max(result.probabilities.values(), default=None)
    probability = result.probability if classes.positive else likeliest
    head = f"P({classes.positive_name or 'class'})"
    if first:
        print(f"{'decision':<{width}}{head:<{_score_width(head)}}{'subject':<9}image")  # noqa: T201
    score = "-" if probability is None else f"{probability:.3f}"
    word = typer.style(f"{result.decision:<{width}}", fg=_color(result.decision, classes))
    typer.echo(f"{word}{score:<{_score_width(head)}}{result.subject or '-':<9}{printable(result.title)}")
    for reason in result.reasons:
        typer.echo(f"{'':<{width}}{reason.message}")
    if result.ends_image:  # once for a photograph: they are the same for all its cells
        for warning in result.warnings:
            typer.echo(f"{'':<{width}}warning: {warning.message}")


def _decision_width(classes: ClassSchema) -> int:
    return max(len(decision) for decision in classes.decisions) + 2


def _score_width(head: str) -> int:
    return max(10, len(head) + 2)


def _color(decision: str, classes: ClassSchema) -> str:
    """Return the terminal color: red for the positive group, one of the palette for other classes."""
    if classes.is_positive(decision):
        return "red"
    if decision in classes.names:
        others = [name for name in classes.names if not classes.is_positive(name)]
        return _CLASS_COLORS[others.index(decision) % len(_CLASS_COLORS)]
    return _STATUS_COLORS[Status(decision)]


def print_subjects(subjects: "list[SubjectResult]", classes: ClassSchema) -> None:
    """Print the pooled results of subjects, at most 200."""
    width = _decision_width(classes)
    positive = classes.positive_name
    score_head = f"P({positive or 'class'})"
    share_head = "share of blasts" if positive == "blast" else f"share of {positive}" if positive else ""
    print(  # noqa: T201
        f"\n{'subject':<12}{'pooled':<{width}}{score_head:<{_score_width(score_head)}}{'classified':>10}{'rejected':>10}"
        f"  {share_head}".rstrip()
    )
    for entry in islice(subjects, 200):
        likeliest = max(entry.probabilities.values(), default=None)
        probability = entry.probability if positive else likeliest
        score = "-" if probability is None else f"{probability:.3f}"
        share = "-"
        if entry.blast_share is not None:
            share = f"{entry.blast_share:.0%} ({entry.blast_share_low:.0%} to {entry.blast_share_high:.0%})"
        counts = f"{entry.classified:>10}{entry.rejected:>10}"
        name = f"{printable(entry.subject):<12}{entry.decision:<{width}}"
        print(f"{name}{score:<{_score_width(score_head)}}{counts}  {share}")  # noqa: T201
    if len(subjects) > 200:
        say(f"{len(subjects) - 200} more subjects; --out DIR writes them all")


def printable(text: str) -> str:
    """Return a name without control characters, which could control the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def say(text: str) -> None:
    """Print a message on stderr, separate from the results."""
    print(text, file=sys.stderr)  # noqa: T201


def say_skipped(ignored: "Ignored", *, quiet: bool = False) -> None:
    """Say what folders and archives held that was not read; empty folders even if ``quiet``."""
    if ignored.empty:
        more = ", ..." if len(ignored.empty) > 3 else ""
        say(f"warning: folders without an image: {', '.join(ignored.empty[:3])}{more}")
    if quiet:
        return
    if ignored.system:
        names = ", ".join(ignored.system_examples) + (", ..." if ignored.system > 3 else "")
        say(f"{ignored.system} files and folders of an operating system skipped ({names})")
    if ignored.count:
        names = ", ".join(ignored.examples) + (", ..." if ignored.count > len(ignored.examples) else "")
        say(f"{ignored.count} other files skipped, which are no images by their name ({names})")
