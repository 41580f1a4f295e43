"""The worker process of ``benchmark predict``: answers once when it is ready, then once per round.

Only the standard library is imported, because the Keras backend runs this in an environment without leukoscope.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO


class Timed(NamedTuple):
    """What one cell took, in ms: by the clock, and on all processors together."""

    wall_ms: float
    cpu_ms: float


PredictFn = Callable[[range], list[Timed]]


@dataclass(frozen=True)
class Backend:
    """Something that classifies cells.

    Attributes
    ----------
    predict
        Classifies the cells in this range and returns the times of each, or nothing where it classifies them together.
    cells
        How many there are.
    note
        Row of the table.
    map_ratios
        Filled by ``predict`` where it also runs the graph with its map: time with by time without, cell by cell.
    """

    predict: PredictFn
    cells: int
    note: str = ""
    map_ratios: list[float] = field(default_factory=list)


def time_call(predict: Callable[..., object], *arguments: object) -> Timed:
    """Time one call."""
    began, began_cpu = time.perf_counter(), time.process_time()
    predict(*arguments)
    return Timed(1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - began_cpu))


def each(predict: Callable[[int], object]) -> PredictFn:
    """Return a ``Backend.classify`` that classifies one cell after the other and times each."""
    return lambda cells: [time_call(predict, index) for index in cells]


def serve(prepare: Callable[[dict[str, object]], Backend]) -> None:
    """Read the job, prepare, answer after the first cell, then classify all cells for every line that comes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    try:
        backend = prepare(json.loads(sys.stdin.readline()))
    except ModuleNotFoundError as error:
        _send(answers, {"left_out": f"{error.name} is not installed"})
        return
    backend.predict(range(1))
    _send(answers, {"note": backend.note})
    backend.predict(range(backend.cells))  # every shape compiled, every buffer made, before the first round
    for _ in sys.stdin:
        _send(answers, _run_round(backend))


def _run_round(backend: Backend) -> dict[str, object]:
    backend.map_ratios.clear()
    times: list[Timed] = []
    whole = time_call(lambda: times.extend(backend.predict(range(backend.cells))))
    wall_ms, cpu_ms = whole.wall_ms / backend.cells, whole.cpu_ms / backend.cells
    if times:
        wall_ms, cpu_ms = (statistics.fmean(column) for column in zip(*times, strict=True))
    return {
        "ms": wall_ms,
        "cpu_ms": cpu_ms,
        "single_ms": [entry.wall_ms for entry in times],
        "map_ratios": backend.map_ratios,
        "peak_memory_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Return the largest resident memory of this process so far in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _send(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
