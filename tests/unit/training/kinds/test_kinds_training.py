import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from leukoscope.core.errors import CohortError, TrainingError, WeightsError
from leukoscope.training.kinds import protocol
from leukoscope.training.kinds.bank import build_bank
from leukoscope.training.kinds.classes import KINDS, NAMES, blast_probability, label_kinds
from leukoscope.training.kinds.fit import FitSettings, Sampler, fit, set_loss
from leukoscope.training.kinds.masks import segment_cell
from leukoscope.training.kinds.measures import measure, measure_people
from leukoscope.training.kinds.network import create_network, read_initial, write_initial
from leukoscope.training.kinds.packing import Item, read_items, read_pack, write_pack
from leukoscope.training.kinds.sampling import draw_weights
from leukoscope.training.kinds.sources import CROP_PX, Crop, cut_crop, held_out_people
from leukoscope.training.kinds.views import Draw, ViewSettings, make_views, plain_views

ARCH = "tf_efficientnet_lite0"


def smear(seed, cut_out=False, radius=45):
    """A drawn field: glass, red cells at the border, one purple nucleus in the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((CROP_PX, CROP_PX))
    rgb = np.full((CROP_PX, CROP_PX, 3), (235, 225, 215), np.float64)
    for y, x in ((30, 40), (180, 60), (40, 190)):
        rgb[np.hypot(rows - y, columns - x) < 25] = (205, 150, 140)
    cell = np.hypot(rows - CROP_PX / 2, columns - CROP_PX / 2) < radius
    rgb[cell] = (95, 50, 130)
    rgb += rng.normal(0, 3, rgb.shape)
    if cut_out:
        rgb[~cell] = 0
    return rgb.clip(0, 255).astype(np.uint8), cell


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    crops = []
    for index in range(6):
        label = ("neutrophil", "lymphocyte", "monocyte")[index % 3]
        crops.append(Crop(smear(index)[0], label, "pbc", f"p{index}", index >= 4))
        crops.append(
            Crop(smear(index, cut_out=True)[0], "lymphoblast", "cnmc", f"all-{index}", index >= 4, True)
        )
        crops.append(
            Crop(smear(index, True, 38)[0], "lymphoid_precursor", "cnmc", f"hem-{index}", index >= 4, True)
        )
        crops.append(
            Crop(
                smear(index)[0],
                ("myeloblast", "neutrophil", "unseen")[index % 3],
                "munich",
                f"m{index}",
                False,
            )
        )
    path = tmp_path_factory.mktemp("pack") / "cells.safetensors"
    assert write_pack(crops, path) == len(crops)
    return path


@pytest.fixture(scope="module")
def bank(pack_path):
    return build_bank(read_pack(pack_path), torch.device("cpu"))


def test_the_mask_is_the_cell_and_not_the_red_cells():
    rgb, cell = smear(0)
    mask = segment_cell(rgb)
    assert (mask & cell).sum() / (mask | cell).sum() > 0.75
    assert not mask[20:40, 30:50].any()


def test_a_crop_has_the_wanted_scale():
    rgb = np.zeros((400, 400, 3), np.uint8)
    rgb[150:250, 150:250] = 255  # 10 um at 0.1 um a pixel
    crop = cut_crop(rgb, (200, 200), 0.1)
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    assert math.isclose((crop[..., 0] > 127).sum() ** 0.5, 10 / 0.125, abs_tol=1.5)


def test_held_out_subjects_are_reproducible():
    people = [f"all-{index}" for index in range(30)] + [f"hem-{index}" for index in range(12)]
    chosen = held_out_people(people)
    assert chosen == held_out_people(people[::-1])
    assert sorted(person[:3] for person in chosen) == ["all"] * 8 + ["hem"] * 4


def test_a_pack_returns_what_was_put_in(pack_path):
    items = read_items(pack_path)
    pack = read_pack(pack_path, [0, 1])
    assert (
        pack.items
        == items[:2]
        == (
            Item("neutrophil", "pbc", "p0", False, False),
            Item("lymphoblast", "cnmc", "all-0", False, True),
        )
    )
    assert np.abs(pack.rgb[0].astype(int) - smear(0)[0]).mean() < 4
    _, cell = smear(0)
    assert (pack.masks[1] & cell).sum() / (pack.masks[1] | cell).sum() > 0.95
    with pytest.raises(CohortError):
        read_pack(pack_path.with_name("none.safetensors"))


def test_weights_are_balanced_between_subjects_and_exclude_unseen_kinds():
    items = (
        *(Item("lymphoblast", "cnmc", "all-1", False, True) for _ in range(90)),
        *(Item("lymphoblast", "cnmc", "all-2", False, True) for _ in range(10)),
        *(Item("myeloblast", "munich", f"{index}", False, False) for index in range(25)),
        *(Item("lymphocyte", "pbc", f"{index}", False, False) for index in range(50)),
        Item("unseen", "munich", "x", False, False),
    )
    weights = draw_weights(items, np.arange(len(items)))
    assert math.isclose(weights.sum(), 1.0)
    assert weights[-1] == 0.0
    assert math.isclose(weights[:90].sum(), weights[90:100].sum())
    # Two laboratories of blasts, drawn as the square root of 100 to that of 25; blasts three times as often.
    assert math.isclose(weights[:100].sum() / weights[100:125].sum(), 2.0)
    assert math.isclose(weights[:125].sum() / weights[125:175].sum(), 3.0)


def test_views_of_strength_zero_are_the_middle_of_the_crop(bank):
    rows = torch.from_numpy(bank.rows(laboratory="pbc"))
    settings = ViewSettings(160, strength=0.0, cut_out_share=0.0, swap_share=0.0, stain_mix_share=0.0)
    views = make_views(bank, Draw(rows, rows, rows), settings, torch.Generator().manual_seed(0))
    torch.testing.assert_close(views, plain_views(bank, rows, False, 160), atol=0.01, rtol=0)


def test_pasted_cells_have_surroundings_and_cut_out_cells_are_on_black(bank):
    rows = torch.from_numpy(bank.rows(label="lymphoblast"))
    context = torch.from_numpy(bank.rows(laboratory="pbc"))
    draw = Draw(rows, context[: len(rows)], context[: len(rows)])
    for share in (0.0, 1.0):
        settings = ViewSettings(160, strength=0.0, cut_out_share=share)
        views = make_views(bank, draw, settings, torch.Generator().manual_seed(0))
        corner, center = views[:, :, :8, :8].mean(), views[:, :, 76:84, 76:84].mean()
        assert corner > 0.4 if share == 0.0 else corner == 0.0
        assert 0.1 < center < 0.6


def test_every_view_is_an_image_and_a_seed_repeats_it(bank):
    sampler = Sampler(bank, protocol.training_rows(bank))

    def views():
        generator = torch.Generator().manual_seed(4)
        return make_views(bank, sampler.draw(32, 2, generator), ViewSettings(96), generator)

    first = views()
    assert first.shape == (32, 3, 96, 96)
    assert torch.isfinite(first).all()
    assert first.min() >= 0.0
    assert first.max() <= 1.0
    torch.testing.assert_close(first, views())


def test_training_never_draws_what_is_held_out_or_left_out(bank):
    rows = protocol.training_rows(bank, ("munich",))
    sampler = Sampler(bank, rows)
    draw = sampler.draw(500, 0, torch.Generator().manual_seed(0))
    for drawn in (draw.rows, draw.surroundings, draw.stains):
        items = [bank.items[row] for row in drawn.tolist()]
        assert not any(item.held_out or item.laboratory == "munich" for item in items)


def test_the_loss_is_that_of_summed_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, len(KINDS)))
    labels = ("neutrophil_band", "white_cell", "lymphoblast")
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = ("neutrophil", "white_cell", "blast")
    exact = [
        -math.log(row[label_kinds(label)].sum()) for row, label in zip(probabilities, labels, strict=True)
    ]
    coarse = [
        -math.log(row[label_kinds(label)].sum()) for row, label in zip(probabilities, groups, strict=True)
    ]
    possible = torch.from_numpy(np.stack([label_kinds(label) for label in labels]))
    loss = set_loss(torch.from_numpy(logits), possible)
    assert math.isclose(float(loss), np.mean([exact, coarse]), rel_tol=1e-5)


def test_a_stopped_run_resumes_to_the_same_weights(bank, tmp_path):
    rows = protocol.training_rows(bank)
    settings = FitSettings(steps=60, batch=4, views=ViewSettings(32))

    class StopError(Exception):
        pass

    def stop(step, *_):
        raise StopError

    def network():
        torch.manual_seed(0)
        return create_network(ARCH, None, style_mixing=True)

    whole = fit(network(), bank, rows, settings)
    with pytest.raises(StopError):
        fit(network(), bank, rows, settings, progress=stop, state=tmp_path / "state.safetensors")
    resumed = fit(network(), bank, rows, settings, state=tmp_path / "state.safetensors")
    assert resumed.steps == whole.steps == 60
    torch.testing.assert_close(resumed.network.head.weight, whole.network.head.weight)


def test_initial_weights_come_back_nearly_as_they_were(tmp_path):
    network = create_network(ARCH, None)
    path = tmp_path / "initial.safetensors"
    write_initial(network.backbone.state_dict(), path)
    for name, tensor in read_initial(path).items():
        expected = network.backbone.state_dict()[name]
        assert (tensor - expected).abs().max() <= expected.abs().max() / 127 * 0.51 + 1e-3
    with pytest.raises(WeightsError):
        create_network("tf_efficientnet_lite2", path)


@pytest.mark.parametrize("norm", ["train", "frozen", "group"])
def test_the_logits_are_linear_in_the_embedding(norm):
    network = create_network(ARCH, None, norm).eval()
    output = network(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(output.logits, network.head(output.embedding))


def test_frozen_norms_do_not_move():
    network = create_network(ARCH, None, "frozen").train()
    before = network.backbone.bn1.running_mean.clone()
    network(torch.rand(4, 3, 64, 64))
    torch.testing.assert_close(network.backbone.bn1.running_mean, before)


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    labels = np.array(["myeloblast"] * 10 + ["monocyte"] * 20 + ["myelocyte"] * 5 + ["white_cell"] * 3)
    probabilities = rng.dirichlet(np.ones(len(KINDS)), len(labels))
    measured = measure(probabilities, labels)
    expected = roc_auc_score(labels[:30] == "myeloblast", blast_probability(probabilities)[:30])
    assert math.isclose(measured["auc_blast"], expected)
    certain = np.eye(len(KINDS))[[NAMES.index("myeloblast")] * 38]
    assert measure(certain, labels)["recall"] == {"monocyte": 0.0, "immature_granulocyte": 0.0, "blast": 1.0}


def test_every_subject_has_the_same_weight():
    labels = np.array(["lymphoblast"] * 30 + ["lymphoid_precursor"] * 10)
    subjects = np.array(["a"] * 25 + ["b"] * 5 + ["c"] * 10)
    probabilities = np.zeros((40, len(KINDS)))
    probabilities[:25, NAMES.index("lymphoblast")] = 1.0  # all of a, none of b
    probabilities[25:, NAMES.index("lymphocyte")] = 1.0
    measured = measure_people(probabilities, labels, subjects)
    assert measured["sensitivity"] == 0.5
    assert measured["specificity"] == 1.0
    assert math.isclose(measured["auc"], 0.75)


def test_a_later_recipe_has_to_be_better_by_its_margin():
    first, second = protocol.RECIPES[0], replace(protocol.RECIPES[1], margin=0.01)
    recipes = (first, second)
    assert protocol.choose({first.name: 0.80, second.name: 0.809}, recipes) == first
    assert protocol.choose({first.name: 0.80, second.name: 0.811}, recipes) == second
    assert protocol.choose({first.name: math.nan, second.name: 0.5}, recipes) == second
    with pytest.raises(TrainingError):
        protocol.choose({}, recipes)


def test_a_missing_fold_leaves_no_score():
    full = {}
    for fold, part, name, _ in protocol.SCORE:
        full.setdefault(fold, {}).setdefault(part, {})[name] = 0.7
    assert math.isclose(protocol.score(full), 0.7)
    assert math.isnan(protocol.score({"pbc": full["pbc"]}))
