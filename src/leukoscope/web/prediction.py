"""Connect the queue with the predictor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leukoscope.inference.cells import Prediction, Source
from leukoscope.inference.predictor import Predictor

NEUTRAL_NAME = "image"
"""Name that the predictor gets instead of the file name, so that no message or log contains it."""


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """One image on its way to the engine."""

    content: bytes
    subject: str | None = None


PredictFn = Callable[[Sequence[PredictionRequest]], Sequence[Prediction]]
"""The engine behind the queue: one prediction an image, in the given order; a refusal is a prediction too."""


def make_predict_fn(predictor: Predictor) -> PredictFn:
    """Return a prediction function that uses ``predictor``."""

    def predict(images: Sequence[PredictionRequest]) -> Sequence[Prediction]:
        return list(predictor.stream(Source(NEUTRAL_NAME, image.content, image.subject) for image in images))

    return predict
