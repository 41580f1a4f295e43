"""The functions of the public package; ``leukoscope.NAME`` imports them from here at first use."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user
from leukoscope.inference.cells import Prediction, Predictions, Source
from leukoscope.inference.inputs import InputTypeError, iterate_images
from leukoscope.inference.predictor import Predictor
from leukoscope.models.registry import list_models, resolve_model

if TYPE_CHECKING:
    import pandas as pd

    from leukoscope.data.split_plan import SplitPlan
    from leukoscope.data.splits import Protocol
    from leukoscope.models.bundle import Bundle
    from leukoscope.models.report import Report
    from leukoscope.training.fit.callbacks import TrainingCallback
    from leukoscope.training.settings import TrainSettings

__all__ = [
    "evaluate",
    "export",
    "import_cohort",
    "list_models",
    "load",
    "load_model",
    "make_splits",
    "predict",
    "read_images",
    "train",
]

PathLike = str | os.PathLike[str]


def load_model(
    model: PathLike | None = None,
    *,
    engine: str = "openvino",
    precision: str = "f32",
    threads: int | None = None,
    operating_point: str | None = None,
    tta: int = 1,
    microns_per_pixel: float | None = None,
    profile: PathLike | None = None,
) -> Predictor:
    """Open a bundle and compile its network.

    Parameters
    ----------
    model
        A name of ``list_models()`` or the folder of a bundle; None for the default.
    engine
        ``openvino``, ``onnxruntime`` or ``onnxruntime-cuda``.
    precision
        ``f32``, or ``bf16`` if the processor has it.
    threads
        Threads of the engine; every core by default.
    operating_point
        Name of one of the bundle's operating points; None for its default.
    tta
        Test-time augmentation: 1, 4 (quarter turns) or 8 (also mirrored) views whose outputs are averaged.
    microns_per_pixel
        Scale of photographs; None takes each file's metadata, else measures red cells.
    profile
        Laboratory profile, a file of ``leukoscope adapt``.

    Returns
    -------
    Predictor
        Safe to use from several threads; one per process is enough.

    Raises
    ------
    UsageError
        There is no such model, engine, precision or operating point.
    BundleError
        The bundle is damaged, altered or unknown.

    Examples
    --------
    >>> import leukoscope
    >>> leukoscope.load_model("cnmc").bundle.manifest.name
    'leukoscope-cnmc'
    """
    if isinstance(model, Predictor):
        raise InputTypeError("a Predictor is loaded already; call its .predict(image)")
    if not isinstance(model, str | os.PathLike | None):
        raise InputTypeError(
            f"a value of type {type(model).__qualname__}: expected the name of a model or the folder of a bundle"
        )
    from leukoscope.smear.photographs import take_photographs

    predictor = Predictor.open(
        model,
        engine=engine,
        precision=precision,
        threads=threads,
        operating_point=operating_point,
        tta=tta,
        microns_per_pixel=microns_per_pixel,
        profile=profile,
    )
    return take_photographs(predictor, microns_per_pixel)


load = load_model


def predict(
    images: Any, model: Predictor | PathLike | None = None, *, subject: str | None = None
) -> Prediction | Predictions:
    """Classify images with a model that is loaded at the first call and reused by later calls.

    Parameters
    ----------
    images
        See ``Predictor.predict``: a path, bytes, a Pillow image or a uint8 array; a folder or an iterable of these.
    model
        A predictor, a name of ``list_models()`` or the folder of a bundle; None for the default.
    subject
        Subject that the cells belong to.

    Returns
    -------
    Prediction or Predictions
        One prediction for one image, a list for several.

    Examples
    --------
    >>> import leukoscope
    >>> len(leukoscope.predict(leukoscope.datasets.sample_paths()[:2]))
    2
    """
    predictor = model if isinstance(model, Predictor) else _loaded(str(resolve_model(model)))
    answer: Prediction | Predictions = predictor.predict(images, subject=subject)
    return answer


@lru_cache(maxsize=2)
def _loaded(folder: str) -> Predictor:
    return load_model(folder)


def read_images(*images: Any, subjects: PathLike | Mapping[str, str] | None = None) -> Iterator[Source]:
    """Yield images with their subjects, one at a time, for ``Predictor.stream``.

    Parameters
    ----------
    images
        Paths, folders, ZIP archives, glob patterns, bytes, Pillow images or arrays.
    subjects
        A CSV with the columns ``source`` and ``subject``, or a mapping of file names to subjects.

    Yields
    ------
    Source
        Name, content and subject of each image.

    Examples
    --------
    >>> import leukoscope
    >>> folder = leukoscope.datasets.sample_directory() / "fold_1" / "hem"
    >>> sum(1 for _ in leukoscope.read_images(folder))
    8
    """
    from dataclasses import replace

    from leukoscope.core.subjects import SubjectTable, read_subjects

    table = None
    if subjects is not None:
        rows = dict(subjects) if isinstance(subjects, Mapping) else read_subjects(expand_user(subjects))
        table = SubjectTable(rows)
    for image in images:
        for source in iterate_images(image):
            subject = source.subject if table is None else table(source.name)
            yield source if subject == source.subject else replace(source, subject=subject)


def import_cohort(
    source: PathLike, table: PathLike = "cells.csv", *, classes: Mapping[str, Sequence[str]] | None = None
) -> "pd.DataFrame":
    """Read a cohort from folders or a CSV, write its cell table and return it.

    Parameters
    ----------
    source
        Folder with one folder per class (C-NMC's layout included), or a CSV of files, labels and subjects.
    table
        The ``cells.csv`` to write.
    classes
        Further words for the classes: ``{"blast": ["leukemic"], "normal": ["reactive"]}``.

    Returns
    -------
    pandas.DataFrame
        One row per cell image; columns: docs/architecture.md.

    Raises
    ------
    UsageError, CohortError
        The source holds no image, the labels contradict each other, or the table's place is taken.
    """
    from leukoscope.datasets import folder

    frame = folder(source, table=table, classes=classes).table
    assert frame is not None  # noqa: S101 - folder() always has one
    return frame


def make_splits(
    cells: "pd.DataFrame | PathLike",
    protocol: "Protocol" = "official",
    *,
    k: int = 5,
    seed: int = 0,
    out: PathLike | None = None,
) -> "SplitPlan":
    """Make splits in which no subject is on two sides.

    Parameters
    ----------
    cells
        A cell table or the path of a ``cells.csv``.
    protocol
        ``official`` (C-NMC's folds), ``grouped`` (k folds by subject) or ``paper`` (random, leaks by design).
    k
        Folds of ``grouped``.
    seed
        Random seed.
    out
        The ``splits.json`` to write; not written by default.

    Raises
    ------
    UsageError, SplitError
        The protocol does not fit the cohort.
    """
    import pandas as pd

    from leukoscope.data.split_plan import write_splits
    from leukoscope.data.splits import make_splits as make
    from leukoscope.data.table import read_cells

    frame = cells if isinstance(cells, pd.DataFrame) else read_cells(expand_user(cells))
    plan = make(frame, protocol, k=k, seed=seed)
    if out is not None:
        write_splits(plan, frame, expand_user(out))
    return plan


def train(
    cells: PathLike,
    splits: PathLike,
    split: str | None = None,
    config: "PathLike | TrainSettings | None" = None,
    *,
    out: PathLike = "runs",
    name: str | None = None,
    overrides: Sequence[str] = (),
    callback: "TrainingCallback | None" = None,
) -> Path:
    """Train a network on one split.

    Parameters
    ----------
    cells, splits
        ``cells.csv`` and ``splits.json``.
    split
        Name of the split; may be left out if there is only one.
    config
        A TOML file or ``TrainSettings``; the defaults if left out.
    out
        Parent of the run folder.
    name
        Part of the folder's name; by default that of the configuration.
    overrides
        ``section.key=value`` over the configuration.
    callback
        Receives progress.

    Returns
    -------
    pathlib.Path
        The run folder.

    Raises
    ------
    UsageError, ConfigError, SplitError, WeightsError, TrainingError
        Before the first step if possible.
    """
    from leukoscope.core.config import apply_overrides, build, to_mapping
    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.recipe import read_settings
    from leukoscope.training.run import start_run
    from leukoscope.training.settings import TrainSettings

    path = None if config is None or isinstance(config, TrainSettings) else expand_user(config)
    if isinstance(config, TrainSettings):
        settings = build(TrainSettings, apply_overrides(to_mapping(config), overrides))
    else:
        settings = read_settings(path, overrides)
    return start_run(
        expand_user(cells),
        expand_user(splits),
        split,
        settings,
        out=expand_user(out),
        run_name=name or ("default" if path is None else path.stem),
        callback=callback,
        engine=OpenVinoGraphs(),
    )


def evaluate(
    runs: PathLike | Sequence[PathLike], *, pooled: bool = False, n_resamples: int = 2000, seed: int = 0
) -> "Report":
    """Evaluate finished runs by cell and by subject.

    Parameters
    ----------
    runs
        One run folder or several.
    pooled
        Add the estimate over all test parts together.
    n_resamples, seed
        Of the bootstrap over subjects.

    Returns
    -------
    Report
        What ``report.json`` holds; ``leukoscope.models.report.write_report`` writes it.

    Raises
    ------
    UsageError, CohortError
        A folder is no finished run, or runs do not fit together.
    """
    from leukoscope.evaluation.protocol import evaluate as evaluate_runs
    from leukoscope.evaluation.split_report import EvaluationSettings
    from leukoscope.stats.intervals import BootstrapSettings

    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    settings = EvaluationSettings(bootstrap=BootstrapSettings(replicates=n_resamples, seed=seed))
    return evaluate_runs([expand_user(run) for run in folders], pooled=pooled, settings=settings)


def export(
    run: PathLike,
    out: PathLike,
    *,
    report: PathLike | None = None,
    name: str | None = None,
    version: str = "0.1.0",
    weights: Literal["float16", "float32"] = "float16",
) -> "Bundle":
    """Make a bundle of a finished run.

    Parameters
    ----------
    run
        Run folder.
    out
        Folder of the bundle.
    report
        ``report.json`` of ``evaluate`` to include.
    name, version
        Of the model.
    weights
        Stored precision; arithmetic is float32.

    Raises
    ------
    UsageError
        The run is not finished, or name or version have another form.
    """
    if weights not in ("float16", "float32"):
        raise UsageError(f"weights = {weights!r}: expected 'float16' or 'float32'")
    from leukoscope.workflows.export_run import Identity, export_run

    return export_run(
        expand_user(run),
        expand_user(out),
        Identity(name, version, None),
        report=None if report is None else expand_user(report),
        weights_dtype=weights,
    )
