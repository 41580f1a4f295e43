"""Names of the bundles that come with the package, and how a name or a folder is resolved."""

import os
from pathlib import Path

from leukoscope.assets import default_bundle_path, finder_bundle_path, kinds_bundle_path
from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user
from leukoscope.models.files import LIMITS, MANIFEST
from leukoscope.models.manifest import task_of

DEFAULT_MODEL = "cnmc"
KINDS_MODEL = "leukoscope-kinds"
FINDER_MODEL = "finder"
MODELS_VARIABLE = "LEUKOSCOPE_MODELS"
"""Environment variable: a folder whose sub-folders are further bundles, found by their folder names."""


def list_models(task: str | None = None) -> list[str]:
    """Return the names of the available bundles, the default first.

    Parameters
    ----------
    task
        ``cell`` or ``kinds`` (what ``load_model`` takes) or ``finder`` (what ``read_smear`` takes); None for all.

    Returns
    -------
    list of str
        Names of the shipped bundles, then those of the folder that the variable ``LEUKOSCOPE_MODELS`` names.
    """
    return [name for name, place in _places().items() if task is None or read_task(place) == task]


def resolve_model(model: str | os.PathLike[str] | None = None, default: str = DEFAULT_MODEL) -> Path:
    """Return the folder of a bundle.

    Parameters
    ----------
    model
        A name of ``list_models()``, the path of a bundle's folder, or None for the default.
    default
        Name of the default.

    Raises
    ------
    UsageError
        There is no such name and no such folder.
    """
    places = _places()
    if model is None:
        return places[default]
    name = os.fspath(model)
    path = expand_user(name)
    if name in places and (isinstance(model, str) or not path.exists()):
        return places[name]
    if path.is_dir():
        return path
    raise UsageError(
        f"model {name!r}: no such bundle folder, and no model of this name; there are: {', '.join(places)}"
    )


def read_task(folder: Path) -> str:
    """Return the task that a bundle's manifest states, without any check; ``cell`` if it cannot be read."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return task_of(file.read(LIMITS[MANIFEST]))
    except OSError:
        return "cell"


def _places() -> dict[str, Path]:
    places = {
        DEFAULT_MODEL: default_bundle_path(),
        KINDS_MODEL: kinds_bundle_path(),
        FINDER_MODEL: finder_bundle_path(),
    }
    further = os.environ.get(MODELS_VARIABLE)
    if further and expand_user(further).is_dir():
        for folder in sorted(expand_user(further).iterdir()):
            if (folder / MANIFEST).is_file():
                places.setdefault(folder.name, folder)
    return places
