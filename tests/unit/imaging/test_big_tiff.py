"""BigTIFF files hold the pixels of the classic ones, in both byte orders and in every compression."""

import io
import itertools
import struct

import numpy as np
import pytest

from foreign_files import as_big_tiff, big_tiff, picture
from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.decode import decode_image
from leukoscope.smear.files import open_field
from leukoscope.smear.metadata import scale_in_metadata

PIXELS = np.asarray(picture())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("strips", [1, 2, 64])
def test_strips_are_found_in_both_byte_orders(order, strips):
    assert np.array_equal(decode_image(big_tiff(PIXELS, order, strips=strips)), PIXELS)


LOSSLESS = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")


@pytest.mark.parametrize(
    ("compression", "mode"), [*itertools.product(LOSSLESS, ["RGB", "RGBA", "P"]), ("jpeg", "RGB")]
)
def test_the_pixels_are_those_of_the_classic_file(compression, mode):
    image = picture().quantize(64) if mode == "P" else picture().convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF", compression=compression)
    expected = decode_image(stream.getvalue())
    assert np.array_equal(decode_image(as_big_tiff(stream.getvalue())), expected)
    if compression is None:
        by_pillow = io.BytesIO()
        image.save(by_pillow, "TIFF", big_tiff=True)
        assert by_pillow.getvalue().startswith(b"II+\0")
        assert np.array_equal(decode_image(by_pillow.getvalue()), expected)


def test_orientation_and_further_pages_are_those_of_the_classic_file():
    turned = big_tiff(PIXELS, more=[(274, 3, 1, 6)])
    assert np.array_equal(decode_image(turned), np.rot90(PIXELS, -1))
    several = big_tiff(PIXELS, following=16)
    with pytest.raises(ImageError) as raised:
        decode_image(several)
    assert raised.value.reason is Reason.MULTIPLE_FRAMES
    assert open_field(several).picture.width_px == 64
    stream = io.BytesIO()
    picture().save(stream, "TIFF", big_tiff=True, save_all=True, append_images=[picture()])
    with pytest.raises(ImageError) as raised:
        decode_image(stream.getvalue())
    assert raised.value.reason is Reason.MULTIPLE_FRAMES


def test_the_scale_of_a_field_is_read():
    rational = struct.pack("<II", 100_000, 1)  # per centimeter: 0.1 micrometers a pixel
    content = big_tiff(
        PIXELS,
        more=[
            (282, 5, 1, int.from_bytes(rational, "little")),
            (283, 5, 1, int.from_bytes(rational, "little")),
            (296, 3, 1, 3),
        ],
    )
    scale, _ = scale_in_metadata(content)
    assert scale == pytest.approx(0.1)


@pytest.mark.parametrize("bits", [8, 16])
def test_sixteen_bits_are_refused_as_in_a_classic_file(bits):
    content = big_tiff(PIXELS)
    at = content.index(struct.pack("<HHQ4H", 258, 3, 3, 8, 8, 8, 0)) + 12
    changed = content[:at] + struct.pack("<3H", bits, bits, bits) + content[at + 6 :]
    if bits == 8:
        assert np.array_equal(decode_image(changed), PIXELS)
        return
    with pytest.raises(ImageError) as raised:
        decode_image(changed)
    assert raised.value.reason is Reason.UNSUPPORTED_MODE


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (4, "<H", 16),  # bytes of an offset
        (8, "<Q", 2**40),  # place of the directory
        (8, "<Q", 4),
        (-8 - 20 * 9 - 8, "<Q", 2**50),  # number of entries
    ],
)
def test_headers_that_are_wrong_are_damage(at, form, value):
    content = bytearray(big_tiff(PIXELS))
    struct.pack_into(form, content, at % len(content), value)
    with pytest.raises(ImageError) as raised:
        decode_image(bytes(content))
    assert raised.value.reason is Reason.UNREADABLE


def test_a_place_beyond_32_bits_is_damage():
    content = big_tiff(PIXELS, strips=1)
    entry = struct.pack("<HHQQ", 273, 16, 1, 16)
    assert content.count(entry) == 1
    with pytest.raises(ImageError) as raised:
        decode_image(content.replace(entry, struct.pack("<HHQQ", 273, 16, 1, 2**33)))
    assert raised.value.reason is Reason.UNREADABLE
