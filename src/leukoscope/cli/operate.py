"""``leukoscope predict``, ``bundle`` and ``explain-check``: prediction with a bundle, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.options import KeepSpelling, Overwrite, Profile
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_WORKERS

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", metavar="DIR", help="Folder of the bundle, or the name of a shipped one."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=LARGEST_WORKERS, help="Threads of the engine; default: all cores.")
]
Engine = Annotated[str, typer.Option(help="openvino, onnxruntime or onnxruntime-cuda.")]
Precision = Annotated[str, typer.Option(help="f32, or bf16 if the processor supports it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("predict")(predict)
    app.command("explain-check")(explain_check)
    bundle = typer.Typer(help="Verify, show or list bundles (exported models).", no_args_is_help=True)
    bundle.command("verify")(bundle_verify)
    bundle.command("show")(bundle_show)
    bundle.command("list")(bundle_list)
    app.add_typer(bundle, name="bundle")


def predict(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Cut-out cells or uncut photographs: images, folders, ZIP archives, glob patterns, or - for one image "
            "on standard input."
        ),
    ] = None,
    *,
    bundle: Bundle = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, in the order of the input.")
    ] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the results as CSV.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write results.jsonl, results.csv, subjects.csv, predict.json and heat_maps/ into this folder.",
        ),
    ] = None,
    heat_maps: Annotated[
        bool, typer.Option(help="With --out: draw a heat map over each classified cell.")
    ] = True,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet, .html or .png.")
    ] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Table with columns source and subject; inferred from C-NMC file names."
        ),
    ] = None,
    stdin_list: Annotated[
        bool, typer.Option("--stdin-list", help="Read paths from standard input, one per line.")
    ] = False,
    keep_spelling: KeepSpelling = False,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="With --out: resume an interrupted call.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
    operating_point: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the bundle's operating points (see bundle show)."),
    ] = None,
    tta: Annotated[int, typer.Option(help="Average over 4 rotations, or 8 with mirror images.")] = 1,
    engine: Engine = "openvino",
    threads: Threads = None,
    precision: Precision = "f32",
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of compiled models, for a faster start.")
    ] = None,
    microns_per_pixel: Annotated[
        float | None,
        typer.Option(
            help="Scale of photographs; without it from each file's metadata, else from the red cells."
        ),
    ] = None,
    profile: Profile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a result and exit.")
    ] = False,
) -> None:
    """Classify cell images: probability, decision, reasons, heat map.

    An uncut photograph gives one result per white cell that is found in it. Exit code 0: every image was classified, or
    refused as unlike the training cells. 1: an image could not be read or shows no cell; the others have their results.
    2: wrong usage.

    Examples: leukoscope predict cell.bmp --out results

    leukoscope predict cells/ batch.zip --json > results.jsonl
    """
    if schema:
        _print_schema()
        return
    from leukoscope.cli.predicting import PredictOptions, run_predict

    options = PredictOptions(
        sources=tuple(sources or ()),
        bundle=bundle,
        as_json=as_json,
        csv_file=csv_file,
        out=out,
        heat_maps=heat_maps,
        sheet=sheet,
        subjects=subjects,
        keep_spelling=keep_spelling,
        stdin_list=stdin_list,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        operating_point=operating_point,
        tta=tta,
        engine=engine,
        threads=threads,
        precision=precision,
        cache=cache,
        microns_per_pixel=microns_per_pixel,
        profile=profile,
    )
    try:
        code = run_predict(options)
    except KeyboardInterrupt:
        hint = f"; continue with --out {out} --resume" if out is not None else ""
        typer.echo(f"leukoscope: interrupted{hint}", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def bundle_verify(
    directory: Annotated[
        Path | None, typer.Argument(help="Folder or name of the bundle; the shipped classifier by default.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Expected SHA-256 of the bundle, as bundle show prints it."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Engine that must reproduce the sample; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check hashes, schema, graph, card and the expected results of the sample cells.

    Exit code 1 where a check fails. Example: leukoscope bundle verify my-bundle
    """
    from leukoscope.cli.bundles import verify

    raise typer.Exit(
        verify(directory, expect=expect, engines=tuple(engine or ("openvino",)), as_json=as_json)
    )


def bundle_show(
    directory: Annotated[
        Path | None, typer.Argument(help="Folder or name of the bundle; the shipped classifier by default.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the model card.")] = False,
    as_json: Json = False,
) -> None:
    """Show a bundle: model, training, operating points, licenses, hash.

    Example: leukoscope bundle show --card
    """
    from leukoscope.cli.bundles import show

    show(directory, card=card, as_json=as_json)


def bundle_list(as_json: Json = False) -> None:
    """List the available bundles: those shipped, and those in the folder of the variable LEUKOSCOPE_MODELS.

    Example: leukoscope bundle list
    """
    from leukoscope.cli.bundles import list_bundles

    list_bundles(as_json=as_json)


def explain_check(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Cell images, folders or archives; default: the shipped cells."),
    ] = None,
    *,
    bundle: Bundle = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST_COUNT, help="Classify at most this many cells, spread over the input."
        ),
    ] = 60,
    engine: Engine = "openvino",
    threads: Threads = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the measurements as JSON.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure how faithful the heat maps are: energy inside the cell, deletion, randomized weights, rotation.

    Example: leukoscope explain-check --limit 60
    """
    from leukoscope.cli.explaining import run_explain_check

    run_explain_check(
        tuple(sources or ()),
        bundle=bundle,
        limit=limit,
        engine=engine,
        threads=threads,
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )


def _print_schema() -> None:
    import json

    from leukoscope.inference.results import CellResult

    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **CellResult.model_json_schema(mode="serialization"),
    }
    typer.echo(json.dumps(schema, indent=2))
