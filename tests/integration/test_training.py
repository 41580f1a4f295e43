"""Whole small runs: files, curves, fast path, resuming after a kill, two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from cohort_files import write_cohort
from leukoscope.cli.train import make_callback
from leukoscope.core.config import apply_overrides, build
from leukoscope.core.errors import (
    ConfigError,
    DivergedError,
    LeukoscopeError,
    SplitError,
    TrainingError,
    UsageError,
)
from leukoscope.data.splits import Split, make_plan, write_splits
from leukoscope.data.table import read_cells
from leukoscope.evaluation.scores import read_run
from leukoscope.models.session import OpenVinoGraphs
from leukoscope.training.fit.callbacks import EpochRecord, TrainingCallback
from leukoscope.training.fit.checkpoint import FINAL, load_trained, read_record
from leukoscope.training.run import resume_run, start_run
from leukoscope.training.settings import TrainSettings

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SMALL = [
    "network.arch=resnet10t",
    "network.weights=none",
    "network.input_px=64",
    "engine.batch_size=8",
    "engine.accelerator=cpu",
    "engine.threads=1",
    "augment.views=2",
    "batch_norm.reestimate_cells=48",
    "stage1.epochs=2",
    "stage1.learning_rate=0.01",
    "stage2.epochs=2",
    "stage2.learning_rate=0.003",
    "stage2.unfreeze_layers=8",
]


def settings(*overrides: str) -> TrainSettings:
    return build(TrainSettings, apply_overrides({}, [*SMALL, *overrides]))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path]:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def run(cohort, out: Path, *overrides: str, name: str = "small", engine=None, callback=None) -> Path:
    return start_run(
        *cohort, None, settings(*overrides), out=out, run_name=name, engine=engine, callback=callback
    )


PLAIN = ("engine.activation_cache=off", "engine.frozen_forward=torch")


def history(folder: Path) -> pd.DataFrame:
    return pd.read_json(folder / "log.jsonl", lines=True)


def final_tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "checkpoints" / "final.safetensors")


def test_a_run_writes_what_the_evaluation_and_the_export_read(cohort, tmp_path):
    folder = run(cohort, tmp_path, "network.descriptor_head=true", "stage1.epochs=6", "score.tta=4")
    record = read_run(folder)
    assert record.split == "only"
    assert record.scores.groupby("part").size().to_dict() == {"train": 48, "validation": 12, "test": 12}
    assert record.provenance["initial_weights"]["source"] == "none"
    assert record.provenance["training_seconds"] > 0
    network = load_trained(folder)
    assert record.embeddings.shape == (72, network.embedding_width)
    test = record.part("test")
    assert (test.loc[test["label"] == 1, "logit"].min()) > test.loc[test["label"] == 0, "logit"].max()
    log = history(folder)
    assert list(log["stage"]) == [1] * 6 + [2] * 2
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "log.csv"), log, check_dtype=False)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob("cache-*"))


@pytest.mark.parametrize(
    ("dtype", "tolerance", "recipe"),
    [
        ("float32", 1e-4, ("network.head=paper", "batch_norm.unfrozen=train", "stage2.learning_rate=0.0003")),
        # Rounded activations are noise that training amplifies, so the learning rates are moderate here.
        ("float16", 2e-3, ("stage1.learning_rate=0.003", "stage2.learning_rate=0.0003")),
    ],
)
def test_the_fast_path_follows_the_plain_path(cohort, tmp_path, dtype, tolerance, recipe):
    recipe = (*recipe, f"engine.cache_dtype={dtype}")
    fast = history(run(cohort, tmp_path / "fast", *recipe))
    plain = history(run(cohort, tmp_path / "plain", *recipe, *PLAIN))
    assert (fast["cached_seconds"] > 0).any()
    assert (plain["cached_seconds"] == 0).all()
    assert np.ptp(plain["loss"]) > 10 * tolerance  # the curve moves by much more than what is tolerated
    np.testing.assert_allclose(fast["loss"], plain["loss"], atol=tolerance)
    np.testing.assert_allclose(fast["validation_loss"], plain["validation_loss"], atol=tolerance)


# Later stages amplify rounding: answers of the engine that are off by 1e-5 of their spread moved the losses by up to
# 0.004, the logits by 0.01 of their spread and an embedding by 0.1. The bounds allow for another processor's order
# of additions; the loss itself moves by 0.3. How exact the frozen part is by itself, parity/test_frozen_part.py shows.
FOLLOWS = {"frozen stage": 2e-3, "loss": 0.02, "validation_loss": 0.02, "logit": 0.05, "embedding": 0.5}


@pytest.mark.parametrize("views", [0, 2])
def test_an_engine_backed_frozen_part_follows_torch(cohort, tmp_path, views):
    recipe = (
        f"augment.views={views}",
        "network.head=paper",
        "network.descriptor_head=true",
        "batch_norm.unfrozen=train",
        "stage1.learning_rate=0.002",
        "stage2.learning_rate=0.0003",
        "engine.cache_dtype=float32",
        "score.tta=4",
    )
    folder = run(
        cohort, tmp_path / "fast", *recipe, "engine.frozen_forward=openvino", engine=OpenVinoGraphs()
    )
    plain_folder = run(cohort, tmp_path / "plain", *recipe, *PLAIN)
    assert np.ptp(history(plain_folder)["loss"]) > 0.1
    for name, deviation in deviations(folder, plain_folder).items():
        assert deviation < FOLLOWS[name], name
    assert read_run(folder).provenance["frozen_forward"] == "openvino f32"
    assert read_run(plain_folder).provenance["frozen_forward"] == "torch 32-true"


def deviations(one: Path, two: Path) -> dict[str, float]:
    """Return the largest differences between two runs' curves, logits (by their spread) and embeddings."""
    first, second, ours, theirs = history(one), history(two), read_run(one), read_run(two)
    spread = float(np.ptp(theirs.scores["logit"]))
    frozen = first["stage"] == 1
    return {
        "frozen stage": float((first["validation_loss"] - second["validation_loss"])[frozen].abs().max()),
        "loss": float((first["loss"] - second["loss"]).abs().max()),
        "validation_loss": float((first["validation_loss"] - second["validation_loss"]).abs().max()),
        "logit": float((ours.scores["logit"] - theirs.scores["logit"]).abs().max()) / spread,
        "embedding": float(np.abs(ours.embeddings - theirs.embeddings).max()),
    }


class Interrupting(TrainingCallback):
    """Interrupt the training when so many epochs are over, as Ctrl-C does."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, record: EpochRecord) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_engine_keeps_determinism_and_resuming(cohort, tmp_path):
    recipe = ("network.arch=test_resnet", "augment.views=0", "engine.frozen_forward=openvino")
    whole = run(cohort, tmp_path / "whole", *recipe, engine=OpenVinoGraphs())
    with pytest.raises(KeyboardInterrupt):  # in the middle of the second stage
        run(cohort, tmp_path / "cut", *recipe, engine=OpenVinoGraphs(), callback=Interrupting(3))
    (folder,) = (tmp_path / "cut").glob("*-small-*")
    resume_run(folder, engine=OpenVinoGraphs())
    one, two = final_tensors(whole), final_tensors(folder)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_an_unavailable_engine_is_an_error_before_the_first_step(cohort, tmp_path):
    with pytest.raises(ConfigError, match=r"engine\.frozen_forward"):
        run(cohort, tmp_path / "a", "engine.frozen_forward=openvino")
    with pytest.raises(ConfigError, match="64-true"):
        run(
            cohort,
            tmp_path / "b",
            "engine.frozen_forward=openvino",
            "engine.precision=64-true",
            engine=OpenVinoGraphs(),
        )


def test_same_seed_same_weights_other_seed_other_weights(cohort, tmp_path):
    first, second = (final_tensors(run(cohort, tmp_path / name)) for name in ("a", "b"))
    other = final_tensors(run(cohort, tmp_path / "c", "seed=1"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["head.dense.weight"], other["head.dense.weight"])


def test_inner_models_predict_every_training_cell_out_of_fold(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", subjects=10, cells_each=4, validation=False)
    folder = run(
        cohort,
        tmp_path / "runs",
        "data.inner_folds=2",
        "data.sampling=subject",
        "stage1.epochs=1",
        "stage2.epochs=1",
    )
    scores = read_run(folder).scores
    validation = scores[scores["part"] == "validation"]
    train = scores[scores["part"] == "train"]
    assert sorted(validation["cell"]) == sorted(train["cell"])
    assert set(validation["inner_fold"]) == {"0", "1"}
    assert validation.groupby("group")["inner_fold"].nunique().max() == 1
    assert set(history(folder)["model"]) == {"inner-0", "inner-1", "final"}


def test_inner_models_of_a_frozen_backbone_are_stored_without_it_and_still_score(cohort, tmp_path):
    folder = run(cohort, tmp_path, *EXACT, "data.inner_folds=2", "engine.cache_dtype=float32")
    sizes = {path.parent.name: path.stat().st_size for path in folder.rglob(FINAL)}
    assert sizes["0"] < sizes["checkpoints"] / 3 > sizes["1"]
    before = pd.read_csv(folder / "scores.csv")
    (folder / "scores.csv").unlink()
    resume_run(folder)
    np.testing.assert_allclose(pd.read_csv(folder / "scores.csv")["logit"], before["logit"], atol=1e-4)
    (folder / "scores.csv").unlink()
    base = folder / "checkpoints" / FINAL
    tensors = load_file(base)
    save_file(
        {name: np.asarray(tensor + 1) for name, tensor in tensors.items()}, base, metadata={"record": "{}"}
    )
    with pytest.raises(LeukoscopeError, match=FINAL):
        resume_run(folder)


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", "x" * 65, ".hidden", "a\nb", "a\\b"])
def test_a_name_that_is_no_part_of_a_folder_name_is_refused(cohort, tmp_path, name):
    with pytest.raises(UsageError, match="run name"):
        start_run(*cohort, None, settings(), out=tmp_path / "runs", run_name=name)
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_its_place(cohort, tmp_path):
    with pytest.raises(DivergedError, match=r"\b(nan|inf)\b.*\b1\b.*\b1\b.*\d"):
        run(cohort, tmp_path, "optimizer.name=sgd", "optimizer.clip_norm=0", "stage1.learning_rate=1e37")


def test_splits_that_cannot_be_trained_on_are_refused_before_the_first_step(cohort, tmp_path):
    table, _ = cohort
    cells = read_cells(table)
    keys = cells.set_index("subject")["cell"]
    blasts, normals = keys[["s0", "s2"]], keys[["s1", "s3"]]

    def start(split: Split, leaks: bool = False) -> None:
        write_splits(make_plan(cells, "grouped", 0, leaks, [split]), cells, tmp_path / "splits.json")
        start_run(table, tmp_path / "splits.json", None, settings(), out=tmp_path, run_name="bad")

    test = tuple(keys[["s8", "s9"]])
    with pytest.raises(TrainingError, match=r"\btrain\b.*\b12\b.*\bblast\b"):
        start(Split("one class", tuple(blasts), tuple(normals), test))
    with pytest.raises(TrainingError, match=r"data\.inner_folds"):
        start(Split("no validation", tuple(blasts) + tuple(normals), (), test))
    start_of_leak = (*blasts, *normals, test[0])
    with pytest.raises(SplitError, match=r"'s8'.*\btrain\b.*\btest\b"):
        start(Split("leak", start_of_leak, tuple(keys[["s4", "s5"]]), test[1:]))
    assert not list(tmp_path.glob("*bad*"))


def test_a_run_is_not_started_twice_and_a_finished_one_is_unchanged(cohort, tmp_path):
    folder = run(cohort, tmp_path, "stage2.epochs=0", "stage1.epochs=1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UsageError, match="--resume"):
        run(cohort, tmp_path, "stage2.epochs=0", "stage1.epochs=1")
    assert resume_run(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_best_weights_are_kept_with_or_without_an_early_end(cohort, tmp_path):
    """The rate grows so far within the stage that its first epochs are its best."""
    recipe = ("stage2.epochs=0", "stage1.epochs=6", "stage1.learning_rate=3", "optimizer.warmup_epochs=6")
    recipe = (*recipe, "engine.cache_dtype=float32", "stage1.patience=0")
    folder = run(cohort, tmp_path, *recipe)
    losses = history(folder)["validation_loss"]
    assert len(losses) == 6
    assert losses.min() < losses.iloc[-1]
    held_out = read_run(folder).part("validation")
    of_kept = np.logaddexp(0.0, np.where(held_out["label"] == 1, -1.0, 1.0) * held_out["logit"]).mean()
    assert of_kept == pytest.approx(losses.min(), rel=1e-4)


def test_a_stage_keeps_its_name_where_the_first_one_is_left_out(cohort, tmp_path, capsys):
    callback = make_callback(quiet=False)
    table, splits = cohort
    chosen = settings("stage1.epochs=0", "stage2.epochs=1")
    folder = start_run(table, splits, None, chosen, out=tmp_path, run_name="second", callback=callback)
    callback.close()
    assert list(history(folder)["stage"]) == [2]
    shown = capsys.readouterr().err
    assert "stage 2" in shown
    assert "stage 1" not in shown


EXACT = (
    "network.standardize_features=true",
    "head_fit.penalty=0.05",
    "stage1.epochs=0",
    "stage2.epochs=0",
    "batch_norm.reestimate_cells=0",
    "augment.views=0",
)


@pytest.mark.parametrize("inner_folds", [0, 2])
def test_the_seconds_of_training_are_those_of_the_whole_fit(cohort, tmp_path, inner_folds):
    folder = run(cohort, tmp_path, *EXACT, f"data.inner_folds={inner_folds}")
    first = read_run(folder).provenance
    assert 0 < first["training_seconds"] < first["run_seconds"]
    assert first["peak_memory_mb"] > 0
    resume_run(folder, overrides=["score.tta=4"])
    again = read_run(folder).provenance
    assert again["training_seconds"] == first["training_seconds"]
    assert again["peak_memory_mb"] is None  # this process scored only
    recalled = read_run(
        run(cohort, tmp_path, *EXACT, "head_fit.penalty=0.1", f"data.inner_folds={inner_folds}")
    ).provenance
    assert recalled["training_seconds"] is None
    assert recalled["peak_memory_mb"] is None


class Slow(Interrupting):
    """Hold the training up before it is interrupted, so that its seconds are many beside those that follow."""

    def begin(self, task: str, total: int) -> None:
        time.sleep(0.3)


def test_the_seconds_of_an_interrupted_training_count(cohort, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path, callback=Slow(2))
    (folder,) = tmp_path.glob("*-small-*")
    before = read_record(folder / "checkpoints" / "last.safetensors")["seconds"]
    assert before > 0.6
    provenance = read_run(resume_run(folder)).provenance
    assert provenance["training_seconds"] > before + history(folder)["seconds"][2:].sum()


def test_a_finished_run_scores_again_with_other_score_settings(cohort, tmp_path):
    recipe = ("stage2.epochs=0", "stage1.epochs=1", "engine.cache_dtype=float32")
    folder = run(cohort, tmp_path / "again", *recipe, "score.tta=4")
    turned, weights = read_run(folder).scores, final_tensors(folder)
    with pytest.raises(UsageError, match="seed=5"):
        resume_run(folder, overrides=["seed=5"])
    assert resume_run(folder, overrides=["score.tta=1"]) == folder
    plain = read_run(run(cohort, tmp_path / "plain", *recipe)).scores
    np.testing.assert_allclose(read_run(folder).scores["logit"], plain["logit"], atol=1e-5)
    assert not np.allclose(turned["logit"], plain["logit"], atol=1e-5)
    assert all(np.array_equal(weights[name], tensor) for name, tensor in final_tensors(folder).items())
    assert "tta = 1" in (folder / "config.toml").read_text()


def test_a_run_with_edited_settings_is_not_resumed(cohort, tmp_path):
    folder = run(cohort, tmp_path, "stage2.epochs=0", "stage1.epochs=1")
    (folder / "scores.csv").unlink()
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("label_smoothing = 0.0", "label_smoothing = 0.1"))
    with pytest.raises(UsageError, match=r"config\.toml"):
        resume_run(folder)
    (folder / "config.toml").write_text(config)
    resume_run(folder)
    assert (folder / "scores.csv").is_file()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "leukoscope.cli.main", "train", *arguments]


KILLED = """
import os, signal, sys
from pathlib import Path
from leukoscope.core.config import apply_overrides, build
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.run import start_run
from leukoscope.training.settings import TrainSettings

class Killing(TrainingCallback):
    epochs = steps = 0

    def epoch(self, record):
        self.epochs += 1

    def advance(self, count, loss=None):
        self.steps += self.epochs == 4 and loss is not None
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)

table, splits, out, *overrides = sys.argv[1:]
settings = build(TrainSettings, apply_overrides({}, overrides))
start_run(Path(table), Path(splits), None, settings, out=Path(out), run_name="killed", callback=Killing())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_runs_resume_to_the_same_weights(cohort, tmp_path):
    # Killed within the second epoch of the second stage, with every kind of state there is.
    recipe = (
        "optimizer.ema_decay=0.9",
        "loss.group_robust_rate=0.1",
        "stage1.epochs=3",
        "stage2.epochs=3",
        "augment.views=3",
    )
    whole = run(cohort, tmp_path / "whole", *recipe)
    table, splits = map(str, cohort)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, table, splits, str(tmp_path / "killed"), *SMALL, *recipe],
        env=ENVIRONMENT,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    (folder,) = tmp_path.glob("killed/*-killed-*")
    assert read_record(folder / "checkpoints" / "last.safetensors")["total"] == 4
    assert not (folder / "scores.csv").exists()
    assert resume_run(folder) == folder
    one, two = final_tensors(whole), final_tensors(folder)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    figures = ["loss", "validation_loss", "learning_rate", "auc"]
    pd.testing.assert_frame_equal(history(whole)[figures], history(folder)[figures])


@pytest.mark.slow
def test_two_processes_follow_one(cohort, tmp_path):
    recipe = (
        "network.drop_rate=0",
        "batch_norm.unfrozen=frozen",
        "optimizer.name=sgd",
        "augment.views=0",
        "stage1.learning_rate=0.1",
        "stage2.learning_rate=0.03",
    )
    single = run(cohort, tmp_path / "one", *recipe)
    options = [option for override in (*SMALL, *recipe) for option in ("--set", override)]
    table, splits = map(str, cohort)
    done = subprocess.run(
        command(
            "--cells",
            table,
            "--splits",
            splits,
            "--out",
            str(tmp_path / "two"),
            "--devices",
            "2",
            *options,
            "--json",
        ),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    double = Path(summary["run"])
    assert json.loads((double / "provenance.json").read_text())["processes"] == 2
    assert history(single)["validation_loss"].diff().abs().max() > 1e-3
    np.testing.assert_allclose(
        history(double)["validation_loss"], history(single)["validation_loss"], atol=2e-5
    )
    one, two = read_run(single).scores, read_run(double).scores
    assert list(one["cell"]) == list(two["cell"])
    np.testing.assert_allclose(one["logit"], two["logit"], atol=1e-3)


def test_a_frozen_backbone_runs_once_per_cell_across_runs(cohort, tmp_path):
    plain = [
        f"augment.{name}=0.0" for name in ("rotation_degrees", "shift", "brightness", "contrast", "stain")
    ]
    plain += [f"augment.{name}=1.0" for name in ("zoom_low", "zoom_high")]
    plain += ["augment.flip_horizontal=false", "augment.flip_vertical=false", "stage2.epochs=0"]
    plain += ["batch_norm.reestimate_cells=0"]
    first = run(cohort, tmp_path, *plain)
    (kept,) = (tmp_path / "cache").glob("embeddings-*.safetensors")
    # Marked, so that what is read from the file is distinguishable from computed values.
    stored = load_file(kept)
    save_file({**stored, "activations": 2 * stored["activations"]}, kept)
    second = run(cohort, tmp_path, *plain, "network.drop_rate=0.1")
    assert list((tmp_path / "cache").glob("embeddings-*.safetensors")) == [kept]
    one, other = (load_file(folder / "embeddings.safetensors")["embeddings"] for folder in (first, second))
    np.testing.assert_array_equal(2 * one, other)
    run(cohort, tmp_path, *plain, "seed=5")  # another backbone is another file
    assert len(list((tmp_path / "cache").glob("embeddings-*.safetensors"))) == 2
