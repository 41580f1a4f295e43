"""Settings of the web application: every limit in one place, with the reason for its default."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from leukoscope.core.errors import UsageError
from leukoscope.core.limits import LARGEST_COUNT, LONGEST_RETENTION_DAYS, LONGEST_WAIT_S
from leukoscope.core.places import expand_user, user_folder

MEBIBYTE = 1024 * 1024
SPARE_THREADS = 16
"""Threads that classification never uses, so that pages, health checks and refusals are answered at any load."""
SHORTEST_TOKEN = 16
LARGEST_BATCH = 4096
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
"""Hosts that mean all addresses of the machine; no client sends them."""


def default_data_folder() -> Path:
    """Return the folder for records: ``$LEUKOSCOPE_DATA``, or ``leukoscope`` in the user's data folder."""
    named = os.environ.get("LEUKOSCOPE_DATA")
    if named:
        return expand_user(named)
    folder = user_folder("data")
    if folder is None:
        raise UsageError(
            "no home folder is known; name the folder for records with --data or $LEUKOSCOPE_DATA"
        )
    return folder


_LARGEST = {
    "open_requests": 1000,
    "wait_s": LONGEST_WAIT_S,
    "artifact_minutes": LONGEST_RETENTION_DAYS * 1440,
}
"""The largest values of limits that are not only counts: threads and times."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. All of it is checked before an image is decoded."""

    file_mb: int = 20
    """One image. A C-NMC cell is 0.6 MB; an uncompressed 2560 x 1920 field is 15 MB."""
    megapixels: int = 16
    """One image. Decoding takes about 10 bytes per pixel."""
    request_mb: int = 64
    """One HTTP request with all its files."""
    request_files: int = 200
    """Images in one request of ``/predict``."""
    job_files: int = 5000
    """Images in one job, over all its requests and archives."""
    archive_mb: int = 1024
    """One ZIP archive, unpacked."""
    archive_ratio: int = 200
    """Unpacked size by packed size; black canvases pack well, bombs pack far better."""
    open_requests: int = 80
    """Requests of ``/predict`` at once; beyond it the answer is 503 with Retry-After."""
    queue_images: int = 256
    """Images of requests that wait for the engine; beyond it requests are refused, too."""
    pending_mb: int = 256
    """Uploads held in memory until they are classified, over all requests and jobs; beyond it the answer is 503."""
    open_jobs: int = 64
    """Jobs that are not finished."""
    artifact_mb: int = 192
    """Drawn cells and heat maps kept in memory for the pages; the oldest go first."""
    artifact_minutes: int = 60
    """How long names and pictures of a finished job stay in memory."""
    wait_s: float = 60.0
    """How long one request waits for its results."""
    note_characters: int = 2000
    """Length of one review's note."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value, largest = getattr(self, name), _LARGEST.get(name, LARGEST_COUNT)
            if not 0 < value <= largest:
                raise ValueError(f"{name} must be above 0 and at most {largest:,}, got {value}")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How the application runs. ``database`` is any SQLAlchemy URL; None means SQLite in ``data``."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines can reach needs a token."""
    port: int = 8000
    """0 takes a free one."""
    data: Path = field(default_factory=default_data_folder)
    """Folder for records and the session key."""
    database: str | None = None
    """SQLAlchemy URL; left out, SQLite in ``data``."""
    token: str | None = None
    """What clients must show, at least 16 characters; left out, everyone who reaches the address may use it."""
    hosts: tuple[str, ...] = ()
    """Host names under which the service may be addressed, in addition to loopback names and ``host``."""
    https: bool = False
    """True behind a proxy that ends TLS: cookies are marked Secure and HSTS is sent."""
    trusted_proxy: str | None = None
    """Address of the proxy in front, whose ``X-Forwarded-For`` names the client; wrong tokens are counted by it."""
    keep_images: bool = False
    """Store cells and heat maps with results."""
    keep_names: bool = False
    """Store file names with results."""
    retention_days: int | None = None
    """Delete cases after so many days; left out, they stay until deleted."""
    lock_wait_s: float = 5.0
    """How long a writer waits for another process before the answer is 'busy'."""
    batch: int = 16
    """Images classified in one pass at most."""
    batch_wait_ms: float = 3.0
    """How long an image waits for others to share its pass."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, got {self.port}")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ValueError(
                f"the token must have at least {SHORTEST_TOKEN} characters, got {len(self.token)}"
            )
        if self.retention_days is not None and not 1 <= self.retention_days <= LONGEST_RETENTION_DAYS:
            raise ValueError(
                f"retention_days must be 1 to {LONGEST_RETENTION_DAYS:,}, got {self.retention_days}"
            )
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise ValueError(f"batch must be 1 to {LARGEST_BATCH:,}, got {self.batch}")
        for name, longest in (("batch_wait_ms", 1000.0 * LONGEST_WAIT_S), ("lock_wait_s", LONGEST_WAIT_S)):
            if not 0 <= getattr(self, name) <= longest:
                raise ValueError(f"{name} must be 0 to {longest:,.0f}, got {getattr(self, name)}")

    @property
    def threads(self) -> int:
        """Request threads; most of them wait for the engine."""
        return self.limits.open_requests + SPARE_THREADS

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.database or f"sqlite:///{self.data / 'records.sqlite3'}"


def is_loopback(host: str) -> bool:
    """True where ``host`` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: WebSettings) -> None:
    """Refuse to listen on an address that others can reach without a token.

    Raises
    ------
    UsageError
        ``host`` is not a loopback address and no token is set.
    """
    if not is_loopback(settings.host) and settings.token is None:
        raise UsageError(
            f"host {settings.host!r} can be reached from other machines, and no token is set; "
            f"set LEUKOSCOPE_TOKEN or --token-file (at least {SHORTEST_TOKEN} characters), or listen on 127.0.0.1"
        )
