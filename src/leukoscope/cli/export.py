"""``leukoscope export``: a finished run becomes a bundle. The place where training and runtime meet."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from leukoscope.bundle.folder import Bundle
    from leukoscope.bundle.manifest import Manifest, TensorSpec, TrainingRecord
    from leukoscope.decision.fit import DecisionSettings, ScoredRows
    from leukoscope.runtime.sample import SampleCell
    from leukoscope.training.network import CellNetwork

INTENDED_USE = (
    "Research and teaching on single cell images: telling B-ALL lymphoblasts from normal B-lymphoid precursors in "
    "images prepared as C-NMC 2019 (one cell, cut out on a black 450 x 450 canvas, Jenner-Giemsa stain). "
    "Not for diagnosis, screening or treatment decisions."
)
LIMITATIONS = (
    "Every training subject carries one label only, so that stain, session and person are confounded with the class; "
    "the effective sample is the number of subjects, not of cells.",
    "All training cells come from one centre. Other microscopes, stains and ways of cutting cells out are untested.",
    "Cell size alone separates the classes to a large part; read every result beside the area-alone baseline.",
    "Normal cells here are B-lymphoid precursors. Mature cells and other lineages were not trained on and are meant "
    "to be refused as novel, which is not certain.",
    "A heat map shows what moved the logit, not what a hematologist would look at.",
)
PROPERTIES = {
    "cells": ("RGB on the canonical black canvas, resized as a whole", "0 to 255"),
    "logits": ("log-odds of blast before calibration", "unbounded"),
    "embedding": ("globally averaged convolutional features", "unbounded"),
    "activation_map": (
        "Grad-CAM of the logit after ReLU, last convolutional features, not normalised",
        ">= 0",
    ),
}
SAMPLES_A_CLASS = 4


@dataclass(frozen=True)
class Identity:
    """How the bundle is called."""

    name: str
    version: str
    title: str


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="Run folder written by `leukoscope train`.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    name: Annotated[str, typer.Option(help="Short name, lower case.")] = "leukoscope-cnmc",
    version: Annotated[str, typer.Option(help="Version of the model.")] = "0.1.0",
    title: Annotated[
        str, typer.Option(help="Title of the card.")
    ] = "B-ALL lymphoblasts against normal precursors",
    report: Annotated[
        Path | None, typer.Option(help="report.json of `leukoscope evaluate`, to travel along.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Stored weights: float16 or float32. Arithmetic is float32.")
    ] = "float16",
    data_licence: Annotated[
        Path | None, typer.Option(help="Licence text of the training data; that of C-NMC by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a bundle: graph with Grad-CAM inside, fitted decision rules, card, sample cells and hashes.

    Every engine that is installed must then give the sample cells the same answers.

    Example:

        leukoscope export runs/20260131-texture-1a2b3c4d --report out/report.json --out my-bundle
    """
    import json

    from leukoscope.cli.bundles import require_agreement
    from leukoscope.errors import UsageError
    from leukoscope.terms import RESEARCH_USE

    if weights not in ("float16", "float32"):
        raise UsageError(f"--weights {weights}: expected float16 or float32")
    bundle = export_run(
        run,
        out,
        Identity(name, version, title),
        report=report,
        data_licence=data_licence,
        weights_dtype="float16" if weights == "float16" else "float32",
    )
    require_agreement(bundle)
    size_mb = bundle.model_path.stat().st_size / 1e6
    if as_json:
        typer.echo(
            json.dumps({"bundle": str(out), "sha256": bundle.sha256, "model_sha256": bundle.model_sha256})
        )
        return
    typer.echo(f"{out}: {name} {version}, model.onnx {size_mb:.1f} MB. {RESEARCH_USE}")
    typer.echo(f"Next: leukoscope bundle verify {out} && leukoscope predict --bundle {out} cell.bmp")


def export_run(
    run: Path,
    out: Path,
    identity: Identity,
    *,
    report: Path | None = None,
    data_licence: Path | None = None,
    weights_dtype: Literal["float16", "float32"] = "float16",
) -> "Bundle":
    """Make a bundle of a run folder, as the command does.

    Parameters
    ----------
    run
        Run folder written by training.
    out
        Folder of the bundle: new, or a bundle to be replaced.
    identity
        How it is called.
    report
        ``report.json`` to travel along; None for a model that has not been evaluated.
    data_licence
        Licence text of the training data; that of C-NMC where left out.
    weights_dtype
        Of the stored weights; arithmetic is float32.
    """
    from leukoscope.bundle.report import read_report
    from leukoscope.training.checkpoint import load_trained

    return assemble(
        out,
        network=load_trained(run),
        rows=read_rows(run),
        record=_training_record(run),
        identity=identity,
        report=None if report is None else read_report(report),
        data_licence=data_licence,
        weights_dtype=weights_dtype,
    )


def assemble(
    out: Path,
    *,
    network: "CellNetwork",
    rows: "ScoredRows",
    record: "TrainingRecord",
    identity: Identity,
    report: Any = None,
    data_licence: Path | None = None,
    settings: "DecisionSettings | None" = None,
    weights_dtype: Literal["float16", "float32"] = "float16",
) -> "Bundle":
    """Export the graph, fit the decision layer, ask the model about the sample cells and write the bundle."""
    import tempfile

    from leukoscope import assets
    from leukoscope.decision.fit import DecisionSettings, fit_decision
    from leukoscope.runtime.sample import build_bundle
    from leukoscope.training.export import export_onnx

    fitted = fit_decision(rows, settings or DecisionSettings())
    attribution = data_licence or assets.sample_cells_directory() / "ATTRIBUTION.md"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        graph = export_onnx(network, model, weights_dtype)
        manifest = _manifest(network, graph, record, identity, fitted.notes)
        return build_bundle(
            out,
            model_path=model,
            manifest=manifest,
            decision=fitted.parameters,
            novelty=fitted.novelty,
            report=report,
            licence=assets.licence_text(),
            data_licence=attribution.read_text(encoding="utf-8"),
            sample=_sample_cells(),
        )


def read_rows(run: Path) -> "ScoredRows":
    """Read scores, embeddings and descriptors of a run as arrays, row by row as in ``scores.csv``."""
    from dataclasses import fields

    import numpy as np
    import pandas as pd
    from safetensors.numpy import load_file

    from leukoscope.data.table import read_cells
    from leukoscope.decision.fit import ScoredRows
    from leukoscope.errors import CohortError
    from leukoscope.imaging.descriptors import Descriptors

    scores = pd.read_csv(
        run / "scores.csv", dtype={"subject": str, "group": str, "inner_fold": str}, keep_default_na=False
    )
    embeddings = load_file(run / "embeddings.safetensors")["embeddings"]
    if len(embeddings) != len(scores):
        raise CohortError(
            f"{run}: {len(scores)} scored rows, {len(embeddings)} embeddings; score the run again"
        )
    cells = read_cells(run / "cells.csv").set_index("cell").loc[scores["cell"]]
    return ScoredRows(
        part=scores["part"].to_numpy(dtype=str),
        label=scores["label"].to_numpy(dtype=np.int64),
        logit=scores["logit"].to_numpy(dtype=np.float64),
        group=scores["group"].to_numpy(dtype=str),
        inner_fold=scores["inner_fold"].to_numpy(dtype=str),
        embeddings=embeddings.astype(np.float32),
        descriptors={
            field.name: cells[field.name].to_numpy(dtype=np.float64) for field in fields(Descriptors)
        },
    )


def _training_record(run: Path) -> "TrainingRecord":
    """Return what the run's network learned from: the cells of part train, their groups and the settings."""
    import hashlib
    import json
    import tomllib

    import pandas as pd

    from leukoscope.bundle.manifest import TrainingRecord
    from leukoscope.data.splits import read_splits
    from leukoscope.data.table import read_cells, table_sha256

    cells = read_cells(run / "cells.csv")
    plan = read_splits(run / "splits.json", cells)
    scores = pd.read_csv(run / "scores.csv", dtype={"subject": str, "group": str}, keep_default_na=False)
    trained = scores[scores["part"] == "train"].drop_duplicates("cell")
    groups = sorted(set(trained["group"]))
    provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    return TrainingRecord(
        protocol=f"{plan.protocol}, {plan.splits[0].name}",
        cells=len(trained),
        subjects=trained["subject"].nunique(),
        groups=len(groups),
        groups_sha256=hashlib.sha256("".join(f"{group}\n" for group in groups).encode()).hexdigest(),
        cells_sha256=table_sha256(cells),
        initial_weights=_origin_words(provenance.get("initial_weights") or {}),
        seed=config.get("seed"),
        git_commit=(provenance.get("git") or {}).get("commit"),
    )


def _origin_words(origin: "dict[str, Any]") -> str:
    source = origin.get("source")
    if source is None:
        return "not recorded"
    if source == "none":
        return "random"
    words = f"{source}, SHA-256 {origin.get('sha256')}"
    return f"{words}: {origin['note']}" if origin.get("note") else words


def _manifest(
    network: "CellNetwork",
    graph: dict[str, list[dict[str, Any]]],
    record: "TrainingRecord",
    identity: Identity,
    notes: tuple[str, ...],
) -> "Manifest":
    from datetime import UTC, datetime
    from importlib.metadata import version

    from leukoscope.bundle.manifest import LicenceRecord, Manifest
    from leukoscope.imaging.preprocess import CANVAS_PX
    from leukoscope.training.cost import count_flops

    settings = network.settings
    data = "C-NMC 2019, The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r, AIIMS New Delhi"
    return Manifest(
        name=identity.name,
        version=identity.version,
        title=identity.title,
        created=datetime.now(UTC).replace(microsecond=0).isoformat(),
        intended_use=INTENDED_USE,
        limitations=(*LIMITATIONS, *notes),
        architecture=settings.arch,
        head=_head_words(network),
        attribution=f"Grad-CAM of the logit on {_explained_words(network)}, closed form (doi 10.1109/ICCV.2017.74)",
        parameters=network.used_parameters(),
        flops=count_flops(network),
        canvas_px=CANVAS_PX,
        input_px=settings.input_px,
        inputs=_tensor_specs(graph["inputs"]),
        outputs=_tensor_specs(graph["outputs"]),
        training=record,
        libraries={name: version(name) for name in ("leukoscope", "torch", "timm", "onnx")},
        licences=(
            LicenceRecord(part="weights", licence="Apache-2.0", attribution=record.initial_weights),
            LicenceRecord(part="training data and sample cells", licence="CC-BY-3.0", attribution=data),
        ),
    )


def _head_words(network: "CellNetwork") -> str:
    settings = network.settings
    stages = len(settings.pooled_stages)
    values = "mean and mean square over the cell" if settings.pooling == "moments" else "global averages"
    words = f"{settings.head}, on the {values} of {stages} stage{'s' if stages > 1 else ''}"
    return words + (" and nine size and colour scalars" if settings.descriptor_head else "")


def _explained_words(network: "CellNetwork") -> str:
    settings = network.settings
    if settings.pooling == "moments":
        return f"the standardised maps of all {len(settings.pooled_stages)} stages and their squares"
    return "the last features"


def _tensor_specs(entries: list[dict[str, Any]]) -> "tuple[TensorSpec, ...]":
    from leukoscope.bundle.manifest import TensorSpec

    specs = []
    for entry in entries:
        meaning, value_range = PROPERTIES[entry["name"]]
        specs.append(TensorSpec(**entry, meaning=meaning, value_range=value_range))
    return tuple(specs)


def _sample_cells() -> "list[SampleCell]":
    """Return shipped cells of both classes, each of another subject."""
    import csv

    from leukoscope import assets
    from leukoscope.runtime.sample import SampleCell
    from leukoscope.terms import Label

    with assets.sample_table_path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for label in Label:
        by_subject = {row["subject"]: row for row in rows if row["label"] == label.name.lower()}
        for row in list(by_subject.values())[:SAMPLES_A_CLASS]:
            chosen.append(SampleCell(assets.sample_cells_directory() / row["file"], label, row["subject"]))
    return chosen
