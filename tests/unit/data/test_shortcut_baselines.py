import re

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from leukoscope.core.errors import SplitError
from leukoscope.data.table import LABEL_VALUES
from leukoscope.evaluation.baselines import BASELINES, area_baseline, nine_scalars_baseline
from synthetic_cohort import subjects_table


@pytest.fixture
def cells():
    rng = np.random.default_rng(4)
    cells = subjects_table(
        {f"{i}": (f"fold_{i % 2}", "blast", 40) for i in range(4)}
        | {f"H{i}": (f"fold_{i % 2}", "normal", 40) for i in range(4)}
    )
    blast = cells["label"].eq("blast").to_numpy()
    cells["area_px"] = (rng.normal(20_000, 3_000, len(cells)) + 3_000 * blast).astype(int)
    # Color separates the classes nonlinearly, so that no single threshold does.
    cells["mean_g"] = np.where(blast, rng.choice([60, 140], len(cells)), 100) + rng.normal(0, 12, len(cells))
    return cells


def sides(cells):
    return cells.loc[cells["fold"] == "fold_0", "cell"].tolist(), cells.loc[
        cells["fold"] == "fold_1", "cell"
    ].tolist()


def test_area_baseline_has_the_auc_of_the_area_itself(cells):
    train, test = sides(cells)
    rows = cells[cells["fold"] == "fold_1"]
    labels = rows["label"].map(LABEL_VALUES).astype(int)
    scores = area_baseline(cells, train, test)
    assert scores.auc == pytest.approx(roc_auc_score(labels, rows["area_px"]), abs=1e-12)
    assert scores.cells == tuple(test) and np.array_equal(scores.labels, labels)
    assert np.allclose(scores.probability, 1 / (1 + np.exp(-scores.logit)), atol=1e-6)
    assert scores.weighted_f1 == pytest.approx(
        f1_score(labels, scores.probability >= 0.5, average="weighted")
    )


def test_area_is_oriented_on_the_training_side_only(cells):
    train, test = sides(cells)
    flipped = cells.copy()
    flipped.loc[flipped["fold"] == "fold_1", "area_px"] = 50_000 - flipped["area_px"]
    assert area_baseline(flipped, train, test).auc == pytest.approx(1 - area_baseline(cells, train, test).auc)


def test_nine_scalars_use_color_and_are_repeatable(cells):
    train, test = sides(cells)
    scores = nine_scalars_baseline(cells, train, test, seed=1)
    assert scores.auc > area_baseline(cells, train, test).auc + 0.05
    assert np.array_equal(nine_scalars_baseline(cells, train, test, seed=1).logit, scores.logit)
    assert not np.array_equal(nine_scalars_baseline(cells, train, test, seed=2).logit, scores.logit)


def test_rows_follow_the_order_asked_for(cells):
    train, test = sides(cells)
    forward, backward = area_baseline(cells, train, test), area_baseline(cells, train, test[::-1])
    assert np.allclose(forward.logit, backward.logit[::-1])


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_sides_without_both_classes_or_outside_the_table_are_refused(cells, name):
    train, test = sides(cells)
    blasts = [key for key in train if not key.startswith("fold_0/H")]
    with pytest.raises(SplitError, match=rf"\b{len(blasts)}\b"):
        BASELINES[name](cells, blasts, test)
    with pytest.raises(SplitError, match="'absent'"):
        BASELINES[name](cells, train, [*test, "absent"])
    with pytest.raises(SplitError, match=re.escape(train[0])):
        BASELINES[name](cells.assign(label=""), train, test)
