"""Format values for the pages: filters and shared values of all templates."""

import re
from datetime import UTC, datetime
from typing import Any

from flask import Flask, url_for
from markupsafe import Markup, escape

from leukoscope.core.terms import REASON_TEXTS, RESEARCH_USE, Reason, Status
from leukoscope.imaging.symbols import OUTLINES
from leukoscope.inference.html_sheet import shown_probability
from leukoscope.inference.results import CellResult
from leukoscope.web.context import services
from leukoscope.web.storage.history import Verdict

SHORT_REASONS: dict[Reason, str] = {
    Reason.NOT_FOUND: "No such file",
    Reason.NOT_A_FILE: "Not a file",
    Reason.EMPTY_FILE: "Empty file",
    Reason.FILE_TOO_LARGE: "File too large",
    Reason.UNKNOWN_FORMAT: "Not an image",
    Reason.UNREADABLE: "Damaged image",
    Reason.TOO_MANY_PIXELS: "Too many pixels",
    Reason.TOO_SMALL: "Too small",
    Reason.MULTIPLE_FRAMES: "Several images in one file",
    Reason.UNSUPPORTED_MODE: "Not 8-bit color",
    Reason.BLANK: "Empty frame",
    Reason.NOT_SEGMENTED: "Background not black",
    Reason.WRONG_SCALE: "Size unlike a cell",
    Reason.NO_CELLS: "No white cell found",
    Reason.NO_SCALE: "Scale unknown",
    Reason.NOT_A_SMEAR: "Not a blood smear",
    Reason.CUT_OFF: "Cut off at the border",
    Reason.BLURRED: "Blurred",
    Reason.SEVERAL_OBJECTS: "Several objects",
    Reason.NOVEL: "Unlike the training cells",
    Reason.BOTH_PLAUSIBLE: "Both classes plausible",
    Reason.NEITHER_PLAUSIBLE: "Unusual for both classes",
    Reason.SEVERAL_PLAUSIBLE: "Several classes plausible",
    Reason.NONE_PLAUSIBLE: "Unusual for every class",
    Reason.CONTRADICTS_OPERATING_POINT: "Contradicts the threshold",
}
"""Reasons in lists and tables; the panel of a case shows the full text."""
VERDICT_TEXTS = {Verdict.AGREE: "Agree", Verdict.DISAGREE: "Disagree", Verdict.UNSURE: "Unsure"}
ABSENT = "–"


def probability(value: float | None, digits: int = 2) -> str:
    """Write a probability with two digits or more; near 0 and 1 it is never rounded to 0 or 1."""
    if value is None:
        return ABSENT
    if value < 0.005:
        return "< 0.01"
    return "> 0.99" if value > 0.995 else f"{value:.{digits}f}"


def digits_apart(result: CellResult) -> int:
    """Return the digits, 2 to 4, at which a probability just below its threshold is not written like it."""
    if result.probability is None or result.threshold is None or result.probability >= result.threshold:
        return 2
    for digits in (2, 3):
        if f"{result.probability:.{digits}f}" != f"{result.threshold:.{digits}f}":
            return digits
    return 4


def percent(value: float | None) -> str:
    """Write a share in per cent without decimals."""
    return ABSENT if value is None else f"{100 * value:.0f} %"


def moment(value: datetime) -> str:
    """Write a point in time, UTC, to the minute."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def plausible(result: CellResult) -> str:
    """Describe the prediction set in words."""
    classes = result.prediction_set
    if len(classes) == 1:
        return f"{classes[0]} only"
    if len(result.probabilities) == 2:
        return "both classes" if classes else "neither class"
    return ", ".join(classes) if classes else "no class"


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop; messages for terminals do neither."""
    text = text.strip()
    if not text:
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def schema_type(schema: dict[str, Any]) -> str:
    """Describe the type of a JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(schema_type(option) for option in schema["anyOf"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        inner = schema.get("items", {})
        return f"array of {schema_type(inner)}" if inner else "array"
    return kind


def ticks(text: str) -> Markup:
    """Set words between back-ticks as code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def register(app: Flask) -> None:
    """Give all templates these filters and values."""

    def asset(name: str) -> str:
        return url_for("static", filename=name)

    filters: dict[str, Any] = {
        "probability": probability,
        "digits": digits_apart,
        "percent": percent,
        "moment": moment,
        "plausible": plausible,
        "schema_type": schema_type,
        "sentence": sentence,
        "ticks": ticks,
    }

    @app.context_processor
    def present() -> dict[str, Any]:
        known = services()
        return {
            "known_model": known.model,
            "classes": known.model.classes,
            "signed_in": known.access.is_signed_in(),
        }

    app.jinja_env.filters.update(filters)
    app.jinja_env.globals.update(
        asset=asset,
        Status=Status,
        outlines=OUTLINES,
        shown=lambda result: shown_probability(result, services().model.classes),
        Verdict=Verdict,
        reason_words=REASON_TEXTS,
        short_reasons=SHORT_REASONS,
        verdict_words=VERDICT_TEXTS,
        research_use=RESEARCH_USE,
    )
