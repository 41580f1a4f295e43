"""``leukoscope adapt``: the profile of a laboratory."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.options import Overwrite, check_scale


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("adapt")(adapt)


def adapt(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Fields of one laboratory: images, folders, ZIP archives, glob patterns."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Profile to write, such as lab.json.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Corrected cells: columns image, cell, label; or cells.csv of 'leukoscope smear' with a column label.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the laboratory; the file's by default.")] = None,
    bundle: Annotated[
        str,
        typer.Option("--bundle", "-b", metavar="NAME|DIR", help="Bundle that the profile is for."),
    ] = "leukoscope-kinds",
    single_cells: Annotated[
        bool,
        typer.Option(
            "--single-cells", help="Each image shows one cell in its middle; no fields are searched."
        ),
    ] = False,
    microns_per_pixel: Annotated[
        float | None, typer.Option(help="Scale of all images; without it each field tells its own.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make the profile of a laboratory: its scale, light, stain and cells; with corrected cells also a correction.

    Give it to 'predict --profile' and 'smear --profile'. With at least 10 corrected cells, better 20 to 100 of every
    kind, the last layer is refitted; cells left out in turn must show that it helps, or nothing is changed.

    Examples: leukoscope adapt fields/ --out lab.json

    leukoscope adapt fields/ --labels corrected.csv --out lab.json
    """
    from leukoscope.core.errors import UsageError
    from leukoscope.core.outputs import Outputs, with_mark
    from leukoscope.core.terms import RESEARCH_USE
    from leukoscope.models.profile import MARK

    if not sources:
        raise UsageError("no image named; for example: leukoscope adapt fields/ --out lab.json")
    check_scale(microns_per_pixel)
    outputs = Outputs(overwrite=overwrite)
    outputs.read(*sources, labels)
    outputs.file(out, "--out", own=with_mark(MARK))
    outputs.check()
    from leukoscope.inference.predictor import Predictor
    from leukoscope.inference.sources import iterate_sources
    from leukoscope.learning.adapt import adapt as make_profile
    from leukoscope.learning.adapt import read_corrections
    from leukoscope.smear.files import FIELD_LIMITS

    corrections = None if labels is None else read_corrections(labels)
    profile = make_profile(
        iterate_sources(tuple(sources), stdin=sys.stdin.buffer, limits=FIELD_LIMITS),
        Predictor.open(bundle, streaming=True),
        name=name or out.stem,
        corrections=corrections,
        microns_per_pixel=microns_per_pixel,
        single_cells=single_cells,
    )
    profile.write(out)
    typer.echo(
        f"{out}: {profile.embedding.cells} cells of {profile.surroundings.fields} fields. {RESEARCH_USE}"
    )
    for remark in profile.remarks:
        typer.echo(f"  {remark}")
    typer.echo(f"Next: leukoscope smear fields/ --profile {out} --out results")
