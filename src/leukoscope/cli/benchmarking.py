"""How ``leukoscope benchmark predict`` goes about it: every contestant in a process of its own, one after the other."""

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.cli.benchmark_report import BenchmarkReport, Measured, derive_targets
from leukoscope.errors import UsageError

if TYPE_CHECKING:
    from leukoscope.bundle.folder import Bundle

CONTESTANTS: dict[str, str] = {
    "engine_single": "OpenVINO alone, one cell at a time",
    "engine_without_map": "OpenVINO alone, the map cut out of the graph",
    "engine_streams": "OpenVINO alone, one stream a thread",
    "engine_batch_8": "OpenVINO alone, batches of 8",
    "engine_batch_16": "OpenVINO alone, batches of 16",
    "predict_single": "leukoscope, one file at a time: decode to decision with map",
    "predict_stream": "leukoscope, streaming files: decode to decision with map",
    "onnxruntime": "ONNX Runtime, one cell at a time",
    "onnxruntime_batch_16": "ONNX Runtime, batches of 16",
    "torch_eager": "torch eager, forward pass only",
    "torch_compile": "torch.compile, forward pass only",
    "torch_grad_cam": "torch eager + grad-cam package",
    "keras_grad_cam": "Keras EfficientNetB3 + GradientTape Grad-CAM",
}
SHELL = {
    "shell_cold": "leukoscope predict one.bmp from the shell, no model cache",
    "shell_warm": "the same, model cache warm",
}
VERSIONS = ("leukoscope", "openvino", "onnxruntime", "torch", "timm", "grad-cam", "numpy", "pillow")
TIMEOUT_S = 1800


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the user asked for."""

    images: tuple[str, ...] = ()
    bundle: Path | None = None
    threads: int | None = None
    repetitions: int = 7
    cells: int = 60
    stream_rows: int = 0
    only: tuple[str, ...] = ()
    keras_python: Path | None = None


def run_benchmark(options: BenchmarkOptions, say: Callable[[str], None]) -> BenchmarkReport:
    """Run every contestant and return what was measured; ``say`` gets one line a contestant.

    Raises
    ------
    UsageError
        An unknown contestant, or no image.
    """
    known = {**CONTESTANTS, **SHELL}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        raise UsageError(f"contestant {unknown[0]!r}: expected one of {', '.join(known)}")
    from leukoscope.assets import default_bundle_path
    from leukoscope.bundle.folder import Bundle
    from leukoscope.runtime.session import usable_cores

    bundle = Bundle.open(options.bundle or default_bundle_path())
    threads = options.threads or usable_cores()
    paths = _bitmaps(options)
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
    rows: dict[str, Measured] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="leukoscope-benchmark-") as folder:
        files = _write_bitmaps(paths, Path(folder), bundle)
        job = {
            "bundle": str(bundle.directory),
            "files": [str(path) for path in files],
            "threads": threads,
            "repetitions": options.repetitions,
            "architecture": bundle.manifest.architecture,
            "input_px": bundle.manifest.input_px,
            "stream_rows": options.stream_rows,
        }
        for name, title in CONTESTANTS.items():
            if options.only and name not in options.only:
                continue
            say(f"measuring {title}")
            answer = _contest(name, job, threads, options.keras_python)
            if "left_out" in answer:
                left_out[name] = str(answer["left_out"])
            else:
                rows[name] = Measured(name=name, title=title, **answer)
        for name, title in SHELL.items():
            if not options.only or name in options.only:
                say(f"measuring {title}")
                rows[name] = _shell(
                    name, title, bundle.directory, files[0], options.repetitions, Path(folder)
                )
        memory: tuple[float, ...] = ()
        if options.stream_rows:
            say(f"streaming {options.stream_rows:,} images")
            memory = tuple(_contest("stream_memory", job, threads, None).get("memory_mb", ()))
    return BenchmarkReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["leukoscope", *sys.argv[1:]]),
        machine=describe_machine(load_before),
        versions=_versions(),
        model={
            "name": f"{bundle.manifest.name} {bundle.manifest.version}",
            "sha256": bundle.model_sha256[:16],
            "architecture": bundle.manifest.architecture,
            "parameters": bundle.manifest.parameters,
            "GFLOPs a cell (a multiply-add counts as two)": round(bundle.manifest.flops / 1e9, 3),
            "model.onnx, MB": round(bundle.model_path.stat().st_size / 1e6, 1),
        },
        cells=len(files),
        repetitions=options.repetitions,
        threads=threads,
        rows=tuple(rows.values()),
        left_out=left_out,
        targets=derive_targets(rows, light_install_mb()),
        stream_memory_mb=memory,
        stream_rows=options.stream_rows,
    )


def light_install_mb() -> float:
    """Return the size on disk of leukoscope's own dependencies without extras, and theirs, in MB (10^6 bytes)."""
    sizes: dict[str, int] = {}
    waiting = ["leukoscope"]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:  # wanted on another platform only
            continue
        places = [Path(str(package.locate_file(file))) for file in package.files or ()]
        sizes[name] = sum(place.stat().st_size for place in places if place.is_file())
        for requirement in package.requires or ():
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            if match and "extra ==" not in requirement:
                waiting.append(match[0].lower().replace("_", "-"))
    own = Path(__file__).resolve().parents[1]  # an editable install lists no files
    sizes["leukoscope"] = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
    return sum(sizes.values()) / 1e6


def _bitmaps(options: BenchmarkOptions) -> list[Path]:
    """Return the images, at most ``options.cells``, spread over the input."""
    from leukoscope.assets import sample_cells_directory
    from leukoscope.runtime.sources import iterate_sources

    arguments = options.images or (str(sample_cells_directory()),)
    paths = [source.content for source in iterate_sources(arguments) if isinstance(source.content, Path)]
    if not paths:
        raise UsageError("no image file to measure with; name cell images or folders")
    step = max(1, len(paths) // options.cells)
    return paths[::step][: options.cells]


def _write_bitmaps(paths: list[Path], folder: Path, bundle: "Bundle") -> list[Path]:
    """Write the images as BMP, the data set's own format, so that decoding costs what it costs there.

    An image that the input checks refuse would be answered without a forward pass and is left out.
    """
    from PIL import Image

    from leukoscope.decision.input_checks import check_descriptors
    from leukoscope.imaging.decode import decode_image
    from leukoscope.imaging.descriptors import describe_cell

    files = []
    for number, path in enumerate(paths):
        rgb = decode_image(path)
        if check_descriptors(describe_cell(rgb, bundle.manifest.canvas_px), bundle.decision.input_limits):
            continue
        file = folder / f"{number:04d}.bmp"
        Image.fromarray(rgb).save(file)
        files.append(file)
    if not files:
        raise UsageError("every image given is refused by the input checks; name cell images")
    return files


def _contest(name: str, job: dict[str, object], threads: int, keras_python: Path | None) -> dict[str, Any]:
    """Run one contestant in its own process and return its answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LEUKOSCOPE_CACHE": "off"}
    if name == "keras_grad_cam":
        if keras_python is None:
            return {"left_out": "give a Python that has TensorFlow with --keras-python"}
        command = [str(keras_python), str(Path(__file__).with_name("benchmark_keras.py"))]
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    else:
        command = [sys.executable, "-m", "leukoscope.cli.benchmark_contestants", name]
    try:
        answer = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, env=environment,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"left_out": f"did not run ({error})"}
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        return {"left_out": f"failed ({lines[-1][:200] if lines else answer.returncode})"}
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def _shell(name: str, title: str, bundle: Path, file: Path, repetitions: int, folder: Path) -> Measured:
    """Time whole processes, from the shell's view; the operating system's file cache is warm in both cases."""
    command = [sys.executable, "-m", "leukoscope.cli.main", "predict", str(file), "--bundle", str(bundle)]
    environment = {**os.environ, "LEUKOSCOPE_CACHE": str(folder / "cache") if name == "shell_warm" else "off"}
    seconds: list[float] = []
    memory: list[float] = []
    for turn in range(repetitions + 1):
        began = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                memory.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)
            else:  # Windows tells no peak
                process.wait()
        elapsed = time.perf_counter() - began
        if process.returncode:
            raise UsageError(f"leukoscope predict {file} ended with {process.returncode}; try it by hand")
        if turn:  # the first fills the caches
            seconds.append(elapsed)
    return Measured(
        name=name,
        title=title,
        median_ms=1e3 * statistics.median(seconds),
        p50_ms=1e3 * statistics.median(seconds),
        p95_ms=1e3 * sorted(seconds)[min(len(seconds) - 1, round(0.95 * len(seconds)))],
        peak_memory_mb=max(memory, default=None),
        note="whole process",
    )


def describe_machine(load_before: float | None = None) -> dict[str, str | int | float]:
    """Return processor, cores, system and Python; ``load_before`` is the load average before measuring."""
    if load_before is None:
        load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "load before": round(load_before, 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
