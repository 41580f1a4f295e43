"""``leukoscope benchmark predict``: what a prediction costs, beside the usual ways of computing the same."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli import benchmark_train

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
benchmark_train.register(app)


@app.callback()
def _group() -> None:
    """Measure speed and memory."""


@app.command("predict")
def benchmark_predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Cell images, folders or archives; the shipped cells by default."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", metavar="DIR", help="Bundle; the shipped one by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every contestant; every core by default.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions; medians over them are reported.")] = 7,
    stream_rows: Annotated[
        int, typer.Option(min=0, help="Also stream this many rows and watch the memory.")
    ] = 0,
    keras_python: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A Python that has TensorFlow, for the Keras contestant."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only these contestants (names of the table); repeatable.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few cells and repetitions: to see that it works.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything as JSON.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the table between the benchmark marks of this document."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure predictions: raw engine, this program, torch with grad-cam, torch.compile, ONNX Runtime, Keras.

    Every contestant runs in a process of its own, on the same cells and threads. What is not installed is left out and
    named. Example: leukoscope benchmark predict --out docs/benchmark.json --table docs/performance.md
    """
    from leukoscope.cli.benchmark_report import render_table, replace_table
    from leukoscope.cli.benchmarking import BenchmarkOptions, run_benchmark

    options = BenchmarkOptions(
        images=tuple(images or ()),
        bundle=bundle,
        threads=threads,
        repetitions=2 if quick else repetitions,
        cells=8 if quick else 60,
        stream_rows=stream_rows,
        only=tuple(only or ()),
        keras_python=keras_python,
    )
    report = run_benchmark(options, say=lambda text: typer.echo(text, err=True))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(out.name + ".part")
        part.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(out)
    if table is not None:
        replace_table(table, report)
    typer.echo(report.model_dump_json(indent=2) if as_json else render_table(report))
