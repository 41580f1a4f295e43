"""From a pack of crops and weights to a verified bundle of kinds, and what corrected cells bring."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.sample import check_sample
from leukoscope.models.bundle import Bundle, verify_bundle
from leukoscope.stats.intervals import BootstrapSettings
from leukoscope.training.kinds import leave_out
from leukoscope.training.kinds.classes import NAMES, class_schema, label_class
from leukoscope.training.kinds.network import KindsNetwork, write_initial
from leukoscope.training.kinds.packing import write_pack
from leukoscope.training.kinds.protocol import RECIPES
from leukoscope.training.kinds.sources import CROP_PX, Crop
from leukoscope.workflows import kinds_adaptation
from leukoscope.workflows.kinds_bundle import Inputs, make_bundle

pytestmark = pytest.mark.slow

LABELS = (
    "neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte", "immature_granulocyte", "erythroblast",
    "platelet", "not_a_white_cell",
)  # fmt: skip
STUDY = Path(__file__).parents[2] / "docs" / "reports" / "kinds-study.json"
SIDE = 64


def drawn(kind: int, seed: int, cut_out: bool = False) -> np.ndarray:
    """A disc whose size and color tell its kind, on light ground or on black."""
    rng = np.random.default_rng([kind, seed])
    rows, columns = np.indices((CROP_PX, CROP_PX))
    cell = np.hypot(rows - CROP_PX / 2, columns - CROP_PX / 2) < 18 + 3 * kind
    rgb = np.full((CROP_PX, CROP_PX, 3), 0 if cut_out else 225, np.float64)
    rgb[cell] = (60 + 12 * kind, 40 + 5 * ((kind * 3) % 10), 150 - 9 * kind)
    rgb[cell] += rng.normal(0, 6, (int(cell.sum()), 3))
    return rgb.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    crops = []
    for number, label in enumerate(LABELS):
        for index in range(14):
            crops.append(Crop(drawn(number, index), label, "pbc", f"{label}{index}", index >= 4))
    for index in range(14):
        for label, prefix, kind in (("lymphoblast", "all", 9), ("lymphoid_precursor", "hem", 3)):
            rgb = drawn(kind, 100 + index, cut_out=True)
            crops.append(Crop(rgb, label, "cnmc", f"{prefix}-{index}", index >= 4, True))
        crops.append(Crop(drawn(9, 200 + index), "myeloblast", "munich", f"m{index}", False))
        crops.append(Crop(drawn(4, 200 + index), "monocyte", "munich", f"n{index}", False))
        crops.append(Crop(drawn(3, 200 + index), "lymphocyte", "munich", f"o{index}", False))
    path = tmp_path_factory.mktemp("kinds") / "cells.safetensors"
    write_pack(crops, path)
    return path


@pytest.fixture(scope="module")
def bundle(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    network = KindsNetwork("tf_efficientnet_lite0").eval()
    folder = tmp_path_factory.mktemp("bundle")
    record = {"recipe": asdict(RECIPES[0]), "kinds": NAMES, "input_px": SIDE, "steps": 1}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors", metadata={"record": json.dumps(record)})
    inputs = Inputs(pack, folder / "weights.safetensors", STUDY, folder / "kinds")
    return make_bundle(inputs, evaluation=EvaluationSettings(bootstrap=BootstrapSettings(replicates=40)))


def test_the_bundle_is_whole_and_answers_as_it_says(bundle: Bundle) -> None:
    assert all(check.passed for check in verify_bundle(bundle.directory))
    predictor = Predictor.open(bundle.directory)
    assert check_sample(predictor).passed
    manifest = bundle.manifest
    assert (manifest.task, manifest.domain.form, manifest.classes) == ("kinds", "uncut", class_schema())
    assert set(bundle.decision.conformal.classes) == set(class_schema().names)


def test_nothing_that_is_tested_was_trained_on(bundle: Bundle) -> None:
    assert bundle.report is not None
    halves = bundle.report.splits
    assert len(halves) == 2 and bundle.report.pooled is not None
    tested = [half.parts["test"].cells for half in halves]
    assert sum(tested) == bundle.report.pooled.parts["test"].cells == 10 * len(LABELS) + 20
    assert [half.parts["validation"].cells for half in halves] == tested[::-1]
    people = {row.subject for half in halves for row in half.subjects}
    assert not any(subject.startswith("munich") for subject in people)
    assert "20 blasts tested are lymphoblasts" not in bundle.report.caveats[0]
    assert "10 blasts tested are lymphoblasts of 10 people" in bundle.report.caveats[0]


def test_left_out_laboratories_are_answered_and_corrected(pack: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    initial = tmp_path / "initial"
    initial.mkdir()
    network = KindsNetwork("tf_efficientnet_lite0")
    write_initial(network.backbone.state_dict(), initial / "tf_efficientnet_lite0.safetensors")
    leave_out.main(
        [str(pack), str(initial), str(tmp_path / "out"), "--folds", "munich", "--seconds", "2", "--batch", "4",
         "--input-px", str(SIDE), "--device", "cpu"]
    )  # fmt: skip
    path = tmp_path / "out" / "left-out-munich.safetensors"
    tensors = load_file(path)
    np.testing.assert_allclose(tensors["probabilities"].sum(axis=1), 1.0, atol=1e-4)
    kinds_adaptation.main([str(pack), str(path), "--out", str(tmp_path / "report.json")])
    measured = json.loads((tmp_path / "report.json").read_text())["laboratories"]["munich"]
    assert measured["cells"] == 42
    assert set(measured["corrected"]) == {"20"}
    corrected = measured["corrected"]["20"]
    # Three kinds that size and color distinguish: twenty corrected cells teach an untrained head.
    assert corrected["after"]["recall_mean"] > corrected["before"]["recall_mean"] + 0.2


def test_classes_have_the_probability_of_their_kinds() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(NAMES)), 5)
    logits = kinds_adaptation.class_logits(probabilities)
    names = class_schema().names
    for column, name in enumerate(names):
        own = [index for index, kind in enumerate(NAMES) if label_class(kind) == name]
        np.testing.assert_allclose(np.exp(logits[:, column]), probabilities[:, own].sum(axis=1))
