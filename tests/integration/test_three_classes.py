"""A bundle of three classes from the command line, over the API and on the pages."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from leukoscope.cli.main import app as command
from leukoscope.core.classes import ClassSchema
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.results import CellResult
from leukoscope.models.bundle import Bundle, verify_bundle
from leukoscope.web.application import close_app, open_app
from leukoscope.web.settings import WebSettings
from small_bundle import SIDE, make_small_bundle, sample_paths
from web_fixtures import cells, form, wait_for_job

NAMES = ("lymphoblast", "lymphocyte", "monocyte")
KINDS = ClassSchema.of_names(NAMES, positive=["lymphoblast"])
PATHS = sample_paths()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_small_bundle(tmp_path_factory.mktemp("kinds") / "kinds", classes=KINDS)


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor.open(bundle.directory, threads=1)


@pytest.fixture
def client(predictor: Predictor, tmp_path: Path):
    app = open_app(WebSettings(data=tmp_path / "data", keep_images=True), predictor)
    yield app.test_client(use_cookies=False)
    close_app(app)


def test_the_bundle_is_complete_and_names_its_classes(bundle: Bundle) -> None:
    assert all(check.passed for check in verify_bundle(bundle.directory))
    read = Bundle.open(bundle.directory).manifest
    assert read.classes == KINDS and read.task == "kinds"
    assert json.loads((bundle.directory / "manifest.json").read_text())["schema_version"] == 2
    card = (bundle.directory / "MODEL_CARD.md").read_text()
    assert all(f"`{name}`" in card for name in NAMES) and "blast and" not in card


def test_probabilities_are_the_softmax_of_the_graphs_logits(predictor: Predictor) -> None:
    seen = set()
    for path in PATHS:
        result = predictor.predict(path).result
        seen.add(result.decision)
        if not result.probabilities:
            continue
        forward = predictor.session.run(prepare_cell(decode_image(path), SIDE)[None])
        logits = forward.logits[0].astype(np.float64)
        assert result.logits == dict(zip(NAMES, logits.tolist(), strict=True))
        shares = softmax(logits / predictor.bundle.decision.temperature)
        assert list(result.probabilities.values()) == pytest.approx(shares, abs=1e-12)
        assert result.probability == pytest.approx(shares[0], abs=1e-12)
        assert result.explained_class in NAMES
    assert seen >= {"lymphoblast", "uncertain"} and seen & {"lymphocyte", "monocyte"}


def test_each_class_has_its_map_from_one_pass(predictor: Predictor) -> None:
    prediction = predictor.predict(PATHS[0])
    assert prediction.class_maps is not None and prediction.class_maps.shape[0] == 3
    shown = NAMES.index(prediction.result.explained_class)
    assert np.array_equal(prediction.activation_map, prediction.class_maps[shown])


def test_two_logits_are_equivalent_to_one_logit_of_their_difference(tmp_path: Path) -> None:
    """Binary is K = 2: a graph of two outputs takes the same way as a graph of one."""
    one = Predictor.open(make_small_bundle(tmp_path / "one").directory, threads=1)
    two = Predictor.open(make_small_bundle(tmp_path / "two", outputs=2).directory, threads=1)
    assert one.predict(PATHS[0]).class_maps.shape[0] == 1
    for path in PATHS[::7]:
        result = two.predict(path).result
        assert set(result.logits) == {"normal", "blast"} == set(result.probabilities)
        assert result.logit == pytest.approx(result.logits["blast"] - result.logits["normal"], abs=1e-12)


def test_the_command_line_shows_three_classes(bundle: Bundle, predictor: Predictor, tmp_path: Path) -> None:
    table, sheet, picture = tmp_path / "out.csv", tmp_path / "sheet.html", tmp_path / "sheet.png"
    given = ["predict", *map(str, PATHS), "--bundle", str(bundle.directory)]
    shown = CliRunner().invoke(command, [*given, "--csv", str(table), "--sheet", str(sheet)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split() == ["decision", "P(lymphoblast)", "subject", "image"]
    lines = CliRunner().invoke(command, [*given, "--json"]).stdout.splitlines()
    results = [CellResult.model_validate_json(line) for line in lines]
    decisions = {result.decision for result in results}
    assert decisions >= {"lymphoblast", "uncertain"}
    first_words = {line.split()[0] for line in shown.stdout.splitlines() if line.strip()}
    assert decisions <= first_words
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["decision"] for row in rows] == [result.decision for result in results]
    assert rows[0]["probabilities"].startswith("lymphoblast=")
    page = sheet.read_text(encoding="utf-8")
    assert "P(lymphoblast)" in page and "P(blast)" not in page
    assert all(f".{name}{{color:" in page for name in NAMES)
    drawn = CliRunner().invoke(command, [*given, "--quiet", "--sheet", str(picture)])
    assert drawn.exit_code == 0 and picture.read_bytes()[:4] == b"\x89PNG"


def test_a_bundle_without_a_positive_group_calls_the_likeliest_class(tmp_path: Path) -> None:
    plain = ClassSchema.of_names(NAMES)
    made = make_small_bundle(tmp_path / "plain", classes=plain)
    given = ["--bundle", str(made.directory)]
    shown = CliRunner().invoke(command, ["predict", *map(str, PATHS[:20]), *given])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split()[:2] == ["decision", "P(class)"]
    words = CliRunner().invoke(command, ["bundle", "show", str(made.directory)]).stdout
    assert "the likeliest class" in words and "Lymphoblast, Lymphocyte, Monocyte" in words
    app = open_app(WebSettings(data=tmp_path / "data"), Predictor.open(made.directory, threads=1))
    client = app.test_client(use_cookies=False)
    answer = client.post("/api/v1/predict", data=form(cells(12), subject="S-1")).get_json()
    for item in answer:
        assert item["probability"] is None and item["threshold"] is None and item["logit"] is None
        if item["status"] == "called":
            assert item["label"] == max(item["probabilities"], key=item["probabilities"].get)
        page = client.get(f"/cases/{item['case']}", headers={"Accept": "text/html"})
        assert page.status_code == 200
    for address in ("/history", "/subjects/S-1", "/report", "/review", f"/report?q={answer[0]['case']}"):
        page = client.get(address, headers={"Accept": "text/html"})
        assert page.status_code == 200 and "Share of" not in page.get_data(as_text=True), address
    close_app(app)


def test_a_journal_of_three_classes_is_continued(bundle: Bundle, tmp_path: Path) -> None:
    given = ["--bundle", str(bundle.directory), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(command, ["predict", *map(str, PATHS[:3]), *given])
    again = CliRunner().invoke(command, ["predict", *map(str, PATHS[:6]), *given, "--resume"])
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [CellResult.model_validate_json(line).source for line in lines] == [
        str(path) for path in PATHS[:6]
    ]


def test_the_api_answers_stores_finds_and_counts_three_classes(client, predictor: Predictor) -> None:
    given = cells(12)
    answer = client.post("/api/v1/predict", data=form(given, subject="S-1")).get_json()
    wanted = [predictor.predict(content).result.decision for _, content in given]
    assert [item["decision"] for item in answer] == wanted
    assert all(set(item["probabilities"]) == set(NAMES) for item in answer if item["status"] != "rejected")
    found = client.get("/api/v1/history?decision=lymphoblast").get_json()["cases"]
    assert len(found) == wanted.count("lymphoblast") > 0
    subject = client.get("/api/v1/subjects/S-1").get_json()
    assert subject["counts"] == {name: wanted.count(name) for name in NAMES}
    job = client.post("/api/v1/jobs", data=form(given)).get_json()
    done = wait_for_job(client, job["job"])
    assert done["decisions"] == {name: wanted.count(name) for name in (*NAMES, "uncertain", "rejected")}


def test_the_pages_show_three_classes_in_their_colors(client) -> None:
    answer = client.post("/api/v1/predict", data=form(cells(8), subject="S-1", heat_map="true")).get_json()
    called = next(item for item in answer if item["status"] == "called")

    def read(address: str) -> str:
        page = client.get(address, headers={"Accept": "text/html"})
        assert page.status_code == 200, address
        return " ".join(page.get_data(as_text=True).split())

    panel = read(f"/cases/{called['case']}")
    assert all(KINDS.title(name) in panel for name in NAMES)
    assert f"influence toward {called['explained_class']}" in panel
    for address in (
        "/",
        "/history",
        "/review",
        "/report",
        "/subjects/S-1",
        f"/report?q={called['case']}",
        "/about",
    ):
        page = read(address)
        assert "Normal precursor" not in page and "leukemic blast" not in page.lower(), address
    assert all(f'<option value="{name}"' in read("/history") for name in NAMES)
    style = client.get("/classes.css")
    assert style.mimetype == "text/css"
    assert all(f".badge--{name}" in style.get_data(as_text=True) for name in NAMES)
