"""Finding the images of a cohort: what each file's place and name, or a CSV, say about it.

Layouts are told apart file by file, so that a tree may mix them: C-NMC names anywhere, the two C-NMC test folders,
class folders of any name; or a CSV names files, labels and subjects.
"""

import csv
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.terms import Label
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
from leukoscope.data.table import BLAST, NORMAL, UNLABELLED

IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
LABEL_WORDS = {Label.BLAST: BLAST, Label.NORMAL: NORMAL}
CLASS_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("blast", "blasts", "all", "leukemia", "leukemic", "leukaemia", "malignant", "1"), BLAST),
    **dict.fromkeys(("normal", "hem", "healthy", "benign", "hematogone", "hematogones", "0"), NORMAL),
}
"""Class names that need no telling, in lower case."""
_CSV_COLUMNS = {
    "file": ("file", "path", "image", "cell", "filename", "file_name", "image_path"),
    "label": ("label", "class", "diagnosis", "labels"),
    "subject": ("subject", "patient", "subject_id", "patient_id"),
    "fold": ("fold",),
}


class OddityKind(StrEnum):
    """What can be odd about a file of a cohort."""

    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not_an_image"
    NAME_NOT_PARSED = "name_not_parsed"
    UNKNOWN_CLASS = "unknown_class"
    NO_LABELS = "no_labels"
    MISSING = "missing"
    LABEL_CONFLICT = "label_conflict"
    SUBJECT_CONFLICT = "subject_conflict"
    CROPPED = "cropped"
    WRONG_SIZE = "wrong_size"
    DUPLICATE = "duplicate"


EXPECTED_ODDITIES = frozenset({OddityKind.DUPLICATE, OddityKind.CROPPED, OddityKind.NOT_AN_IMAGE})
"""What the official archive itself shows; everything else calls for a look."""


@dataclasses.dataclass(frozen=True, slots=True)
class Oddity:
    """One thing worth saying about one file."""

    kind: OddityKind
    file: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One image file, with what is known before it is opened."""

    file: Path
    label: str = UNLABELLED
    subject: str = ""
    fold: str = ""
    official_subject: str = ""
    """The C-NMC subject id that the name gives; empty for other cohorts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Discovery:
    """The images of a cohort and what was odd about their places and names."""

    layouts: tuple[str, ...]
    sources: tuple[Source, ...]
    oddities: tuple[Oddity, ...]


def discover(
    source: Path, *, blast: Iterable[str] = (), normal: Iterable[str] = (), classes: ClassSchema = BINARY
) -> Discovery:
    """List the images under a folder, or those that a CSV names.

    Parameters
    ----------
    source
        A folder, or a ``.csv``.
    blast, normal
        Names of class folders or label values, beside ``CLASS_WORDS``; upper and lower case are the same.
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
    words = dict(CLASS_WORDS) if classes == BINARY else class_words(classes)
    if classes != BINARY and (tuple(blast) or tuple(normal)):
        raise UsageError(
            "--blast and --normal name the two classes of C-NMC; leave them out beside --classes"
        )
    given = {BLAST: {name.casefold() for name in blast}, NORMAL: {name.casefold() for name in normal}}
    if both := given[BLAST] & given[NORMAL]:
        raise UsageError(f"class name {min(both)!r} is given for both classes; name it once")
    for label, names in given.items():
        words.update(dict.fromkeys(names, label))
    if source.is_dir():
        found = _TreeReader(source, words, classes).read()
    elif source.is_file() and source.suffix.lower() == ".csv":
        found = _read_csv(source, words)
    else:
        raise UsageError(f"{source}: no such folder or .csv file; name the folder that holds the images")
    if not found.sources:
        raise UsageError(
            f"{source}: no image found; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def class_words(classes: ClassSchema) -> dict[str, str]:
    """Return how folders and label values may call the classes, in lower case, with the class of each."""
    spellings = {
        spelling.casefold(): entry.name
        for entry in classes.classes
        for spelling in (entry.title, entry.short, entry.name.replace("_", " "), entry.name.replace("_", "-"))
    }
    return spellings | {name: name for name in classes.names}


def found_class_names(source: Path) -> list[str]:
    """Return the class names that the folders of images, or the label column of a CSV, would give, sorted.

    Capitals become small letters, and what is no letter or digit an underscore.

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
        rows, columns = _csv_rows(source)
        if columns["label"] is None:
            raise CohortError(
                f"{source}: no column of labels; expected one of {', '.join(_CSV_COLUMNS['label'])}"
            )
        found = {(row.get(columns["label"]) or "").strip() for row in rows}
    else:
        raise UsageError(f"{source}: no such folder or .csv file; name the folder that holds the images")
    return sorted({re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in found if name})


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in sorted order; linked folders are followed once, hidden names skipped."""
    visited: set[str] = set()
    for current, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(current, name) for name in sorted(names) if not name.startswith("."))


class _TreeReader:
    """Reads one folder tree."""

    def __init__(self, root: Path, words: Mapping[str, str], classes: ClassSchema) -> None:
        self.root = root
        self.binary = classes == BINARY
        self.words = words
        self.files = list(walk_files(root))
        self.oddities: list[Oddity] = []
        self.layouts: dict[str, None] = {}
        self.unknown_classes: dict[str, int] = {}
        self.labels, self.label_files = self._read_label_files()
        # A tree may be named by one of its inner folders, such as .../fold_0/all.
        self.outer = root.resolve().parts[-2:]

    def read(self) -> Discovery:
        sources = [self._classify(file) for file in self.files if self._is_image(file)]
        self._report_classes()
        self._report_labels(sources)
        return Discovery(tuple(self.layouts), tuple(sources), tuple(self.oddities))

    def say(self, kind: OddityKind, file: Path | str, message: str) -> None:
        name = file.relative_to(self.root).as_posix() if isinstance(file, Path) else file
        self.oddities.append(Oddity(kind, name, message))

    def _is_image(self, file: Path) -> bool:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            return True
        if file not in self.label_files:
            self.say(OddityKind.NOT_AN_IMAGE, file, "not an image by its name; left out")
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
        label = self._class_label(file, inner)
        if fold:
            self.say(
                OddityKind.NAME_NOT_PARSED,
                file,
                "the name is not UID_<subject>_<image>_<cell>_<all|hem>; the subject stays unknown",
            )
        else:
            self.layouts.setdefault("class folders")
        return Source(file, label, fold=fold)

    def _training(self, file: Path, name: OfficialName, folders: Sequence[str], fold: str) -> Source:
        if not self.binary:
            inner = file.relative_to(self.root).parts[:-1]
            return Source(file, self._class_label(file, inner), name.subject, fold, name.subject)
        label = LABEL_WORDS[name.label]
        folder = folders[-1].lower() if folders else ""
        if folder in CLASS_FOLDERS and CLASS_FOLDERS[folder] != name.label:
            self.say(
                OddityKind.LABEL_CONFLICT,
                file,
                f"the name says {label}, the folder {folder!r} the opposite; the cell gets no label",
            )
            label = UNLABELLED
        return Source(file, label, name.subject, fold, name.subject)

    def _test(self, file: Path, fold: str) -> Source:
        if not file.stem.isdecimal():
            self.say(
                OddityKind.NAME_NOT_PARSED, file, f"images of the {fold.replace('_', ' ')} set are numbered"
            )
        name = self.labels.get(file.stem) if fold == PRELIMINARY_TEST else None
        if name is None:
            return Source(file, fold=fold)
        label = LABEL_WORDS[name.label] if self.binary else UNLABELLED
        return Source(file, label, name.subject, fold, name.subject)

    def _class_label(self, file: Path, inner: Sequence[str]) -> str:
        for folder in reversed(inner):
            if (label := self.words.get(folder.casefold())) is not None:
                return label
        name = inner[-1] if inner else "."
        self.unknown_classes[name] = self.unknown_classes.get(name, 0) + 1
        return UNLABELLED

    def _read_label_files(self) -> tuple[dict[str, OfficialName], set[Path]]:
        labels: dict[str, OfficialName] = {}
        label_files = {file for file in self.files if file.suffix.lower() == ".csv" and is_labels_file(file)}
        for file in sorted(label_files):
            for new_name, name in read_labels(file).items():
                if labels.setdefault(Path(new_name).stem, name) != name:
                    raise CohortError(
                        f"{file}: {new_name!r} is labelled otherwise in another file; keep one of them"
                    )
        return labels, label_files

    def _report_classes(self) -> None:
        for name, count in self.unknown_classes.items():
            self.say(
                OddityKind.UNKNOWN_CLASS,
                name,
                f"{count} images without a label: the class name is unknown; say {self._remedy(name)}"
                if name != "."
                else f"{count} images without a label: they lie in no class folder",
            )

    def _remedy(self, name: str) -> str:
        return f"--blast {name!r} or --normal {name!r}" if self.binary else "its class in the class schema"

    def _report_labels(self, sources: Sequence[Source]) -> None:
        preliminary = [source for source in sources if source.fold == PRELIMINARY_TEST]
        bare = sum(source.label == UNLABELLED for source in preliminary)
        if bare:
            self.say(
                OddityKind.NO_LABELS,
                PRELIMINARY_TEST,
                f"{bare} of {len(preliminary)} images without a label: put C-NMC_test_prelim_phase_data_labels.csv "
                "anywhere into the tree",
            )
        if self.label_files and preliminary:
            at_hand = {source.file.stem for source in preliminary}
            for stem in sorted(self.labels.keys() - at_hand):
                self.say(OddityKind.MISSING, f"{stem}.bmp", "named in the label file, not found")


def _csv_rows(path: Path) -> tuple[list[dict[str, str]], dict[str, str | None]]:
    """Return the rows of a CSV, and which of its columns means what."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path}: not a readable CSV: {error}") from None
    columns = {
        meaning: next((header[alias] for alias in aliases if alias in header), None)
        for meaning, aliases in _CSV_COLUMNS.items()
    }
    return rows, columns


def _read_csv(path: Path, words: Mapping[str, str]) -> Discovery:
    rows, columns = _csv_rows(path)
    if columns["file"] is None:
        raise CohortError(
            f"{path}: no column names the image files; expected one of {', '.join(_CSV_COLUMNS['file'])}, "
            f"found {', '.join(rows[0]) if rows else 'no rows'}"
        )
    found: dict[Path, Source] = {}
    oddities: list[Oddity] = []
    for number, row in enumerate(rows, start=2):
        value = {
            meaning: (row.get(column) or "").strip() if column else "" for meaning, column in columns.items()
        }
        oddities += _add_csv_row(found, path.parent, value, words, f"row {number}")
    return Discovery(("CSV",), tuple(found.values()), tuple(oddities))


def _add_csv_row(
    found: dict[Path, Source], folder: Path, value: Mapping[str, str], words: Mapping[str, str], row: str
) -> list[Oddity]:
    name = value["file"]
    file = folder / name
    if not name or not file.is_file():
        return [Oddity(OddityKind.MISSING, name, f"{row}: no such file; left out")]
    oddities = []
    label = words.get(value["label"].casefold(), UNLABELLED)
    if value["label"] and not label:
        message = f"{row}: label {value['label']!r} is unknown; say --blast or --normal with it, or --classes"
        oddities.append(Oddity(OddityKind.UNKNOWN_CLASS, name, message))
    parsed = parse_name(file.name)
    subject = value["subject"] or (parsed.subject if parsed else "")
    official = parsed.subject if parsed and subject == parsed.subject else ""
    source = Source(file, label, subject, value["fold"], official)
    if file not in found:
        found[file] = source
        return oddities
    if found[file] != source:
        message = f"{row}: named before with another label, subject or fold; the cell gets no label"
        oddities.append(Oddity(OddityKind.LABEL_CONFLICT, name, message))
        found[file] = dataclasses.replace(found[file], label=UNLABELLED)
    else:
        oddities.append(Oddity(OddityKind.DUPLICATE, name, f"{row}: named before; left out"))
    return oddities
