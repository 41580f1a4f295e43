"""Rejection of out-of-distribution images and of shipped cells, with an embedding that needs no network."""

import csv

import numpy as np
import pytest
from PIL import Image

from leukoscope.assets import sample_cells_directory, sample_table_path
from leukoscope.decision.fit import DecisionSettings, ScoredRows, fit_decision
from leukoscope.evaluation.ood_images import cut_out_cell, disc_on_black, make_ood_images
from leukoscope.evaluation.ood_report import MeasuredImages, measure_images, novelty_report
from leukoscope.imaging.descriptors import describe_cell

CHECKED = ("area_px", "foreground_share", "focus", "border_contact_px", "components")


def embed(cells: np.ndarray) -> np.ndarray:
    """Color and texture by hand: thumbnail, channel moments and fine detail."""
    scaled = cells.astype(np.float32) / 255
    thumbnail = scaled.reshape(len(cells), 8, 8, 8, 8, 3).mean(axis=(2, 4)).reshape(len(cells), -1)
    detail = np.abs(np.diff(scaled, axis=2)).mean(axis=(1, 2))
    return np.concatenate([thumbnail, 5 * detail], axis=1)


@pytest.fixture(scope="module")
def cells() -> tuple[MeasuredImages, np.ndarray, np.ndarray, np.ndarray]:
    with sample_table_path().open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [np.asarray(Image.open(sample_cells_directory() / row["file"]).convert("RGB")) for row in rows]
    labels = np.array([row["label"] == "blast" for row in rows]).astype(int)
    measured = measure_images(images, embed, input_px=64)
    return measured, labels, np.array([r["subject"] for r in rows]), np.array([r["fold"] for r in rows])


def test_out_of_distribution_images_are_rejected_and_cells_accepted(cells) -> None:
    measured, labels, subjects, folds = cells
    first, second = folds == "fold_0", folds == "fold_1"
    rows = ScoredRows(
        part=np.where(first, "train", "validation"),
        label=labels,
        logit=labels * 2.0 - 1 + np.random.default_rng(0).normal(size=len(labels)),
        group=subjects,
        inner_fold=np.full(len(labels), ""),
        embeddings=measured.embeddings,
        descriptors={
            name: np.array([float(getattr(d, name)) for d in measured.descriptors]) for name in CHECKED
        },
    )
    fit = fit_decision(rows, DecisionSettings(components=8))
    ood_images = {
        kind: measure_images(images, embed, input_px=64) for kind, images in make_ood_images(4).items()
    }
    unseen = MeasuredImages(
        measured.embeddings[second], [d for d, kept in zip(measured.descriptors, second, strict=True) if kept]
    )
    report = novelty_report(fit.parameters, fit.novelty, unseen, subjects[second], ood_images)

    assert report.images == 8 * 4 + 5 == sum(result.images for result in report.ood_images)
    assert report.auroc >= 0.95 and report.refused >= 0.95
    assert report.cells_refused.value <= 0.1
    assert report.cells_refused.n_cells == second.sum()
    by_kind = {result.kind: result for result in report.ood_images}
    assert by_kind["blank"].by_checks == 1
    assert by_kind["noise, disc on black"].by_checks <= 0.5  # Coarse noise counts as blurred.
    assert by_kind["noise, disc on black"].by_novelty >= 0.75
    for result in report.ood_images:
        assert max(result.by_checks, result.by_novelty) <= result.refused
        assert result.refused_low <= result.refused <= result.refused_high


def test_synthetic_out_of_distribution_images_repeat_with_their_seed() -> None:
    first, again, other = make_ood_images(2, seed=1), make_ood_images(2, seed=1), make_ood_images(2, seed=2)
    for kind, images in first.items():
        assert all(image.shape == (450, 450, 3) and image.dtype == np.uint8 for image in images)
        assert all((a == b).all() for a, b in zip(images, again[kind], strict=True))
    assert any((a != b).any() for a, b in zip(first["noise"], other["noise"], strict=True))
    disc = describe_cell(first["flat color, disc on black"][0])
    assert disc.area_px == pytest.approx(np.pi * 95**2, rel=0.01) and disc.border_contact_px == 0


def test_cutting_out_leaves_one_part_on_black() -> None:
    smear = np.full((360, 363, 3), 230, np.uint8)
    rows, columns = np.ogrid[:360, :363]
    nucleus = (rows - 180) ** 2 + (columns - 180) ** 2 < 60**2
    smear[nucleus] = (110, 60, 140)
    smear[10:40, 10:40] = (110, 60, 140)
    cut = cut_out_cell(smear)
    found = describe_cell(cut)
    assert found.components == 1
    assert found.area_px == pytest.approx(np.pi * 72**2, rel=0.12)  # widened by 12 px
    assert (cut[nucleus] == smear[nucleus]).all() and not cut[:60, :60].any()
    assert describe_cell(cut_out_cell(smear, zoom=1.3)).area_px == pytest.approx(
        1.69 * found.area_px, rel=0.1
    )


def test_no_images_is_refused() -> None:
    with pytest.raises(ValueError):
        measure_images([], embed, input_px=64)


def test_disc_keeps_the_center() -> None:
    disc = disc_on_black(np.full((450, 450, 3), 9, np.uint8), radius_px=50)
    assert disc[225, 225, 0] == 9 and not disc[0].any()
