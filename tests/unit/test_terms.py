from leukoscope.core import errors, terms


def test_every_code_has_a_text() -> None:
    assert set(terms.REASON_TEXTS) == set(terms.Reason)
    assert set(terms.STATUS_TEXTS) == set(terms.STATUS_TITLES) == set(terms.Status)
    assert all(text.endswith(".") for text in terms.REASON_TEXTS.values())


def test_the_two_labels_keep_the_data_sets_coding() -> None:
    assert (terms.Label.NORMAL, terms.Label.BLAST) == (0, 1)


def test_exit_codes_of_usage_errors_and_refusals() -> None:
    assert errors.ConfigError("x").exit_code == 2
    assert errors.ImageError(terms.Reason.BLANK, "x").exit_code == 1
