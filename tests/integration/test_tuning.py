"""Hyper-parameter search on inner folds, and the training benchmark: small, but whole."""

import sqlite3

import pytest
import typer
from typer.testing import CliRunner

from cohort_files import write_cohort
from leukoscope.cli import train
from leukoscope.core.config import apply_overrides, build
from leukoscope.core.errors import ConfigError, TrainingError, UsageError
from leukoscope.evaluation.scores import read_run
from leukoscope.stats.metrics import roc_auc
from leukoscope.training.run import start_run
from leukoscope.training.settings import TrainSettings
from leukoscope.training.tune import default_space, read_space, search
from leukoscope_tools.benchmark import train as benchmark_train
from leukoscope_tools.benchmark.training_records import TrainingSpeed, read_training_speed
from leukoscope_tools.documents.publish import publish

SMALL = [
    "network.arch=resnet10t",
    "network.weights=none",
    "network.input_px=64",
    "engine.batch_size=8",
    "engine.accelerator=cpu",
    "engine.threads=1",
    "augment.views=1",
    "stage1.epochs=1",
    "stage2.epochs=0",
]
SPACE = {
    "stage1.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "optimizer.name": {"choices": ["adam", "sgd"]},
}


@pytest.mark.slow
def test_a_search_is_resumed_and_never_sees_the_test_part(tmp_path):
    table, splits = write_cohort(tmp_path, subjects=8, cells_each=3)
    for image in tmp_path.glob("images/s[67]_*.png"):
        image.unlink()  # the test part's images: reading one fails
    settings = build(TrainSettings, apply_overrides({}, SMALL))
    options = {"study_path": tmp_path / "study.db", "folds": 2}
    first = search(table, splits, None, settings, SPACE, trials=1, **options)
    assert first["trials"] == 1
    second = search(table, splits, "only", settings, SPACE, trials=2, **options)
    assert second["trials"] == 2
    assert second["best_value"] >= first["best_value"]
    assert set(second["best_parameters"]) == set(SPACE)
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone() == (2,)
    database.close()
    with pytest.raises(UsageError, match=r"study\.db"):
        search(table, splits, None, settings, {}, trials=3, **options)


EXACT = ["network.standardize_features=true", "head_fit.penalty=0.05", "stage1.epochs=0"]
# The second stage undoes the first, so that the least loss over both is not the kept model's.
SPOILT = ["stage1.epochs=2", "stage1.learning_rate=0.01", "stage2.epochs=1", "stage2.learning_rate=1.0"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [EXACT, SPOILT])
def test_the_value_of_a_trial_is_the_auc_of_the_kept_model(tmp_path, recipe):
    table, splits = write_cohort(tmp_path, subjects=10, cells_each=4, validation=False)
    recipe = [*SMALL, *recipe, "optimizer.name=sgd", "engine.cache_dtype=float32"]
    settings = build(TrainSettings, apply_overrides({}, recipe))
    space = {"loss.label_smoothing": {"choices": [0.1]}}
    found = search(table, splits, None, settings, space, trials=1, study_path=tmp_path / "study.db", folds=2)
    trained = build(
        TrainSettings, apply_overrides({}, [*recipe, "loss.label_smoothing=0.1", "data.inner_folds=2"])
    )
    run = start_run(table, splits, None, trained, out=tmp_path / "runs", run_name="same")
    held_out = read_run(run).part("validation").groupby("inner_fold")
    assert held_out.ngroups == 2
    expected = [roc_auc(rows["label"].to_numpy(), rows["logit"].to_numpy()) for _, rows in held_out]
    assert found["best_value"] == pytest.approx(sum(expected) / 2)


@pytest.mark.slow
def test_cells_are_prepared_as_each_trial_wants_them(tmp_path):
    table, splits = write_cohort(tmp_path, subjects=8, cells_each=3)
    settings = build(TrainSettings, apply_overrides({}, [*SMALL, *EXACT]))
    space = {"network.input_px": {"choices": [96]}}
    search(table, splits, None, settings, space, trials=1, study_path=tmp_path / "study.db", folds=2)
    assert [path.name[:9] for path in (tmp_path / "study.db.files" / "cache").glob("*.npy")] == ["cells-96-"]


@pytest.mark.parametrize(
    ("recipe", "key", "why"),
    [
        ([], "data.inner_folds", "--folds"),
        ([], "score.batch_size", ""),
        ([], "engine.threads", ""),
        ([], "stage2.learning_rate", r"stage2\.epochs"),
        (EXACT, "augment.stain", ""),
        (EXACT, "network.drop_rate", ""),
    ],
)
def test_a_setting_that_changes_nothing_is_not_searched(tmp_path, recipe, key, why):
    settings = build(TrainSettings, apply_overrides({}, [*SMALL, *recipe]))
    assert key not in default_space(settings)
    space = {key: {"choices": [4]}}
    with pytest.raises(UsageError, match=rf"{key}.*{why}"):
        search(
            tmp_path / "cells.csv",
            tmp_path / "splits.json",
            None,
            settings,
            space,
            trials=1,
            study_path=tmp_path / "study.db",
            folds=2,
        )
    assert not (tmp_path / "study.db").exists()


def test_the_default_search_space_is_that_of_the_recipe():
    recipe = build(TrainSettings, apply_overrides({}, [*SMALL, *EXACT]))
    assert set(default_space(recipe)) == {"loss.label_smoothing", "head_fit.penalty"}
    assert "head_fit.penalty" not in default_space(TrainSettings())
    assert "stage2.unfreeze_layers" in default_space(TrainSettings())


def test_a_search_in_several_processes_is_refused(tmp_path):
    table, splits = write_cohort(tmp_path, subjects=8, cells_each=1)
    settings = build(TrainSettings, apply_overrides({}, [*SMALL, "engine.devices=2"]))
    with pytest.raises(UsageError, match=r"engine\.devices.*engine\.nodes.*2"):
        search(table, splits, None, settings, SPACE, trials=1, study_path=tmp_path / "study.db", folds=2)


def test_a_search_space_is_checked(tmp_path):
    (tmp_path / "space.toml").write_text('"stage1.learning_rate" = { low = 1e-4 }\n')
    with pytest.raises(ConfigError, match=r"stage1\.learning_rate"):
        read_space(tmp_path / "space.toml")
    (tmp_path / "space.toml").write_text('"stage1.learning_rate" = { low = 1e-4, high = 1e-2 }\n')
    assert read_space(tmp_path / "space.toml") == {"stage1.learning_rate": {"low": 1e-4, "high": 1e-2}}


def test_a_trial_whose_loss_is_no_number_does_not_end_the_search(tmp_path):
    table, splits = write_cohort(tmp_path, subjects=8, cells_each=3)
    recipe = [*SMALL, "optimizer.name=sgd", "optimizer.clip_norm=0"]
    settings = build(TrainSettings, apply_overrides({}, recipe))
    space = {"stage1.learning_rate": {"choices": [3e38]}}
    study = tmp_path / "study.db"
    with pytest.raises(TrainingError):
        search(table, splits, None, settings, space, trials=2, study_path=study, folds=2)
    with sqlite3.connect(study) as database:
        assert database.execute("SELECT state FROM trials").fetchall() == [("PRUNED",)] * 2
    database.close()
    assert not list((tmp_path / "study.db.files").glob("trial-*/*"))


@pytest.mark.slow
def test_the_benchmark_measures_both_paths(tmp_path):
    app = typer.Typer()
    benchmark_train.register(app)
    app.callback()(lambda: None)
    options = [
        part
        for override in [*SMALL, "stage2.epochs=1", "stage2.unfreeze_layers=8"]
        for part in ("--set", override)
    ]
    arguments = [
        "train",
        "--images",
        "24",
        "--plain-images",
        "16",
        "--threads",
        "1",
        "--work",
        str(tmp_path),
        "--out",
        str(tmp_path / "training.json"),
        "--json",
    ]
    done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = TrainingSpeed.model_validate_json(done.stdout)
    assert result == read_training_speed(tmp_path / "training.json")
    assert [stage.epochs_timed for stage in result.stages] == [1, 1]
    assert result.images_per_epoch == 24
    assert result.machine.threads == 1
    once = sum(stage.seconds_once for stage in result.stages)
    assert 0 < once < result.wall_seconds
    assert result.seconds_per_epoch == pytest.approx(24 / result.images_per_second)
    mean = sum(stage.plain_seconds_per_epoch for stage in result.stages) / 2
    assert result.plain_seconds_per_epoch == pytest.approx(mean)
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]
    page = tmp_path / "page.md"
    page.write_text("<!-- leukoscope: training training=training.json -->\n<!-- /leukoscope -->\n")
    assert publish(page)
    assert f"{result.speed_up:.1f}" in page.read_text()


def test_epochs_of_precomputed_views_are_not_extrapolated():
    app = typer.Typer()
    benchmark_train.register(app)
    app.callback()(lambda: None)
    arguments = ["train", "--images", "8", "--epochs", "1", "--set", "network.arch=resnet10t"]
    with pytest.raises(UsageError, match="--epochs 0"):
        CliRunner().invoke(app, [*arguments, "--set", "augment.views=2"], catch_exceptions=False)


def test_invalid_train_options_are_reported_before_loading():
    app = typer.Typer()
    train.register(app)
    runner = CliRunner()
    with pytest.raises(UsageError, match="--cells"):
        runner.invoke(app, ["train"], catch_exceptions=False)
    with pytest.raises(UsageError, match="--resume"):
        runner.invoke(app, ["train", "--resume", "run", "--seed", "3"], catch_exceptions=False)
