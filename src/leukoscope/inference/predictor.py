"""From an image to a result: decode, check, prepare, one forward pass, decide."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import EngineError, ImageError, UsageError
from leukoscope.core.terms import WARNING_TEXTS, Status, WarningCode
from leukoscope.decision.calibration import group_log_odds
from leukoscope.decision.input_checks import check_descriptors
from leukoscope.decision.parameters import DecisionParameters, OperatingPoint
from leukoscope.decision.policy import Verdict, decide
from leukoscope.imaging.canvas import place_on_canvas, resize_canvas
from leukoscope.imaging.decode import DecodeLimits, decode_image
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.imaging.foreground import clean_ground
from leukoscope.imaging.ground import ground_of, white_to_black
from leukoscope.imaging.uncut import place_uncut
from leukoscope.inference.cells import (
    PhotographCell,
    PhotographReader,
    Prediction,
    Predictions,
    PreparedCell,
    Rgb,
    Source,
)
from leukoscope.inference.inputs import ImageLike, as_source, is_one_image, iterate_images
from leukoscope.inference.results import CellResult, ModelReference, ReasonDetail, WarningDetail
from leukoscope.inference.tta import TURNS, join_turned, turn_cell
from leukoscope.models.bundle import Bundle
from leukoscope.models.profile import LaboratoryProfile, read_profile
from leukoscope.models.registry import resolve_model
from leukoscope.models.session import ForwardResult, Pending, Session

_EMBED_BATCH = 16


class Predictor:
    """A bundle at work. Safe to use from several threads; one for a process is enough.

    Parameters
    ----------
    bundle
        An opened bundle.
    session
        An engine that holds the bundle's model.
    turns
        1, 4 (quarter rotations) or 8 (and their mirror images): outputs are averaged over them.
    operating_point
        Name of one of the bundle's operating points; None takes its default.
    limits
        Limits of the decoder.
    microns_per_pixel
        Scale of the images, for a bundle of uncut cells; for None the shorter side of each image is assumed to be
        ``imaging.uncut.ASSUMED_SIDE_UM``. An image of exactly the canvas' size is taken as prepared.
    profile
        Laboratory profile: its scale if none is given, and its correction of the logits. Heat maps are those of the
        bundle's original head.

    Attributes
    ----------
    photographs
        Finds the cells of photographs; None (as here) takes each image as one cell. ``leukoscope.load_model`` sets it.

    Raises
    ------
    UsageError
        Unknown operating point or number of turns, or a scale that is not positive.
    EngineError
        The session's model does not have the shapes that the manifest declares.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        *,
        turns: int = 1,
        operating_point: str | None = None,
        limits: DecodeLimits | None = None,
        microns_per_pixel: float | None = None,
        profile: LaboratoryProfile | None = None,
    ) -> None:
        if microns_per_pixel is not None and not 0 < microns_per_pixel < 1000:
            raise UsageError(
                f"microns_per_pixel is {microns_per_pixel}; expected a positive number, such as 0.1"
            )
        if turns not in TURNS:
            raise UsageError(f"rotation averaging over {turns}: expected one of {', '.join(map(str, TURNS))}")
        self.operating_point: OperatingPoint = bundle.decision.operating_point(operating_point)
        if session.input_px != bundle.manifest.input_px:
            raise EngineError(
                f"the model takes {session.input_px} px, the manifest declares {bundle.manifest.input_px}; "
                "run `leukoscope bundle verify`"
            )
        self.bundle = bundle
        self.session = session
        self.turns = turns
        self.limits = limits or DecodeLimits()
        self.microns_per_pixel = microns_per_pixel or (profile.microns_per_pixel if profile else None)
        self.profile = profile
        self._profile_reference = profile.reference if profile else None
        self.photographs: PhotographReader | None = None
        # The focus of a cell cut out of a photograph is measured in it: fine detail depends on the scale.
        limits_of_cut = bundle.decision.input_limits.model_copy(update={"min_focus": 0.0})
        self._decision_of_cut = bundle.decision.model_copy(update={"input_limits": limits_of_cut})
        manifest = bundle.manifest
        self.classes = manifest.classes
        if profile is not None:
            profile.check_model(bundle.model_sha256, self.classes.size)
        self.model = ModelReference(
            name=manifest.name,
            version=manifest.version,
            sha256=bundle.model_sha256,
        )

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str = "openvino",
        threads: int | None = None,
        precision: str = "f32",
        cache_directory: Path | None = None,
        tta: int = 1,
        operating_point: str | None = None,
        limits: DecodeLimits | None = None,
        streaming: bool = False,
        microns_per_pixel: float | None = None,
        profile: str | os.PathLike[str] | LaboratoryProfile | None = None,
    ) -> Self:
        """Open a bundle's folder (None: the one shipped in the package), check it and compile its model.

        Parameters
        ----------
        bundle
            Folder of the bundle, or a name of ``leukoscope.list_models()``.
        engine, threads, precision, cache_directory, streaming
            See ``Session``.
        tta, operating_point, limits, microns_per_pixel
            See ``turns``, ``operating_point``, ``limits`` and ``microns_per_pixel`` of the class.
        profile
            Laboratory profile, or its file.

        Raises
        ------
        BundleError
            The bundle is damaged, altered or unknown.
        UsageError, EngineError
            See ``Session`` and the class.
        """
        opened = Bundle.open(resolve_model(bundle))
        session = Session(
            opened.model_path,
            engine=engine,
            threads=threads,
            precision=precision,
            cache_directory=cache_directory,
            streaming=streaming,
        )
        return cls(
            opened,
            session,
            turns=tta,
            operating_point=operating_point,
            limits=limits,
            microns_per_pixel=microns_per_pixel,
            profile=read_profile(Path(profile)) if isinstance(profile, str | os.PathLike) else profile,
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is an iterable, too
        self,
        images: "ImageLike | Source | ImageError",
        *,
        name: str | None = None,
        subject: str | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Iterable[Any], *, name: str | None = None, subject: str | None = None
    ) -> Predictions: ...

    def predict(self, images: Any, *, name: str | None = None, subject: str | None = None) -> Any:
        """Classify one image, or each image of a folder, an archive, a glob pattern or an iterable.

        Parameters
        ----------
        images
            A path, the bytes of a file, a Pillow image or uint8 RGB (H, W, 3); a folder, a ZIP archive or a pattern;
            or an iterable of these.
        name
            Name of a single image in the result; the path if there is one.
        subject
            Subject that the cells belong to.

        Returns
        -------
        Prediction or Predictions
            One prediction for one image, a list for several. An image that cannot be read or classified gives the
            decision ``rejected`` with its reasons, no exception. An uncut photograph with several cells gives a list
            with one prediction per cell.

        Raises
        ------
        UsageError
            The value is no image (then it is also a ``TypeError``), or a folder holds no image.
        EngineError
            The engine failed, independent of the image.

        Examples
        --------
        >>> import leukoscope
        >>> predictor = leukoscope.load_model()
        >>> folder = leukoscope.datasets.sample_directory() / "fold_1" / "hem"
        >>> predictions = predictor.predict(folder)
        >>> len(predictions)
        8
        """
        if isinstance(images, ImageError):
            return self._predict_one(Source(name or "image", images, subject))
        if is_one_image(images):
            rows = [
                self._predict_one(source)
                for source in self._expand([as_source(images, name=name, subject=subject)])
            ]
            return rows[0] if len(rows) == 1 else Predictions(rows)
        return Predictions(self.stream(iterate_images(images, subject=subject)))

    def _predict_one(self, source: Source) -> Prediction:
        """Classify one image with every thread of the engine."""
        prepared = self.prepare(source)
        if isinstance(prepared, Prediction):
            return prepared
        if prepared.refusals:
            return self._refuse(prepared)
        began = time.perf_counter()
        forward = self.forward(prepared.cell[None])
        return self._predict(prepared, forward, 0, time.perf_counter() - began)

    def embed(self, images: Any) -> NDArray[np.float32]:
        """Return the embeddings of images, independent of the input checks.

        Parameters
        ----------
        images
            See ``predict``.

        Returns
        -------
        numpy.ndarray
            float32 (N, D), one row per image in their order.

        Raises
        ------
        ImageError
            An image cannot be read.
        """
        rows: list[NDArray[np.float32]] = []
        sources = iterate_images(images)
        while batch := list(islice(sources, _EMBED_BATCH)):
            cells = []
            for source in batch:
                prepared = self.prepare(source)
                if isinstance(prepared, Prediction):
                    reason = prepared.reasons[0]
                    raise ImageError(reason.code, f"{source.name}: {reason.message}")
                cells.append(prepared.cell)
            rows.extend(self.forward(np.stack(cells)).embedding)
        return np.stack(rows) if rows else np.empty((0, self.bundle.manifest.embedding_width), np.float32)

    def stream(self, sources: Iterable[Any] | str | os.PathLike[str]) -> Iterator[Prediction]:
        """Classify any number of images in constant memory; the next ones are decoded while the engine works.

        Parameters
        ----------
        sources
            See ``predict``; an iterator is read no further ahead than the engine can take.

        Yields
        ------
        Prediction
            One for each source, in their order, and for each cell of an uncut photograph. A broken image gives a
            rejected result, never an exception.

        Raises
        ------
        EngineError
            The engine failed.
        """
        iterator = self._expand(iterate_images(sources))
        first = list(islice(iterator, 2))
        if len(first) == 1 and not self.session.streaming:  # one image gets every thread
            yield self._predict_one(first[0])
            return
        waiting: deque[Prediction | _Started] = deque()
        running = 0
        for source in chain(first, iterator):
            prepared = self.prepare(source)
            if isinstance(prepared, Prediction):
                waiting.append(prepared)
            elif prepared.refusals:
                waiting.append(self._refuse(prepared))
            else:
                waiting.append(self._start(prepared))
                running += 1
            while waiting and (running >= self.session.in_flight or isinstance(waiting[0], Prediction)):
                entry = waiting.popleft()
                running -= isinstance(entry, _Started)
                yield self._finish(entry)
        while waiting:
            yield self._finish(waiting.popleft())

    def _expand(self, sources: Iterable[Source]) -> Iterator[Source]:
        return iter(sources) if self.photographs is None else self.photographs.expand(sources)

    def prepare(self, source: Source) -> PreparedCell | Prediction:
        """Read, measure and prepare one image; a ``Prediction`` (rejected) where it cannot be read."""
        began = time.perf_counter() - source.duration_s
        try:
            if isinstance(source.content, ImageError):
                raise source.content
            rgb = (
                source.content
                if isinstance(source.content, np.ndarray)
                else decode_image(source.content, self.limits)
            )
            _check_array(rgb)
        except ImageError as error:
            return self._unreadable(source, error, time.perf_counter() - began)
        manifest = self.bundle.manifest
        uncut = manifest.domain.form == "uncut"
        if not uncut and ground_of(rgb) == "white":
            rgb = white_to_black(rgb)
        placed = self._place(rgb)
        canvas = placed if uncut else clean_ground(placed)
        warnings = () if canvas is placed else (WarningCode.NOISY_GROUND,)
        # Measured on the image itself: contact with its border cannot be detected on the canvas.
        descriptors = describe_cell(canvas if uncut else rgb, manifest.canvas_px, canvas)
        refusals = tuple(check_descriptors(descriptors, self._decision(source).input_limits))
        cell = resize_canvas(canvas, manifest.input_px)
        height, width = (
            rgb.shape[:2] if source.found is None else (source.found.height_px, source.found.width_px)
        )
        return PreparedCell(
            source, cell, canvas, descriptors, width, height, refusals, time.perf_counter() - began, warnings
        )

    def _place(self, rgb: Rgb) -> Rgb:
        """Bring an image to the canvas of the bundle: cut-out cells on black, uncut ones by their scale."""
        manifest, side = self.bundle.manifest, self.bundle.manifest.canvas_px
        target = manifest.domain.microns_per_pixel
        if manifest.domain.form == "cut_out" or target is None:
            return place_on_canvas(rgb, side)
        return place_uncut(rgb, self.microns_per_pixel, target_microns_per_pixel=target, side_px=side)

    def predict_prepared(self, cells: list[PreparedCell]) -> list[Prediction]:
        """Classify prepared images in one batch: for a server that gathers the images of several requests.

        Images that the input checks refuse are answered without a forward pass.
        """
        scored = [prepared for prepared in cells if not prepared.refusals]
        answers: list[Prediction] = []
        if scored:
            began = time.perf_counter()
            forward = self.forward(np.stack([prepared.cell for prepared in scored]))
            share = (time.perf_counter() - began) / len(scored)
            answers = [self._predict(prepared, forward, row, share) for row, prepared in enumerate(scored)]
        remaining = iter(answers)
        return [self._refuse(prepared) if prepared.refusals else next(remaining) for prepared in cells]

    def forward(self, cells: NDArray[np.uint8]) -> ForwardResult:
        """Return the network's outputs for prepared cells uint8 (N, S, S, 3), averaged over the views."""
        if self.turns == 1:
            return self._corrected(self.session.run(cells))
        turned = np.concatenate([turn_cell(cell, self.turns) for cell in cells])
        return self._corrected(join_turned(self.session.run(turned), self.turns))

    def _corrected(self, forward: ForwardResult) -> ForwardResult:
        return forward if self.profile is None else self.profile.corrected(forward)

    def _decision(self, source: Source) -> DecisionParameters:
        return self.bundle.decision if source.found is None else self._decision_of_cut

    def _start(self, prepared: PreparedCell) -> "_Started":
        cells = turn_cell(prepared.cell, self.turns)
        return _Started(prepared, [self.session.start(cells[turn : turn + 1]) for turn in range(self.turns)])

    def _finish(self, entry: "Prediction | _Started") -> Prediction:
        if isinstance(entry, Prediction):
            return entry
        parts = [pending.result() for pending in entry.pending]
        joined = ForwardResult(*map(np.concatenate, zip(*parts, strict=True)))
        # Time of the passes alone, without the time until the caller asks for the result.
        seconds = sum(pending.seconds for pending in entry.pending)
        answer = self._corrected(join_turned(joined, self.turns))
        return self._predict(entry.prepared, answer, 0, seconds)

    def _predict(
        self, prepared: PreparedCell, forward: ForwardResult, row: int, seconds: float
    ) -> Prediction:
        embedding = forward.embedding[row]
        maps = forward.activation_map[row]
        if not np.isfinite(maps).all() or not np.isfinite(embedding).all():
            raise EngineError(
                "the engine answered embeddings or maps that are not finite; run `leukoscope bundle verify`"
            )
        logits = forward.logits[row].astype(np.float64)
        novelty = float(self.bundle.novelty.score(embedding[None])[0])
        verdict = decide(
            logits,
            novelty,
            prepared.descriptors,
            self._decision(prepared.source),
            self.operating_point.name,
            classes=self.classes,
        )
        member = explained_member(forward, row, verdict, self.classes)
        result = self._result(prepared, verdict, logits, self.classes.names[member], seconds)
        return Prediction(
            result,
            verdict,
            prepared.descriptors,
            prepared.canvas,
            forward.map_of(row, member),
            embedding,
            maps,
        )

    def _refuse(self, prepared: PreparedCell) -> Prediction:
        verdict = Verdict(
            Status.REJECTED, reasons=prepared.refusals, threshold=self.operating_point.threshold
        )
        result = self._result(prepared, verdict, None, None, 0.0)
        return Prediction(result, verdict, prepared.descriptors, prepared.canvas)

    def _result(
        self,
        prepared: PreparedCell,
        verdict: Verdict,
        logits: NDArray[np.float64] | None,
        explained: str | None,
        seconds: float,
    ) -> CellResult:
        shown = None if verdict.status is Status.REJECTED else logits
        names, positive = self.classes.names, self.classes.positive_members
        return CellResult(
            source=prepared.source.name,
            status=verdict.status,
            label=verdict.label,
            probability=verdict.probability,
            probabilities=dict(zip(names, verdict.probabilities, strict=False)),
            reasons=self._reasons(prepared, verdict),
            warnings=_warnings(prepared),
            subject=prepared.source.subject,
            model=self.model,
            logit=float(group_log_odds(shown, positive)) if shown is not None and positive else None,
            logits={} if shown is None else dict(zip(names, shown.tolist(), strict=True)),
            threshold=verdict.threshold,
            prediction_set=verdict.prediction_set,
            novelty=verdict.novelty,
            width_px=prepared.width_px,
            height_px=prepared.height_px,
            area_px=prepared.descriptors.area_px,
            **_place_of(prepared.source.found),
            explained_class=explained,
            duration_ms=round(1e3 * (prepared.duration_s + seconds), 3),
            profile=self._profile_reference,
        )

    def _reasons(self, prepared: PreparedCell, verdict: Verdict) -> tuple[ReasonDetail, ...]:
        """Return the reasons; they state if only a part of a rejected image was analyzed."""
        side = self.bundle.manifest.canvas_px
        height, width = prepared.height_px, prepared.width_px
        crop = ""
        cut_out = self.bundle.manifest.domain.form == "cut_out" and prepared.source.found is None
        if cut_out and verdict.status is Status.REJECTED and max(height, width) > side:
            crop = (
                f" The image has {width} x {height} px, only the central "
                f"{min(width, side)} x {min(height, side)} px are analyzed."
            )
        return tuple(ReasonDetail(code=code, message=message + crop) for code, message in verdict.reasons)

    def _unreadable(self, source: Source, error: ImageError, seconds: float) -> Prediction:
        result = CellResult(
            source=source.name,
            status=Status.REJECTED,
            probability=None,
            reasons=(ReasonDetail(code=error.reason, message=_sentence(str(error))),),
            subject=source.subject,
            model=self.model,
            threshold=self.operating_point.threshold,
            warnings=source.found.warnings if source.found else (),
            **_place_of(source.found),
            duration_ms=round(1e3 * seconds, 3),
            profile=self._profile_reference,
        )
        return Prediction(result)


def explained_member(forward: ForwardResult, row: int, verdict: Verdict, classes: ClassSchema) -> int:
    """Return the position of the class whose map is shown: the called class, else the likeliest.

    A graph of one logit explains its second class only.
    """
    if forward.activation_map.shape[1] == 1:
        return 1
    return int(forward.logits[row].argmax()) if verdict.label is None else classes.index(verdict.label)


@dataclass(frozen=True)
class _Started:
    prepared: PreparedCell
    pending: list[Pending]


def _place_of(found: PhotographCell | None) -> dict[str, Any]:
    """Return where a cell was found, as fields of ``CellResult``."""
    if found is None:
        return {}
    return {
        "cell": found.cell,
        "cells": found.cells,
        "box": found.box,
        "microns_per_pixel": found.microns_per_pixel,
    }


def _warnings(prepared: PreparedCell) -> tuple[WarningDetail, ...]:
    own = tuple(WarningDetail(code=code, message=WARNING_TEXTS[code]) for code in prepared.warnings)
    return own if prepared.source.found is None else (*own, *prepared.source.found.warnings)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _check_array(rgb: Rgb) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise UsageError(f"array of {rgb.dtype} {rgb.shape}: expected uint8 RGB (H, W, 3)")
