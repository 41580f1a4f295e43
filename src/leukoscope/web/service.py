"""The core behind pages and API: images in, judged and stored cases out."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore

from leukoscope.runtime.predictor import Prediction
from leukoscope.runtime.results import CellResult
from leukoscope.web.artefacts import Artefacts
from leukoscope.web.batching import Batcher
from leukoscope.web.metrics import Metrics
from leukoscope.web.pictures import draw
from leukoscope.web.prediction import ToJudge
from leukoscope.web.problems import busy, too_large
from leukoscope.web.settings import MEBIBYTE, WebSettings
from leukoscope.web.storage.history import CaseRecord, History, NewCase
from leukoscope.web.uploads import Upload

Submit = Callable[[Sequence[ToJudge]], "list[Future[Prediction]]"]

JOB_CHUNK = 8
"""Images of a job that are judged and stored together: small, so that results appear as they are ready."""


@dataclass(frozen=True, slots=True)
class JudgedUpload:
    """A stored case with the name its caller gave."""

    record: CaseRecord
    name: str

    @property
    def result(self) -> CellResult:
        """The result as the caller sees it: named by the caller's name."""
        return self.record.result.model_copy(update={"source": self.name})


class Service:
    """Judges, records and remembers; shared by all requests."""

    def __init__(
        self,
        settings: WebSettings,
        batcher: Batcher,
        history: History,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.batcher, self.history, self.metrics = batcher, history, metrics
        limits = settings.limits
        self._places = BoundedSemaphore(limits.open_requests)
        self.artefacts = Artefacts(limits.artefact_mb * MEBIBYTE, limits.artefact_minutes * 60.0)

    def judge_request(
        self, uploads: Sequence[Upload], subject: str | None, heat_map: bool
    ) -> list[JudgedUpload]:
        """Judge the images of one request and store them; all of them or, on failure, none.

        Raises
        ------
        Problem
            503 with Retry-After where too many requests or images wait; 413 where the images are too large.
        """
        with self._place():
            return self._judge_request(uploads, subject, heat_map)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            self.metrics.refused.inc()
            raise busy(
                f"{self.settings.limits.open_requests} requests are being judged, which is the limit; "
                "try again after the given seconds, or send many images as a job.",
                self.batcher.wait_s,
            )
        try:
            yield
        finally:
            self._places.release()

    def _judge_request(
        self, uploads: Sequence[Upload], subject: str | None, heat_map: bool
    ) -> list[JudgedUpload]:
        contents: list[bytes] = []
        held, most = 0, self.settings.limits.pending_mb * MEBIBYTE
        for upload in uploads:
            contents.append(upload.read())
            held += len(contents[-1])
            if held > most:
                raise too_large(f"The images unpack to more than {most // MEBIBYTE} MB; send them as a job.")
        predictions = self._judge(contents, subject, self.batcher.submit)
        return self._store(uploads, contents, predictions, None, heat_map)

    def judge_job(
        self, uploads: Sequence[Upload], subject: str | None, job: str, heat_map: bool
    ) -> list[JudgedUpload]:
        """Judge and store some images of a job."""
        contents = [upload.read() for upload in uploads]
        predictions = self._judge(contents, subject, self.batcher.submit_job)
        return self._store(uploads, contents, predictions, job, heat_map)

    def name_of(self, record: CaseRecord) -> str:
        """Return what a page calls a case: the kept or still remembered file name, else its id."""
        if record.name is not None:
            return record.name
        artefact = self.artefacts.get(record.case)
        return artefact.name if artefact is not None else record.case

    def picture(self, case: str, kind: str) -> bytes | None:
        """Return a picture of a case from memory or, where kept, from the records."""
        artefact = self.artefacts.get(case)
        if artefact is not None and kind in artefact.pictures:
            return artefact.pictures[kind]
        return self.history.picture(case, kind)

    def pictures_of(self, case: str) -> set[str]:
        """Return the kinds of picture that can be shown of a case."""
        artefact = self.artefacts.get(case)
        return (set(artefact.pictures) if artefact is not None else set()) | self.history.kept_pictures(case)

    def cases_with_cell(self, cases: Sequence[str]) -> set[str]:
        """Return those of the cases whose cell can be shown."""
        remembered = {
            case
            for case in cases
            if (artefact := self.artefacts.get(case)) is not None and "cell" in artefact.pictures
        }
        return remembered | self.history.with_picture(
            [case for case in cases if case not in remembered], "cell"
        )

    def _judge(self, contents: Sequence[bytes], subject: str | None, submit: Submit) -> list[Prediction]:
        waiting = submit([ToJudge(content, subject) for content in contents])
        return _wait(waiting, self.settings.limits.wait_s)

    def _store(
        self,
        uploads: Sequence[Upload],
        contents: Sequence[bytes],
        predictions: Sequence[Prediction],
        job: str | None,
        heat_map: bool,
    ) -> list[JudgedUpload]:
        keep_images, keep_names = self.settings.keep_images, self.settings.keep_names
        origin = "api" if job is None else "job"
        wanted = heat_map or keep_images
        drawn = [draw(prediction) if wanted else {} for prediction in predictions]
        new = [
            NewCase(
                result=prediction.result,
                content=content,
                origin=origin,
                job=job,
                name=upload.name if keep_names else None,
                pictures=tuple(pictures.items()) if keep_images else (),
            )
            for upload, content, prediction, pictures in zip(
                uploads, contents, predictions, drawn, strict=True
            )
        ]
        records = self.history.record(new, actor=origin)
        judged = []
        for record, upload, pictures in zip(records, uploads, drawn, strict=True):
            self.metrics.count(record.result, origin)
            if job is not None or pictures:
                self.artefacts.put(record.case, upload.name, {} if keep_images else pictures)
            judged.append(JudgedUpload(record, upload.name))
        return judged


def _wait(waiting: "Sequence[Future[Prediction]]", wait_s: float) -> list[Prediction]:
    end = time.monotonic() + wait_s
    try:
        return [future.result(max(0.0, end - time.monotonic())) for future in waiting]
    except FutureTimeoutError:
        for future in waiting:
            future.cancel()
        raise busy(f"The images were not judged within {wait_s:g} s; nothing was stored.", 5) from None
