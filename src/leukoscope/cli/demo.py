"""``leukoscope demo``: classify the shipped cells and read the shipped fields."""

import json
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.options import Overwrite

SHEET = "contact_sheet.html"
SMEAR = "smear"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(demo)


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for results, heat maps and the contact sheet.")
    ] = Path("demo"),
    *,
    overwrite: Overwrite = False,
) -> None:
    """Classify the shipped sample: 60 C-NMC cells of 42 subjects, and some images that must be rejected.

    The cells belong to the cohort that the shipped model was trained on: this shows how the tool works, not how
    accurate the model is. The card reports its performance on unseen subjects: leukoscope bundle show --card.

    Example: leukoscope demo --out demo
    """
    from leukoscope import assets
    from leukoscope.cli.predicting import PredictOptions, run_predict
    from leukoscope.cli.smearing import SmearOptions, run_smear
    from leukoscope.core.errors import UsageError
    from leukoscope.core.io import check_output_folder

    folders = (assets.sample_cells_directory(), assets.other_images_directory())
    check_output_folder(out)
    if not overwrite and not _is_of_demo(out, folders):
        raise UsageError(
            f"{out}: contains files that `demo` did not write; name a new folder with --out DIR, or add --overwrite"
        )
    run_predict(
        PredictOptions(sources=tuple(map(_shown, folders)), out=out, sheet=out / SHEET, overwrite=True)
    )
    typer.echo("\nTwo fields of a smear, their cells named and counted:")
    fields = assets.other_images_directory() / "bccd"
    run_smear(SmearOptions(sources=(_shown(fields),), out=out / SMEAR, overwrite=True))
    typer.echo(
        "\nThese cells were seen in training: for the accuracy on unseen subjects see leukoscope bundle show --card."
    )
    typer.echo(
        f"Next: open {out / SHEET} and {out / SMEAR / 'report.html'}, then try your own: leukoscope predict cell.bmp, "
        "or leukoscope serve"
    )


def _is_of_demo(out: Path, folders: tuple[Path, ...]) -> bool:
    """Return whether a folder is empty or contains only files of a demo; other results belong to the user."""
    from leukoscope.cli.predicting import HEAT_MAPS, RESULTS_CSV, SUBJECTS_FILE
    from leukoscope.inference.journal import LOCK, RESULTS, SETTINGS

    files = {RESULTS, SETTINGS, LOCK, HEAT_MAPS, RESULTS_CSV, SUBJECTS_FILE, SHEET, SMEAR}
    if out.exists() and any(
        re.sub(r"(\.[0-9a-f]{8})?\.part$", "", path.name) not in files for path in out.iterdir()
    ):
        return False
    if not (out / RESULTS).exists():
        return not (out.exists() and any(out.iterdir()))
    shipped = {path.name for folder in folders for path in folder.rglob("*")}
    *lines, _ = (out / RESULTS).read_bytes().split(b"\n")  # a line that was cut off by a kill does not count
    try:
        return all(Path(json.loads(line)["source"]).name in shipped for line in lines)
    except (ValueError, KeyError, TypeError):
        return False


def _shown(path: Path) -> str:
    """Return the path relative to the current folder, if possible."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
