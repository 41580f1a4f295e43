import numpy as np
import pytest

from leukoscope.core.errors import CohortError
from leukoscope.training.kinds import classes


def test_probabilities_of_groups_sum_to_one_and_the_families_are_their_parts():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(classes.KINDS)), 20)
    groups = classes.group_probabilities(probabilities)
    assert groups.shape == (20, len(classes.GROUPS))
    np.testing.assert_allclose(groups.sum(axis=1), 1.0)
    by_name = dict(zip(classes.NAMES, probabilities.T, strict=True))
    blast = by_name["lymphoblast"] + by_name["myeloblast"] + by_name["monoblast"]
    np.testing.assert_allclose(classes.blast_probability(probabilities), blast)
    immature = blast + by_name["promyelocyte"] + by_name["myelocyte"] + by_name["metamyelocyte"]
    np.testing.assert_allclose(classes.immature_probability(probabilities), immature)


def test_a_normal_precursor_counts_as_a_lymphocyte_and_never_as_a_blast():
    certain = np.eye(len(classes.KINDS))[[classes.NAMES.index("lymphoid_precursor")]]
    assert classes.blast_probability(certain)[0] == 0.0
    assert classes.immature_probability(certain)[0] == 0.0
    assert classes.label_group("lymphoid_precursor") == "lymphocyte"


@pytest.mark.parametrize(
    ("label", "kinds"),
    [
        ("monoblast", {"monoblast"}),
        ("neutrophil", {"neutrophil_segmented", "neutrophil_band"}),
        ("immature_granulocyte", {"promyelocyte", "myelocyte", "metamyelocyte"}),
        ("unseen", set()),
    ],
)
def test_a_label_leaves_its_kinds_possible(label, kinds):
    possible = classes.label_kinds(label)
    assert {name for name, is_possible in zip(classes.NAMES, possible, strict=True) if is_possible} == kinds


def test_coarse_labels_contain_only_cells():
    mature, white = classes.label_kinds("mature_white_cell"), classes.label_kinds("white_cell")
    named = dict(zip(classes.NAMES, zip(mature, white, strict=True), strict=True))
    assert named["lymphoblast"] == (False, True)
    assert named["monocyte"] == (True, True)
    for other in ("platelet", "not_a_white_cell", "erythroblast", "smudge_cell"):
        assert named[other] == (False, False)
    assert classes.label_group("white_cell") is None


def test_an_unknown_label_is_refused():
    with pytest.raises(CohortError):
        classes.label_kinds("plasma cell")


def test_loinc_codes_have_a_right_check_digit():
    for kind in classes.KINDS:
        if kind.loinc is not None:
            number, _, check = kind.loinc.partition("-")
            digits = [int(digit) for digit in reversed(number)]
            doubled = [
                digit if index % 2 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(digits)
            ]
            assert (10 - sum(doubled) % 10) % 10 == int(check), kind
