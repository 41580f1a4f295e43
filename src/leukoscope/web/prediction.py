"""What the web application needs of a predictor, and nothing more of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from leukoscope.runtime.results import CellResult

NEUTRAL_NAME = "image"
"""What the predictor is told instead of the file's name, so that no message or log can repeat it."""


@dataclass(frozen=True, slots=True)
class ToJudge:
    """One image on its way to the engine."""

    content: bytes
    subject: str | None = None
    heat_map: bool = False


class PredictionLike(Protocol):
    """One judged image with what is drawn of it."""

    @property
    def result(self) -> CellResult:
        """What is said about the image."""

    @property
    def attribution(self) -> Any | None:
        """Float array (h, w), or None."""

    @property
    def canvas(self) -> Any | None:
        """The cell as the network saw it, uint8 (H, W, 3), or None."""


class Judge(Protocol):
    """The engine behind the queue: judges a batch in one call, in the given order."""

    def __call__(self, images: Sequence[ToJudge], /) -> Sequence[PredictionLike]:
        """Return one prediction an image; a refusal is a prediction too."""
