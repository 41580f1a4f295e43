"""Formats that are not read, recognized by their content: each with its name and the remedy."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

_HEAD_BYTES = 4096
_EXPORT = "export the image as PNG or TIFF with 8-bit RGB"
_FROM_SLIDE = "export fields of it as PNG or TIFF, for example with QuPath, Fiji or OpenSlide"
_FROM_PHONE = "save it as PNG or JPEG (phones: camera format 'most compatible')"
_DEVELOP = "develop it with the camera's software and save it as PNG or TIFF with 8-bit RGB"
_UNPACK = "unpack it and give the images in it"
_DOCUMENT = "save the images in it as PNG files"
_FRAME = "save one frame of it as PNG"
_TABLE = "it holds no pixels: give the image files; tables of labels and subjects have options of their own"


@dataclass(frozen=True)
class ForeignFormat:
    """A format that is known and not read.

    Attributes
    ----------
    name
        With its article, as in "this is a PDF document".
    remedy
        What to do, in the imperative.
    """

    name: str
    remedy: str


def name_foreign_format(content: bytes) -> ForeignFormat | None:
    """Return the format of a file that is no BMP, PNG, JPEG, TIFF or WebP image.

    Parameters
    ----------
    content
        The file. Its name is not looked at.

    Returns
    -------
    format
        None where the content is unknown.
    """
    head = content[:_HEAD_BYTES]
    for at, signature, found in _SIGNATURES:
        if head.startswith(signature, at):
            return found(content) if callable(found) else found
    if head[4:8] == b"ftyp":
        return _of_brand(head)
    if not head.strip(b"\0"):
        return ForeignFormat("a file of zero bytes only", "copy it again from where it came")
    return _of_text(head)


def is_zip_archive(content: bytes) -> bool:
    """Tell whether a file is a ZIP archive, and not an office document packed as one."""
    return content.startswith(_ZIP_SIGNATURES) and _of_zip(content) is _ZIP


def name_tiff_kind(tags: dict[int, int], description: bytes, content: bytes) -> ForeignFormat | None:
    """Return the kind of a TIFF that holds something else than one picture: camera raw data or a whole slide.

    Parameters
    ----------
    tags
        Tags of the first directory, with their values where these are single numbers and 0 elsewhere.
    description
        Of the image (tag 270); empty without one.
    content
        The file.
    """
    is_reduced = tags.get(254, 0) & 1 and 330 in tags
    if content[8:10] == b"CR" or 50706 in tags or is_reduced or tags.get(262) in (32803, 34892):
        return ForeignFormat("a camera's raw file (TIFF-based, such as CR2, NEF, ARW or DNG)", _DEVELOP)
    if description.startswith(b"Aperio"):
        return ForeignFormat("a whole-slide image (Aperio SVS)", _FROM_SLIDE)
    if 65420 in tags:
        return ForeignFormat("a whole-slide image (Hamamatsu NDPI)", _FROM_SLIDE)
    return None


def _of_brand(head: bytes) -> ForeignFormat:
    """Tell the members of the ISO base media family (ISO/IEC 14496-12) by their brands."""
    end = min(max(16, int.from_bytes(head[:4], "big")), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return ForeignFormat("an AVIF image", _FROM_PHONE)
    if head[8:12] == b"crx ":
        return ForeignFormat("a camera's raw file (CR3)", _DEVELOP)
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return ForeignFormat("a HEIC image", _FROM_PHONE)
    return ForeignFormat("a video (MP4 or QuickTime)", _FRAME)


def _of_riff(content: bytes) -> ForeignFormat | None:
    return ForeignFormat("a video (AVI)", _FRAME) if content[8:12] == b"AVI " else None


def _of_zip(content: bytes) -> ForeignFormat:
    """Tell office documents from archives by the names of their parts."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist()[:200])
    except Exception:
        return _ZIP
    if "mimetype" in names and "content.xml" in names:
        return ForeignFormat("an OpenDocument file", _DOCUMENT)
    for part, name in _OFFICE.items():
        if any(entry.startswith(part) for entry in names) and "[Content_Types].xml" in names:
            return ForeignFormat(name, _TABLE if part == "xl/" else _DOCUMENT)
    return _ZIP


def _of_text(head: bytes) -> ForeignFormat | None:
    """Tell HTML, SVG, XML and pointers of Git LFS from other text; None for what is no text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ForeignFormat("a text file (UTF-16)", _TABLE)
    if b"\0" in head:
        return None
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < 8:  # a letter may be cut at the end of the head
            return None
        text = head[: error.start].decode("utf-8-sig")
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    start = text.lstrip().casefold()
    if start.startswith("version https://git-lfs"):
        return ForeignFormat("a Git LFS pointer, not the image", "fetch the image with `git lfs pull`")
    if "<svg" in start:
        return ForeignFormat("an SVG drawing", "give the photograph itself as PNG or TIFF")
    if start.startswith(("<!doctype html", "<html")) or "<html" in start[:500]:
        return ForeignFormat(
            "a web page (HTML)", "download the image itself; a login or error page may stand in its place"
        )
    if start.startswith("<?xml"):
        return ForeignFormat("an XML file", _TABLE)
    return ForeignFormat("a text file", _TABLE)


def _of_netpbm(content: bytes) -> ForeignFormat | None:
    return (
        ForeignFormat("a PNM image", _EXPORT) if content[2:3].isspace() else _of_text(content[:_HEAD_BYTES])
    )


def _of_lif(content: bytes) -> ForeignFormat | None:
    return ForeignFormat("a Leica LIF file", _FROM_SLIDE) if content[8:9] == b"*" else None


def _of_bmp_like(content: bytes) -> ForeignFormat | None:
    return _of_text(content[:_HEAD_BYTES])


_Found = ForeignFormat | Callable[[bytes], ForeignFormat | None]
_OFFICE = {
    "xl/": "an Excel workbook (XLSX)",
    "word/": "a Word document (DOCX)",
    "ppt/": "a PowerPoint presentation (PPTX)",
}
_ZIP = ForeignFormat("a ZIP archive", "unpack it, or give it a name that ends in .zip")
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_JPEG_2000 = ForeignFormat("a JPEG 2000 image", _EXPORT)
_JPEG_XL = ForeignFormat("a JPEG XL image", _EXPORT)
_PACKED = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}
_RAW = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
_VIDEO = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u\x8ef\xcf\x11", b"FLV\1")
_SIGNATURES: tuple[tuple[int, bytes | tuple[bytes, ...], _Found], ...] = (
    (
        128,
        b"DICM",
        ForeignFormat(
            "a DICOM file",
            "`leukoscope smear` reads fields in it (one frame, 8-bit RGB or JPEG); for cells export PNG or TIFF",
        ),
    ),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", _JPEG_2000),
    (0, b"\xff\x4f\xff\x51", _JPEG_2000),
    (0, (b"\0\0\0\x0cJXL ", b"\xff\x0a"), _JPEG_XL),
    (0, b"ZISRAWFILE", ForeignFormat("a Zeiss CZI file", _FROM_SLIDE)),
    (0, b"\xda\xce\xbe\x0a", ForeignFormat("a Nikon ND2 file", _FROM_SLIDE)),
    (0, b"\x70\0\0\0", _of_lif),
    (0, _ZIP_SIGNATURES, _of_zip),
    *((0, signature, ForeignFormat(name, _UNPACK)) for signature, name in _PACKED.items()),
    (257, b"ustar", ForeignFormat("a tar archive", _UNPACK)),
    (0, b"%PDF", ForeignFormat("a PDF document", "save the image in it as PNG")),
    (0, b"%!PS", ForeignFormat("a PostScript document", "save the image in it as PNG")),
    (
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        ForeignFormat(
            "an OLE file (Excel, Word, Zeiss ZVI, Olympus OIB or Thumbs.db)",
            "give the image files; export those of a microscope as PNG or TIFF",
        ),
    ),
    (0, _RAW, ForeignFormat("a camera's raw file", _DEVELOP)),
    (
        0,
        (b"GIF87a", b"GIF89a"),
        ForeignFormat("a GIF image", "it has 256 colors at most; export the original as PNG or TIFF"),
    ),
    (0, b"8BPS", ForeignFormat("a Photoshop file", _EXPORT)),
    (0, b"\x89HDF", ForeignFormat("an HDF5 file", _EXPORT)),
    (
        0,
        b"\x93NUMPY",
        ForeignFormat(
            "a NumPy array file", "load it and give the array to leukoscope.predict, or save it as PNG"
        ),
    ),
    (0, b"MATLAB 5.0", ForeignFormat("a MATLAB file", _EXPORT)),
    (0, b"v/1\x01", ForeignFormat("an OpenEXR image", _EXPORT)),
    (0, b"SIMPLE  =", ForeignFormat("a FITS image", _EXPORT)),
    (0, b"\0\0\1\0", ForeignFormat("an icon (ICO)", _EXPORT)),
    (
        0,
        (b"\0\5\x16\7", b"\0\5\x16\0"),
        ForeignFormat(
            "an AppleDouble file of macOS, not the image", "give the file without the leading '._'"
        ),
    ),
    (0, b"RIFF", _of_riff),
    (0, _VIDEO, ForeignFormat("a video", _FRAME)),
    (0, tuple(b"P%d" % number for number in range(1, 8)), _of_netpbm),
    (0, b"BM", _of_bmp_like),
)
