"""Files of many formats that leukoscope does not read, made by other writers where one is available."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
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
    "bigtiff": (lambda: by_pillow("TIFF", big_tiff=True), "BigTIFF", "convert"),
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
