"""Names of the bundles that come with the package, and how a name or a folder is resolved."""

import os
from pathlib import Path

from leukoscope.assets import default_bundle_path, kinds_bundle_path
from leukoscope.core.errors import UsageError
from leukoscope.models.files import MANIFEST

DEFAULT_MODEL = "cnmc"
KINDS_MODEL = "leukoscope-kinds"
MODELS_VARIABLE = "LEUKOSCOPE_MODELS"
"""Environment variable: a folder whose sub-folders are further bundles, found by their folder names."""


def list_models() -> list[str]:
    """Return the names that ``load_model`` takes, the default first.

    Returns
    -------
    list of str
        Names of the shipped bundles, then those of the folder that the variable ``LEUKOSCOPE_MODELS`` names.
    """
    return list(_places())


def resolve_model(model: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a bundle.

    Parameters
    ----------
    model
        A name of ``list_models()``, the path of a bundle's folder, or None for the default.

    Raises
    ------
    UsageError
        There is no such name and no such folder.
    """
    places = _places()
    if model is None:
        return places[DEFAULT_MODEL]
    name = os.fspath(model)
    path = Path(name).expanduser()
    if name in places and (isinstance(model, str) or not path.exists()):
        return places[name]
    if path.is_dir():
        return path
    raise UsageError(
        f"model {name!r}: no such bundle folder, and no model of this name; there are: {', '.join(places)}"
    )


def _places() -> dict[str, Path]:
    places = {DEFAULT_MODEL: default_bundle_path(), KINDS_MODEL: kinds_bundle_path()}
    further = os.environ.get(MODELS_VARIABLE)
    if further and Path(further).is_dir():
        for folder in sorted(Path(further).iterdir()):
            if (folder / MANIFEST).is_file():
                places.setdefault(folder.name, folder)
    return places
