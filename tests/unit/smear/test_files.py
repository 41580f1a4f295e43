import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.smear.files import open_field
from leukoscope.smear.picture import ArrayPicture, PillowPicture
from smear_fields import ONE_CELL, draw_field


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_of_a_turned_picture_are_those_of_the_upright_one(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    image.save(path, exif=exif)
    upright = open_field(path).picture
    lazy = PillowPicture(image, orientation)
    assert (lazy.height_px, lazy.width_px) == (upright.height_px, upright.width_px)
    box = (10, 5, 70, 61)
    assert np.array_equal(lazy.read(box), upright.read(box))
    assert np.abs(lazy.read(box, (20, 14)).astype(int) - upright.read(box, (20, 14))).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_palette_and_transparency_are_resolved(tmp_path: Path, mode: str) -> None:
    rgb = draw_field(120, 160, red_cell_px=30)
    path = tmp_path / "x.tif"
    image = Image.fromarray(rgb)
    (image.quantize(256) if mode == "P" else image.convert(mode)).save(path)
    read = open_field(path).picture.read((0, 0, 120, 160))
    assert np.abs(read.astype(int) - rgb).mean() < (1 if mode == "RGBA" else 12)


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bit_tiff_is_read_by_the_bits_it_uses(tmp_path: Path, bits: int) -> None:
    rgb = draw_field(100, 130, red_cell_px=30)
    deep = rgb.astype("<u2") << (bits - 8)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_16(deep))
    assert np.array_equal(open_field(path).picture.read((0, 0, 100, 130)), rgb)


def tiff_16(values: np.ndarray) -> bytes:
    height, width, _ = values.shape
    data = values.tobytes()
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data) + 6)
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return head + data + struct.pack("<3H", 16, 16, 16) + table + bytes(4)


def test_the_first_page_of_a_pyramid_is_read(tmp_path: Path) -> None:
    rgb = draw_field(120, 160, red_cell_px=30)
    pages = [Image.fromarray(rgb), Image.fromarray(rgb[::2, ::2])]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert open_field(tmp_path / "x.tif").picture.width_px == 160


def save_tiff(path: Path, **options: object) -> Path:
    Image.fromarray(draw_field(80, 90, red_cell_px=30)).save(path, **options)
    return path


def test_scale_in_metadata(tmp_path: Path) -> None:
    described = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (text, expected, name) in enumerate(
        [
            ('<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="0.5"/></OME>', 0.5, "OME-XML"),
            (
                '<OME><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"/></OME>',
                0.25,
                "OME-XML",
            ),
            ("Aperio Image Library|AppMag = 40|MPP = 0.2325", 0.2325, "Aperio"),
        ]
    ):
        described[270] = text
        scale = open_field(save_tiff(tmp_path / f"{number}.tif", tiffinfo=described)).scale
        assert scale is not None and scale[0] == pytest.approx(expected) and scale[1] == name
    path = save_tiff(tmp_path / "r.tif", resolution=100_000, resolution_unit=3)
    scale = open_field(path).scale
    assert scale is not None and scale[0] == pytest.approx(0.1)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_resolution_of_paper_or_screen_is_no_scale(tmp_path: Path, dpi: int) -> None:
    for suffix in (".tif", ".png", ".jpg"):
        assert open_field(save_tiff(tmp_path / f"x{suffix}", dpi=(dpi, dpi))).scale is None


def test_dicom_is_read_with_its_spacing() -> None:
    rgb = draw_field(96, 112, red_cell_px=30)

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        long = kind in (b"OW", b"OB")
        head = struct.pack("<HH2s", group, number, kind)
        return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value

    syntax = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    body = b"".join(
        [
            element(0x28, 0x02, b"US", struct.pack("<H", 3)), element(0x28, 0x04, b"CS", b"RGB"),
            element(0x28, 0x06, b"US", struct.pack("<H", 0)), element(0x28, 0x10, b"US", struct.pack("<H", 96)),
            element(0x28, 0x11, b"US", struct.pack("<H", 112)), element(0x28, 0x30, b"DS", b"0.0001\\0.0001"),
            element(0x28, 0x100, b"US", struct.pack("<H", 8)), element(0x7FE0, 0x10, b"OW", rgb.tobytes()),
        ]
    )  # fmt: skip
    content = bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(syntax))) + syntax + body
    file = open_field(content)
    assert np.array_equal(file.picture.read((0, 0, 96, 112)), rgb)
    assert file.scale is not None and file.scale[0] == pytest.approx(0.1)
    with pytest.raises(ImageError) as caught:
        open_field(content[:-500])
    assert caught.value.reason is Reason.UNREADABLE


def test_arrays_and_pillow_give_the_same_parts() -> None:
    rgb = np.asarray(Image.open(ONE_CELL))
    one, other = ArrayPicture(rgb), PillowPicture(Image.fromarray(rgb))
    for shape in (None, (50, 60), (300, 200)):
        difference = one.read((20, 30, 220, 270), shape).astype(int) - other.read((20, 30, 220, 270), shape)
        assert np.abs(difference).mean() < 0.1
