"""A small but complete bundle, made in a second without torch: two convolutions, pooling, a linear head, Grad-CAM.

The weights are random but fitted to nothing; the graph follows the contract, so that whatever works with the shipped
bundle works with this one. ``forward_by_hand`` computes the same network in plain NumPy: an oracle for the engines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.assets import sample_cells_directory
from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.decision.novelty import NoveltyModel
from leukoscope.decision.parameters import (
    ClassQuantile,
    ConformalQuantiles,
    DecisionParameters,
    InputLimits,
    NoveltyLimit,
    OperatingPoint,
)
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.sample import SampleCell, build_bundle
from leukoscope.models.bundle import Bundle
from leukoscope.models.manifest import LicenseRecord, Manifest, TensorSpec, TrainingRecord

if TYPE_CHECKING:
    import onnx

SIDE = 64
FEATURES = 12
GRID = 8


@dataclass(frozen=True)
class Weights:
    """The small network's numbers."""

    first: np.ndarray  # (8, 3, 4, 4), stride 4
    first_bias: np.ndarray
    second: np.ndarray  # (12, 8, 2, 2), stride 2
    second_bias: np.ndarray
    head: np.ndarray  # (1, 12), or (K, 12)
    head_bias: np.ndarray

    @classmethod
    def draw(cls, seed: int = 5, outputs: int = 1) -> "Weights":
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return rng.normal(0, 1, shape).astype(np.float32)

        head = normal(outputs, FEATURES) + np.float32(0.6)  # so that the maps are not empty
        return cls(
            normal(8, 3, 4, 4) / 6,
            normal(8) / 4,
            normal(FEATURES, 8, 2, 2) / 4,
            normal(FEATURES) / 4,
            head,
            np.full(outputs, -0.4, np.float32),
        )


def forward_by_hand(weights: Weights, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute logits (of one z: [0, z]), embedding and maps of cells uint8 (N, S, S, 3) in float64."""

    def convolve(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        size = kernel.shape[2]
        count, channels, height, width = images.shape
        blocks = images.reshape(count, channels, height // size, size, width // size, size)
        return np.einsum("nchiwj,dcij->ndhw", blocks, kernel) + bias[:, None, None]

    pixels = cells.transpose(0, 3, 1, 2).astype(np.float64) / 255
    features = np.maximum(convolve(pixels, weights.first, weights.first_bias), 0)
    features = np.maximum(convolve(features, weights.second, weights.second_bias), 0)
    embedding = features.mean(axis=(2, 3))
    logits = embedding @ weights.head.T + weights.head_bias
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    maps = np.maximum(np.einsum("ndhw,kd->nkhw", features, weights.head), 0) / GRID**2
    return logits, embedding, maps


def make_onnx(weights: Weights | None = None) -> "onnx.ModelProto":
    """Build the network as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = weights or Weights.draw()
    stored = {
        "scale": np.array(1 / 255, np.float32),
        "first": weights.first,
        "first_bias": weights.first_bias,
        "second": weights.second,
        "second_bias": weights.second_bias,
        "head": weights.head,
        "head_bias": weights.head_bias,
        "cam": (weights.head / GRID**2)[:, :, None, None],
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["cells"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "scale"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "first", "first_bias"], ["conv1"], strides=[4, 4]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "second", "second_bias"], ["conv2"], strides=[2, 2]),
        helper.make_node("Relu", ["conv2"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "head", "head_bias"], ["logits"], transB=1),
        helper.make_node("Conv", ["features", "cam"], ["signed"]),
        helper.make_node("Relu", ["signed"], ["activation_map"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("cells", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weights.head)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", FEATURES]),
            helper.make_tensor_value_info(
                "activation_map", TensorProto.FLOAT, ["N", len(weights.head), GRID, GRID]
            ),
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def sample_paths() -> list[Path]:
    """Return the shipped real cells, sorted."""
    return sorted(path for path in sample_cells_directory().rglob("UID_*") if path.is_file())


def make_manifest(classes: ClassSchema = BINARY, outputs: int = 1) -> Manifest:
    """Return a correct manifest of the small network."""
    return Manifest(
        name="small-test",
        task="cell" if classes.size == 2 else "kinds",
        classes=classes,
        version="0.0.1",
        title="Small random network for tests",
        created="2026-01-01T00:00:00Z",
        intended_use="Tests of the software. It has learned nothing.",
        limitations=("Its answers mean nothing.",),
        architecture="two convolutions",
        head="linear",
        attribution="Grad-CAM of the logit by the last features, after ReLU",
        parameters=8 * 49 + FEATURES * 33 + FEATURES + 1,
        flops=1.5e5,
        canvas_px=450,
        input_px=SIDE,
        inputs=(
            TensorSpec(
                name="cells", dtype="uint8", shape=("N", SIDE, SIDE, 3), meaning="RGB", value_range="0..255"
            ),
        ),
        outputs=(
            TensorSpec(
                name="logits", dtype="float32", shape=("N", outputs), meaning="blast", value_range="log-odds"
            ),
            TensorSpec(
                name="embedding", dtype="float32", shape=("N", FEATURES), meaning="pooled", value_range=">= 0"
            ),
            TensorSpec(
                name="activation_map",
                dtype="float32",
                shape=("N", outputs, GRID, GRID),
                meaning="Grad-CAM",
                value_range=">= 0",
            ),
        ),
        training=TrainingRecord(
            protocol="none",
            cells=0,
            subjects=0,
            groups=0,
            groups_sha256=None,
            cells_sha256=None,
            initial_weights="random",
        ),
        licenses=(LicenseRecord(part="everything", license="Apache-2.0"),),
    )


def make_decision(
    *, novelty_limit: float = 2.5, temperature: float = 0.05, classes: ClassSchema = BINARY
) -> DecisionParameters:
    """Return parameters under which the real sample cells get all of blast, normal and uncertain."""
    return DecisionParameters(
        temperature=temperature,
        operating_points=(
            OperatingPoint(name="balanced", threshold=0.5 if classes.positive else None, rule="for tests"),
            OperatingPoint(name="sensitive", threshold=0.2 if classes.positive else None, rule="for tests"),
        ),
        default_operating_point="balanced",
        conformal=ConformalQuantiles(
            alpha=0.1,
            classes={name: ClassQuantile(quantile=0.3, subjects=5, cells=50) for name in classes.names},
        ),
        novelty=NoveltyLimit(limit=novelty_limit, method="for tests", target_refusal_rate=0.01),
        input_limits=InputLimits(
            blank_area_px=50,
            min_area_px=4000,
            max_area_px=80000,
            max_foreground_share=0.6,
            min_focus=0.0,
            max_border_contact_px=40,
            max_components=3,
        ),
    )


def make_small_bundle(
    directory: Path, *, samples: int = 4, classes: ClassSchema = BINARY, outputs: int | None = None
) -> Bundle:
    """Write the small bundle; its head's bias puts the median sample cell at logit 0 of every output.

    Two classes have one output unless ``outputs`` says 2; more have one each, their spread made equal.
    """
    import onnx

    outputs = outputs or (1 if classes.size == 2 else classes.size)
    weights = Weights.draw(outputs=outputs)
    paths = sample_paths()
    cells = np.stack([prepare_cell(decode_image(path), SIDE) for path in paths])
    logits, embedding, _ = forward_by_hand(weights, cells)
    if outputs > 1:
        weights.head[:] *= np.float32(0.5) / logits.std(axis=0, dtype=np.float32)[:, None]
        logits = forward_by_hand(weights, cells)[0]
    weights.head_bias[:] -= np.median(logits, axis=0)[-outputs:].astype(np.float32)
    directory.parent.mkdir(parents=True, exist_ok=True)
    model_path = directory.parent / f"{directory.name}.onnx"
    onnx.save_model(make_onnx(weights), model_path)
    chosen = paths[:: len(paths) // samples][:samples]
    return build_bundle(
        directory,
        model_path=model_path,
        manifest=make_manifest(classes, outputs),
        decision=make_decision(classes=classes),
        # A random network has dead features; a little noise keeps their variance off zero.
        novelty=NoveltyModel.fit(embedding + np.random.default_rng(1).normal(0, 0.01, embedding.shape)),
        report=None,
        license_text="Apache-2.0\n",
        data_license="CC-BY-3.0\n",
        sample=[SampleCell(path) for path in chosen],
    )
