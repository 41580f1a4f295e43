"""Inputs that cannot be trained on are reported before a run folder is made."""

from pathlib import Path

import pytest

from cohort_files import write_cohort
from leukoscope.core.config import build
from leukoscope.core.errors import ConfigError, UsageError
from leukoscope.training.networks.network import check_architecture
from leukoscope.training.run import NODE_ADDRESSES, launch, start_run
from leukoscope.training.settings import EngineSettings, NetworkSettings, TrainSettings


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), subjects=8, cells_each=2)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({"arch": "vit_tiny_patch16_224", "input_px": 224}, "convolutional"),
        ({"arch": "vit_tiny_patch16_224", "input_px": 96}, "input_px = 96"),
        ({"arch": "inception_v3", "input_px": 32}, "input_px = 32"),
        ({"arch": "no_such_network", "input_px": 64}, "no_such_network"),
        ({"arch": "", "input_px": 64}, "arch"),
        ({"arch": "resnet10t", "input_px": 64, "pooled_stages": [99]}, "99"),
    ],
)
def test_an_architecture_that_does_not_fit_is_named_and_nothing_is_left(network, named, cohort, tmp_path):
    cells, splits = cohort
    settings = build(TrainSettings, {"network": {"weights": "none", **network}})
    with pytest.raises(ConfigError, match=named):
        start_run(cells, splits, None, settings, out=tmp_path / "runs", run_name="wrong")
    assert not (tmp_path / "runs").exists()


def test_an_architecture_that_needs_more_than_the_probe_fits_at_its_size():
    check_architecture(NetworkSettings(arch="inception_v3", input_px=96, weights="none"))


@pytest.mark.parametrize(
    ("engine", "named"),
    [
        ({"accelerator": "tpu"}, "tpu"),
        ({"accelerator": "abacus"}, "abacus"),
        ({"accelerator": ""}, "''"),
        ({"accelerator": "cpu", "precision": "31-true"}, "31-true"),
        ({"accelerator": "cpu", "precision": ""}, "32-true"),
        ({"accelerator": "cpu", "devices": 1000}, "1000"),
        ({"accelerator": "cpu", "nodes": 2}, "MASTER_ADDR"),
    ],
)
def test_a_machine_that_is_not_there_is_named(engine, named, monkeypatch):
    for name in NODE_ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=named):
        launch(EngineSettings(**engine))


@pytest.mark.parametrize(
    "entry",
    [
        "{ low = 0.6, high = 0.1 }",
        "{ low = nan, high = 0.1 }",
        "{ low = 0.0, high = inf }",
        "{ low = 0.0, high = 0.5, log = true }",
        "{ low = 'a', high = 'b' }",
        "{ low = 0.1, high = 0.5, log = 'yes' }",
        "{ choices = [] }",
        "{ choices = 3 }",
        "{ choices = [[1]] }",
        "{ low = 1 }",
        "3",
    ],
)
def test_a_search_space_from_which_nothing_can_be_drawn_is_refused(entry, tmp_path: Path):
    from leukoscope.training.tune import read_space

    file = tmp_path / "space.toml"
    file.write_text(f'"network.drop_rate" = {entry}\n')
    with pytest.raises(ConfigError, match=r"network\.drop_rate"):
        read_space(file)
    file.write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read_space(file)
