"""Run ``benchmark predict``: every backend is a separate process, and all of them run in each round.

The speed of a machine varies from minute to minute. So all backends are started first, and then classify the cells in
turn, round after round; ratios are taken within a round.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from leukoscope.core.errors import EngineError, ImageError, UsageError
from leukoscope_tools.benchmark.machine import MachineWatch
from leukoscope_tools.benchmark.records import Measured, ModelFacts, Performance

if TYPE_CHECKING:
    from leukoscope.models.bundle import Bundle

BACKENDS: dict[str, str] = {
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
    "shell_cold": "`leukoscope predict one.bmp` from the shell, no model cache",
    "shell_warm": "the same, model cache warm",
}
TIMEOUT_S = 900
_TOOLS_FOLDER = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    images: tuple[str, ...] = ()
    bundle: Path | None = None
    threads: int | None = None
    rounds: int = 7
    cells: int = 30
    only: tuple[str, ...] = ()
    keras_python: Path | None = None


def run_benchmark(options: BenchmarkOptions, say: Callable[[str], None]) -> Performance:
    """Run every backend and return the measurements; ``say`` gets a line per start and per round.

    Raises
    ------
    UsageError
        An unknown backend, or no image.
    """
    known = {**BACKENDS, **SHELL}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        raise UsageError(f"backend {unknown[0]!r}: expected one of {', '.join(known)}")
    from leukoscope.assets import default_bundle_path
    from leukoscope.models.bundle import Bundle
    from leukoscope.models.session import usable_cores

    watch = MachineWatch()
    bundle = Bundle.open(options.bundle or default_bundle_path())
    threads = options.threads or usable_cores()
    paths = _choose_images(options)
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="leukoscope-benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        job = _write_job(paths, folder, bundle, threads)
        runners: list[_Worker | _Shell] = []
        for backend in known:
            if options.only and backend not in options.only:
                continue
            if backend in SHELL:
                runners.append(_Shell(backend, bundle.directory, Path(job["files"][0]), folder))
                continue
            say(f"starting {BACKENDS[backend]}")
            try:
                runners.append(stack.enter_context(_Worker(backend, job, options.keras_python, folder)))
            except _LeftOut as reason:
                left_out[backend] = str(reason)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            first = number % max(1, len(runners))
            for runner in runners[first:] + runners[:first]:
                try:
                    runner.run_round()
                except _LeftOut as reason:
                    left_out[runner.name] = str(reason)
                    runners.remove(runner)
        stack.close()
        rows = tuple(runner.measured(known[runner.name]) for runner in runners)
    return Performance(
        machine=watch.machine(threads),
        model=ModelFacts.of(bundle),
        cells=len(job["files"]),
        rounds=options.rounds,
        light_install_mb=round(light_install_mb(), 1),
        rows=rows,
        left_out=left_out,
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


def _choose_images(options: BenchmarkOptions) -> list[Path]:
    """Return at most ``options.cells`` image files, spread over the input."""
    from leukoscope.assets import sample_cells_directory
    from leukoscope.inference.sources import iterate_sources

    arguments = options.images or (str(sample_cells_directory()),)
    paths = [source.content for source in iterate_sources(arguments) if isinstance(source.content, Path)]
    if not paths:
        raise UsageError("no image file to measure with; name cell images or folders")
    step = max(1, len(paths) // options.cells)
    return paths[::step][: options.cells]


def _write_job(paths: list[Path], folder: Path, bundle: "Bundle", threads: int) -> dict[str, Any]:
    """Write the cells as BMP, the data set's own format, and as the network takes them; return the job.

    An image that the input checks refuse would be answered without a forward pass and is left out.
    """
    import numpy as np
    from PIL import Image

    from leukoscope.decision.input_checks import check_descriptors
    from leukoscope.imaging.canvas import prepare_cell
    from leukoscope.imaging.decode import decode_image
    from leukoscope.imaging.descriptors import describe_cell

    manifest = bundle.manifest
    files, prepared = [], []
    for number, path in enumerate(paths):
        try:
            rgb = decode_image(path)
        except ImageError as error:
            raise UsageError(f"{path}: {error}") from None
        if check_descriptors(describe_cell(rgb, manifest.canvas_px), bundle.decision.input_limits):
            continue
        file = folder / f"{number:04d}.bmp"
        Image.fromarray(rgb).save(file)
        files.append(str(file))
        prepared.append(prepare_cell(rgb, manifest.input_px, manifest.canvas_px))
    if not files:
        raise UsageError("every image given is refused by the input checks; name cell images")
    np.save(folder / "prepared.npy", np.stack(prepared))
    return {
        "bundle": str(bundle.directory),
        "files": files,
        "prepared": str(folder / "prepared.npy"),
        "threads": threads,
        "architecture": manifest.architecture,
        "input_px": manifest.input_px,
    }


class _LeftOut(Exception):  # noqa: N818 - a backend that cannot run is no error
    pass


class _Worker:
    """A backend's process, from its start on; it waits between the rounds."""

    def __init__(self, name: str, job: dict[str, Any], keras_python: Path | None, folder: Path) -> None:
        self.name = name
        self._answers: list[dict[str, Any]] = []
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(job["threads"]),
            "LEUKOSCOPE_CACHE": "off",
            # This package is not installed: the child finds it where this process did.
            "PYTHONPATH": os.pathsep.join(
                [str(_TOOLS_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        command = [sys.executable, "-m", "leukoscope_tools.benchmark.backends", name]
        if name == "keras_grad_cam":
            if keras_python is None:
                raise _LeftOut("give a Python that has TensorFlow with --keras-python")
            command = [str(keras_python), str(Path(__file__).with_name("keras_backend.py"))]
            environment = {**environment, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}
        self._log = folder / f"{name}.log"
        began = time.perf_counter()
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
                )  # fmt: skip
        except OSError as error:
            raise _LeftOut(f"did not start ({error})") from None
        ready = self._ask(json.dumps(job))
        self._start_s = time.perf_counter() - began
        if "left_out" in ready:
            self.__exit__()
            raise _LeftOut(ready["left_out"])
        self._note = str(ready["note"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._process.communicate()

    def run_round(self) -> None:
        """Classify all cells once."""
        self._answers.append(self._ask("next"))

    def measured(self, title: str) -> Measured:
        """Return what all rounds measured."""
        single = sorted(time_ms for answer in self._answers for time_ms in answer["single_ms"])
        ratios = [ratio for answer in self._answers for ratio in answer["map_ratios"]]
        return Measured(
            name=self.name,
            title=title,
            rounds_ms=tuple(round(answer["ms"], 3) for answer in self._answers),
            p50_ms=round(_quantile(single, 0.5), 3) if single else None,
            p95_ms=round(_quantile(single, 0.95), 3) if single else None,
            throughput=True,
            map_ratio=round(statistics.median(ratios), 4) if ratios else None,
            cpu_ms=round(statistics.median(answer["cpu_ms"] for answer in self._answers), 3),
            start_s=round(self._start_s, 3),
            peak_memory_mb=round(self._answers[-1]["peak_memory_mb"], 1),
            note=self._note,
        )

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            watchdog.cancel()
        if not answer:
            self._process.communicate()
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise _LeftOut(f"failed ({lines[-1][:200] if lines else self._process.returncode})")
        found: dict[str, Any] = json.loads(answer)
        return found


@dataclass
class _Shell:
    """Whole processes, from the shell's view; the operating system's file cache is warm for all of them."""

    name: str
    bundle: Path
    file: Path
    folder: Path
    _seconds: list[float] = field(default_factory=list)
    _cpu_s: list[float] = field(default_factory=list)
    _memory_mb: list[float] = field(default_factory=list)

    def run_round(self) -> None:
        """Start the program once; the first time once more before, which fills the caches."""
        if not self._seconds:
            self._run()
        seconds, usage = self._run()
        self._seconds.append(seconds)
        if usage is not None:
            self._cpu_s.append(usage.ru_utime + usage.ru_stime)
            self._memory_mb.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)

    def measured(self, title: str) -> Measured:
        """Return what all rounds measured."""
        times = [round(1e3 * seconds, 1) for seconds in self._seconds]
        return Measured(
            name=self.name,
            title=title,
            rounds_ms=tuple(times),
            p50_ms=_quantile(sorted(times), 0.5),
            p95_ms=_quantile(sorted(times), 0.95),
            throughput=False,
            cpu_ms=round(1e3 * statistics.median(self._cpu_s), 1) if self._cpu_s else None,
            peak_memory_mb=round(max(self._memory_mb), 1) if self._memory_mb else None,
            note="whole process, Python's bytecode compiled before",
        )

    def _run(self) -> "tuple[float, Any]":
        words = ["predict", str(self.file), "--bundle", str(self.bundle)]
        environment = {
            **os.environ,
            "LEUKOSCOPE_CACHE": str(self.folder / "models") if self.name == "shell_warm" else "off",
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        usage = None
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "leukoscope.cli.main", *words], env=environment, stdout=subprocess.DEVNULL
        ) as process:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            else:  # Windows tells no more
                process.wait()
        seconds = time.perf_counter() - began
        if process.returncode:
            raise EngineError(f"leukoscope predict ended with {process.returncode}; try it by hand")
        return seconds, usage


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
