"""A finished run becomes a bundle: graph, decision rules, card and sample cells."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from leukoscope.core.classes import ClassSchema
    from leukoscope.decision.fit import DecisionSettings, ScoredRows
    from leukoscope.inference.sample import SampleCell
    from leukoscope.models.bundle import Bundle
    from leukoscope.models.manifest import Manifest, TensorSpec, TrainingRecord
    from leukoscope.training.networks.network import CellNetwork
    from leukoscope.workflows.bundle_description import TrainingData

SAMPLES_PER_CLASS = 4


@dataclass(frozen=True)
class Identity:
    """Name of the bundle (None: derived from the training data), and limitations given by the user."""

    name: str | None
    version: str
    title: str | None
    limitations: tuple[str, ...] = ()


def export_run(
    run: Path,
    out: Path,
    identity: Identity,
    *,
    report: Path | None = None,
    data_license: Path | None = None,
    attribution: str = "",
    weights_dtype: Literal["float16", "float32"] = "float16",
) -> "Bundle":
    """Make a bundle of a run folder.

    Parameters
    ----------
    run
        Run folder written by training.
    out
        Folder of the bundle: new, or a bundle to be replaced.
    identity
        How it is called.
    report
        ``report.json`` to include; None for a model that has not been evaluated.
    data_license, attribution
        License text of the training data, and whom to credit; of C-NMC's cells both are known.
    weights_dtype
        Of the stored weights; arithmetic is float32.

    Raises
    ------
    UsageError
        The run is not finished, its scores are no single view's, or name or version have another form.
    """
    from leukoscope.models.bundle import check_bundle_place

    _check_identity(identity)  # before torch is loaded
    check_bundle_place(out)

    from leukoscope.data.table import read_classes
    from leukoscope.evaluation.scores import check_finished
    from leukoscope.models.report import read_report
    from leukoscope.training.fit.checkpoint import load_trained
    from leukoscope.workflows.bundle_description import read_license, read_training_data

    evaluated = None if report is None else read_report(report)
    if data_license is not None:
        read_license(data_license)  # before the work
    check_finished(run)
    _check_views(run)
    return assemble(
        out,
        network=load_trained(run),
        rows=read_rows(run),
        record=_training_record(run),
        data=read_training_data(run, data_license, attribution),
        identity=identity,
        report=evaluated,
        weights_dtype=weights_dtype,
        classes=read_classes(run / "cells.csv"),
    )


def _check_identity(identity: Identity) -> None:
    from pydantic import TypeAdapter, ValidationError

    from leukoscope.core.errors import UsageError
    from leukoscope.models.manifest import Identifier, Version

    name: TypeAdapter[str | None] = TypeAdapter(Identifier | None)
    version: TypeAdapter[str] = TypeAdapter(Version)
    for what, value, form, words in (
        ("name", identity.name, name, "a-z, 0-9, '.', '_' and '-', from a letter or digit, at most 64"),
        ("version", identity.version, version, "a digit, then letters, digits, '.', '+' and '-', at most 32"),
    ):
        try:
            form.validate_python(value)
        except ValidationError:
            raise UsageError(f"--{what} {value!r}: expected {words} characters") from None


def _check_views(run: Path) -> None:
    from leukoscope.core.errors import UsageError
    from leukoscope.training.recipe import read_settings

    views = read_settings(run / "config.toml").score.tta
    if views > 1:
        raise UsageError(
            f"{run}: score.tta = {views}: its scores are averages over {views} views, a bundle uses one; score it "
            f"again with 'leukoscope train --resume {run} --set score.tta=1', then evaluate and export"
        )


def assemble(
    out: Path,
    *,
    network: "CellNetwork",
    rows: "ScoredRows",
    record: "TrainingRecord",
    data: "TrainingData",
    identity: Identity,
    report: Any = None,
    settings: "DecisionSettings | None" = None,
    weights_dtype: Literal["float16", "float32"] = "float16",
    classes: "ClassSchema | None" = None,
) -> "Bundle":
    """Export the graph, fit the decision layer, ask the model about the sample cells and write the bundle."""
    import tempfile

    from leukoscope import assets
    from leukoscope.core.classes import BINARY
    from leukoscope.decision.fit import DecisionSettings, fit_decision
    from leukoscope.inference.sample import build_bundle
    from leukoscope.training.export import export_onnx
    from leukoscope.workflows.bundle_description import data_license_text

    classes = classes or BINARY
    fitted = fit_decision(rows, settings or DecisionSettings(), classes)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        graph = export_onnx(network, model, weights_dtype)
        manifest = _manifest(
            network, graph, record, data=data, identity=identity, notes=fitted.notes, classes=classes
        )
        return build_bundle(
            out,
            model_path=model,
            manifest=manifest,
            decision=fitted.parameters,
            novelty=fitted.novelty,
            report=report,
            license_text=assets.license_text(),
            data_license=data_license_text(data),
            sample=_sample_cells(classes),
        )


def read_rows(run: Path) -> "ScoredRows":
    """Read scores, embeddings and descriptors of a run as arrays, row by row as in ``scores.csv``."""
    import pandas as pd
    from safetensors.numpy import load_file

    from leukoscope.core.errors import CohortError
    from leukoscope.data.table import read_cells, read_classes
    from leukoscope.evaluation.scores import scored_rows

    scores = pd.read_csv(
        run / "scores.csv", dtype={"subject": str, "group": str, "inner_fold": str}, keep_default_na=False
    )
    embeddings = load_file(run / "embeddings.safetensors")["embeddings"]
    if len(embeddings) != len(scores):
        raise CohortError(
            f"{run}: {len(scores)} scored rows, {len(embeddings)} embeddings; score the run again"
        )
    table, classes = read_cells(run / "cells.csv"), read_classes(run / "cells.csv")
    return scored_rows(scores, table.set_index("cell"), embeddings, classes)


def _training_record(run: Path) -> "TrainingRecord":
    """Describe the training set of a run: cells of part train, their groups and the settings."""
    import json
    import tomllib

    import pandas as pd

    from leukoscope.data.splits import read_splits
    from leukoscope.data.table import read_cells, table_sha256
    from leukoscope.models.manifest import TrainingRecord, hash_groups

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
        groups_sha256=hash_groups(groups),
        cells_sha256=table_sha256(cells),
        initial_weights=_origin_text(provenance.get("initial_weights") or {}),
        seed=config.get("seed"),
        git_commit=(provenance.get("git") or {}).get("commit"),
    )


def _origin_text(origin: "dict[str, Any]") -> str:
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
    *,
    data: "TrainingData",
    identity: Identity,
    notes: tuple[str, ...],
    classes: "ClassSchema",
) -> "Manifest":
    from datetime import UTC, datetime
    from importlib.metadata import version

    from leukoscope.imaging.canvas import CANVAS_PX
    from leukoscope.models.manifest import Manifest
    from leukoscope.training.networks.cost import count_flops
    from leukoscope.workflows.bundle_description import explained_texts, head_texts, license_records

    settings, words = network.settings, data.words_for(classes)
    return Manifest(
        name=identity.name or data.words.name,
        task="cell" if classes.size == 2 else "kinds",
        classes=classes,
        version=identity.version,
        title=identity.title or words.title,
        created=datetime.now(UTC).replace(microsecond=0).isoformat(),
        intended_use=words.intended_use,
        limitations=(*data.limitations, *identity.limitations, *notes),
        architecture=settings.arch,
        head=head_texts(network),
        attribution=f"Grad-CAM of the logit on {explained_texts(network)}, closed form (doi 10.1109/ICCV.2017.74)",
        parameters=network.used_parameters(),
        flops=count_flops(network),
        canvas_px=CANVAS_PX,
        input_px=settings.input_px,
        inputs=_tensor_specs(graph["inputs"], network, classes),
        outputs=_tensor_specs(graph["outputs"], network, classes),
        training=record,
        libraries={name: version(name) for name in ("leukoscope", "torch", "timm", "onnx")},
        licenses=license_records(data, record.initial_weights),
    )


def _tensor_specs(
    entries: list[dict[str, Any]], network: "CellNetwork", classes: "ClassSchema"
) -> "tuple[TensorSpec, ...]":
    from leukoscope.models.manifest import TensorSpec
    from leukoscope.workflows.bundle_description import tensor_texts

    words, specs = tensor_texts(network, classes), []
    for entry in entries:
        meaning, value_range = words[entry["name"]]
        specs.append(TensorSpec(**entry, meaning=meaning, value_range=value_range))
    return tuple(specs)


def _sample_cells(classes: "ClassSchema") -> "list[SampleCell]":
    """Return shipped cells of both classes of C-NMC, each of another subject; labels if the model has these classes."""
    import csv

    from leukoscope import assets
    from leukoscope.core.terms import Label
    from leukoscope.inference.sample import SampleCell

    with assets.sample_table_path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for label in Label:
        by_subject = {row["subject"]: row for row in rows if row["label"] == label.name.lower()}
        known = label if label.name.lower() in classes.names else None
        for row in list(by_subject.values())[:SAMPLES_PER_CLASS]:
            chosen.append(SampleCell(assets.sample_cells_directory() / row["file"], known, row["subject"]))
    return chosen
