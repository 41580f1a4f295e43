"""Description and load of the machine of a benchmark."""

import os
import platform
import shlex
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from leukoscope.core.errors import UsageError
from leukoscope_tools.benchmark.records import Machine

VERSIONS = ("leukoscope", "openvino", "onnxruntime", "torch", "timm", "grad-cam", "numpy", "pillow")


class MachineWatch:
    """Measures the processor share of other programs during a measurement, after its processes have ended."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def machine(self, threads: int) -> Machine:
        """Return the record of this machine since the watch began."""
        others = None
        busy_s = _busy_s()
        if busy_s is not None and self._busy_s is not None:
            all_s = (time.monotonic() - self._began) * (os.cpu_count() or 1)
            # Ticks are coarse: over a short time their quotient may leave 0 to 1.
            others = min(1.0, max(0.0, busy_s - self._busy_s - (_own_s() - self._own_s)) / all_s)
        return Machine(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(["python", "-m", "leukoscope_tools", *sys.argv[1:]]),
            processor=_processor(),
            cores=os.cpu_count() or 1,
            threads=threads,
            system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            versions=_versions(),
            others_share=None if others is None else round(others, 3),
        )


def resident_mb(process: int) -> float:
    """Return the resident memory of a process in MB (10^6 bytes).

    Raises
    ------
    UsageError
        The system has no ``/proc``.
    ProcessLookupError
        The process has ended.
    """
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        if not Path("/proc/self/statm").exists():
            raise UsageError("memory is watched through /proc, which this system lacks; use Linux") from None
        raise ProcessLookupError(process) from None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _busy_s() -> float | None:
    """Return the seconds that all processors together have worked since the system started."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts = map(int, words[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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
