import pytest
from scipy.stats import binomtest

from leukoscope.smear.count import CountedCell, cells_needed, count_cells, share_of, with_classifier_error


@pytest.mark.parametrize(("count", "total"), [(0, 100), (20, 100), (40, 200), (200, 200), (1, 3), (80, 400)])
def test_intervals_are_the_exact_ones(count: int, total: int) -> None:
    share = share_of("x", count, total)
    expected = binomtest(count, total).proportion_ci(0.95, "exact")
    assert share.low == pytest.approx(expected.low, abs=1e-9)
    assert share.high == pytest.approx(expected.high, abs=1e-9)


def test_nucleated_red_cells_are_not_in_the_denominator() -> None:
    cells = (
        [CountedCell("neutrophil")] * 60
        + [CountedCell("lymphoblast")] * 40
        + [CountedCell("erythroblast")] * 10
    )
    counts = count_cells([*cells, CountedCell("neutrophil", "uncertain"), CountedCell("smudge cell")])
    assert counts.white_cells == 100
    assert counts.blasts is not None and counts.blasts.share == 0.4
    assert counts.per_100_white_cells == 10
    assert (counts.uncertain, counts.not_white) == (1, 1)
    assert sum(share.count for share in counts.shares) == 100
    assert counts.warning is None


def test_few_cells_are_warned_of_and_none_is_no_error() -> None:
    assert count_cells([CountedCell("neutrophil")] * 99).warning is not None
    empty = count_cells([])
    assert empty.white_cells == 0 and empty.shares == () and empty.blasts is None


def test_without_classes_no_blasts_are_counted() -> None:
    counts = count_cells([CountedCell()] * 150)
    assert counts.blasts is None and counts.cells_needed is None and counts.per_100_white_cells is None


def test_missing_cells_make_the_interval_narrow_enough() -> None:
    more = cells_needed(20, 100)
    assert more > 0
    total = 100 + more
    interval = binomtest(round(0.2 * total), total).proportion_ci(0.95, "exact")
    assert interval.high - 0.2 <= 0.051
    assert cells_needed(2000, 10000) == 0


def test_the_classifiers_error_only_widens() -> None:
    share = share_of("blast", 20, 100)
    wide = with_classifier_error(share, 0.83, 0.66)
    assert wide.share == share.share
    assert wide.low is not None and share.low is not None and wide.low <= share.low
    unchanged = with_classifier_error(share, 1.0, 1.0)
    assert (unchanged.low, unchanged.high) == (pytest.approx(share.low), pytest.approx(share.high))
    with pytest.raises(ValueError, match="more than 1"):
        with_classifier_error(share, 0.5, 0.5)
