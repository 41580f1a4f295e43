"""Counters for Prometheus, in a separate registry without interpreter and library versions."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from leukoscope.inference.results import CellResult

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _QueueGauge(Collector):
    """Reads the queue's lengths at the moment of the scrape."""

    def __init__(self, requests: Callable[[], int], jobs: Callable[[], int]) -> None:
        self._lanes = {"requests": requests, "jobs": jobs}

    def collect(self) -> Iterable[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "leukoscope_queue_images", "Images waiting for the engine.", labels=["lane"]
        )
        for lane, length in self._lanes.items():
            gauge.add_metric([lane], length())
        yield gauge


class Metrics:
    """All counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "leukoscope_requests",
            "Answered requests.",
            ["endpoint", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "leukoscope_request_seconds",
            "Time from request to answer.",
            ["endpoint"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.cells = Counter(
            "leukoscope_cells", "Predicted images.", ["decision", "origin"], registry=self.registry
        )
        self.rejections = Counter(
            "leukoscope_rejections", "Refused images.", ["reason"], registry=self.registry
        )
        self.batch_size = Histogram(
            "leukoscope_batch_images",
            "Images in one call of the engine.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self.refused = Counter(
            "leukoscope_busy", "Requests refused because queue or memory was full.", registry=self.registry
        )
        self.reviews = Counter("leukoscope_reviews", "Stored reviews.", ["verdict"], registry=self.registry)

    def watch_queue(self, requests: Callable[[], int], jobs: Callable[[], int]) -> None:
        """Report the queue's lengths from these two functions."""
        self.registry.register(_QueueGauge(requests, jobs))

    def count(self, result: CellResult, origin: str) -> None:
        """Count one classified image."""
        self.cells.labels(result.decision, origin).inc()
        if result.decision == "rejected":
            for reason in result.reasons:
                self.rejections.labels(reason.code.value).inc()

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
