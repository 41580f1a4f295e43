"""``leukoscope demo``: the shipped cells judged by the shipped bundle."""

import os
from pathlib import Path
from typing import Annotated

import typer

SHEET = "contact_sheet.html"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(demo)


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where results, heat maps and the sheet go.")
    ] = Path("demo"),
) -> None:
    """Judge the shipped sample: 60 C-NMC cells of 42 subjects, and some images that must be refused.

    The cells belong to the cohort that the shipped model was trained on: this shows how the tool works, not how good
    the model is. What it is worth on unseen subjects stands in its card: leukoscope bundle show --card.

    Example: leukoscope demo --out demo
    """
    from leukoscope import assets
    from leukoscope.cli.predicting import PredictOptions, run_predict
    from leukoscope.errors import UsageError

    if out.exists() and not (out / SHEET).is_file() and any(out.iterdir()):
        raise UsageError(f"{out}: holds something else; name a new folder with --out DIR")
    folders = (assets.sample_cells_directory(), assets.other_images_directory())
    for file in ("results.jsonl", "predict.json"):
        (out / file).unlink(missing_ok=True)
    run_predict(PredictOptions(sources=tuple(map(_shown, folders)), out=out, sheet=out / SHEET))
    typer.echo(
        "\nSeen in training: these cells show the tool, not its worth (leukoscope bundle show --card)."
    )
    typer.echo(
        f"Next: open {out / SHEET}, then try your own: leukoscope predict cell.bmp, or leukoscope serve"
    )


def _shown(path: Path) -> str:
    """Return the path as a reader in the current folder would write it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
