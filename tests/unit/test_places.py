"""The user's folders under odd environments."""

from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user, user_folder

pytestmark = pytest.mark.skipif("os.name != 'posix'", reason="HOME and XDG variables")


def test_the_home_folder_stands_for_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_user("~") == tmp_path
    assert expand_user("~/a/b") == tmp_path / "a" / "b"
    assert expand_user("a/~") == Path("a/~")


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(UsageError, match="empty path"):
        expand_user("")


@pytest.mark.parametrize("home", ["", "~", "~/x", "relative"])
def test_a_home_that_is_no_absolute_path_is_none(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert user_folder("data") is None
    assert user_folder("cache") is None
    with pytest.raises(UsageError, match="'~'"):
        expand_user("~/results")


def test_an_unknown_user_is_named():
    with pytest.raises(UsageError, match="~no-such-user-here"):
        expand_user("~no-such-user-here/x")


@pytest.mark.parametrize("given", ["", "relative", "~/x", "./x"])
def test_a_relative_xdg_folder_does_not_count(given, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("XDG_DATA_HOME", given)
    assert user_folder("cache") == tmp_path / ".cache" / "leukoscope"
    assert user_folder("data") == tmp_path / ".local" / "share" / "leukoscope"


def test_an_absolute_xdg_folder_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder("cache") == tmp_path / "leukoscope"
