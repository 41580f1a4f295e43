"""What an export says of the cells and the network, and what it refuses before it starts."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.core.classes import BINARY
from leukoscope.core.errors import UsageError
from leukoscope.data.official import official_files
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import NetworkSettings
from leukoscope.workflows.bundle_description import (
    data_license_text,
    explained_texts,
    license_records,
    read_training_data,
    tensor_texts,
)
from leukoscope.workflows.export_run import Identity, export_run
from synthetic_runs import write_run

IDENTITY = Identity("a-model", "1.0.0", None)


def change_scores(run: Path, **columns: object) -> None:
    scores = pd.read_csv(run / "scores.csv", keep_default_na=False)
    scores.assign(**columns).to_csv(run / "scores.csv", index=False)


def test_a_model_of_official_cells_is_described_as_the_shipped_one(tmp_path):
    run = write_run(tmp_path / "run")
    digests = [file.sha256 for file in official_files()]
    count = len(pd.read_csv(run / "scores.csv"))
    change_scores(run, sha256=[digests[row] for row in range(count)])
    data = read_training_data(run, None, "")
    shipped = json.loads((default_bundle_path() / "manifest.json").read_text())
    assert data.words.name == shipped["name"]
    assert data.words.title == shipped["title"]
    assert data.words.intended_use == shipped["intended_use"]
    texts = shipped["limitations"][: len(data.limitations)]  # notes of the fit follow
    assert list(data.limitations) == texts
    weights = shipped["licenses"][0]["attribution"]
    assert [record.model_dump() for record in license_records(data, weights)] == shipped["licenses"]
    assert data_license_text(data) == (default_bundle_path() / "DATA_LICENSE").read_text()


def test_other_cells_are_described_only_by_their_table(tmp_path):
    run = write_run(tmp_path / "run")
    data = read_training_data(run, None, "")
    texts = " ".join((data.words.name, data.words.title, data.words.intended_use, *data.limitations)).lower()
    for fact in ("cnmc", "c-nmc", "b-all", "precursor", "one center", "giemsa"):
        assert fact not in texts
    assert data.limitations[0]
    records = {record.part: record for record in license_records(data, "random")}
    assert (records["training data"].license, records["training data"].attribution) == ("NOASSERTION", "")
    assert records["sample cells"].license == "CC-BY-3.0"

    (tmp_path / "license.txt").write_text("Ask us.")
    data = read_training_data(run, tmp_path / "license.txt", "Our clinic")
    records = {record.part: record for record in license_records(data, "random")}
    assert records["training data"].license == "LicenseRef-training-data"
    assert records["training data"].attribution == "Our clinic"
    text = data_license_text(data)
    assert text.startswith("Ask us.")
    assert "C-NMC 2019" in text  # the sample cells' own


def test_subjects_with_both_labels_are_counted(tmp_path):
    run = write_run(tmp_path / "run")
    scores = pd.read_csv(run / "scores.csv", keep_default_na=False)
    first = scores.index[(scores["part"] == "train") & (scores["subject"].astype(str) == "1")][0]
    scores.loc[first, "label"] = 1 - scores.loc[first, "label"]
    change_scores(run, label=scores["label"])
    data = read_training_data(run, None, "")
    assert re.search(r"\b1\b.*\b16\b", data.limitations[0])


@pytest.mark.parametrize(
    ("options", "embedding", "explained"),
    [
        ({}, "globally averaged convolutional features", "last convolutional features"),
        ({"pooled_stages": (-3, -2)}, "features of the pooled stages", "deepest pooled stage"),
        (
            {
                "pooling": "moments",
                "pooled_stages": (-3, -2),
                "pixel_mean": (69.1, 29.8, 79.8),
                "pixel_std": (13.0, 10.0, 12.0),
            },
            "mean and mean square, over the cell",
            "pooled stages together",
        ),
    ],
)
def test_tensors_are_described_as_the_network_pools(options, embedding, explained):
    network = CellNetwork(NetworkSettings(arch="resnet10t", input_px=64, weights="none", **options))
    words = tensor_texts(network, BINARY)
    assert embedding in words["embedding"][0]
    assert explained in words["activation_map"][0]
    assert ("last" in explained_texts(network)) == (not options)


@pytest.mark.parametrize(
    ("identity", "texts"),
    [
        (Identity("My Model", "1.0.0", None), r"--name 'My Model'.*a-z"),
        (Identity("model", "v1", None), r"--version 'v1'"),
    ],
)
def test_an_invalid_name_or_version_is_reported_first(tmp_path, identity, texts):
    with pytest.raises(UsageError, match=texts) as caught:
        export_run(tmp_path / "no run", tmp_path / "bundle", identity)
    assert "\n" not in str(caught.value)


def test_an_unfinished_run_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "scores.csv").unlink()
    with pytest.raises(UsageError, match=r"scores\.csv.*--resume"):
        export_run(run, tmp_path / "bundle", IDENTITY)


def test_scores_averaged_over_rotations_are_not_exported(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "config.toml").open("a") as file:
        file.write("[score]\ntta = 4\n")
    with pytest.raises(UsageError, match=r"score\.tta = 4.*--resume .* --set score\.tta=1"):
        export_run(run, tmp_path / "bundle", IDENTITY)


def test_a_missing_license_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt"):
        read_training_data(write_run(tmp_path / "run"), tmp_path / "none.txt", "")
