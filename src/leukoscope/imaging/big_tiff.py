"""Rewrite a BigTIFF as a classic TIFF of the same pixels.

A BigTIFF has offsets and counts of 64 bits. The files that are read are far below 4 GiB, so that 32 bits hold them:
strips and tiles stay in their places, and a directory of the classic form is appended.

Source: the BigTIFF specification of libtiff (header of 16 bytes, entries of 20 bytes).
"""

import struct

SIGNATURES = (b"II+\0", b"MM\0+")
"""First bytes of a BigTIFF."""

TYPE_SIZES = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4},
    **{16: 8, 17: 8, 18: 8},
}
"""Type of a value -> its bytes; the last three occur in a BigTIFF only."""

_LONG = 4
_LONGS = (16, 18)  # of 8 bytes: a number and the place of a directory


def to_classic_tiff(content: bytes) -> bytes:
    """Return a classic TIFF whose first directory is that of a BigTIFF.

    The new directory has a following one if the old one has.

    Raises
    ------
    ValueError
        The file is damaged.
    struct.error
        It is cut short.
    """
    order = "<" if content.startswith(b"II") else ">"
    offset_bytes, zero, start = struct.unpack_from(order + "HHQ", content, 4)
    if (offset_bytes, zero) != (8, 0):
        raise ValueError(f"BigTIFF with offsets of {offset_bytes} bytes")
    if not 16 <= start <= len(content) - 8:
        raise ValueError(f"directory at byte {start:,} of {len(content):,}")
    (count,) = struct.unpack_from(order + "Q", content, start)
    end = start + 8 + 20 * count
    if count > 0xFFFF or end + 8 > len(content):
        raise ValueError(f"directory of {count} entries is cut short")
    entries, appended = [], bytearray()
    for tag, old_kind, number, raw in struct.iter_unpack(order + "HHQ8s", content[start + 8 : end]):
        kind = _LONG if old_kind in _LONGS else old_kind
        size = TYPE_SIZES.get(old_kind, 1) * number
        (at,) = struct.unpack(order + "Q", raw)
        if size > 8 and at + size > len(content):
            raise ValueError(f"tag {tag} points behind the end of the file")
        value = raw[:size] if size <= 8 else None
        if kind != old_kind:
            value = content[at : at + size] if value is None else value
            numbers = struct.unpack(f"{order}{number}Q", value)
            if max(numbers, default=0) > 0xFFFFFFFF:
                raise ValueError(f"tag {tag} points behind the end of the file")
            value = struct.pack(f"{order}{number}I", *numbers)
        if value is None:
            place = struct.pack(order + "I", at)
        elif len(value) <= 4:
            place = value.ljust(4, b"\0")
        else:
            place = struct.pack(order + "I", len(content) + len(appended))
            appended += value
        if len(appended) > len(content):  # tags that share their values could ask for any amount of memory
            raise ValueError("the directory is larger than the file")
        entries.append(struct.pack(order + "HHI4s", tag, kind, number, place))
    (following,) = struct.unpack_from(order + "Q", content, end)
    header = content[:2] + struct.pack(order + "HI", 42, len(content) + len(appended))
    directory = struct.pack(order + "H", count) + b"".join(entries)
    return header + content[8:] + bytes(appended) + directory + struct.pack(order + "I", int(following > 0))
