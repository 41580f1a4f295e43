"""Take the screenshots of the web application for the documentation.

    python tools/screenshots.py

Starts the real command over the shipped bundle with records in a temporary folder, uploads sample cells and images that
are no cells in Chromium, and writes ``docs/images/web-*.png``. Needs Chromium (Debian's package, or its path in
``CHROMIUM``).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from leukoscope.assets import other_images_directory, sample_cells_directory

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
LARGEST_BYTES = 300_000
PATIENCE_MS = 120_000
CELLS = (
    "fold_0/all/UID_20_11_1_all.webp",
    "fold_0/all/UID_48_11_4_all.webp",
    "fold_1/all/UID_34_18_13_all.webp",
    "fold_0/all/UID_11_1_2_all.webp",
    "fold_0/hem/UID_H16_28_1_hem.webp",
    "fold_0/hem/UID_H19_8_1_hem.webp",
    "fold_0/hem/UID_H24_2_10_hem.webp",
    "fold_0/hem/UID_H7_1_2_hem.webp",
)
OOD_IMAGES = ("bccd/BloodImage_00221.jpg", "pbc/LY_57780.jpg")


def main() -> int:
    """Start, upload, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="folder of the bundle; the shipped one by default")
    options = parser.parse_args()
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        sys.exit("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    expect.set_options(timeout=PATIENCE_MS)
    files = [sample_cells_directory() / name for name in CELLS]
    files += [other_images_directory() / name for name in OOD_IMAGES]
    with (
        tempfile.TemporaryDirectory() as folder,
        _served(Path(folder), options.bundle) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        page = _open(browser, 1280, 980)
        job = _upload(page, address, files)
        page.get_by_label("Sort").select_option("high")
        page.locator(".row:visible").first.click()
        _save(page, "web-results")
        case = page.locator(".row:visible").first.get_attribute("data-case")
        _show(_open(browser, 1280, 1000, "dark"), f"{address}/review?job={job}", "web-review")
        _show(_open(browser, 360, 760), f"{address}/cases/{case}", "web-narrow")
        browser.close()
    return 0


def _open(browser: Browser, width: int, height: int, scheme: str = "light") -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def _upload(page: Page, address: str, files: list[Path]) -> str:
    page.goto(address)
    page.set_input_files("#files", files)
    page.get_by_role("button", name="Analyze", exact=True).click()
    expect(page.locator("[data-progress]")).to_have_text(re.compile(rf"^{len(files)} images analyzed"))
    return page.url.rsplit("/", 1)[1]


def _show(page: Page, address: str, name: str) -> None:
    page.goto(address)
    _save(page, name)


def _save(page: Page, name: str) -> None:
    """Write the visible part of the page, as soon as its pictures are there."""
    for picture in page.locator("img:visible").all():
        picture.evaluate("async picture => { picture.loading = 'eager'; await picture.decode(); }")
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path = IMAGES / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        picture.quantize(256, Image.Quantize.MEDIANCUT).save(path, optimize=True)
    print(f"{path.relative_to(IMAGES.parent.parent)}: {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def _served(folder: Path, bundle: Path | None) -> Iterator[str]:
    command = [sys.executable, "-m", "leukoscope.cli.main", "serve", "--port", "0", "--data", str(folder)]
    command += ["--bundle", str(bundle)] if bundle else []
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert process.stderr is not None
    try:
        address = next((line.split()[4] for line in process.stderr if "ready at" in line), None)
        if address is None:
            sys.exit("the service did not start; run `leukoscope serve` by hand to see why")
        yield address.rstrip("/")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stderr.close()


if __name__ == "__main__":
    sys.exit(main())
