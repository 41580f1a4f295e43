"""``leukoscope data``: import, verify, audit, split and sample a cohort."""

import json
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.options import KeepSpelling, Overwrite, check_scale
from leukoscope.core.errors import UsageError
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_SEED, LARGEST_WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

    from leukoscope.core.classes import ClassSchema
    from leukoscope.data.splits import SplitPlan

app = typer.Typer(
    no_args_is_help=True, help="Import, verify, audit, split and sample a cohort of cell images."
)

Table = Annotated[Path, typer.Argument(help="Cell table, as written by 'leukoscope data import'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Random seed.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST_WORKERS, help="Threads; default: the number of processors."),
]
PerClass = Annotated[
    int, typer.Option(min=1, max=LARGEST_COUNT, help="Images of each class in the protocol 'paper'.")
]
Folds = Annotated[int, typer.Option("--k", min=2, max=LARGEST_COUNT, help="Parts of the protocol 'grouped'.")]
CellsAsSubjects = Annotated[
    bool,
    typer.Option(
        help="Accept cells without a subject, each as a separate subject; the plan is marked as leaking."
    ),
]


class ProtocolChoice(StrEnum):
    """How the cells are divided."""

    OFFICIAL = "official"
    GROUPED = "grouped"
    PAPER = "paper"
    ALL = "all"


@app.command("import", epilog="Example: leukoscope data import C-NMC_training_data --out cells.csv")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder (C-NMC archive, Kaggle copy, class folders) or CSV (file, label, subject)."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The cell table to write.")] = Path("cells.csv"),
    blast: Annotated[
        list[str] | None, typer.Option(help="Class name that means blast; may be repeated.")
    ] = None,
    normal: Annotated[
        list[str] | None, typer.Option(help="Class name that means normal; may be repeated.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLASS",
            help="Class folder or label value and its class: blast, normal or none; may be repeated. A folder may "
            "be named with its parents: 'normal/1=normal'.",
        ),
    ] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Table with columns source and subject; overrides file names and columns."
        ),
    ] = None,
    keep_spelling: KeepSpelling = False,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Other classes than blast and normal: a class schema (JSON), or 'folders' to take the names from "
            "class folders or from the CSV's labels."
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="With --classes folders: class of the positive group; may be repeated."),
    ] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    strict: Annotated[
        bool,
        typer.Option(
            help="Write no table and exit with 1 on any issue except duplicates, cropping and non-image files."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read a cohort into a cell table: one row per cell, with digest, label, subject, group and descriptors.

    The layout is detected. The source of the labels is listed first. Issues are printed and listed in NAME.import.json.
    Exit code 1: a file, folder or row could not be read; the others are in the table.

    A second import reads only new and changed files.
    """
    from leukoscope.cli.data_tables import show_import, show_label_sources
    from leukoscope.data.importing import import_cohort

    pairs = dict(_name_and_class(text) for text in labels or ())
    with _progress("Reading images") as progress:
        report = import_cohort(
            source,
            out,
            blast=blast or (),
            normal=normal or (),
            classes=_read_schema(classes, source, positive or ()),
            workers=workers,
            labels=pairs,
            subjects=subjects,
            keep_spelling=keep_spelling,
            announce=show_label_sources,
            strict=strict,
            progress=progress,
            overwrite=overwrite,
        )
    if as_json:
        _print_json(report.to_json())
    else:
        show_import(report)
    if not (report.is_complete and report.is_written):
        raise typer.Exit(1)


def _name_and_class(text: str) -> tuple[str, str]:
    name, separator, label = text.rpartition("=")
    if not separator or not name.strip():
        raise UsageError(f"--labels {text!r}: expected NAME=blast, NAME=normal or NAME=none")
    return name, label


def _read_schema(given: str | None, source: Path, positive: "Sequence[str]") -> "ClassSchema":
    from leukoscope.core.classes import BINARY, ClassSchema
    from leukoscope.core.errors import UsageError
    from leukoscope.data.layouts import found_class_names

    if positive and given != "folders":
        raise UsageError(
            "--positive goes with --classes folders; a class schema names its positive group itself"
        )
    if given is None:
        return BINARY
    if given != "folders":
        return ClassSchema.read(Path(given))
    return ClassSchema.of_names(found_class_names(source), positive)


@app.command(epilog="Example: leukoscope data verify C-NMC_Leukemia")
def verify(
    source: Annotated[
        Path, typer.Argument(help="Folder with C-NMC images; names and subfolders do not matter.")
    ],
    *,
    complete: Annotated[bool, typer.Option(help="Also exit with 1 if an official file is missing.")] = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compare files with the 15,114 official ones of C-NMC 2019 by SHA-256.

    Ends with 1 when a file is altered or unknown.
    """
    from leukoscope.cli.data_tables import show_verification
    from leukoscope.data.verify import verify_files

    with _progress("Hashing") as progress:
        verification = verify_files(source, workers=workers, progress=progress)
    if as_json:
        _print_json(verification.to_json())
    else:
        show_verification(verification)
    if not verification.trustworthy or (complete and verification.missing):
        raise typer.Exit(1)


@app.command(epilog="Example: leukoscope data audit cells.csv --protocol official")
def audit(
    table: Table,
    *,
    protocol: Annotated[
        ProtocolChoice | None,
        typer.Option(help="Protocol of the split to audit; 'official' if there are folds, else 'grouped'."),
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="Audit the splits of this splits.json instead.")] = None,
    k: Folds = 5,
    seed: Seed = 0,
    per_class: PerClass = 2100,
    cells_as_subjects: CellsAsSubjects = False,
    baselines: Annotated[bool, typer.Option(help="Evaluate the baselines of size and color.")] = True,
    as_json: AsJson = False,
) -> None:
    """Report identical images, merged subjects, balance, leaks of a split, and the size and color baselines on it.

    Ends with 1 when the split leaks.
    """
    from leukoscope.cli.data_tables import show_audit, show_baselines, show_leaks
    from leukoscope.data.audit import audit_cells, find_leaks
    from leukoscope.data.splits import make_splits, read_unchecked_splits
    from leukoscope.data.table import read_cells

    if splits is not None and protocol is not None:
        raise UsageError("--splits and --protocol exclude each other; give one of them")
    cells = read_cells(table)
    plan = read_unchecked_splits(splits, cells) if splits is not None else None
    audited = audit_cells(cells)
    if not as_json:
        show_audit(audited)
    if plan is None:
        plan = make_splits(
            cells,
            (protocol or _default_protocol(cells)).value,
            k=k,
            seed=seed,
            validation_share=0,
            per_class=per_class,
            cells_as_subjects=cells_as_subjects,
        )
    leaks = find_leaks(cells, plan)
    scores = _score_baselines(cells, plan) if baselines else []
    if as_json:
        found = {"audit": audited.to_json(), "protocol": plan.protocol, "leaks": leaks, "baselines": scores}
        _print_json(found)
    else:
        show_leaks(plan, leaks)
        show_baselines(scores)
    if leaks:
        raise typer.Exit(1)


@app.command(epilog="Example: leukoscope data explore cells.csv --out cohort.png")
def explore(
    table: Table,
    *,
    out: Annotated[Path, typer.Option(help="Image file to write: .png or .svg.")] = Path("cohort.png"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Plot a cohort: cells by class and fold, subjects, duplicates, areas, colors, image sizes and example cells."""
    from leukoscope.cli.data_tables import show_audit
    from leukoscope.core.io import write_bytes
    from leukoscope.core.outputs import GENERATOR, Outputs, with_mark
    from leukoscope.data.audit import audit_cells
    from leukoscope.data.table import read_cells, read_classes, resolve_paths
    from leukoscope.evaluation.explore import draw_cohort
    from leukoscope.evaluation.figure_style import render

    if out.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--out {out}: expected a name that ends in .png or .svg")
    outputs = Outputs(overwrite=overwrite)
    outputs.read(table)
    outputs.file(out, "--out", own=with_mark())
    outputs.check()
    cells = read_cells(table)
    audited = audit_cells(cells)
    figure = draw_cohort(cells, audited, read_classes(table), resolve_paths(cells, table), seed)
    write_bytes(out, render(figure, "svg" if out.suffix.lower() == ".svg" else "png", source=GENERATOR))
    if as_json:
        _print_json({"file": str(out), "audit": audited.to_json()})
        return
    show_audit(audited)
    typer.echo(f"written: {out}")


@app.command(epilog="Example: leukoscope data split cells.csv --protocol official --out splits.json")
def split(
    table: Table,
    *,
    out: Annotated[Path, typer.Option(help="The splits to write.")] = Path("splits.json"),
    protocol: Annotated[
        ProtocolChoice,
        typer.Option(
            help="official: each fold held out in turn. grouped: k parts by merged subjects. "
            "paper: random images, as in the reference paper; leaks. all: every cell to train, no test part."
        ),
    ] = ProtocolChoice.OFFICIAL,
    k: Folds = 5,
    seed: Seed = 0,
    validation_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Share of the training side used for validation, by whole groups."
        ),
    ] = 0.2,
    per_class: PerClass = 2100,
    cells_as_subjects: CellsAsSubjects = False,
    keep_spelling: KeepSpelling = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Divide the cells into training, validation and test parts; no group is on two sides."""
    from leukoscope.cli.data_tables import show_plan, summarize_plan
    from leukoscope.core.outputs import Outputs, json_with
    from leukoscope.core.subjects import check_spelling
    from leukoscope.data.splits import make_splits, write_splits
    from leukoscope.data.table import read_cells

    outputs = Outputs(overwrite=overwrite)
    outputs.read(table)
    outputs.file(out, "--out", own=json_with("protocol", "splits", "cells_sha256"))
    outputs.check()
    cells = read_cells(table)
    if not keep_spelling and not cells_as_subjects:
        check_spelling(cells["subject"], str(table))
    plan = make_splits(
        cells,
        protocol.value,
        k=k,
        seed=seed,
        validation_share=validation_share,
        per_class=per_class,
        cells_as_subjects=cells_as_subjects,
    )
    write_splits(plan, cells, out)
    if as_json:
        _print_json({"file": str(out), **summarize_plan(plan, cells)})
    else:
        show_plan(plan, cells, out)


@app.command(epilog="Example: leukoscope data sample cells.csv --count 60 --out sample")
def sample(
    table: Table,
    *,
    count: Annotated[
        int, typer.Option(min=2, max=LARGEST_COUNT, help="Total number of cells, half of each class.")
    ] = 20,
    fold: Annotated[list[str] | None, typer.Option(help="Draw from this fold only; may be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Copy the files to this folder; without it they are listed.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw a balanced sample, spread over subjects, and copy or list its files."""
    from leukoscope.core.io import check_output_folder
    from leukoscope.data.sampling import copy_sample, draw_sample
    from leukoscope.data.table import read_cells, resolve_paths

    if out is not None:
        check_output_folder(out)
    cells = read_cells(table)
    if fold:
        unknown = set(fold) - set(cells["fold"])
        if unknown:
            present = ", ".join(sorted(set(cells["fold"]) - {""})) or "none"
            raise UsageError(f"--fold {min(unknown)!r}: there is no such fold; there are: {present}")
        cells = cells[cells["fold"].isin(fold)]
    drawn = draw_sample(cells, count, seed=seed)
    files = (
        resolve_paths(drawn, table) if out is None else copy_sample(drawn, table, out, overwrite=overwrite)
    )
    if as_json:
        rows = drawn[["cell", "label", "subject", "group", "fold"]].to_dict("records")
        _print_json([{**row, "file": str(file)} for row, file in zip(rows, files, strict=True)])
    else:
        for file in files:
            typer.echo(file)


@app.command(epilog="Example: leukoscope data cut fields/ --out cut-cells")
def cut(
    fields: Annotated[
        list[str],
        typer.Argument(help="Fields: images, folders or patterns, with annotations in the same folder."),
    ],
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Write one PNG per cell and cells.csv there.")
    ] = Path("cells"),
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="COCO or GeoJSON file, or a folder of VOC, YOLO or GeoJSON files; default: the folder of the images."
        ),
    ] = None,
    class_name: Annotated[
        list[str] | None,
        typer.Option("--class", help="Name of a YOLO class, in order; may be repeated."),
    ] = None,
    canonical: Annotated[
        bool, typer.Option(help="Cut cells out on the black canvas; else uncut at a fixed scale.")
    ] = False,
    unlabeled: Annotated[bool, typer.Option(help="Also cut detected cells without an annotation.")] = False,
    border: Annotated[bool, typer.Option(help="Also cut cells at the border of the field.")] = False,
    subjects: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Table with columns source and subject; else the folder's name."),
    ] = None,
    microns_per_pixel: Annotated[float | None, typer.Option(help="Scale of all fields.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cut the cells of fields into a cohort for 'data import'.

    Labels come from GeoJSON, COCO, VOC or YOLO; subjects from a table or from the folders of the fields. Ends with 1
    when a field could not be read or searched, or no cell was cut.
    """
    import dataclasses

    from leukoscope.cli.printing import say_skipped
    from leukoscope.core.io import check_output_folder
    from leukoscope.core.subjects import SubjectTable, read_subjects
    from leukoscope.inference.sources import Ignored, iterate_sources
    from leukoscope.smear.annotations import Annotations
    from leukoscope.smear.cutting import CutSettings, cut_cohort
    from leukoscope.smear.files import FIELD_LIMITS, FIELD_SUFFIXES

    check_scale(microns_per_pixel)
    check_output_folder(out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: holds files; name another folder")
    table = SubjectTable(read_subjects(subjects)) if subjects is not None else None
    ignored = Ignored()
    report = cut_cohort(
        iterate_sources(fields, ignored=ignored, limits=FIELD_LIMITS, suffixes=FIELD_SUFFIXES),
        out,
        Annotations(annotations, tuple(class_name or ())),
        settings=CutSettings(canonical, unlabeled, border),
        subject_of=table or (lambda name: Path(name).parent.name),
        microns_per_pixel=microns_per_pixel,
    )
    report.system_files, report.skipped = ignored.system, ignored.count
    say_skipped(ignored)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        labels = ", ".join(
            f"{count} {label or 'without a label'}" for label, count in sorted(report.labels.items())
        )
        typer.echo(
            f"{report.cells} cells of {report.fields} fields: {labels or 'none'}. Table: {out / 'cells.csv'}"
        )
        for file, message in report.odd[:20]:
            typer.echo(f"{file}: {message}", err=True)
    if report.rejected or not report.cells:
        raise typer.Exit(1)


def _default_protocol(cells: "pd.DataFrame") -> ProtocolChoice:
    from leukoscope.data.cnmc import TEST_FOLDS

    folds = set(cells.loc[cells["label"].ne(""), "fold"]) - {"", *TEST_FOLDS}
    return ProtocolChoice.OFFICIAL if len(folds) > 1 else ProtocolChoice.GROUPED


def _score_baselines(cells: "pd.DataFrame", plan: "SplitPlan") -> list[dict[str, Any]]:
    from leukoscope.evaluation.baselines import BASELINES

    rows = []
    with _progress("Baselines") as progress:
        for part in plan.splits:
            row: dict[str, Any] = {"split": part.name, "test_cells": len(part.test)}
            for name, predict in BASELINES.items():
                scores = predict(cells, (*part.train, *part.validation), part.test)
                row[name] = {"auc": scores.auc, "weighted_f1": scores.weighted_f1}
            rows.append(row)
            progress(len(rows), len(plan.splits))
    return rows


@contextmanager
def _progress(what: str) -> "Iterator[Callable[[int, int], None]]":
    """Show a progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_json(content: Any) -> None:
    import dataclasses

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        raise TypeError(f"{type(value).__name__} has no JSON form")

    typer.echo(json.dumps(content, ensure_ascii=False, indent=1, default=plain))
