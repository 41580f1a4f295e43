"""Run ``leukoscope predict``: read sources, write results to the terminal, to files and to images."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.cli.options import check_scale, check_turns
from leukoscope.cli.printing import (
    CsvFile,
    print_json,
    print_row,
    print_subjects,
    say,
    say_skipped,
    write_subjects,
)
from leukoscope.cli.progress import ProgressBar
from leukoscope.core.errors import UsageError
from leukoscope.core.io import OutputFile, write_bytes
from leukoscope.core.terms import RESEARCH_USE, Reason, Status

if TYPE_CHECKING:
    from leukoscope.core.subjects import SubjectTable
    from leukoscope.inference.cells import Prediction, Source
    from leukoscope.inference.journal import Journal
    from leukoscope.inference.predictor import Predictor
    from leukoscope.inference.results import CellResult, SubjectResult
    from leukoscope.inference.sources import Ignored

SUBJECTS_FILE = "subjects.csv"
RESULTS_CSV = "results.csv"
HEAT_MAPS = "heat_maps"


@dataclass(frozen=True)
class PredictOptions:
    """Options of ``leukoscope predict``; see its ``--help``."""

    sources: tuple[str, ...]
    bundle: Path | None = None
    as_json: bool = False
    csv_file: Path | None = None
    out: Path | None = None
    heat_maps: bool = True
    sheet: Path | None = None
    subjects: Path | None = None
    stdin_list: bool = False
    resume: bool = False
    overwrite: bool = False
    keep_spelling: bool = False
    quiet: bool = False
    operating_point: str | None = None
    tta: int = 1
    engine: str = "openvino"
    threads: int | None = None
    precision: str = "f32"
    cache: Path | None = None
    microns_per_pixel: float | None = None
    profile: Path | None = None


def run_predict(options: PredictOptions) -> int:
    """Classify all images; return the exit code: 1 if an image could not be read or is not a cell image."""
    _check(options)
    from leukoscope.core.subjects import SubjectTable
    from leukoscope.inference.predictor import Predictor
    from leukoscope.inference.sources import Ignored
    from leukoscope.smear.photographs import take_photographs

    _check_outputs(options)
    ignored = Ignored()
    subject = subject_of(options.subjects, keep_spelling=options.keep_spelling)
    found = _sources(options, subject, ignored)
    first = list(islice(found, 2))
    found = chain(first, found)
    predictor = Predictor.open(
        options.bundle,
        engine=options.engine,
        threads=options.threads,
        precision=options.precision,
        cache_directory=options.cache,
        tta=options.tta,
        operating_point=options.operating_point,
        streaming=len(first) > 1,
        microns_per_pixel=options.microns_per_pixel,
        profile=options.profile,
    )
    take_photographs(predictor, options.microns_per_pixel)
    with ExitStack() as until_written:
        with ExitStack() as stack:
            outputs = _Outputs(options, predictor, until_written, stack)
            sources = _skip_done(found, outputs.journal)
            progress = stack.enter_context(_progress(options, outputs.done))
            for prediction in predictor.stream(sources):
                outputs.add(prediction)
                if prediction.result.ends_image:
                    progress.advance()
        outputs.finish()
    say_skipped(ignored, quiet=options.quiet)
    if isinstance(subject, SubjectTable):
        _print_unmatched(subject, options)
    return outputs.exit_code


def _print_unmatched(table: "SubjectTable", options: PredictOptions) -> None:
    """Warn about images without a row and rows without an image, which may be misspelled names."""
    if table.unmatched_images:
        say(
            f"warning: images without a row in {options.subjects}, and so without a subject: {table.unmatched_images:,}"
        )
    if table.unmatched_rows:
        say(f"warning: rows of {options.subjects} without an image: {table.unmatched_rows:,}")


def _check(options: PredictOptions) -> None:
    if not options.sources and not options.stdin_list:
        raise UsageError(
            "no image named; for example: leukoscope predict cell.bmp (see leukoscope predict --help)"
        )
    if options.stdin_list and "-" in options.sources:
        raise UsageError(
            "standard input is either one image (-) or a list (--stdin-list); leave out one of them"
        )
    if options.resume and options.out is None:
        raise UsageError("--resume continues the results of a folder; name it with --out DIR")
    if options.sheet is not None and options.sheet.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--sheet {options.sheet}: the name must end in .png or .html")
    if options.resume and options.overwrite:
        raise UsageError("--resume continues results, --overwrite replaces them; leave out one of them")
    check_scale(options.microns_per_pixel)
    check_turns(options.tta)


def _check_outputs(options: PredictOptions) -> None:
    """Check the outputs before the work; raise an error if a file would be lost."""
    from leukoscope.cli.printing import CSV_COLUMNS, SUBJECT_COLUMNS
    from leukoscope.core.outputs import Outputs, csv_with, json_with, with_mark
    from leukoscope.inference.journal import RESULTS, SETTINGS

    outputs = Outputs(overwrite=options.overwrite)
    outputs.read(*(source for source in options.sources if source != "-"), options.subjects)
    outputs.read_whole(options.bundle)
    results = csv_with(CSV_COLUMNS[:20], more=True)  # earlier versions wrote fewer columns
    outputs.file(options.csv_file, "--csv", own=results)
    outputs.file(options.sheet, "--sheet", own=with_mark())
    outputs.folder(
        options.out, "--out", (SETTINGS, RESULTS, HEAT_MAPS), marker=SETTINGS, own=json_with("bundle_sha256")
    )
    if options.out is not None:
        outputs.file(options.out / RESULTS_CSV, "--out", own=results)
        outputs.file(options.out / SUBJECTS_FILE, "--out", own=csv_with(SUBJECT_COLUMNS, more=True))
    outputs.check()


def _sources(
    options: PredictOptions, subject: "Callable[[str], str | None]", ignored: "Ignored"
) -> "Iterator[Source]":
    from leukoscope.inference.sources import iterate_sources, read_list
    from leukoscope.smear.files import FIELD_LIMITS

    listed: Iterable[str] = read_list(sys.stdin.buffer) if options.stdin_list else ()
    return iterate_sources(
        chain(options.sources, listed),
        subject_of=subject,
        stdin=sys.stdin.buffer,
        ignored=ignored,
        limits=FIELD_LIMITS,
    )


def subject_of(table: Path | None, *, keep_spelling: bool = False) -> Callable[[str], str | None]:
    """Return a function that gives the subject of an image, from the user's table or from C-NMC names."""
    if table is not None:
        from leukoscope.core.subjects import SubjectTable, read_subjects

        return SubjectTable(read_subjects(table, keep_spelling=keep_spelling))

    def from_name(name: str) -> str | None:
        file = name.replace("\\", "/").rpartition("/")[2]
        if not file.startswith("UID_"):
            return None
        from leukoscope.data.cnmc import parse_name

        official = parse_name(file)
        return None if official is None else official.subject

    return from_name


def _skip_done(sources: "Iterator[Source]", journal: "Journal | None") -> "Iterator[Source]":
    """Skip the images in the journal, after checking that they are the same in the same order."""
    if journal is None or not journal.done:
        return sources
    source: Source | None = None
    for number, result in enumerate(journal.results(), 1):
        if result.cell is None or result.cell == 1:
            source = next(sources, None)
        if source is None or source.name != result.source:
            given = "no image" if source is None else source.name
            raise UsageError(
                f"{journal.path}, line {number}: {result.source}, but image {number} of this call is {given}; "
                "resume with the images of the first call, or name another folder"
            )
    if source is not None and not result.ends_image:  # the other cells of a photograph are still to come
        return chain([replace(source, first_cell=(result.cell or 0) + 1)], sources)
    return sources


class _Outputs:
    """All outputs: terminal, journal, CSV, heat maps, contact sheet, subjects, counts."""

    def __init__(
        self, options: PredictOptions, predictor: "Predictor", until_written: ExitStack, stack: ExitStack
    ) -> None:
        from leukoscope.inference.subject_pool import SubjectPool

        self._options = options
        self._classes = predictor.classes
        self._pool = SubjectPool(
            predictor.bundle.decision, predictor.model, predictor.operating_point.name, self._classes
        )
        self._counts: Counter[str] = Counter()
        self._unreadable = self._images = 0
        self._kept: list[Prediction] = []
        self._sheet: Any = None
        self._csv: Any = None
        self._rows = 0
        self.journal: Journal | None = None
        self.done = 0
        if options.out is not None:
            self._open_journal(options, predictor, until_written)
        if options.csv_file is not None:
            self._csv = stack.enter_context(CsvFile(options.csv_file))
        if options.sheet is not None and options.sheet.suffix.lower() == ".html":
            from leukoscope.inference.html_sheet import HtmlSheet

            self._sheet = until_written.enter_context(
                HtmlSheet(options.sheet, "leukoscope results", self._classes)
            )
        if self.journal is not None and self.done:
            for result in self.journal.results():
                self._count(result)

    def _open_journal(self, options: PredictOptions, predictor: "Predictor", stack: ExitStack) -> None:
        from leukoscope.inference.journal import Journal

        assert options.out is not None  # noqa: S101 - the caller has looked
        settings = {
            "model": predictor.model.model_dump(),
            "bundle_sha256": predictor.bundle.sha256,
            "operating_point": predictor.operating_point.name,
            "tta": options.tta,
            "engine": options.engine,
            "precision": options.precision,
            "microns_per_pixel": options.microns_per_pixel,
            "profile": predictor.profile and predictor.profile.reference,
            "subjects_sha256": options.subjects and sha256(options.subjects.read_bytes()).hexdigest(),
        }
        self.journal = stack.enter_context(
            Journal(options.out, settings, resume=options.resume, overwrite=options.overwrite)
        )
        self.done = self.journal.done
        if options.heat_maps:
            (options.out / HEAT_MAPS).mkdir(exist_ok=True)

    def add(self, prediction: "Prediction") -> None:
        from leukoscope.inference.cells import with_heat_map

        self._rows += 1
        out = self._options.out
        if out is not None and self._options.heat_maps and prediction.activation_map is not None:
            prediction = with_heat_map(prediction, _write_heat_map(out, self.done + self._rows, prediction))
        result = prediction.result
        self._count(result)
        if self.journal is not None:
            self.journal.append(result)
        if self._options.as_json:
            print_json(result)
        elif not self._options.quiet:
            print_row(result, self._classes, first=self._rows == 1)
        if self._sheet is not None:
            self._sheet.add(prediction)
        elif self._options.sheet is not None:
            from leukoscope.imaging.overlay import MAX_SHEET_ITEMS

            if len(self._kept) < MAX_SHEET_ITEMS:
                self._kept.append(prediction)

    def _count(self, result: "CellResult") -> None:
        self._counts[result.decision] += 1
        self._pool.add(result)
        # A novel image could be read; all other reasons mean that the image is not a cell image. A photograph of which
        # only some cells are rejected could be read, too.
        self._images += result.ends_image
        rejected = result.status is Status.REJECTED and result.reasons[0].code is not Reason.NOVEL
        self._unreadable += rejected and result.cell is None
        if self._csv is not None:
            self._csv.add(result)

    @property
    def exit_code(self) -> int:
        """1 if an image could not be read or is not a cell image, else 0."""
        return 1 if self._unreadable else 0

    def finish(self) -> None:
        subjects = list(self._pool.results())
        total = sum(self._counts.values())
        summary = ", ".join(
            f"{self._counts[decision]:,} {decision}"
            for decision in self._classes.decisions
            if self._counts[decision]
        )
        what = "image" if total == self._images else "result"
        counts = f"{total:,} {what}{'' if total == 1 else 's'}: {summary}."
        if total != self._images:
            counts = f"{self._images:,} image{'' if self._images == 1 else 's'}, {counts}"
        out = self._options.out
        if out is not None and self.journal is not None:
            with CsvFile(out / RESULTS_CSV) as table:
                for result in self.journal.results():
                    table.add(result)
            if subjects:
                write_subjects(out / SUBJECTS_FILE, subjects)
        self._finish_sheet(subjects, counts)
        if self._options.quiet or self._options.as_json:
            return
        if subjects and (len(subjects) > 1 or total > 1):
            print_subjects(subjects, self._classes)
        print(f"\n{counts} {RESEARCH_USE}" if total > 1 else RESEARCH_USE)  # noqa: T201
        for path in (out, self._options.csv_file, self._options.sheet):
            if path is not None and path.exists():
                say(f"written: {path}")

    def _finish_sheet(self, subjects: "list[SubjectResult]", counts: str) -> None:
        path = self._options.sheet
        if self._sheet is not None:
            self._sheet.close(subjects, counts, earlier=self.done)
        elif path is not None and self._kept:
            from leukoscope.imaging.overlay import contact_sheet, encode_png
            from leukoscope.inference.html_sheet import sheet_item

            items = [sheet_item(prediction, self._classes) for prediction in self._kept]
            title = "leukoscope results"
            if self.done:
                title += f" (without {self.done:,} of an earlier call)"
            if len(items) < self._rows:
                say(
                    f"the sheet shows the first {len(items):,} of {self._rows:,} images; an .html sheet shows all"
                )
            with OutputFile(path, binary=True) as file:
                file.stream.write(encode_png(contact_sheet(items, title=title)))
        elif path is not None:
            say(f"no image was classified by this call, so {path} was not written")


def _progress(options: PredictOptions, done: int) -> ProgressBar:
    """Return a progress bar, which shows nothing for a single image."""
    if options.quiet or not sys.stderr.isatty():
        return ProgressBar("classifying", quiet=True)
    total = _count_sources(options)
    return ProgressBar("classifying", total=total, done=done, quiet=total is not None and total < 2)


def _count_sources(options: PredictOptions) -> int | None:
    """Return the number of images; None for a list on standard input, which can be read only once."""
    if options.stdin_list:
        return None
    from leukoscope.inference.sources import count_sources

    return count_sources(options.sources)


def _write_heat_map(out: Path, number: int, prediction: "Prediction") -> str:
    from leukoscope.core.text import escape_surrogates
    from leukoscope.imaging.overlay import encode_png, heat_map_overlay

    assert prediction.canvas is not None and prediction.activation_map is not None  # noqa: S101
    file = prediction.result.source.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in file
    )
    path = out / HEAT_MAPS / f"{number:06d}_{safe[:80] or 'image'}.png"
    write_bytes(
        path, encode_png(heat_map_overlay(prediction.canvas, prediction.activation_map), compress_level=1)
    )
    return escape_surrogates(str(path))
