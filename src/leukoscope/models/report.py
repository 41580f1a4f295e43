"""The schema of ``report.json``: every measured number once, with its counts, its interval and its split.

The evaluation writes it; the model card, the tables of the documentation and the web page about the model are
rendered from it. This module needs pydantic only, so that prediction code can read a report.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leukoscope.core.errors import BundleError
from leukoscope.core.io import write_text
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.core.text import TextError, read_text
from leukoscope.core.validation import first_fault
from leukoscope.models.metric_info import NOT_ESTIMABLE, format_value

SCHEMA_VERSION = 1

Unit = Literal["cell", "subject"]
WEIGHTING_TITLES = {"subject": "each subject weighted equally", "cell": "each cell weighted equally"}
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    """Frozen, closed, and without not-a-number: a report is JSON that every reader understands."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measurement(_Record):
    """One measured value with everything that is needed to interpret it.

    ``value`` is null where the data do not determine it, ``low`` and ``high`` where they do not determine an
    interval; ``not_estimable`` then states why.
    """

    value: float | None
    low: float | None = Field(description="Lower end of the interval, at the report's level.")
    high: float | None = Field(description="Upper end of the interval, at the report's level.")
    n_cells: Count
    n_subjects: Count
    split: str
    unit: Unit = Field(
        description="Statistical unit: cells or subjects. Intervals resample subjects in both cases."
    )
    weighting: Unit = Field(
        default="cell",
        description="What has the same weight: each subject, however many cells it has, or each cell.",
    )
    method: str = Field(description="How the interval was made.")
    not_estimable: str | None = Field(default=None, description="Why the value or its interval is missing.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        interval = (self.low, self.high)
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        if self.value is None and interval != (None, None):
            raise ValueError("an interval without a value")
        if (self.value is None or self.low is None) != (self.not_estimable is not None):
            raise ValueError("a missing value or interval needs a reason, and only a missing one")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval {self.low} to {self.high} is upside down")
        return self


Measurements = dict[str, Measurement]


class PartCounts(_Record):
    """What one part of a split holds."""

    cells: Count
    subjects: Count
    groups: Count
    blasts: Count
    normals: Count
    blast_subjects: Count
    normal_subjects: Count


class RunRecord(_Record):
    """The run of the scores and its costs; unmeasured costs are null."""

    name: str
    split: str
    protocol: str
    leaks: bool
    architecture: str | None = None
    initial_weights: str | None = None
    seed: int | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    config_sha256: str
    scores_sha256: str
    cells_sha256: str
    versions: dict[str, str] = Field(default_factory=dict)
    penalty: float | None = Field(
        default=None, description="Penalty of the head fit that was chosen on the run's inner folds."
    )
    parameters: Count | None = None
    flops: float | None = Field(
        default=None, ge=0, description="Floating-point operations of one forward pass of one cell."
    )
    training_seconds: float | None = Field(default=None, ge=0)
    milliseconds_per_image: float | None = Field(default=None, ge=0)
    peak_memory_mb: float | None = Field(default=None, ge=0)


class Confusion(_Record):
    """Counts of calls; blast is the positive class."""

    true_positive: Count
    false_negative: Count
    false_positive: Count
    true_negative: Count


class CurvePoint(_Record):
    """One point of a curve, with the ends of its pointwise interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


Curve = tuple[CurvePoint, ...]


class ReliabilityBin(_Record):
    """One equal-mass bin of predicted probability."""

    cells: Count
    predicted: Share = Field(description="Mean predicted probability.")
    observed: Share = Field(description="Share of blasts.")
    low: Share | None = None
    high: Share | None = None


class OperatingPointResult(_Record):
    """A threshold chosen on validation rows, and its performance on the test part."""

    name: str
    rule: str
    threshold: float | None = Field(
        description="On the calibrated probability: blast is called at or above it. Null where splits are pooled: each "
        "has its own."
    )
    default: bool = Field(description="Whether the measures of this report use this point.")
    measures: Measurements


class Fitted(_Record):
    """The fitted decision layer, with the number of cells and subjects."""

    part: Literal["validation"] = "validation"
    cells: Count
    subjects: Count
    temperature: float = Field(gt=0)
    bias: float = 0.0
    class_bias: dict[str, float] = Field(default_factory=dict, description="Of more than two classes.")
    conformal_alpha: Share | None = None
    conformal_quantiles: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class LevelResult(_Record):
    """Measures at one level: single cells, or subjects with their cells pooled."""

    unit: Unit
    rule: str = Field(description="How cells become a call of this level.")
    measures: Measurements
    confusion: Confusion


class BaselineResult(_Record):
    """A simple score under the same split, and how much better the model is."""

    name: str
    title: str
    description: str
    measures: Measurements
    differences: Measurements = Field(
        description="Model minus baseline, paired on the same resampled subjects."
    )


class AreaMatched(_Record):
    """Discrimination with size held equal: cells are compared only with cells of nearly their area."""

    roc_auc: Measurement
    area_alone: Measurement = Field(
        description="The same comparison by area itself: near 0.5 when matching works."
    )
    pairs: Count
    caliper: float = Field(gt=0, description="Largest difference of a pair's log area.")
    matched_blasts: Count
    matched_normals: Count


class PrevalencePoint(_Record):
    """Predictive values where a given share of cells is blast."""

    prevalence: Share
    ppv: Measurement
    npv: Measurement


class NetBenefitPoint(_Record):
    """One point of the decision curve (Vickers and Elkin 2006, doi 10.1177/0272989X06295361)."""

    threshold: Share
    model: Measurement
    call_all: float = Field(description="Net benefit of calling every cell blast.")
    baseline: float | None = Field(default=None, description="Net benefit of the nine scalars.")


class Abstention(_Record):
    """Performance of the prediction sets on the test part."""

    alpha: Share
    measures: Measurements
    outcomes: dict[str, Count] = Field(
        description="Cells: decided as blast or normal; uncertain since both classes or neither remain plausible."
    )
    risk_coverage: Curve = Field(
        description="x: share of cells decided, most certain first; y: share of wrong calls among them."
    )
    risk_coverage_area: Measurement


class SubgroupResult(_Record):
    """Measures in one slice of the test part."""

    dimension: str
    name: str
    description: str
    cells: Count
    subjects: Count
    measures: Measurements


class SubjectRow(_Record):
    """One subject of the test part."""

    subject: str
    group: str
    label: Literal["blast", "normal", "mixed"]
    cells: Count
    accuracy: Share
    low: Share = Field(description="Lower end of the Wilson interval over this subject's cells.")
    high: Share
    mean_probability: Share
    called_by_mean: bool | None = Field(
        description="Whether the pooled logit calls blast; null for a mixed subject."
    )
    called_by_majority: bool | None


class CellCase(_Record):
    """One notable cell: a confident error or a suspected wrong label."""

    cell: str
    sha256: str
    subject: str
    label: Literal["blast", "normal"]
    probability: Share
    part: str
    split: str
    rank: int = Field(ge=1)
    quality: Share | None = Field(
        default=None, description="Label quality, 0 suspicious to 1 (self-confidence); suspects only."
    )


class Histogram(_Record):
    """Counts of calibrated probabilities by class over equal bins of 0 to 1."""

    edges: tuple[float, ...]
    blasts: tuple[int, ...]
    normals: tuple[int, ...]


class Curves(_Record):
    """The data of the figures."""

    roc: Curve
    precision_recall: Curve
    reliability: tuple[ReliabilityBin, ...]
    histogram: Histogram


class ClassResult(_Record):
    """Measures of one of more than two classes, against all others."""

    name: str
    title: str
    cells: Count
    subjects: Count
    measures: Measurements


class ClassesResult(_Record):
    """Measures of more than two classes; all other measures are of the positive group against the rest."""

    confusion: tuple[tuple[Count, ...], ...] = Field(
        description="Cells: one row a true class, one column a called class, in the order of `classes`."
    )
    measures: Measurements = Field(description="Over all classes; macro measures count every class the same.")
    classes: tuple[ClassResult, ...]


class SplitReport(_Record):
    """The results of one test part, or of several pooled."""

    name: str
    protocol: str
    leaks: bool = Field(description="Whether subjects are on both sides: such results are not evidence.")
    parts: dict[str, PartCounts]
    fitted: tuple[Fitted, ...]
    operating_points: tuple[OperatingPointResult, ...]
    cell: LevelResult = Field(description="Single cells; each subject has the same weight since version 0.2.")
    cell_weighted: LevelResult | None = Field(
        default=None, description="The same with each cell of the same weight, as most publications count."
    )
    at_half: Measurements = Field(
        description="Of single cells called blast from a probability of 0.5, as the baselines call them."
    )
    subject_mean: LevelResult
    subject_majority: LevelResult
    baselines: tuple[BaselineResult, ...]
    area_matched: AreaMatched | None
    prevalence: tuple[PrevalencePoint, ...]
    decision_curve: tuple[NetBenefitPoint, ...]
    abstention: Abstention | None
    subgroups: tuple[SubgroupResult, ...]
    subjects: tuple[SubjectRow, ...]
    worst_errors: tuple[CellCase, ...]
    label_suspects: tuple[CellCase, ...]
    curves: Curves
    classes: ClassesResult | None = Field(default=None, description="Null for two classes.")
    remarks: tuple[str, ...] = Field(default=(), description="What could not be done, and why.")

    def cell_levels(self) -> tuple[tuple[str, "Measurements"], ...]:
        """Return the measures of single cells with a title for each weighting, the primary one first."""
        levels = [self.cell, self.cell_weighted] if self.cell_weighted is not None else [self.cell]
        return tuple(
            (WEIGHTING_TITLES[next(iter(level.measures.values())).weighting], level.measures)
            for level in levels
        )


class Supplement(_Record):
    """Included measurements of another command: novelty, explanations, speed."""

    name: str
    title: str
    text: str
    measures: Measurements


class PerturbationResult(_Record):
    """What one small change of the image does to the answers; see ``imaging.perturb``."""

    name: str
    title: str
    group: str
    aim: Share | None = Field(
        description="Largest share of changed decisions that is aimed at; null without."
    )
    reached: bool | None = Field(
        description="Whether `decisions_changed` is at most the aim; null without one."
    )
    measures: Measurements = Field(
        description="Shares of cells, each subject counting the same: decisions_changed (any change of the decision), "
        "decisions_reversed (a called class became another), decisions_rejected (rejected, and not before), "
        "calls_changed (of the operating point, decided or not), rejected, rejected_as_novel, rejected_by_checks. "
        "logit_change: mean absolute change of the calibrated "
        "log-odds. roc_auc: of the positive group; roc_auc_change: minus that of the unchanged cells, paired."
    )


class Robustness(_Record):
    """All of ``robustness.json``: how steady the answers of a bundle are under small changes of the image."""

    schema_version: Literal[1] = 1
    model: str
    model_version: str
    model_sha256: str
    decision_sha256: str = Field(description="Of `decision.json`.")
    novelty_sha256: str = Field(description="Of `novelty.safetensors`.")
    operating_point: str
    cells_sha256: str = Field(description="Of the rows that were measured.")
    fold: str | None = Field(description="The fold that the cells were taken from; null for all.")
    cells: Count
    subjects: Count = Field(description="0 where the table names none.")
    cells_per_subject: Count
    seed: int
    level: Share = Field(description="Nominal level of every interval.")
    resamples: Count
    in_training: Literal["all", "some", "none", "unknown"] = Field(
        description="How many of the subjects are in the training set; unknown where its groups cannot be found in the "
        "cell table."
    )
    remarks: tuple[str, ...] = Field(description="What a reader must know.")
    unchanged: Measurements = Field(description="Of the cells as they are.")
    perturbations: tuple[PerturbationResult, ...]


class Report(_Record):
    """All of ``report.json``."""

    schema_version: Literal[1] = 1
    title: str
    created: str = Field(description="UTC, ISO 8601.")
    notice: str = RESEARCH_USE
    level: Share = Field(description="Nominal level of every interval.")
    resamples: Count
    seed: int
    protocol: tuple[str, ...] = Field(description="Sentences about the data that each part was fitted on.")
    caveats: tuple[str, ...] = Field(description="Caveats that a reader must know.")
    runs: tuple[RunRecord, ...]
    splits: tuple[SplitReport, ...] = Field(min_length=1)
    pooled: SplitReport | None = Field(default=None, description="All test parts together, each cell once.")
    supplements: tuple[Supplement, ...] = ()
    robustness: Robustness | None = Field(default=None, description="Null where it was not measured.")

    @property
    def headline(self) -> SplitReport:
        """The pooled estimate where there is one, else the only or first split."""
        return self.pooled if self.pooled is not None else self.splits[0]

    def columns(self) -> Iterator[SplitReport]:
        """Yield the splits, then the pooled estimate where there is one."""
        yield from self.splits
        if self.pooled is not None:
            yield self.pooled


def read_report(path: Path) -> Report:
    """Read and check one ``report.json``.

    Raises
    ------
    BundleError
        The file is missing, is not JSON or does not follow the schema; the first wrong place is named.
    """
    try:
        return Report.model_validate_json(read_text(path))
    except OSError as error:
        raise BundleError(f"{path}: the report cannot be read: {error.strerror}") from None
    except TextError as error:
        raise BundleError(str(error)) from None
    except ValidationError as error:
        place, message = first_fault(error)
        raise BundleError(
            f"{path}: not a report of schema {SCHEMA_VERSION}: {place or 'top level'}: {message}"
        ) from None


def write_report(report: Report, path: Path) -> None:
    """Write ``report.json`` in one step; a killed process leaves the old file."""
    write_text(path, report.model_dump_json(indent=1) + "\n")


def format_measurement(measurement: Measurement, *, percent: bool = False, signed: bool = False) -> str:
    """Return a value with its interval, ``0.913 (0.861 to 0.949)``, or ``not estimable``."""
    if measurement.value is None:
        return NOT_ESTIMABLE
    value = format_value(measurement.value, percent=percent, signed=signed)
    if measurement.low is None or measurement.high is None:
        return f"{value} (interval {NOT_ESTIMABLE})"
    low = format_value(measurement.low, percent=percent, signed=signed).removesuffix(" %")
    high = format_value(measurement.high, percent=percent, signed=signed).removesuffix(" %")
    return f"{value} ({low} to {high})"
