"""The files shipped in the package: sample cells, images for refusal tests, the default bundle."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def sample_cells_directory() -> Path:
    """Return the folder of the shipped C-NMC cells, laid out as the official archive (``fold_0/all/...``)."""
    return _HERE / "cells"


def sample_table_path() -> Path:
    """Return the table of the shipped cells: ``file,label,subject,fold,sha256_of_official_bmp``."""
    return sample_cells_directory() / "sample.csv"


def other_images_directory() -> Path:
    """Return the folder of images that are not cut-out cells: single cells with background, whole fields."""
    return _HERE / "other"


def default_bundle_path() -> Path:
    """Return the folder of the bundle that is used where none is named."""
    return _HERE / "bundle"


def kinds_bundle_path() -> Path:
    """Return the folder of the bundle that names white cells in their surroundings."""
    return _HERE / "kinds"


def finder_bundle_path() -> Path:
    """Return the folder of the shipped finder of white cells, a bundle of the task ``finder``."""
    return _HERE / "finder"


def license_text() -> str:
    """Return the license of the code and of the weights trained with it (Apache-2.0)."""
    return (_HERE / "LICENSE").read_text(encoding="utf-8")
