"""Measure rejection: of out-of-distribution images, and of cells of unseen subjects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.decision.input_checks import check_descriptors
from leukoscope.decision.novelty import NoveltyModel
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.descriptors import Descriptors, describe_cell
from leukoscope.stats.intervals import BootstrapSettings, Estimate, bootstrap, wilson
from leukoscope.stats.metrics import roc_auc
from leukoscope.stats.resampling import SubjectSample, of_mean

Rgb = NDArray[np.uint8]
Embedder = Callable[[Rgb], NDArray[np.float32]]

BATCH = 16


@dataclass(frozen=True)
class MeasuredImages:
    """Embeddings (N, D) and descriptors of N images."""

    embeddings: NDArray[np.float32]
    descriptors: Sequence[Descriptors]


@dataclass(frozen=True)
class OodResult:
    """Rejection of one kind of out-of-distribution image; unit of analysis: the image.

    Attributes
    ----------
    auroc
        Of the novelty score alone against cells of unseen subjects, 0 to 1.
    refused, refused_low, refused_high
        Share refused by input checks or novelty, with Wilson's 95 % interval.
    by_checks, by_novelty
        Share each of them would refuse alone.
    """

    kind: str
    images: int
    auroc: float
    refused: float
    refused_low: float
    refused_high: float
    by_checks: float
    by_novelty: float


@dataclass(frozen=True)
class NoveltyReport:
    """Rejection of out-of-distribution images, and false rejection of cells of unseen subjects.

    Attributes
    ----------
    cells_refused
        Over cells, with an interval over subjects.
    ood_images
        By kind.
    images, auroc, refused
        Over all out-of-distribution images together.
    """

    cells_refused: Estimate
    cells_refused_by_checks: float
    cells_refused_by_novelty: float
    ood_images: tuple[OodResult, ...]
    images: int
    auroc: float
    refused: float


def measure_images(
    images: Iterable[Rgb],
    embed: Embedder,
    input_px: int,
    progress: Callable[[int], Any] | None = None,
) -> MeasuredImages:
    """Prepare, embed and describe images, some at a time.

    Parameters
    ----------
    images
        uint8 (H, W, 3) of any size.
    embed
        From prepared cells uint8 (N, input_px, input_px, 3) to embeddings float32 (N, D).
    progress
        Called with the number of images just done.
    """
    embeddings: list[NDArray[np.float32]] = []
    descriptors: list[Descriptors] = []
    batch: list[Rgb] = []

    def flush() -> None:
        embeddings.append(np.asarray(embed(np.stack(batch)), dtype=np.float32))
        if progress is not None:
            progress(len(batch))
        batch.clear()

    for rgb in images:
        descriptors.append(describe_cell(rgb))
        batch.append(prepare_cell(rgb, input_px))
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    if not descriptors:
        raise ValueError("there are no images to measure")
    return MeasuredImages(np.concatenate(embeddings), descriptors)


def novelty_report(
    parameters: DecisionParameters,
    novelty: NoveltyModel,
    cells: MeasuredImages,
    groups: NDArray[Any],
    ood_images: Mapping[str, MeasuredImages],
    *,
    settings: BootstrapSettings | None = None,
) -> NoveltyReport:
    """Measure rejection by input checks and novelty, as ``policy.decide`` applies them.

    Parameters
    ----------
    parameters, novelty
        As fitted or read from a bundle.
    cells
        C-NMC cells of subjects that neither the network nor the novelty model has seen.
    groups : (N,)
        Their subjects.
    ood_images
        Images of something else, by kind.
    """
    cell_scores, cell_checks = _predict(parameters, novelty, cells)
    cell_novel = cell_scores > parameters.novelty.limit
    # Rejection does not depend on labels: all subjects form one stratum.
    sample = SubjectSample.of(None, groups)
    refused = bootstrap(sample, of_mean(sample, cell_checks | cell_novel), settings or BootstrapSettings())

    results, scores, refusals = [], [], []
    for kind, images in ood_images.items():
        of_kind, checks = _predict(parameters, novelty, images)
        novel = of_kind > parameters.novelty.limit
        gone = checks | novel
        low, high = wilson(int(gone.sum()), len(gone))
        auroc = _auroc(cell_scores, of_kind)
        shares = (float(gone.mean()), low, high, float(checks.mean()), float(novel.mean()))
        results.append(OodResult(kind, len(gone), auroc, *shares))
        scores.append(of_kind)
        refusals.append(gone)
    everything = np.concatenate(refusals)
    return NoveltyReport(
        cells_refused=refused,
        cells_refused_by_checks=float(cell_checks.mean()),
        cells_refused_by_novelty=float(cell_novel.mean()),
        ood_images=tuple(results),
        images=len(everything),
        auroc=_auroc(cell_scores, np.concatenate(scores)),
        refused=float(everything.mean()),
    )


def _predict(
    parameters: DecisionParameters, novelty: NoveltyModel, images: MeasuredImages
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    limits = parameters.input_limits
    failed = [bool(check_descriptors(descriptors, limits)) for descriptors in images.descriptors]
    return novelty.score(images.embeddings), np.array(failed, dtype=bool)


def _auroc(cells: NDArray[np.float32], ood_images: NDArray[np.float32]) -> float:
    labels = np.repeat([0, 1], [len(cells), len(ood_images)])
    return roc_auc(labels, np.concatenate([cells, ood_images]))
