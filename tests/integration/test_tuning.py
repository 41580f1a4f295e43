"""Hyper-parameter search on inner folds, and the training benchmark: small, but whole."""

import json
import sqlite3

import pytest
import typer
from typer.testing import CliRunner

from cohort_files import write_cohort
from leukoscope.cli import benchmark_train, train
from leukoscope.config import apply_overrides, build
from leukoscope.errors import ConfigError, UsageError
from leukoscope.training.settings import TrainSettings
from leukoscope.training.tune import read_space, search

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
    "optimiser.name": {"choices": ["adam", "sgd"]},
}


@pytest.mark.slow
def test_a_search_is_resumed_and_never_sees_the_test_part(tmp_path):
    table, splits = write_cohort(tmp_path, subjects=8, cells_each=3)
    for image in tmp_path.glob("images/s[67]_*.png"):
        image.unlink()  # the test part's images: whoever reads one fails
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
    with pytest.raises(UsageError, match="another configuration"):
        search(table, splits, None, settings, {}, trials=3, **options)


def test_a_search_space_is_checked(tmp_path):
    (tmp_path / "space.toml").write_text('"stage1.learning_rate" = { low = 1e-4 }\n')
    with pytest.raises(ConfigError, match=r"stage1\.learning_rate"):
        read_space(tmp_path / "space.toml")
    (tmp_path / "space.toml").write_text('"stage1.learning_rate" = { low = 1e-4, high = 1e-2 }\n')
    assert read_space(tmp_path / "space.toml") == {"stage1.learning_rate": {"low": 1e-4, "high": 1e-2}}


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
        "--json",
    ]
    done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["epochs"] == 2
    assert result["images_per_epoch"] == 24
    once = sum(stage["seconds_once"] for stage in result["stages"])
    assert 0 < once < result["wall_seconds"]
    assert result["seconds_per_epoch"] == pytest.approx(24 / result["images_per_second"])
    assert result["plain_seconds_per_epoch"] == pytest.approx(24 / result["plain_images_per_second"])
    assert not list(tmp_path.iterdir())


def test_wrong_calls_of_train_are_said_before_anything_is_loaded():
    app = typer.Typer()
    train.register(app)
    runner = CliRunner()
    with pytest.raises(UsageError, match="--cells"):
        runner.invoke(app, ["train"], catch_exceptions=False)
    with pytest.raises(UsageError, match="--resume"):
        runner.invoke(app, ["train", "--resume", "run", "--seed", "3"], catch_exceptions=False)
