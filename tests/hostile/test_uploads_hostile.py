"""Uploads made to harm: bombs, lies, floods. The answer is a refusal; memory and service stay as they were."""

import io
import random
import re
import struct
import threading
import tracemalloc
import zipfile

import pytest
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from leukoscope.web.application import close_app, create_app
from leukoscope.web.context import services
from leukoscope.web.model import ServedModel
from leukoscope.web.prediction import make_predict_fn
from leukoscope.web.problems import Problem
from leukoscope.web.settings import MEBIBYTE, Limits, WebSettings
from leukoscope.web.uploads import receive
from web_fixtures import TOKEN, cells, form


def packed(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def send(client, content: bytes, path: str = "/api/v1/predict"):
    return client.post(path, data=form([("cells.zip", content)]))


def send_large(client, fields):
    """Send a large form from memory; the test client would leave a temporary file open when it is refused unread."""
    values = MultiDict(fields)
    values.setlist("files", [FileStorage(stream, name) for stream, name in fields["files"]])
    boundary, body = encode_multipart(values)
    return client.post("/api/v1/predict", data=body, content_type=f"multipart/form-data; boundary={boundary}")


def status_and_code(answer) -> tuple[int, str]:
    """Return the status and the code of the kind of problem."""
    assert answer.mimetype == "application/problem+json"
    return answer.status_code, answer.get_json()["type"].rpartition(":")[2]


def test_a_bomb_is_refused_by_its_ratio(client):
    bomb = packed([(f"{number}.bmp", bytes(4 * MEBIBYTE)) for number in range(10)])
    assert len(bomb) < 100_000
    assert status_and_code(send(client, bomb)) == (413, "too-large")


def test_wrong_sizes_in_the_zip_directory_are_detected(client):
    """The directory says 100 bytes, the member unpacks to 150 MB: reading stops above the file limit of 20."""
    correct = packed([("a.bmp", bytes(150 * MEBIBYTE))])
    lie = bytearray(correct)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = correct.index(signature) + offset
        lie[place : place + 4] = struct.pack("<I", 100)
    tracemalloc.start()
    answer = send(client, bytes(lie))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 200
    assert answer.get_json()[0]["decision"] == "rejected"
    assert peak < 60 * MEBIBYTE


@pytest.fixture
def gate() -> threading.Event:
    """Closed while the engine is held up."""
    return threading.Event()


@pytest.fixture
def make_slow_app(tmp_path, web_predictor, gate):
    """Build an application whose engine waits for the event, with 4 MB for uploads."""
    opened = []

    def make(**changes):
        def predict(images):
            assert gate.wait(250)
            return make_predict_fn(web_predictor)(images)

        settings = WebSettings(data=tmp_path / "slow", limits=Limits(pending_mb=4), **changes)
        opened.append(create_app(settings, ServedModel.from_bundle(web_predictor.bundle), predict))
        return opened[-1]

    yield make
    gate.set()
    for app in opened:
        close_app(app)


def sparse(megabytes: float) -> bytes:
    """Bytes that pack 180 times: more would be refused as a bomb."""
    noise = random.Random(3).randbytes(5_600)
    return (noise + bytes(994_400)) * round(megabytes)


def in_background(answers: list, ask) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    return thread


def wait_until(condition) -> None:
    """Wait; the limit of a test's time is the only clock."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.02)


def test_archives_of_several_requests_share_one_budget(make_slow_app, gate):
    app = make_slow_app()
    ask = lambda: send(app.test_client(use_cookies=False), packed([("a.bmp", sparse(3))]))  # noqa: E731
    answers: list = []
    first = in_background(answers, ask)
    wait_until(lambda: services(app).memory.held_bytes > 3 * 10**6)
    refused = ask()
    assert (refused.status_code, refused.mimetype) == (503, "application/problem+json")
    assert int(refused.headers["Retry-After"]) >= 1
    assert re.search(r"\b4\b", refused.get_json()["detail"])
    gate.set()
    first.join()
    assert [answer.status_code for answer in answers] == [200]
    assert services(app).memory.held_bytes == 0
    assert ask().status_code == 200


def test_an_archive_is_unpacked_a_few_images_at_a_time(client):
    """Eight images of 8 MB: at most two of them are held at once."""
    archive = packed([(f"{number}.bmp", sparse(8)) for number in range(8)])
    tracemalloc.start()
    answer = send(client, archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(answer.get_json()) == 8
    assert peak < 45 * MEBIBYTE, peak


class Body(io.BytesIO):
    """A request's body that tells when it is read, and waits until it may go on."""

    def __init__(self, content: bytes, go_on: threading.Event | None = None) -> None:
        super().__init__(content)
        self.go_on, self.touched = go_on, threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.touched.set()
        assert self.go_on is None or self.go_on.wait(250)
        return super().read(size)

    def readinto(self, buffer) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def post_body(app, path: str, body: Body, **headers: str):
    return app.test_client(use_cookies=False).post(
        path,
        input_stream=body,
        headers={"Content-Type": "multipart/form-data; boundary=x", **headers},
    )


def multipart(content: bytes) -> bytes:
    return (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        + content
        + b"\r\n--x--\r\n"
    )


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/predict", "/jobs"])
def test_memory_is_reserved_before_a_body_is_read(make_slow_app, gate, path):
    app, content = make_slow_app(), multipart(bytes(3 * MEBIBYTE))
    slow, answers = Body(content, gate), []
    first = in_background(answers, lambda: post_body(app, path, slow))
    assert slow.touched.wait(250)
    second = Body(content)
    assert post_body(app, path, second).status_code == 503
    assert not second.touched.is_set()
    gate.set()
    first.join()
    assert answers[0].status_code in (200, 202, 303)
    wait_until(lambda: services(app).memory.held_bytes == 0)


def test_images_of_a_cancelled_job_are_released(make_slow_app):
    app = make_slow_app()
    client = app.test_client(use_cookies=False)
    job = client.post("/api/v1/jobs", data=form(cells(4))).get_json()["job"]
    assert services(app).memory.held_bytes > 0
    client.delete(f"/api/v1/jobs/{job}")
    assert services(app).memory.held_bytes == 0


def test_only_uploads_may_be_large_and_only_with_the_token(make_slow_app):
    app, content = make_slow_app(token=TOKEN), multipart(bytes(MEBIBYTE))
    for path, status in (("/sign-in", 413), ("/api/v1/jobs", 401), ("/api/v1/predict", 401), ("/jobs", 401)):
        body = Body(content)
        assert post_body(app, path, body).status_code == status
        assert not body.touched.is_set()
    token = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/cases/LK-00000-00000/review", "/api/v1/history/LK-00000-00000/reviews", "/sign-out"):
        body = Body(content)
        assert post_body(app, path, body, **token).status_code in (303, 413, 415)
        assert not body.touched.is_set()


def test_the_longest_note_is_accepted_in_every_script(client):
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    note = "\N{MICROSCOPE}" * 2000
    answer = client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree", "note": note})
    assert answer.status_code == 201
    sent = client.post(f"/cases/{case}/review", data={"verdict": "agree", "note": note, "then": "/review"})
    assert sent.status_code == 303


def test_an_archive_within_an_archive_is_not_opened(client):
    inner = packed(cells(2))
    result = send(client, packed([("inner.zip", inner)])).get_json()
    assert [item["reasons"][0]["code"] for item in result] == ["unknown_format"]


@pytest.mark.parametrize("cut", [4, 10, 30, -30, -4])
def test_damaged_archives_are_refused_or_classified_empty(client, cut):
    whole = packed(cells(2))
    answer = send(client, whole[:cut])
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert all(item["decision"] == "rejected" for item in answer.get_json())


def test_a_member_with_a_wrong_checksum_is_one_refused_image(client):
    good = cells(2)
    whole = bytearray(packed(good, zipfile.ZIP_STORED))
    place = whole.index(good[0][1]) + 100
    whole[place] ^= 0xFF
    results = send(client, bytes(whole)).get_json()
    assert results[0]["decision"] == "rejected"
    assert results[1]["decision"] != "rejected"


def test_path_traversal_in_names_has_no_effect(client, tmp_path):
    results = send(client, packed([("../../../tmp/evil.bmp", b"x"), ("/etc/passwd", b"y")])).get_json()
    assert [item["source"] for item in results] == ["evil.bmp", "passwd"]


def test_links_and_folders_are_left_out(client):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link.bmp")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder/", b"")
        archive.writestr(*cells(1)[0])
    assert len(send(client, stream.getvalue()).get_json()) == 1


def test_encrypted_and_unsupported_members_are_reported(client):
    whole = bytearray(packed(cells(1)))
    encrypted = whole.copy()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[whole.index(signature) + offset] |= 1
    for refused in (bytes(encrypted), packed(cells(1), zipfile.ZIP_LZMA)):
        assert status_and_code(send(client, refused)) == (422, "invalid-request")


def test_too_many_members(client):
    answer = send(client, packed([(f"{n}", b"") for n in range(201)]))
    assert status_and_code(answer) == (413, "too-large")
    assert "200" in answer.get_json()["detail"]


def test_limits_hold_for_files_and_archives_together():
    limits = Limits(job_files=3)
    many = [FileStorage(io.BytesIO(b"x"), "a") for _ in range(4)]
    with pytest.raises(Problem) as caught:
        receive(many, limits, limits.job_files)
    assert caught.value.status == 413
    with pytest.raises(Problem):
        receive([FileStorage(io.BytesIO(packed([(f"{n}", b"") for n in range(4)])), "z")], limits, 3)


def test_an_image_above_the_limit_is_refused_before_decoding(make_app):
    app = make_app(limits=Limits(request_mb=1))
    client = app.test_client(use_cookies=False)
    sent = send_large(client, form([("a.bmp", bytes(2 * MEBIBYTE))]))
    assert status_and_code(sent) == (413, "too-large")
    assert services(app).history.total() == 0


def test_more_parts_than_allowed(client):
    files = [("a.png", b"x")] * 250
    assert client.post("/api/v1/predict", data=form(files)).status_code == 413


def test_a_long_field_is_refused(client):
    answer = send_large(client, form(cells(1), subject="x" * (600 * 1024)))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n",
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc',
        bytes(5000),
    ],
)
def test_broken_multipart_bodies(client, body):
    answer = client.post("/api/v1/predict", data=body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code in (400, 422)
    assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/api/v1/history/%00", "/cases/%ff%fe", "/jobs/" + "a" * 5000, "/static/../secret"]
)
def test_malformed_urls(client, path):
    assert client.get(path).status_code in (400, 404)


def test_the_service_still_answers_after_hostile_requests(client):
    send(client, b"PK\x03\x04" + bytes(1000))
    assert client.post("/api/v1/predict", data=form(cells(1))).status_code == 200
