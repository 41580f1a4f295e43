"""Command ``benchmark stream``: a long list of images through ``leukoscope predict``, stopped and resumed."""

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from leukoscope.core.errors import EngineError, UsageError
from leukoscope_tools.benchmark.machine import MachineWatch, resident_mb
from leukoscope_tools.benchmark.records import (
    MemorySample,
    ModelFacts,
    Stop,
    StreamReport,
    render_stream,
    write_record,
)

MAX_SAMPLES = 400
SIGNALS = ("SIGINT", "SIGKILL")
STOPS_WITHIN = 10
"""All stops come within this fraction of the rows: one process classifies the rest, so that its memory can be seen."""
PREDICTED, SOME_REFUSED = 0, 1


def register(app: typer.Typer) -> None:
    """Add the command to the group ``benchmark``."""
    app.command(
        "stream",
        epilog="Example: benchmark stream C-NMC_training_data/ --rows 100000 --out stream.json",
    )(benchmark_stream)


def benchmark_stream(
    images: Annotated[
        list[str] | None, typer.Argument(help="Cell images or folders; the shipped cells by default.")
    ] = None,
    *,
    rows: Annotated[
        int, typer.Option(min=10, help="Images to classify; those given are repeated.")
    ] = 100_000,
    stops: Annotated[
        int, typer.Option(min=0, help="How often the run is stopped from outside and resumed.")
    ] = 2,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", metavar="DIR", help="Bundle; the shipped one by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; every core by default.")] = None,
    every: Annotated[float, typer.Option(help="Memory sampling interval in seconds.")] = 2.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify a long list, to test that memory is constant and that interruptions lose no row.

    Runs leukoscope predict --stdin-list --out in a separate process, interrupts it (SIGINT) and kills it (SIGKILL) in
    turn, resumes it, and compares every result with the list and with the other results of the same cell. Interrupted
    itself, it reports the rows that are done.
    """
    from leukoscope.assets import default_bundle_path, sample_cells_directory
    from leukoscope.core.io import check_output_file
    from leukoscope.inference.sources import iterate_sources
    from leukoscope.models.bundle import Bundle
    from leukoscope.models.session import usable_cores

    if out is not None:
        check_output_file(out)
    # A shell's background job ignores SIGINT, and so would its children; one with a handler hands on the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = MachineWatch()
    opened = Bundle.open(bundle or default_bundle_path())
    threads = threads or usable_cores()
    sources = iterate_sources(tuple(images or ()) or (str(sample_cells_directory()),))
    names = [source.name for source in sources if isinstance(source.content, Path)][:rows]
    if not names:
        raise UsageError("no image file to stream; name cell images or folders")
    command = ["predict", "--stdin-list", "--quiet", "--no-heat-maps", "--threads", str(threads)]
    with TemporaryDirectory(prefix="leukoscope-stream-") as folder:
        stream = _Stream(Path(folder), [*command, "--bundle", str(opened.directory)], rows, every)
        stream.write_list(names)
        marks = [rows * number // (STOPS_WITHIN * stops) for number in range(1, stops + 1)]
        try:
            for mark, signal_name in zip(marks, itertools.cycle(SIGNALS), strict=False):
                stream.run_until(mark, signal_name)
            stream.run_until(rows, None)
        except KeyboardInterrupt:
            typer.echo("interrupted; comparing what is done", err=True)
        done = stream.count()
        misplaced, differing = stream.verify(names, done)
    if not stream.samples:
        raise UsageError("no result yet; nothing to report")
    report = StreamReport(
        machine=watch.machine(threads),
        model=ModelFacts.of(opened),
        rows=done,
        cells=len(names),
        samples=tuple(stream.samples[:: 1 + len(stream.samples) // MAX_SAMPLES]),
        stops=tuple(stream.stops),
        misplaced_rows=misplaced,
        differing_answers=differing,
    )
    if out is not None:
        write_record(report, out)
    typer.echo(report.model_dump_json(indent=1) if as_json else render_stream(report))


class _Stream:
    """The list, the folder of results and the process that works between them."""

    def __init__(self, folder: Path, command: list[str], rows: int, every_s: float) -> None:
        self.samples: list[MemorySample] = []
        self.stops: list[Stop] = []
        self._list = folder / "list.txt"
        self._out = folder / "results"
        self._command = [sys.executable, "-m", "leukoscope.cli.main", *command, "--out", str(self._out)]
        self._rows = rows
        self._every_s = every_s
        self._counted = 0
        self._position = 0
        self._began = time.monotonic()

    def write_list(self, names: list[str]) -> None:
        with self._list.open("w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in itertools.islice(itertools.cycle(names), self._rows))

    def run_until(self, mark: int, signal_name: str | None) -> None:
        """Go on; send the signal when ``mark`` rows are on the disk, or wait for the end."""
        resume = ["--resume"] if self._results.exists() else []
        with (
            self._list.open("rb") as names,
            subprocess.Popen([*self._command, *resume], stdin=names) as process,
        ):
            try:
                self._watch(process, mark, signal_name)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
        if signal_name is None and process.returncode not in (PREDICTED, SOME_REFUSED):
            raise EngineError(f"leukoscope predict ended with {process.returncode}; run it by hand")

    def count(self) -> int:
        """Return the number of whole rows on the disk, reading only what is new."""
        if self._results.exists():
            with self._results.open("rb") as file:
                file.seek(self._position)
                new = file.read()
            self._counted += new.count(b"\n")
            self._position += len(new)
        return self._counted

    def verify(self, names: list[str], done: int) -> tuple[int, int]:
        """Return how many of the rows are not those of the list, and how many answers differ from the cell's first."""
        from leukoscope.inference.journal import read_results

        first: dict[str, object] = {}
        misplaced = differing = 0
        results = read_results(self._results)
        expected: Iterator[str] = itertools.islice(itertools.cycle(names), done)
        for name, result in itertools.zip_longest(expected, results):
            if result is None or result.source != name:
                misplaced += 1
                continue
            answer = result.model_copy(update={"duration_ms": None})
            differing += first.setdefault(name, answer) != answer
        return misplaced, differing

    def _watch(self, process: "subprocess.Popen[bytes]", mark: int, signal_name: str | None) -> None:
        self._position = self._counted = 0  # a resumed run cuts off what was half written
        before = self.count()
        while process.poll() is None:
            time.sleep(self._every_s)
            self._look(process.pid, before)
            if signal_name is not None and self._counted >= mark:
                process.send_signal(getattr(signal, signal_name))
                process.wait()
                self.stops.append(Stop(rows=self.count(), signal=signal_name))
                typer.echo(f"{signal_name} after {self._counted:,} rows", err=True)
                return

    @property
    def _results(self) -> Path:
        from leukoscope.inference.journal import RESULTS

        return self._out / RESULTS

    def _look(self, process: int, before: int) -> None:
        decile = 10 * self._counted // self._rows
        if self.count() == before:
            return  # still starting, or reading what is there
        try:
            self.samples.append(MemorySample(rows=self._counted, resident_mb=round(resident_mb(process), 1)))
        except ProcessLookupError:
            return
        if 10 * self._counted // self._rows > decile:
            elapsed_s = time.monotonic() - self._began
            left_s = elapsed_s * (self._rows / self._counted - 1)
            typer.echo(
                f"{self._counted:,} of {self._rows:,} rows, {self.samples[-1].resident_mb:.0f} MB, "
                f"about {left_s / 60:.0f} min to go",
                err=True,
            )
