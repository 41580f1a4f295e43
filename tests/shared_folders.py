"""Folders that several test processes share: the first one makes what is in them, the others wait for it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of this test run that ``make`` has filled exactly once, however many processes ask for it.

    Tests must not change what is in it.

    Parameters
    ----------
    factory
        Of the process; with pytest-xdist the processes' own folders stand beside each other.
    name
        Of the folder, unique in the run.
    make
        Fills the empty folder.

    Raises
    ------
    RuntimeError
        The process that made it failed; its own test says why.
    """
    own = factory.getbasetemp()
    folder = (own.parent if own.name.startswith("popen-") else own) / f"shared-{name}"
    done, failed = folder.with_suffix(".done"), folder.with_suffix(".failed")
    try:
        folder.mkdir()
    except FileExistsError:
        while not done.exists():  # the limit of a test's time ends this, too
            if failed.exists():
                raise RuntimeError(f"{folder.name} could not be made in another process") from None
            time.sleep(0.05)
        return folder
    try:
        make(folder)
    except BaseException:
        failed.touch()
        raise
    done.touch()
    return folder
