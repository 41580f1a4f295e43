"""What a person does in the browser, from the first upload to the printed report."""

import csv
import io
import json
import math
import re
import threading
import time
import zipfile
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from leukoscope.assets import other_images_directory
from leukoscope.core.classes import BINARY
from leukoscope.core.terms import REASON_TEXTS, RESEARCH_USE, STATUS_TEXTS, Reason, Status
from leukoscope.web.application import close_app, create_app
from leukoscope.web.context import services
from leukoscope.web.model import ServedModel
from leukoscope.web.prediction import make_predict_fn
from leukoscope.web.settings import WebSettings
from small_bundle import sample_paths
from web_fixtures import TOKEN, Running, run_server

WIDTHS = (360, 768, 1440, 1920)


def some_cells(count: int) -> list[Path]:
    paths = sample_paths()
    return paths[:: len(paths) // count][:count]


def upload(page: Page, served: Running, files: list[Path], subject: str = "") -> None:
    page.goto(served.address)
    page.set_input_files("#files", files)
    if subject:
        page.fill("#subject", subject)
    page.locator("[data-submit]").click()
    expect(page.locator(".row")).to_have_count(len(files))
    expect(page.locator("[data-bar]")).to_be_hidden()  # it is hidden when all are done


def expect_opacity(page: Page, value: float) -> None:
    """Wait until the heat map has this opacity: the script sets it after the page is shown."""
    expect(page.locator(".overlay__heat")).to_have_css("opacity", f"{value:g}")


def test_from_upload_to_export(served, open_page):
    page = open_page()
    files = some_cells(5)
    upload(page, served, files, "S-browser")
    assert "/jobs/" in page.url
    expect(page.locator(".subject")).to_contain_text("S-browser")
    expect(page.locator(".subject")).to_contain_text("95 %")
    expect(page.locator(".notice")).to_have_text(RESEARCH_USE)

    row = page.locator(".row", has_text=files[2].name)
    row.click()
    panel = page.locator(".panel")
    expect(panel.locator(".panel__name")).to_have_text(files[2].name)
    expect(panel.locator(".panel__decision")).to_have_text(
        re.compile("|".join(BINARY.title(decision).partition(":")[0] for decision in BINARY.decisions))
    )
    expect(panel).to_contain_text("Grad-CAM")

    expect_opacity(page, 0.6)
    slider = page.locator(".opacity__slider")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".opacity__value")).to_have_text("40 %")
    expect_opacity(page, 0.4)
    page.locator(".row", has_text=files[3].name).click()
    expect(panel.locator(".panel__name")).to_have_text(files[3].name)
    expect_opacity(page, 0.4)  # the next cell keeps it

    page.locator("[name=note]").fill("smudged border")
    page.locator("[name=reviewer]").fill("AB")
    page.locator("button[name=verdict][value=disagree]").click()
    expect(page.locator(".review__state")).not_to_be_empty()
    expect(page.locator(".row", has_text=files[3].name).locator(".row__review")).not_to_be_empty()

    page.locator("a[href='/history']").first.click()
    page.locator("#q").fill("smudged")
    page.locator("#q").press("Enter")
    expect(page.locator(".row")).to_have_count(1)

    with page.expect_download() as download:
        page.locator("a[href*='export.csv']").click()
    lines = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    assert [(line["review"], line["note"], line["reviewer"]) for line in lines] == [
        ("disagree", "smudged border", "AB")
    ]
    with page.expect_download() as download:
        page.locator("a[href*='export.json']").click()
    content = json.loads(download.value.path().read_text())
    assert content["notice"] == RESEARCH_USE
    assert content["cases"][0]["result"]["subject"] == "S-browser"


def test_zip_with_other_files(served, open_page, tmp_path):
    page = open_page()
    archive = tmp_path / "slide.zip"
    field = next(other_images_directory().rglob("BloodImage_*"))
    with zipfile.ZipFile(archive, "w") as file:
        file.write(some_cells(1)[0], "a.webp")
        file.write(field, "field.jpg")
        file.writestr("notes.txt", "not an image")
    page.goto(served.address)
    page.set_input_files("#files", archive)
    page.locator("[data-submit]").click()
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator("[data-bar]")).to_be_hidden()
    page.locator(".row", has_text="field.jpg").click()
    expect(page.locator(".panel__decision")).to_have_text(STATUS_TEXTS[Status.REJECTED])
    expect(page.locator(".reasons")).to_contain_text(REASON_TEXTS[Reason.NOT_SEGMENTED].rstrip("."))
    expect(page.locator(".figure")).to_have_count(0)  # no number to be misread
    page.locator(".row", has_text="notes.txt").click()
    expect(page.locator(".reasons")).to_be_visible()
    expect(page.locator(".nothing--picture")).to_be_visible()


def doubt(row: dict[str, str]) -> tuple[int, float]:
    """How uncertain a row is, least certain first."""
    if "probability" not in row:
        return (2, 0.0)
    logits = [math.log(value / (1 - value)) for value in (float(row["probability"]), float(row["threshold"]))]
    return (int(row["decision"] != "uncertain"), abs(logits[0] - logits[1]))


def test_sorting_and_filtering(served, open_page):
    page = open_page()
    upload(page, served, [*some_cells(8), next(other_images_directory().rglob("BloodImage_*"))])
    page.locator("#sort").select_option("high")
    values = page.locator(".row").evaluate_all(
        "rows => rows.map(row => Number(row.dataset.probability ?? -1))"
    )
    assert values == sorted(values, reverse=True)
    assert values[-1] == -1
    page.locator("#sort").select_option("unsure")
    shown = page.locator(".row").evaluate_all("rows => rows.map(row => row.dataset)")
    order = [doubt(row) for row in shown]
    assert order == sorted(order)
    assert {row["decision"] for row in shown} >= {"uncertain", "rejected"}
    page.locator("#sort").select_option("name")
    names = page.locator(".row").evaluate_all("rows => rows.map(row => row.dataset.name)")
    assert names == page.evaluate(
        "names => [...names].sort((a, b) => a.localeCompare(b, 'en', {numeric: true}))", names
    )
    page.locator("[data-filter] input[value=rejected]").check(force=True)
    expect(page.locator(".row:visible")).to_have_count(1)
    for decision in ("blast", "normal", "uncertain"):
        page.locator(f"[data-filter] input[value={decision}]").check(force=True)
        counted = int(page.locator(f"[data-count={decision}]").inner_text())
        expect(page.locator(".row:visible")).to_have_count(counted)
    page.locator("[data-filter] input[value=all]").check(force=True)
    expect(page.locator(".row:visible")).to_have_count(9)


def press(page: Page, key: str) -> None:
    """Press a key once the page's scripts have started."""
    expect(page.locator("#theme")).to_be_visible()
    page.keyboard.press(key)


def test_everything_by_keyboard(served, open_page):
    """Upload, look and review without a mouse; single keys in the review mode, and their switch."""
    page = open_page()
    page.goto(served.address)
    page.keyboard.press("Tab")
    expect(page.locator("a[href^='#']").first).to_be_focused()  # past the navigation, to the content
    page.set_input_files("#files", some_cells(3))  # the system's own file dialogue
    page.locator("#files").focus()
    page.keyboard.press("Tab")
    page.keyboard.type("S-keys")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator("[data-bar]")).to_be_hidden()
    rows = page.locator(".row a")
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    expect(page.locator(".panel__name")).to_have_text(rows.nth(1).locator(".row__name").inner_text())

    page.goto(f"{served.address}/review?subject=S-keys")
    expect(page.locator(".lead")).to_contain_text(re.compile(r"\b3\b"))
    first = page.locator(".panel__name").inner_text()
    press(page, "h")
    expect_opacity(page, 0)
    press(page, "h")
    expect_opacity(page, 0.6)
    press(page, "n")
    page.keyboard.type("a note with d and u")  # letters in a field are letters
    page.keyboard.press("Escape")
    press(page, "a")
    expect(page.locator(".lead")).to_contain_text(re.compile(r"\b2\b"))
    expect(page.locator(".panel__name")).not_to_have_text(first)
    second = page.locator(".panel__name").inner_text()
    press(page, "j")
    expect(page.locator(".panel__name")).not_to_have_text(second)
    press(page, "n")
    page.keyboard.type("half a note")
    page.keyboard.press("Escape")
    press(page, "k")
    expect(page.locator(".panel__name")).to_have_text(second)
    press(page, "k")  # the case that was just reviewed
    expect(page.locator(".panel__name")).to_have_text(first)
    expect(page.locator("[name=note]")).to_have_value("a note with d and u")
    press(page, "h")
    expect_opacity(page, 0)
    press(page, "j")
    expect(page.locator(".panel__name")).to_have_text(second)
    expect_opacity(page, 0)  # the next case keeps it
    press(page, "j")
    expect(page.locator(".panel__name")).not_to_have_text(second)
    expect(page.locator("[name=note]")).to_have_value("half a note")  # typed and not sent
    page.locator("[name=note]").fill("")
    page.locator("h1").click()
    press(page, "k")
    expect(page.locator(".panel__name")).to_have_text(second)
    page.locator("[data-shortcuts]").uncheck()
    page.locator("h1").click()
    press(page, "d")
    expect(page.locator(".lead")).to_contain_text(re.compile(r"\b2\b"))
    page.locator("[data-shortcuts]").check()
    page.locator("h1").click()
    press(page, "d")
    expect(page.locator(".lead")).to_contain_text(re.compile(r"\b1\b"))
    press(page, "u")
    expect(page.locator(".nothing")).to_be_visible()

    stored = services(served.app).history
    from leukoscope.web.storage.history import Search

    verdicts = [record.review for record in stored.find(Search(subject="S-keys", oldest_first=True))]
    assert [review.verdict.value for review in verdicts if review] == ["agree", "disagree", "unsure"]
    assert verdicts[0] is not None
    assert verdicts[0].note == "a note with d and u"


def test_without_javascript(served, open_page):
    page = open_page(java_script_enabled=False)
    page.goto(served.address)
    page.set_input_files("#files", some_cells(2))
    page.locator("[data-submit]").click()
    page.wait_for_url("**/jobs/*")
    while page.locator(".row").count() < 2:  # the limit of the test's time is the only clock
        page.wait_for_timeout(100)
        page.reload()
    page.locator(".row a").first.click()
    page.wait_for_url("**/cases/*")
    page.locator("[name=note]").fill("by form")
    page.locator("button[name=verdict][value=unsure]").click()
    expect(page.locator(".log")).to_contain_text("by form")
    page.locator("summary").filter(visible=True).last.click()
    page.locator(".danger button").click()
    expect(page.locator(".message--good")).to_be_visible()


def test_failures_are_shown_in_place(served, open_page):
    page = open_page()
    page.goto(served.address)
    page.locator("[data-submit]").click()
    assert page.url.rstrip("/") == served.address  # the browser itself asks for a file
    page.route("**/api/v1/jobs", lambda route: route.abort())
    page.set_input_files("#files", some_cells(1))
    page.locator("[data-submit]").click()
    expect(page.locator("[data-error]")).not_to_be_empty()
    expect(page.locator("[data-submit]")).to_be_enabled()
    assert len(open_page.complaints) == 1  # the browser's own line about the aborted request
    open_page.complaints.clear()


def test_too_large_uploads_are_refused_before_sending(served, open_page, tmp_path):
    page = open_page()
    page.goto(served.address)
    page.route("**/api/v1/jobs", lambda route: route.abort())
    (tmp_path / "large.bmp").write_bytes(bytes(21 * 2**20))
    page.set_input_files("#files", tmp_path / "large.bmp")
    page.locator("[data-submit]").click()
    expect(page.locator("[data-error]")).to_have_text(re.compile(r"large\.bmp.*\b21\.0 MB.*\b20 MB"))


def test_an_expired_session_links_to_sign_in(open_page, make_app):
    app = make_app(token=TOKEN)
    with run_server(app) as running:
        page = open_page()
        page.goto(f"{running.address}/?from=here")
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Enter")
        expect(page).to_have_url(f"{running.address}/?from=here")
        page.context.clear_cookies()
        page.set_input_files("#files", some_cells(1))
        page.locator("[data-submit]").click()
        page.locator("[data-error] a").click()
        expect(page).to_have_url(re.compile(r"/sign-in\?next="))
        page.wait_for_load_state("load")
        page.goto("about:blank")
    assert len(open_page.complaints) == 1  # the browser's own line about the refusal
    open_page.complaints.clear()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_batch_is_cancelled_from_its_page(open_page, tmp_path, web_predictor, scripts):
    gate = threading.Event()

    def predict(images):
        assert gate.wait(250)
        return make_predict_fn(web_predictor)(images)

    app = create_app(WebSettings(data=tmp_path), ServedModel.from_bundle(web_predictor.bundle), predict)
    with run_server(app) as running:
        page = open_page(java_script_enabled=scripts)
        page.goto(running.address)
        page.set_input_files("#files", some_cells(12))
        page.locator("[data-submit]").click()
        page.locator("[data-cancel] button").click()
        if not scripts:
            page.wait_for_url("**/jobs/*")
        expect(page.locator("[data-progress]")).to_have_text(re.compile(r"\b\d+\b.*\b12\b"))
        expect(page.locator("[data-cancel] button")).to_have_count(0)
        gate.set()
        page.goto("about:blank")
    close_app(app)


def test_dark_and_light(served, open_page):
    page = open_page(color_scheme="dark")
    page.goto(served.address)
    background = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    light = page.evaluate(background)
    brightness = lambda color: sum(map(int, re.findall(r"\d+", color)[:3]))  # noqa: E731
    assert brightness(dark) < 150 < 600 < brightness(light)
    page.reload()
    assert page.evaluate(background) == light


@pytest.fixture(scope="module")
def addresses(served) -> list[str]:
    """All kinds of pages, with stored cases of all kinds on them."""
    import requests

    files = [*some_cells(4), next(other_images_directory().rglob("BloodImage_*"))]
    answer = requests.post(
        f"{served.address}/api/v1/jobs",
        files=[("files", (path.name, path.read_bytes())) for path in files],
        data={"subject": "S-a11y"},
        timeout=30,
    ).json()
    state = {"state": "running"}
    while state["state"] == "running":
        time.sleep(0.1)
        state = requests.get(f"{served.address}/api/v1/jobs/{answer['job']}", timeout=30).json()
    assert state["state"] == "done", state
    results = requests.get(f"{served.address}{answer['results']}", timeout=30).json()["results"]
    cases = [f"/cases/{results[index]['case']}" for index in (0, 4)]
    return [
        "/",
        f"/jobs/{answer['job']}",
        *cases,
        "/history",
        "/history?q=nothing-like-it",
        "/review",
        "/review?q=nothing-like-it",
        "/subjects/S-a11y",
        "/report?subject=S-a11y",
        "/about",
        "/api",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(served, open_page, addresses, scheme):
    page = open_page(color_scheme=scheme, bypass_csp=True)  # axe itself is injected into the page
    options: dict[str, object] = {"resultTypes": ["violations"]}
    if scheme == "dark":  # only colors differ
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    findings = []
    for address in addresses:
        page.goto(served.address + address)
        report = Axe().run(page, options=options)
        findings += [
            f"{address}: {item['impact']} {item['id']} {[node['html'][:120] for node in item['nodes'][:3]]}"
            for item in report.response["violations"]
            if item["impact"] in ("serious", "critical", "moderate")
        ]
    assert findings == []


BELOW_THE_FOOT = """() => document.documentElement.scrollHeight
    - Math.max(innerHeight, scrollY + document.querySelector('.foot').getBoundingClientRect().bottom)"""


def test_pages_fit_the_screen(served, open_page, addresses):
    page = open_page()
    for address in addresses:
        page.goto(served.address + address)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, address)
            assert page.evaluate(BELOW_THE_FOOT) <= 1, (width, address)


def test_narrow_screens_open_the_case_on_its_own_page(served, open_page, addresses):
    page = open_page(width=360, height=740)
    page.goto(served.address + addresses[1])
    page.locator(".row a").first.click()
    page.wait_for_url("**/cases/*")
    expect(page.locator(".overlay__heat")).to_be_visible()
    small = page.locator("button:visible, .button:visible, select:visible").evaluate_all(
        "items => items.filter(item => item.getBoundingClientRect().height < 24).map(item => item.outerHTML)"
    )
    assert small == []  # WCAG 2.2, target size


def pages_on_paper(page: Page) -> int:
    return page.pdf(format="A4", prefer_css_page_size=True).count(b"/Type /Page\n")


def test_the_report_is_one_sheet_of_paper(served, open_page, addresses):
    page = open_page()
    for address in ("/report?subject=S-a11y", f"/report?q={addresses[2].rsplit('/', 1)[1]}"):
        page.goto(served.address + address)
        expect(page.locator(".report__notice")).to_have_text(RESEARCH_USE)
        assert pages_on_paper(page) == 1
    expect(page.locator(".report__one .overlay__heat")).to_be_visible()
    expect(page.locator(".subject")).to_have_count(0)  # one cell is not summed up

    field = next(other_images_directory().rglob("BloodImage_*"))
    upload(page, served, [*some_cells(40), field], "S-many")
    page.goto(f"{served.address}/report?subject=S-many")
    expect(page.locator(".report__table tbody tr")).to_have_count(30)
    expect(page.locator(".report")).to_contain_text(re.compile(r"\b11\b"))
    assert pages_on_paper(page) == 1
