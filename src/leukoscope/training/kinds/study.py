"""The whole study within a limit of time: compare recipes by leaving laboratories out, choose one, fit it on all.

Runs are shared out among processes on one device. Everything known so far is written after every run, so that a study
that is cut short leaves its best.
"""

import argparse
import json
import logging
import math
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays

from leukoscope.core.io import replacing
from leukoscope.training.kinds.protocol import RECIPES, Recipe, choose, score
from leukoscope.training.kinds.runs import Done, Job, Runner, StudySettings
from leukoscope.training.kinds.views import INPUT_PX

logger = logging.getLogger(__name__)

FIRST_FOLDS = ("munich", "pbc")
LATER_FOLDS = ("fields", "cnmc")
FINALISTS = 2
FIRST_SHARE, LATER_SHARE, FINAL_SHARE = 0.34, 0.10, 0.56
_EXAMINE_SECONDS = 4.0


_runner: Runner | None = None


def _start(settings: StudySettings) -> None:
    global _runner  # noqa: PLW0603 - one bank a process, loaded once
    torch.set_num_threads(4)
    runner = Runner(settings)
    if settings.device.startswith("cuda"):
        runner.warm_up()
    _runner = runner


def _run(job: Job) -> Done:
    if _runner is None:
        raise RuntimeError("the process was not started with a bank")
    return _runner.run(job)


def _ready(wait: float) -> float:
    time.sleep(wait)
    return time.time()


class Study:
    """The study and its results so far."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.started = time.time()
        self.end = self.started + settings.minutes * 60
        self.results: dict[str, dict[str, dict[str, Any]]] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.facts: dict[str, Any] = {}
        settings.out.mkdir(parents=True, exist_ok=True)
        if settings.resume:
            self._read()

    def run(self) -> None:
        """Run the whole study."""
        processes = self.settings.processes
        executor: Executor
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(processes, context, _start, (self.settings,))
        else:
            executor = ThreadPoolExecutor(1, initializer=_start, initargs=(self.settings,))
        with executor:
            list(executor.map(_ready, [1.0 if processes > 1 else 0.0] * processes))
            now = time.time()
            # Examining after the final fit, and writing, take their own time.
            left = self.end - now - 4 * _EXAMINE_SECONDS
            self.facts["loading_seconds"] = round(now - self.started, 1)
            self._compare(executor, RECIPES, FIRST_FOLDS, left * FIRST_SHARE, self.end - left * 0.5)
            scores = self.scores()
            best = sorted(
                (r for r in RECIPES if not math.isnan(scores[r.name])), key=lambda r: -scores[r.name]
            )
            finalists = tuple(best[:FINALISTS])
            self._compare(executor, finalists, LATER_FOLDS, left * LATER_SHARE, self.end - left * 0.4)
            self._finish(executor, left)
        self.write(complete=True)

    def scores(self) -> dict[str, float]:
        """Return the score of every recipe by the folds finished so far."""
        return {
            recipe.name: score(
                {fold: run["measures"] for fold, run in self.results.get(recipe.name, {}).items()}
            )
            for recipe in RECIPES
        }

    def _compare(
        self,
        executor: Executor,
        recipes: tuple[Recipe, ...],
        folds: tuple[str, ...],
        seconds: float,
        until: float,
    ) -> None:
        wanted = [
            (recipe, fold)
            for recipe in recipes
            for fold in folds
            if fold not in self.results.get(recipe.name, {})
        ]
        if not wanted:
            return
        rounds = math.ceil(len(wanted) / self.settings.processes)
        each = max(seconds / rounds - _EXAMINE_SECONDS, 3.0)
        self._collect(executor.submit(_run, Job(recipe, fold, each, until)) for recipe, fold in wanted)

    def _finish(self, executor: Executor, left: float) -> None:
        """Fit the chosen recipe on all laboratories; with a second process its sister of the other size beside it."""
        scores = self.scores()
        chosen = choose(scores) if any(not math.isnan(value) for value in scores.values()) else RECIPES[0]
        self.facts["chosen"] = asdict(chosen)
        self.write()
        other = "tf_efficientnet_lite0" if chosen.arch != "tf_efficientnet_lite0" else "tf_efficientnet_lite2"
        recipes = [chosen, replace(chosen, name=f"{chosen.name}-{other[-5:]}", arch=other)]
        until = self.end - 3 * _EXAMINE_SECONDS
        seconds = (until - time.time()) / (1 if self.settings.processes > 1 else 2)
        jobs = [Job(recipe, "none", seconds, until, seed=1) for recipe in recipes]
        self._collect(executor.submit(_run, job) for job in jobs)

    def _collect(self, futures: Iterable[Future[Done]]) -> None:
        for future in as_completed(list(futures)):
            try:
                done = future.result()
            except Exception as error:
                # One failed run must not end the others; the reason stands in the results.
                logger.exception("a run failed")
                self.facts.setdefault("failures", []).append(f"{type(error).__name__}: {error}")
                continue
            if not done.skipped:
                entry = {
                    name: value for name, value in vars(done).items() if name not in ("arrays", "skipped")
                }
                entry["at_seconds"] = round(time.time() - self.started, 1)
                self.results.setdefault(done.recipe, {})[done.fold] = entry
                self.arrays |= done.arrays
            logger.info(
                "%5.0f s %s left out %s: %s", time.time() - self.started, done.recipe, done.fold, _line(done)
            )
            self.write()

    def write(self, complete: bool = False) -> None:
        """Write the results so far."""
        record = {
            "complete": complete,
            "seconds": round(time.time() - self.started, 1),
            "settings": {key: str(value) for key, value in asdict(self.settings).items() if key != "out"},
            "recipes": [asdict(recipe) for recipe in RECIPES],
            "scores": self.scores(),
            **self.facts,
            "runs": self.results,
        }
        with replacing(self.settings.out / "results.json") as part:
            part.write_text(json.dumps(_finite(record), indent=1, allow_nan=False))
        chosen = str(self.facts.get("chosen", {}).get("name", RECIPES[0].name))
        kept = {key: value for key, value in self.arrays.items() if key.partition("/")[0] == chosen}
        if complete and kept:
            with replacing(self.settings.out / "held_out.safetensors") as part:
                save_arrays(kept, part)

    def _read(self) -> None:
        path = self.settings.out / "results.json"
        if path.is_file():
            record = json.loads(path.read_text())
            self.results = {
                recipe: {fold: run for fold, run in runs.items() if fold != "none"}
                for recipe, runs in record["runs"].items()
            }


def _finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(done: Done) -> str:
    if done.skipped:
        return "skipped, no time left"
    parts = [f"{done.steps} steps, {done.views_per_second:.0f} views/s, loss {done.loss:.3f}"]
    for name, measures in done.measures.items():
        shown = [
            f"{key} {measures[key]:.3f}"
            for key in ("auc_blast", "auc_immature", "recall_mean", "recall_mature", "auc", "called_blast")
            if isinstance(measures.get(key), float) and not math.isnan(measures[key])
        ]
        if name.startswith(("left_out", "cnmc", "pbc", "munich")):
            parts.append(f"{name} ({', '.join(shown)})")
    return "; ".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Run a study from the command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="file of write_pack")
    parser.add_argument(
        "initial", type=Path, help="folder of initial weights, named after their architecture"
    )
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of the whole")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="runs at once")
    parser.add_argument("--input-px", type=int, default=INPUT_PX)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--every", type=int, default=1, help="use only each n-th crop")
    parser.add_argument("--resume", action="store_true", help="resume from the folder of the results")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Study(StudySettings(**vars(parser.parse_args(arguments)))).run()


if __name__ == "__main__":
    main()
