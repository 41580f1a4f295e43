"""Options that several commands share."""

from typing import Annotated

import typer

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing files even if leukoscope did not write them."),
]
