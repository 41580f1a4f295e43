"""The shipped cells are what their table says."""

import csv
import hashlib
import struct
from collections import Counter

import numpy as np

from leukoscope.assets import (
    default_bundle_path,
    other_images_directory,
    sample_cells_directory,
    sample_table_path,
)
from leukoscope.imaging.decode import decode_image

with sample_table_path().open(newline="") as table:
    ROWS = list(csv.DictReader(table))


def official_bmp(rgb: np.ndarray) -> bytes:
    """Write the official file: 24 bits, rows bottom-up and padded to four bytes, 3,779 px per meter."""
    height, width, _ = rgb.shape
    rows = np.zeros((height, (3 * width + 3) // 4 * 4), np.uint8)
    rows[:, : 3 * width] = rgb[::-1, :, ::-1].reshape(height, -1)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 3779, 3779, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + rows.size, 0, 0, 54) + header + rows.tobytes()


def test_table_and_files_agree() -> None:
    files = {
        path.relative_to(sample_cells_directory()).as_posix()
        for path in sample_cells_directory().rglob("*.webp")
    }
    assert files == {row["file"] for row in ROWS}
    for row in ROWS:
        fold, folder, name = row["file"].split("/")
        assert fold == row["fold"]
        assert folder == {"blast": "all", "normal": "hem"}[row["label"]]
        assert name.startswith(f"UID_{row['subject']}_")


def test_both_classes_and_all_subjects_of_two_folds() -> None:
    assert Counter(row["label"] for row in ROWS) == {"blast": 30, "normal": 30}
    assert len({row["subject"] for row in ROWS}) == 42
    assert {row["fold"] for row in ROWS} == {"fold_0", "fold_1"}


def test_exactly_one_pair_of_duplicates() -> None:
    counts = Counter(row["sha256_of_official_bmp"] for row in ROWS)
    twice = [digest for digest, count in counts.items() if count > 1]
    assert len(twice) == 1
    pair = [
        decode_image(sample_cells_directory() / row["file"])
        for row in ROWS
        if row["sha256_of_official_bmp"] == twice[0]
    ]
    assert len(pair) == 2
    assert np.array_equal(*pair)


def test_pixels_are_the_official_ones() -> None:
    for row in ROWS:
        rgb = decode_image(sample_cells_directory() / row["file"])
        assert rgb.shape == (450, 450, 3)
        assert hashlib.sha256(official_bmp(rgb)).hexdigest() == row["sha256_of_official_bmp"], row["file"]


def test_attribution_is_next_to_the_images() -> None:
    cells = (sample_cells_directory() / "ATTRIBUTION.md").read_text()
    assert "10.7937/tcia.2019.dc64i46r" in cells
    assert "CC BY 3.0" in cells
    others = (other_images_directory() / "ATTRIBUTION.md").read_text()
    assert "10.17632/snkd93bnjr.1" in others
    assert "MIT License" in others
    assert len(list(other_images_directory().rglob("*.jpg"))) == 14
    assert default_bundle_path().parent == sample_cells_directory().parent
