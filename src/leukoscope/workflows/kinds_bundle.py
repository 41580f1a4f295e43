"""Make the bundle of kinds: from a pack of crops and trained weights to graph, decision rules, report and card.

The crops that the network was not trained on are split in two halves, C-NMC by person. Each half is measured with the
rules that were fitted on the other; the rules of the bundle are fitted on both.
"""

import argparse
import datetime
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from leukoscope import assets
from leukoscope.core.classes import ClassSchema
from leukoscope.core.io import file_sha256
from leukoscope.decision.calibration import Rule
from leukoscope.decision.fit import DecisionFit, DecisionSettings, ScoredRows, fit_decision
from leukoscope.decision.input_checks import LimitRule
from leukoscope.decision.parameters import InputLimits
from leukoscope.evaluation.scores import DESCRIPTOR_NAMES
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.inference.sample import SampleCell, build_bundle
from leukoscope.models.bundle import Bundle
from leukoscope.models.session import Session
from leukoscope.training.kinds.bank import Bank, build_bank
from leukoscope.training.kinds.classes import class_schema, label_class
from leukoscope.training.kinds.export import count_flops, export_kinds, read_weights
from leukoscope.training.kinds.packing import read_pack
from leukoscope.training.kinds.protocol import training_rows
from leukoscope.training.kinds.views import Draw, ViewSettings, make_views, plain_views
from leukoscope.workflows.kinds_manifest import Cost, data_license_text, kinds_manifest
from leukoscope.workflows.kinds_report import kinds_report

HALVES = ("a", "b")
_CHUNK = 64


@dataclass(frozen=True)
class ScoredCrops:
    """Crops with what the exported graph answers.

    Attributes
    ----------
    table
        One row a crop: ``cell``, ``label`` (of the pack), ``kind`` (class of the bundle or empty), ``laboratory``,
        ``subject``, ``part`` (``train``, ``a``, ``b``, or empty where the label is no single class) and descriptors of
        the cell cut out.
    images
        uint8 (N, S, S, 3), as the graph saw them.
    logits, embeddings
        float32 (N, K) and (N, D).
    """

    table: pd.DataFrame
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def crop_images(bank: Bank, rows: NDArray[np.int64], input_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return crops as uint8 (N, S, S, 3): in their surroundings, C-NMC's cut-out cells pasted into held-out ones."""
    generator = torch.Generator(bank.images.device).manual_seed(seed)
    around = torch.from_numpy(bank.rows(laboratory="pbc", held_out=True))
    pasting = ViewSettings(input_px, strength=0.0, cut_out_share=0.0)
    images = np.empty((len(rows), input_px, input_px, 3), np.uint8)
    for start in range(0, len(rows), _CHUNK):
        part = torch.from_numpy(rows[start : start + _CHUNK])
        views = plain_views(bank, part, cut_out=False, input_px=input_px)
        cut_out = bank.cut_out[part]
        if bool(cut_out.any()) and len(around):
            chosen = around[torch.randint(len(around), (int(cut_out.sum()),), generator=generator)]
            views = views.clone()
            views[cut_out] = make_views(bank, Draw(part[cut_out], chosen, chosen), pasting, generator)
        pixels = (views.permute(0, 2, 3, 1) * 255.0).round().clamp(0, 255)
        images[start : start + len(part)] = pixels.to(torch.uint8).numpy()
    return images


def score_crops(bank: Bank, model: Path, input_px: int) -> ScoredCrops:
    """Ask an exported graph about every crop of a pack."""
    rows = np.arange(len(bank.items), dtype=np.int64)
    images = crop_images(bank, rows, input_px)
    session = Session(model, streaming=True)
    logits, embeddings = [], []
    for start in range(0, len(rows), _CHUNK):
        answer = session.run(images[start : start + _CHUNK])
        logits.append(answer.logits)
        embeddings.append(answer.embedding)
    return ScoredCrops(_table(bank, input_px), images, np.concatenate(logits), np.concatenate(embeddings))


def _table(bank: Bank, input_px: int) -> pd.DataFrame:
    trained = set(training_rows(bank).tolist())
    people = sorted({item.subject for item in bank.items if item.laboratory == "cnmc" and item.held_out})
    entries = []
    for row, item in enumerate(bank.items):
        kind = label_class(item.label) or ""
        part = "train" if row in trained else HALVES[_half(item.laboratory, item.subject, people)]
        cut = plain_views(bank, torch.tensor([row]), cut_out=True, input_px=input_px)
        cell = (cut[0].permute(1, 2, 0) * 255.0).round().to(torch.uint8).numpy()
        described = asdict(describe_cell(cell, input_px))
        entries.append(
            {
                "cell": f"{item.laboratory}/{item.subject}/{row}",
                "sha256": hashlib.sha256(cell.tobytes()).hexdigest(),
                "label": item.label,
                "kind": kind,
                "laboratory": item.laboratory,
                "subject": f"{item.laboratory}:{item.subject}",
                "part": part if kind else "",
                "held_out": row not in trained,
                "width_px": input_px,
                "height_px": input_px,
                **described,
            }
        )
    return pd.DataFrame(entries)


def _half(laboratory: str, subject: str, people: Sequence[str]) -> int:
    """Return the half: people of C-NMC in turn within their class, everything else by a digest."""
    if laboratory == "cnmc":
        same = [name for name in people if name[:3] == subject[:3]]
        return same.index(subject) % 2 if subject in same else 0
    return hashlib.sha256(f"half {subject}".encode()).digest()[0] % 2


SETTINGS = DecisionSettings(
    rules=(Rule("fixed", 0.5), Rule("sensitivity", 0.95), Rule("specificity", 0.95)),
    alpha=0.05,
    novelty_refusal_rate=0.01,
    novelty_margin=1.8,
)
"""Half the probability calls a blast: counts need a threshold that favors neither side.

The margin of the novelty limit is wide since cells of other laboratories are meant to be named: with each laboratory
left out of the novelty fit in turn, 99 % of its cells stayed below 1.72 times the quantile of held-out cells (of the
farthest laboratory). What is no cell is a class of its own.
"""


def fit_rules(
    crops: ScoredCrops, classes: ClassSchema, input_px: int, settings: DecisionSettings
) -> DecisionFit:
    """Fit the decision layer of the bundle on both halves of what was held out.

    The unit is the cell: only C-NMC names its people, and eight with blasts are too few for a limit by person.
    """
    kept = crops.table[crops.table["part"] != ""]
    numbers = kept.index.to_numpy()
    rows = ScoredRows(
        part=np.where(kept["part"] == "train", "train", "validation"),
        label=np.array([classes.index(name) for name in kept["kind"]]),
        logit=crops.logits[numbers].astype(np.float64),
        group=kept["cell"].to_numpy(dtype=str),
        inner_fold=np.full(len(kept), ""),
        embeddings=crops.embeddings[numbers],
        descriptors={name: kept[name].to_numpy(dtype=np.float64) for name in DESCRIPTOR_NAMES},
    )
    fitted = fit_decision(rows, settings, classes)
    limits = uncut_limits(crops.images[numbers[kept["part"] == "train"]], input_px)
    parameters = fitted.parameters.model_copy(update={"input_limits": limits})
    return DecisionFit(parameters, fitted.novelty, fitted.notes)


def uncut_limits(images: NDArray[np.uint8], input_px: int, rule: LimitRule | None = None) -> InputLimits:
    """Return input limits of crops with surroundings: only black frames and blurred images are refused.

    Size, border and number of objects mean nothing where the surroundings are part of the image; what is no cell is a
    class of its own.
    """
    rule = rule or LimitRule()
    focus = [describe_cell(image, input_px).focus for image in images[:: max(1, len(images) // 1500)]]
    area = input_px * input_px
    return InputLimits(
        blank_area_px=area // 100,
        min_area_px=area // 50,
        max_area_px=area,
        max_foreground_share=1.0,
        min_focus=float(np.quantile(focus, rule.tail)) * rule.focus_factor,
        max_border_contact_px=4 * input_px,
        max_components=area,
    )


_SAMPLES = (
    "neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte", "immature_granulocyte", "erythroblast",
    "platelet",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What the bundle is made of.

    Attributes
    ----------
    pack, weights, study
        Files of ``packing.write_pack``, of a study's network and of its results.
    out
        Folder of the bundle: new, or a bundle to be replaced.
    version
        Of the bundle.
    """

    pack: Path
    weights: Path
    study: Path
    out: Path
    version: str = "0.1.0"


def make_bundle(
    inputs: Inputs, settings: DecisionSettings = SETTINGS, evaluation: EvaluationSettings | None = None
) -> Bundle:
    """Export the graph, score every crop with it, fit, measure, and write the bundle."""
    network, record = read_weights(inputs.weights)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        graph = export_kinds(network, model, int(record["input_px"]))
        bank = build_bank(read_pack(inputs.pack), torch.device("cpu"))
        crops = score_crops(bank, model, int(record["input_px"]))
        return assemble(inputs, crops, model, graph, settings=settings, evaluation=evaluation)


def assemble(
    inputs: Inputs,
    crops: ScoredCrops,
    model: Path,
    graph: dict[str, list[dict[str, Any]]],
    *,
    settings: DecisionSettings = SETTINGS,
    evaluation: EvaluationSettings | None = None,
) -> Bundle:
    """Fit the decision layer on scored crops, measure it and write the bundle.

    Parameters
    ----------
    inputs, settings, evaluation
        See ``make_bundle``.
    crops
        What the graph in ``model`` answered.
    model, graph
        The exported graph, and its inputs and outputs.
    """
    network, record = read_weights(inputs.weights)
    classes, input_px = class_schema(), int(record["input_px"])
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    report = kinds_report(
        crops.table, crops.logits, crops.embeddings, classes,
        settings=settings, study=inputs.study, record=record, created=created, evaluation=evaluation,
    )  # fmt: skip
    fitted = fit_rules(crops, classes, input_px, settings)
    cost = Cost(sum(tensor.numel() for tensor in network.parameters()), count_flops(network, input_px))
    digest = file_sha256(inputs.weights)
    manifest = kinds_manifest(
        crops.table, graph, record, classes,
        name_version=inputs.version, created=created, cost=cost, notes=fitted.notes, weights_sha256=digest,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return build_bundle(
            inputs.out,
            model_path=model,
            manifest=manifest,
            decision=fitted.parameters,
            novelty=fitted.novelty,
            report=report,
            license_text=assets.license_text(),
            data_license=data_license_text(),
            sample=_write_sample(crops, Path(folder)),
        )


def _write_sample(crops: ScoredCrops, folder: Path) -> list[SampleCell]:
    """Write one held-out PBC crop a kind as lossless WebP: the first of each by its digest."""
    from PIL import Image

    held = crops.table[crops.table["held_out"] & (crops.table["laboratory"] == "pbc")].sort_values("sha256")
    sample = []
    for kind in _SAMPLES:
        cells = held[held["kind"] == kind]
        if cells.empty:
            continue
        row, cell = cells.index[0], cells.iloc[0]
        path = folder / f"{cell['subject'].partition(':')[2]}.webp"
        Image.fromarray(crops.images[row]).save(path, lossless=True)
        sample.append(SampleCell(path, kind, None))
    return sample


def main(arguments: list[str] | None = None) -> None:
    """Make the bundle from the command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="file of write_pack")
    parser.add_argument("weights", type=Path, help="safetensors file of a study's final network")
    parser.add_argument("study", type=Path, help="results.json of the study")
    parser.add_argument("out", type=Path, help="folder of the bundle")
    parser.add_argument("--version", default="0.1.0")
    bundle = make_bundle(Inputs(**vars(parser.parse_args(arguments))))
    print(f"{bundle.directory}: {bundle.manifest.name} {bundle.manifest.version}")  # noqa: T201


if __name__ == "__main__":
    main()
