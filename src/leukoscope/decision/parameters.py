"""The fitted numbers of the decision layer as plain data: ``decision.json`` of a bundle."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import BundleError, UsageError
from leukoscope.core.validation import first_fault

SCHEMA_VERSION = 2

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Plain(BaseModel):
    """Base of frozen models; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OperatingPoint(_Plain):
    """A threshold on the calibrated probability of the positive group with the rule it was chosen by.

    At or above it the likeliest class of the positive group is called, below it the likeliest of the others; without
    a threshold the likeliest of all.
    """

    name: str = Field(min_length=1, description="Short name for programs, for instance 'sensitivity_95'.")
    threshold: Share | None = Field(
        description="The positive group is called at or above this probability; null: the likeliest class is called."
    )
    rule: str = Field(
        min_length=1, description="The rule as text, with the rows and the unit it was applied to."
    )


class ClassQuantile(_Plain):
    """How unusual a cell may be for one class before the class is excluded."""

    quantile: Finite | None = Field(
        description="Largest nonconformity (the calibrated log-odds against the class) that keeps the "
        "class in the set; null: too few subjects for a finite limit, the class always stays."
    )
    subjects: int = Field(ge=0, description="Calibration subjects of this class.")
    cells: int = Field(ge=0, description="Calibration cells of this class.")


class ConformalQuantiles(_Plain):
    """Class-conditional split-conformal limits with a guarantee for a random cell of a new subject."""

    alpha: float = Field(
        gt=0.0,
        lt=1.0,
        description="A cell's true class is missing from its set with at most this probability.",
    )
    classes: dict[str, ClassQuantile] = Field(description="By name of the class.")


class NoveltyLimit(_Plain):
    """Where the distance of an embedding becomes a refusal."""

    limit: Positive = Field(description="Scores above it are refused as novel.")
    method: str = Field(
        min_length=1, description="How the score is made, and on which rows the limit was set."
    )
    target_refusal_rate: Share = Field(
        description="Share of cells of unseen subjects meant to be refused at most."
    )


class InputLimits(_Plain):
    """What an image must satisfy before the network's answer counts, all on the canonical canvas."""

    blank_area_px: int = Field(ge=0, description="Less foreground than this: the frame is blank.")
    min_area_px: int = Field(ge=0, description="Smallest foreground of a cell.")
    max_area_px: int = Field(ge=1, description="Largest foreground of a cell.")
    max_foreground_share: Share = Field(description="More foreground than this: the background is not black.")
    min_focus: Finite = Field(description="Less focus than this: blurred.")
    max_border_contact_px: int = Field(ge=0, description="More foreground on the border than this: cut off.")
    max_components: int = Field(ge=1, description="More separate objects than this: not one cell.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.blank_area_px <= self.min_area_px < self.max_area_px:
            raise ValueError(
                f"blank_area_px <= min_area_px < max_area_px must hold, got {self.blank_area_px}, "
                f"{self.min_area_px}, {self.max_area_px}"
            )
        return self


class SubjectRule(_Plain):
    """How the cells of one subject become a call of the subject."""

    threshold: Share = Field(
        description="On the positive group's probability from the mean calibrated logits: at or above it the subject "
        "is called positive. It takes the place of the default operating point's threshold."
    )
    cells_needed: int = Field(ge=1, description="With fewer classified cells the subject is not decided.")
    subjects: int = Field(ge=2, description="Validation subjects that the rule was fitted on.")
    rule: str = Field(min_length=1, description="How threshold and number of cells were chosen.")


class DecisionParameters(_Plain):
    """All parameters of ``policy.decide``: fitted on validation rows, never on test rows."""

    schema_version: int = SCHEMA_VERSION
    temperature: Positive = Field(description="The logits are divided by it.")
    bias: dict[str, Finite] = Field(
        default_factory=dict,
        description="Added to the divided logit of a class, by name; 0 for classes that are not named.",
    )
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    default_operating_point: str
    conformal: ConformalQuantiles
    novelty: NoveltyLimit
    input_limits: InputLimits
    subject: SubjectRule | None = Field(
        default=None,
        description="Null: a subject is called by the operating point of cells, from one cell on.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [point.name for point in self.operating_points]
        if len(set(names)) != len(names):
            raise ValueError(f"operating points must have different names, got {names}")
        if self.default_operating_point not in names:
            raise ValueError(f"default_operating_point {self.default_operating_point!r} is none of {names}")
        return self

    def bias_of(self, classes: ClassSchema) -> tuple[float, ...]:
        """Return the bias of each class in the order of the schema."""
        return tuple(self.bias.get(name, 0.0) for name in classes.names)

    def check_classes(self, classes: ClassSchema) -> None:
        """Refuse parameters that were fitted for other classes, or a threshold where no group is positive.

        Raises
        ------
        BundleError
            A class has no quantile, a quantile or bias no class; or a threshold has no positive group.
        """
        names = set(classes.names)
        if set(self.conformal.classes) != names or not set(self.bias) <= names:
            raise BundleError(
                f"decision.json was fitted for the classes {', '.join(self.conformal.classes)}, manifest.json names "
                f"{', '.join(classes.names)}; export the bundle again"
            )
        if not classes.positive and any(point.threshold is not None for point in self.operating_points):
            raise BundleError(
                "decision.json has thresholds, but manifest.json names no positive group; export the bundle again"
            )

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """Return the operating point of this name, or the default one.

        Raises
        ------
        UsageError
            There is no operating point of this name; the message lists those there are.
        """
        wanted = self.default_operating_point if name is None else name
        for point in self.operating_points:
            if point.name == wanted:
                return point
        known = ", ".join(point.name for point in self.operating_points)
        raise UsageError(f"operating point {wanted!r}: there is none of this name; known: {known}")

    def subject_threshold(self, operating_point: str | None = None) -> float | None:
        """Return the threshold on a subject's probability for the operating point of this name, or the default one."""
        point = self.operating_point(operating_point)
        if self.subject is not None and point.name == self.default_operating_point:
            return self.subject.threshold
        return point.threshold

    def to_json(self) -> str:
        """Return the text of ``decision.json``: indented, trailing newline, floats exact."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read ``decision.json``.

        Raises
        ------
        BundleError
            Not JSON, an unknown version, an unknown key or an impossible value.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"decision.json is not valid JSON: {error}; export the bundle again") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version not in (1, SCHEMA_VERSION):
            raise BundleError(
                f"decision.json has schema_version {version!r}, this version of leukoscope reads 1 and "
                f"{SCHEMA_VERSION}; install the version that wrote the bundle, or export it again"
            )
        try:
            return cls.model_validate_json(text if version != 1 else json.dumps(_from_version_1(content)))
        except ValidationError as error:
            fault = first_fault(error)
            raise BundleError(
                f"decision.json: {fault.place or 'decision.json'}: {fault.message}; export the bundle again"
            ) from None


def _from_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite the parameters of a binary bundle: bias and quantiles had one field for each of the two classes."""
    upgraded = {**content, "schema_version": SCHEMA_VERSION}
    bias = upgraded.pop("bias", 0.0)
    if bias != 0.0:
        upgraded["bias"] = {"blast": bias}
    conformal = upgraded.get("conformal")
    if isinstance(conformal, dict):
        upgraded["conformal"] = {
            **{name: value for name, value in conformal.items() if name not in ("normal", "blast")},
            "classes": {name: conformal[name] for name in ("normal", "blast") if name in conformal},
        }
    return upgraded
