"""Predictions of one cell as it is and after small changes that leave it the same cell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Status
from leukoscope.decision.calibration import Calibration, softmax
from leukoscope.decision.policy import called_class
from leukoscope.imaging import perturb
from leukoscope.imaging.canvas import place_on_canvas
from leukoscope.imaging.foreground import clean_ground
from leukoscope.imaging.perturb import Rgb
from leukoscope.inference.cells import Prediction, PreparedCell, Source
from leukoscope.inference.predictor import Predictor
from leukoscope.stats.metrics import Floats

Form = Literal["cut_out", "uncut"]
Start = Literal["file", "cell", "canvas"]

CHANNELS = ("red", "green", "blue")
AIM_TURNS = 0.01
AIM_JPEG = 0.02
AIM_COLOR = 0.05


@dataclass(frozen=True)
class Perturbation:
    """One small change of an image.

    Attributes
    ----------
    name
        Stable key.
    title, group
        For tables and figures.
    apply
        uint8 (H, W, 3) in and out; see ``imaging.perturb``.
    of
        What is changed: the ``file`` as it is, the ``cell`` with its ground exactly black, or the cell on the bundle's
        ``canvas``, where nothing leaves a tight frame. For uncut cells always the image as it is.
    aim
        Largest share of changed decisions that is aimed at, 0 to 1; None without an aim.
    """

    name: str
    title: str
    group: str
    apply: Callable[[Rgb], Rgb]
    of: Start = "cell"
    aim: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a bundle answers for one image.

    Attributes
    ----------
    call
        Class that the operating point calls, whether or not the cell is decided.
    decision
        Class, ``uncertain`` or ``rejected``.
    logits : (K,)
        Calibrated.
    novel, checked
        Whether the image is rejected as novel, or by an input check.
    """

    call: str
    decision: str
    logits: tuple[float, ...]
    novel: bool
    checked: bool


def perturbations(form: Form = "cut_out") -> tuple[Perturbation, ...]:
    """Return all perturbations, in the order of tables and figures.

    Parameters
    ----------
    form
        Of the bundle's images. In uncut ones the surroundings move with the cell, and there is no frame to crop.
    """
    fill: perturb.Fill = "black" if form == "cut_out" else "edge"
    made = [*_turns(), *_compressions(), *_colors(), *_shapes(fill)]
    if form == "cut_out":
        made.append(Perturbation("cropped", "black frame cropped", "place and scale", perturb.crop_to_cell))
    return tuple(made)


def _turns() -> list[Perturbation]:
    group = "turns and mirrors"
    turned = [
        Perturbation(
            f"turn_{90 * quarters}",
            f"turned by {90 * quarters}°",
            group,
            partial(perturb.turn, quarters=quarters),
            aim=AIM_TURNS,
        )
        for quarters in (1, 2, 3)
    ]
    axes: tuple[tuple[perturb.Axis, str], ...] = (
        ("horizontal", "left and right"),
        ("vertical", "top and bottom"),
    )
    mirrored = [
        Perturbation(
            f"mirror_{axis}",
            f"{words} exchanged",
            group,
            partial(perturb.mirror, axis=axis),
            aim=AIM_TURNS,
        )
        for axis, words in axes
    ]
    return turned + mirrored


def _compressions() -> list[Perturbation]:
    codecs: tuple[tuple[perturb.Codec, str, int], ...] = (
        ("JPEG", "JPEG", 95),
        ("JPEG", "JPEG", 90),
        ("JPEG", "JPEG", 75),
        ("WEBP", "WebP", 80),
    )
    return [
        Perturbation(
            f"{codec.lower()}_{quality}",
            f"{title}, quality {quality}",
            "compression",
            partial(perturb.recompress, codec=codec, quality=quality),
            of="file",
            aim=AIM_JPEG if codec == "JPEG" and quality >= 90 else None,
        )
        for codec, title, quality in codecs
    ]


def _colors() -> list[Perturbation]:
    made = []
    for channel in CHANNELS:
        for percent in (-10, -5, 5, 10):
            made.append(
                Perturbation(
                    _signed(channel, percent),
                    f"{channel} {percent:+d} %",
                    "color",
                    _gains({channel: percent}),
                    aim=AIM_COLOR if abs(percent) == 5 else None,
                )
            )
    for red in (-5, 5):
        made.append(
            Perturbation(
                f"{_signed('red', red)}_{_signed('blue', -red)}",
                f"red {red:+d} %, blue {-red:+d} %",
                "color",
                _gains({"red": red, "blue": -red}),
                aim=AIM_COLOR,
            )
        )
    for percent in (-10, -5, 5, 10):
        made.append(
            Perturbation(
                _signed("brightness", percent),
                f"brightness {percent:+d} %",
                "brightness and focus",
                _gains(dict.fromkeys(CHANNELS, percent)),
            )
        )
    return made


def _shapes(fill: perturb.Fill) -> list[Perturbation]:
    place = "place and scale"
    blurred = [
        Perturbation(
            f"blur_{sigma}",
            f"blurred, sigma {sigma} px",
            "brightness and focus",
            partial(perturb.blur_cell, sigma_px=sigma),
        )
        for sigma in (1, 2)
    ]
    scaled = [
        Perturbation(
            _signed("scale", percent),
            f"scale {percent:+d} %",
            place,
            partial(perturb.scale_cell, factor=1 + percent / 100, fill=fill),
            of="canvas",
        )
        for percent in (-10, 10)
    ]
    shifted = [
        Perturbation(
            f"shift_{name}_2",
            f"2 px to the {name}" if name == "right" else f"2 px {name}",
            place,
            partial(perturb.shift_cell, down_px=down, right_px=right, fill=fill),
            of="canvas",
        )
        for name, down, right in (("right", 0, 2), ("down", 2, 0))
    ]
    return [*blurred, *scaled, *shifted]


def _gains(percent: Mapping[str, int]) -> Callable[[Rgb], Rgb]:
    red, green, blue = (1 + percent.get(channel, 0) / 100 for channel in CHANNELS)
    return partial(perturb.scale_colors, red=red, green=green, blue=blue)


def _signed(name: str, percent: int) -> str:
    return f"{name}_{'plus' if percent > 0 else 'minus'}_{abs(percent)}"


def predict_perturbed(
    predictor: Predictor, rgb: Rgb, changes: Sequence[Perturbation], name: str = "image"
) -> list[Outcome]:
    """Predict one cell as it is, then after each change.

    Each changed image takes the way of an image that a user gives: ground cleaned, canvas, measurements, checks,
    network, decision. The network also runs for images that the checks reject, so that a call is known for each.

    Parameters
    ----------
    predictor
        A bundle at work.
    rgb
        uint8 (H, W, 3).
    changes
        Of ``perturbations``.
    name
        Of the image, for messages.

    Returns
    -------
    list of Outcome
        One more than ``changes``; the first is of the image as it is.

    Raises
    ------
    ImageError
        The image, or a changed one, cannot be classified at all.
    EngineError
        The engine failed.
    """
    starts = _starts(predictor, rgb)
    prepared = []
    for image in (rgb, *(change.apply(starts[change.of]) for change in changes)):
        entry = predictor.prepare(Source(name, image))
        if isinstance(entry, Prediction):
            reason = entry.reasons[0]
            raise ImageError(reason.code, f"{name}: {reason.message}")
        prepared.append(entry)
    predictions = predictor.predict_prepared(prepared)
    hidden = iter(_logits_of_rejected(predictor, prepared, predictions))
    return [
        _outcome(predictor, prediction, entry, hidden)
        for entry, prediction in zip(prepared, predictions, strict=True)
    ]


def _starts(predictor: Predictor, rgb: Rgb) -> dict[Start, Rgb]:
    """Return what each kind of change begins with."""
    if predictor.bundle.manifest.domain.form == "uncut":
        return {"file": rgb, "cell": rgb, "canvas": rgb}
    placed = place_on_canvas(rgb, predictor.bundle.manifest.canvas_px)
    return {"file": rgb, "cell": clean_ground(rgb), "canvas": clean_ground(placed)}


def _logits_of_rejected(
    predictor: Predictor, prepared: list[PreparedCell], predictions: list[Prediction]
) -> Floats:
    """Return the calibrated logits (n, K) of the rejected images, whose results do not show them."""
    cells = [
        entry.cell
        for entry, prediction in zip(prepared, predictions, strict=True)
        if prediction.status == Status.REJECTED
    ]
    size = predictor.classes.size
    if not cells:
        return np.zeros((0, size))
    decision = predictor.bundle.decision
    calibration = Calibration(decision.temperature, decision.bias_of(predictor.classes))
    return calibration.logits(predictor.forward(np.stack(cells)).logits)


def _outcome(
    predictor: Predictor, prediction: Prediction, entry: PreparedCell, hidden: Iterator[Floats]
) -> Outcome:
    verdict = prediction.verdict
    assert verdict is not None  # noqa: S101 - the image was read
    rejected = verdict.status is Status.REJECTED
    logits = next(hidden) if rejected else np.asarray(verdict.calibrated_logits, dtype=np.float64)
    return Outcome(
        call=called_class(softmax(logits), predictor.classes, verdict.threshold),
        decision=verdict.decision,
        logits=tuple(logits.tolist()),
        novel=rejected and not entry.refusals,
        checked=bool(entry.refusals),
    )
