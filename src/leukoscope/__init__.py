"""Automated leukemia detection from blood-smear images. Research use only. Not for diagnostic procedures.

>>> import leukoscope
>>> predictor = leukoscope.load_model()
>>> prediction = predictor.predict(leukoscope.datasets.sample_paths()[0])
>>> prediction.decision in ("blast", "normal", "uncertain", "rejected")
True

Names are imported when they are first used, so that ``import leukoscope`` stays fast and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from leukoscope import conformal, datasets, estimators, metrics
    from leukoscope.api import (
        evaluate,
        export,
        import_cohort,
        list_models,
        load,
        load_model,
        make_splits,
        predict,
        read_images,
        train,
    )
    from leukoscope.core.errors import LeukoscopeError
    from leukoscope.inference.cells import Prediction, Predictions, Source
    from leukoscope.inference.predictor import Predictor
    from leukoscope.inference.results import CellResult, SubjectResult
    from leukoscope.smear.reading import read_smear

__all__ = [
    "CellResult",
    "LeukoscopeError",
    "Prediction",
    "Predictions",
    "Predictor",
    "Source",
    "SubjectResult",
    "__version__",
    "conformal",
    "datasets",
    "estimators",
    "evaluate",
    "export",
    "import_cohort",
    "list_models",
    "load",
    "load_model",
    "make_splits",
    "metrics",
    "predict",
    "read_images",
    "read_smear",
    "train",
]

_MODULES = ("conformal", "datasets", "estimators", "metrics")
_NAMES = {
    "CellResult": "leukoscope.inference.results",
    "LeukoscopeError": "leukoscope.core.errors",
    "Prediction": "leukoscope.inference.cells",
    "Predictions": "leukoscope.inference.cells",
    "Predictor": "leukoscope.inference.predictor",
    "Source": "leukoscope.inference.cells",
    "SubjectResult": "leukoscope.inference.results",
    "read_smear": "leukoscope.smear.reading",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"leukoscope.{name}")
    if name in __all__:
        value = getattr(import_module(_NAMES.get(name, "leukoscope.api")), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'leukoscope' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
