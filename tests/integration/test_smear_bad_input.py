"""Bad input to ``smear`` and ``data cut``: cells where they are, else one reason with its remedy; no invented cells."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from typer.testing import CliRunner, Result

from leukoscope.cli.main import app
from leukoscope.core.terms import Reason
from leukoscope.smear.reading import read_smear
from leukoscope.smear.records import FieldRecord
from smear_fields import FIELDS, ONE_CELL, TWO_CELLS, draw_field, save

Rgb = NDArray[np.uint8]
HEIGHT, WIDTH = 480, 640
REASONS = {Reason.NOT_A_SMEAR, Reason.NO_SCALE, Reason.WRONG_SCALE, Reason.BLANK, Reason.BLURRED}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def read(source: Path | Rgb, scale: float | None = None) -> FieldRecord:
    return next(iter(read_smear(source, microns_per_pixel=scale))).record


def field(path: Path = TWO_CELLS) -> Image.Image:
    return Image.open(path).convert("RGB")


def grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return y.astype(np.float64), x.astype(np.float64)


def with_noise(rgb: NDArray[np.floating] | Rgb, spread: float = 5) -> Rgb:
    noise = np.random.default_rng(0).normal(0, spread, (HEIGHT, WIDTH, 3))
    return (np.asarray(rgb, np.float64) + noise).clip(0, 255).astype(np.uint8)


def drawn(
    ground: tuple[int, int, int], draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 1.2
) -> Rgb:
    image = Image.new("RGB", (WIDTH, HEIGHT), ground)
    draw(ImageDraw.Draw(image))
    return with_noise(np.asarray(image.filter(ImageFilter.GaussianBlur(blur))))


def discs(
    count: int, colors: list[tuple[int, int, int]], low: int, high: int
) -> Callable[[ImageDraw.ImageDraw], None]:
    def draw(on: ImageDraw.ImageDraw) -> None:
        rng = np.random.default_rng(1)
        for _ in range(count):
            radius, x, y = rng.integers(low, high), rng.integers(0, WIDTH), rng.integers(0, HEIGHT)
            on.ellipse(
                (x - radius, y - radius, x + radius, y + radius), fill=colors[rng.integers(len(colors))]
            )

    return draw


def cat(on: ImageDraw.ImageDraw) -> None:
    on.ellipse((180, 200, 480, 460), fill=(150, 100, 60))
    on.ellipse((240, 80, 420, 250), fill=(160, 110, 70))
    on.polygon([(250, 110), (260, 40), (310, 90)], fill=(140, 90, 50))
    on.polygon([(410, 110), (400, 40), (350, 90)], fill=(140, 90, 50))
    for x in (292, 367):
        on.ellipse((x - 12, 140, x + 12, 165), fill=(60, 140, 60))
        on.ellipse((x - 4, 145, x + 4, 160), fill=(0, 0, 0))


def face(on: ImageDraw.ImageDraw) -> None:
    on.ellipse((200, 60, 440, 420), fill=(220, 170, 145))
    for x in (280, 360):
        on.ellipse((x - 20, 180, x + 20, 200), fill=(60, 40, 30))
    on.ellipse((280, 320, 360, 345), fill=(190, 90, 90))


def landscape() -> Rgb:
    y, x = grid()
    rgb = np.full((HEIGHT, WIDTH, 3), (120, 170, 230), np.float64)
    rgb[y > 240 + 40 * np.sin(x / 60)] = (60, 120, 50)
    rgb[(y - 100) ** 2 + (x - 500) ** 2 < 1600] = (255, 240, 150)
    return with_noise(rgb)


def text(on: ImageDraw.ImageDraw) -> None:
    for line in range(28):
        on.text(
            (20, 10 + 16 * line), "Subject 07 has 12 blasts among 200 white cells. " * 2, fill=(20, 20, 60)
        )


def gradient() -> Rgb:
    y, x = grid()
    return np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, (x + y) * 255 / (WIDTH + HEIGHT)], -1).astype(
        np.uint8
    )


NO_SMEAR: dict[str, tuple[Callable[[], Rgb], set[Reason]]] = {
    "cat": (lambda: drawn((205, 190, 170), cat), {Reason.NO_SCALE, Reason.NOT_A_SMEAR}),
    "face": (lambda: drawn((90, 110, 140), face), {Reason.NOT_A_SMEAR}),
    "landscape": (landscape, {Reason.NOT_A_SMEAR, Reason.NO_SCALE}),
    "coins": (
        lambda: drawn((240, 238, 230), discs(40, [(180, 120, 60), (170, 170, 175)], 15, 30)), {Reason.NOT_A_SMEAR}
    ),
    "flowers": (
        lambda: drawn((60, 110, 50), discs(60, [(220, 40, 90), (240, 200, 60), (160, 90, 190)], 8, 30)),
        {Reason.NOT_A_SMEAR, Reason.NO_SCALE},
    ),
    "tissue": (lambda: drawn((215, 150, 190), discs(300, [(110, 60, 140)], 5, 9)), {Reason.NOT_A_SMEAR}),
    "page of text": (lambda: drawn((250, 250, 248), text, 0.5), {Reason.NOT_A_SMEAR, *REASONS}),
    "gradient": (gradient, {Reason.NO_SCALE, Reason.NOT_A_SMEAR, Reason.BLURRED}),
    "noise": (
        lambda: np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), {Reason.NOT_A_SMEAR}
    ),
    "blank": (lambda: with_noise(np.full((HEIGHT, WIDTH, 3), (240, 236, 230))), {Reason.BLANK}),
    "black": (lambda: np.random.default_rng(0).integers(0, 6, (HEIGHT, WIDTH, 3), np.uint8), {Reason.BLANK}),
    "negative": (lambda: 255 - np.asarray(field()), {Reason.NOT_A_SMEAR}),
    "far out of focus": (
        lambda: np.asarray(field().filter(ImageFilter.GaussianBlur(25))), {Reason.BLURRED, Reason.NO_SCALE}
    ),
    "low magnification": (lambda: tiled(field(), 12), {Reason.WRONG_SCALE, Reason.NOT_A_SMEAR}),
}  # fmt: skip


def tiled(image: Image.Image, factor: int) -> Rgb:
    """Return nine copies of a field side by side, shrunk: a field at a lower magnification."""
    wide = Image.new("RGB", (3 * image.width, 3 * image.height))
    for row in range(3):
        for column in range(3):
            wide.paste(image, (column * image.width, row * image.height))
    return np.asarray(wide.resize((wide.width // factor, wide.height // factor), Image.Resampling.BOX))


QUICK = ("noise", "blank", "black", "negative", "tissue", "low magnification")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NO_SMEAR]
)
def test_what_is_no_readable_smear_gets_one_right_reason(name: str) -> None:
    make, reasons = NO_SMEAR[name]
    record = read(np.ascontiguousarray(make()))
    assert record.reason in reasons
    assert record.cells == ()
    assert record.message and ("; " in record.message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cat", "face", "landscape", "coins", "flowers", "tissue", "gradient", "blank"]
)
def test_a_given_scale_invents_no_cells(name: str) -> None:
    record = read(np.ascontiguousarray(NO_SMEAR[name][0]()), 0.1)
    assert record.cells == ()


def screen(image: Image.Image) -> Rgb:
    """Return what a camera sees of a screen: color stripes, lines, moire, a slight turn."""
    wide = np.asarray(image.resize((2 * WIDTH, 2 * HEIGHT)), np.float64)
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH]
    for channel in range(3):
        wide[..., channel] *= 0.75 + 0.45 * (x % 3 == channel)
    wide *= (0.85 + 0.15 * np.sin(y * 2 * np.pi / 3.1))[..., None]
    wide *= (0.9 + 0.1 * np.sin((x + 0.4 * y) * 2 * np.pi / 37))[..., None]
    turned = Image.fromarray(wide.clip(0, 255).astype(np.uint8)).rotate(1.5, Image.Resampling.BICUBIC)
    inner = turned.crop((40, 40, 2 * WIDTH - 40, 2 * HEIGHT - 40))
    return np.asarray(inner.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


DEGRADED: dict[str, tuple[Callable[[], Rgb], float | None, int]] = {
    "photograph of a screen": (lambda: screen(field()), None, 2),
    "photograph of a screen with a scale": (lambda: screen(field()), 0.075, 2),
    "double exposure": (
        lambda: np.asarray(Image.blend(field(), field(ONE_CELL).transpose(Image.Transpose.ROTATE_180), 0.5)), None, 3
    ),
    "out of focus": (lambda: np.asarray(field().filter(ImageFilter.GaussianBlur(12))), None, 2),
    "half the magnification": (lambda: tiled(field(), 5), None, 18),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DEGRADED)
def test_a_bad_photograph_of_a_smear_has_its_own_cells_or_a_reason(name: str) -> None:
    make, scale, most = DEGRADED[name]
    record = read(make(), scale)
    assert len(record.cells) <= most
    assert (record.reason in REASONS) != bool(record.cells)
    if name == "out of focus":
        assert record.reason is Reason.BLURRED or any("focus" in warning for warning in record.warnings)


def encoded(kind: str, image: Image.Image, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def deep_tiff() -> bytes:
    import struct

    values = np.asarray(field()).astype("<u2") * 16  # 12 bits in 16
    height, width = values.shape[:2]
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0),
        (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, values.nbytes),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    entries[2], entries[5] = (258, 3, 3, start), (273, 4, 1, start + 6)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + directory
        + bytes(4)
        + struct.pack("<3H", 16, 16, 16)
        + values.tobytes()
    )


FILES: dict[str, tuple[Callable[[], bytes], Reason | None]] = {
    "rgba tiff": (lambda: encoded("TIFF", field().convert("RGBA")), None),
    "palette tiff": (lambda: encoded("TIFF", field().quantize(256)), None),
    "palette png": (lambda: encoded("PNG", field().quantize(256)), None),
    "tiff of 12 bits in 16": (deep_tiff, None),
    "cmyk tiff": (lambda: encoded("TIFF", field().convert("CMYK")), Reason.UNSUPPORTED_MODE),
    "cmyk jpeg": (lambda: encoded("JPEG", field().convert("CMYK")), Reason.UNSUPPORTED_MODE),
    "float tiff": (lambda: encoded("TIFF", field().convert("F")), Reason.UNSUPPORTED_MODE),
    "gray of 16 bits": (lambda: encoded("TIFF", field().convert("I;16")), Reason.UNSUPPORTED_MODE),
    "gray png": (lambda: encoded("PNG", field().convert("L")), Reason.UNSUPPORTED_MODE),
    "cut short": (lambda: TWO_CELLS.read_bytes()[:6000], Reason.UNREADABLE),
    "cut short tiff": (lambda: encoded("TIFF", field())[:200_000], Reason.UNREADABLE),
    "corrupt tile": (
        lambda: corrupt(encoded("TIFF", field(), compression="tiff_adobe_deflate")), Reason.UNREADABLE
    ),
    "empty": (lambda: b"", Reason.EMPTY_FILE),
    "text": (lambda: b"Subject 07\n", Reason.UNKNOWN_FORMAT),
    "small": (lambda: encoded("PNG", field().resize((40, 30))), Reason.TOO_SMALL),
}  # fmt: skip


def corrupt(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(400) + content[middle + 400 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    for name, (make, _) in FILES.items():
        (folder / f"{name}.png").write_bytes(make())
    (folder / "without cells.png").write_bytes(encoded("PNG", Image.fromarray(draw_field(white_cells=()))))
    return folder


@pytest.fixture(scope="module")
def records(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, FieldRecord], Path]:
    out = tmp_path_factory.mktemp("out") / "smear"
    result = call("smear", folder, "--out", out, "--json")
    assert result.exit_code == 1, result.output
    rows = [FieldRecord.model_validate_json(line) for line in result.stdout.splitlines()]
    return {Path(row.image).stem: row for row in rows}, out


@pytest.mark.parametrize("name", FILES)
def test_every_pixel_format_is_read_or_refused_with_a_remedy(
    records: tuple[dict[str, FieldRecord], Path], name: str
) -> None:
    record, expected = records[0][name], FILES[name][1]
    assert record.reason == expected
    if expected is None:
        assert len(record.cells) == len(read(np.asarray(field())).cells) == 2
    else:
        assert record.cells == () and "; " in str(record.message)


def test_a_field_without_cells_and_a_bad_file_are_in_every_export(
    records: tuple[dict[str, FieldRecord], Path],
) -> None:
    rows, out = records
    assert rows["without cells"].reason is None and rows["without cells"].cells == ()
    table = (out / "fields.csv").read_text()
    named = {Path(image["file_name"]).stem for image in json.loads((out / "coco.json").read_text())["images"]}
    report = (out / "report.html").read_text()
    for name in ("without cells", "rgba tiff", "cut short"):
        assert name in table
        assert name in report
    assert {"without cells", "rgba tiff"} <= named
    assert len(json.loads((out / "smear.json").read_text())["fields"]) == len(FILES) + 1


def test_cut_goes_on_after_each_bad_file(folder: Path, tmp_path: Path) -> None:
    result = call("data", "cut", folder, "--out", tmp_path / "cut", "--json", "--border")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    good = sum(expected is None for _, expected in FILES.values()) + 1
    assert (report["fields"], report["rejected"]) == (good, len(FILES) + 1 - good)
    assert report["cells"] == 2 * (good - 1)
    assert {Path(name).stem for name, _ in report["odd"]} == {
        name for name, (_, expected) in FILES.items() if expected is not None
    }


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_cut_finds_the_annotated_cell_of_a_turned_photograph(tmp_path: Path, orientation: int) -> None:
    upright = draw_field(white_cells=((0.25, 0.7),))
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns)))
    path = tmp_path / "P1" / "x.jpg"
    path.parent.mkdir()
    stored.save(path, quality=95, exif=exif)
    path.with_suffix(".txt").write_text("0 0.7 0.25 0.12 0.16\n0 0.1 0.1 0.001 0.001\n")
    out = tmp_path / "cut"
    result = call("data", "cut", path, "--out", out, "--class", "blast", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["labels"] == {"blast": 1}
    assert [message for _, message in report["odd"] if "smaller than a cell" in message]
    row = (out / "cells.csv").read_text().splitlines()[1].split(",")
    y0, x0, y1, x1 = map(int, row[4:8])
    assert y0 < 120 < y1 and x0 < 448 < x1


def test_cut_refuses_a_wrong_scale_and_names_the_remedy(tmp_path: Path) -> None:
    save(tmp_path / "x.png", draw_field(red_cell_px=36))
    result = call(
        "data", "cut", tmp_path / "x.png", "--out", tmp_path / "cut", "--microns-per-pixel", 0.02, "--json"
    )
    assert result.exit_code == 1
    ((_, message),) = json.loads(result.stdout)["odd"]
    assert "--microns-per-pixel" in message


def test_the_fields_of_the_repository_are_not_refused() -> None:
    for path in sorted(FIELDS.iterdir()):
        if path.suffix in (".jpg", ".webp"):
            assert read(path).reason is None, path.name
