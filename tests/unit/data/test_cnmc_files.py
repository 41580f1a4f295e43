"""Names, official list and groups against the facts of the archive."""

import csv
import hashlib
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from leukoscope.assets import sample_cells_directory, sample_table_path
from leukoscope.core.errors import CohortError
from leukoscope.core.terms import Label
from leukoscope.data.cnmc import fold_of, is_labels_file, official_bmp_sha256, parse_name, read_labels
from leukoscope.data.groups import assign_groups, group_name, official_groups
from leukoscope.data.official import official_by_sha256, official_by_tail, official_files, pack_official
from leukoscope.imaging.decode import decode_image
from synthetic_cohort import cell_image, official_bmp


@pytest.mark.parametrize(
    ("name", "subject", "label"),
    [
        ("UID_11_10_1_all.bmp", "11", Label.BLAST),
        ("UID_H11_3_12_hem.webp", "H11", Label.NORMAL),
        ("UID_h3_2_1_hem.PNG", "h3", Label.NORMAL),
        ("UID_51_1_1_all", "51", Label.BLAST),
    ],
)
def test_subject_and_label_come_from_the_name(name, subject, label):
    parsed = parse_name(name)
    assert (parsed.subject, parsed.label) == (subject, label)


@pytest.mark.parametrize(
    "name", ["12.bmp", "UID_11_10_all.bmp", "UID_11_10_1_ALL.bmp", "xUID_1_1_1_all.bmp", "UID_A_1_1_all.bmp"]
)
def test_other_names_are_not_guessed(name):
    assert parse_name(name) is None


def test_innermost_official_folder_names_the_part():
    assert fold_of(("C-NMC_Leukemia", "training_data", "fold_2", "all")) == "fold_2"
    assert fold_of(("validation_data", "C-NMC_test_prelim_phase_data")) == "preliminary_test"
    assert fold_of(("testing_data", "C-NMC_test_final_phase_data")) == "final_test"
    assert fold_of(("test", "final", "benign")) == ""


def test_label_file_is_known_by_its_header_and_read_with_subjects(tmp_path):
    path = tmp_path / "phase2.csv"
    path.write_text(
        "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H49_35_1_hem.bmp,4.bmp,0\n"
    )
    assert is_labels_file(path)
    labels = read_labels(path)
    assert {name: (row.subject, row.label) for name, row in labels.items()} == {
        "1.bmp": ("57", 1),
        "4.bmp": ("H49", 0),
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("UID_57_29_1_all.bmp,1.bmp,0", r"labels\.csv.*\b2\b"),
        ("57,1.bmp,1", r"labels\.csv.*\b2\b"),
        ("UID_57_2_1_all.bmp,1.bmp,x", r"labels\.csv.*\b2\b"),
    ],
)
def test_label_file_that_contradicts_itself_is_refused(tmp_path, row, words):
    path = tmp_path / "labels.csv"
    path.write_text(f"Patient_ID,new_names,labels\n{row}\n")
    with pytest.raises(CohortError, match=words):
        read_labels(path)


@pytest.mark.parametrize(("height", "width"), [(450, 450), (5, 7), (3, 4), (33, 2)])
def test_official_bmp_form_equals_pillows_writer(height, width):
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert official_bmp_sha256(rgb) == hashlib.sha256(official_bmp(Image.fromarray(rgb))).hexdigest()


def test_shipped_cells_restore_to_official_files():
    with sample_table_path().open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for row in rows:
        digest = official_bmp_sha256(decode_image(sample_cells_directory() / row["file"]))
        assert digest == row["sha256_of_official_bmp"]
        (official, *_) = [f for f in official_by_sha256()[digest] if f.fold == row["fold"]]
        assert (official.subject, official.label) == (row["subject"], Label[row["label"].upper()])


def test_official_list_has_the_archive_s_counts():
    listed = official_files()
    assert len(listed) == 15_114
    assert Counter(file.fold for file in listed) == {
        "fold_0": 3_527,
        "fold_1": 3_581,
        "fold_2": 3_553,
        "preliminary_test": 1_867,
        "final_test": 2_586,
    }
    classes = Counter((file.fold, file.label) for file in listed if file.name)
    assert classes == {
        ("fold_0", 1): 2_397,
        ("fold_0", 0): 1_130,
        ("fold_1", 1): 2_418,
        ("fold_1", 0): 1_163,
        ("fold_2", 1): 2_457,
        ("fold_2", 0): 1_096,
    }
    people = {label: {f.subject for f in listed if f.label == label} for label in Label}
    assert (len(people[Label.BLAST]), len(people[Label.NORMAL])) == (47, 26)
    assert "h3" in people[Label.NORMAL]
    assert len(official_by_tail()) == len(listed)


def test_official_duplicates_and_merged_groups():
    same = [found for found in official_by_sha256().values() if len(found) > 1]
    assert len(same) == 106
    assert sum(len({f.subject for f in found}) > 1 for found in same) == 99
    assert sum(len({f.fold for f in found}) > 1 for found in same) == 94
    groups = official_groups()
    assert (len(groups), len(set(groups.values()))) == (73, 66)
    merged = {group for group in groups.values() if len(group) > 1}
    assert merged == {
        frozenset({"20", "21"}),
        frozenset({"51", "75", "78"}),
        frozenset({"H2", "H4", "H5", "H6"}),
        frozenset({"H10", "h3"}),
    }


def test_official_list_is_compact_and_packs_to_the_shipped_bytes():
    folder = files("leukoscope.data")
    names, digests = (
        (folder / "official_names.txt.xz").read_bytes(),
        (folder / "official_sha256.bin").read_bytes(),
    )
    assert len(names) + len(digests) < 500_000
    packed = pack_official((file.path, file.sha256) for file in reversed(official_files()))
    assert packed[1] == digests
    assert len(packed[0]) == pytest.approx(len(names), rel=0.1)


def digests(*names):
    return [hashlib.sha256(name.encode()).hexdigest() for name in names]


def test_official_merges_hold_where_one_subject_is_present():
    groups = assign_groups(["20", "H6", "11"], digests("a", "b", "c"), ["20", "H6", "11"])
    assert groups == ["20+21", "H2+H4+H5+H6", "11"]


def test_same_id_in_another_cohort_is_another_subject():
    assert assign_groups(["20"], digests("a"), [""]) == ["20"]


def test_imported_files_merge_subjects_transitively():
    groups = assign_groups(["a", "b", "b", "c", "d"], digests("1", "1", "2", "2", "3"), [""] * 5)
    assert groups == ["a+b+c", "a+b+c", "a+b+c", "a+b+c", "d"]


def test_unknown_subjects_are_grouped_by_file_and_inferred_from_a_known_copy():
    one, two, three = digests("1", "2", "3")
    groups = assign_groups(["", "", "x", ""], [one, one, two, two], [""] * 4)
    assert groups[0] == groups[1] == f"sha256:{one[:12]}"
    assert groups[2] == groups[3] == "x"
    assert assign_groups([""], [three], [""]) != groups[:1]


def test_groups_are_named_in_natural_order():
    assert group_name(["H10", "9", "h3", "11"]) == "9+11+H10+h3"


def test_test_images_differ():
    assert not np.array_equal(cell_image(1), cell_image(2))
