"""The other end of ``leukoscope benchmark predict``: a process that answers once when it is ready, then once a round.

Only the standard library is imported, because the Keras contestant runs this in an environment without leukoscope.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Contestant:
    """Something that judges cells.

    Attributes
    ----------
    judge
        Judges the cells in this range and returns the time of each in ms, or nothing where it judges them together.
    cells
        How many there are.
    note
        What the table says of it.
    """

    judge: Callable[[range], list[float]]
    cells: int
    note: str = ""


def each(judge: Callable[[int], object]) -> Callable[[range], list[float]]:
    """Return a ``Contestant.judge`` that judges one cell after the other and times each."""

    def judge_range(cells: range) -> list[float]:
        times = []
        for index in cells:
            began = time.perf_counter()
            judge(index)
            times.append(1e3 * (time.perf_counter() - began))
        return times

    return judge_range


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
        began, began_cpu = time.perf_counter(), time.process_time()
        single_ms = contestant.judge(range(contestant.cells))
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        answer = {
            "ms": 1e3 * seconds / contestant.cells,
            "cpu_ms": 1e3 * cpu_s / contestant.cells,
            "single_ms": single_ms,
            "peak_memory_mb": peak_mb(),
        }
        _send(answers, answer)


def peak_mb() -> float:
    """Return the largest resident memory of this process so far in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _send(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
