"""Batching: concurrent requests form batches, a full queue refuses, a bad image affects no other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from leukoscope.core.errors import EngineError
from leukoscope.inference.cells import Prediction
from leukoscope.inference.results import CellResult, ModelReference
from leukoscope.web.batching import Batcher
from leukoscope.web.metrics import Metrics
from leukoscope.web.prediction import PredictionRequest
from leukoscope.web.problems import Problem

PATIENCE_S = 250
"""How long a step may take: nothing on an idle machine comes near it."""
MODEL = ModelReference(name="echo", version="1", sha256="b" * 64)


class Echo:
    """A classify that answers with the image's own bytes; it can be held still and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images):
        self.entered.release()
        assert self.go.wait(PATIENCE_S)
        self.batches.append([image.content for image in images])
        if any(image.content == b"poison" for image in images):
            raise ValueError("boom")
        return [
            Prediction(
                CellResult(source=image.content.decode(), decision="normal", probability=0.1, model=MODEL)
            )
            for image in images
        ]


@pytest.fixture
def predict():
    return Echo()


@pytest.fixture
def make_batcher(predict):
    made = []

    def make(batch=8, wait_ms=5.0, queue_images=16, batch_sources=1):
        made.append(
            Batcher(
                predict,
                Metrics(),
                batch=batch,
                wait_ms=wait_ms,
                queue_images=queue_images,
                batch_sources=batch_sources,
            )
        )
        return made[-1]

    yield make
    predict.go.set()
    for batcher in made:
        batcher.close()


def images(*names: str) -> list[PredictionRequest]:
    return [PredictionRequest(name.encode()) for name in names]


def hold(predict, batcher) -> None:
    """Keep the engine busy with one image, so that what comes next waits."""
    predict.go.clear()
    batcher.submit(images("first"))
    assert predict.entered.acquire(timeout=PATIENCE_S)
    assert batcher.waiting == 0


def test_concurrent_requests_are_batched_and_get_their_results(predict, make_batcher):
    batcher = make_batcher(queue_images=500, batch_sources=2)

    def ask(number: int) -> bool:
        futures = batcher.submit(images(f"{number}a", f"{number}b"))
        return [future.result(PATIENCE_S).result.source for future in futures] == [f"{number}a", f"{number}b"]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(100)))
    assert sum(map(len, predict.batches)) == 200
    assert max(map(len, predict.batches)) <= 8
    assert len(predict.batches) <= 100  # the two images of a request are never apart


def test_a_second_batch_is_taken_while_the_first_is_classified(predict, make_batcher):
    batcher = make_batcher(batch_sources=2)
    hold(predict, batcher)
    second = batcher.submit(images("second"))[0]
    assert predict.entered.acquire(timeout=PATIENCE_S)
    assert second.running()
    third = batcher.submit(images("third"))[0]
    assert batcher.waiting == 1  # both feeders are at work
    predict.go.set()
    assert third.result(PATIENCE_S).result.source == "third"


def test_a_full_queue_refuses_at_once_and_names_a_time(predict, make_batcher):
    batcher = make_batcher(queue_images=3)
    hold(predict, batcher)
    batcher.submit(images("1", "2"))
    with pytest.raises(Problem) as caught:  # the engine is blocked: waiting for it would never end
        batcher.submit(images("3", "4"))
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert batcher.waiting == 2  # all of a request or none
    batcher.submit(images("3"))


def test_a_bad_image_does_not_affect_the_batch(predict, make_batcher):
    batcher = make_batcher()
    hold(predict, batcher)
    good1, bad, good2 = batcher.submit(images("a", "poison", "b"))
    predict.go.set()
    assert good1.result(PATIENCE_S).result.source == "a"
    assert good2.result(PATIENCE_S).result.source == "b"
    with pytest.raises(EngineError) as caught:
        bad.result(PATIENCE_S)
    assert "boom" not in str(caught.value)
    assert batcher.submit(images("after"))[0].result(PATIENCE_S).result.source == "after"


def test_requests_go_first_but_jobs_are_not_starved(predict, make_batcher):
    batcher = make_batcher(batch=4, queue_images=100)
    hold(predict, batcher)
    jobs = batcher.submit_job(images("job1", "job2"))
    requests = batcher.submit(images(*[f"r{number}" for number in range(9)]))
    predict.go.set()
    for future in [*jobs, *requests]:
        future.result(PATIENCE_S)
    assert predict.batches[1] == [b"r0", b"r1", b"r2", b"job1"]
    assert predict.batches[2] == [b"r3", b"r4", b"r5", b"job2"]


def test_cancelled_images_are_not_classified(predict, make_batcher):
    batcher = make_batcher()
    hold(predict, batcher)
    given_up, wanted = batcher.submit(images("given up", "wanted"))
    assert given_up.cancel()
    predict.go.set()
    wanted.result(PATIENCE_S)
    assert b"given up" not in [content for batch in predict.batches for content in batch]


def test_closing_answers_waiting_requests(predict, make_batcher):
    batcher = make_batcher()
    hold(predict, batcher)
    waiting = batcher.submit(images("a"))[0]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    with pytest.raises(EngineError):
        waiting.result(PATIENCE_S)
    predict.go.set()
    closer.join(PATIENCE_S)
    assert not batcher.alive
    with pytest.raises(EngineError):
        batcher.submit(images("late"))
