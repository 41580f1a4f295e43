"""``leukoscope cross-validate``: a recipe measured on every subject, and its final model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.evaluate import (
    AsJson,
    Attach,
    Replicates,
    evaluation_settings,
    read_attached,
    show_report,
    show_steps,
)
from leukoscope.cli.train import INTERRUPTED, Config, Set, Threads, make_callback
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_SEED
from leukoscope.core.terms import RESEARCH_USE

if TYPE_CHECKING:
    from leukoscope.models.report import Report

LARGEST_REPEATS = 100


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "cross-validate",
        epilog="Example: leukoscope cross-validate cells.csv --config configs/subjects.toml --out runs/cnmc",
    )(cross_validate)


def cross_validate(
    cells: Annotated[Path, typer.Argument(help="Cell table, as written by 'leukoscope data import'.")],
    *,
    config: Config = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs, the report and cross-validation.json.")
    ] = Path("cross-validation"),
    folds: Annotated[
        int, typer.Option(min=2, max=LARGEST_COUNT, help="Outer folds, by merged subjects, stratified.")
    ] = 7,
    repeats: Annotated[
        int, typer.Option(min=1, max=LARGEST_REPEATS, help="How often the subjects are divided.")
    ] = 1,
    name: Annotated[
        str | None, typer.Option(help="Part of the names of the runs; default: name of the configuration.")
    ] = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Random seed.")] = None,
    threads: Threads = None,
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    attach: Attach = None,
    replicates: Replicates = 2000,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted cross-validation in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a recipe by nested cross-validation over subjects, and train the final model on all of them.

    Every choice and every fitted rule of an outer fold comes from inner folds of its other subjects. The report holds
    the pooled outer folds: each cell is tested once, by a model that has not seen its subject.
    """
    from leukoscope.core.outputs import Outputs, json_with
    from leukoscope.evaluation.report import OUTPUT_NAMES, write_outputs
    from leukoscope.training.recipe import read_settings
    from leukoscope.workflows.cross_validation import STATE, report_cross_validation
    from leukoscope.workflows.cross_validation import cross_validate as run

    overrides = [] if seed is None else [f"seed={seed}"]
    overrides += [] if threads is None else [f"engine.threads={threads}"]
    outputs = Outputs(overwrite=resume)
    outputs.read(cells, config, *(attach or ()))
    outputs.folder(
        out, "--out", (STATE, *OUTPUT_NAMES), marker=STATE, own=json_with("runs", "folds", "repeats")
    )
    outputs.check()
    settings = read_settings(config, [*(set_ or []), *overrides])
    attached = read_attached(attach or [])

    def callback(job: str) -> Any:
        if not as_json:
            typer.echo(job, err=True)
        return make_callback(quiet=as_json)

    try:
        found = run(
            cells,
            settings,
            out=out,
            name=name or (config.stem if config is not None else "default"),
            folds=folds,
            repeats=repeats,
            resume=resume,
            make_callback=callback,
        )
    except KeyboardInterrupt:
        typer.secho(
            "Stopped. Finished runs are kept; repeat the command with --resume to continue.", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    with show_steps() as step:
        report = report_cross_validation(
            found, title=title, settings=evaluation_settings(replicates, 0), progress=step
        )
        supplements = (*attached.supplements, *report.supplements)
        report = report.model_copy(update={"supplements": supplements, "robustness": attached.robustness})
        write_outputs(report, out, progress=step)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "report": str(out / OUTPUT_NAMES[0]),
                    "final": str(found.final),
                    "penalties": [run.penalty for run in report.runs],
                    "measures": {
                        key: value.model_dump() for key, value in report.headline.cell.measures.items()
                    },
                    "notice": RESEARCH_USE,
                },
                indent=1,
            )
        )
        return
    show_report(report)
    _show_choices(report)
    typer.echo(f"Written to {out}: report.html (open in a browser, print to PDF), report.json, figures/")
    typer.echo(f"Next: leukoscope export {found.final} --report {out / OUTPUT_NAMES[0]}")


def _show_choices(report: "Report") -> None:
    from leukoscope.models.report import format_measurement

    for run in report.runs:
        if run.penalty is not None:
            typer.echo(f"{run.split}: penalty {run.penalty:g} chosen on its inner folds")
    for supplement in report.supplements:
        for key, value in supplement.measures.items():
            typer.echo(f"{key.replace('_', ' ')}: {format_measurement(value)}")
