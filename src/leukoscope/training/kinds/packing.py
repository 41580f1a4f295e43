"""One file with all crops: WebP pictures, bit masks and a table, as safetensors.

The pack is copied to a machine with a GPU. Masks are stored at half the resolution.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from leukoscope.core.errors import CohortError
from leukoscope.core.io import replacing
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.encode import encode_webp
from leukoscope.training.kinds.masks import segment_cell
from leukoscope.training.kinds.sources import CROP_PX, Crop

_QUALITY = 80
_QUALITIES = {"munich": 90, "chula": 86}
_TABLE = "items"


@dataclass(frozen=True)
class Item:
    """The table row of one crop; fields as in ``sources.Crop``."""

    label: str
    laboratory: str
    subject: str
    held_out: bool
    cut_out: bool


@dataclass(frozen=True)
class Pack:
    """Decoded crops.

    Attributes
    ----------
    rgb
        uint8 (N, C, C, 3).
    masks
        bool (N, C, C), the cell.
    items
        The table, N rows.
    """

    rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    items: tuple[Item, ...]

    def column(self, name: str) -> NDArray[np.str_]:
        """Return one column of the table as an array of strings."""
        return np.array([str(getattr(item, name)) for item in self.items])


def read_items(path: Path) -> tuple[Item, ...]:
    """Read the table of a pack alone."""
    if not path.is_file():
        raise CohortError(f"{path}: no such pack; write one with write_pack")
    with safe_open(path, framework="numpy") as file:
        return tuple(Item(**row) for row in json.loads((file.metadata() or {}).get(_TABLE, "[]")))


def write_pack(crops: Iterable[Crop], path: Path) -> int:
    """Write crops with their masks; return how many."""
    pictures: list[bytes] = []
    masks: list[NDArray[np.uint8]] = []
    items: list[dict[str, object]] = []
    for crop in crops:
        pictures.append(encode_webp(crop.rgb, _QUALITIES.get(crop.laboratory, _QUALITY)))
        mask = crop.rgb.max(axis=2) > 8 if crop.cut_out else segment_cell(crop.rgb)
        masks.append(np.packbits(mask[::2, ::2]))
        items.append(asdict(Item(crop.label, crop.laboratory, crop.subject, crop.held_out, crop.cut_out)))
    tensors: dict[str, NDArray[Any]] = {
        "pictures": np.frombuffer(b"".join(pictures), np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures]).astype(np.int64),
        "masks": np.frombuffer(zlib.compress(np.stack(masks).tobytes(), 9), np.uint8),
    }
    with replacing(path) as part:
        save_file(tensors, part, metadata={_TABLE: json.dumps(items)})
    return len(items)


def read_pack(path: Path, rows: Sequence[int] | None = None, threads: int = 8) -> Pack:
    """Decode a pack, or some rows of it.

    Raises
    ------
    CohortError
        No such file, or its parts do not fit together.
    """
    table = read_items(path)
    tensors = load_file(path)
    ends = tensors["ends"]
    half = CROP_PX // 2
    bits = np.frombuffer(zlib.decompress(tensors["masks"].tobytes()), np.uint8)
    if len(ends) != len(table) or bits.size != len(table) * -(-half * half // 8):
        raise CohortError(
            f"{path}: {len(table)} rows, {len(ends)} pictures, {bits.size} mask bytes; write it again"
        )
    wanted = list(range(len(table))) if rows is None else list(rows)
    starts = np.concatenate([[0], ends[:-1]])
    content = tensors["pictures"]
    with ThreadPoolExecutor(threads) as pool:
        rgb = list(pool.map(lambda row: decode_image(content[starts[row] : ends[row]].tobytes()), wanted))
    packed = bits.reshape(len(table), -1)[wanted]
    masks = np.unpackbits(packed, axis=1, count=half * half).reshape(-1, half, half).astype(np.bool_)
    masks = masks.repeat(2, axis=1).repeat(2, axis=2)
    return Pack(np.stack(rgb), masks, tuple(table[row] for row in wanted))
