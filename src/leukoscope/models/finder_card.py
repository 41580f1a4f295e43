"""Render the card of a finder and the tables of its report."""

from collections.abc import Sequence

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.models.finder_manifest import FinderManifest, FinderMeasure, FinderReport

MEASURE_TITLES = {
    "recall": "recall (IoU >= 0.5)",
    "precision": "precision (IoU >= 0.5)",
    "recall_center": "recall (center in box)",
    "precision_center": "precision (center in box)",
    "mask_dice": "Dice of the outline",
}


def render_finder_card(manifest: FinderManifest, report: FinderReport | None) -> str:
    """Return the text of ``MODEL_CARD.md``; the same arguments give the same text."""
    lines = [f"# {manifest.title}", "", f"`{manifest.name}` {manifest.version}, {manifest.created}", ""]
    lines += [f"**{RESEARCH_USE}**", "", "## Intended use", "", manifest.intended_use, ""]
    lines += ["## Limitations", "", *(f"- {sentence}" for sentence in manifest.limitations), ""]
    lines += ["## Model", "", *_model(manifest), "", "## Training", "", *_training(manifest), ""]
    lines += ["## Results", "", *_results(report), "", "## Licenses", "", *_licenses(manifest)]
    return "\n".join(lines).rstrip() + "\n"


def finder_table(report: FinderReport) -> str:
    """Return the finders' measures on each set of fields as a Markdown table."""
    shown = [name for name in MEASURE_TITLES if any(name in row.measures for row in report.rows)]
    header = ("fields", "finder", *(MEASURE_TITLES[name] for name in shown), "rejected fields")
    rows = [
        (
            f"{row.fields}: {row.n_fields} fields, {row.n_cells} cells",
            row.finder,
            *(_text(row.measures.get(name)) for name in shown),
            str(row.rejected),
        )
        for row in report.rows
    ]
    return "\n".join(_table(header, rows))


def scale_table(report: FinderReport) -> str:
    """Return the measured scales of resized images as a Markdown table."""
    header = ("images", "resized by", "measured by expected scale (median)", "within 5 %", "without a scale")
    rows = [
        (
            f"{row.fields}, {row.n_images}",
            f"{row.factor:g}",
            _text(row.ratio),
            _text(row.within_5_percent),
            str(row.rejected),
        )
        for row in report.scale
    ]
    return "\n".join(_table(header, rows))


def _text(measure: FinderMeasure | None) -> str:
    if measure is None or measure.value is None:
        return ""
    if measure.low is None or measure.high is None:
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [header, *rows]
    texts = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return [texts[0], "|" + "---|" * len(header), *texts[1:]]


def _model(manifest: FinderManifest) -> list[str]:
    rows = [
        ("Architecture", manifest.architecture),
        ("Parameters", f"{manifest.parameters:,}"),
        (
            "Input",
            f"8-bit RGB at {manifest.microns_per_pixel:g} um a pixel, sides multiples of {manifest.divisor_px} px",
        ),
        ("Maps", ", ".join(manifest.maps)),
        (
            "Thresholds",
            f"center {manifest.center_threshold:g}, cell {manifest.cell_threshold:g}, "
            f"nucleus {manifest.nucleus_threshold:g}",
        ),
    ]
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    if libraries:
        rows.append(("Libraries", libraries))
    return _table(("what", "value"), rows)


def _training(manifest: FinderManifest) -> list[str]:
    record = manifest.training
    rows = [
        ("Data", "; ".join(record.data)),
        ("Held out", record.held_out),
        ("Initial weights", record.initial_weights),
    ]
    return _table(("what", "value"), rows)


def _results(report: FinderReport | None) -> list[str]:
    if report is None:
        return [
            "This model has not been evaluated: there is no measured performance, and none may be assumed."
        ]
    lines = [f"{report.title}, {report.created}. Measured by `{report.command}`.", "", finder_table(report)]
    if report.scale:
        lines += ["", "Scale measured by red cells when images are resized:", "", scale_table(report)]
    return [*lines, "", *(f"- {sentence}" for sentence in report.caveats)]


def _licenses(manifest: FinderManifest) -> list[str]:
    rows = [(record.part, record.license, record.attribution or "-") for record in manifest.licenses]
    return _table(("part", "license", "attribution"), rows)
