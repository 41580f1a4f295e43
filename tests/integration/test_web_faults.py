"""The process is killed, the disk is full, the records are locked: nothing acknowledged is lost, answers are clear."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from leukoscope.web.application import close_app, create_app
from leukoscope.web.model import ServedModel
from leukoscope.web.prediction import make_predict_fn
from leukoscope.web.settings import MEBIBYTE, Limits, WebSettings
from leukoscope.web.storage.audit import verify
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.history import History, UnknownCaseError
from web_fixtures import MakeApp, cells, form, wait_for_job


def start(bundle: Path, data: Path, *options: str, **environment: str) -> tuple["subprocess.Popen[str]", str]:
    """Start the real command on a free port and wait for its address."""
    command = [sys.executable, "-m", "leukoscope.cli.main", "serve", "--port", "0", "--bundle", str(bundle)]
    process = subprocess.Popen(
        [*command, "--data", str(data), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[^\s/]+:\d+", line):
            return process, found[0]
    raise AssertionError("the service did not start")


def end(process: "subprocess.Popen[str]", number: int) -> int:
    process.send_signal(number)
    code = process.wait()
    assert process.stderr is not None
    process.stderr.close()
    return code


def test_kill_during_writes_loses_no_acknowledged_review(small_bundle_path, tmp_path):
    data = tmp_path / "data"
    acknowledged: set[str] = set()
    changed = threading.Condition()
    scored: set[str] = set()
    for _ in range(3):
        process, address = start(small_bundle_path, data)
        files = [("files", (name, content)) for name, content in cells(4)]
        cases = [
            item["case"]
            for item in requests.post(f"{address}/api/v1/predict", files=files, timeout=30).json()
        ]
        scored.update(cases)
        stop = threading.Event()

        def write(worker: int, case: str, address: str, stop: threading.Event) -> None:
            for number in range(10_000):
                note = f"{worker}-{number}-{case}"
                try:
                    answer = requests.post(
                        f"{address}/api/v1/history/{case}/reviews",
                        json={"verdict": "agree", "note": note},
                        timeout=10,
                    )
                except requests.RequestException:
                    return
                if answer.status_code == 201:
                    with changed:
                        acknowledged.add(note)
                        changed.notify()
                if stop.is_set():
                    return

        threads = [
            threading.Thread(target=write, args=(n, case, address, stop), daemon=True)
            for n, case in enumerate(cases)
        ]
        for thread in threads:
            thread.start()
        wanted = len(acknowledged) + 15
        with changed:
            assert changed.wait_for(lambda wanted=wanted: len(acknowledged) >= wanted, timeout=250)
        end(process, signal.SIGKILL)  # no warning, in the middle of writing
        stop.set()
        for thread in threads:
            thread.join()

    with sqlite3.connect(data / "records.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    database = Database(f"sqlite:///{data / 'records.sqlite3'}")
    history = History(database)
    stored = {review.note for case in scored for review in history.get(case).reviews}
    assert acknowledged <= stored
    with database.read() as session:
        assert verify(session).intact
    database.close()


def test_a_configuration_file_is_read_and_options_win(small_bundle_path, tmp_path):
    config = tmp_path / "serve.toml"
    with (
        socket.socket() as taken
    ):  # the file names a port that cannot be had: only the option's can be listened on
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(f"port = {port}\nkeep_images = true\n[limits]\nfile_mb = 1\n", encoding="utf-8")
        process, address = start(small_bundle_path, tmp_path / "data", "--config", str(config))
    assert not address.endswith(f":{port}")
    files = [("files", cells(1)[0]), ("files", ("large.bmp", bytes(2 * MEBIBYTE)))]
    small, large = requests.post(f"{address}/api/v1/predict", files=files, timeout=60).json()
    assert small["decision"] != "rejected"
    assert [reason["code"] for reason in large["reasons"]] == ["file_too_large"]
    assert end(process, signal.SIGTERM) == 0
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert b"\x89PNG\r\n\x1a\n" in stored  # images are kept


def test_an_orderly_stop_ends_with_zero(small_bundle_path, tmp_path):
    process, address = start(small_bundle_path, tmp_path)
    assert requests.get(f"{address}/readyz", timeout=10).status_code == 200
    assert "Server" not in requests.get(f"{address}/", timeout=10).headers
    assert end(process, signal.SIGTERM) == 0


@pytest.mark.parametrize("options", [(), ("--allow-host", "localhost")])
def test_the_printed_address_of_a_public_service_answers(small_bundle_path, tmp_path, options):
    token = "t" * 20
    process, address = start(
        small_bundle_path, tmp_path, "--host", "0.0.0.0", *options, LEUKOSCOPE_TOKEN=token
    )
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{address}/history", headers=headers, timeout=10).status_code == 200
    assert requests.get(f"{address}/api/v1/history", timeout=10).status_code == 401
    assert end(process, signal.SIGTERM) == 0


def test_a_locked_database_gives_503(make_app: MakeApp, tmp_path):
    client = make_app(lock_wait_s=0.2).test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    other = sqlite3.connect(tmp_path / "data" / "records.sqlite3")
    other.execute("BEGIN IMMEDIATE")
    try:
        for answer in (
            client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree"}),
            client.post("/api/v1/predict", data=form(cells(1))),
        ):
            assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.get_json()["type"] == "urn:leukoscope:problem:busy"
        assert client.get(f"/api/v1/history/{case}").status_code == 200  # reading goes on
        page = client.post(
            f"/cases/{case}/review", data={"verdict": "agree"}, headers={"Accept": "text/html"}
        )
        assert page.status_code == 503
    finally:
        other.rollback()
        other.close()
    assert client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree"}).status_code == 201


def test_a_job_waits_for_a_database_lock(make_app: MakeApp, tmp_path):
    client = make_app(lock_wait_s=0.1).test_client(use_cookies=False)
    other = sqlite3.connect(tmp_path / "data" / "records.sqlite3")
    other.execute("BEGIN IMMEDIATE")
    job = client.post("/api/v1/jobs", data=form(cells(3))).get_json()["job"]
    for _ in range(4):  # each waits for the lock in vain, as the job does meanwhile
        assert client.post("/api/v1/predict", data=form(cells(1))).status_code == 503
    assert client.get(f"/api/v1/jobs/{job}").get_json()["state"] == "running"
    other.rollback()
    other.close()
    assert wait_for_job(client, job)["done"] == 3


def check_full(client, fill, free) -> None:
    """Fill, expect clear refusals and nothing half stored, free, and go on."""
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    before = client.get("/api/v1/history").get_json()["cases"]
    fill()
    statuses = set()
    for number in range(200):
        note = f"{number} " + "x" * 1900
        answer = client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree", "note": note})
        statuses.add(answer.status_code)
        if answer.status_code != 201:
            break
    assert answer.status_code == 507, statuses
    assert answer.mimetype == "application/problem+json"
    assert answer.get_json()["type"] == "urn:leukoscope:problem:storage-full"
    reviews = client.get(f"/api/v1/history/{case}").get_json()["reviews"]
    assert len(reviews) == number
    assert [item["case"] for item in client.get("/api/v1/history").get_json()["cases"]] == [
        item["case"] for item in before
    ]
    free()
    assert client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree"}).status_code == 201


def test_a_full_database_gives_an_error(make_app: MakeApp, tmp_path):
    """SQLite's own page limit gives the same SQLITE_FULL as a full disk, on every machine."""
    from sqlalchemy import event

    from leukoscope.web.context import services

    app = make_app()
    database = services(app).database
    limit = {"pages": 2**30}

    @event.listens_for(database.engine, "checkout")
    def set_limit(connection, _record, _proxy):
        connection.execute(f"PRAGMA max_page_count={limit['pages']}")

    def fill() -> None:
        with database.engine.connect() as connection:
            limit["pages"] = connection.exec_driver_sql("PRAGMA page_count").scalar() + 4

    check_full(app.test_client(use_cookies=False), fill, lambda: limit.update(pages=2**30))
    with database.read() as session:
        assert verify(session).intact


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 2 MB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no right to mount a small file system here; the page limit above covers the same answer")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_gives_an_error(make_app: MakeApp, small_disk: Path):
    client = make_app(data=small_disk).test_client(use_cookies=False)

    def fill() -> None:
        ballast = os.open(small_disk / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(ballast, bytes(4096)):
                pass
        except OSError:
            pass
        finally:
            os.close(ballast)

    check_full(client, fill, (small_disk / "ballast").unlink)


@pytest.mark.parametrize("limits", [Limits(queue_images=2), Limits(open_requests=1)])
def test_a_full_queue_answers_503(web_predictor, tmp_path: Path, limits: Limits):
    """While the engine is held up, what does not fit is refused; what was taken is answered once it goes on."""
    gate, refused = threading.Event(), threading.Event()

    def predict(images):
        assert gate.wait(250)
        return make_predict_fn(web_predictor)(images)

    settings = WebSettings(data=tmp_path / "slow", limits=limits, batch=1)
    app = create_app(settings, ServedModel.from_bundle(web_predictor.bundle), predict)
    answers: list[tuple[int, str | None]] = []

    def ask() -> None:
        answer = app.test_client(use_cookies=False).post("/api/v1/predict", data=form(cells(2)))
        answers.append((answer.status_code, answer.headers.get("Retry-After")))
        refused.set()  # the engine still waits, so that the first answer must be a refusal

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        assert refused.wait(250)
    finally:
        gate.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200, 503}
    assert app.test_client(use_cookies=False).post("/api/v1/predict", data=form(cells(1))).status_code == 200
    assert all(int(wait or 0) >= 1 for status, wait in answers if status == 503)
    assert "leukoscope_busy_total" in app.test_client(use_cookies=False).get("/metrics").get_data(
        as_text=True
    )
    close_app(app)


def test_a_deletion_holds_while_another_reads(make_app: MakeApp, tmp_path):
    """A reader keeps the file from being tidied; the case is deleted all the same, and the answer says so."""
    client = make_app(lock_wait_s=0.1).test_client(use_cookies=False)
    cases = [item["case"] for item in client.post("/api/v1/predict", data=form(cells(2))).get_json()]
    other = sqlite3.connect(tmp_path / "data" / "records.sqlite3")
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM cases").fetchone()
    try:
        assert client.delete(f"/api/v1/history/{cases[0]}").status_code == 200
        page = client.post(f"/cases/{cases[1]}/delete")
        assert (page.status_code, page.headers["Location"]) == (303, "/history")
    finally:
        other.close()
    assert [client.get(f"/api/v1/history/{case}").status_code for case in cases] == [404, 404]


def test_a_deleted_note_is_not_left_in_the_files(make_app: MakeApp, tmp_path):
    client = make_app().test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree", "note": "very private words"})
    stored = lambda: b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())  # noqa: E731
    assert b"very private words" in stored()
    client.delete(f"/api/v1/history/{case}")
    assert b"very private words" not in stored()


def test_wrong_tokens_are_counted_by_the_client_behind_the_proxy(small_bundle_path, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text('trusted_proxy = "127.0.0.1"\n')
    process, address = start(small_bundle_path, tmp_path, "--config", str(config), LEUKOSCOPE_TOKEN="t" * 20)

    def guess(client: str) -> int:
        headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": client}
        return requests.get(f"{address}/api/v1/history", headers=headers, timeout=10).status_code

    assert [guess("10.0.0.66") for _ in range(11)] == [401] * 10 + [429]
    assert guess("10.0.0.2") == 401
    assert end(process, signal.SIGTERM) == 0


def test_deleting_what_another_just_deleted(make_app: MakeApp):
    client = make_app().test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    codes = [client.delete(f"/api/v1/history/{case}").status_code for _ in range(2)]
    assert codes == [200, 404]
    with pytest.raises(UnknownCaseError):
        from leukoscope.web.context import services

        services(client.application).history.get(case)
