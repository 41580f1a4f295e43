"""``leukoscope evaluate``, ``compare`` and ``leakage``: from finished runs to reports."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from leukoscope.cli.options import Overwrite
from leukoscope.core.errors import UsageError
from leukoscope.core.io import write_text
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_REPLICATES, LARGEST_SEED
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.core.validation import first_fault

if TYPE_CHECKING:
    from leukoscope.evaluation.leakage import Inflation
    from leukoscope.evaluation.split_report import EvaluationSettings
    from leukoscope.models.report import Report, Robustness, Supplement

Replicates = Annotated[
    int, typer.Option(min=200, max=LARGEST_REPLICATES, help="Resamples of subjects for each interval.")
]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the resampling.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Attach = Annotated[
    list[Path] | None,
    typer.Option(
        help="JSON of another command to include (explain-check, novelty, robustness); may be repeated."
    ),
]
Runs = Annotated[list[Path], typer.Argument(help="Run folders, as 'leukoscope train' wrote them.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command, example in (
        (evaluate, "evaluate runs/fold_0_to_1 runs/fold_1_to_0 --pooled --out reports/b3"),
        (compare, "compare runs/b3 runs/resnet50 reports/b3/report.json --out reports/all"),
        (leakage, "leakage runs/paper_split runs/fold_0_to_1"),
    ):
        app.command(epilog=f"Example: leukoscope {example}")(command)


def evaluate(
    runs: Runs,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; RUN/evaluation for one run, 'evaluation' for several."),
    ] = None,
    pooled: Annotated[bool, typer.Option(help="Add the pooled estimate over all test parts.")] = False,
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    attach: Attach = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that cell keys are relative to: images for the galleries.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle for the heat maps of the galleries.")] = None,
    replicates: Replicates = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a table.")] = False,
) -> None:
    """Measure finished runs by cell and by subject; write report.json, figures and one HTML page.

    Thresholds and temperature are fitted on validation rows; the test part is touched once. Score tables are enough;
    --images and --bundle only add pictures.
    """
    if bundle is not None and images is None:
        raise UsageError("--bundle draws heat maps over cell images; name their folder with --images")
    from leukoscope.core.outputs import Outputs, json_with
    from leukoscope.evaluation.protocol import evaluate as evaluate_runs
    from leukoscope.evaluation.report import OUTPUT_NAMES, cells_to_picture, write_outputs

    folder = out or (runs[0] / "evaluation" if len(runs) == 1 else Path("evaluation"))
    outputs = Outputs(overwrite=overwrite)
    outputs.read(*runs, *(attach or ()), images)
    outputs.read_whole(bundle)
    report_json = json_with("schema_version", "runs", "splits", "caveats")
    outputs.folder(folder, "--out", OUTPUT_NAMES, marker=OUTPUT_NAMES[0], own=report_json)
    outputs.check()
    attached = read_attached(attach or [])
    with show_steps() as step:
        report = evaluate_runs(
            runs, pooled=pooled, title=title, settings=evaluation_settings(replicates, seed), progress=step
        )
        report = report.model_copy(update=attached._asdict())
        pictures = {}
        if images is not None:
            from leukoscope.workflows.cell_pictures import picture_cells

            pictures = picture_cells(cells_to_picture(report), images, bundle, progress=step)
        write_outputs(report, folder, pictures, progress=step)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        return
    show_report(report)
    typer.echo(f"\nWritten to {folder}: report.html (open in a browser, print to PDF), report.json, figures/")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or report.json files.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.md, .html, .csv, .tex and .json.")
    ] = None,
    literature: Annotated[bool, typer.Option(help="Add published results with their kind of split.")] = True,
    replicates: Replicates = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put runs, their baselines and the literature into one table, each row with its kind of split."""
    from leukoscope.core.outputs import Outputs, json_with
    from leukoscope.evaluation.compare import compare as compare_sources
    from leukoscope.evaluation.compare_tables import to_csv, to_html, to_latex, to_markdown

    names = ("comparison.json", "comparison.md", "comparison.html", "comparison.csv", "comparison.tex")
    outputs = Outputs(overwrite=overwrite)
    outputs.read(*runs)
    outputs.folder(out, "--out", names, marker=names[0], own=json_with("rows", "caveat", "notice"))
    outputs.check()

    with show_steps() as step:
        step("measuring")
        comparison = compare_sources(
            runs, literature=literature, settings=evaluation_settings(replicates, seed)
        )
    if out is not None:
        texts = (
            comparison.model_dump_json(indent=1) + "\n",
            to_markdown(comparison) + "\n",
            to_html(comparison),
            to_csv(comparison),
            to_latex(comparison),
        )
        for name, text in zip(names, texts, strict=True):
            write_text(out / name, text)
    typer.echo(comparison.model_dump_json(indent=1) if as_json else to_markdown(comparison))


def leakage(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Two finished runs of one recipe: leaking split, disjoint split."),
    ] = None,
    *,
    config: Annotated[Path | None, typer.Option(help="Train both runs of this TOML file first.")] = None,
    cells: Annotated[Path | None, typer.Option(help="Cell table to train on, with --config.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Name of the official split to hold out; default: the first.")
    ] = None,
    per_class: Annotated[
        int, typer.Option(min=1, max=LARGEST_COUNT, help="Images of each class in the leaking split.")
    ] = 2100,
    out: Annotated[Path, typer.Option(help="Parent of the run folders to train.")] = Path("runs"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value for both trainings.")
    ] = None,
    replicates: Replicates = 2000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how much a leaking split inflates the results of one recipe.

    Give two finished runs, or --config and --cells to train the recipe on both kinds of split first.
    """
    from leukoscope.evaluation.leakage import inflation_markdown, inflation_warnings, measure_inflation
    from leukoscope.evaluation.scores import read_run

    folders = runs or []
    if config is not None and cells is not None and not folders:
        from leukoscope.cli.train import make_callback
        from leukoscope.workflows.train_pair import train_both

        folders = train_both(
            config,
            cells,
            split=split,
            per_class=per_class,
            out=out,
            overrides=set_ or [],
            make_callback=lambda: make_callback(quiet=False),
        )
    if len(folders) != 2:
        raise UsageError("name two runs (leaking, disjoint), or --config and --cells to train them")
    first, second = read_run(folders[0]), read_run(folders[1])
    with show_steps() as step:
        step("measuring")
        inflations = measure_inflation(first, second, evaluation_settings(replicates, seed))
    warnings = inflation_warnings(first, second)
    if as_json:
        typer.echo(_inflation_json(inflations, warnings))
        return
    typer.echo(inflation_markdown(inflations))
    for warning in warnings:
        typer.echo(f"Note: {warning}")
    typer.echo(RESEARCH_USE)


def evaluation_settings(replicates: int, seed: int) -> "EvaluationSettings":
    """Return the settings of a report with these options."""
    from leukoscope.evaluation.split_report import EvaluationSettings
    from leukoscope.stats.intervals import BootstrapSettings

    return EvaluationSettings(bootstrap=BootstrapSettings(replicates=replicates, seed=seed))


class Attached(NamedTuple):
    """The fields of a report that hold the results of other commands."""

    supplements: "tuple[Supplement, ...]"
    robustness: "Robustness | None"


def read_attached(paths: list[Path]) -> Attached:
    """Read the results of other commands.

    Raises
    ------
    UsageError
        A file cannot be read, is no such result, or a second one holds what a report has once.
    """
    from leukoscope.models.report import Robustness

    read = [(path, _read_one_attached(path)) for path in paths]
    steady = [(path, one) for path, one in read if isinstance(one, Robustness)]
    if len(steady) > 1:
        raise UsageError(f"--attach {steady[1][0]}: a second robustness.json; attach one")
    return Attached(
        tuple(one for _, one in read if not isinstance(one, Robustness)), steady[0][1] if steady else None
    )


def _read_one_attached(path: Path) -> "Robustness | Supplement":
    from pydantic import ValidationError

    from leukoscope.core.outputs import json_with
    from leukoscope.core.text import read_text
    from leukoscope.models.report import Robustness, Supplement

    try:
        text = read_text(path)
        if json_with("unchanged", "perturbations")(path):
            return Robustness.model_validate_json(text)
        return Supplement.model_validate_json(text)
    except OSError as error:
        raise UsageError(f"--attach {path}: {error.strerror}") from None
    except ValidationError as error:
        place, message = first_fault(error)
        raise UsageError(
            f"--attach {path}: not the JSON of one of these commands: {place}: {message}"
        ) from None


def show_report(report: "Report") -> None:
    """Print the main measures of a report as a table, and its caveats."""
    from rich.console import Console
    from rich.table import Table

    from leukoscope.models.metric_info import MEASURES
    from leukoscope.models.report import format_measurement

    columns = list(report.columns())
    table = Table(title=report.title, title_justify="left", caption=RESEARCH_USE, caption_justify="left")
    table.add_column("Cells")
    for split in columns:
        test = split.parts["test"]
        table.add_column(f"{split.name}\n{test.cells:,} cells, {test.subjects} subjects")
    for name in (
        "roc_auc",
        "average_precision",
        "accuracy",
        "sensitivity",
        "specificity",
        "f1_weighted",
        "ece",
    ):
        texts = [format_measurement(s.cell.measures[name], percent=MEASURES[name].percent) for s in columns]
        table.add_row(MEASURES[name].title, *texts)
    for index, baseline in enumerate(columns[0].baselines):
        texts = [
            format_measurement(s.baselines[index].differences["roc_auc"], signed=True)
            if index < len(s.baselines)
            else ""
            for s in columns
        ]
        table.add_row(f"AUC minus {baseline.title.lower()}", *texts)
    texts = [format_measurement(s.subject_mean.measures["accuracy"], percent=True) for s in columns]
    table.add_row("Subjects called right", *texts)
    console = Console()
    console.print(table)
    for caveat in report.caveats:
        console.print(f"- {caveat}", highlight=False)


def _inflation_json(inflations: "list[Inflation]", warnings: list[str]) -> str:
    import json

    rows = {
        one.name: {
            "leaking": one.leaking.model_dump(),
            "disjoint": one.disjoint.model_dump(),
            "inflation": one.difference.model_dump(),
        }
        for one in inflations
    }
    return json.dumps({"notice": RESEARCH_USE, "notes": warnings, "measures": rows}, indent=1)


@contextmanager
def show_steps() -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading")
        yield lambda text: progress.update(task, description=text)
