"""No command writes onto an input, or over a file that it did not write, unless ``--overwrite`` is given."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cohort_files import write_cohort
from leukoscope.cli.main import app
from leukoscope.core.errors import BundleError
from leukoscope.models.bundle import check_bundle_place
from small_bundle import sample_paths
from synthetic_runs import Cohort, write_run

FOREIGN = b"patient,remark\nP-17,call back on Monday\n"
TINY = Cohort(4, 3, 10)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, small_bundle_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "in").mkdir()
    for number, path in enumerate(sample_paths()[:2]):
        shutil.copy(path, folder / "in" / f"{'ab'[number]}.webp")
    (folder / "singles").mkdir()
    for number in range(20):  # what a profile needs
        shutil.copy(sample_paths()[number % 2], folder / "singles" / f"{number}.webp")
    write_cohort(folder / "cohort", subjects=8, cells_each=2)
    classes = folder / "classes"
    for path in sorted((folder / "cohort" / "images").iterdir()):
        kind = "blast" if int(path.name[1 : path.name.index("_")]) % 2 == 0 else "normal"
        place = classes / kind / path.name.partition("_")[0] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    write_run(folder / "run", train=TINY, test=TINY)
    shutil.copytree(small_bundle_path, folder / "bundle")
    (folder / "subjects.csv").write_text("source,subject\na.webp,P1\nb.webp,P2\n")
    (folder / "config.toml").write_text("seed = 1\n")
    shutil.copy(
        Path(__file__).parents[1] / "data" / "smear_fields" / "BloodImage_00176.jpg", folder / "field.jpg"
    )
    return folder


@pytest.fixture
def here(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = shutil.copytree(stage, tmp_path / "here")
    monkeypatch.chdir(place)
    return place


def call(line: str) -> Result:
    return CliRunner().invoke(app, line.split())


PREDICT = "predict in -q --bundle bundle --subjects subjects.csv"
SPLIT = "data split cohort/cells.csv --protocol grouped --k 2"
NOVELTY = "novelty in --cells cohort/cells.csv --splits cohort/splits.json --split only --bundle bundle"
ROBUSTNESS = "robustness cohort/cells.csv --bundle bundle --cells-per-subject 1 --replicates 200 -q"
EVALUATE = "evaluate run --replicates 200"

# A command, the option that names an output, the file that the output takes.
OUTPUTS = [
    (PREDICT, "--csv {}", "table.csv"),
    (PREDICT, "--sheet {}", "sheet.html"),
    (PREDICT, "--sheet {}", "sheet.png"),
    (PREDICT, "--out out", "out/results.csv"),
    (PREDICT, "--out out", "out/subjects.csv"),
    (PREDICT, "--out out", "out/predict.json"),
    (PREDICT, "--out out", "out/results.jsonl"),
    (PREDICT, "--out out", "out/heat_maps/000001_a.png"),
    ("demo", "--out out", "out/notes.txt"),
    ("explain-check in --bundle bundle --limit 1", "--out {}", "check.json"),
    ("data import classes", "--out {}", "table.csv"),
    ("data import classes", "--out table.csv", "table.import.json"),
    ("data explore cohort/cells.csv", "--out {}", "cohort.png"),
    (SPLIT, "--out {}", "splits.json"),
    ("data sample cohort/cells.csv --count 2", "--out out", "out/blast/s0_0.png"),
    (EVALUATE, "--out out", "out/report.json"),
    (EVALUATE, "--out out", "out/report.html"),
    (EVALUATE, "--out out", "out/figures/notes.txt"),
    ("compare run --replicates 200 --no-literature", "--out out", "out/comparison.md"),
    ("compare run --replicates 200 --no-literature", "--out out", "out/comparison.json"),
    (NOVELTY, "--out {}", "novelty.json"),
    (ROBUSTNESS, "--out out", "out/robustness.json"),
    (ROBUSTNESS, "--out out", "out/robustness.csv"),
    (ROBUSTNESS, "--out out", "out/robustness.svg"),
    (ROBUSTNESS, "--out out", "out/robustness.png"),
    ("weights expand --cells cohort/cells.csv", "--out {}", "b3.safetensors"),
    ("smear field.jpg -q", "--out out", "out/cells.csv"),
    ("smear field.jpg -q", "--out out", "out/report.html"),
    ("smear field.jpg -q", "--out out", "out/crops/mine.png"),
    ("adapt singles --single-cells", "--out {}", "lab.json"),
]
IDS = [f"{command.split('-')[0].split()[0:2]}-{name}" for command, _, name in OUTPUTS]


def test_every_option_that_names_an_output_is_in_the_table() -> None:
    from leukoscope.cli.main import COMMANDS, load_command

    written: set[str] = set()
    for name in COMMANDS:
        command = load_command(name)
        for path, one in _leaves(name, command):
            if any("--overwrite" in item.opts for item in one.params):
                written.add(path)
    assert written == {" ".join(_words(command)) for command, _, _ in OUTPUTS}


def _words(command: str) -> list[str]:
    words = command.split()
    return words[:2] if words[0] in ("data", "weights") else words[:1]


def _leaves(name: str, command: object) -> list[tuple[str, object]]:
    inner = getattr(command, "commands", None)
    if not inner:
        return [(name, command)]
    return [leaf for sub, one in inner.items() for leaf in _leaves(f"{name} {sub}", one)]


@pytest.mark.parametrize(("command", "option", "place"), OUTPUTS, ids=IDS)
def test_foreign_files_are_not_overwritten(here: Path, command: str, option: str, place: str) -> None:
    file = here / place
    file.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith("s0_0.png"):
        for image in sorted((here / "cohort" / "images").glob("*.png")):
            kind = "blast" if int(image.name[1 : image.name.index("_")]) % 2 == 0 else "normal"
            (here / "out" / kind).mkdir(parents=True, exist_ok=True)
            (here / "out" / kind / image.name).write_bytes(FOREIGN)
    file.write_bytes(FOREIGN)
    result = call(f"{command} {option.format(place)}")
    assert result.exit_code == 2, result.output
    assert "--overwrite" in result.stderr
    assert file.read_bytes() == FOREIGN
    assert list(here.rglob("*.part")) == []


REPEATED = {(command, option): place for command, option, place in reversed(OUTPUTS)}
"""Each call once: what it writes is replaced together."""


@pytest.mark.parametrize(
    ("command", "option", "place"),
    [(*call, place) for call, place in REPEATED.items() if call[0].split()[0] not in ("weights", "demo")],
)
def test_overwrite_replaces_foreign_files_and_own_results_are_replaced_without_it(
    here: Path, command: str, option: str, place: str
) -> None:
    file = here / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(FOREIGN)
    line = f"{command} {option.format(place)}"
    if command == NOVELTY:
        line += " --limit 50"
    first = call(f"{line} --overwrite")
    assert first.exit_code in (0, 1), first.output
    written = option.format(place).split()[1]
    assert (here / written).exists()
    again = call(line)
    if command in (PREDICT, "smear field.jpg -q") and "--out" in option:
        assert again.exit_code == 2
        assert "--resume" in again.stderr
        assert call(f"{line} --resume").exit_code in (0, 1)
    else:
        assert again.exit_code in (0, 1), again.output
    assert list(here.rglob("*.part")) == []


INPUTS = [
    (f"{PREDICT} --csv in/a.webp", "in/a.webp"),
    (f"{PREDICT} --sheet in/a.png", "in/a.png"),
    ("predict in/a.webp -q --bundle bundle --csv in/../in/a.webp", "in/a.webp"),
    ("predict in/a.webp -q --bundle bundle --csv link.webp", "in/a.webp"),
    ("predict in/a.webp -q --bundle bundle --csv hard.webp", "in/a.webp"),
    ("predict in/*.webp -q --bundle bundle --csv in/b.webp", "in/b.webp"),
    (f"{PREDICT} --csv subjects.csv", "subjects.csv"),
    ("predict in -q --bundle bundle --csv bundle/manifest.json", "bundle/manifest.json"),
    ("explain-check in --bundle bundle --out in/a.webp", "in/a.webp"),
    ("data split cohort/cells.csv --protocol grouped --out cohort/cells.csv", "cohort/cells.csv"),
    ("data import classes --out table.csv", "table.csv"),
    (f"{NOVELTY} --out cohort/splits.json", "cohort/splits.json"),
    (f"{ROBUSTNESS.replace('cohort/cells.csv', 'out/robustness.csv')} --out out", "out/robustness.csv"),
    ("evaluate run --out out --attach out/report.json", "out/report.json"),
    ("compare out/comparison.json --out out", "out/comparison.json"),
    ("weights expand --cells cohort/cells.csv --config config.toml --out config.toml", "config.toml"),
    ("smear field.jpg -q --subjects out/cells.csv --out out", "out/cells.csv"),
]


@pytest.mark.parametrize("overwrite", ["", " --overwrite"])
@pytest.mark.parametrize(
    ("line", "place"), INPUTS, ids=[line.split(" --")[0] + "-" + place for line, place in INPUTS]
)
def test_an_input_is_never_written_onto(here: Path, line: str, place: str, overwrite: str) -> None:
    (here / "link.webp").symlink_to(here / "in" / "a.webp")
    os.link(here / "in" / "a.webp", here / "hard.webp")
    file = here / place
    if place == "in/a.png":
        shutil.copy(here / "in" / "a.webp", file)
    if line.startswith("data import"):
        file.write_text("file,label,subject\nclasses/blast/s0/s0_0.png,blast,s0\n")
        line = line.replace("classes", place)
    if place.startswith("out/"):
        file.parent.mkdir()
        file.write_bytes(b"{}")
    before = file.read_bytes()
    result = call(line + overwrite)
    assert result.exit_code == 2, result.output
    assert file.read_bytes() == before
    assert list(here.rglob("*.part")) == []


def test_two_outputs_of_one_call_are_two_files(here: Path) -> None:
    result = call(f"{PREDICT} --out out --csv out/../out/results.csv")
    assert result.exit_code == 2
    assert "two places" in result.stderr
    assert not (here / "out").exists()


def test_devices_and_links_are_written_through(here: Path) -> None:
    (here / "target.csv").write_bytes(b"")
    (here / "link.csv").symlink_to("target.csv")
    assert call(f"{PREDICT} --csv /dev/null").exit_code == 0
    assert call(f"{PREDICT} --csv link.csv").exit_code == 0
    assert (here / "link.csv").is_symlink()
    assert (here / "target.csv").read_text().startswith("source,")
    assert Path("/dev/null").is_char_device()


def test_results_inside_the_folder_that_is_read_are_not_read_again(here: Path) -> None:
    first = call("predict in --bundle bundle --json --out in/results")
    assert len(first.stdout.splitlines()) == 2
    again = call("predict in --bundle bundle --json --out in/results --overwrite")
    assert len(again.stdout.splitlines()) == 2, again.output


@pytest.mark.parametrize("change", ["foreign", "edited", "file", "link"])
def test_an_export_replaces_nothing_but_an_intact_bundle(here: Path, change: str) -> None:
    place = here / "bundle"
    check_bundle_place(place)
    check_bundle_place(here / "new")
    if change == "foreign":
        (place / "thesis.docx").write_bytes(FOREIGN)
    elif change == "edited":
        (place / "MODEL_CARD.md").write_text("my own words")
    elif change == "link":
        (here / "linked").symlink_to(place, target_is_directory=True)
        place = here / "linked"
    else:
        place = here / "config.toml"
    with pytest.raises(BundleError, match="name a new folder"):
        check_bundle_place(place)
    result = call(f"export run --out {place}")
    assert result.exit_code == 1
    assert place.exists()


def test_a_study_is_not_written_into_another_file(here: Path) -> None:
    line = "tune --cells cohort/cells.csv --splits cohort/splits.json --trials 1 --study"
    (here / "notes.db").write_bytes(FOREIGN)
    with sqlite3.connect(here / "other.db") as connection:
        connection.execute("CREATE TABLE bills (number INTEGER)")
    connection.close()
    for name in ("notes.db", "other.db"):
        before = (here / name).read_bytes()
        assert call(f"{line} {name}").exit_code == 2
        assert (here / name).read_bytes() == before
        assert not (here / f"{name}.files").exists()


def test_records_are_not_written_into_another_database(here: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="needs the extra web")
    from leukoscope.core.errors import LeukoscopeError
    from leukoscope.web.storage.database import Database

    with sqlite3.connect(here / "other.db") as connection:
        connection.execute("CREATE TABLE bills (number INTEGER)")
    connection.close()
    (here / "notes.db").write_bytes(FOREIGN * 40)
    for name in ("other.db", "notes.db"):
        before = (here / name).read_bytes()
        with pytest.raises(LeukoscopeError):
            Database(f"sqlite:///{here / name}").migrate()
        assert (here / name).read_bytes() == before


def failing_lines() -> list[tuple[str, Callable[[Path], list[Path]]]]:
    train = "train --cells cohort/cells.csv --splits cohort/splits.json --config config.toml"

    def runs(here: Path) -> list[Path]:
        return [path for path in here.glob("runs/*") if path.name != "cache"]

    return [
        (f"{train} --set network.weights=nowhere.safetensors", runs),
        (f"{train} --set network.arch=nosuch", runs),
        (f"{train} --set network.weights=none --set network.arch=test_efficientnet --devices 99", runs),
        (
            "tune --cells cohort/cells.csv --splits cohort/splits.json --trials 1 --config config.toml "
            "--set network.weights=nowhere.safetensors",
            lambda here: [*here.glob("study*")],
        ),
        ("data import cohort/splits.json --out new.csv", lambda here: [*here.glob("new*")]),
        ("export run --out made --report nowhere.json", lambda here: [*here.glob("*made*")]),
        (f"{EVALUATE} --out made --attach nowhere.json", lambda here: [*here.glob("made*")]),
    ]


@pytest.mark.parametrize(("line", "left"), failing_lines(), ids=[line for line, _ in failing_lines()])
def test_a_failed_start_leaves_nothing(here: Path, line: str, left: Callable[[Path], list[Path]]) -> None:
    result = call(line)
    assert result.exit_code in (1, 2), result.output
    assert left(here) == []
