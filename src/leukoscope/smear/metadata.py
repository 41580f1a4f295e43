"""Read the scale from file metadata: TIFF resolution, ImageJ, OME-XML, Aperio, PNG and JPEG density."""

import re
import struct

from leukoscope.imaging.big_tiff import SIGNATURES as BIG_TIFF
from leukoscope.imaging.big_tiff import to_classic_tiff
from leukoscope.smear.scale import PLAUSIBLE_UM

_UNITS_UM = {
    "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0, "å": 1e-4,
}  # fmt: skip
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II"}
_MAX_VALUES = 1 << 20


def scale_in_metadata(content: bytes) -> tuple[float, str] | None:
    """Return the scale that a file states.

    Returns
    -------
    scale
        Micrometers per pixel, and what states it; None where nothing does, where width and height differ by more than
        2 %, or where it is outside ``PLAUSIBLE_UM``: such files state a print or screen resolution.
    """
    try:
        if content.startswith(BIG_TIFF):
            content = to_classic_tiff(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            found = _of_tiff(content)
        elif content.startswith(b"\x89PNG"):
            found = _of_png(content)
        elif content.startswith(b"\xff\xd8"):
            found = _of_jpeg(content)
        else:
            found = None
    except (struct.error, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError):
        return None
    if found is None:
        return None
    x, y, name = found
    if not (x > 0 and y > 0 and abs(x / y - 1) < 0.02 and PLAUSIBLE_UM[0] <= x <= PLAUSIBLE_UM[1]):
        return None
    return (x * y) ** 0.5, name


def read_directory(content: bytes) -> tuple[str, dict[int, list[int]]]:
    """Read the first directory of a TIFF: byte order and the values of its SHORT, LONG and RATIONAL tags.

    Text is given as the two numbers offset and length. Damaged entries are left out.
    """
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    tags: dict[int, list[int]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", content, at)
        code = _TYPES.get(kind)
        if code is None or number > _MAX_VALUES:
            continue
        size = number * (1 if code == "s" else struct.calcsize(order + code))
        where = at + 8
        if size > 4:
            (where,) = struct.unpack_from(order + "I", content, where)
        if where + size > len(content):
            continue
        values = number * (2 if code == "II" else 1)
        if code == "s":
            tags[tag] = [where, number]
        else:
            tags[tag] = list(struct.unpack_from(f"{order}{values}{code[0]}", content, where))
    return order, tags


def _of_tiff(content: bytes) -> tuple[float, float, str] | None:
    _, tags = read_directory(content)
    text = ""
    if 270 in tags:
        where, length = tags[270]
        text = content[where : where + min(length, 200_000)].decode("utf-8", "replace")
    described = _of_description(text)
    if described is not None:
        return described
    if 282 not in tags or 283 not in tags:
        return None
    x, y = tags[282][0] / tags[282][1], tags[283][0] / tags[283][1]
    unit = tags.get(296, [2])[0]
    unit_um = {2: 25_400.0, 3: 10_000.0}.get(unit)
    name = "TIFF resolution"
    if text.startswith("ImageJ"):
        found = re.search(r"^unit=(.+)$", text, re.MULTILINE)
        word = found.group(1).strip().replace("\\u00B5", "µ").lower() if found else ""
        unit_um, name = _UNITS_UM.get(word, unit_um), "ImageJ"
    return None if unit_um is None else (unit_um / x, unit_um / y, name)


def _of_description(text: str) -> tuple[float, float, str] | None:
    if "PhysicalSizeX" in text:
        values = dict(re.findall(r'PhysicalSize(XUnit|YUnit|X|Y)\s*=\s*"([^"]*)"', text)[:8])
        unit_x = _UNITS_UM[values.get("XUnit", "µm").lower()]
        unit_y = _UNITS_UM[values.get("YUnit", "µm").lower()]
        x = float(values["X"]) * unit_x
        return x, float(values["Y"]) * unit_y if "Y" in values else x, "OME-XML"
    if text.startswith("Aperio"):
        found = re.search(r"\bMPP\s*=\s*([0-9.]+)", text)
        if found:
            value = float(found.group(1))
            return value, value, "Aperio"
    return None


def _of_png(content: bytes) -> tuple[float, float, str] | None:
    at = 8
    for _ in range(64):
        length, name = struct.unpack_from(">I4s", content, at)
        if name == b"pHYs":
            x, y, unit = struct.unpack_from(">IIB", content, at + 8)
            return (1e6 / x, 1e6 / y, "PNG resolution") if unit == 1 else None
        if name in (b"IDAT", b"IEND"):
            return None
        at += 12 + length
    return None


def _of_jpeg(content: bytes) -> tuple[float, float, str] | None:
    if content[6:11] != b"JFIF\0":
        return None
    unit, x, y = struct.unpack_from(">BHH", content, 13)
    unit_um = {1: 25_400.0, 2: 10_000.0}.get(unit)
    return None if unit_um is None else (unit_um / x, unit_um / y, "JPEG resolution")
