"""Access control of requests, and security headers of responses.

Three independent checks run before every route: the Host header (a page of another site that rebinds its name to
127.0.0.1 is refused), the token where one is set, and for changes the origin and the form token.
"""

import hashlib
import hmac
import secrets
import time
from collections import deque
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, redirect, request, session, url_for
from werkzeug.wrappers import Response as BaseResponse

from leukoscope.core.errors import UsageError
from leukoscope.core.io import replacing
from leukoscope.web.memory import Memory, admit_body, release_body
from leukoscope.web.problems import Problem
from leukoscope.web.settings import WebSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_ENDPOINTS = frozenset(
    {"static", "pages.class_style", "pages.sign_in", "pages.sign_in_send", "api.health", "api.ready"}
)
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers then send "Origin: null" with our own forms, as foreign pages in a sandbox do.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class FailureLimiter:
    """Slows down guessing: at most ``limit`` failed sign-ins in ``window_s`` seconds from one address.

    By address, so that failed attempts of one client do not lock out clients that have the token.
    """

    def __init__(self, limit: int = 10, window_s: float = 60.0) -> None:
        self.limit, self.window_s = limit, window_s
        self._failures: deque[tuple[float, str | None]] = deque()
        self._lock = Lock()

    def wait_s(self, address: str | None) -> int:
        """Seconds until the next try from ``address`` is allowed; 0 where it is allowed now."""
        with self._lock:
            now = time.monotonic()
            while self._failures and self._failures[0][0] <= now - self.window_s:
                self._failures.popleft()
            times = [moment for moment, who in self._failures if who == address]
            if len(times) < self.limit:
                return 0
            return int(times[-self.limit] + self.window_s - now) + 1

    def failed(self, address: str | None) -> None:
        """Count one failure."""
        with self._lock:
            self._failures.append((time.monotonic(), address))


class AccessControl:
    """The three checks, with what they need to remember."""

    def __init__(self, settings: WebSettings) -> None:
        names = {*_LOOPBACK_NAMES, settings.host, f"[{settings.host}]", *settings.hosts}
        self.hosts = frozenset(name.lower() for name in names)
        # Only the digest stays in memory, and it is compared in constant time.
        self.digest = _digest(settings.token) if settings.token is not None else None
        self.limiter = FailureLimiter()

    def check_host(self) -> None:
        """Refuse a Host header that names another service."""
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        except ValueError:
            name = ""
        if name.lower() not in self.hosts and f"[{name.lower()}]" not in self.hosts:
            raise Problem(
                421,
                "misdirected",
                "Misdirected request",
                "This service is not known under the name it was asked by; the operator can add it with --allow-host.",
            )

    def check_token(self) -> BaseResponse | None:
        """Let through who has the token; send a browser to the sign-in page, refuse a program."""
        if self.digest is None or request.endpoint in _OPEN_ENDPOINTS or self.is_signed_in():
            return None
        given = request.headers.get("Authorization", "")
        if given:
            self.verify(given.removeprefix("Bearer ").strip())
            return None
        if request.path.startswith("/api/") or request.path == "/metrics":
            raise _unauthorized("Send the header 'Authorization: Bearer TOKEN'.")
        if request.method not in SAFE_METHODS:
            raise _unauthorized("Your session has ended; nothing was stored. Sign in and try again.")
        return redirect(url_for("pages.sign_in", next=request.full_path.rstrip("?")))

    def verify(self, token: str) -> None:
        """Check a token given by a client; of wrong ones, too many are refused for a while.

        A valid token is always accepted: users at one address cannot lock each other out.
        """
        if self.digest is not None and hmac.compare_digest(_digest(token), self.digest):
            return
        wait_s = self.limiter.wait_s(request.remote_addr)
        if wait_s:
            detail = "Too many failed sign-ins; wait before the next try."
            raise Problem(429, "too-many-failures", "Too many failures", detail, {"Retry-After": str(wait_s)})
        self.limiter.failed(request.remote_addr)
        services = current_app.extensions["leukoscope"]
        services.history.note("sign-in failed", "unknown")
        raise _unauthorized("The token is wrong.")

    def sign_in(self) -> None:
        """Remember in the session that the token was given; a new token on the server ends such sessions."""
        session.clear()
        session["token"] = _digest(self.digest or "")

    def is_signed_in(self) -> bool:
        """True where the session was opened with the present token."""
        given = session.get("token")
        if self.digest is None or not isinstance(given, str):
            return False
        return hmac.compare_digest(given, _digest(self.digest))

    def check_change(self) -> None:
        """For changes: a browser's request must come from our own pages and carry the form token.

        A program that sends neither cookie nor Origin cannot be steered by a foreign page and needs no form token.
        """
        if request.method in SAFE_METHODS:
            return
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()
        if foreign or (site is not None and site not in ("same-origin", "none")):
            raise _forbidden("The request comes from a page of another site.")
        has_bearer = self.digest is not None and request.headers.get("Authorization", "").startswith(
            "Bearer "
        )
        from_browser = origin is not None or site is not None or bool(request.cookies)
        if has_bearer or not from_browser:
            return
        given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token") or ""
        if not hmac.compare_digest(given.encode(), str(session.get("csrf", "")).encode()) or not given:
            raise _forbidden("The page is too old or cookies are off: reload the page and try again.")


def form_token() -> str:
    """Return this session's form token, made at its first use."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def secret_key(folder: Path) -> bytes:
    """Return the key that signs session cookies, made at the first start and readable by the owner only.

    Raises
    ------
    UsageError
        The folder cannot be written, or the key file was damaged.
    """
    path = folder / "session.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            with replacing(path) as part:
                part.touch(mode=0o600)
                part.write_bytes(secrets.token_bytes(32))
        key = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be used for records: {error.strerror}; choose another with --data"
        ) from None
    if len(key) < 32:
        raise UsageError(f"{path}: damaged session key, {len(key)} bytes; delete the file to make a new one")
    return key


def register(app: Flask, settings: WebSettings, memory: Memory) -> AccessControl:
    """Put the checks before and the headers behind every route."""
    access = AccessControl(settings)
    app.config.update(
        SECRET_KEY=secret_key(settings.data),
        SESSION_COOKIE_NAME="leukoscope",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=settings.https,
    )

    @app.before_request
    def check() -> BaseResponse | None:
        access.check_host()
        refused = access.check_token()
        if refused is None:
            admit_body(memory)  # the next check may read the form
            access.check_change()
        return refused

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        release_body()

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if settings.https:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    app.jinja_env.globals["form_token"] = form_token
    return access


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _unauthorized(detail: str) -> Problem:
    return Problem(
        401, "unauthorised", "Sign-in needed", detail, {"WWW-Authenticate": 'Bearer realm="leukoscope"'}
    )


def _forbidden(detail: str) -> Problem:
    return Problem(403, "forbidden", "Refused", detail)
