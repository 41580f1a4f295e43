"""Two synthetic runs, one a direction, and their report: made once, read by many tests."""

from pathlib import Path
from typing import NamedTuple

import pytest

from leukoscope.evaluation.protocol import evaluate
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.models.report import Report
from leukoscope.stats.intervals import BootstrapSettings
from synthetic_runs import Cohort, write_run

FEW = EvaluationSettings(bootstrap=BootstrapSettings(replicates=300))
SMALL, LARGE = Cohort(6, 4, 25), Cohort(9, 6, 25)


class Evaluated(NamedTuple):
    """Run folders with the report that was made of them."""

    runs: list[Path]
    report: Report


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / "forth", train=LARGE, test=SMALL, seed=1, split="fold_0 to fold_1"),
        write_run(folder / "back", train=SMALL, test=LARGE, seed=2, split="fold_1 to fold_0", test_first=501),
    ]
    return Evaluated(runs, evaluate(runs, pooled=True, settings=FEW))
