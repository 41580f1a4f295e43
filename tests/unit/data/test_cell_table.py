import numpy as np
import pandas as pd
import pytest

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.data.table import COLUMNS, cell_key, read_cells, resolve_paths, table_sha256, write_cells
from synthetic_cohort import cell_table


@pytest.fixture
def table():
    return cell_table(
        [
            {
                "cell": "a/1.bmp",
                "subject": "11",
                "label": "blast",
                "fold": "fold_0",
                "mean_r": 0.1,
                "area_px": 7,
            },
            {"cell": "a/NA.bmp", "subject": "NA", "label": "normal", "fold": "fold_0", "focus": 1e-17},
            {"cell": "b/3.bmp", "subject": "h3", "group": "H10+h3", "fold": ""},
        ]
    )


def test_round_trip_keeps_strings_and_numbers(table, tmp_path):
    write_cells(table, tmp_path / "cells.csv")
    read = read_cells(tmp_path / "cells.csv")
    assert read["subject"].tolist() == ["11", "NA", "h3"]
    assert read["fold"].tolist() == ["fold_0", "fold_0", ""]
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert read["area_px"].dtype == np.int64 and read["mean_r"].dtype == np.float64
    content = (tmp_path / "cells.csv").read_bytes()
    assert b"\r" not in content and content.decode().splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("label", "all", r"\b3\b.*'all'"),
        ("sha256", "AB", r"\b3\b.*sha256.*'AB'"),
        ("area_px", "1.5", r"\b3\b.*area_px.*'1\.5'"),
        ("area_px", "-1", r"\b3\b.*area_px.*'-1'"),
        ("mean_g", "nan", r"\b3\b.*mean_g.*'nan'"),
        ("mean_g", "inf", r"\b3\b.*mean_g.*'inf'"),
        ("group", "", r"\b3\b"),
        ("group", "H11", r"\b3\b.*'NA'.*'H11'"),
        ("cell", "", r"\b3\b"),
        ("cell", "a/1.bmp", r"\b3\b.*'a/1\.bmp'"),
    ],
)
def test_errors_name_the_row(table, tmp_path, column, value, words):
    text = table.astype(str)
    text.loc[1, column] = value
    text.to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(CohortError, match=words):
        read_cells(tmp_path / "cells.csv")


def test_other_files_are_refused(table, tmp_path):
    with pytest.raises(UsageError, match=r"absent\.csv"):
        read_cells(tmp_path / "absent.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(CohortError, match=r"x\.csv"):
        read_cells(tmp_path / "x.csv")
    table.drop(columns="focus").to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(CohortError, match=r"y\.csv.*'focus'"):
        read_cells(tmp_path / "y.csv")


def test_refused_write_leaves_the_old_table(table, tmp_path):
    path = tmp_path / "cells.csv"
    write_cells(table, path)
    before = path.read_bytes()
    with pytest.raises(CohortError):
        write_cells(table.assign(label="?"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["cells.csv"]


def test_hash_depends_only_on_identity(table):
    digest = table_sha256(table)
    assert table_sha256(table.iloc[::-1]) == digest
    assert table_sha256(table.assign(focus=3.0)) == digest
    for column in ("cell", "sha256", "label", "subject", "group", "fold"):
        changed = table.copy()
        changed.loc[0, column] = "other"
        assert table_sha256(changed) != digest


def test_keys_are_relative_below_the_table_and_absolute_elsewhere(table, tmp_path):
    inside, outside = tmp_path / "cohort" / "x" / "1.bmp", tmp_path / "elsewhere" / "2.bmp"
    for file in (inside, outside):
        file.parent.mkdir(parents=True)
        file.touch()
    path = tmp_path / "cohort" / "cells.csv"
    keys = [cell_key(inside, path), cell_key(outside, path)]
    assert keys == ["x/1.bmp", outside.resolve().as_posix()]
    resolved = resolve_paths(cell_table([{"cell": key} for key in keys]), path)
    assert all(file.is_file() for file in resolved)
