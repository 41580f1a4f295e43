"""A whole nested cross-validation on a small cohort: choices, resuming, the report and the final model."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from typer.testing import CliRunner

from cohort_files import write_cohort
from leukoscope.cli.main import app
from leukoscope.core.config import apply_overrides, build
from leukoscope.core.errors import UsageError
from leukoscope.evaluation.scores import read_run
from leukoscope.models.report import read_report
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.settings import TrainSettings
from leukoscope.workflows.cross_validation import STATE, cross_validate, read_cross_validation

RECIPE = [
    "network.arch=resnet10t",
    "network.weights=none",
    "network.input_px=64",
    "network.pixel_mean=[120.5,80.5,160.5]",
    "network.pixel_std=[20.0,15.0,20.0]",
    "network.pooling=statistics",
    "network.pooled_stages=[1,2]",
    "network.standardize_features=true",
    "data.sampling=subject",
    "data.inner_folds=2",
    "augment.views=1",
    "head_fit.penalties=[0.03,0.3]",
    "head_fit.views=1",
    "stage1.epochs=0",
    "stage2.epochs=0",
    "engine.accelerator=cpu",
    "engine.threads=1",
]


def recipe(*more: str) -> TrainSettings:
    return build(TrainSettings, apply_overrides({}, [*RECIPE, *more]))


class Callback(TrainingCallback):
    def close(self) -> None:
        pass


class Stopping(Callback):
    def begin(self, task: str, total: int) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    table, _ = write_cohort(folder)
    out = folder / "cv"
    jobs = []

    def make_callback(job: str) -> Callback:
        jobs.append(job)
        return Stopping() if len(jobs) == 2 else Callback()

    with pytest.raises(KeyboardInterrupt):
        cross_validate(table, recipe(), out=out, name="small", folds=2, make_callback=make_callback)
    found = cross_validate(
        table, recipe(), out=out, name="small", folds=2, resume=True, make_callback=make_callback
    )
    return table, out, found, jobs


def test_an_interrupted_cross_validation_goes_on_where_it_was(finished):
    _, out, found, jobs = finished
    names = [job.partition(": ")[2] for job in jobs]
    outer = ["repeat 1, part-1-of-2", "repeat 1, part-2-of-2"]
    assert names == [*outer, *outer, "final"]
    assert read_cross_validation(out) == found
    assert sorted(folder.name for folder in out.glob("*-small-*") if folder.is_dir()) == sorted(
        folder.name for folder in (*found.repeats[0], found.final)
    )


def test_every_cell_is_tested_once_by_a_model_that_has_not_seen_its_subject(finished):
    table, _, found, _ = finished
    tested = []
    for folder in found.repeats[0]:
        scores = read_run(folder).scores
        test = scores[scores["part"] == "test"]
        assert not set(test["subject"]) & set(scores.loc[scores["part"] != "test", "subject"])
        tested += list(test["cell"])
    assert sorted(tested) == sorted(pd.read_csv(table)["cell"])
    final = pd.read_csv(found.final / "scores.csv")
    assert set(final["part"]) == {"train", "validation"}
    assert (final["part"] == "train").sum() == len(tested)


def test_the_penalty_is_the_one_with_the_lowest_loss_on_held_out_subjects(finished):
    _, _, found, _ = finished
    run = read_run(found.repeats[0][0])
    choice = run.provenance["penalty_choice"]
    losses = dict(choice["losses"])
    assert set(losses) == {0.03, 0.3}
    assert losses[choice["penalty"]] == min(losses.values())
    rows = run.scores[run.scores["part"] == "validation"]
    weights = 1 / rows.groupby("subject")["cell"].transform("size")
    probability = 1 / (1 + np.exp(-rows["logit"]))
    assert losses[choice["penalty"]] == pytest.approx(
        log_loss(rows["label"], probability, sample_weight=weights), rel=1e-3
    )


def test_the_final_head_is_scikit_learns_on_plain_and_changed_cells_with_subjects_of_equal_weight(finished):
    """With the plain views alone, since the changed ones are drawn inside; the embeddings are those of the run."""
    table, out, _, _ = finished
    found = cross_validate(
        table,
        recipe("head_fit.views=0"),
        out=out.with_name("plain"),
        name="plain",
        folds=2,
        make_callback=lambda _: Callback(),
    )
    scores = pd.read_csv(found.final / "scores.csv")
    from safetensors.numpy import load_file

    embeddings = load_file(found.final / "embeddings.safetensors")["embeddings"].astype(np.float64)
    train = (scores["part"] == "train").to_numpy()
    values, labels = embeddings[train], scores.loc[train, "label"]
    groups = scores.loc[train].groupby(["label", "group"])["cell"].transform("size").to_numpy()
    subjects = scores.loc[train].groupby("label")["group"].transform("nunique").to_numpy()
    weights = 1 / (2 * groups * subjects)
    mean = weights @ values
    std = np.sqrt(len(values) / (len(values) - 1) * (weights @ (values - mean) ** 2)).clip(1e-6)
    provenance = json.loads((found.final / "provenance.json").read_text(encoding="utf-8"))
    penalty = provenance["penalty_choice"]["penalty"]
    oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000)
    oracle.fit((values - mean) / std, labels, sample_weight=weights)
    expected = oracle.decision_function((values - mean) / std)
    np.testing.assert_allclose(scores.loc[train, "logit"], expected, rtol=2e-3, atol=5e-3)


def test_another_recipe_or_cohort_does_not_go_on_in_the_folder(finished):
    table, out, _, _ = finished
    make = lambda _: Callback()  # noqa: E731
    with pytest.raises(UsageError, match=STATE):
        cross_validate(table, recipe(), out=out, name="small", folds=2, make_callback=make)
    with pytest.raises(UsageError, match="settings_sha256"):
        cross_validate(
            table, recipe("seed=1"), out=out, name="small", folds=2, resume=True, make_callback=make
        )
    with pytest.raises(UsageError, match="inner_folds"):
        cross_validate(
            table,
            recipe("head_fit.penalties=[]", "head_fit.penalty=0.1", "data.inner_folds=0"),
            out=out.with_name("none"),
            name="small",
            make_callback=make,
        )


def test_the_command_reports_the_pooled_folds_and_exports_the_final_model(finished, tmp_path):
    table, out, found, _ = finished
    options = [word for text in RECIPE for word in ("--set", text)]
    call = ["cross-validate", str(table), "--out", str(out), "--folds", "2", "--name", "small", *options]
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code == 2
    done = CliRunner().invoke(app, [*call, "--resume", "--replicates", "200", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    report = read_report(out / "report.json")
    assert [split.name for split in report.splits] == ["pooled over 2 splits"]
    split = report.headline
    assert shown["measures"]["roc_auc"]["value"] == split.cell.measures["roc_auc"].value
    assert split.cell.measures["roc_auc"].weighting == "subject"
    assert split.cell_weighted.measures["roc_auc"].weighting == "cell"
    assert [run.penalty for run in report.runs] == shown["penalties"]
    assert report.supplements[0].measures["repeat_1_roc_auc"].value == pytest.approx(
        split.cell.measures["roc_auc"].value
    )
    exported = CliRunner().invoke(
        app,
        ["export", str(found.final), "--report", str(out / "report.json"), "--out", str(tmp_path / "bundle")],
    )
    assert exported.exit_code == 0, exported.output
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["training"]["cells"] == 72
    assert manifest["training"]["protocol"] == "all, all-cells"
