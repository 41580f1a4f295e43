import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from leukoscope.assets import sample_cells_directory
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.data.audit import audit_cells, find_leaks
from leukoscope.data.importing import import_cohort
from leukoscope.data.sampling import copy_sample, draw_sample
from leukoscope.data.splits import Split, make_plan, make_splits
from leukoscope.data.table import read_cells
from leukoscope.data.verify import FileStatus, verify_files
from synthetic_cohort import cell_table, official_bmp, subjects_table, write_image


def test_audit_counts_duplicates_by_what_they_cross():
    sha = ["a" * 64, "b" * 64, "c" * 64]
    cells = cell_table(
        [
            {"subject": "1", "label": "blast", "fold": "fold_0", "sha256": sha[0]},
            {"subject": "1", "label": "blast", "fold": "fold_0", "sha256": sha[0]},
            {"subject": "2", "group": "2+3", "label": "blast", "fold": "fold_0", "sha256": sha[1]},
            {"subject": "3", "group": "2+3", "label": "blast", "fold": "fold_1", "sha256": sha[1]},
            {"subject": "H4", "group": "5+H4", "label": "normal", "fold": "fold_1", "sha256": sha[2]},
            {"subject": "5", "group": "5+H4", "label": "blast", "fold": "fold_1", "sha256": sha[2]},
            {"subject": "", "label": "normal", "fold": ""},
        ]
    )
    audit = audit_cells(cells)
    assert audit.duplicate_counts == {
        "sets": 3,
        "within_subject": 1,
        "across_subjects": 2,
        "across_labels": 1,
        "across_folds": 1,
    }
    assert audit.merged_groups == ("2+3", "5+H4")
    assert audit.unknown_subjects == 1
    (overlap,) = audit.fold_overlaps
    assert (overlap.first, overlap.second, overlap.groups, overlap.identical_files) == (
        "fold_0",
        "fold_1",
        ("2+3",),
        1,
    )
    assert audit.folds["fold_0"] == {
        "cells": 3, "blast": 3, "normal": 0, "unlabeled": 0, "subjects": 2, "groups": 2, "duplicates": 1,
    }  # fmt: skip
    assert [item.subject for item in audit.subjects] == ["1", "2", "3", "5", "H4"]
    assert sum(item.blast + item.normal for item in audit.subjects) == 6


def test_clean_plan_has_no_leaks_and_random_images_have():
    cells = subjects_table(
        {f"{i}": ("fold_0", "blast", 5) for i in range(4)}
        | {f"H{i}": ("fold_0", "normal", 5) for i in range(4)}
    )
    assert find_leaks(cells, make_splits(cells, "grouped", k=2)) == []
    leaks = find_leaks(cells, make_splits(cells, "paper", per_class=14))
    assert {(leak.first, leak.second) for leak in leaks} == {("train", "validation"), ("train", "test")} | (
        {("validation", "test")} & {(leak.first, leak.second) for leak in leaks}
    )


def test_leaks_are_counted_by_group_cell_and_file():
    cells = subjects_table({"1": ("", "blast", 4), "H1": ("", "normal", 3), "2": ("", "blast", 2)})
    cells.loc[cells["cell"] == "/2_0.bmp", "sha256"] = cells["sha256"].iloc[0]
    keys = cells["cell"].tolist()
    plan = make_plan(cells, "own", 0, True, [Split("x", tuple(keys[:3]), (), tuple(keys[3:]))])
    (leak,) = find_leaks(cells, plan)
    assert (leak.groups, leak.cells, leak.identical_files) == (("1",), 2, 1)


def test_cells_without_subjects_count_as_a_leak():
    cells = cell_table({"label": "blast" if i % 2 else "normal"} for i in range(20))
    plan = make_splits(cells, "grouped", k=2, cells_as_subjects=True, validation_share=0)
    assert [leak.unknown_subjects for leak in find_leaks(cells, plan)] == [10, 10]


def official_copy(name, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(sample_cells_directory() / f"{name}.webp") as image:
        target.write_bytes(official_bmp(image))
    return target


def test_verify_distinguishes_every_status(tmp_path):
    names = sorted(path.relative_to(sample_cells_directory()).with_suffix("").as_posix()
                   for path in sample_cells_directory().rglob("*.webp"))  # fmt: skip
    blasts = [name for name in names if "/all/" in name]
    root = tmp_path / "data"
    first = official_copy(blasts[0], root / f"{blasts[0]}.bmp")
    official_copy(blasts[1], root / "renamed.bmp")
    shutil.copy(sample_cells_directory() / f"{blasts[2]}.webp", root / "converted.webp")
    shutil.copy(first, root / "again.bmp")
    official_copy(blasts[3], root / f"{blasts[4]}.bmp")  # official bytes in another's place
    write_image(root / "fold_2/hem/UID_H9_1_1_hem.bmp", 1)
    altered = official_copy(blasts[5], root / f"{blasts[5]}.bmp")
    content = bytearray(altered.read_bytes())
    content[-200_000] ^= 1
    altered.write_bytes(content)
    write_image(root / "other.png", 2)
    (root / "broken.png").write_bytes(b"x")
    found = verify_files(root, workers=2)
    status = {file.file: file.status for file in found.files}
    assert status == {
        f"{blasts[0]}.bmp": FileStatus.OFFICIAL,
        "renamed.bmp": FileStatus.RENAMED,
        "converted.webp": FileStatus.CONVERTED,
        "again.bmp": FileStatus.COPY,
        f"{blasts[4]}.bmp": FileStatus.RENAMED,
        "fold_2/hem/UID_H9_1_1_hem.bmp": status["fold_2/hem/UID_H9_1_1_hem.bmp"],
        f"{blasts[5]}.bmp": FileStatus.ALTERED,
        "other.png": FileStatus.UNKNOWN,
        "broken.png": FileStatus.UNKNOWN,
    }
    assert status["fold_2/hem/UID_H9_1_1_hem.bmp"] in (FileStatus.ALTERED, FileStatus.UNKNOWN)
    assert not found.trustworthy
    assert len(found.missing) == 15_114 - 4
    assert f"training_data/{blasts[5]}.bmp" in found.missing
    assert sum(sum(of_part.values()) for of_part in found.counts.values()) == len(found.files) + len(
        found.missing
    )


def test_verify_trusts_the_shipped_cells_and_identical_pairs_in_place(tmp_path):
    found = verify_files(sample_cells_directory(), workers=2)
    assert found.trustworthy
    assert Counter(file.status for file in found.files) == {FileStatus.CONVERTED: 60}
    pair = ["fold_1/hem/UID_H10_130_2_hem", "fold_1/hem/UID_H10_163_2_hem"]
    for name in pair:
        official_copy(name, tmp_path / f"{name}.bmp")
    assert {file.status for file in verify_files(tmp_path).files} == {FileStatus.OFFICIAL}
    with pytest.raises(UsageError, match="absent"):
        verify_files(tmp_path / "absent")


def test_sample_is_balanced_and_spread_over_groups(tmp_path):
    cells = subjects_table(
        {f"{i}": ("fold_0", "blast", 3 + 20 * (i == 0)) for i in range(5)}
        | {f"H{i}": ("fold_0", "normal", 4) for i in range(3)}
    )
    drawn = draw_sample(cells, 12, seed=2)
    by_group = drawn["group"].value_counts()
    assert drawn["label"].value_counts().to_dict() == {"blast": 6, "normal": 6}
    assert set(drawn["group"]) == set(cells["group"])
    assert by_group[[str(i) for i in range(5)]].max() == 2 and (by_group[["H0", "H1", "H2"]] == 2).all()
    assert draw_sample(cells, 12, seed=2).equals(drawn) and not draw_sample(cells, 12, seed=3).equals(drawn)
    with pytest.raises(CohortError, match=r"\b24\b"):
        draw_sample(cells, 30)


def test_sample_copies_keep_layout_and_attribution(tmp_path):
    table = tmp_path / "cells.csv"
    import_cohort(sample_cells_directory(), table)
    drawn = draw_sample(read_cells(table), 10)
    written = copy_sample(drawn, table, tmp_path / "out")
    assert all(
        a.read_bytes() == b.read_bytes()
        for a, b in zip(written, map(type(table), drawn["cell"]), strict=True)
    )
    assert {path.relative_to(tmp_path / "out").parts[1] for path in written} == {"all", "hem"}
    assert "CC BY 3.0" in (tmp_path / "out/ATTRIBUTION.txt").read_text()
    again = import_cohort(tmp_path / "out", tmp_path / "again.csv")
    assert (again.cells, again.subjects) == (10, drawn["subject"].nunique())


def test_sampling_missing_files_is_an_error(tmp_path):
    cells = subjects_table({"1": ("", "blast", 2), "H1": ("", "normal", 2)})
    with pytest.raises(CohortError, match=r"\.bmp|/"):
        copy_sample(cells, tmp_path / "cells.csv", tmp_path / "out")
    assert np.all([not path.is_file() for path in (tmp_path / "out").rglob("*")])
