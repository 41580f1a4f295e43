"""``leukoscope export``: make a bundle from a finished run."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="Run folder written by `leukoscope train`.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    name: Annotated[
        str | None,
        typer.Option(help="Short name, lower case; default: by whether the cells are from C-NMC."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "0.1.0",
    title: Annotated[str | None, typer.Option(help="Title of the card; default: the classes.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="report.json of `leukoscope evaluate` to include.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Stored weights: float16 or float32. Arithmetic is float32.")
    ] = "float16",
    data_license: Annotated[
        Path | None, typer.Option(help="License text of the training data; known for cells of C-NMC.")
    ] = None,
    attribution: Annotated[
        str | None, typer.Option(help="Attribution of the training data; known for cells of C-NMC.")
    ] = None,
    limitation: Annotated[
        list[str] | None, typer.Option(help="A sentence for the card's limitations; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a bundle: graph including Grad-CAM, fitted decision rules, card, sample cells and hashes.

    Every engine that is installed must then give the sample cells the same answers.

    Example:

        leukoscope export runs/20260131-default-1a2b3c4d --report out/report.json --out my-bundle
    """
    import json

    from leukoscope.core.errors import UsageError
    from leukoscope.core.terms import RESEARCH_USE
    from leukoscope.workflows.engine_agreement import require_agreement
    from leukoscope.workflows.export_run import Identity, export_run

    if weights not in ("float16", "float32"):
        raise UsageError(f"--weights {weights}: expected float16 or float32")
    bundle = export_run(
        run,
        out,
        Identity(name, version, title, tuple(limitation or ())),
        report=report,
        data_license=data_license,
        attribution=attribution or "",
        weights_dtype="float16" if weights == "float16" else "float32",
    )
    require_agreement(bundle)
    size_mb = bundle.model_path.stat().st_size / 1e6
    if as_json:
        typer.echo(
            json.dumps({"bundle": str(out), "sha256": bundle.sha256, "model_sha256": bundle.model_sha256})
        )
        return
    typer.echo(f"{out}: {bundle.manifest.name} {version}, model.onnx {size_mb:.1f} MB. {RESEARCH_USE}")
    typer.echo(f"Next: leukoscope bundle verify {out} && leukoscope predict --bundle {out} cell.bmp")
