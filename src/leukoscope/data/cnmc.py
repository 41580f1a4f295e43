"""C-NMC 2019: its file names, folders, label file and official BMP form.

The words ``all`` and ``hem`` of the data set stay in this module; everywhere else a cell is ``blast`` or ``normal``.

Source: S. Mourya, S. Kant, P. Kumar, A. Gupta, R. Gupta, "ALL Challenge dataset of ISBI 2019 (C-NMC 2019)", The Cancer
Imaging Archive, 2019, doi 10.7937/tcia.2019.dc64i46r.
"""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import CohortError
from leukoscope.core.terms import Label
from leukoscope.core.text import TextError, read_table

ATTRIBUTION = (
    "Cell images from: S. Mourya, S. Kant, P. Kumar, A. Gupta, R. Gupta, "
    '"ALL Challenge dataset of ISBI 2019 (C-NMC 2019)", The Cancer Imaging Archive, 2019, '
    "https://doi.org/10.7937/tcia.2019.dc64i46r, licensed under CC BY 3.0 "
    "(https://creativecommons.org/licenses/by/3.0/).\n"
)
PRELIMINARY_TEST = "preliminary_test"
FINAL_TEST = "final_test"
TEST_FOLDS = (PRELIMINARY_TEST, FINAL_TEST)
CANVAS_PX = 450
FINAL_TEST_PX = 600
CLASS_FOLDERS = {"all": Label.BLAST, "hem": Label.NORMAL}
FOLDER_OF_LABEL = {label: folder for folder, label in CLASS_FOLDERS.items()}
LABELS_HEADER = ("Patient_ID", "new_names", "labels")

# One subject of the official archive is written with a lower-case h (h3); ids are kept as they are written.
_NAME = re.compile(r"UID_(?P<subject>[Hh]?\d+)_(?P<image>\d+)_(?P<cell>\d+)_(?P<label>all|hem)")
_FOLD = re.compile(r"fold_\d+")
_TEST_FOLDERS = {
    "c-nmc_test_prelim_phase_data": PRELIMINARY_TEST,
    "c-nmc_test_final_phase_data": FINAL_TEST,
    PRELIMINARY_TEST: PRELIMINARY_TEST,
    FINAL_TEST: FINAL_TEST,
}
# The official BMPs state 3779 pixels per meter (96 dpi) in both directions.
_PIXELS_PER_METER = 3779


@dataclass(frozen=True, slots=True)
class OfficialName:
    """Fields of the name ``UID_<subject>_<image>_<cell>_<class>``."""

    subject: str
    image: int
    """Number of the field the cell was cut from, within the subject."""
    cell: int
    """Number of the cell within the field."""
    label: Label


def parse_name(name: str) -> OfficialName | None:
    """Parse a training file's name; the suffix does not matter, None where the name has another form.

    Examples
    --------
    >>> parse_name("UID_h3_2_1_hem.webp")
    OfficialName(subject='h3', image=2, cell=1, label=<Label.NORMAL: 0>)
    >>> parse_name("1023.bmp") is None
    True
    """
    match = _NAME.fullmatch(name.rpartition(".")[0] or name)
    if match is None:
        return None
    return OfficialName(
        match["subject"], int(match["image"]), int(match["cell"]), CLASS_FOLDERS[match["label"]]
    )


def fold_of(folders: Sequence[str]) -> str:
    """Return the official part that a path's folders name, the innermost first; empty where none does."""
    for folder in reversed(folders):
        if _FOLD.fullmatch(folder):
            return folder
        if folder.lower() in _TEST_FOLDERS:
            return _TEST_FOLDERS[folder.lower()]
    return ""


def is_labels_file(path: Path) -> bool:
    """Return whether a CSV file is the label file of the preliminary test set, by its header."""
    try:
        return read_table(path).columns[:3] == LABELS_HEADER
    except (OSError, TextError):
        return False


def read_labels(path: Path) -> dict[str, OfficialName]:
    """Read the preliminary test set's label file.

    Returns
    -------
    dict
        New file name (``"17.bmp"``) to the fields of the original name.

    Raises
    ------
    CohortError
        A row does not parse, names a file twice, or its label (1 is ALL) contradicts the original name.
    """
    found: dict[str, OfficialName] = {}
    for row in read_table(path).rows:
        number = row.line
        original, new_name, label = (row.fields[column.casefold()] for column in LABELS_HEADER)
        name = parse_name(original)
        if name is None or label not in ("0", "1"):
            raise CohortError(
                f"{path}: row {number}: {original!r}, label {label!r}: expected UID_..._all or _hem and 1 or 0"
            )
        if int(label) != name.label:
            raise CohortError(
                f"{path}: row {number}: {original!r} has label {label}; restore the official file"
            )
        if new_name in found:
            raise CohortError(f"{path}: row {number}: {new_name!r} is named a second time")
        found[new_name] = name
    return found


def official_bmp_sha256(rgb: NDArray[np.uint8]) -> str:
    """Return the SHA-256 that the pixels have as an official training BMP, so that lossless copies can be recognized.

    Parameters
    ----------
    rgb
        Image, uint8 (H, W, 3).
    """
    height, width = rgb.shape[:2]
    row_bytes = (3 * width + 3) // 4 * 4
    rows = np.zeros((height, row_bytes), np.uint8)
    # BMP stores rows from the bottom up, each pixel as blue, green, red, rows padded to four bytes.
    rows[:, : 3 * width] = rgb[::-1, :, ::-1].reshape(height, 3 * width)
    header = struct.pack("<2sIHHI", b"BM", 54 + rows.nbytes, 0, 0, 54)
    header += struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.nbytes, _PIXELS_PER_METER, _PIXELS_PER_METER, 0, 0
    )
    return hashlib.sha256(header + rows.tobytes()).hexdigest()
