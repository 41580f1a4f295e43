"""Command ``benchmark predict``: the cost of a prediction compared with other backends."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.core.errors import LeukoscopeError
from leukoscope_tools.benchmark import stream as benchmark_stream
from leukoscope_tools.benchmark import train as benchmark_train

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
benchmark_train.register(app)


@app.callback()
def _group() -> None:
    """Measure speed and memory."""


@app.command(
    "predict",
    epilog="Example: benchmark predict --keras-python keras/bin/python --out performance.json",
)
def benchmark_predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Cell images, folders or archives; the shipped cells by default."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", metavar="DIR", help="Bundle; the shipped one by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of every backend; every core by default.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, help="Cells, spread over those given.")] = 30,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds in which every backend classifies every cell.")
    ] = 7,
    keras_python: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A Python that has TensorFlow, for the Keras backend."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only these backends (names as in the JSON); repeatable."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 cells, 2 rounds: to see that it works.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure predictions: raw engine, this program, torch with grad-cam, torch.compile, ONNX Runtime, Keras.

    Every backend is a separate process with the same cells and threads; all of them classify the cells in turn, round
    after round. Backends that are not installed are skipped and named.
    """
    from leukoscope.core.io import check_output_file
    from leukoscope_tools.benchmark import records as performance
    from leukoscope_tools.benchmark.run import BenchmarkOptions, run_benchmark

    if out is not None:
        check_output_file(out)
    options = BenchmarkOptions(
        images=tuple(images or ()),
        bundle=bundle,
        threads=threads,
        rounds=2 if quick else rounds,
        cells=8 if quick else cells,
        only=tuple(only or ()),
        keras_python=keras_python,
    )
    measured = run_benchmark(options, say=lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(measured.model_dump_json(indent=1))
    if not measured.rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in measured.left_out.items())
        raise LeukoscopeError(f"no backend ran ({reasons}); name others with --only")
    if out is not None:
        performance.write_record(measured, out)
    if not as_json:
        for render in performance.PERFORMANCE_BLOCKS.values():
            typer.echo(render(measured) + "\n")


benchmark_stream.register(app)
