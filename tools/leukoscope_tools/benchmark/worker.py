"""The worker process of ``benchmark predict``: answers once when it is ready, then once per round.

Only the standard library is imported, because the Keras contestant runs this in an environment without leukoscope.
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


Judge = Callable[[range], list[Timed]]


@dataclass(frozen=True)
class Contestant:
    """Something that judges cells.

    Attributes
    ----------
    judge
        Judges the cells in this range and returns the times of each, or nothing where it judges them together.
    cells
        How many there are.
    note
        What the table says of it.
    map_ratios
        Filled by ``judge`` where it also runs the graph with its map: the time with by the time without, cell by cell.
    """

    judge: Judge
    cells: int
    note: str = ""
    map_ratios: list[float] = field(default_factory=list)


def time_call(judge: Callable[..., object], *arguments: object) -> Timed:
    """Time one call."""
    began, began_cpu = time.perf_counter(), time.process_time()
    judge(*arguments)
    return Timed(1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - began_cpu))


def each(judge: Callable[[int], object]) -> Judge:
    """Return a ``Contestant.judge`` that judges one cell after the other and times each."""
    return lambda cells: [time_call(judge, index) for index in cells]


def serve(prepare: Callable[[dict[str, object]], Contestant]) -> None:
    """Read the job, prepare, answer when the first cell is judged, then judge all cells for every line that comes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    try:
        contestant = prepare(json.loads(sys.stdin.readline()))
    except ModuleNotFoundError as error:
        _send(answers, {"left_out": f"{error.name} is not installed"})
        return
    contestant.judge(range(1))
    _send(answers, {"note": contestant.note})
    contestant.judge(
        range(contestant.cells)
    )  # every shape compiled, every buffer made, before the first round
    for _ in sys.stdin:
        _send(answers, _run_round(contestant))


def _run_round(contestant: Contestant) -> dict[str, object]:
    contestant.map_ratios.clear()
    times: list[Timed] = []
    whole = time_call(lambda: times.extend(contestant.judge(range(contestant.cells))))
    wall_ms, cpu_ms = whole.wall_ms / contestant.cells, whole.cpu_ms / contestant.cells
    if times:
        wall_ms, cpu_ms = (statistics.fmean(column) for column in zip(*times, strict=True))
    return {
        "ms": wall_ms,
        "cpu_ms": cpu_ms,
        "single_ms": [entry.wall_ms for entry in times],
        "map_ratios": contestant.map_ratios,
        "peak_memory_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Return the largest resident memory of this process so far in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _send(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
