"""The result of ``leukoscope benchmark predict`` as data, and its tables."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from leukoscope.errors import UsageError

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Record):
    """What one contestant needed; null where it does not measure that."""

    name: str
    title: str
    median_ms: float | None = Field(default=None, description="Median over repetitions of the time a cell.")
    p50_ms: float | None = Field(default=None, description="Median over single cells.")
    p95_ms: float | None = None
    cells_per_second: float | None = Field(default=None, description="Median over repetitions.")
    peak_memory_mb: float | None = None
    note: str = ""


class Target(_Record):
    """One thing that was to be reached."""

    name: str
    value: float
    target: str
    reached: bool


class BenchmarkReport(_Record):
    """All of the JSON file."""

    created: str
    command: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    model: dict[str, str | int | float]
    cells: int
    repetitions: int
    threads: int
    rows: tuple[Measured, ...]
    left_out: dict[str, str] = Field(description="Contestant -> why it did not run.")
    targets: tuple[Target, ...]
    stream_memory_mb: tuple[float, ...] = Field(
        description="Resident memory at the quarters of the long stream."
    )
    stream_rows: int


def derive_targets(rows: dict[str, Measured], light_install_mb: float) -> tuple[Target, ...]:
    """Compute the ratios that were to be reached from what was measured; what is missing is left out."""

    def take(name: str, field: str) -> float | None:
        row = rows.get(name)
        return None if row is None else getattr(row, field)

    targets: list[Target] = []

    def at_least(name: str, value: float, limit: float, unit: str = "") -> None:
        targets.append(Target(name=name, value=value, target=f">= {limit:g}{unit}", reached=value >= limit))

    def at_most(name: str, value: float | None, limit: float, unit: str) -> None:
        if value is not None:
            targets.append(
                Target(name=name, value=value, target=f"<= {limit:g} {unit}", reached=value <= limit)
            )

    best = max((rate for name in ENGINE_ROWS if (rate := take(name, "cells_per_second"))), default=None)
    stream = take("predict_stream", "cells_per_second")
    if best and stream:
        at_least("streaming throughput by the raw engine's best", stream / best, 0.85)
    with_map, without_map = take("engine_single", "median_ms"), take("engine_without_map", "median_ms")
    if with_map and without_map:
        at_most("what the map adds to a forward pass", 100 * (with_map / without_map - 1), 3, "%")
    torch, own = take("torch_grad_cam", "median_ms"), take("predict_single", "median_ms")
    if torch and own:
        at_least("torch eager + grad-cam by our time an explained cell", torch / own, 5)
    cold, warm = take("shell_cold", "median_ms"), take("shell_warm", "median_ms")
    at_most("predict from the shell, no model cache", None if cold is None else cold / 1e3, 1.2, "s")
    at_most("predict from the shell, model cache warm", None if warm is None else warm / 1e3, 0.8, "s")
    memory = max((size for name in OWN_ROWS if (size := take(name, "peak_memory_mb"))), default=None)
    at_most("peak resident memory", memory, 350, "MB")
    at_most("light install on disk", light_install_mb, 400, "MB")
    return tuple(targets)


ENGINE_ROWS = ("engine_single", "engine_streams", "engine_batch_8", "engine_batch_16")
OWN_ROWS = ("predict_single", "predict_stream", "shell_cold", "shell_warm")


def render_table(report: BenchmarkReport) -> str:
    """Return the report as Markdown."""

    def cell(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    model = ", ".join(f"{key} {value}" for key, value in report.model.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"Measured {report.created} by `{report.command}`: {report.cells} cells, {report.threads} threads, "
        f"medians over {report.repetitions} repetitions.",
        "",
        f"Machine: {machine}.",
        "",
        f"Model: {model}.",
        "",
        f"Versions: {versions}.",
        "",
        "| contestant | ms a cell | p50 ms | p95 ms | cells/s | peak memory, MB | note |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in report.rows:
        numbers = (row.median_ms, row.p50_ms, row.p95_ms, row.cells_per_second)
        values = " | ".join(cell(number) for number in numbers)
        lines.append(f"| {row.title} | {values} | {cell(row.peak_memory_mb, 0)} | {row.note} |")
    lines += ["", "| to be reached | measured | target | reached |", "|---|---:|---|---|"]
    for target in report.targets:
        lines.append(
            f"| {target.name} | {target.value:.3g} | {target.target} | {'yes' if target.reached else 'no'} |"
        )
    if report.stream_memory_mb:
        sizes = ", ".join(f"{size:.0f}" for size in report.stream_memory_mb)
        lines += [
            "",
            f"Resident memory while {report.stream_rows:,} images streamed, at each quarter: {sizes} MB.",
        ]
    for name, reason in report.left_out.items():
        lines += ["", f"Left out: {name}, {reason}."]
    return "\n".join(lines) + "\n"


def replace_table(path: Path, report: BenchmarkReport) -> None:
    """Put the rendered report between the marks of a document.

    Raises
    ------
    UsageError
        The document is missing or has not exactly one pair of marks.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in tail:
        raise UsageError(f"{path}: expected the marks {BEGIN} and {END} once each")
    part = path.with_name(path.name + ".part")
    part.write_text(f"{head}{BEGIN}\n\n{render_table(report)}\n{END}{tail}", encoding="utf-8")
    part.replace(path)
