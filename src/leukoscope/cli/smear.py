"""``leukoscope smear``: the white cells of whole fields."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.options import KeepSpelling, Overwrite, Profile


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("smear")(smear)


def smear(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Fields or uncut photographs of cells: images, folders, ZIP archives, glob patterns, or -."
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.html, cells.csv, fields.csv, smear.json, cells.geojson, coco.json, crops/, overlays/.",
        ),
    ] = None,
    bundle: Annotated[
        str,
        typer.Option(
            "--bundle",
            "-b",
            metavar="NAME|DIR",
            help="Bundle that classifies the cells: the name of a shipped one, a folder, or 'none'.",
        ),
    ] = "leukoscope-kinds",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per field.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="With --out: resume an interrupted call.")] = False,
    finder: Annotated[
        str,
        typer.Option(
            metavar="DIR|NAME|classical",
            help="Bundle of the task finder, by folder or name; classical: thresholds and watershed.",
        ),
    ] = "finder",
    keep_spelling: KeepSpelling = False,
    overwrite: Overwrite = False,
    subjects: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table with columns source and subject.")
    ] = None,
    profile: Profile = None,
    microns_per_pixel: Annotated[
        float | None,
        typer.Option(help="Scale of all images; without it the file's metadata, else from the red cells."),
    ] = None,
) -> None:
    """Find, outline, measure, name and count the white cells of stained blood smears.

    Exit code 0: every image was searched. 1: an image was rejected (the others have their results). 2: wrong usage.

    Examples: leukoscope smear field.jpg --out results

    leukoscope smear fields/ --microns-per-pixel 0.1 --json > fields.jsonl
    """
    from leukoscope.cli.smearing import SmearOptions, run_smear

    options = SmearOptions(
        sources=tuple(sources or ()),
        out=out,
        bundle=bundle,
        as_json=as_json,
        quiet=quiet,
        resume=resume,
        overwrite=overwrite,
        subjects=subjects,
        finder=finder,
        keep_spelling=keep_spelling,
        profile=profile,
        microns_per_pixel=microns_per_pixel,
    )
    try:
        code = run_smear(options)
    except KeyboardInterrupt:
        hint = f"; continue with --out {out} --resume" if out is not None else ""
        typer.echo(f"leukoscope: interrupted{hint}", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(code)
