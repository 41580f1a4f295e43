"""Splits of random cohorts: groups stay whole, cells are neither lost nor doubled."""

from hashlib import sha256

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.data.groups import assign_groups
from leukoscope.data.partition import choose_groups, partition_groups
from leukoscope.data.splits import assert_disjoint, inner_folds, make_splits
from synthetic_cohort import subjects_table

sizes = st.lists(st.integers(1, 12), min_size=4, max_size=12)


def cohort(blasts, normals, fold_of):
    subjects = {f"{i}": (f"fold_{fold_of[i % len(fold_of)]}", "blast", n) for i, n in enumerate(blasts)}
    subjects |= {f"H{i}": (f"fold_{fold_of[i % len(fold_of)]}", "normal", n) for i, n in enumerate(normals)}
    return subjects_table(subjects)


@settings(max_examples=15, deadline=None)
@given(sizes, sizes, st.integers(3, 4), st.integers(0, 99))
def test_grouped_covers_once_and_separates_groups(blasts, normals, k, seed):
    cells = cohort(blasts, normals, [0])
    plan = make_splits(cells, "grouped", k=k, seed=seed, validation_share=0.25)
    tested = sorted(key for split in plan.splits for key in split.test)
    assert tested == sorted(cells["cell"])
    group_of = dict(zip(cells["cell"], cells["group"], strict=True))
    label_of = dict(zip(cells["cell"], cells["label"], strict=True))
    for split in plan.splits:
        groups = [{group_of[key] for key in side} for side in split.parts().values()]
        assert sum(map(len, groups)) == len(set().union(*groups)) == len(blasts) + len(normals)
        assert all({label_of[key] for key in side} == {"blast", "normal"} for side in split.parts().values())
        assert_disjoint(cells, split)


@settings(max_examples=15, deadline=None)
@given(sizes, sizes, st.integers(0, 99), st.data())
def test_official_removes_exactly_what_leaks(blasts, normals, seed, data):
    cells = cohort(blasts, normals, [0, 1])
    linked = data.draw(
        st.lists(st.sampled_from(sorted(set(cells["subject"]))), min_size=2, max_size=3, unique=True)
    )
    cells.loc[cells["subject"].isin(linked), "group"] = "+".join(linked)
    plan = make_splits(cells, "official", seed=seed, validation_share=0)
    for split, fold in zip(plan.splits, ("fold_0", "fold_1"), strict=True):
        test_groups = set(cells.loc[cells["fold"] == fold, "group"])
        others = cells[cells["fold"] != fold]
        assert set(split.removed) == set(others.loc[others["group"].isin(test_groups), "cell"])
        assert len(split.train) + len(split.removed) == len(others)


@settings(max_examples=15, deadline=None)
@given(sizes, sizes, st.integers(2, 6), st.integers(0, 99))
def test_inner_folds_hold_every_cell_out_once(blasts, normals, k, seed):
    cells = cohort(blasts, normals, [0])
    folds = inner_folds(cells, cells["cell"], k, seed)
    assert len(folds) == min(k, len(blasts), len(normals))
    assert sorted(key for fold in folds for key in fold.validation) == sorted(cells["cell"])


@settings(max_examples=15, deadline=None)
@given(sizes, sizes, st.integers(2, 4), st.integers(0, 99))
def test_parts_are_as_even_as_moving_one_group_can_make_them(blasts, normals, k, seed):
    members = [(f"b{i}", "blast") for i, n in enumerate(blasts) for _ in range(n)]
    members += [(f"n{i}", "normal") for i, n in enumerate(normals) for _ in range(n)]
    parts = partition_groups(members, k, np.random.default_rng(seed))
    assert sorted(group for part in parts for group in part) == sorted({group for group, _ in members})
    for label, counts in (("b", blasts), ("n", normals)):
        loads = [sum(counts[int(group[1:])] for group in part if group[0] == label) for part in parts]
        smallest = min(counts)
        # A part that holds several groups and exceeds another by more than its smallest group could give that one away.
        for part, load in zip(parts, loads, strict=True):
            own = [counts[int(group[1:])] for group in part if group[0] == label]
            assert len(own) == 1 or load - min(loads) <= max(min(own), smallest)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.floats(0.05, 0.6), st.integers(0, 99))
def test_chosen_groups_leave_both_classes_on_both_sides(blasts, normals, share, seed):
    members = [(f"b{i}", "blast") for i, n in enumerate(blasts) for _ in range(n)]
    members += [(f"n{i}", "normal") for i, n in enumerate(normals) for _ in range(n)]
    chosen = choose_groups(members, share, np.random.default_rng(seed))
    for letter, counts in (("b", blasts), ("n", normals)):
        assert 0 < sum(group[0] == letter for group in chosen) < len(counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", *"abcdef"]), st.integers(0, 6)), min_size=1, max_size=20))
def test_groups_are_the_connected_components_of_subjects_and_files(pairs):
    digests = [sha256(bytes([number])).hexdigest() for _, number in pairs]
    groups = assign_groups([subject for subject, _ in pairs], digests, [""] * len(pairs))
    # Oracle: repeat joining rows that share a subject or a file until nothing changes.
    component = list(range(len(pairs)))
    changed = True
    while changed:
        changed = False
        for i, (subject_i, file_i) in enumerate(pairs):
            for j, (subject_j, file_j) in enumerate(pairs):
                linked = file_i == file_j or (subject_i and subject_i == subject_j)
                if linked and component[i] != component[j]:
                    component[i] = component[j] = min(component[i], component[j])
                    changed = True
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            assert (groups[i] == groups[j]) == (component[i] == component[j])
