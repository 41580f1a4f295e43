"""Access control: other sites, clients without a token, and hostile clients."""

import logging
import re
from urllib.parse import unquote

import pytest

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.web.context import services
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.history import History
from web_fixtures import TOKEN, cells, form, wait_for_job

PAGES = ("/", "/history", "/review", "/about", "/api", "/nowhere", "/cases/LK-00000-00000")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_the_notice_and_strict_headers(client, path):
    answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.mimetype == "text/html"
    text = answer.get_data(as_text=True)
    assert text.count(RESEARCH_USE) >= 2
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000"]
)
def test_a_foreign_host_name_is_refused(client, host):
    assert client.get("/api/v1/history", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:80"])
def test_own_names_are_answered(client, host):
    assert client.get("/api/v1/history", headers={"Host": host}).status_code == 200


def test_further_names_can_be_allowed(make_app):
    client = make_app(hosts=("lab.example",)).test_client()
    assert client.get("/healthz", headers={"Host": "lab.example"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "other.example"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_cross_site_requests_are_refused(client, headers):
    answer = client.post("/api/v1/predict", data=form(cells(1)), headers=headers)
    assert (answer.status_code, answer.mimetype) == (403, "application/problem+json")
    assert client.get("/api/v1/history").get_json()["cases"] == []


def csrf(browser) -> str:
    page = browser.get("/").get_data(as_text=True)
    found = re.search(r'name="csrf-token" content="([^"]+)"', page)
    assert found
    return found[1]


def test_a_browser_needs_the_form_token(app):
    browser = app.test_client()
    token = csrf(browser)
    same = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert browser.post("/api/v1/predict", data=form(cells(1)), headers=same).status_code == 403
    wrong = {**same, "X-CSRF-Token": "x" * len(token)}
    assert browser.post("/api/v1/predict", data=form(cells(1)), headers=wrong).status_code == 403
    right = {**same, "X-CSRF-Token": token}
    assert browser.post("/api/v1/predict", data=form(cells(1)), headers=right).status_code == 200


def test_the_session_cookie_is_strict(make_app):
    cookie = make_app().test_client().get("/").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    secure = make_app(https=True).test_client().get("/")
    assert "Secure" in secure.headers["Set-Cookie"]
    assert "max-age" in secure.headers["Strict-Transport-Security"]


@pytest.fixture
def guarded(make_app):
    return make_app(token=TOKEN)


def test_with_a_token_nothing_is_open_but_health(guarded):
    client = guarded.test_client(use_cookies=False)
    for path in ("/api/v1/history", "/api/v1/model", "/metrics", "/api/v1/openapi.json"):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert client.post("/api/v1/predict", data=form(cells(1))).status_code == 401
    for path in ("/", "/history", "/about", "/legend.png", "/export.csv"):
        assert unquote(client.get(path).headers["Location"]) == f"/sign-in?next={path}"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_the_token_opens_the_api(guarded):
    client = guarded.test_client(use_cookies=False)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/api/v1/predict", data=form(cells(1)), headers=headers).status_code == 200
    assert client.get("/api/v1/history", headers=headers).status_code == 200
    assert client.get("/api/v1/history", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/v1/history", headers={"Authorization": TOKEN.upper()}).status_code == 401


def test_signing_in_and_out(guarded):
    browser = guarded.test_client()
    page = browser.get("/sign-in").get_data(as_text=True)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    refused = browser.post("/sign-in", data={"token": "wrong", "csrf_token": token})
    assert refused.status_code == 401
    assert browser.post("/sign-in", data={"token": TOKEN}).status_code == 403
    welcome = browser.post("/sign-in", data={"token": TOKEN, "csrf_token": token})
    assert welcome.headers["Location"] == "/"
    assert browser.get("/history").status_code == 200
    page = browser.get("/").get_data(as_text=True)
    assert token not in page  # a new session has a new form token
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    browser.post("/sign-out", data={"csrf_token": token})
    assert browser.get("/history").status_code == 302


@pytest.mark.parametrize(
    ("following", "target"),
    [
        ("/history?q=a&review=none", "/history?q=a&review=none"),
        ("/\t/evil.example", "/"),
        ("//evil.example", "/"),
    ],
)
def test_signing_in_redirects_to_the_requested_page(guarded, following, target):
    browser = guarded.test_client()
    sent_away = browser.get("/history?q=a&review=none")
    assert unquote(sent_away.headers["Location"]) == "/sign-in?next=/history?q=a&review=none"
    page = browser.get("/sign-in", query_string={"next": following}).get_data(as_text=True)
    assert ('name="next"' in page) == (target != "/")
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    given = {"token": TOKEN, "csrf_token": token, "next": following}
    assert browser.post("/sign-in", data=given).headers["Location"] == target


def test_sign_in_page_hides_token_headers(guarded):
    html = {"Accept": "text/html"}
    answer = guarded.test_client().post(
        "/cases/LK-00000-00000/review", data={"verdict": "agree"}, headers=html
    )
    page = answer.get_data(as_text=True)
    assert answer.status_code == 401
    assert "Bearer" not in page
    assert 'href="/sign-in"' in page


def test_a_new_token_ends_old_sessions(make_app):
    first = make_app(token=TOKEN)
    browser = first.test_client()
    page = browser.get("/sign-in").get_data(as_text=True)
    form_token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    browser.post("/sign-in", data={"token": TOKEN, "csrf_token": form_token})
    cookie = browser.get_cookie("leukoscope").value
    second = make_app(token=TOKEN + "-new").test_client()
    second.set_cookie("leukoscope", cookie)
    assert second.get("/history").status_code == 302


def test_guessing_is_stopped(guarded):
    client = guarded.test_client(use_cookies=False)
    answers = [client.get("/api/v1/history", headers={"Authorization": f"Bearer {n}"}) for n in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 61
    right = client.get("/api/v1/history", headers={"Authorization": f"Bearer {TOKEN}"})
    assert right.status_code == 200  # others behind the same address go on


def test_uploads_and_names_are_not_kept(make_app, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    client = make_app().test_client(use_cookies=False)
    name, content = cells(1)[0]
    given = [(f"Jane-Doe-1970-{name}", content), ("Jane-Doe-broken.bmp", b"BM broken")]
    client.post("/api/v1/predict", data=form(given))
    job = client.post("/api/v1/jobs", data=form(given)).get_json()["job"]
    wait_for_job(client, job)
    assert "Jane-Doe" in client.get(f"/jobs/{job}").get_data(as_text=True)  # for the people who sent it
    assert "Jane-Doe" not in caplog.text
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert b"Jane-Doe" not in stored
    assert content[:64] not in stored
    assert b"\x89PNG\r\n\x1a\n" not in stored


def test_storing_images_and_names_is_optional(make_app, tmp_path):
    client = make_app(keep_images=True, keep_names=True).test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    again = make_app().test_client(use_cookies=False)  # another process later: nothing in memory
    assert again.get(f"/cases/{case}/cell.png").data[:4] == b"\x89PNG"
    assert again.get(f"/cases/{case}/heat.png").status_code == 200
    assert cells(1)[0][0] in again.get(f"/cases/{case}").get_data(as_text=True)


def test_pictures_of_a_case_that_another_process_deleted_are_gone(make_app, tmp_path):
    app = make_app()
    client = app.test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1), heat_map="true")).get_json()[0]["case"]
    addresses = [
        address
        for kind in ("cell", "heat")
        for address in (f"/cases/{case}/{kind}.png", f"/api/v1/history/{case}/pictures/{kind}")
    ]
    for address in addresses:
        shown = client.get(address)
        assert (shown.mimetype, shown.headers["Cache-Control"]) == ("image/png", "no-store")
    other = Database(f"sqlite:///{tmp_path / 'data' / 'records.sqlite3'}")
    History(other).delete([case], "cli")
    other.close()
    for address in addresses:
        assert client.get(address).status_code == 404
    assert services(app).service.artifacts.size == 0


def test_errors_reveal_no_internals(app, monkeypatch, caplog):
    def burst(*_: object) -> None:
        raise RuntimeError("secret /srv/path/database.sqlite3")

    monkeypatch.setattr(History, "find", burst)
    client = app.test_client(use_cookies=False)
    for path in ("/api/v1/history", "/history"):
        answer = client.get(path, headers={"Accept": "text/html"} if path == "/history" else {})
        text = answer.get_data(as_text=True)
        assert answer.status_code == 500
        for word in ("secret", "/srv", "Traceback", "RuntimeError", "Werkzeug", "Python"):
            assert word not in text
    assert "secret" in caplog.text  # it is in the operator's log


def test_a_redirect_after_a_review_stays_here(app):
    client = app.test_client(use_cookies=False)
    case = client.post("/api/v1/predict", data=form(cells(1))).get_json()[0]["case"]
    for target in (
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:1",
    ):
        answer = client.post(f"/cases/{case}/review", data={"verdict": "agree", "then": target})
        assert answer.headers["Location"] == f"/cases/{case}"


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*'!'}}"])
def test_what_users_write_is_escaped(app, text):
    client = app.test_client(use_cookies=False)
    name = f"{text}.webp".replace("/", "")
    case = client.post(
        "/api/v1/predict", data=form([(name, cells(1)[0][1])], subject=text, heat_map="true")
    ).get_json()
    case = case[0]["case"]
    client.post(
        f"/api/v1/history/{case}/reviews", json={"verdict": "agree", "note": text, "reviewer": text[:60]}
    )
    for path in (f"/cases/{case}", "/history", "/report", f"/review?review=any&q={case}"):
        page = client.get(path, headers={"Accept": "text/html"}).get_data(as_text=True)
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "!!!!!!!" not in page  # what the template would compute; no id, key or token has such a sign
