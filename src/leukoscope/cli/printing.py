"""Results as rows: on the terminal and in CSV files."""

import csv
import json
import sys
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from leukoscope.core.io import OutputFile
from leukoscope.core.terms import Decision

if TYPE_CHECKING:
    from leukoscope.inference.results import CellResult, SubjectResult

CSV_COLUMNS = (
    "source", "decision", "probability", "subject", "logit", "threshold", "prediction_set", "novelty",
    "reasons", "width_px", "height_px", "area_px", "heat_map", "duration_ms", "model", "model_sha256", "notice",
)  # fmt: skip
SUBJECT_COLUMNS = (
    "subject", "cells", "judged", "rejected", "uncertain", "blasts", "blast_share", "blast_share_low",
    "blast_share_high", "probability", "decision", "notice",
)  # fmt: skip
_COLOURS = {
    Decision.BLAST: "red", Decision.NORMAL: "blue", Decision.UNCERTAIN: "yellow", Decision.REJECTED: "bright_black",
}  # fmt: skip


class CsvFile:
    """A CSV of results that is put into its place when it is complete."""

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
        values["prediction_set"] = " ".join(result.prediction_set)
        self._writer.writerow([_cell(values[column]) for column in CSV_COLUMNS])


def write_subjects(path: Path, subjects: "list[SubjectResult]") -> None:
    """Write the pooled results of subjects as CSV, in one step."""
    with OutputFile(path) as file:
        writer = csv.writer(file.stream, lineterminator="\n")
        writer.writerow(SUBJECT_COLUMNS)
        for entry in subjects:
            values = entry.model_dump(mode="json")
            writer.writerow([_cell(values[name]) for name in SUBJECT_COLUMNS])


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


def print_row(result: "CellResult", *, first: bool) -> None:
    """Print one result as a row of the table; the first one brings the head."""
    if first:
        print(f"{'decision':<11}{'P(blast)':<10}{'subject':<9}image")  # noqa: T201
    score = "-" if result.probability is None else f"{result.probability:.3f}"
    word = typer.style(f"{result.decision.value:<11}", fg=_COLOURS[result.decision])
    typer.echo(f"{word}{score:<10}{result.subject or '-':<9}{printable(result.source)}")
    for reason in result.reasons:
        typer.echo(f"{'':<11}{reason.message}")


def print_subjects(subjects: "list[SubjectResult]") -> None:
    """Print the pooled results of subjects, at most 200."""
    print(f"\n{'subject':<12}{'pooled':<11}{'P(blast)':<10}{'judged':>6}{'rejected':>10}  share of blasts")  # noqa: T201
    for entry in islice(subjects, 200):
        score = "-" if entry.probability is None else f"{entry.probability:.3f}"
        share = "-"
        if entry.blast_share is not None:
            share = f"{entry.blast_share:.0%} ({entry.blast_share_low:.0%} to {entry.blast_share_high:.0%})"
        counts = f"{entry.judged:>6}{entry.rejected:>10}"
        print(f"{printable(entry.subject):<12}{entry.decision.value:<11}{score:<10}{counts}  {share}")  # noqa: T201
    if len(subjects) > 200:
        say(f"{len(subjects) - 200} more subjects; --out DIR writes them all")


def printable(text: str) -> str:
    """Return a name without control characters, which could steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def say(text: str) -> None:
    """Print a remark on stderr, so that it never mixes with results."""
    print(text, file=sys.stderr)  # noqa: T201
