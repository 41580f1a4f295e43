"""Two synthetic runs, one a direction, and their report; the fixture ``evaluated`` makes them once in a test run."""

from pathlib import Path
from typing import NamedTuple

from leukoscope.evaluation.protocol import evaluate
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.models.report import Report, read_report, write_report
from leukoscope.stats.intervals import BootstrapSettings
from synthetic_runs import Cohort, write_run

FEW = EvaluationSettings(bootstrap=BootstrapSettings(replicates=300))
SMALL, LARGE = Cohort(6, 4, 25), Cohort(9, 6, 25)


class Evaluated(NamedTuple):
    """Run folders with the report that was made of them."""

    runs: list[Path]
    report: Report


def write_evaluated(folder: Path) -> None:
    """Write both run folders and their report."""
    runs = [
        write_run(folder / "forth", train=LARGE, test=SMALL, seed=1, split="fold_0 to fold_1"),
        write_run(folder / "back", train=SMALL, test=LARGE, seed=2, split="fold_1 to fold_0", test_first=501),
    ]
    write_report(evaluate(runs, pooled=True, settings=FEW), folder / "report.json")


def read_evaluated(folder: Path) -> Evaluated:
    """Read what ``write_evaluated`` wrote."""
    return Evaluated([folder / "forth", folder / "back"], read_report(folder / "report.json"))
