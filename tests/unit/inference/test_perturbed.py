"""One cell as it is and after each small change, with the small bundle."""

import dataclasses

import numpy as np
import pytest

from leukoscope.core.errors import ImageError
from leukoscope.decision.calibration import Calibration
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.perturbed import perturbations, predict_perturbed
from leukoscope.inference.predictor import Predictor
from leukoscope.models.manifest import Domain
from small_bundle import make_small_bundle, sample_paths


def test_the_list_has_every_change_once_with_its_aim() -> None:
    made = perturbations()
    names = [one.name for one in made]
    assert len(set(names)) == len(names) == len({one.title for one in made})
    aims = {one.name: one.aim for one in made if one.aim is not None}
    assert {name for name, aim in aims.items() if aim == 0.01} == {
        "turn_90", "turn_180", "turn_270", "mirror_horizontal", "mirror_vertical",
    }  # fmt: skip
    assert {name for name, aim in aims.items() if aim == 0.02} == {"jpeg_95", "jpeg_90"}
    assert {name for name, aim in aims.items() if aim == 0.05} == {
        *(f"{channel}_{sign}_5" for channel in ("red", "green", "blue") for sign in ("minus", "plus")),
        "red_minus_5_blue_plus_5", "red_plus_5_blue_minus_5",
    }  # fmt: skip
    groups = [one.group for one in made]
    assert groups == sorted(groups, key=groups.index)  # members of a group are neighbors


def test_colors_are_those_of_the_name() -> None:
    rgb = np.full((40, 40, 3), 100, np.uint8)
    changed = {one.name: one.apply(rgb)[0, 0].tolist() for one in perturbations() if one.group == "color"}
    assert changed["red_minus_10"] == [90, 100, 100]
    assert changed["green_plus_5"] == [100, 105, 100]
    assert changed["blue_plus_10"] == [100, 100, 110]
    assert changed["red_minus_5_blue_plus_5"] == [95, 100, 105]
    assert changed["red_plus_5_blue_minus_5"] == [105, 100, 95]


def test_uncut_cells_have_no_frame_to_crop_and_no_black_around_them() -> None:
    names = {one.name for one in perturbations("uncut")}
    assert {one.name for one in perturbations()} - names == {"cropped"}
    full = np.full((50, 60, 3), 90, np.uint8)
    for one in perturbations("uncut"):
        assert one.apply(full).min() > 70, one.name


def test_answers_are_those_of_the_predictor_for_the_changed_image(small_predictor: Predictor) -> None:
    rgb = decode_image(sample_paths()[5])
    changes = perturbations()
    first, *others = predict_perturbed(small_predictor, rgb, changes)
    for outcome, image in zip([first, *others], [rgb, *(one.apply(rgb) for one in changes)], strict=True):
        alone = small_predictor.predict(image)
        assert outcome.decision == alone.decision
        assert outcome.novel == any(reason.code == "novel" for reason in alone.reasons)
        if alone.decision != "rejected":
            assert outcome.logits == pytest.approx(alone.verdict.calibrated_logits, abs=1e-4)
        if alone.label is not None:
            assert outcome.call == alone.label


def test_rejected_images_have_calls_and_logits_too(small_predictor: Predictor) -> None:
    rgb = decode_image(sample_paths()[5])
    bundle = small_predictor.bundle
    strict = bundle.decision.model_copy(
        update={
            "input_limits": bundle.decision.input_limits.model_copy(update={"max_foreground_share": 0.001})
        }
    )
    rejecting = Predictor(dataclasses.replace(bundle, decision=strict), small_predictor.session)
    changes = perturbations()[:3]
    for outcome, usual in zip(
        predict_perturbed(rejecting, rgb, changes),
        predict_perturbed(small_predictor, rgb, changes),
        strict=True,
    ):
        assert outcome.decision == "rejected" and outcome.checked and not outcome.novel
        assert outcome.call == usual.call
        assert outcome.logits == pytest.approx(usual.logits, abs=1e-4)
    raw = small_predictor.forward(small_predictor.prepare(_source(rgb)).cell[None]).logits
    expected = Calibration(bundle.decision.temperature).logits(raw)[0]
    assert predict_perturbed(rejecting, rgb, ())[0].logits == pytest.approx(expected.tolist(), abs=1e-4)


def test_noise_of_the_ground_is_no_part_of_a_changed_cell(small_predictor: Predictor) -> None:
    rgb = decode_image(sample_paths()[5])
    noisy = next(one for one in perturbations() if one.name == "jpeg_75").apply(rgb)
    brighter = next(one for one in perturbations() if one.name == "brightness_plus_10")
    assert noisy[~rgb.any(axis=2)].any()
    seen = []
    spy = dataclasses.replace(brighter, apply=lambda image: (seen.append(image), brighter.apply(image))[1])
    predict_perturbed(small_predictor, noisy, [spy])
    assert not seen[0][:20].any()


def test_a_small_frame_cuts_nothing_of_a_moved_cell(small_predictor: Predictor) -> None:
    rgb = next(one for one in perturbations() if one.name == "cropped").apply(decode_image(sample_paths()[5]))
    for one in perturbations():
        if one.of == "canvas":
            seen = []
            spy = dataclasses.replace(
                one, apply=lambda image, one=one, seen=seen: seen.append(one.apply(image)) or seen[0]
            )
            predict_perturbed(small_predictor, rgb, [spy])
            assert seen[0].shape == (450, 450, 3)
            if one.name.startswith("shift"):
                assert seen[0].sum() == rgb.sum()


def test_an_uncut_cell_is_changed_with_its_surroundings(small_predictor: Predictor) -> None:
    manifest = small_predictor.bundle.manifest.model_copy(update={"domain": Domain(form="uncut")})
    uncut = Predictor(dataclasses.replace(small_predictor.bundle, manifest=manifest), small_predictor.session)
    rgb = np.random.default_rng(2).integers(60, 200, (450, 450, 3), dtype=np.uint8)
    seen = []
    changes = [
        dataclasses.replace(one, apply=lambda image: (seen.append(image), image)[1])
        for one in perturbations("uncut")
    ]
    outcomes = predict_perturbed(uncut, rgb, changes)
    assert all(np.array_equal(image, rgb) for image in seen) and len(seen) == len(changes)
    assert {outcome.call for outcome in outcomes} == {outcomes[0].call}


def test_three_classes(tmp_path) -> None:
    from leukoscope.core.classes import ClassSchema

    pytest.importorskip("onnx")
    make_small_bundle(tmp_path / "three", classes=ClassSchema.of_names(["a", "b", "c"]))
    predictor = Predictor.open(tmp_path / "three", threads=1)
    outcomes = predict_perturbed(predictor, decode_image(sample_paths()[0]), perturbations())
    for outcome in outcomes:
        assert len(outcome.logits) == 3
        assert outcome.call == "abc"[int(np.argmax(outcome.logits))]


def test_an_image_that_is_none_is_an_image_error(small_predictor: Predictor) -> None:
    from leukoscope.core.terms import Reason

    def broken(_image: np.ndarray) -> np.ndarray:
        raise ImageError(Reason.UNREADABLE, "no image")

    change = dataclasses.replace(perturbations()[0], apply=broken)
    with pytest.raises(ImageError):
        predict_perturbed(small_predictor, decode_image(sample_paths()[0]), [change])


def _source(rgb: np.ndarray):
    from leukoscope.inference.cells import Source

    return Source("cell", rgb)
