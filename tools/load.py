"""Many clients at once against ``leukoscope serve``: answers, latency and memory.

    python tools/load.py --clients 64 --seconds 60

Starts the real command on a free port with records in a temporary folder, sends one cell per request from every client
without a pause, and samples the server's memory. Exits with 1 if an answer was neither a result nor a 503
with Retry-After, if memory grew, or if the audit log does not verify afterwards. Clients and server
share the machine; the measurements include both.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

GROWTH_LIMIT_MB = 48.0
"""Largest growth of resident memory between a quarter of the run and its end."""


@dataclass
class Tally:
    """Measurements of the clients."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    processor_s: float = 0.0
    health_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: str, seconds: float | None = None) -> None:
        """Count one answer."""
        with self.lock:
            self.statuses[status] += 1
            if seconds is not None:
                self.latencies_s.append(seconds)


def main() -> int:
    """Run the load and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle; the shipped one by default")
    parser.add_argument(
        "--requests",
        type=int,
        default=80,
        help="requests that are classified at once; beyond it the answer is 503",
    )
    options = parser.parse_args()
    bodies = [_multipart(path) for path in _sample_cells()]
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        process = _start(port, Path(folder), options.bundle, options.requests)
        try:
            _wait_until_ready(port, process)
            tally = _press(port, process.pid, options.clients, options.seconds, bodies)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        audit = subprocess.run(
            [sys.executable, "-m", "leukoscope.cli.main", "audit", "verify", "--data", folder, "--json"],
            capture_output=True,
            check=False,
        )
    summary = _summary(tally, options, audit.returncode == 0)
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0 if summary["passed"] else 1


def _press(port: int, pid: int, clients: int, seconds: float, bodies: list[tuple[bytes, str]]) -> Tally:
    tally, end = Tally(), time.monotonic() + seconds
    used_before = _processor_s(pid)
    threads = [threading.Thread(target=_client, args=(port, end, bodies, n, tally)) for n in range(clients)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        tally.memory_mb.append(_resident_mb(pid))
        _ask_health(port, tally)
        time.sleep(0.5)
    for thread in threads:
        thread.join(120)
    tally.processor_s = _processor_s(pid) - used_before
    return tally


def _ask_health(port: int, tally: Tally) -> None:
    """Time the health check, which must be answered however many images wait."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    started = time.monotonic()
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        tally.add(f"health check failed: {type(error).__name__}")
    else:
        tally.health_s.append(time.monotonic() - started)
        if status != 200:
            tally.add(f"health check: {status}")
    finally:
        connection.close()


def _client(port: int, end: float, bodies: list[tuple[bytes, str]], number: int, tally: Tally) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    step = number
    while time.monotonic() < end:
        body, kind = bodies[step % len(bodies)]
        step += 1
        started = time.monotonic()
        try:
            connection.request("POST", "/api/v1/predict", body, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            tally.add(f"failed: {type(error).__name__}")
            connection.close()
            continue
        seconds = time.monotonic() - started
        if answer.status == 200 and json.loads(content)[0]["case"]:
            tally.add("200", seconds)
        elif answer.status == 503 and answer.headers.get("Retry-After", "").isdigit():
            tally.add("503 with Retry-After")
            time.sleep(min(5.0, float(answer.headers["Retry-After"])))
        else:
            tally.add(str(answer.status))
    connection.close()


def _summary(tally: Tally, options: argparse.Namespace, audit_intact: bool) -> dict[str, object]:
    settled = tally.memory_mb[len(tally.memory_mb) // 4 :]
    growth = statistics.mean(settled[-4:]) - statistics.mean(settled[:4]) if len(settled) >= 8 else 0.0
    latencies = sorted(tally.latencies_s)
    polite = {"200", "503 with Retry-After"}
    errors = {status: count for status, count in tally.statuses.items() if status not in polite}
    passed = bool(latencies) and not errors and growth <= GROWTH_LIMIT_MB and audit_intact
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "open_requests": options.requests,
        "cores": len(os.sched_getaffinity(0)),
        "answers": dict(tally.statuses),
        "errors": errors,
        "images_per_second": round(len(latencies) / options.seconds, 1),
        "server_processor_ms_per_image": round(1e3 * tally.processor_s / max(1, len(latencies)), 1),
        "latency_p50_s": round(_quantile(latencies, 0.50), 3),
        "latency_p95_s": round(_quantile(latencies, 0.95), 3),
        "latency_max_s": round(max(latencies, default=0.0), 3),
        "health_check_max_s": round(max(tally.health_s, default=0.0), 3),
        "memory_peak_mb": round(max(tally.memory_mb, default=0.0), 1),
        "memory_growth_mb": round(growth, 1),
        "audit_intact": audit_intact,
        "passed": passed,
    }


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _sample_cells() -> list[Path]:
    from leukoscope.assets import sample_cells_directory

    return sorted(path for path in sample_cells_directory().rglob("UID_*") if path.is_file())


def _multipart(path: Path) -> tuple[bytes, str]:
    boundary = "leukoscope-load"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _start(port: int, folder: Path, bundle: Path | None, requests: int) -> "subprocess.Popen[bytes]":
    config = folder / "serve.toml"
    config.write_text(f"[limits]\nopen_requests = {requests}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "leukoscope.cli.main",
        "serve",
        "--port",
        str(port),
        "--data",
        str(folder),
    ]
    command += ["--config", str(config), *(["--bundle", str(bundle)] if bundle else [])]
    return subprocess.Popen(command, stderr=None)


def _wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(240):
        if process.poll() is not None:
            sys.exit("the service did not start; run `leukoscope serve` by hand to see why")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.25)
    sys.exit("the service was not ready within a minute")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _resident_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)


def _processor_s(pid: int) -> float:
    """Return the processor time the process has used, which another program's load does not change."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
