"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
