"""The classes a model can name: order, titles, colors, shapes, hierarchy and codes, as plain data.

A schema is read from a bundle's manifest (or from a file next to a cohort) and passed as an argument. ``BINARY`` is
the schema of C-NMC and of every bundle that was written before schemas existed.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leukoscope.core.errors import ConfigError
from leukoscope.core.terms import STATUS_TITLES, Status
from leukoscope.core.text import read_text
from leukoscope.core.validation import first_fault

Symbol = Literal[
    "triangle",
    "ring",
    "square",
    "disc",
    "triangle_down",
    "hexagon",
    "star",
    "square_open",
    "pentagon",
    "triangle_open",
    "hexagon_open",
    "star_open",
]
SYMBOLS: tuple[Symbol, ...] = get_args(Symbol)
SYMBOL_SIGNS: dict[str, str] = dict(zip(SYMBOLS, "▲○■●▼⬢★□⬟△⬡☆", strict=True)) | {
    "diamond": "◇",
    "cross": "✕",
}
"""Shape -> character, for text and HTML; diamond and cross mean uncertain and rejected."""

# Hues after Okabe and Ito and after Tol: distinguishable with color blindness, on light and on dark backgrounds.
PALETTE = (
    ("#0061a0", "#7cc0f5"),
    ("#006b55", "#4cc9a7"),
    ("#9c3d7f", "#e59ccb"),
    ("#5b4db3", "#b0a6f5"),
    ("#7a5c00", "#d9b84a"),
    ("#3f6b1f", "#9ccf6e"),
    ("#2f5d73", "#8fc3dc"),
    ("#7d4a2d", "#d9a783"),
)
POSITIVE_PALETTE = (("#b04300", "#ffa16b"), ("#a8304a", "#ff93a5"))
"""Color of the positive group, more prominent than the others."""
STATUS_COLORS = {Status.UNCERTAIN: ("#7a6000", "#e2c65c"), Status.REJECTED: ("#55606e", "#b3bdca")}
STATUS_SYMBOLS = {Status.UNCERTAIN: "diamond", Status.REJECTED: "cross"}
UNKNOWN_COLORS = ("#454f5b", "#c3ccd6")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Color = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Code(_Plain):
    """A code of a class or group in a public terminology."""

    system: Literal["LOINC", "SNOMED CT", "Cell Ontology"]
    code: str = Field(min_length=1)
    source: str = Field(min_length=1, description="Where the code was looked up, with version or date.")


class ClassGroup(_Plain):
    """A family of classes, for instance immature granulocytes."""

    name: Name
    title: str = Field(min_length=1)
    parent: Name | None = Field(default=None, description="Name of the group it belongs to.")
    codes: tuple[Code, ...] = ()


class CellClass(_Plain):
    """One class that a model can name."""

    name: Name = Field(description="Stable word for programs.")
    title: str = Field(min_length=1, description="Title in pages and reports.")
    short: str = Field(min_length=1, max_length=24, description="Short title for tables and badges.")
    color: Color = Field(description="On light ground.")
    color_dark: Color = Field(description="On dark ground.")
    symbol: Symbol
    parent: Name | None = Field(default=None, description="Name of the group it belongs to.")
    codes: tuple[Code, ...] = ()


class ClassSchema(_Plain):
    """The classes of a model in the order of its outputs, with their hierarchy.

    Raises
    ------
    ValueError
        A name that occurs twice or is reserved, an unknown parent, a circle of groups, a group without a class, a
        positive group that is unknown, or that holds every class.

    Examples
    --------
    >>> schema = ClassSchema.of_names(["blast", "lymphocyte", "monocyte"], positive=["blast"])
    >>> schema.names, schema.positive_members
    (('blast', 'lymphocyte', 'monocyte'), (0,))
    """

    classes: tuple[CellClass, ...] = Field(min_length=2, description="In the order of the model's outputs.")
    groups: tuple[ClassGroup, ...] = ()
    positive: tuple[Name, ...] = Field(
        default=(),
        description="Classes and groups whose joint probability is `probability` and is compared with the threshold "
        "of the operating point; empty where no class is sought before others.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        groups = [group.name for group in self.groups]
        known = [*self.names, *groups]
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(
                f"names occur more than once: {', '.join(twice)}; give each class and group a unique name"
            )
        reserved = sorted({*Status} & {*known})
        if reserved:
            raise ValueError(f"{', '.join(reserved)}: these names are statuses of results; choose others")
        for entry in self._entries:
            if entry.parent is not None and entry.parent not in groups:
                raise ValueError(
                    f"{entry.name}: parent {entry.parent!r} is no group; known: {', '.join(groups)}"
                )
            self.ancestors(entry.name)
        for group in groups:
            if not self.members(group):
                raise ValueError(f"group {group!r} holds no class")
        unknown = [name for name in self.positive if name not in known]
        if unknown:
            raise ValueError(f"positive names unknown classes or groups: {', '.join(unknown)}")
        if len(self.positive_members) == len(self.classes):
            raise ValueError(
                "positive holds every class; leave it empty where no class is sought before others"
            )
        return self

    @property
    def _entries(self) -> tuple[CellClass | ClassGroup, ...]:
        return (*self.classes, *self.groups)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the classes in order."""
        return tuple(entry.name for entry in self.classes)

    @property
    def size(self) -> int:
        """Number of classes, >= 2."""
        return len(self.classes)

    def index(self, name: str) -> int:
        """Return the position of a class; ``ValueError`` where there is none of this name."""
        if name not in self.names:
            raise ValueError(f"class {name!r}: there is none of this name; known: {', '.join(self.names)}")
        return self.names.index(name)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the groups that a class or group belongs to, nearest first.

        Raises
        ------
        ValueError
            The groups form a circle.
        """
        parents = {entry.name: entry.parent for entry in self._entries}
        found: list[str] = []
        parent = parents[name]
        while parent is not None:
            if parent in found or parent == name:
                raise ValueError(f"the groups form a circle: {' -> '.join([name, *found, parent])}")
            found.append(parent)
            parent = parents[parent]
        return tuple(found)

    def members(self, name: str) -> tuple[int, ...]:
        """Return the positions of the classes of a group, at any depth; of a class its own."""
        return tuple(
            position
            for position, entry in enumerate(self.classes)
            if name == entry.name or name in self.ancestors(entry.name)
        )

    @cached_property
    def positive_members(self) -> tuple[int, ...]:
        """Positions of the classes of the positive group; empty without one."""
        return tuple(sorted({position for name in self.positive for position in self.members(name)}))

    @property
    def negative_name(self) -> str:
        """The only class outside the positive group; ``other`` if there are several."""
        others = [name for place, name in enumerate(self.names) if place not in self.positive_members]
        return others[0] if len(others) == 1 else "other"

    @property
    def positive_name(self) -> str:
        """Short name of the positive group; empty if there is none."""
        return " or ".join(self.positive)

    def is_positive(self, name: str | None) -> bool:
        """Tell whether a label belongs to the positive group."""
        return name in self.names and self.index(str(name)) in self.positive_members

    @property
    def decisions(self) -> tuple[str, ...]:
        """Every word that ``decision`` of a result can be: positive classes first, uncertain and rejected last."""
        positive = [self.names[position] for position in self.positive_members]
        others = [name for name in self.names if name not in positive]
        return (*positive, *others, Status.UNCERTAIN.value, Status.REJECTED.value)

    def title(self, decision: str) -> str:
        """Return the title of a class, a group, ``uncertain`` or ``rejected``; for other names the name itself."""
        for entry in self._entries:
            if entry.name == decision:
                return entry.title
        return STATUS_TITLES.get(decision, decision)

    def short(self, decision: str) -> str:
        """Return the same in few words."""
        known = {entry.name: entry.short for entry in self.classes}
        return known.get(decision) or STATUS_TITLES.get(decision, decision)

    def colors(self, decision: str) -> tuple[str, str]:
        """Return the color of a decision on light and on dark ground; gray for a name of another schema."""
        known = {entry.name: (entry.color, entry.color_dark) for entry in self.classes}
        return known.get(decision) or {status.value: pair for status, pair in STATUS_COLORS.items()}.get(
            decision, UNKNOWN_COLORS
        )

    def symbol(self, decision: str) -> str:
        """Return the shape of a decision; a disc for a name of another schema."""
        known: dict[str, str] = {entry.name: entry.symbol for entry in self.classes}
        return known.get(decision) or {status.value: shape for status, shape in STATUS_SYMBOLS.items()}.get(
            decision, "disc"
        )

    def to_json(self) -> str:
        """Return the schema as JSON: indented, with a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "class schema") -> Self:
        """Read a schema; anything unknown or inconsistent is a ``ConfigError`` that names the place."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            place, message = first_fault(error)
            raise ConfigError(f"{where}: {place + ': ' if place else ''}{message}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a schema from a JSON file.

        Raises
        ------
        ConfigError
            The file is missing, or is no schema.
        """
        try:
            return cls.from_json(read_text(path), str(path))
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); name a class schema in JSON"
            ) from None

    @classmethod
    def of_names(cls, names: Iterable[str], positive: Sequence[str] = ()) -> Self:
        """Make a schema of class names, for instance of class folders or of a label column.

        The binary names of C-NMC give ``BINARY``'s own titles. Titles of others are the names with spaces, colors
        and shapes come from a palette in order.

        Parameters
        ----------
        names
            In the order of the model's outputs; lower-case letters, digits and underscores.
        positive
            Names of the positive group.
        """
        wanted = tuple(names)
        if wanted == ("normal", "blast") and tuple(positive) in ((), ("blast",)):
            return cls.model_validate(BINARY.model_dump())
        classes = []
        numbers = {True: count(), False: count()}
        for position, name in enumerate(wanted):
            palette = POSITIVE_PALETTE if name in positive else PALETTE
            color, dark = palette[next(numbers[name in positive]) % len(palette)]
            title = name.replace("_", " ").strip().capitalize() or name
            classes.append(
                CellClass.model_construct(
                    name=name,
                    title=title,
                    short=title[:24],
                    color=color,
                    color_dark=dark,
                    symbol=SYMBOLS[position % len(SYMBOLS)],
                ).model_dump()
            )
        try:
            return cls.model_validate({"classes": classes, "positive": tuple(positive)})
        except ValidationError as error:
            place, message = first_fault(error)
            raise ConfigError(f"classes {', '.join(wanted)}: {message} (at {place or 'classes'})") from None


BINARY = ClassSchema(
    classes=(
        CellClass(
            name="normal",
            title="Normal precursor",
            short="Normal",
            color="#0061a0",
            color_dark="#7cc0f5",
            symbol="ring",
        ),
        CellClass(
            name="blast",
            title="Leukemic blast",
            short="Blast",
            color="#b04300",
            color_dark="#ffa16b",
            symbol="triangle",
        ),
    ),
    positive=("blast",),
)
"""C-NMC: normal B-lymphoid precursors against leukemic lymphoblasts, in the order of ``Label``."""
