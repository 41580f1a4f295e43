"""How values are written on the pages: filters and shared values of all templates."""

import re
from datetime import UTC, datetime
from typing import Any

from flask import Flask, url_for
from markupsafe import Markup, escape

from leukoscope.runtime.results import CellResult
from leukoscope.terms import DECISION_WORDS, REASON_WORDS, RESEARCH_USE, Decision
from leukoscope.web.context import services
from leukoscope.web.storage.history import Verdict

SHORT_WORDS = {
    Decision.BLAST: "Blast",
    Decision.NORMAL: "Normal",
    Decision.UNCERTAIN: "Uncertain",
    Decision.REJECTED: "Not judged",
}
LONG_WORDS = {
    Decision.BLAST: DECISION_WORDS[Decision.BLAST],
    Decision.NORMAL: DECISION_WORDS[Decision.NORMAL],
    Decision.UNCERTAIN: "Uncertain",
    Decision.REJECTED: DECISION_WORDS[Decision.REJECTED],
}
VERDICT_WORDS = {Verdict.AGREE: "Agree", Verdict.DISAGREE: "Disagree", Verdict.UNSURE: "Unsure"}
ABSENT = "–"


def probability(value: float | None) -> str:
    """Write a probability with two digits; near the ends it is never shown as certainty."""
    if value is None:
        return ABSENT
    if value < 0.005:
        return "< 0.01"
    return "> 0.99" if value > 0.995 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Write a share in per cent without decimals."""
    return ABSENT if value is None else f"{100 * value:.0f} %"


def moment(value: datetime) -> str:
    """Write a point in time, UTC, to the minute."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def plausible(result: CellResult) -> str:
    """Say in words which classes conformal prediction leaves."""
    classes = set(result.prediction_set)
    if not classes:
        return "neither class"
    if len(classes) == 2:
        return "both classes"
    return "blast only" if Decision.BLAST in classes else "normal only"


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop; messages for terminals do neither."""
    text = text.strip()
    if not text:
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def schema_type(schema: dict[str, Any]) -> str:
    """Say a JSON schema's type in a few words."""
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
        return {"known_model": known.model, "signed_in": known.gate.is_signed_in()}

    app.jinja_env.filters.update(filters)
    app.jinja_env.globals.update(
        asset=asset,
        Decision=Decision,
        Verdict=Verdict,
        short_words=SHORT_WORDS,
        long_words=LONG_WORDS,
        reason_words=REASON_WORDS,
        verdict_words=VERDICT_WORDS,
        research_use=RESEARCH_USE,
    )
