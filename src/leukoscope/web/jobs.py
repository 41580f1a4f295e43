"""Large batches: images are accepted immediately and classified in order, while the client polls the progress.

Images of a job are in memory until they are classified; results are stored as they are ready and survive the job and a
restart. Images that were not classified when the process ended must be sent again.
"""

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from threading import Condition, Thread

from leukoscope.core.errors import LeukoscopeError
from leukoscope.web.memory import Reservation
from leukoscope.web.problems import Problem, busy, not_found, too_large
from leukoscope.web.service import JOB_CHUNK, Service
from leukoscope.web.storage.database import StorageError
from leukoscope.web.uploads import Upload, chunks

logger = logging.getLogger(__name__)

_RETRY_S = (0.5, 1.0, 2.0, 4.0)
_IDLE_S = 900.0
"""A job that waits for more files and gets none for so long is closed."""


class JobState(StrEnum):
    """State of a job."""

    RECEIVING = "receiving"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class _Parcel:
    """The images of one request, and the memory set aside for them until the last of them is classified."""

    uploads: deque[Upload]
    memory: Reservation


@dataclass(slots=True)
class Job:
    """One batch and how far it is."""

    job: str
    subject: str | None
    heat_map: bool
    created_at: datetime
    receiving: bool
    total: int = 0
    done: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    failure: str | None = None
    cancelled: bool = False
    touched: float = field(default_factory=time.monotonic)
    parcels: deque[_Parcel] = field(default_factory=deque)

    @property
    def state(self) -> JobState:
        """Return the current state of the job."""
        if self.cancelled:
            return JobState.CANCELLED
        if self.failure is not None:
            return JobState.FAILED
        if self.receiving:
            return JobState.RECEIVING
        return JobState.DONE if self.done == self.total else JobState.RUNNING

    @property
    def is_open(self) -> bool:
        """True while the job may still give results."""
        return self.state in (JobState.RECEIVING, JobState.RUNNING)

    def drop_parcels(self) -> None:
        """Forget the images that wait, and release their memory."""
        while self.parcels:
            self.parcels.popleft().memory.release()


class JobQueue:
    """All jobs of the process and the thread that works them off, a few images of each in turn."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.settings.limits
        self._jobs: dict[str, Job] = {}
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="leukoscope-jobs", daemon=True)
        self._thread.start()

    def create(
        self,
        uploads: Sequence[Upload],
        memory: Reservation,
        *,
        subject: str | None,
        more: bool,
        heat_map: bool,
    ) -> Job:
        """Open a job.

        Parameters
        ----------
        uploads
            Its first images.
        memory
            What the caller holds for them; the job takes it over if it takes the images.
        subject
            Whom the images belong to.
        more
            Keep the job open for further images.
        heat_map
            Draw heat maps.

        Raises
        ------
        Problem
            503 if too many jobs are open, 413 if there are too many images.
        """
        with self._changed:
            self._forget_old()
            open_jobs = sum(job.is_open for job in self._jobs.values())
            if open_jobs >= self._limits.open_jobs:
                raise busy(f"{open_jobs} jobs are open, at most {self._limits.open_jobs} are taken.", 10)
            job = Job(secrets.token_urlsafe(16), subject, heat_map, datetime.now(UTC), receiving=True)
            self._take(job, uploads, memory, more)
            self._jobs[job.job] = job
            self._changed.notify_all()
        return job

    def add(self, name: str, uploads: Sequence[Upload], memory: Reservation, *, more: bool) -> Job:
        """Add images, and the memory held for them, to a job that is still receiving; ``more=False`` closes it."""
        with self._changed:
            job = self._get(name)
            if not job.receiving or not job.is_open:
                raise Problem(409, "job-closed", "Job closed", f"The job is {job.state}; open a new one.")
            self._take(job, uploads, memory, more)
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job:
        """Return a job; 404 where it is unknown or over for long."""
        with self._changed:
            self._forget_old()
            return self._get(name)

    def cancel(self, name: str) -> Job:
        """Stop a job; stored results are kept."""
        with self._changed:
            job = self._get(name)
            if job.is_open:
                job.cancelled = True
            job.drop_parcels()
            return job

    def close(self) -> None:
        """Stop working."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=30)

    def _get(self, name: str) -> Job:
        job = self._jobs.get(name)
        if job is None:
            raise not_found("There is no such job in memory; stored results of it are in the history.")
        return job

    def _take(self, job: Job, uploads: Sequence[Upload], memory: Reservation, more: bool) -> None:
        if job.total + len(uploads) > self._limits.job_files:
            raise too_large(
                f"A job takes at most {self._limits.job_files} images; open another for the rest."
            )
        if uploads:
            job.parcels.append(_Parcel(deque(uploads), memory.hand_over()))
        job.total += len(uploads)
        job.receiving, job.touched = more, time.monotonic()

    def _forget_old(self) -> None:
        now, keep_s = time.monotonic(), self._limits.artifact_minutes * 60.0
        for job in list(self._jobs.values()):
            if job.receiving and now - job.touched > _IDLE_S:
                job.receiving = False
            if not job.is_open and now - job.touched > keep_s:
                del self._jobs[job.job]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or any(job.parcels for job in self._jobs.values())
                )
                if self._closed:
                    return
                waiting = [job for job in self._jobs.values() if job.parcels]
            for job in waiting:
                self._work(job)

    def _work(self, job: Job) -> None:
        with self._changed:
            if self._closed or not job.parcels:
                return
            parcel = job.parcels[0]
            uploads = next(chunks(list(islice(parcel.uploads, JOB_CHUNK)), JOB_CHUNK))
        failure = self._predict(job, uploads)
        with self._changed:
            job.touched = time.monotonic()
            if failure is not None:
                job.failure = failure
                job.drop_parcels()
                return
            job.done += len(uploads)
            for _ in uploads:
                parcel.uploads.popleft()
            if not parcel.uploads and job.parcels and job.parcels[0] is parcel:
                job.parcels.popleft().memory.release()

    def _predict(self, job: Job, uploads: list[Upload]) -> str | None:
        """Classify and store; return a message for the user if that is not possible."""
        for pause_s in (*_RETRY_S, None):
            try:
                scored = self._service.predict_job(uploads, job.subject, job.job, job.heat_map)
            except (StorageError, Problem) as error:
                if pause_s is not None and not self._closed:
                    time.sleep(pause_s)
                    continue
                return error.detail if isinstance(error, Problem) else str(error)
            except LeukoscopeError as error:
                return str(error)
            except Exception as error:
                logger.error("a job failed", exc_info=error)
                return "The images could not be classified; the reason has been logged."
            with self._changed:
                job.decisions.update(item.result.decision for item in scored)
            return None
        raise AssertionError("unreachable")
