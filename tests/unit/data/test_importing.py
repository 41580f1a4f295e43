"""Import of every layout from real files, with all issues reported."""

import hashlib
import json
import shutil

import pytest
from PIL import Image

from leukoscope.assets import sample_cells_directory
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.data.importing import import_cohort, report_path
from leukoscope.data.layouts import IssueKind
from leukoscope.data.table import read_cells
from synthetic_cohort import cell_image, official_bmp, write_image

SHIPPED = "fold_0/all/UID_11_1_2_all.webp"


def run(source, table, **options):
    report = import_cohort(source, table, workers=2, **options)
    return report, read_cells(table).set_index("cell")


def kinds(report):
    return {(issue.kind, issue.file) for issue in report.issues}


def test_shipped_cells_import_with_subjects_folds_and_groups(tmp_path):
    report, cells = run(sample_cells_directory(), tmp_path / "cells.csv")
    assert (report.cells, report.subjects, report.files) == (60, 42, 60)
    assert set(cells["fold"]) == {"fold_0", "fold_1"}
    assert (
        cells["label"] == cells["subject"].str.startswith(("H", "h")).map({True: "normal", False: "blast"})
    ).all()
    assert set(cells.loc[cells["subject"] == "20", "group"]) == {"20+21"}
    assert (cells["area_px"] > 4_000).all() and (cells["width_px"] == 450).all()


def test_kaggle_layout_with_both_test_sets(tmp_path):
    root = tmp_path / "C-NMC_Leukemia"
    write_image(root / "training_data/fold_0/all/UID_1_1_1_all.bmp", 1)
    write_image(root / "training_data/fold_1/hem/UID_H7_1_1_hem.bmp", 2)
    prelim = root / "validation_data/C-NMC_test_prelim_phase_data"
    for number in (1, 2, 3):
        write_image(prelim / f"{number}.bmp", 10 + number)
    (root / "validation_data/C-NMC_test_prelim_phase_data_labels.csv").write_text(
        "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H49_1_1_hem.bmp,2.bmp,0\nUID_57_2_1_all.bmp,9.bmp,1\n"
    )
    final = root / "testing_data/C-NMC_test_final_phase_data"
    write_image(final / "1.bmp", 20, side_px=600)
    report, cells = run(root, tmp_path / "cells.csv")
    assert len(cells) == 6
    by_prelim = cells[cells["fold"] == "preliminary_test"]
    assert by_prelim["subject"].tolist() == ["57", "H49", ""]
    assert by_prelim["label"].tolist() == ["blast", "normal", ""]
    last = cells[cells["fold"] == "final_test"].iloc[0]
    assert (last["label"], last["subject"], last["width_px"]) == ("", "", 600)
    counts = report.issue_counts()
    assert counts == {"cropped": 1, "no_labels": 1, "missing": 1}
    # the disc keeps its area: cropping takes black only
    assert last["area_px"] == int((cell_image(20, 600).max(axis=2) > 8).sum())


def test_class_folders_of_known_and_given_names(tmp_path):
    write_image(tmp_path / "data/Benign/a.png", 1)
    write_image(tmp_path / "data/Early/b.png", 2)
    write_image(tmp_path / "data/Pre/inner/c.png", 3)
    report, cells = run(tmp_path / "data", tmp_path / "cells.csv", blast=["early"])
    assert cells["label"].to_dict() == {
        "data/Benign/a.png": "normal",
        "data/Early/b.png": "blast",
        "data/Pre/inner/c.png": "",
    }
    assert (IssueKind.UNKNOWN_CLASS, "Pre/inner") in kinds(report)
    _, cells = run(tmp_path / "data", tmp_path / "cells.csv", blast=["early", "pre"])
    assert cells.loc["data/Pre/inner/c.png", "label"] == "blast"
    with pytest.raises(UsageError, match="'pre'"):
        run(tmp_path / "data", tmp_path / "cells.csv", blast=["Pre"], normal=["pre"])


def test_csv_names_files_labels_and_subjects(tmp_path):
    for number in (1, 2, 3):
        write_image(tmp_path / f"img/{number}.png", number)
    (tmp_path / "list.csv").write_text(
        "Image,Patient_ID,Class\nimg/1.png,007,leukemia\nimg/2.png,NA,healthy\nimg/2.png,NA,healthy\n"
        "img/3.png,8,odd\nimg/4.png,8,healthy\n"
    )
    report, cells = run(tmp_path / "list.csv", tmp_path / "cells.csv")
    assert cells["subject"].tolist() == ["007", "NA", "8"]
    assert cells["label"].tolist() == ["blast", "normal", ""]
    assert kinds(report) == {
        (IssueKind.DUPLICATE, "img/2.png"),
        (IssueKind.UNKNOWN_CLASS, "img/3.png"),
        (IssueKind.MISSING, "img/4.png"),
    }
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CohortError, match=r"bad\.csv.*\ba, b\b"):
        run(tmp_path / "bad.csv", tmp_path / "cells.csv")


def test_contradicting_rows_leave_the_cell_unlabeled(tmp_path):
    write_image(tmp_path / "1.png", 1)
    (tmp_path / "list.csv").write_text("file,label\n1.png,blast\n1.png,normal\n")
    report, cells = run(tmp_path / "list.csv", tmp_path / "cells.csv")
    assert (cells["label"].tolist(), [kind for kind, _ in kinds(report)]) == ([""], ["label_conflict"])


def test_renamed_official_copies_are_recognized_by_their_pixels(tmp_path):
    image = Image.open(sample_cells_directory() / SHIPPED)
    (tmp_path / "data/unsorted").mkdir(parents=True)
    image.save(tmp_path / "data/unsorted/x.png")
    (tmp_path / "data/unsorted/y.bmp").write_bytes(official_bmp(image))
    _, cells = run(tmp_path / "data", tmp_path / "cells.csv")
    assert (
        cells[["subject", "label", "fold", "group"]].to_numpy().tolist()
        == [["11", "blast", "fold_0", "11"]] * 2
    )


def test_contradicted_labels_are_reported_and_dropped(tmp_path):
    image = Image.open(sample_cells_directory() / SHIPPED)
    root = tmp_path / "data"
    write_image(root / "fold_0/hem/UID_1_1_1_all.bmp", 1)
    (root / "normal").mkdir()
    image.save(root / "normal/x.png")
    write_image(root / "normal/y.png", 2)
    write_image(root / "blast/z.png", 2)
    report, cells = run(root, tmp_path / "cells.csv")
    assert set(cells["label"]) == {""}
    conflicts = {file.rpartition("/")[2] for kind, file in kinds(report) if kind == IssueKind.LABEL_CONFLICT}
    assert conflicts == {"UID_1_1_1_all.bmp", "x.png", "y.png", "z.png"}
    assert cells.loc["data/normal/y.png", "group"] == cells.loc["data/blast/z.png", "group"]


def test_all_issues_are_reported_and_other_cells_are_kept(tmp_path):
    root = tmp_path / "C-NMC_training_data"
    write_image(root / "fold_0/all/UID_1_1_1_all.bmp", 1)
    shutil.copy(root / "fold_0/all/UID_1_1_1_all.bmp", root / "fold_0/all/UID_2_1_1_all.bmp")
    write_image(root / "fold_0/all/strange.bmp", 2)
    write_image(root / "fold_0/all/UID_1_1_2_all.bmp", 3, side_px=300)
    (root / "fold_0/all/UID_1_1_3_all.bmp").write_bytes(b"BM not an image")
    (root / "fold_0/all/UID_1_1_4_all.bmp").touch()
    (root / "notes.txt").write_text("x")
    report, cells = run(root, tmp_path / "cells.csv")
    assert report.issue_counts() == {
        "name_not_parsed": 1,
        "not_an_image": 1,
        "unreadable": 2,
        "wrong_size": 1,
        "duplicate": 1,
    }
    assert (report.files, report.cells, len(cells)) == (6, 4, 4)
    assert cells.loc["C-NMC_training_data/fold_0/all/UID_2_1_1_all.bmp", "group"] == "1+2"
    assert cells.loc["C-NMC_training_data/fold_0/all/strange.bmp", ["label", "subject", "fold"]].tolist() == [
        "blast",
        "",
        "fold_0",
    ]
    sidecar = json.loads(report_path(tmp_path / "cells.csv").read_text())
    assert len(sidecar["report"]["issues"]) == 6


def test_second_import_reads_changed_files_only_and_writes_the_same_bytes(tmp_path):
    files = [write_image(tmp_path / f"data/blast/{number}.png", number) for number in range(4)]
    table = tmp_path / "cells.csv"
    first, cells = run(tmp_path / "data", table)
    before = table.read_bytes()
    second, _ = run(tmp_path / "data", table)
    assert (first.reused, second.reused, table.read_bytes() == before) == (0, 4, True)
    write_image(files[1], 50)
    write_image(tmp_path / "data/blast/9.png", 9)
    files[3].unlink()
    third, changed = run(tmp_path / "data", table)
    assert (third.reused, third.cells) == (2, 4)
    digest = hashlib.sha256(files[1].read_bytes()).hexdigest()
    assert changed.loc["data/blast/1.png", "sha256"] == digest != cells.loc["data/blast/1.png", "sha256"]


def test_a_damaged_sidecar_is_ignored(tmp_path):
    write_image(tmp_path / "data/blast/1.png", 1)
    table = tmp_path / "cells.csv"
    run(tmp_path / "data", table)
    report_path(table).write_text('{"files": [')
    report, _ = run(tmp_path / "data", table)
    assert (report.reused, report.cells) == (0, 1)


def test_interrupted_import_leaves_the_old_table_and_no_part(tmp_path):
    write_image(tmp_path / "data/blast/1.png", 1)
    table = tmp_path / "out" / "cells.csv"
    run(tmp_path / "data", table)
    before = table.read_bytes()
    for number in range(2, 30):
        write_image(tmp_path / f"data/blast/{number}.png", number, side_px=64)

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "data", table, progress=interrupt)
    assert table.read_bytes() == before
    assert sorted(path.name for path in table.parent.iterdir()) == ["cells.csv", "cells.import.json"]


def test_progress_counts_every_file_once(tmp_path):
    for number in range(20):
        write_image(tmp_path / f"data/blast/{number}.png", number, side_px=64)
    calls = []
    run(tmp_path / "data", tmp_path / "cells.csv", progress=lambda *call: calls.append(call))
    assert calls == [(done, 20) for done in range(1, 21)]


@pytest.mark.parametrize("name", ["absent", "empty", "text.txt"])
def test_sources_without_images_are_usage_errors(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UsageError, match=name):
        run(tmp_path / name, tmp_path / "cells.csv")


def test_cohort_of_unreadable_files_writes_no_table(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.png").write_bytes(b"x")
    with pytest.raises(CohortError, match=r"\b1\b"):
        run(tmp_path / "data", tmp_path / "cells.csv")
    assert not (tmp_path / "cells.csv").exists()


def test_files_of_the_user_are_never_overwritten(tmp_path):
    write_image(tmp_path / "a.png", 1)
    own = tmp_path / "cells.csv"
    own.write_text("file,label\na.png,blast\n")
    before = own.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        import_cohort(own, tmp_path / "." / "cells.csv")
    notes = tmp_path / "notes.csv"
    notes.write_text("mine\n1\n")
    with pytest.raises(UsageError, match="--overwrite"):
        import_cohort(own, notes)
    assert own.read_bytes() == before and notes.read_text() == "mine\n1\n"
    table = tmp_path / "table.csv"
    for _ in range(2):  # a cell table is replaced
        assert import_cohort(own, table).cells == 1
    with pytest.raises(UsageError, match="is an input"):
        import_cohort(table, table)
