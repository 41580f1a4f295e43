"""The progress bar of commands that work through many images."""

import sys
from typing import Any, Self


class ProgressBar:
    """A bar with counts and the time left, on stderr if that is a terminal; otherwise nothing is shown.

    Parameters
    ----------
    name
        What is done.
    total
        Number of images; None if it is not known yet.
    done
        Of these, done before.
    quiet
        Show nothing.
    """

    def __init__(self, name: str, *, total: int | None = None, done: int = 0, quiet: bool = False) -> None:
        self._bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Rich would lead a piped stdout to stderr; on a terminal it keeps rows and bar apart.
        self._bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self._task = self._bar.add_task(name, total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Count one more image."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def show(self, done: int, total: int) -> None:
        """Set both numbers."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
