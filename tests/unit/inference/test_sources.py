import io
import os
import re
import zipfile
from pathlib import Path

import pytest

from leukoscope.core.errors import ImageError, UsageError
from leukoscope.core.subjects import SubjectTable, read_subjects
from leukoscope.core.terms import Reason
from leukoscope.imaging.decode import DecodeLimits
from leukoscope.inference.cells import Source
from leukoscope.inference.sources import (
    ArchiveLimits,
    Ignored,
    count_sources,
    iterate_sources,
    read_list,
)
from small_bundle import sample_paths

CELL = sample_paths()[0].read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/1.webp", "a.BMP", "c.tiff", "notes.txt", "b/.hidden.png", "b/deep/x.jpg"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CELL)
    return tmp_path / "tree"


def names(*arguments: str, **settings: object) -> list[str]:
    return [source.name for source in iterate_sources(arguments, **settings)]


def relative(tree: Path, found: list[str]) -> list[str]:
    return [Path(name).relative_to(tree).as_posix() for name in found]


def test_folders_are_read_recursively_in_a_fixed_order(tree: Path) -> None:
    ignored = Ignored()
    found = names(str(tree), ignored=ignored)
    assert relative(tree, found) == ["a.BMP", "b/1.webp", "b/2.png", "b/deep/x.jpg", "c.tiff"]
    assert ignored.count == 2
    assert count_sources([str(tree)]) == 5


def test_globs_reach_any_depth(tree: Path) -> None:
    assert relative(tree, names(str(tree / "**" / "*.png"))) == ["b/2.png"]
    assert relative(tree, names(str(tree / "*"))) == ["a.BMP", "c.tiff"]


def test_named_files_are_taken_whatever_their_name_and_in_the_given_order(tree: Path) -> None:
    given = [str(tree / "notes.txt"), str(tree / "a.BMP"), str(tree / "missing.png"), str(tree / "a.BMP")]
    assert names(*given) == given


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "cell[1].png"
    path.write_bytes(CELL)
    assert names(str(path)) == [str(path)]


@pytest.mark.parametrize("argument", ["{tree}/nothing*.png", "{empty}"])
def test_no_images_is_a_usage_error(tree: Path, tmp_path: Path, argument: str) -> None:
    (tmp_path / "empty").mkdir()
    named = argument.format(tree=tree, empty=tmp_path / "empty")
    with pytest.raises(UsageError, match=re.escape(named)):
        names(named)


def test_an_empty_folder_beside_images_is_named_and_no_error(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ignored = Ignored()
    arguments = [str(tmp_path / "empty"), str(tree / "a.BMP")]
    assert names(*arguments, ignored=ignored) == [str(tree / "a.BMP")]
    assert ignored.empty == [str(tmp_path / "empty")]
    assert count_sources(arguments) == 1


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_folder_that_links_to_itself_ends(tree: Path) -> None:
    (tree / "b" / "loop").symlink_to(tree, target_is_directory=True)
    assert len(names(str(tree))) == 5


def test_standard_input_is_one_image() -> None:
    sources = list(iterate_sources(["-"], stdin=io.BytesIO(CELL)))
    assert [(source.name, source.content) for source in sources] == [("<stdin>", CELL)]
    with pytest.raises(UsageError):
        list(iterate_sources(["-", "-"], stdin=io.BytesIO(CELL)))


def test_standard_input_is_read_no_further_than_the_limit() -> None:
    stream = io.BytesIO(b"x" * 10_000)
    [source] = iterate_sources(["-"], stdin=stream, limits=DecodeLimits(max_bytes=100))
    assert len(source.content) == 101


def test_lists_are_read_line_by_line() -> None:
    assert list(read_list(io.BytesIO("a.png\r\n\n ü.png\nlast".encode()))) == ["a.png", " ü.png", "last"]
    for content in (b"\xff\xfe\n", b"x" * 40_000):
        with pytest.raises(UsageError, match=r"\b1\b"):
            list(read_list(io.BytesIO(content)))


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def only(sources: list[Source]) -> ImageError:
    assert len(sources) == 1
    assert isinstance(sources[0].content, ImageError)
    return sources[0].content


def test_archives_are_read_member_by_member(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "cells.zip",
        {"b.png": CELL, "a/": b"", "a/x.bmp": b"no image", "readme.txt": b"x", "__MACOSX/b.png": b"x"},
    )
    ignored = Ignored()
    sources = list(iterate_sources([str(path)], ignored=ignored))
    assert [(source.name, source.content) for source in sources] == [
        (f"{path}/b.png", CELL),
        (f"{path}/a/x.bmp", b"no image"),
    ]
    assert (ignored.count, ignored.system) == (1, 1)
    assert count_sources([str(path)]) == 2


def test_member_names_are_sanitized(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"../../evil\x1b[2J.png": CELL})
    [source] = iterate_sources([str(path)])
    assert source.name == f"{path}/../../evil?[2J.png"
    assert source.content == CELL
    assert not (tmp_path.parent / "evil").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "bomb.zip", {f"{n}.bmp": bytes(1_000_000) for n in range(4)})
    limits = ArchiveLimits(free_bytes=1_000_000)
    error = only(list(iterate_sources([str(path)], archive_limits=limits)))
    assert error.reason is Reason.FILE_TOO_LARGE
    assert "200" in str(error)


def test_an_archive_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "many.zip", {f"{n}.bmp": b"x" for n in range(11)})
    error = only(list(iterate_sources([str(path)], archive_limits=ArchiveLimits(max_members=10))))
    assert error.reason is Reason.FILE_TOO_LARGE
    assert re.search(r"\b11\b.*\b10\b", str(error))


def test_large_members_are_refused_and_wrong_sizes_detected(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"large.bmp": bytes(5000), "good.png": CELL})
    sources = list(iterate_sources([str(path)], limits=DecodeLimits(max_bytes=4999)))
    assert isinstance(sources[0].content, ImageError)
    content = bytearray(path.read_bytes())
    place = content.rfind((5000).to_bytes(4, "little"))  # the size in the archive's directory
    content[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    sources = list(iterate_sources([str(path)], limits=DecodeLimits(max_bytes=4999)))
    assert isinstance(sources[0].content, ImageError) or len(sources[0].content) <= 5000


def test_a_damaged_member_does_not_affect_others(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"bad.bmp": b"A" * 4096, "good.png": CELL}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.find(b"AAAA") + 2000] ^= 1
    path.write_bytes(content)
    bad, good = iterate_sources([str(path)])
    assert isinstance(bad.content, ImageError)
    assert bad.content.reason is Reason.UNREADABLE
    assert good.content == CELL


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", CELL])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert only(list(iterate_sources([str(path)]))).reason is Reason.UNREADABLE


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": CELL})
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1  # the flag in the archive's directory
    path.write_bytes(content)
    assert only(list(iterate_sources([str(path)]))).reason is Reason.UNREADABLE


def test_an_archive_without_images_says_so(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.txt": b"x"})
    assert only(list(iterate_sources([str(path)]))).reason is Reason.EMPTY_FILE


def test_subjects_come_from_a_table_by_name_or_file_name(tmp_path: Path) -> None:
    table = tmp_path / "subjects.csv"
    table.write_text(
        "\ufefffile,subject\nfolder/a.png,7\nb.png,H7\nx/c.png,1\ny/c.png,2\n,\n", encoding="utf-8"
    )
    subject_of = SubjectTable(read_subjects(table))
    assert subject_of("folder/a.png") == "7"
    assert subject_of("/elsewhere/folder/a.png") == "7"
    assert subject_of("/elsewhere/a.png") is None  # the row is of another folder
    assert subject_of("elsewhere/my folder/a.png") is None
    assert subject_of("any\\b.png") == "H7"
    assert subject_of("./x/c.png") == "1"
    assert subject_of("z/c.png") is None
    assert subject_of("d.png") is None
    assert (subject_of.unmatched_images, subject_of.unmatched_rows) == (4, 1)


def test_the_row_with_the_longest_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject_of = SubjectTable({"a.png": "1", "p/a.png": "2", str(tmp_path / "p" / "a.png"): "3"})
    assert [subject_of(name) for name in ("q/a.png", "q/p/a.png")] == ["1", "2"]
    monkeypatch.chdir(tmp_path)
    here = SubjectTable({str(tmp_path / "p" / "a.png"): "3", f"{tmp_path.name}/b.png": "4"})
    assert [here(name) for name in ("p/a.png", "b.png", "./b.png")] == ["3", "4", "4"]
    with pytest.raises(UsageError, match=re.escape("p\\a.png")):
        SubjectTable({"p/a.png": "1", "p\\a.png": "2"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,subject\na,1\n", "expected source"),
        ("", "empty"),
        ("source,subject\na,1\na,2\n", "line 3: a has two subjects, 1 and 2"),
    ],
)
def test_ambiguous_subject_tables_are_refused(tmp_path: Path, content: str, words: str) -> None:
    table = tmp_path / "subjects.csv"
    table.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_subjects(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-16"):
        read_subjects(table)
    with pytest.raises(UsageError, match=r"missing\.csv"):
        read_subjects(tmp_path / "missing.csv")
