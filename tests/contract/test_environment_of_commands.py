"""Commands under odd environments, in a process of their own: closed output, odd homes, impossible times, odd text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from synthetic_runs import Cohort, write_run

COMMAND = (sys.executable, "-c", "from leukoscope.cli.main import run; run()")
TINY = Cohort(4, 3, 10)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes")
@pytest.mark.parametrize("words", [("bundle", "show", "--card"), ("--help",), ("predict", "--schema")])
def test_a_closed_output_ends_quietly(words):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` when it has seen enough
    try:
        done = subprocess.run(
            [*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


@pytest.mark.parametrize("word", ["~no-such-user-here/x.png", "--bundle=~no-such-user-here/x"])
def test_an_unknown_user_is_a_message(word):
    done = run("predict", word, "a.png")
    assert done.returncode == 2
    assert "no-such-user-here" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("home", ["", "~", "relative"])
@pytest.mark.parametrize("words", [("audit", "show"), ("predict", "~/a.png")])
def test_a_home_that_is_none_is_a_message(home, words, tmp_path):
    done = run(*words, HOME=home, XDG_DATA_HOME="also/relative", LEUKOSCOPE_DATA="")
    assert done.returncode == 2, done.stderr
    assert "home folder" in done.stderr and "Traceback" not in done.stderr


def test_a_text_with_a_tilde_that_names_no_user_stays_as_it_is():
    from leukoscope.cli.main import _expand_home

    for word in ("~ 50 cells", "--title=~50", "~", "a~/b"):
        assert _expand_home(word) in (word, str(Path.home()))
    assert _expand_home("--out=~/x") == f"--out={Path.home() / 'x'}"


@pytest.mark.parametrize(
    "stated",
    ["253402300800", "1" + "0" * 40, "\u0661\u0662\u0663", "\u00b2", "-1", "1.5", "now"],
)
def test_an_impossible_source_date_is_refused_before_the_work(stated, tmp_path, monkeypatch):
    from leukoscope.evaluation.protocol import evaluate

    folder = write_run(tmp_path / "run", train=TINY, test=TINY)
    steps: list[str] = []
    monkeypatch.setenv("SOURCE_DATE_EPOCH", stated)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        evaluate([folder], progress=steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("stated", "created"),
    [("0", "1970-01-01T00:00:00+00:00"), ("253402300799", "9999-12-31T23:59:59+00:00")],
)
def test_the_first_and_the_last_source_date_are_taken(stated, created, monkeypatch):
    from leukoscope.evaluation.protocol import _now

    monkeypatch.setenv("SOURCE_DATE_EPOCH", stated)
    assert _now() == created
