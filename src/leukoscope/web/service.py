"""The service behind pages and API: classify images and store the cases."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore

from leukoscope.inference.cells import Prediction
from leukoscope.inference.results import CellResult
from leukoscope.web.artifacts import Artifacts
from leukoscope.web.batching import Batcher
from leukoscope.web.memory import Reservation
from leukoscope.web.metrics import Metrics
from leukoscope.web.pictures import draw
from leukoscope.web.prediction import PredictionRequest
from leukoscope.web.problems import busy
from leukoscope.web.settings import WebSettings
from leukoscope.web.storage.history import CaseRecord, History, NewCase, UnknownCaseError
from leukoscope.web.uploads import Upload, chunks

Submit = Callable[[Sequence[PredictionRequest]], "list[Future[Prediction]]"]

_Drawn = tuple[NewCase, Mapping[str, bytes]]
"""The record of one image, and its pictures by kind."""

_REQUEST_CHUNK = 32
"""Images of a request that are unpacked and classified together: two full batches, one for each engine thread."""
JOB_CHUNK = 8
"""Images of a job that are classified and stored together: small, so that results appear as they are ready."""


@dataclass(frozen=True, slots=True)
class PredictedUpload:
    """A stored case with the name its caller gave."""

    record: CaseRecord
    name: str

    @property
    def result(self) -> CellResult:
        """The result as the caller sees it: named by the caller's name."""
        return self.record.result.model_copy(update={"source": self.name})


@dataclass(frozen=True, slots=True)
class _Order:
    """Options of a request; ``job`` is None for a request that waits for its results."""

    subject: str | None
    job: str | None
    heat_map: bool

    @property
    def origin(self) -> str:
        return "api" if self.job is None else "job"


class Service:
    """Classifies, records and remembers; shared by all requests."""

    def __init__(
        self,
        settings: WebSettings,
        batcher: Batcher,
        history: History,
        metrics: Metrics,
        artifacts: Artifacts,
    ) -> None:
        self.settings = settings
        self.batcher, self.history, self.metrics = batcher, history, metrics
        self._places = BoundedSemaphore(settings.limits.open_requests)
        self.artifacts = artifacts

    def predict_request(
        self, uploads: Sequence[Upload], subject: str | None, heat_map: bool, memory: Reservation
    ) -> list[PredictedUpload]:
        """Classify the images of one request and store the results: all of them or, on failure, none.

        An archive is unpacked a few images at a time, for which ``memory`` is reserved before.

        Raises
        ------
        Problem
            503 with Retry-After where too many requests or images wait, or their memory is spent.
        """
        with self._place():
            parts = list(chunks(uploads, _REQUEST_CHUNK))
            memory.expand(max((sum(upload.unpacked_bytes for upload in part) for part in parts), default=0))
            end = time.monotonic() + self.settings.limits.wait_s
            order = _Order(subject, None, heat_map)
            scored: list[_Drawn] = []
            for part in parts:
                submit = self.batcher.submit_more if scored else self.batcher.submit
                scored += self._predict(part, order, submit, end)
            return self._store(uploads, scored, order)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            self.metrics.refused.inc()
            raise busy(
                f"{self.settings.limits.open_requests} requests are being classified, which is the limit; "
                "try again after the given seconds, or send many images as a job.",
                self.batcher.wait_s,
            )
        try:
            yield
        finally:
            self._places.release()

    def predict_job(
        self, uploads: Sequence[Upload], subject: str | None, job: str, heat_map: bool
    ) -> list[PredictedUpload]:
        """Classify and store some images of a job."""
        end = time.monotonic() + self.settings.limits.wait_s
        order = _Order(subject, job, heat_map)
        return self._store(uploads, self._predict(uploads, order, self.batcher.submit_job, end), order)

    def name_of(self, record: CaseRecord) -> str:
        """Return the display name of a case: the stored or cached file name, else its id."""
        if record.name is not None:
            return record.name
        artifact = self.artifacts.get(record.case)
        return artifact.name if artifact is not None else record.case

    def picture(self, case: str, kind: str) -> bytes | None:
        """Return a picture of a stored case from memory or, where kept, from the records.

        Raises
        ------
        UnknownCaseError
            The case is not stored; another process may have deleted it.
        """
        try:
            self.history.get(case)
        except UnknownCaseError:
            self.artifacts.forget(case)
            raise
        artifact = self.artifacts.get(case)
        if artifact is not None and kind in artifact.pictures:
            return artifact.pictures[kind]
        return self.history.picture(case, kind)

    def pictures_of(self, case: str) -> set[str]:
        """Return the kinds of picture that can be shown of a case."""
        artifact = self.artifacts.get(case)
        return (set(artifact.pictures) if artifact is not None else set()) | self.history.kept_pictures(case)

    def cases_with_cell(self, cases: Sequence[str]) -> set[str]:
        """Return those of the cases whose cell can be shown."""
        remembered = {
            case
            for case in cases
            if (artifact := self.artifacts.get(case)) is not None and "cell" in artifact.pictures
        }
        return remembered | self.history.with_picture(
            [case for case in cases if case not in remembered], "cell"
        )

    def _predict(self, uploads: Sequence[Upload], order: _Order, submit: Submit, end: float) -> list[_Drawn]:
        """Return the record of each image; the images themselves are released."""
        contents = [upload.read() for upload in uploads]
        predictions = self._wait(
            submit([PredictionRequest(content, order.subject) for content in contents]), end
        )
        keep_images, keep_names = self.settings.keep_images, self.settings.keep_names
        scored: list[_Drawn] = []
        for upload, content, prediction in zip(uploads, contents, predictions, strict=True):
            pictures = draw(prediction) if order.heat_map or keep_images else {}
            new = NewCase(
                result=prediction.result,
                file_sha256=hashlib.sha256(content).hexdigest(),
                origin=order.origin,
                job=order.job,
                name=upload.name if keep_names else None,
                pictures=tuple(pictures.items()) if keep_images else (),
            )
            scored.append((new, pictures))
        return scored

    def _store(
        self, uploads: Sequence[Upload], scored: Sequence[_Drawn], order: _Order
    ) -> list[PredictedUpload]:
        records = self.history.record([new for new, _ in scored], actor=order.origin)
        stored = []
        for record, upload, (_, pictures) in zip(records, uploads, scored, strict=True):
            self.metrics.count(record.result, record.origin)
            if order.job is not None or pictures:
                self.artifacts.put(record.case, upload.name, {} if self.settings.keep_images else pictures)
            stored.append(PredictedUpload(record, upload.name))
        return stored

    def _wait(self, waiting: "Sequence[Future[Prediction]]", end: float) -> list[Prediction]:
        try:
            return [future.result(max(0.0, end - time.monotonic())) for future in waiting]
        except FutureTimeoutError:
            for future in waiting:
                future.cancel()
            limit_s = self.settings.limits.wait_s
            raise busy(
                f"The images were not classified within {limit_s:g} s; nothing was stored.", 5
            ) from None
