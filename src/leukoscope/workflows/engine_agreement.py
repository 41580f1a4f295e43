"""Whether every installed engine gives a bundle's sample cells the expected answers."""

from typing import TYPE_CHECKING

from leukoscope.core.errors import EngineError, LeukoscopeError

if TYPE_CHECKING:
    from leukoscope.models.bundle import Bundle, Check


def require_agreement(bundle: "Bundle") -> None:
    """Raise ``EngineError`` where an engine that is installed does not reproduce the sample within its tolerance."""
    from importlib.util import find_spec

    for engine in ("openvino", "onnxruntime"):
        if find_spec(engine) is not None:
            check = reproduce(bundle, engine)
            if not check.passed:
                raise EngineError(f"{bundle.directory}: {check.detail}; do not use this bundle")


def reproduce(bundle: "Bundle", engine: str) -> "Check":
    """Return whether an engine gives the sample cells the answers that the bundle expects."""
    from leukoscope.inference.predictor import Predictor
    from leukoscope.inference.sample import check_sample
    from leukoscope.models.bundle import Check
    from leukoscope.models.session import Session

    try:
        return check_sample(Predictor(bundle, Session(bundle.model_path, engine=engine)))
    except LeukoscopeError as error:
        return Check("reproduce", False, f"{engine}: {error}")
