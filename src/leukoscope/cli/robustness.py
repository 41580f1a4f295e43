"""``leukoscope robustness``: how steady the answers of a bundle are under small changes of the image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.options import Overwrite, check_scale, check_turns
from leukoscope.cli.progress import ProgressBar
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_REPLICATES, LARGEST_SEED, LARGEST_WORKERS

if TYPE_CHECKING:
    from leukoscope.models.report import Measurements, Robustness

JSON_FILE, CSV_FILE, FIGURE = "robustness.json", "robustness.csv", "robustness"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog="Example: leukoscope robustness cells.csv --out robustness")(robustness)


def robustness(
    table: Annotated[Path, typer.Argument(help="Cell table, as written by 'leukoscope data import'.")],
    *,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", "-b", metavar="DIR", help="Folder of the bundle, or the name of a shipped one."
        ),
    ] = None,
    cells_per_subject: Annotated[
        int, typer.Option(min=1, max=LARGEST_COUNT, help="Cells of each subject at most.")
    ] = 20,
    fold: Annotated[str | None, typer.Option(help="Only cells of this fold.")] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the bundle's operating points (see bundle show)."),
    ] = None,
    tta: Annotated[int, typer.Option(help="Average over 4 rotations, or 8 with mirror images.")] = 1,
    engine: Annotated[str, typer.Option(help="openvino, onnxruntime or onnxruntime-cuda.")] = "openvino",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_WORKERS, help="Threads of the engine; default: all cores."),
    ] = None,
    microns_per_pixel: Annotated[
        float | None,
        typer.Option(help="Scale of the images, for a bundle of uncut cells such as leukoscope-kinds."),
    ] = None,
    replicates: Annotated[
        int, typer.Option(min=200, max=LARGEST_REPLICATES, help="Resamples of subjects for each interval.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the choice of cells and of the resampling.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write robustness.json, .csv, .svg and .png into this folder.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print robustness.json instead of a table.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
) -> None:
    """Measure how steady the decisions are under turns, compression, changes of color, focus, scale and place.

    Cells of each subject are predicted as they are and after each small change: the share of decisions and calls that
    change, the share of rejected cells, and the AUC, each subject having the same weight.

    Exit code 0: measured, whether or not the aims are reached. 1: an image could not be read (the others are
    measured), or none could. 2: wrong usage.
    """
    from leukoscope.core.outputs import Outputs, csv_with, json_with, with_mark
    from leukoscope.evaluation.figures_robustness import CSV_HEADER
    from leukoscope.inference.predictor import Predictor
    from leukoscope.workflows.robustness import measure_robustness

    check_scale(microns_per_pixel)
    check_turns(tta)
    outputs = Outputs(overwrite=overwrite)
    outputs.read(table)
    outputs.read_whole(bundle)
    if out is not None:
        outputs.folder(out, "--out")
        outputs.file(out / JSON_FILE, "--out", own=json_with("unchanged", "perturbations"))
        outputs.file(out / CSV_FILE, "--out", own=csv_with(CSV_HEADER))
        for kind in ("svg", "png"):
            outputs.file(out / f"{FIGURE}.{kind}", "--out", own=with_mark())
    outputs.check()
    predictor = Predictor.open(
        bundle,
        engine=engine,
        threads=threads,
        tta=tta,
        operating_point=operating_point,
        streaming=True,
        microns_per_pixel=microns_per_pixel,
    )
    with ProgressBar("cells", quiet=quiet) as bar:
        result, unreadable = measure_robustness(
            predictor,
            table,
            cells_per_subject=cells_per_subject,
            fold=fold,
            seed=seed,
            replicates=replicates,
            progress=bar.show,
        )
    if out is not None:
        _write(result, out)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    elif not quiet:
        _show(result)
    for name in unreadable[:3]:
        typer.echo(f"warning: not read: {name}", err=True)
    if unreadable:
        typer.echo(f"warning: {len(unreadable)} images could not be read and were left out", err=True)
        raise typer.Exit(1)


def _write(result: "Robustness", folder: Path) -> None:
    from leukoscope.core.io import write_bytes, write_text
    from leukoscope.core.outputs import GENERATOR
    from leukoscope.evaluation.figure_style import render
    from leukoscope.evaluation.figures_robustness import draw_robustness, robustness_csv

    write_text(folder / JSON_FILE, result.model_dump_json(indent=1) + "\n")
    write_text(folder / CSV_FILE, robustness_csv(result))
    source = f"{GENERATOR} robustness, model {result.model_sha256[:12]}, cells {result.cells_sha256[:12]}"
    figure = draw_robustness(result)
    write_bytes(folder / f"{FIGURE}.svg", render(figure, "svg", source))
    write_bytes(folder / f"{FIGURE}.png", render(figure, "png", source))


def _show(result: "Robustness") -> None:
    """Print values without intervals, which fit a terminal; the files hold the intervals."""
    from rich.console import Console
    from rich.table import Table

    from leukoscope.core.terms import RESEARCH_USE
    from leukoscope.models.robustness_table import UNCHANGED, robustness_text

    table = Table("Change", "Decisions changed", "Aim", "Called as another class", "Rejected", "ROC AUC")
    table.add_row(UNCHANGED, "", "", "", *_values(result.unchanged, "rejected", "roc_auc"), end_section=True)
    rows = result.perturbations
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        changed, *others = _values(
            row.measures, "decisions_changed", "decisions_reversed", "rejected", "roc_auc"
        )
        aim = "" if row.aim is None else f"{row.aim * 100:.0f} %, {'reached' if row.reached else 'missed'}"
        last = following is not None and following.group != row.group
        table.add_row(row.title, changed, aim, *others, end_section=last)
    console = Console()
    console.print(table)
    console.print(robustness_text(result))
    console.print(RESEARCH_USE)


def _values(measures: "Measurements", *names: str) -> list[str]:
    from leukoscope.models.metric_info import NOT_ESTIMABLE, format_value

    values = [(name, measures[name].value) for name in names]
    return [
        NOT_ESTIMABLE if value is None else format_value(value, percent=name != "roc_auc")
        for name, value in values
    ]
