"""Read the headers of image files, without Pillow and without decoding a pixel.

Each reader parses the structure of the file (chunks, segments, directories), refuses a file that is damaged or not a
single 8-bit color image, and returns the *pixels' part* only: metadata (EXIF, ICC, text, thumbnails) is left out before
the decoder sees the bytes. Pillow reads every tag of a metadata directory into memory, and tags may all point at
the same bytes: a TIFF or an EXIF block of some megabytes can thus ask for gigabytes.

Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81) and JFIF, TIFF 6.0 and BigTIFF, EXIF 2.32, WebP (RFC 9649), BMP (DIB
headers of Windows and OS/2).
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.big_tiff import SIGNATURES as BIG_TIFF
from leukoscope.imaging.big_tiff import TYPE_SIZES, to_classic_tiff
from leukoscope.imaging.foreign_formats import ForeignFormat, name_foreign_format, name_tiff_kind

_MAX_PARTS = 65_536  # chunks or segments of one file; bounds the time of the walks
_MAX_JPEG_SCANS = 50  # each scan of a progressive JPEG is a pass over all pixels, even if it has few bytes
_SAVE_AS_RGB = "save the image as 8-bit RGB (BMP, PNG or TIFF without a color profile)"
_EXPORT_AGAIN = "export or copy the file again"

_ORIENTATION_TAG = 0x0112
_TIFF_UNREAD = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old-style JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
    33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip
_TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
# The tags that a baseline decoder needs; all others are metadata. 274 (orientation) is applied by ``decode``.
_TIFF_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 512}
    | {529, 530, 531, 532}
)


@dataclass(frozen=True)
class Container:
    """One image file before decoding.

    Attributes
    ----------
    format
        ``BMP``, ``PNG``, ``JPEG``, ``TIFF`` or ``WEBP``.
    width_px, height_px
        As stored, before the orientation is applied.
    orientation
        EXIF orientation, 1 (as stored) to 8.
    content
        The file without its metadata.
    """

    format: str
    width_px: int
    height_px: int
    orientation: int
    content: bytes


def read_container(content: bytes, *, field: bool = False) -> Container:
    """Tell the format by the first bytes and read the header.

    Parameters
    ----------
    content
        The file.
    field
        Accept formats that occur for fields but not for cell images: 16 bits per channel in PNG and TIFF (read
        as 8), the first page of a TIFF with several (the others are overviews), a phone's JPEG with a second picture.

    Raises
    ------
    ImageError
        ``UNKNOWN_FORMAT``, ``UNREADABLE``, ``MULTIPLE_FRAMES`` or ``UNSUPPORTED_MODE``.
    """
    for signature, reader in _READERS:
        if content.startswith(signature) and (reader is not _read_webp or content[8:12] == b"WEBP"):
            try:
                return reader(content, field)
            except (struct.error, IndexError):
                raise _damaged("the header is cut short") from None
    foreign = name_foreign_format(content)
    if foreign is not None:
        raise _foreign(foreign)
    raise ImageError(
        Reason.UNKNOWN_FORMAT,
        "this is not an image file of a known kind (the name's ending does not matter); "
        "give a BMP, PNG, JPEG, TIFF or WebP image",
    )


def _foreign(kind: ForeignFormat) -> ImageError:
    return ImageError(
        Reason.UNKNOWN_FORMAT,
        f"this is {kind.name}; {kind.remedy} (BMP, PNG, JPEG, TIFF and WebP images are read)",
    )


def _damaged(what: str) -> ImageError:
    return ImageError(Reason.UNREADABLE, f"the image is damaged: {what}; {_EXPORT_AGAIN}")


def _unsupported(what: str) -> ImageError:
    return ImageError(Reason.UNSUPPORTED_MODE, f"{what}, only 8-bit color is read; {_SAVE_AS_RGB}")


def _several(frames: int | str) -> ImageError:
    return ImageError(
        Reason.MULTIPLE_FRAMES,
        f"the file holds {frames} images, only 1 is allowed; save each as a separate file",
    )


def _read_bmp(content: bytes, field: bool) -> Container:
    offset, header_size = struct.unpack_from("<II", content, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        compression = 0
    elif header_size in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    else:
        text = name_foreign_format(content)  # a text may begin with BM
        raise _damaged(f"BMP header of {header_size} bytes") if text is None else _foreign(text)
    height = abs(height)  # negative: rows are stored top-down
    if width <= 0 or height == 0:
        raise _damaged(f"BMP of {width} x {height} px")
    if bits == 16:
        raise _unsupported("BMP with 16 bits per pixel (5 or 6 per channel)")
    if compression not in (0, 3):
        raise _unsupported(f"compressed BMP (method {compression})")
    needed = (width * bits + 31) // 32 * 4 * height
    if offset + needed > len(content):
        raise _damaged(f"BMP pixels need {offset + needed:,} bytes, the file has {len(content):,}")
    return Container("BMP", width, height, 1, content)


def _read_png(content: bytes, field: bool) -> Container:
    kept, orientation, frames = [content[:8]], 1, 1
    header: tuple[int, ...] = ()
    for name, start, end in _png_chunks(content):
        if zlib.crc32(content[start - 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise _damaged(f"checksum of PNG chunk {name!r} is wrong")
        if not header and name != b"IHDR":
            raise _damaged("PNG does not start with its header")
        if name == b"IHDR":
            if header:
                raise _damaged("PNG with two headers")
            header = struct.unpack_from(">IIBBBBB", content, start)
        elif name == b"acTL":
            frames = int.from_bytes(content[start : start + 4], "big")
        elif name == b"eXIf":
            orientation = _exif_orientation(content[start:end])
        elif name[0] < 97 and name not in (b"PLTE", b"IDAT", b"IEND"):  # upper case: must be understood
            raise _damaged(f"unknown PNG chunk {name!r}")
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[start - 8 : end + 4])
    width, height, depth, color = header[:4]
    if frames > 1:
        raise _several(frames)
    if depth == 16 and not field:
        raise _unsupported("PNG with 16 bits per channel")
    if color in (0, 4):
        raise _unsupported("gray PNG (the stain's color is missing)")
    return Container("PNG", width, height, orientation, b"".join(kept))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the data of every chunk, up to the end chunk."""
    at = 8
    for _ in range(_MAX_PARTS):
        if at + 12 > len(content):
            raise _damaged("PNG ends before its end chunk")
        size, name = struct.unpack_from(">I4s", content, at)
        start, end = at + 8, at + 8 + size
        if end + 4 > len(content):
            raise _damaged(f"PNG ends inside chunk {name!r}")
        yield name, start, end
        if name == b"IEND":
            return
        at = end + 4
    raise _damaged(f"PNG with more than {_MAX_PARTS:,} chunks")


def _read_jpeg(content: bytes, field: bool) -> Container:
    kept, orientation = [content[:2]], 1
    frame: tuple[int, ...] = ()
    for marker, at, end in _jpeg_segments(content):
        if marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(content[at + 10 : end])
        elif marker == 0xE2 and content[at + 4 : at + 8] == b"MPF\0":
            pictures = _mpf_pictures(content[at + 8 : end])
            if pictures > 1 and not field:
                raise _several(pictures)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame:
                raise _damaged("JPEG with two frame headers")
            frame = struct.unpack_from(">BHHB", content, at + 4)
        # Of the application segments and comments only JFIF and Adobe affect the colors.
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at:end])
        if marker == 0xDA:
            kept.append(content[end:])
    if not frame:
        raise _damaged("JPEG without a frame header")
    depth, height, width, channels = frame
    if depth != 8:
        raise _unsupported(f"JPEG with {depth} bits per channel")
    if channels != 3:
        what = {1: "gray JPEG (the stain's color is missing)", 4: "CMYK JPEG"}
        raise _unsupported(what.get(channels, f"JPEG with {channels} channels"))
    pixels = b"".join(kept)
    scans = pixels.count(b"\xff\xda")
    if scans > _MAX_JPEG_SCANS:
        raise _damaged(f"JPEG with {scans} scans, limit {_MAX_JPEG_SCANS}")
    return Container("JPEG", width, height, orientation, pixels)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start (at the marker) and end of every segment up to the first scan's header."""
    at = 2
    for _ in range(_MAX_PARTS):
        if content[at] != 0xFF:
            raise _damaged("JPEG marker expected")
        while content[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = content[at + 1]
        if marker == 0xD9:
            raise _damaged("JPEG ends before its pixels")
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            raise _damaged(f"JPEG marker {marker:#04x} out of place")
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(content):
            raise _damaged("JPEG ends inside a segment")
        yield marker, at, at + 2 + size
        if marker == 0xDA:
            return
        at += 2 + size
    raise _damaged(f"JPEG with more than {_MAX_PARTS:,} segments")


def _mpf_pictures(block: bytes) -> int:
    """Return the number of pictures that a Multi-Picture Format index names (CIPA DC-007), 1 if it is unreadable."""
    try:
        order, entries, _ = _directory(block)
        return next((_inline(order, entry) for entry in entries if entry[0] == 0xB001), 1)
    except (struct.error, ValueError):
        return 1


def _read_webp(content: bytes, field: bool) -> Container:
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise _damaged(f"WebP of {end:,} bytes, the file has {len(content):,}")
    size: tuple[int, int] | None = None
    orientation, frames, at = 1, 0, 12
    for _ in range(_MAX_PARTS):
        if at + 8 > end:
            break
        name, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        start = at + 8
        if start + length > end:
            raise _damaged(f"WebP ends inside chunk {name!r}")
        if name == b"ANMF":
            frames += 1
        elif name == b"EXIF":
            orientation = _exif_orientation(content[start : start + length].removeprefix(b"Exif\0\0"))
        elif size is None:
            size = _webp_size(name, content[start : start + 10])
        at = start + length + length % 2
    if frames > 1:
        raise _several(frames)
    if size is None:
        raise _damaged("WebP without an image")
    return Container("WEBP", *size, orientation, content)


def _webp_size(name: bytes, data: bytes) -> tuple[int, int] | None:
    if name == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if name == b"VP8L":
        packed = int.from_bytes(data[1:5], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


Entry = tuple[int, int, int, bytes]
"""One TIFF directory entry: tag, type, count, and the four bytes of its value or offset."""


def _read_tiff(content: bytes, field: bool) -> Container:
    try:
        if content.startswith(BIG_TIFF):
            content = to_classic_tiff(content)
        order, entries, following = _directory(content)
        kept = [entry for entry in sorted(entries) if entry[0] in _TIFF_PIXEL_TAGS]
        values = {entry[0]: _inline(order, entry) for entry in kept if entry[2] == 1}
        bits, total = _bits(content, order, kept), 0
        for tag, kind, count, raw in kept:
            size = TYPE_SIZES.get(kind, 1) * count
            offset = int(struct.unpack(order + "I", raw)[0]) if size > 4 else 0
            total += size
            if offset + size > len(content) or total > len(content):
                raise _damaged(f"TIFF tag {tag} points behind the end of the file")
    except ValueError as error:
        raise _damaged(f"TIFF: {error}") from None
    foreign = _tiff_kind(content, order, entries)
    if foreign is not None and not (field and "slide" in foreign.name):
        raise _foreign(foreign)
    if following and not field:
        raise _several("several")
    width, height, compression = values.get(256, 0), values.get(257, 0), values.get(259, 1)
    if width == 0 or height == 0:
        raise _damaged("TIFF without a size")
    if compression not in _TIFF_COMPRESSIONS:
        name = _TIFF_UNREAD.get(compression, "unknown")
        raise _unsupported(f"TIFF compressed by method {compression} ({name})")
    if values.get(322, 0) > width + 4096 or values.get(323, 0) > height + 4096:
        raise _damaged(f"TIFF tiles of {values.get(322)} x {values.get(323)} px in {width} x {height} px")
    photometric, samples = values.get(262, -1), values.get(277, 1)
    if (bits - {8} and not (field and bits == {16})) or values.get(339, 1) != 1:
        raise _unsupported(f"TIFF with {max(bits)} bits per channel")
    if photometric not in (2, 3, 6) or samples not in (1, 3, 4) or (samples == 1 and photometric != 3):
        raise _unsupported(f"TIFF with {samples} channels and color space {photometric}")
    orientation = next((_inline(order, entry) for entry in entries if entry[0] == _ORIENTATION_TAG), 1)
    pixels = content[:4] + struct.pack(order + "I", len(content)) + content[8:] + _pack_directory(order, kept)
    return Container("TIFF", width, height, orientation if 1 <= orientation <= 8 else 1, pixels)


def _tiff_kind(content: bytes, order: str, entries: list[Entry]) -> ForeignFormat | None:
    """Tell camera raw data and whole slides from other TIFF files."""
    description = b""
    for tag, _, count, raw in entries:
        if tag == 270 and count > 4:
            start = int(struct.unpack(order + "I", raw)[0])
            description = content[start : start + min(count, 64)]
    return name_tiff_kind({entry[0]: _inline(order, entry) for entry in entries}, description, content)


def _directory(block: bytes) -> tuple[str, list[Entry], int]:
    """Read the first directory of a TIFF block: byte order, entries, offset of the next directory."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    order = orders.get(block[:4])
    if order is None:
        raise ValueError("no byte order")
    (start,) = struct.unpack_from(order + "I", block, 4)
    if start < 8 or start + 2 > len(block):
        raise ValueError(f"directory at byte {start:,} of {len(block):,}")
    (count,) = struct.unpack_from(order + "H", block, start)
    end = start + 2 + 12 * count
    if end + 4 > len(block):
        raise ValueError(f"directory of {count} entries is cut short")
    entries = list(struct.iter_unpack(order + "HHI4s", block[start + 2 : end]))
    (following,) = struct.unpack_from(order + "I", block, end)
    return order, entries, following


def read_tiff_directory(content: bytes) -> tuple[str, list[Entry]]:
    """Return byte order and entries of the first directory of a TIFF that ``read_container`` has accepted."""
    order, entries, _ = _directory(content)
    return order, entries


def _pack_directory(order: str, entries: list[Entry]) -> bytes:
    packed = b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    return struct.pack(order + "H", len(entries)) + packed + bytes(4)


def _inline(order: str, entry: Entry) -> int:
    """Return the value of an entry that holds one SHORT or LONG; 0 for any other."""
    _, kind, count, raw = entry
    if count != 1 or kind not in (3, 4):
        return 0
    return int(struct.unpack(order + "I", raw)[0] if kind == 4 else struct.unpack(order + "H", raw[:2])[0])


def _bits(content: bytes, order: str, entries: list[Entry]) -> set[int]:
    """Return the distinct bits per channel; the default of a TIFF is 1."""
    for tag, kind, count, raw in entries:
        if tag == 258 and kind == 3 and 1 <= count <= 8:
            data, at = (raw, 0) if count <= 2 else (content, struct.unpack(order + "I", raw)[0])
            return set(struct.unpack_from(f"{order}{count}H", data, at))
    return {1}


def _exif_orientation(block: bytes) -> int:
    """Return the orientation an EXIF block states, 1 where it is absent or unreadable: metadata refuses no image."""
    try:
        order, entries, _ = _directory(block)
    except (struct.error, ValueError):
        return 1
    value = next((_inline(order, entry) for entry in entries if entry[0] == _ORIENTATION_TAG), 1)
    return value if 1 <= value <= 8 else 1


_READERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes, bool], Container]], ...] = (
    (b"BM", _read_bmp),
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"\xff\xd8\xff", _read_jpeg),
    ((b"II*\0", b"MM\0*", *BIG_TIFF), _read_tiff),
    (b"RIFF", _read_webp),
)
