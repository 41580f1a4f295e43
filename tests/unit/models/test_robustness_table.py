"""The table of small changes in cards, pages and figures."""

from leukoscope.evaluation.figure_style import render
from leukoscope.evaluation.figures_robustness import draw_robustness, robustness_csv
from leukoscope.evaluation.report import render_html
from leukoscope.models.card import render_card
from leukoscope.models.report import Report, Robustness
from leukoscope.models.robustness_table import (
    HEADER,
    TITLE,
    aims_reached,
    robustness_rows,
    robustness_text,
)
from made_robustness import make_robustness
from small_bundle import make_decision, make_manifest


def test_rows_have_one_text_per_column_and_the_unchanged_cells_first() -> None:
    rows = robustness_rows(make_robustness())
    assert {len(row.texts) for row in rows} == {len(HEADER)}
    assert rows[0].texts[0] == "unchanged" and "1.2 % (0.0 to 3.0)" in rows[0].texts
    turned = dict(zip(HEADER, rows[1].texts, strict=True))
    assert turned["Decisions changed"] == "0.8 % (0.1 to 2.0)"
    assert turned["Aim"] == "1 % at most" and turned["Aim reached"] == "yes"
    assert turned["AUC minus unchanged"] == "-0.010 (-0.020 to 0.000)"
    blurred = dict(zip(HEADER, rows[2].texts, strict=True))
    assert blurred["Aim"] == blurred["Aim reached"] == "" and blurred["ROC AUC"] == "not estimable"
    assert aims_reached(make_robustness()) == (1, 1)


def test_text_states_cells_subjects_and_the_training_set() -> None:
    text = robustness_text(make_robustness())
    assert "40 cells of 4 subjects" in text and "not in the training set" in text
    lone = make_robustness().model_copy(update={"subjects": 0, "fold": "fold_1"})
    assert "each cell has the same weight" in robustness_text(lone) and "of fold_1" in robustness_text(lone)


def test_card_and_page_show_it_where_a_report_has_it(evaluated) -> None:
    plain: Report = evaluated.report
    assert plain.robustness is None
    report = plain.model_copy(update={"robustness": make_robustness()})
    assert Report.model_validate_json(report.model_dump_json()) == report
    card = render_card(make_manifest(), make_decision(), report)
    assert f"### {TITLE}" in card and "| turned by 90° |" in card and "blurred \\| 2 px" in card
    assert TITLE not in render_card(make_manifest(), make_decision(), plain)
    figures = {split.name: {} for split in report.columns()}
    page = render_html(report, figures)
    assert TITLE in page and "turned by 90°" in page
    assert TITLE not in render_html(plain, figures)


def test_csv_has_a_row_per_change_and_measure() -> None:
    robustness = make_robustness()
    lines = robustness_csv(robustness).splitlines()
    assert len(lines) == 1 + 5 + 2 * 10
    assert "turn_90,turns and mirrors,0.01,true,decisions_changed,0.0075,0.001,0.02,40,4," in lines
    assert "blur_2,focus,,,roc_auc,,,,40,4,made without" in lines


def test_the_figure_has_a_bar_per_change_a_mark_per_aim_and_no_point_without_a_value() -> None:
    robustness = make_robustness()
    figure = draw_robustness(robustness)
    changed, discrimination = figure.axes
    assert [text.get_text() for text in changed.get_yticklabels()] == ["turned by 90°", "blurred | 2 px"]
    widths = [bar.get_width() for bar in changed.patches]
    assert widths == [0.0, 0.0, 0.0075, 0.0, 0.5, 0.125]
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"Aim, reached"}
    assert len([line for line in discrimination.lines if line.get_marker() == "o"]) == 1
    assert render(figure, "png").startswith(b"\x89PNG")


def test_a_figure_without_any_auc_states_the_reason() -> None:
    made = make_robustness()
    none = {**made.unchanged, "roc_auc": made.perturbations[1].measures["roc_auc"]}
    figure = draw_robustness(Robustness.model_validate({**made.model_dump(), "unchanged": none}))
    assert any("made without" in text.get_text() for text in figure.axes[1].texts)
