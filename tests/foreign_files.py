"""Files of many formats that leukoscope does not read, made by other writers where one is available."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin


def picture() -> Image.Image:
    """Draw 64 x 64 px of noise."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))


def by_pillow(kind: str, **options: object) -> bytes:
    """Return the picture as Pillow writes it."""
    stream = io.BytesIO()
    image = picture().convert("L") if kind == "FITS" else picture()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff_with(tags: dict[int, int | str]) -> bytes:
    """Return a TIFF of the picture with further tags."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
        if isinstance(value, int):
            directory.tagtype[tag] = 4
    return by_pillow("TIFF", tiffinfo=directory)


def big_tiff(
    pixels: NDArray[np.uint8],
    order: str = "<",
    *,
    strips: int = 4,
    more: Iterable[tuple[int, int, int, int]] = (),
    following: int = 0,
) -> bytes:
    """Write a BigTIFF of an image without compression; places and sizes of the strips are LONG8.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3).
    order
        ``<`` or ``>``.
    strips
        Their number; it divides H.
    more
        Further entries: tag, type, count and the 8 bytes of the value as one number.
    following
        Place of the next directory.
    """
    height, width, _ = pixels.shape
    rows = height // strips
    size = rows * width * 3
    arrays = 16 + height * width * 3
    places = struct.pack(f"{order}{strips}Q", *(16 + size * number for number in range(strips)))
    sizes = struct.pack(f"{order}{strips}Q", *[size] * strips)
    values = [(256, 4, width), (257, 16, height), (259, 3, 1), (262, 3, 2), (277, 3, 3), (278, 4, rows)]
    entries = [(tag, kind, 1, _left(kind, value, order)) for tag, kind, value in values]
    entries.append((258, 3, 3, struct.pack(order + "4H", 8, 8, 8, 0)))
    for tag, content in ((273, places), (279, sizes)):
        at = arrays + (0 if tag == 273 else len(places))
        entries.append((tag, 16, strips, content if strips == 1 else struct.pack(order + "Q", at)))
    entries += [(tag, kind, count, struct.pack(order + "Q", value)) for tag, kind, count, value in more]
    packed = b"".join(struct.pack(order + "HHQ8s", *entry) for entry in sorted(entries))
    start = arrays + len(places) + len(sizes)
    mark = b"II" if order == "<" else b"MM"
    header = mark + struct.pack(order + "HHHQ", 43, 8, 0, start)
    directory = struct.pack(order + "Q", len(entries)) + packed + struct.pack(order + "Q", following)
    return header + pixels.tobytes() + places + sizes + directory


def as_big_tiff(classic: bytes) -> bytes:
    """Return a little-endian classic TIFF of one page, 16 bytes further on, below the header of a BigTIFF."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    (start,) = struct.unpack_from("<I", classic, 4)
    (count,) = struct.unpack_from("<H", classic, start)
    entries = b""
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number, place = struct.unpack_from("<HHII", classic, at)
        size = sizes[kind] * number
        value = classic[at + 8 : at + 8 + size] if size <= 4 else classic[place : place + size]
        if tag == 273:  # places of strips
            old = struct.unpack(f"<{number}{'HI'[kind == 4]}", value)
            value, kind = struct.pack(f"<{number}Q", *(one + 16 for one in old)), 16
        if len(value) > 8:
            classic, value = classic + value, struct.pack("<Q", 16 + len(classic))
        entries += struct.pack("<HHQ8s", tag, kind, number, value.ljust(8, b"\0"))
    header = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16 + len(classic))
    return header + classic + struct.pack("<Q", count) + entries + bytes(8)


def _left(kind: int, value: int, order: str) -> bytes:
    return struct.pack(order + {3: "H", 4: "I", 16: "Q"}[kind], value).ljust(8, b"\0")


def zipped(*names: str) -> bytes:
    """Return a ZIP archive with members of these names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return stream.getvalue()


def tarred() -> bytes:
    """Return a tar archive with one member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return stream.getvalue()


def array() -> bytes:
    """Return a NumPy file."""
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 4)))
    return stream.getvalue()


def media(brand: bytes, *others: bytes) -> bytes:
    """Return the first box of a file of the ISO base media family, and some bytes of the next."""
    body = brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0\0\4\0mdat" + bytes(1000)


FOREIGN: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "dicom of several frames": (
        lambda: bytes(128) + b"DICM" + _element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0") + _frames(12),
        "DICOM", "",
    ),
    "jpeg 2000": (lambda: by_pillow("JPEG2000"), "JPEG 2000", "PNG or TIFF"),
    "jpeg 2000 codestream": (lambda: by_pillow("JPEG2000", no_jp2=True), "JPEG 2000", "PNG or TIFF"),
    "avif": (lambda: by_pillow("AVIF"), "AVIF", "save it as PNG"),
    "heic": (lambda: media(b"heic", b"mif1", b"heic"), "HEIC", "save it as PNG"),
    "cr3": (lambda: media(b"crx ", b"crx "), "raw file", "develop"),
    "mp4": (lambda: media(b"isom", b"isom", b"avc1"), "video", "frame"),
    "avi": (lambda: b"RIFF" + struct.pack("<I", 2000) + b"AVI LIST" + bytes(2000), "video", "frame"),
    "matroska": (lambda: b"\x1aE\xdf\xa3" + bytes(500), "video", "frame"),
    "czi": (lambda: b"ZISRAWFILE" + bytes(500), "CZI", "QuPath"),
    "nd2": (lambda: b"\xda\xce\xbe\x0a" + bytes(500), "ND2", "QuPath"),
    "cr2": (lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + bytes(2) + bytes(500), "raw file", "develop"),
    "dng": (lambda: tiff_with({50706: 1}), "raw file", "develop"),
    "nef": (lambda: tiff_with({254: 1, 330: 8}), "raw file", "develop"),
    "raf": (lambda: b"FUJIFILMCCD-RAW 0201" + bytes(500), "raw file", "develop"),
    "zip": (lambda: zipped("a.png"), "ZIP", ".zip"),
    "xlsx": (
        lambda: zipped("docProps/app.xml", "[Content_Types].xml", "xl/workbook.xml"), "XLSX", "no pixels"
    ),
    "docx": (lambda: zipped("[Content_Types].xml", "word/document.xml"), "DOCX", "save the images"),
    "gzip": (lambda: gzip.compress(by_pillow("PNG")), "gzip", "unpack"),
    "tar": (tarred, "tar", "unpack"),
    "pdf": (lambda: by_pillow("PDF"), "PDF", "PNG"),
    "ole": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "OLE", "export"),
    "gif": (lambda: by_pillow("GIF"), "GIF", "export"),
    "icon": (lambda: by_pillow("ICO"), "ICO", "export"),
    "ppm": (lambda: by_pillow("PPM"), "PNM", "export"),
    "numpy": (array, "NumPy", "leukoscope.predict"),
    "html": (lambda: b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "HTML", "download"),
    "svg": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", "photograph"),
    "text": ("file,label\nZ\u00e4hlung.png,blast\n".encode, "text file", "no pixels"),
    "text that begins as a bitmap": (lambda: b"BMI,age\n" + b"22,31\n" * 40, "text file", "no pixels"),
    "text in utf-16": (lambda: "file,label\n".encode("utf-16"), "UTF-16", "no pixels"),
    "git lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Git LFS", "git lfs pull"
    ),
    "zero bytes": (lambda: bytes(5000), "zero bytes", "copy it again"),
    "appledouble": (lambda: b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100), "AppleDouble", "'._'"),
}  # fmt: skip
"""Format -> its writer, and what the message must hold: name, and part of the remedy."""


def _element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    return struct.pack("<HH", group, number) + kind + struct.pack("<H", len(value)) + value


def _frames(count: int) -> bytes:
    return _element(0x28, 8, b"IS", b"%d" % count)
