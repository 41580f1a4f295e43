"""Files that lie, break off, blow up or are no images: one clear refusal each, in bounded work and memory.

Work is counted in calls, not in seconds: the counts are the same on every machine. What waits or runs for ever is
ended by the limit of a test's time.
"""

import io
import os
import random
import re
import socket
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from foreign_files import big_tiff
from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.decode import DecodeLimits, decode_image

LOSSLESS = ("BMP", "PNG", "TIFF", "WEBP")
SIDE = 48


def picture(side: int = SIDE, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (side, side, channels), np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if kind == "WEBP":
        options.setdefault("lossless", True)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def refusal(source: bytes | Path, limits: DecodeLimits | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(source, limits)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 400
    return caught.value


@contextmanager
def bounded(*, calls: int, memory_bytes: int | None = None) -> Iterator[None]:
    """Fail where what is done inside takes more calls of Python or C functions, or more memory at once."""
    count = peak = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    if memory_bytes is not None:
        tracemalloc.start()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        if memory_bytes is not None:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert count <= calls
    assert memory_bytes is None or peak <= memory_bytes


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, depth: int = 8, color: int = 2, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + tail


# ---- what is not a file


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.png").reason is Reason.NOT_FOUND
    (tmp_path / "plain").write_bytes(b"x")
    assert refusal(tmp_path / "plain" / "below.png").reason is Reason.NOT_FOUND
    assert refusal(Path("a\0b.png")).reason is Reason.NOT_FOUND


def test_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path).reason is Reason.NOT_A_FILE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipe_socket_and_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # no process writes into it
    assert refusal(tmp_path / "pipe.png").reason is Reason.NOT_A_FILE
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert refusal(tmp_path / "s").reason is Reason.NOT_A_FILE
    assert refusal(Path("/dev/zero")).reason is Reason.NOT_A_FILE


def test_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refusal(tmp_path / "a").reason is Reason.UNREADABLE


def test_link_to_an_image_is_followed(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(encode(picture(), "PNG"))
    (tmp_path / "link").symlink_to(tmp_path / "cell.png")
    assert np.array_equal(decode_image(tmp_path / "link"), picture())


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.bmp").touch()
    assert refusal(tmp_path / "empty.bmp").reason is Reason.EMPTY_FILE
    assert refusal(b"").reason is Reason.EMPTY_FILE


def test_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(8 * 1024**3)  # sparse
    tracemalloc.start()
    try:
        assert refusal(tmp_path / "large.bmp").reason is Reason.FILE_TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 1024**2
    finally:
        tracemalloc.stop()
    assert refusal(encode(picture(), "BMP"), DecodeLimits(max_bytes=1000)).reason is Reason.FILE_TOO_LARGE


# ---- what is no image of ours


@pytest.mark.parametrize(
    "content", [b"just text, renamed", b"\0" * 4096, b"<svg/>", b"GIF", b"%PDF-1.7", b"\x89PN"]
)
def test_text_and_other_formats(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cell.png").write_bytes(content)
    assert refusal(tmp_path / "cell.png").reason is Reason.UNKNOWN_FORMAT


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "JPEG2000", "TGA"])
def test_unsupported_formats_that_pillow_reads(kind: str) -> None:
    assert refusal(encode(picture(), kind)).reason is Reason.UNKNOWN_FORMAT


def test_file_name_suffix_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "cell.jpg").write_bytes(encode(picture(), "BMP"))
    assert np.array_equal(decode_image(tmp_path / "cell.jpg"), picture())


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_one_pixel(kind: str) -> None:
    error = refusal(encode(picture(1), kind))
    assert error.reason is Reason.TOO_SMALL
    assert "1 x 1" in str(error)
    assert "32" in str(error)


# ---- frames


def frames(kind: str, **options: object) -> bytes:
    first, second = Image.fromarray(picture()), Image.fromarray(255 - picture())
    return encode(first, kind, save_all=True, append_images=[second], **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_several_frames(kind: str) -> None:
    assert refusal(frames(kind)).reason is Reason.MULTIPLE_FRAMES


def test_multi_picture_jpeg() -> None:
    assert refusal(frames("MPO")).reason is Reason.MULTIPLE_FRAMES


def test_animated_gif() -> None:
    assert refusal(frames("GIF")).reason is Reason.UNKNOWN_FORMAT


def test_endless_chain_of_tiff_pages_ends() -> None:
    content = bytearray(encode(picture(), "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * count, start)
    assert refusal(bytes(content)).reason is Reason.MULTIPLE_FRAMES


# ---- pixel formats


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (encode(Image.new("I;16", (SIDE, SIDE)), "PNG"), "16"),
        (png(SIDE, SIDE, zlib.compress(bytes(SIDE * (6 * SIDE + 1))), 16, 2), "16"),
        (encode(Image.new("I;16", (SIDE, SIDE)), "TIFF"), "16"),
        (encode(Image.new("F", (SIDE, SIDE)), "TIFF"), "32"),
        (encode(Image.new("L", (SIDE, SIDE)), "PNG"), "PNG"),
        (encode(Image.new("LA", (SIDE, SIDE)), "PNG"), "PNG"),
        (encode(Image.new("L", (SIDE, SIDE)), "JPEG"), "JPEG"),
        (encode(Image.new("L", (SIDE, SIDE)), "BMP"), ""),
        (encode(Image.new("L", (SIDE, SIDE)), "TIFF"), "TIFF"),
        (encode(Image.new("1", (SIDE, SIDE)), "TIFF"), "1"),
        (encode(Image.new("CMYK", (SIDE, SIDE)), "JPEG"), "CMYK"),
        (encode(Image.new("CMYK", (SIDE, SIDE)), "TIFF"), "TIFF"),
        (encode(Image.new("LAB", (SIDE, SIDE)), "TIFF"), "TIFF"),
    ],
)
def test_unsupported_pixel_formats_name_the_remedy(content: bytes, value: str) -> None:
    error = refusal(content)
    assert error.reason is Reason.UNSUPPORTED_MODE
    assert value in str(error)
    assert re.search(r"\b8\b.*RGB", str(error))


def test_sixteen_bit_color_tiff() -> None:
    content = bytearray(encode(picture(), "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, offset = struct.unpack_from("<HHII", content, at)
        if tag == 258:
            struct.pack_into("<HHH", content, offset, 16, 16, 16)
    assert refusal(bytes(content)).reason is Reason.UNSUPPORTED_MODE


def test_sixteen_bit_bmp() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 16, 0, 0, 0, 0, 0, 0)
    content = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + header + bytes(2 * SIDE * SIDE)
    assert refusal(content).reason is Reason.UNSUPPORTED_MODE


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_palette_is_resolved_exactly(kind: str) -> None:
    palette = Image.fromarray(picture()).quantize(200)
    content = encode(palette.convert("RGB") if kind == "WEBP" else palette, kind)
    assert np.array_equal(decode_image(content), np.array(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_become_black(kind: str) -> None:
    rgba = picture(channels=4)
    expected = rgba[..., :3].astype(float) * rgba[..., 3:] / 255
    content = encode(rgba, kind, **({"exact": True} if kind == "WEBP" else {}))
    assert np.abs(decode_image(content) - expected).max() <= 1


def test_transparent_palette_entry_and_color_key_are_black() -> None:
    palette = Image.fromarray(picture()).quantize(8)
    entry = int(np.array(palette)[0, 0])
    rgb = decode_image(encode(palette, "PNG", transparency=entry))
    assert not rgb[np.array(palette) == entry].any()
    key = picture()
    key[:9] = (1, 2, 3)
    rgb = decode_image(encode(key, "PNG", transparency=(1, 2, 3)))
    assert not rgb[:9].any()
    assert np.array_equal(rgb[9:], key[9:])


# ---- headers that lie


@pytest.mark.parametrize("side", [30_000, 2**31 - 1])
def test_huge_png_header(side: int) -> None:
    assert refusal(png(side, side, zlib.compress(b""))).reason is Reason.TOO_MANY_PIXELS


def test_huge_bmp_header() -> None:
    content = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<ii", content, 18, 30_000, 30_000)
    assert refusal(bytes(content)).reason is Reason.UNREADABLE  # the pixels cannot be there
    limits = DecodeLimits(max_bytes=1 << 40)
    assert refusal(bytes(content), limits).reason is Reason.UNREADABLE


def test_huge_jpeg_webp_and_tiff_headers() -> None:
    jpeg = bytearray(encode(picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, at + 5, 30_000, 30_000)
    assert refusal(bytes(jpeg)).reason is Reason.TOO_MANY_PIXELS
    webp = bytearray(encode(picture(), "WEBP"))
    at = webp.index(b"VP8L") + 9
    struct.pack_into("<I", webp, at, (16_383 << 14) | 16_383)
    assert refusal(bytes(webp)).reason is Reason.TOO_MANY_PIXELS
    entries = [(256, 4, 1, 30_000), (257, 4, 1, 30_000), (258, 3, 1, 8), (262, 3, 1, 3), (273, 4, 1, 8)]
    assert refusal(tiff(entries)).reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("size", [(0, 48), (48, 0), (-48, 48), (48, 1 << 31)])
def test_impossible_bmp_sizes(size: tuple[int, int]) -> None:
    content = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<II", content, 18, size[0] & 0xFFFFFFFF, size[1] & 0xFFFFFFFF)
    assert refusal(bytes(content)).reason is Reason.UNREADABLE


def test_top_down_bmp_is_read() -> None:
    content = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<i", content, 22, -SIDE)
    assert np.array_equal(decode_image(bytes(content)), picture()[::-1])


@pytest.mark.parametrize("offset", [0, 2**32 - 1, 100_000])
def test_bmp_pixels_elsewhere(offset: int) -> None:
    content = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<I", content, 10, offset)
    if offset:
        assert refusal(bytes(content)).reason is Reason.UNREADABLE
    else:
        assert decode_image(bytes(content)).shape == (SIDE, SIDE, 3)


def test_tiff_tags_that_all_point_at_the_same_bytes() -> None:
    # 3,000 tags of 20 MB each, in a file of 20 MB: read in full they would take 60 GB.
    size, tags = 20_000_000, 3_000
    entries = [(256, 4, 1, 64), (257, 4, 1, 64)] + [(30_000 + tag, 7, size, 40_000) for tag in range(tags)]
    content = tiff(entries, tail=bytes(size + 40_000))
    with bounded(calls=50_000, memory_bytes=3 * len(content)):
        refusal(content)


def test_big_tiff_tags_that_all_point_at_the_same_bytes() -> None:
    pixels = picture(1024)
    numbers = pixels.size // 8
    content = big_tiff(pixels, more=[(30_000 + tag, 16, numbers, 16) for tag in range(3_000)])
    with bounded(calls=50_000, memory_bytes=8 * len(content)):
        refusal(content)


def test_exif_tags_that_all_point_at_the_same_bytes() -> None:
    size, tags = 4_000_000, 2_000
    block = tiff([(30_000 + tag, 7, size, 30_000) for tag in range(tags)], tail=bytes(size + 30_000))
    rows = b"".join(b"\0" + row.tobytes() for row in picture())
    content = png(SIDE, SIDE, zlib.compress(rows), 8, 2, chunk(b"eXIf", block))
    with bounded(calls=50_000, memory_bytes=4 * len(content)):
        rgb = decode_image(content)
    assert np.array_equal(rgb, picture())


# ---- bombs


def test_png_bomb_within_the_pixel_limit_is_bounded() -> None:
    # 100 MB of zeros behind a header of 48 x 48: only the announced pixels may be unpacked.
    bomb = zlib.compress(bytes(100_000_000), 9)
    content = png(SIDE, SIDE, bomb)
    with bounded(calls=5_000, memory_bytes=1_000_000):
        try:
            decode_image(content)
        except ImageError as error:
            assert error.reason is Reason.UNREADABLE


def test_compressed_text_bomb_is_not_unpacked() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    rows = b"".join(b"\0" + row.tobytes() for row in picture())
    content = png(SIDE, SIDE, zlib.compress(rows), 8, 2, text)
    with bounded(calls=5_000, memory_bytes=1_000_000):
        rgb = decode_image(content)
    assert np.array_equal(rgb, picture())


def test_progressive_jpeg_of_a_thousand_scans() -> None:
    content = encode(picture(), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    scan = content[at:-2]
    assert refusal(content[:-2] + scan * 1_000 + b"\xff\xd9").reason is Reason.UNREADABLE


def test_many_empty_chunks_end_soon() -> None:
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    content += chunk(b"tEXt", b"") * 200_000
    with bounded(calls=1_000_000):
        assert refusal(content).reason is Reason.UNREADABLE


# ---- damage


def originals() -> dict[str, bytes]:
    cell = decode_image(next(sample_cells_directory().glob("fold_0/hem/*.webp")))[150:300, 150:300]
    files = {kind: encode(cell, kind) for kind in LOSSLESS}
    files["JPEG"] = encode(cell, "JPEG", quality=90)
    files["progressive"] = encode(cell, "JPEG", progressive=True)
    files["lossy WebP"] = encode(cell, "WEBP", lossless=False)
    files["palette PNG"] = encode(Image.fromarray(cell).quantize(64), "PNG")
    files["palette BMP"] = encode(Image.fromarray(cell).quantize(64), "BMP")
    files["deflate TIFF"] = encode(cell, "TIFF", compression="tiff_adobe_deflate")
    files["LZW TIFF"] = encode(cell, "TIFF", compression="tiff_lzw")
    files["JPEG TIFF"] = encode(cell, "TIFF", compression="jpeg")
    files["BigTIFF"] = big_tiff(cell)
    files["alpha PNG"] = encode(Image.fromarray(cell).convert("RGBA"), "PNG")
    files["camera JPEG"] = next(other_images_directory().glob("pbc/*.jpg")).read_bytes()
    return files


ORIGINALS = originals()


@pytest.mark.parametrize("kind", ORIGINALS)
def test_undamaged_files_are_read(kind: str) -> None:
    rgb = decode_image(ORIGINALS[kind])
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.flags.c_contiguous
    assert rgb.flags.writeable


@pytest.mark.parametrize("kind", ORIGINALS)
def test_truncated_at_every_stage(kind: str) -> None:
    content = ORIGINALS[kind]
    stages = {*range(1, 80), *np.linspace(80, len(content) * 0.97, 60).astype(int).tolist()}
    for length in stages:
        assert refusal(content[:length]).reason in (Reason.UNREADABLE, Reason.UNKNOWN_FORMAT), length


def answer(content: bytes) -> None:
    """Decode; only an array of the right kind or an ``ImageError`` may come, after bounded work."""
    try:
        with bounded(calls=50_000):
            rgb = decode_image(content, DecodeLimits(max_pixels=4_000_000))
    except ImageError as error:
        assert str(error)
    else:
        assert rgb.dtype == np.uint8
        assert rgb.shape[2:] == (3,)
        assert min(rgb.shape[:2]) >= 32


@pytest.mark.parametrize("kind", ORIGINALS)
def test_flipped_bytes(kind: str) -> None:
    generator = random.Random(kind)
    for _ in range(150):
        content = bytearray(ORIGINALS[kind])
        reach = len(content) if generator.random() < 0.5 else min(300, len(content))
        for _ in range(generator.choice((1, 1, 2, 8))):
            content[generator.randrange(reach)] = generator.randrange(256)
        answer(bytes(content))


@pytest.mark.parametrize("kind", ["TIFF", "deflate TIFF", "JPEG TIFF", "BigTIFF"])
def test_flipped_bytes_in_a_tiff_directory(kind: str) -> None:
    generator = random.Random(kind)
    (start,) = struct.unpack_from(
        "<Q" if kind == "BigTIFF" else "<I", ORIGINALS[kind], 8 if kind == "BigTIFF" else 4
    )
    for _ in range(400):
        content = bytearray(ORIGINALS[kind])
        end = min(start + 200, len(content))
        for _ in range(generator.choice((1, 2, 3))):
            content[generator.randrange(start, end)] = generator.choice((0, 1, 4, 127, 128, 255))
        answer(bytes(content))


def test_flipped_bit_in_png_pixels_is_found() -> None:
    content = bytearray(ORIGINALS["PNG"])
    content[content.index(b"IDAT") + 200] ^= 1
    error = refusal(bytes(content))
    assert error.reason is Reason.UNREADABLE
    assert "IDAT" in str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(
        [
            b"BM",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"II*\0",
            b"MM\0*",
            b"II+\0\x08\0\0\0",
            b"RIFF\0\1\0\0WEBP",
            b"",
        ]
    ),
    st.binary(max_size=400),
)
def test_signature_and_noise(signature: bytes, noise: bytes) -> None:
    answer(signature + noise)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [256, 257, 258, 259, 262, 273, 277, 278, 279, 320, 322, 323, 324, 325, 339, 347, 530]
            ),
            st.integers(0, 13),
            st.sampled_from([0, 1, 2, 3, 768, 2**16, 2**31, 2**32 - 1]),
            st.sampled_from([0, 1, 2, 3, 6, 7, 8, 32, 48, 64, 200, 65_535, 2**31, 2**32 - 1]),
        ),
        max_size=14,
    )
)
def test_tiff_directories_of_any_content(entries: list[tuple[int, int, int, int]]) -> None:
    answer(tiff(entries, tail=bytes(20_000)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_exif_block_of_any_content(noise: bytes, start: int, count: int) -> None:
    block = b"II*\0" + struct.pack("<I", start) + struct.pack("<H", count) + noise
    image = Image.fromarray(picture())
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=b"Exif\0\0" + block)
    plain = encode(picture(), "JPEG")
    if decode_image(stream.getvalue()).shape == (SIDE, SIDE, 3):
        assert decode_image(plain).shape == (SIDE, SIDE, 3)


CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_inputs_found_by_fuzzing(path: Path) -> None:
    answer(path.read_bytes())


def test_fuzzing_reached_images_and_many_kinds_of_refusal() -> None:
    images, reasons = 0, set()
    for path in CORPUS:
        try:
            images += decode_image(path.read_bytes()).size > 0
        except ImageError as error:
            reasons.add(error.reason)
    assert images >= 4
    assert len(reasons) >= 4
