"""Contact sheets: every image next to its heat map, with the decision; as an HTML page, or as cards of an image."""

import base64
from html import escape
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.core.classes import BINARY, SYMBOL_SIGNS, ClassSchema
from leukoscope.core.io import OutputFile
from leukoscope.core.outputs import GENERATOR
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.imaging.overlay import SheetItem, color_legend, encode_png, heat_map_overlay
from leukoscope.inference.cells import Prediction
from leukoscope.inference.results import CellResult, SubjectResult

MAX_ITEMS = 2000
"""Images on one page: 2,000 are about 150 MB."""
TILE_PX = 225

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--faint:#5a6675;--paper:#f3f5f8;--card:#fff;--line:#d5dbe3}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf2;--faint:#a3afbf;--paper:#12161c;--card:#1b212a;--line:#323c49}}
*{box-sizing:border-box}body{margin:0;padding:24px;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,sans-serif}h1{font-size:1.6rem;margin:0 0 4px}p{margin:0 0 8px}.faint{color:var(--faint)}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));margin:20px 0}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;overflow-wrap:anywhere}
.pictures{display:grid;grid-template-columns:1fr 1fr;gap:8px}.pictures img,.none{width:100%;aspect-ratio:1;
display:block;background:#000;border-radius:4px}.none{background:var(--paper);color:var(--faint);display:grid;
place-items:center}h2{font-size:1.05rem;margin:10px 0 2px}.bar{height:6px;background:var(--line);border-radius:3px}
.bar i{display:block;height:6px;border-radius:3px}small{font-size:.85rem}
table{border-collapse:collapse;background:var(--card)}td,th{border:1px solid var(--line);padding:4px 10px;
text-align:left}.scroll{overflow-x:auto}
"""


class HtmlSheet:
    """A page that grows with each image and is put into its place when it is closed.

    Parameters
    ----------
    path
        Written by way of ``OutputFile``.
    title
        Shown above the images.
    classes
        Of the bundle: titles, colors and shapes.
    """

    def __init__(self, path: Path, title: str, classes: ClassSchema = BINARY) -> None:
        self._classes = classes
        self._file = OutputFile(path)
        self._count = 0
        self._closed = False
        legend = _data_url(color_legend())
        self._file.stream.write(
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="generator" content="{GENERATOR}">'
            f"<title>{escape(title)}</title><style>{_STYLE}{_class_style(classes)}</style><h1>{escape(title)}</h1>"
            f"<p><strong>{escape(RESEARCH_USE)}</strong></p>"
            f'<p class="faint">Left the cell, right its Grad-CAM heat map. '
            f"Colors are relative within each cell.</p>"
            f'<img src="{legend}" alt="Color scale from weak to strong influence" width="320" height="44">'
            f'<main class="grid">'
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is not None and not self._closed:
            self._closed = True
            self._file.discard()

    def add(self, prediction: Prediction) -> None:
        """Draw one image; those beyond ``MAX_ITEMS`` are counted only."""
        self._count += 1
        if self._count <= MAX_ITEMS:
            self._file.stream.write(_article(prediction, self._classes))

    def close(self, subjects: list[SubjectResult], counts: str, earlier: int = 0) -> None:
        """Write the summary and move the page into place; ``earlier`` images were classified by an earlier call."""
        left_out = self._count - MAX_ITEMS
        note = f" The first {earlier:,} images, of an earlier call, are not drawn." if earlier else ""
        note += f" The last {left_out:,} images are not drawn." if left_out > 0 else ""
        self._file.stream.write(
            f"</main><p>{escape(counts)}{note}</p>{_subject_table(subjects, self._classes)}</html>\n"
        )
        self._file.finish()
        self._closed = True


def sheet_item(prediction: Prediction, classes: ClassSchema = BINARY) -> SheetItem:
    """Return the card of a prediction, for ``imaging.overlay.contact_sheet``."""
    result = prediction.result
    reason = result.reasons[0].message if result.reasons else ""
    name, probability = shown_probability(result, classes)
    return SheetItem(
        result.title,
        result.decision,
        probability,
        prediction.canvas,
        prediction.activation_map,
        reason,
        classes,
        name,
    )


def shown_probability(result: CellResult, classes: ClassSchema) -> tuple[str, float | None]:
    """Return the probability to show: that of the positive group, else of the likeliest class."""
    if classes.positive:
        return classes.positive_name, result.probability
    return max(result.probabilities.items(), key=lambda item: item[1], default=("class", None))


def _class_style(classes: ClassSchema) -> str:
    """Return the colors of every decision on light and dark ground."""
    rules = (
        f".{name}{{color:{colors[place]}}}.bar .{name}{{background:{colors[place]}}}"
        for place in (0, 1)
        for name in classes.decisions
        if (colors := classes.colors(name))
    )
    lines = list(rules)
    half = len(lines) // 2
    return "".join(lines[:half]) + "@media(prefers-color-scheme:dark){" + "".join(lines[half:]) + "}"


def _article(prediction: Prediction, classes: ClassSchema) -> str:
    result = prediction.result
    kind = result.decision
    words = escape(classes.title(kind))
    pictures = '<div class="none">not readable</div>'
    if prediction.canvas is not None:
        pictures = _picture(prediction.canvas, f"{result.title}, the cell")
        if prediction.activation_map is not None:
            overlay = heat_map_overlay(prediction.canvas, prediction.activation_map)
            pictures += _picture(overlay, f"{result.title}, its heat map")
    if prediction.activation_map is None:
        pictures += '<div class="none">no heat map</div>'
    score = bar = ""
    name, probability = shown_probability(result, classes)
    if probability is not None:
        score = f" · P({escape(name)}) {probability:.3f}"
        bar = f'<div class="bar"><i class="{kind}" style="width:{probability:.1%}"></i></div>'
    messages = [reason.message for reason in result.reasons] + [
        warning.message for warning in result.warnings
    ]
    reasons = "".join(f'<p class="faint"><small>{escape(message)}</small></p>' for message in messages)
    subject = f" · subject {escape(result.subject)}" if result.subject else ""
    sign = SYMBOL_SIGNS[classes.symbol(kind)]
    return (
        f'<article><div class="pictures">{pictures}</div><h2 class="{kind}">{sign} {words}{score}</h2>'
        f"{bar}<p><small>{escape(result.title)}{subject}</small></p>{reasons}</article>\n"
    )


def _picture(rgb: NDArray[np.uint8], description: str) -> str:
    small = Image.fromarray(rgb).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    url = _data_url(np.asarray(small))
    return f'<img loading="lazy" src="{url}" alt="{escape(description, quote=True)}">'


def _data_url(rgb: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(rgb)).decode("ascii")


def _subject_table(subjects: list[SubjectResult], classes: ClassSchema) -> str:
    if not subjects:
        return ""
    rows = []
    for entry in subjects:
        share = "-"
        if entry.blast_share is not None:
            share = f"{entry.blast_share:.1%} ({entry.blast_share_low:.1%} to {entry.blast_share_high:.1%})"
        probability = "-" if entry.probability is None else f"{entry.probability:.3f}"
        cells = (
            entry.subject,
            entry.decision,
            probability,
            str(entry.classified),
            str(entry.rejected),
            share,
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    positive = classes.positive_name or "positive group"
    shares = "share of blasts" if positive == "blast" else f"share of {positive}"
    head = (
        "subject",
        "pooled call",
        f"P({positive})",
        "classified",
        "rejected",
        f"{shares} (95 % over cells)",
    )
    return (
        '<h2>Subjects</h2><div class="scroll"><table><tr>'
        + "".join(f"<th>{cell}</th>" for cell in head)
        + f"</tr>{''.join(rows)}</table></div>"
    )
