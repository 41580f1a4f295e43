"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.core.errors import UsageError

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing files even if leukoscope did not write them."),
]

KeepSpelling = Annotated[
    bool,
    typer.Option(
        "--keep-spelling",
        help="Take subject ids such as 'P1' and 'p1' as two subjects instead of an error.",
    ),
]

Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="Laboratory profile of 'leukoscope adapt'."),
]


def check_scale(microns_per_pixel: float | None) -> None:
    """Refuse a scale that no photograph has.

    Raises
    ------
    UsageError
        It is no number of micrometers above 0 and below 1000.
    """
    if microns_per_pixel is not None and not 0 < microns_per_pixel < 1000:
        raise UsageError(
            f"--microns-per-pixel {microns_per_pixel}: expected a number above 0 and below 1000, such as 0.1"
        )


def check_turns(tta: int) -> None:
    """Refuse a number of rotations that is not averaged over.

    Raises
    ------
    UsageError
        It is none of those of ``inference.tta``.
    """
    from leukoscope.inference.tta import TURNS

    if tta not in TURNS:
        raise UsageError(f"--tta {tta}: expected one of {', '.join(map(str, TURNS))}")
