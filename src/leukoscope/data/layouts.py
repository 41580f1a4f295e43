"""Find the images of a cohort, with label and subject from folder and file name or from a CSV.

The layout is detected file by file, so that a tree may mix layouts: C-NMC names anywhere, the two C-NMC test folders,
class folders of any name; or a CSV names files, labels and subjects.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.subjects import normalize_subject
from leukoscope.core.system_files import is_system_name
from leukoscope.core.terms import Label
from leukoscope.core.text import TextTable, escape_surrogates, find_file, read_table
from leukoscope.data.cnmc import (
    CLASS_FOLDERS,
    PRELIMINARY_TEST,
    TEST_FOLDS,
    OfficialName,
    fold_of,
    is_labels_file,
    parse_name,
    read_labels,
)
from leukoscope.data.table import BLAST, NORMAL, UNLABELED

IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
LABEL_TEXTS = {Label.BLAST: BLAST, Label.NORMAL: NORMAL}
CLASS_TEXTS: Mapping[str, str] = {
    **dict.fromkeys(("blast", "blasts", "all", "leukemia", "leukemic", "leukaemia", "malignant", "1"), BLAST),
    **dict.fromkeys(("normal", "hem", "healthy", "benign", "hematogone", "hematogones", "0"), NORMAL),
}
"""Class names that are known, in lower case."""
_NAMED = frozenset(CLASS_TEXTS) - {"0", "1"}
_CSV_COLUMNS = {
    "file": ("file", "path", "image", "cell", "filename", "file_name", "image_path"),
    "label": ("label", "class", "diagnosis", "labels"),
    "subject": ("subject", "patient", "subject_id", "patient_id"),
    "fold": ("fold",),
}


class IssueKind(StrEnum):
    """What can be odd about a file of a cohort."""

    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not_an_image"
    SYSTEM_FILE = "system_file"
    NAME_NOT_PARSED = "name_not_parsed"
    UNKNOWN_CLASS = "unknown_class"
    NO_LABELS = "no_labels"
    MISSING = "missing"
    LABEL_CONFLICT = "label_conflict"
    SUBJECT_CONFLICT = "subject_conflict"
    CROPPED = "cropped"
    WRONG_SIZE = "wrong_size"
    DUPLICATE = "duplicate"


EXPECTED_ISSUES = frozenset(
    {IssueKind.DUPLICATE, IssueKind.CROPPED, IssueKind.NOT_AN_IMAGE, IssueKind.SYSTEM_FILE}
)
"""Issues that the official archive itself has; all others should be checked."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImportIssue:
    """A warning about one file."""

    kind: IssueKind
    file: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One image file with the fields that are known before it is opened."""

    file: Path
    label: str = UNLABELED
    subject: str = ""
    fold: str = ""
    official_subject: str = ""
    """The C-NMC subject id that the name gives; empty for other cohorts."""
    undecided: bool = False
    """Whether name and folders give contradicting labels, so that nothing else may fill the gap."""


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSource:
    """What gave a label, and to how many images."""

    source: str
    label: str
    images: int


@dataclasses.dataclass(frozen=True, slots=True)
class Discovery:
    """The images of a cohort, and issues of their folders and names."""

    layouts: tuple[str, ...]
    sources: tuple[Source, ...]
    issues: tuple[ImportIssue, ...]
    label_sources: tuple[LabelSource, ...] = ()


def discover(
    source: Path,
    *,
    blast: Iterable[str] = (),
    normal: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    classes: ClassSchema = BINARY,
) -> Discovery:
    """List the images under a folder, or those that a CSV names.

    Parameters
    ----------
    source
        A folder, or a ``.csv``.
    blast, normal
        Names of class folders or label values in addition to ``CLASS_TEXTS``; case is ignored.
    labels
        Folder or label value -> the name of a class or ``none``. A folder may be named with its parents
        (``normal/1``). Names given here or in ``blast`` and ``normal`` override ``CLASS_TEXTS``.
    classes
        Of the cohort. With other classes than C-NMC's, folders and label values are called by the names, titles or
        short titles of the classes, and C-NMC's file names tell the subject only.

    Raises
    ------
    UsageError
        There is no such folder or file, no image in it, a class name is given for both classes, or ``blast`` or
        ``normal`` with other classes.
    CohortError
        The CSV or a label file cannot be read.
    """
    if classes != BINARY and (tuple(blast) or tuple(normal)):
        raise UsageError("--blast and --normal name the two classes of C-NMC; leave them out with --classes")
    names = ClassNames.of(blast=blast, normal=normal, labels=labels or {}, schema=classes)
    if source.is_dir():
        found = _TreeReader(source, names).read()
    elif source.is_file() and source.suffix.lower() == ".csv":
        found = _read_csv(source, names)
    else:
        raise UsageError(f"{source}: no such folder or .csv file; name the folder that holds the images")
    if not found.sources:
        trouble = f" ({found.issues[0].file}: {found.issues[0].message})" if found.issues else ""
        raise UsageError(
            f"{source}: no image found{trouble}; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def class_texts(classes: ClassSchema) -> dict[str, str]:
    """Return how folders and label values may call the classes, in lower case, with the class of each."""
    spellings = {
        spelling.casefold(): entry.name
        for entry in classes.classes
        for spelling in (entry.title, entry.short, entry.name.replace("_", " "), entry.name.replace("_", "-"))
    }
    return spellings | {name: name for name in classes.names}


def found_class_names(source: Path) -> list[str]:
    """Return the class names that the folders of images, or the label column of a CSV, would give, sorted.

    Upper case becomes lower case, and other characters than letters and digits become underscores.

    Raises
    ------
    UsageError
        There is no such folder or CSV.
    CohortError
        The CSV cannot be read, or has no column of labels.
    """
    if source.is_dir():
        images = (file for file in walk_files(source) if file.suffix.lower() in IMAGE_SUFFIXES)
        found = {file.parent.name for file in images if file.parent != source}
    elif source.is_file() and source.suffix.lower() == ".csv":
        table = _open_table(source)
        column = table.find(_CSV_COLUMNS["label"])
        if column is None:
            raise CohortError(
                f"{source}: no column of labels; expected one of {', '.join(_CSV_COLUMNS['label'])}"
            )
        found = {row.fields[column] for row in table.rows}
    else:
        raise UsageError(f"{source}: no such folder or .csv file; name the folder that holds the images")
    return sorted({re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in found if name})


def walk_files(
    folder: Path,
    unreadable: Callable[[Path, str], None] = lambda *_: None,
    skipped: Callable[[Path], None] = lambda _: None,
) -> Iterator[Path]:
    """Yield the files below a folder in sorted order; linked folders are followed once, hidden names skipped.

    Parameters
    ----------
    folder
        Where to begin.
    unreadable
        Called with a folder or link that cannot be read, and why; the others go on.
    skipped
        Called with a file or folder of an operating system, which is left out.
    """

    def failed(error: OSError) -> None:
        unreadable(Path(error.filename or folder), error.strerror or str(error))

    visited: set[str] = set()
    for current, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        real = os.path.realpath(current)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in (*folders, *names):
            if is_system_name(name):
                skipped(Path(current, name))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not is_system_name(name))
        for name in sorted(names):
            path = Path(current, name)
            if name.startswith(".") or is_system_name(name):
                continue
            if path.is_symlink() and not path.exists():
                unreadable(path, "the link is broken")
                continue
            if not path.is_file():  # reading a pipe would wait for ever
                unreadable(path, "not a regular file")
                continue
            yield path


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Which folder names and label values mean which class.

    Attributes
    ----------
    given
        Names given by the user: parts of a path in lower case -> label; ``UNLABELED`` for ``none``.
    known
        Further names in lower case -> label.
    schema
        The classes of the cohort.
    """

    given: Mapping[tuple[str, ...], str]
    known: Mapping[str, str]
    schema: ClassSchema

    @classmethod
    def of(
        cls, *, blast: Iterable[str], normal: Iterable[str], labels: Mapping[str, str], schema: ClassSchema
    ) -> "ClassNames":
        """Check and collect the names given by the user."""
        given: dict[tuple[str, ...], str] = {}
        pairs = [*((name, BLAST) for name in blast), *((name, NORMAL) for name in normal)]
        for name, label in labels.items():
            word = label.strip().casefold()
            if word not in (*schema.names, "none"):
                raise UsageError(f"label {label!r} for {name!r}: expected {', '.join(schema.names)} or none")
            pairs.append((name, UNLABELED if word == "none" else word))
        for name, label in pairs:
            parts = tuple(part.casefold() for part in name.replace("\\", "/").split("/") if part.strip())
            if not parts:
                raise UsageError(f"class name {name!r}: expected the name of a folder or a label value")
            if given.setdefault(parts, label) != label:
                raise UsageError(f"class name {name!r} is given for both classes; name it once")
        return cls(given, dict(CLASS_TEXTS) if schema == BINARY else class_texts(schema), schema)

    def of_value(self, value: str) -> str | None:
        """Return the label of a value in a table; None if it is unknown."""
        word = value.strip().casefold()
        return self.given.get((word,), self.known.get(word))

    def of_folders(self, folders: Sequence[str]) -> dict[str, str]:
        """Return the folders of a path that the user has named, with their labels; the longest names count."""
        lower = [folder.casefold() for folder in folders]
        found: dict[str, tuple[int, str]] = {}
        for parts, label in self.given.items():
            for start in range(len(lower) - len(parts) + 1):
                if tuple(lower[start : start + len(parts)]) == parts:
                    found["/".join(folders[start : start + len(parts)])] = (len(parts), label)
        longest = max((length for length, _ in found.values()), default=0)
        return {name: label for name, (length, label) in found.items() if length == longest}


class _TreeReader:
    """Reads one folder tree."""

    def __init__(self, root: Path, classes: ClassNames) -> None:
        self.root = root
        self.classes = classes
        self.binary = classes.schema == BINARY
        self.issues: list[ImportIssue] = []
        self.files = list(walk_files(root, self._unreadable, self._skipped))
        self.layouts: dict[str, None] = {}
        self.label_sources: Counter[tuple[str, str]] = Counter()
        self.undecided: Counter[str] = Counter()
        self.siblings: dict[Path, frozenset[str]] = {}
        self.labels, self.label_files = self._read_label_files()
        # A tree may be named by one of its inner folders, such as .../fold_0/all.
        self.outer = root.resolve().parts[-2:]

    def read(self) -> Discovery:
        sources = [self._classify(file) for file in self.files if self._is_image(file)]
        self._report_undecided()
        self._report_labels(sources)
        return Discovery(
            tuple(self.layouts), tuple(sources), tuple(self.issues), _label_sources(self.label_sources)
        )

    def _skipped(self, path: Path) -> None:
        self.say(IssueKind.SYSTEM_FILE, path, "of an operating system or archiver; skipped")

    def _unreadable(self, path: Path, why: str) -> None:
        self.say(IssueKind.UNREADABLE, path, f"{why}; its content is left out")

    def say(self, kind: IssueKind, file: Path | str, message: str) -> None:
        if isinstance(file, Path):
            file = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.issues.append(ImportIssue(kind, escape_surrogates(file), message))

    def _is_image(self, file: Path) -> bool:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            return True
        if file not in self.label_files:
            self.say(IssueKind.NOT_AN_IMAGE, file, "not an image by its name; left out")
        return False

    def _classify(self, file: Path) -> Source:
        inner = file.relative_to(self.root).parts[:-1]
        folders = (*self.outer, *inner)
        fold = fold_of(folders)
        if name := parse_name(file.name):
            self.layouts.setdefault("C-NMC training names")
            return self._training(file, name, folders, fold)
        if fold in TEST_FOLDS:
            self.layouts.setdefault(f"C-NMC {fold.replace('_', ' ')} set")
            return self._test(file, fold)
        label, undecided = self._class_label(file, inner)
        if fold:
            self.say(
                IssueKind.NAME_NOT_PARSED,
                file,
                "the name is not UID_<subject>_<image>_<cell>_<all|hem>; the subject stays unknown",
            )
        else:
            self.layouts.setdefault("class folders")
        return Source(file, label, fold=fold, undecided=undecided)

    def _training(self, file: Path, name: OfficialName, folders: Sequence[str], fold: str) -> Source:
        if not self.binary:
            label, undecided = self._class_label(file, file.relative_to(self.root).parts[:-1])
            return Source(file, label, name.subject, fold, name.subject, undecided)
        label = LABEL_TEXTS[name.label]
        inner = file.relative_to(self.root).parts[:-1]
        named = {folder: CLASS_TEXTS[folder.casefold()] for folder in inner if folder.casefold() in _NAMED}
        if (
            not inner and folders and folders[-1].lower() in CLASS_FOLDERS
        ):  # the root is the class folder itself
            named = {folders[-1]: LABEL_TEXTS[CLASS_FOLDERS[folders[-1].lower()]]}
        named = self.classes.of_folders(inner) or named
        against = [folder for folder, word in named.items() if word not in (label, UNLABELED)]
        if against:
            self.say(
                IssueKind.LABEL_CONFLICT,
                file,
                f"the name means {label}, the folder {against[0]!r} the opposite; the cell gets no label",
            )
            return Source(file, UNLABELED, name.subject, fold, name.subject, undecided=True)
        if UNLABELED in named.values():
            return Source(file, UNLABELED, name.subject, fold, name.subject, undecided=True)
        self.label_sources[f"file names UID_..._{'all' if label == BLAST else 'hem'}", label] += 1
        return Source(file, label, name.subject, fold, name.subject)

    def _test(self, file: Path, fold: str) -> Source:
        if not file.stem.isdecimal():
            self.say(
                IssueKind.NAME_NOT_PARSED, file, f"images of the {fold.replace('_', ' ')} set are numbered"
            )
        name = self.labels.get(file.stem) if fold == PRELIMINARY_TEST else None
        if name is None:
            return Source(file, fold=fold)
        if not self.binary:
            return Source(file, UNLABELED, name.subject, fold, name.subject)
        self.label_sources["label file of the preliminary test set", LABEL_TEXTS[name.label]] += 1
        return Source(file, LABEL_TEXTS[name.label], name.subject, fold, name.subject)

    def _class_label(self, file: Path, inner: Sequence[str]) -> tuple[str, bool]:
        """Return the label that the folders give, and whether they give more than one reading.

        A label is read only if exactly one reading exists: all folders with a class name agree, and no
        folder below it could be another class. Names with a digit, such as subjects, are not classes.
        """
        given = self.classes.of_folders(inner)
        named = given or {folder: word for folder in inner if (word := self._class_text(file, inner, folder))}
        labels = set(named.values())
        if len(labels) > 1:
            return self._no_label(inner, f"folders of both classes ({', '.join(map(repr, named))})"), True
        if not named:
            return self._no_label(
                inner, f"no folder with a class name (in {inner[-1] if inner else '.'!r})"
            ), False
        deepest = max(index for index, folder in enumerate(inner) if folder in "/".join(named).split("/"))
        unknown = [folder for folder in inner[deepest + 1 :] if not any(sign.isdigit() for sign in folder)]
        if unknown and not given:
            class_folder = inner[deepest]
            return self._no_label(
                inner, f"the folder {unknown[0]!r} inside {class_folder!r} may be another class"
            ), True
        label = labels.pop()
        source = ", ".join(f"folder {name!r}" for name in named)
        self.label_sources[source, label] += 1
        return label, label == UNLABELED

    def _class_text(self, file: Path, inner: Sequence[str], folder: str) -> str | None:
        """Return the class that a folder's name means; 0 and 1 mean one only among 0 and 1 alone."""
        word = self.classes.known.get(folder.casefold())
        if word is None or not self.binary or folder.casefold() in _NAMED:
            return word
        parent = self.root.joinpath(*inner[: list(inner).index(folder)])
        if parent not in self.siblings:
            self.siblings[parent] = frozenset(path.name for path in parent.iterdir() if path.is_dir())
        return word if self.siblings[parent] <= {"0", "1"} else None

    def _no_label(self, inner: Sequence[str], why: str) -> str:
        place = "/".join(inner) or "."
        self.undecided[f"{place}: {why}"] += 1
        return UNLABELED

    def _read_label_files(self) -> tuple[dict[str, OfficialName], set[Path]]:
        labels: dict[str, OfficialName] = {}
        label_files = {file for file in self.files if file.suffix.lower() == ".csv" and is_labels_file(file)}
        for file in sorted(label_files):
            for new_name, name in read_labels(file).items():
                if labels.setdefault(Path(new_name).stem, name) != name:
                    raise CohortError(
                        f"{file}: {new_name!r} is labeled otherwise in another file; keep one of them"
                    )
        return labels, label_files

    def _report_undecided(self) -> None:
        for text, count in self.undecided.items():
            place, _, why = text.partition(": ")
            name = place.rpartition("/")[2]
            remedy = f"--labels {name}=CLASS (or =none)" if place != "." else "a CSV of files and labels"
            self.say(
                IssueKind.UNKNOWN_CLASS,
                place,
                f"{count:,} image{'' if count == 1 else 's'} without a label: {why}; use {remedy}",
            )

    def _report_labels(self, sources: Sequence[Source]) -> None:
        preliminary = [source for source in sources if source.fold == PRELIMINARY_TEST]
        bare = sum(source.label == UNLABELED for source in preliminary)
        if bare:
            self.say(
                IssueKind.NO_LABELS,
                PRELIMINARY_TEST,
                f"{bare} of {len(preliminary)} images without a label: put C-NMC_test_prelim_phase_data_labels.csv "
                "anywhere into the tree",
            )
        if self.label_files and preliminary:
            at_hand = {source.file.stem for source in preliminary}
            for stem in sorted(self.labels.keys() - at_hand):
                self.say(IssueKind.MISSING, f"{stem}.bmp", "named in the label file, not found")


def _open_table(path: Path) -> TextTable:
    try:
        return read_table(path)
    except OSError as error:
        raise CohortError(f"{path}: not readable: {error.strerror}") from None


def _read_csv(path: Path, classes: ClassNames) -> Discovery:
    table = _open_table(path)
    columns = {meaning: table.find(aliases) for meaning, aliases in _CSV_COLUMNS.items()}
    if columns["file"] is None:
        raise CohortError(
            f"{path}: no column names the image files; expected one of {', '.join(_CSV_COLUMNS['file'])}, "
            f"found {', '.join(table.columns) or 'no header'}"
        )
    found: dict[Path, Source] = {}
    issues: list[ImportIssue] = []
    for row in table.rows:
        value = {meaning: row.fields[column] if column else "" for meaning, column in columns.items()}
        issues += _add_csv_row(found, path.parent, value, classes, f"line {row.line}")
    used: Counter[tuple[str, str]] = Counter()
    for source in found.values():
        if source.label:
            used[f"column {columns['label']!r} of {path.name}", source.label] += 1
    return Discovery(("CSV",), tuple(found.values()), tuple(issues), _label_sources(used))


def _add_csv_row(
    found: dict[Path, Source], folder: Path, value: Mapping[str, str], classes: ClassNames, row: str
) -> list[ImportIssue]:
    name = value["file"]
    file = find_file(name, folder) if name else None
    if file is None:
        return [ImportIssue(IssueKind.MISSING, name, f"{row}: no such file; left out")]
    issues = []
    label = classes.of_value(value["label"])
    if value["label"] and label is None:
        message = f"{row}: label {value['label']!r} is unknown; use --labels {value['label']}=CLASS"
        issues.append(ImportIssue(IssueKind.UNKNOWN_CLASS, name, message))
    parsed = parse_name(file.name)
    subject = normalize_subject(value["subject"]) or (parsed.subject if parsed else "")
    official = parsed.subject if parsed and subject == parsed.subject else ""
    source = Source(file, label or UNLABELED, subject, value["fold"], official)
    if file not in found:
        found[file] = source
        return issues
    if found[file] != source:
        message = f"{row}: named before with another label, subject or fold; the cell gets no label"
        issues.append(ImportIssue(IssueKind.LABEL_CONFLICT, name, message))
        found[file] = dataclasses.replace(found[file], label=UNLABELED, undecided=True)
    else:
        issues.append(ImportIssue(IssueKind.DUPLICATE, name, f"{row}: named before; left out"))
    return issues


def _label_sources(used: Counter[tuple[str, str]]) -> tuple[LabelSource, ...]:
    return tuple(LabelSource(source, label, count) for (source, label), count in used.items())
