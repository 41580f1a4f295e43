import dataclasses
import json

import pytest

from leukoscope.core.errors import SplitError, UsageError
from leukoscope.data.splits import (
    Split,
    assert_disjoint,
    check_plan,
    inner_folds,
    make_plan,
    make_splits,
    read_splits,
    single_split,
    write_splits,
)
from synthetic_cohort import cell_table, subjects_table

COHORT = {
    "1": ("fold_0", "blast", 9),
    "2": ("fold_0", "blast", 4),
    "3": ("fold_0", "blast", 3),
    "H1": ("fold_0", "normal", 6),
    "H2": ("fold_0", "normal", 3),
    "4": ("fold_1", "blast", 8),
    "5": ("fold_1", "blast", 5),
    "H3": ("fold_1", "normal", 4),
    "H4": ("fold_1", "normal", 5),
    "H5": ("fold_1", "normal", 5),
}


@pytest.fixture
def cells():
    return subjects_table(COHORT)


def side(cells, keys, column):
    return set(cells.loc[cells["cell"].isin(keys), column])


def test_official_holds_each_fold_out(cells):
    plan = make_splits(cells, "official", seed=3)
    assert [split.name for split in plan.splits] == ["hold-out-fold_0", "hold-out-fold_1"]
    assert not plan.leaks
    for split, fold in zip(plan.splits, ("fold_0", "fold_1"), strict=True):
        assert set(split.test) == set(cells.loc[cells["fold"] == fold, "cell"])
        assert set(split.train) | set(split.validation) == set(cells.loc[cells["fold"] != fold, "cell"])
        for keys in (split.train, split.validation):
            assert side(cells, keys, "label") == {"blast", "normal"}


def test_official_removes_and_lists_groups_of_the_held_out_fold(cells):
    cells.loc[cells["subject"].isin(["2", "5"]), "group"] = "2+5"
    first, second = make_splits(cells, "official", validation_share=0).splits
    assert side(cells, first.removed, "subject") == {"5"} and len(first.removed) == 5
    assert side(cells, second.removed, "subject") == {"2"} and len(second.removed) == 4
    assert not set(first.removed) & set(first.train)


def test_labeled_preliminary_set_is_held_out_and_never_trains(cells):
    more = subjects_table(
        COHORT | {"57": ("preliminary_test", "blast", 2), "H49": ("preliminary_test", "normal", 2)}
    )
    *folds, preliminary = make_splits(more, "official").splits
    assert preliminary.name == "hold-out-preliminary_test"
    assert side(more, preliminary.test, "subject") == {"57", "H49"}
    for split in folds:
        assert "preliminary_test" not in side(more, (*split.train, *split.validation, *split.test), "fold")


def test_grouped_tests_every_cell_once_and_keeps_classes_even(cells):
    plan = make_splits(cells, "grouped", k=2, validation_share=0, seed=1)
    tested = [key for split in plan.splits for key in split.test]
    assert sorted(tested) == sorted(cells["cell"])
    for label in ("blast", "normal"):
        counts = [
            len(cells[cells["cell"].isin(split.test) & (cells["label"] == label)]) for split in plan.splits
        ]
        assert max(counts) - min(counts) <= 1, (label, counts)


def test_grouped_needs_a_group_of_each_class_for_each_part(cells):
    with pytest.raises(SplitError, match=r"\b6\b.*\b5\b"):
        make_splits(cells, "grouped", k=6)


def test_paper_split_has_the_reference_counts_and_is_marked_as_leaking():
    cells = subjects_table({"1": ("fold_0", "blast", 2_200), "H1": ("fold_0", "normal", 2_150)})
    plan = make_splits(cells, "paper", seed=5)
    (split,) = plan.splits
    assert plan.leaks
    for name, count in (("train", 1500), ("validation", 300), ("test", 300)):
        labels = cells.loc[cells["cell"].isin(split.parts()[name]), "label"].value_counts()
        assert labels.to_dict() == {"blast": count, "normal": count}
    assert make_splits(cells, "paper", seed=5) == plan
    assert make_splits(cells, "paper", seed=6) != plan
    with pytest.raises(SplitError, match="--per-class 23"):
        make_splits(subjects_table(COHORT), "paper")


def test_seed_decides_the_validation_part(cells):
    one = make_splits(cells, "grouped", k=2, seed=1)
    assert make_splits(cells, "grouped", k=2, seed=1) == one
    assert any(make_splits(cells, "grouped", k=2, seed=seed).splits != one.splits for seed in range(2, 8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fold": "fold_0"}, r"\b2\b.*fold_0.*--protocol"),
        ({"label": ""}, None),
        ({"label": "blast"}, r"\bblast\b"),
        ({"subject": ""}, "--cells-as-subjects"),
    ],
)
def test_cohorts_that_do_not_allow_the_protocol(cells, change, words):
    with pytest.raises(SplitError, match=words):
        make_splits(cells.assign(**change), "official")


def test_too_few_groups_for_a_validation_part_is_an_error_with_a_way_out(cells):
    few = cells[cells["subject"].isin(["1", "2", "H1", "4", "5", "H3"])]
    with pytest.raises(SplitError, match=r"hold-out-fold_0.*\b0\b"):
        make_splits(few, "official")
    assert len(make_splits(few, "official", validation_share=0).splits) == 2


def test_cells_without_a_subject_are_accepted_on_demand_and_marked():
    cells = cell_table({"label": "blast" if i % 2 else "normal", "cell": f"{i}.png"} for i in range(20))
    with pytest.raises(SplitError, match="--cells-as-subjects"):
        make_splits(cells, "grouped", k=2)
    assert make_splits(cells, "grouped", k=2, cells_as_subjects=True).leaks


def test_inner_folds_keep_groups_whole_and_both_classes(cells):
    train = cells.loc[cells["fold"] == "fold_0", "cell"]
    folds = inner_folds(cells, train, 5, seed=0)
    assert len(folds) == 2  # two normal subjects
    assert sorted(key for fold in folds for key in fold.validation) == sorted(train)
    for fold in folds:
        assert set(fold.train) | set(fold.validation) == set(train)
        assert not side(cells, fold.train, "group") & side(cells, fold.validation, "group")
        assert (
            side(cells, fold.validation, "label") == side(cells, fold.train, "label") == {"blast", "normal"}
        )
    with pytest.raises(SplitError, match="'absent'"):
        inner_folds(cells, ["absent"], 2, seed=0)


def test_group_on_two_sides_is_named(cells):
    keys = cells.groupby("subject")["cell"].apply(list)
    split = Split("x", tuple(keys["1"] + keys["H1"][:3]), (), tuple(keys["4"] + keys["H1"][3:]))
    with pytest.raises(SplitError, match=r"'H1'.*\btrain\b.*\btest\b"):
        assert_disjoint(cells, split)
    assert_disjoint(cells, split, leaks=True)


def test_identical_file_on_two_sides_is_found_even_between_groups(cells):
    cells.loc[cells["cell"] == "fold_1/4_0.bmp", "sha256"] = cells["sha256"].iloc[0]
    keys = cells.groupby("subject")["cell"].apply(tuple)
    with pytest.raises(SplitError, match="sha256"):
        assert_disjoint(cells, Split("x", keys["1"], (), keys["4"]))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ((), ("fold_1/4_0.bmp",), r"\btrain\b"),
        (("fold_0/1_0.bmp",), (), r"\btest\b"),
        (("fold_0/1_0.bmp", "nowhere"), ("fold_1/4_0.bmp",), "'nowhere'"),
        (("fold_0/1_0.bmp", "fold_0/1_0.bmp"), ("fold_1/4_0.bmp",), "'fold_0/1_0.bmp'"),
    ],
)
@pytest.mark.parametrize("leaks", [False, True])
def test_broken_splits_are_refused_even_if_marked_as_leaking(cells, train, test, words, leaks):
    with pytest.raises(SplitError, match=words):
        assert_disjoint(cells, Split("x", train, (), test), leaks=leaks)


def test_file_round_trip_and_every_tampering_is_refused(cells, tmp_path):
    path = tmp_path / "splits.json"
    plan = make_splits(cells, "official")
    write_splits(plan, cells, path)
    assert read_splits(path, cells) == plan
    assert read_splits(path, cells.sample(frac=1, random_state=1)) == plan
    content = json.loads(path.read_text())

    def refused(words, table=cells, **change):
        path.write_text(json.dumps(content | change))
        with pytest.raises(SplitError, match=words):
            read_splits(path, table)

    first = content["splits"][0]
    moved = first | {"train": [*first["train"], first["test"][0]], "test": first["test"][1:]}
    refused(r"\btrain\b.*\btest\b", splits=[moved])
    refused(r"schema_version.*\b2\b", schema_version=2)
    refused("splits.0.train", splits=[first | {"train": 3}])
    refused("hold-out-fold_0.*hold-out-fold_0", splits=[first, first])
    refused(None, table=cells.assign(group=cells["group"] + "+x"))
    refused("fold_0/1_", table=cells[cells["subject"] != "1"])
    path.write_text("{")
    with pytest.raises(SplitError, match=r"splits\.json"):
        read_splits(path, cells)
    with pytest.raises(UsageError, match=r"absent\.json"):
        read_splits(tmp_path / "absent.json", cells)


def test_more_rows_in_the_table_do_not_matter_to_a_plan(cells, tmp_path):
    plan = make_splits(cells, "official")
    more = subjects_table(COHORT | {"99": ("fold_9", "blast", 3)})
    check_plan(more, plan)
    single = single_split(plan, "hold-out-fold_1", cells)
    assert [split.name for split in single.splits] == ["hold-out-fold_1"]
    kept = cells[
        cells["cell"].isin({*single.splits[0].train, *single.splits[0].validation, *single.splits[0].test})
    ]
    check_plan(kept, single)
    with pytest.raises(UsageError, match=r"'x'.*hold-out-fold_0, hold-out-fold_1"):
        plan.named("x")


def test_a_leaking_plan_must_be_marked(cells):
    keys = cells["cell"].tolist()
    split = Split("x", tuple(keys[::2]), (), tuple(keys[1::2]))
    with pytest.raises(SplitError, match="'x'"):
        make_plan(cells, "own", 0, False, [split])
    plan = make_plan(cells, "own", 0, True, [split])
    with pytest.raises(SplitError, match="'x'"):
        check_plan(cells, dataclasses.replace(plan, leaks=False))
