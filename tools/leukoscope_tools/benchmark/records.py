"""Cost of predictions: records of the benchmark commands, targets and tables."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leukoscope.core.errors import UsageError
from leukoscope.core.io import write_text
from leukoscope.models.bundle import Bundle

ENGINE_ROWS = ("engine_single", "engine_streams", "engine_batch_8", "engine_batch_16")
OWN_ROWS = ("predict_single", "predict_stream", "shell_cold", "shell_warm")
MEMORY_PARTS = 10
"""Parts that the table of a long stream is cut into."""


class Record(BaseModel):
    """Output of a benchmark command, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


RecordT = TypeVar("RecordT", bound=Record)


class Machine(Record):
    """Where and when something was measured."""

    created: str = Field(description="UTC, ISO 8601.")
    command: str
    processor: str
    cores: int
    threads: int
    system: str
    versions: dict[str, str]
    others_share: float | None = Field(
        description="Share of the machine's processor time that other programs took meanwhile, 0 to 1; null where "
        "the system does not tell."
    )


class ModelFacts(Record):
    """The bundle that was measured."""

    name: str
    version: str
    sha256: str
    architecture: str
    input_px: int
    parameters: int
    flops: int = Field(description="Operations a cell; a multiply-add counts as two.")
    size_mb: float = Field(description="model.onnx, 10^6 bytes.")

    @classmethod
    def of(cls, bundle: Bundle) -> "ModelFacts":
        """Return the facts of an opened bundle."""
        manifest = bundle.manifest
        return cls(
            name=manifest.name,
            version=manifest.version,
            sha256=bundle.model_sha256,
            architecture=manifest.architecture,
            input_px=manifest.input_px,
            parameters=manifest.parameters,
            flops=manifest.flops,
            size_mb=round(bundle.model_path.stat().st_size / 1e6, 1),
        )


class Measured(Record):
    """What one backend needed; null where it does not measure that."""

    name: str
    title: str
    rounds_ms: tuple[float, ...] = Field(min_length=1, description="Time a cell in each round.")
    p50_ms: float | None = Field(default=None, description="Median over single cells of all rounds.")
    p95_ms: float | None = None
    throughput: bool = Field(description="Whether cells per second are meaningful for it.")
    cpu_ms: float | None = Field(
        default=None, description="Processor time a cell over all threads, median over rounds."
    )
    map_ratio: float | None = Field(
        default=None,
        description="Time of the graph with its map by that without, the one directly after the other; median.",
    )
    start_s: float | None = Field(default=None, description="From starting the process to its first answer.")
    peak_memory_mb: float | None = None
    note: str = ""

    @property
    def median_ms(self) -> float:
        """Median over rounds of the time a cell."""
        return statistics.median(self.rounds_ms)

    @property
    def cells_per_second(self) -> float | None:
        """Cells per second at that median."""
        return 1e3 / self.median_ms if self.throughput else None


class Target(Record):
    """One target."""

    name: str
    value: float
    limit: float
    unit: str
    at_least: bool

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Performance(Record):
    """What ``python -m leukoscope_tools benchmark predict`` measured: all of its JSON file."""

    machine: Machine
    model: ModelFacts
    cells: int
    rounds: int
    light_install_mb: float
    rows: tuple[Measured, ...]
    left_out: dict[str, str] = Field(description="Backend -> why it did not run.")


class MemorySample(Record):
    """Resident memory of the predicting process."""

    rows: int = Field(description="Results on disk at that time.")
    resident_mb: float


class Stop(Record):
    """Where the predicting process was ended from outside."""

    rows: int
    signal: str


class StreamReport(Record):
    """What ``python -m leukoscope_tools benchmark stream`` measured: all of its JSON file."""

    machine: Machine
    model: ModelFacts
    rows: int
    cells: int = Field(description="Different cells; they are repeated.")
    samples: tuple[MemorySample, ...]
    stops: tuple[Stop, ...]
    misplaced_rows: int = Field(description="Results that are lost, doubled or not in the order of the list.")
    differing_answers: int = Field(
        description="Results unlike the first one of the same cell, in any figure but the duration."
    )

    def memory_growth_mb(self) -> float:
        """Median resident memory of the last part of the rows minus that of the second."""
        parts = self.memory_parts()
        return parts[-1] - parts[min(1, len(parts) - 1)]

    def memory_parts(self) -> list[float]:
        """Median resident memory in each tenth of the rows; tenths without a sample repeat the one before."""
        medians: list[float] = []
        for part in range(MEMORY_PARTS):
            low, high = (self.rows * edge / MEMORY_PARTS for edge in (part, part + 1))
            sizes = [sample.resident_mb for sample in self.samples if low < sample.rows <= high]
            medians.append(statistics.median(sizes) if sizes else medians[-1] if medians else 0.0)
        return medians


def read_performance(path: Path) -> Performance:
    """Read what ``benchmark predict`` wrote; ``UsageError`` where it is not that."""
    return read_record(Performance, path)


def read_stream(path: Path) -> StreamReport:
    """Read what ``benchmark stream`` wrote; ``UsageError`` where it is not that."""
    return read_record(StreamReport, path)


def write_record(record: Record, path: Path) -> None:
    """Write the JSON file in one step."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def derive_targets(measured: Performance) -> tuple[Target, ...]:
    """Compute the targets from the measurements; missing ones are left out.

    Ratios are medians of the ratios within a round, so that a slower minute of the machine weighs on both sides.
    """
    rows = {row.name: row for row in measured.rows}
    targets: list[Target] = []

    def add(name: str, value: float | None, limit: float, unit: str = "", *, at_least: bool = False) -> None:
        if value is not None:
            targets.append(Target(name=name, value=value, limit=limit, unit=unit, at_least=at_least))

    engines = [rows[name] for name in ENGINE_ROWS if name in rows]
    best = min(engines, key=lambda row: row.median_ms, default=None)
    add(
        "streaming throughput by the raw engine's best",
        _ratio(best, rows.get("predict_stream")),
        0.85,
        at_least=True,
    )
    bare = rows.get("engine_without_map")
    if bare is not None and bare.map_ratio is not None:
        add("what the map adds to a forward pass", 100 * (bare.map_ratio - 1), 3, "%")
    grad_cam = rows.get("torch_grad_cam")
    add(
        "torch eager + grad-cam by our time an explained cell",
        _ratio(grad_cam, rows.get("predict_single")),
        5,
        at_least=True,
    )
    for name, words, limit in (("shell_cold", "no", 1.2), ("shell_warm", "a warm", 0.8)):
        row = rows.get(name)
        add(
            f"predict from the shell, {words} model cache",
            row.median_ms / 1e3 if row else None,
            limit,
            "s",
        )
    memory = [size for name in OWN_ROWS if name in rows and (size := rows[name].peak_memory_mb)]
    add("peak resident memory", max(memory, default=None), 350, "MB")
    add("light install on disk", measured.light_install_mb, 400, "MB")
    return tuple(targets)


def render_conditions(measured: Performance) -> str:
    """Return the conditions of the measurement."""
    machine = measured.machine
    others = "unknown" if machine.others_share is None else f"{machine.others_share:.0%}"
    return (
        f"Measured {machine.created} by `{machine.command}`: {measured.cells} cells, {measured.rounds} rounds, "
        f"{machine.threads} threads; other programs took {others} of the processor time meanwhile. "
        f"Machine: {machine.processor}, {machine.cores} cores, {machine.system}. Versions: "
        f"{', '.join(f'{name} {version}' for name, version in machine.versions.items())}."
    )


def render_model(measured: Performance) -> str:
    """Return the size and operations of the model."""
    model = measured.model
    return (
        f"Bundle {model.name} {model.version} ({model.sha256[:12]}): {model.architecture} at {model.input_px} px, "
        f"{model.parameters / 1e6:.1f} M parameters, {model.flops / 2e9:.2f} G multiply-adds "
        f"({model.flops / 1e9:.2f} GFLOPs) per cell, model.onnx {model.size_mb:.1f} MB."
    )


def render_backends(measured: Performance) -> str:
    """Return the table of all backends."""
    columns = ("ms per cell", "p50 ms", "p95 ms", "cells/s", "processor ms", "start, s", "peak memory, MB")
    lines = [f"| | {' | '.join(columns)} | |", "|---|" + "---:|" * len(columns) + "---|"]
    for row in measured.rows:
        numbers = (
            (row.median_ms, 1),
            (row.p50_ms, 1),
            (row.p95_ms, 1),
            (row.cells_per_second, 1),
            (row.cpu_ms, 1),
            (row.start_s, 2),
            (row.peak_memory_mb, 0),
        )
        values = " | ".join("" if value is None else f"{value:,.{digits}f}" for value, digits in numbers)
        lines.append(f"| {row.title} | {values} | {row.note} |")
    for name, reason in measured.left_out.items():
        lines += ["", f"Left out: {name}, {reason}."]
    return "\n".join(lines)


def render_targets(measured: Performance) -> str:
    """Return the table of targets."""
    lines = ["| to be reached | target | measured | |", "|---|---:|---:|---|"]
    for target in derive_targets(measured):
        sign = ">=" if target.at_least else "<="
        unit = f" {target.unit}" if target.unit else ""
        verdict = "met" if target.reached else "**missed**"
        lines.append(
            f"| {target.name} | {sign} {target.limit:g}{unit} | {target.value:.3g}{unit} | {verdict} |"
        )
    return "\n".join(lines)


def render_stream(report: StreamReport) -> str:
    """Return how much memory a long stream took, and what became of its rows."""
    machine = report.machine
    step = report.rows / MEMORY_PARTS
    head = " | ".join(f"{round(step * (part + 1)):,}" for part in range(MEMORY_PARTS))
    sizes = " | ".join(f"{size:.0f}" for size in report.memory_parts())
    largest_mb = max(sample.resident_mb for sample in report.samples)
    stops = ", ".join(f"{stop.signal} after {stop.rows:,} rows" for stop in report.stops) or "none"
    return "\n".join(
        (
            f"| up to row | {head} |",
            "|---|" + "---:|" * MEMORY_PARTS,
            f"| resident memory, MB | {sizes} |",
            "",
            f"Measured {machine.created} by `{machine.command}` with bundle {report.model.name} "
            f"{report.model.version} ({report.model.sha256[:12]}): {report.rows:,} rows of {report.cells:,} cells. "
            f"Median of the last tenth minus the second: {report.memory_growth_mb():+.0f} MB; largest: "
            f"{largest_mb:.0f} MB. Stopped from outside and resumed: {stops}. "
            f"Rows lost, doubled or misplaced: {report.misplaced_rows}. Answers unlike the first one of the same cell: "
            f"{report.differing_answers}.",
        )
    )


PERFORMANCE_BLOCKS: Mapping[str, Callable[[Performance], str]] = {
    "conditions": render_conditions,
    "model": render_model,
    "backends": render_backends,
    "targets": render_targets,
}
"""Name of a block in a document -> its text."""


def _ratio(first: Measured | None, second: Measured | None) -> float | None:
    """Return the median over rounds of the first one's time by the second one's."""
    if first is None or second is None:
        return None
    return statistics.median(a / b for a, b in zip(first.rounds_ms, second.rounds_ms, strict=True))


def read_record(kind: type[RecordT], path: Path) -> RecordT:
    """Read a record from its JSON file; ``UsageError`` where it is not that."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise UsageError(f"{path}: no {kind.__name__} of this version ({error.errors()[0]['msg']})") from None
