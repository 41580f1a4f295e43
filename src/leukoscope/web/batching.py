"""Dynamic batching: many requests share one engine through a bounded queue.

Requests wait in one queue, jobs in another. A batch takes requests first and fills up with job images, but always
leaves one place for a waiting job, so that neither starves. Beyond the queue's length a request is refused at once,
with an estimate of when to retry, instead of waiting for an answer that the client no longer reads.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Condition, Thread

from leukoscope.core.errors import EngineError
from leukoscope.inference.cells import Prediction
from leukoscope.web.metrics import Metrics
from leukoscope.web.prediction import PredictFn, PredictionRequest
from leukoscope.web.problems import busy

logger = logging.getLogger(__name__)

Waiting = tuple[PredictionRequest, "Future[Prediction]"]


class Batcher:
    """The threads that feed the engine.

    Parameters
    ----------
    predict
        Classifies a batch of images in one call; called from ``batch_sources`` threads at once.
    batch
        Images in one call, at most.
    wait_ms
        How long the first image of a batch waits for company.
    queue_images
        Images that may wait in the request lane.
    batch_sources
        Batches on their way at once: with two, one is decoded and sent back while the engine works on the other.
    """

    def __init__(
        self,
        predict: PredictFn,
        metrics: Metrics,
        *,
        batch: int,
        wait_ms: float,
        queue_images: int,
        batch_sources: int = 2,
    ) -> None:
        self._predict, self._metrics = predict, metrics
        self._batch, self._wait_s, self._limit = batch, wait_ms / 1000, queue_images
        self._requests: deque[Waiting] = deque()
        self._jobs: deque[Waiting] = deque()
        self._changed = Condition()
        self._closed = False
        self._seconds_per_image = 0.1
        metrics.watch_queue(lambda: len(self._requests), lambda: len(self._jobs))
        self._threads = [
            Thread(target=self._run, name=f"leukoscope-engine-{number}", daemon=True)
            for number in range(batch_sources)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images in the request lane."""
        return len(self._requests)

    @property
    def wait_s(self) -> int:
        """Seconds until what waits now will be classified, rounded up."""
        return math.ceil((len(self._requests) + len(self._jobs)) * self._seconds_per_image) + 1

    @property
    def alive(self) -> bool:
        """True while images are taken."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, images: Sequence[PredictionRequest]) -> list["Future[Prediction]"]:
        """Queue the first images of one request, all or none.

        Raises
        ------
        Problem
            503 with Retry-After where the queue is full.
        """
        with self._changed:
            self._check_open()
            waiting = len(self._requests)
            if waiting + len(images) > self._limit and not (waiting == 0 and len(images) <= self._limit):
                self._metrics.refused.inc()
                raise busy(
                    f"{waiting} images wait for the engine and the queue takes {self._limit}; "
                    "try again after the given seconds, with fewer images or as a job.",
                    self.wait_s,
                )
            return self._append(self._requests, images)

    def submit_more(self, images: Sequence[PredictionRequest]) -> list["Future[Prediction]"]:
        """Queue further images of a request whose first images were accepted; the caller waits before it sends more."""
        with self._changed:
            self._check_open()
            return self._append(self._requests, images)

    def submit_job(self, images: Sequence[PredictionRequest]) -> list["Future[Prediction]"]:
        """Queue images of a job; the caller holds back by waiting for them before it sends more."""
        with self._changed:
            self._check_open()
            return self._append(self._jobs, images)

    def close(self) -> None:
        """Stop taking images; those that wait get an ``EngineError``."""
        with self._changed:
            self._closed = True
            left = [*self._requests, *self._jobs]
            self._requests.clear()
            self._jobs.clear()
            self._changed.notify_all()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineError("the service is shutting down"))
        for thread in self._threads:
            thread.join(timeout=30)

    def _append(
        self, lane: "deque[Waiting]", images: Sequence[PredictionRequest]
    ) -> list["Future[Prediction]"]:
        entries: list[Waiting] = [(image, Future()) for image in images]
        lane.extend(entries)
        self._changed.notify_all()
        return [future for _, future in entries]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the service is shutting down")

    def _run(self) -> None:
        while True:
            entries = self._collect()
            if not entries:
                return
            started = time.perf_counter()
            self._answer(entries)
            spent = (time.perf_counter() - started) / (len(entries) * len(self._threads))
            self._seconds_per_image += 0.2 * (spent - self._seconds_per_image)
            del entries  # or the images would be held until others come

    def _collect(self) -> list[Waiting]:
        """Wait for a first image and briefly for more; an empty list means the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or self._requests or self._jobs)
                if self._closed:
                    return []
                self._changed.wait_for(
                    lambda: self._closed or len(self._requests) + len(self._jobs) >= self._batch,
                    timeout=self._wait_s,
                )
                taken: list[Waiting] = []
                reserved = 1 if self._jobs and self._batch > 1 else 0
                while self._requests and len(taken) < self._batch - reserved:
                    taken.append(self._requests.popleft())
                while self._jobs and len(taken) < self._batch:
                    taken.append(self._jobs.popleft())
                # A request that gave up waiting has cancelled its images.
                running = [entry for entry in taken if entry[1].set_running_or_notify_cancel()]
                if running:
                    return running

    def _answer(self, entries: list[Waiting]) -> None:
        self._metrics.batch_size.observe(len(entries))
        try:
            predictions = self._predict([image for image, _ in entries])
            if len(predictions) != len(entries):
                raise EngineError(f"the engine gave {len(predictions)} answers for {len(entries)} images")
        except Exception as error:
            if len(entries) == 1:
                logger.error("an image could not be classified: %s", type(error).__name__)
                entries[0][1].set_exception(
                    error
                    if isinstance(error, EngineError)
                    else EngineError("the engine failed on this image")
                )
                return
            for entry in entries:  # one failing image must not affect the others
                self._answer([entry])
            return
        for (_, future), prediction in zip(entries, predictions, strict=True):
            future.set_result(prediction)
