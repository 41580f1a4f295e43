"""Running the application: waitress in front, old records out once an hour, an orderly end."""

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from flask import Flask

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.web.application import close_app
from leukoscope.web.context import services
from leukoscope.web.settings import EVERY_ADDRESS, MEBIBYTE, WebSettings

logger = logging.getLogger(__name__)

_PURGE_EVERY_S = 3600.0
_CHANNEL_TIMEOUT_S = 60
"""A client that sends nothing for so long is cut off."""
_CONNECTIONS = 400
_BODY_IN_MEMORY = 2 * MEBIBYTE
"""Larger request bodies go through a nameless temporary file while they arrive, so that slow clients hold no memory."""


def serve(app: Flask, on_ready: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Parameters
    ----------
    on_ready
        Called with the address once the service listens.

    Raises
    ------
    UsageError
        The address is taken or cannot be used.
    """
    import waitress

    settings = services(app).settings
    try:
        server = waitress.create_server(
            app,
            host=settings.host.strip("[]"),
            port=settings.port,
            threads=settings.threads,
            # Flask refuses requests that are too large with a clear answer; this is a second limit.
            max_request_body_size=(settings.limits.request_mb + 1) * MEBIBYTE,
            inbuf_overflow=_BODY_IN_MEMORY,
            connection_limit=_CONNECTIONS,
            channel_timeout=_CHANNEL_TIMEOUT_S,
            ident=None,
            expose_tracebacks=False,
            clear_untrusted_proxy_headers=True,
            **_proxy(settings),
        )
    except (OSError, ValueError) as error:
        close_app(app)
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another with --port"
        ) from None
    # waitress warns about every request that waits for a thread; in a queue waiting is normal.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    stop = threading.Event()
    threading.Thread(
        target=_purge_regularly, args=(app, stop), name="leukoscope-retention", daemon=True
    ).start()
    try:
        with suppress(ValueError):  # not in the main thread: the caller stops the server in another way
            signal.signal(signal.SIGTERM, _interrupt)
        on_ready(_address(settings, server))
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        server.close()
        close_app(app)


def purge(app: Flask) -> int:
    """Remove cases older than the retention time; return their number."""
    parts = services(app)
    if parts.settings.retention_days is None:
        return 0
    return parts.history.purge(parts.settings.retention_days, actor="system")


def _purge_regularly(app: Flask, stop: threading.Event) -> None:
    while True:
        try:
            removed = purge(app)
        except LeukoscopeError as error:
            logger.error("old records could not be removed: %s", error)
        else:
            if removed:
                logger.info("removed %d cases after their retention time", removed)
        if stop.wait(_PURGE_EVERY_S):
            return


def _proxy(settings: WebSettings) -> dict[str, object]:
    """Return waitress' settings for the proxy in front, which is trusted only for the client's address."""
    if settings.trusted_proxy is None:
        return {}
    return {
        "trusted_proxy": settings.trusted_proxy,
        "trusted_proxy_count": 1,
        "trusted_proxy_headers": {"x-forwarded-for"},
    }


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _address(settings: WebSettings, server: object) -> str:
    """Return an address under which the service answers: one that ``AccessControl.check_host`` accepts."""
    port = getattr(server, "effective_port", None)
    if port is None:  # several addresses of one name
        callbacks = [
            callback
            for callback in getattr(server, "map", {}).values()
            if hasattr(callback, "effective_port")
        ]
        port = callbacks[0].effective_port if callbacks else 0
    shown = settings.host.strip("[]")
    if shown in EVERY_ADDRESS:
        shown = settings.hosts[0] if settings.hosts else "127.0.0.1"
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
