"""The sample cells of a bundle with their expected results, and the check that they are reproduced."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukoscope.core.errors import BundleError
from leukoscope.core.terms import Label
from leukoscope.decision.calibration import group_log_odds
from leukoscope.decision.novelty import NoveltyModel
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.decision.policy import decide
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.inference.cells import Prediction
from leukoscope.inference.predictor import Predictor, explained_member
from leukoscope.models.bundle import Bundle, Check, SampleFile, write_bundle
from leukoscope.models.files import SAMPLE
from leukoscope.models.manifest import ExpectedCell, ExpectedOutputs, Manifest
from leukoscope.models.report import Report
from leukoscope.models.session import Session

LOGIT_TOLERANCE = 2e-3
"""Absolute; at a temperature of 1 it moves a probability by at most 0.0005."""
RELATIVE_TOLERANCE = 1e-3
"""Of embedding length and map, relative to the largest value. Engines and processors sum in different orders."""


@dataclass(frozen=True)
class SampleCell:
    """One sample cell of a bundle: its file, subject and label."""

    path: Path
    label: Label | str | None = None
    subject: str | None = None


def build_bundle(
    directory: Path,
    *,
    model_path: Path,
    manifest: Manifest,
    decision: DecisionParameters,
    novelty: NoveltyModel,
    report: Report | None,
    license_text: str,
    data_license: str,
    sample: Sequence[SampleCell],
) -> Bundle:
    """Ask the model about the sample cells, write the bundle in one step and open it.

    Parameters
    ----------
    directory
        Must not exist, or be a bundle, which is then replaced.
    report
        None for a model that has not been evaluated; the card states this.
    license_text, data_license
        Full texts.
    sample
        At least one BMP, PNG or WebP file; their names must differ.

    Raises
    ------
    BundleError
        The parts do not fit together, or ``directory`` is something else than a bundle.
    ImageError
        A sample cell cannot be read.
    """
    files = [SampleFile(cell.path.name, cell.path.read_bytes()) for cell in sample]
    if not files or len({file.name for file in files}) != len(files):
        raise BundleError(f"{len(files)} sample cells: give at least one, each with a unique name")
    session = Session(model_path)
    side = session.input_px
    cells = []
    for cell, file in zip(sample, files, strict=True):
        rgb = decode_image(file.content)
        forward = session.run(prepare_cell(rgb, side, manifest.canvas_px)[None])
        score = float(novelty.score(forward.embedding)[0])
        logits = forward.logits[0].astype(np.float64)
        descriptors = describe_cell(rgb, manifest.canvas_px)
        verdict = decide(logits, score, descriptors, decision, classes=manifest.classes)
        member = explained_member(forward, 0, verdict, manifest.classes)
        positive = manifest.classes.positive_members or (member,)
        cells.append(
            ExpectedCell(
                file=file.name,
                label=cell.label.name.lower() if isinstance(cell.label, Label) else cell.label,
                subject=cell.subject,
                logit=float(group_log_odds(logits, positive)),
                logits=tuple(logits.tolist()),
                probability=verdict.probability,
                decision=verdict.decision,
                novelty=verdict.novelty,
                embedding_norm=float(np.linalg.norm(forward.embedding[0])),
                activation_map=tuple(
                    tuple(float(f"{value:.6g}") for value in row) for row in forward.map_of(0, member)
                ),
            )
        )
    description = session.description()
    expected = ExpectedOutputs(
        engine=f"{description['engine']} {description['version']}",
        logit_tolerance=LOGIT_TOLERANCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        cells=tuple(cells),
    )
    return write_bundle(
        directory,
        model_path=model_path,
        manifest=manifest,
        decision=decision,
        novelty=novelty,
        report=report,
        license_text=license_text,
        data_license=data_license,
        sample=files,
        expected=expected,
    )


def check_sample(predictor: Predictor) -> Check:
    """Classify the bundle's sample cells and compare logit, embedding and map with what the bundle expects.

    A decision may differ only where the logit is within its tolerance of a limit, which the comparison of
    logits covers; it is therefore not compared separately.
    """
    expected = predictor.bundle.expected
    worst_logit = worst_map = worst_embedding = 0.0
    for cell in expected.cells:
        content = predictor.bundle.read(f"{SAMPLE}/{cell.file}")
        rgb = decode_image(content)
        manifest = predictor.bundle.manifest
        forward = predictor.session.run(prepare_cell(rgb, manifest.input_px, manifest.canvas_px)[None])
        answer = forward.logits[0].astype(np.float64)
        stated = np.array([0.0, cell.logit] if cell.logits is None else cell.logits)
        if stated.shape != answer.shape:
            return Check("reproduce", False, f"{cell.file}: {len(answer)} logits, expected {len(stated)}")
        worst_logit = max(worst_logit, float(np.abs(answer - stated).max()))
        wanted = np.asarray(cell.activation_map, dtype=np.float64)
        label = cell.decision if cell.decision in manifest.classes.names else None
        member = int(answer.argmax()) if label is None else manifest.classes.index(label)
        member = 1 if forward.activation_map.shape[1] == 1 else member
        log_odds = float(group_log_odds(answer, manifest.classes.positive_members or (member,)))
        worst_logit = max(worst_logit, abs(log_odds - cell.logit))
        have = forward.map_of(0, member)
        if wanted.shape != have.shape:
            return Check("reproduce", False, f"{cell.file}: map of {have.shape}, expected {wanted.shape}")
        worst_map = max(worst_map, float(np.abs(have - wanted).max()) / max(float(wanted.max()), 1e-12))
        norm = float(np.linalg.norm(forward.embedding[0]))
        worst_embedding = max(
            worst_embedding, abs(norm - cell.embedding_norm) / max(cell.embedding_norm, 1e-12)
        )
    found = (
        f"{len(expected.cells)} cells by {predictor.session.engine}: logit off by {worst_logit:.1e} "
        f"(limit {expected.logit_tolerance:g}), map by {worst_map:.1e}, embedding by {worst_embedding:.1e} "
        f"(limit {expected.relative_tolerance:g})"
    )
    relative = max(worst_map, worst_embedding)
    # A comparison with NaN is false, so that a broken answer fails.
    passed = worst_logit <= expected.logit_tolerance and relative <= expected.relative_tolerance
    return Check("reproduce", passed, found)


def predict_sample(predictor: Predictor) -> list[Prediction]:
    """Classify the bundle's sample cells, in the order the bundle lists them."""
    return [
        predictor.predict(
            predictor.bundle.read(f"{SAMPLE}/{cell.file}"), name=cell.file, subject=cell.subject
        )
        for cell in predictor.bundle.expected.cells
    ]
