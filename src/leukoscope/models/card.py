"""The model card, rendered from the manifest, the decision parameters and the report: no number is typed by hand."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from leukoscope.core.classes import ClassSchema
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.models.manifest import Manifest

if TYPE_CHECKING:
    from leukoscope.models.report import Measurements, Report, Robustness, SplitReport

CELL_MEASURES = (
    "roc_auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "f1_weighted",
    "ece",
)
SUBJECT_MEASURES = ("roc_auc", "accuracy", "sensitivity", "specificity")


def render_card(manifest: Manifest, decision: DecisionParameters, report: "Report | None") -> str:
    """Return the text of ``MODEL_CARD.md``.

    The same arguments give the same text, so that a card can be held against its bundle.
    """
    lines = [f"# {manifest.title}", "", f"`{manifest.name}` {manifest.version}, {manifest.created}", ""]
    lines += [f"**{RESEARCH_USE}**", ""]
    lines += ["## Intended use", "", manifest.intended_use, "", "## Limitations", ""]
    lines += [*_bullets(manifest.limitations), ""]
    lines += ["## Model", "", *_model(manifest), "", "## Training", "", *_training(manifest), ""]
    lines += [
        "## Decisions",
        "",
        *_decisions(decision, manifest.classes),
        "",
        "## Results",
        "",
        *_results(report),
    ]
    lines += ["", "## Licenses", "", *_licenses(manifest)]
    return "\n".join(lines).rstrip() + "\n"


def _bullets(sentences: Iterable[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]


def _model(manifest: Manifest) -> list[str]:
    rows = [
        ("Architecture", f"{manifest.architecture}, head: {manifest.head}"),
        ("Parameters", f"{manifest.parameters:,}"),
        ("Operations", f"{manifest.flops / 1e9:.2f} GFLOPs per cell (a multiply-add counts as two)"),
        ("Input", f"{manifest.canvas_px} px canvas, resized to {manifest.input_px} px, 8-bit RGB"),
        ("Explanation", manifest.attribution),
    ]
    specs = (*manifest.inputs, *manifest.outputs)
    tensors = [
        (
            f"`{spec.name}`",
            f"{spec.dtype} ({', '.join(map(str, spec.shape))})",
            spec.meaning,
            spec.value_range,
        )
        for spec in specs
    ]
    return [
        *_table(("what", "value"), rows),
        "",
        *_table(("tensor", "type", "meaning", "range"), tensors),
        *(_classes(manifest.classes) if manifest.classes.size > 2 else ()),
    ]


def _training(manifest: Manifest) -> list[str]:
    record = manifest.training
    rows = [
        ("Protocol", record.protocol),
        ("Cells", f"{record.cells:,}"),
        (
            "Subjects",
            f"{record.subjects} in {record.groups} groups (subjects that share identical images are one group)",
        ),
        ("Initial weights", record.initial_weights),
        ("Training groups, SHA-256", record.groups_sha256 or "not recorded"),
        ("Cell table, SHA-256", record.cells_sha256 or "not recorded"),
        ("Seed", "not recorded" if record.seed is None else str(record.seed)),
        ("Source revision", record.git_commit or "not recorded"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))),
    ]
    return _table(("what", "value"), rows)


def _decisions(decision: DecisionParameters, classes: ClassSchema) -> list[str]:
    points = [
        (
            f"`{point.name}`" + (" (default)" if point.name == decision.default_operating_point else ""),
            "-" if point.threshold is None else f"{point.threshold:.4f}",
            point.rule,
        )
        for point in decision.operating_points
    ]
    conformal, limits = decision.conformal, decision.input_limits
    binary = classes.size == 2
    listed = [f"{conformal.classes[name].subjects} {name}" for name in reversed(classes.names)]
    subjects = f"{', '.join(listed[:-1])} and {listed[-1]}"
    several = "both classes" if binary else "several classes"
    return [
        f"Logits are divided by the temperature {decision.temperature:.4g}"
        + _shift(decision, classes)
        + (" before the sigmoid." if binary else " before the softmax."),
        "",
        *_table(("operating point", f"{classes.positive_name or 'threshold'} at or above", "rule"), points),
        "",
        *_bullets(
            (
                f"A class is excluded if a cell is more unusual for it than {1 - conformal.alpha:.0%} of calibration "
                f"cells, weighted by subject ({subjects} subjects); a cell with {several} or none is called "
                "uncertain.",
                f"An image is rejected as novel above {decision.novelty.limit:.4g}: {decision.novelty.method}",
                f"An image is rejected outside {limits.min_area_px:,} to {limits.max_area_px:,} px of foreground, with "
                f"more than {limits.max_foreground_share:.0%} of foreground, more than "
                f"{limits.max_border_contact_px} px on the border, more than {limits.max_components} objects, "
                f"or a focus below {limits.min_focus:.3g}.",
            )
        ),
    ]


def _shift(decision: DecisionParameters, classes: ClassSchema) -> str:
    """Describe the fitted bias; for two classes only the difference, which is that of the second, matters."""
    if not any(decision.bias.values()):
        return ""
    first, *others = decision.bias_of(classes)
    if not others[1:]:
        return f" and shifted by {others[0] - first:.4g}"
    listed = ", ".join(f"{name} {one:.4g}" for name, one in zip(classes.names, (first, *others), strict=True))
    return f" and shifted by a bias of each class ({listed})"


def _classes(classes: ClassSchema) -> list[str]:
    """List the classes of a model that knows more than two."""
    rows = [
        (
            f"`{entry.name}`",
            entry.title,
            " < ".join(classes.ancestors(entry.name)) or "-",
            ", ".join(f"{code.system} {code.code}" for code in entry.codes) or "-",
        )
        for entry in classes.classes
    ]
    positive = f"Positive group: {classes.positive_name}." if classes.positive else "No positive group."
    return ["", *_table(("class", "title", "groups", "codes"), rows), "", positive]


def _results(report: "Report | None") -> list[str]:
    if report is None:
        return [
            "This model has not been evaluated: there is no measured performance, and none may be assumed."
        ]
    return list(_report_lines(report))


def _report_lines(report: "Report") -> Iterator[str]:
    intervals = f"Intervals: {report.level:.0%}, {report.resamples:,} resamples of subjects."
    yield f"{report.title}, {report.created}. {intervals}"
    yield ""
    for split in report.columns():
        yield f"### {split.name}"
        yield ""
        if split.leaks:
            yield "**Subjects are on both sides of this split: these results are not evidence.**"
            yield ""
        yield from _split_lines(split)
        yield ""
    for supplement in report.supplements:
        yield f"### {supplement.title}"
        yield ""
        yield supplement.text
        yield ""
        yield from _measure_table(tuple(supplement.measures), [("value", supplement.measures)])
        yield ""
    if report.robustness is not None:
        yield from _robustness_lines(report.robustness)
    yield "### Caveats"
    yield ""
    yield from _bullets((*report.protocol, *report.caveats))


def _robustness_lines(robustness: "Robustness") -> Iterator[str]:
    from leukoscope.models.robustness_table import HEADER, TITLE, robustness_rows, robustness_text

    yield f"### {TITLE}"
    yield ""
    yield robustness_text(robustness)
    yield ""
    yield from _table(HEADER, [row.texts for row in robustness_rows(robustness)])
    yield ""


def _split_lines(split: "SplitReport") -> Iterator[str]:
    test = split.parts.get("test")
    if test is not None:
        yield (
            f"Test part: {test.cells:,} cells ({test.blasts:,} blasts) of {test.subjects} subjects "
            f"({test.blast_subjects} with leukemia), protocol {split.protocol}."
        )
        yield ""
    yield "By cell, at the default operating point:"
    yield ""
    levels = (
        list(split.cell_levels()) if split.cell_weighted is not None else [("model", split.cell.measures)]
    )
    yield from _measure_table(CELL_MEASURES, levels)
    yield ""
    yield "Comparison with the baselines, all at a probability threshold of 0.5:"
    yield ""
    columns = [("model", split.at_half)]
    columns += [(baseline.title, baseline.measures) for baseline in split.baselines]
    yield from _measure_table(tuple(split.at_half), columns)
    yield ""
    yield f"By subject ({split.subject_mean.rule}):"
    yield ""
    yield from _measure_table(SUBJECT_MEASURES, [("model", split.subject_mean.measures)])
    if split.classes is not None:
        yield from ("", "By class, each against all others:", "")
        columns = [(entry.title, entry.measures) for entry in split.classes.classes]
        yield from _measure_table(("recall", "precision", "f1", "roc_auc", "coverage"), columns)
        yield from ("", "Over all classes:", "")
        yield from _measure_table(tuple(split.classes.measures), [("model", split.classes.measures)])
    for remark in split.remarks:
        yield ""
        yield f"Remark: {remark}"


def _measure_table(measures: tuple[str, ...], columns: "list[tuple[str, Measurements]]") -> list[str]:
    from leukoscope.models.metric_info import MEASURES
    from leukoscope.models.report import format_measurement

    rows = []
    for name in measures:
        words = MEASURES.get(name)
        cells = []
        for _, values in columns:
            measurement = values.get(name)
            percent = words.percent if words else False
            cells.append("-" if measurement is None else format_measurement(measurement, percent=percent))
        if any(cell != "-" for cell in cells):
            rows.append((words.title if words else name.replace("_", " "), *cells))
    return _table(("measure", *(title for title, _ in columns)), rows)


def _licenses(manifest: Manifest) -> list[str]:
    return _table(
        ("part", "license", "attribution"),
        [(record.part, record.license, record.attribution or "-") for record in manifest.licenses],
    )
