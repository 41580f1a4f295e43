"""How faithful the activation maps of a bundle are: measured on cells, with an interval over subjects.

Four tests of each map; none needs annotations by an expert:

* Is it on the cell? The share of its energy inside the foreground, compared with the foreground's share of the frame
  and with the energy of the foreground mask on the map's coarse grid.
* Do the marked pixels matter? Foreground pixels are removed, most relevant first, then least relevant first; removing
  the marked pixels must lower the logit more. Removed pixels are filled from the rest of the cell, so that the network
  sees neither the shape of a hole nor a smaller cell (after ROAD: Rong et al. 2022, arXiv 2202.00449; filled here
  through an image pyramid, and not from the black around, which would make removed rims look like a smaller cell).
* Does it depend on the learned weights? The weights are shuffled; the map must change (Adebayo et al. 2018, arXiv
  1810.03292).
* Does it belong to the cell? It must turn with it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.core.errors import UsageError
from leukoscope.decision.calibration import group_log_odds
from leukoscope.imaging.canvas import rotate_quarter
from leukoscope.imaging.foreground import cell_mask
from leukoscope.inference.cells import PreparedCell
from leukoscope.inference.predictor import Predictor
from leukoscope.models.bundle import Bundle
from leukoscope.models.files import MODEL
from leukoscope.models.onnx_graph import Weight, read_onnx_graph
from leukoscope.models.session import OUTPUT_NAMES, ForwardResult, Session

if TYPE_CHECKING:
    from leukoscope.models.report import Supplement

REMOVED_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Shares of the foreground's pixels that are removed; the measure is the mean over them."""

EMBEDDING, MAP = OUTPUT_NAMES[1:]
SHUFFLED_DTYPES = {"float16": np.float16, "float32": np.float32}
IMPUTATION_NOISE = 2.0
"""Standard deviation (0 to 255) added to filled pixels, so that smoothness does not mark them."""

Cells = NDArray[np.uint8]
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MapMeasures:
    """Measurements of one cell; NaN if a correlation is undefined because the map has no contrast.

    Attributes
    ----------
    energy_inside
        0 to 1, share of the map's sum inside the cell; NaN for a map of zeros.
    area_share
        0 to 1, the cell's share of the frame: the energy of a uniform map.
    mask_energy
        0 to 1, the energy of the cell mask on the map's grid: about the maximum for such a grid.
    most_relevant_drop, least_relevant_drop, random_drop
        Mean fall of the logit when the most relevant, least relevant or random pixels of the cell are removed.
    shuffled_head, shuffled_all
        -1 to 1, rank correlation with the map of a model with its head's or all weights shuffled.
    rotation
        -1 to 1, correlation with the map of the cell turned by 90, 180, 270 degrees and turned back, the lowest.
    rotation_logit
        Largest change of the logit under these turns.
    """

    energy_inside: float
    area_share: float
    mask_energy: float
    most_relevant_drop: float
    least_relevant_drop: float
    random_drop: float
    shuffled_head: float
    shuffled_all: float
    rotation: float
    rotation_logit: float


@dataclass(frozen=True)
class ExplainCheck:
    """The measures of all cells that were classified.

    Attributes
    ----------
    sources, subjects
        Names of the cells and of their subjects (the name of the cell if the subject is unknown).
    measures
        One entry a cell.
    skipped
        Images that gave no map, because they could not be read or are no cell images.
    """

    sources: tuple[str, ...]
    subjects: tuple[str, ...]
    measures: tuple[MapMeasures, ...]
    skipped: int

    def supplement(self) -> "Supplement":
        """Return the means with their intervals over subjects, as a part of ``report.json``."""
        from leukoscope.models.report import Measurement, Supplement
        from leukoscope.stats.intervals import bootstrap
        from leukoscope.stats.resampling import SubjectSample, of_mean

        table = {name: np.array([getattr(entry, name) for entry in self.measures]) for name in FIGURES}
        table["relevance_gap"] = table["most_relevant_drop"] - table["least_relevant_drop"]
        table["gap_is_positive"] = (table["relevance_gap"] > 0).astype(float)
        measures = {}
        for name, values in table.items():
            defined = np.isfinite(values)
            subjects = np.asarray(self.subjects)[defined]
            sample = SubjectSample.of(None, subjects)
            estimate = bootstrap(sample, of_mean(sample, values[defined]))
            measures[name] = Measurement(
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n_cells=estimate.n_cells,
                n_subjects=estimate.n_subjects,
                split="given cells",
                unit="cell",
                method=estimate.method,
                not_estimable=estimate.reason,
            )
        return Supplement(
            name="explanations", title="Faithfulness of the heat maps", text=TEXT, measures=measures
        )


FIGURES = tuple(MapMeasures.__dataclass_fields__)
TEXT = (
    "Means over cells. energy_inside against area_share and mask_energy: how much of the map is on the cell, how "
    "much of a uniform map would, and how much of the cell's own mask on the map's grid would. most_relevant_drop, "
    "least_relevant_drop, random_drop: fall of the logit when 10 to 70 % of the cell's pixels are removed in that "
    "order (filled from what remains of the cell); relevance_gap is the first minus the second, and must be positive. "
    "shuffled_head, shuffled_all: rank correlation with the map after shuffling the head's or all weights; near 0 "
    "means that the map depends on the learned weights. rotation: lowest correlation over quarter turns, turned back; "
    "rotation_logit: largest change of the logit under them."
)


def check_explanations(
    predictor: Predictor,
    cells: Sequence[PreparedCell],
    *,
    skipped: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExplainCheck:
    """Measure the maps of prepared cells.

    Parameters
    ----------
    predictor
        Without rotation averaging; its own bundle's weights are shuffled.
    cells
        At least one; those that the input checks refuse are counted and left out.
    skipped
        Images that were left out before.
    seed
        Of shuffles, random orders and noise.
    progress
        Called with the number of cells done and their total.

    Raises
    ------
    UsageError
        No cell image among them, or rotation averaging is on.
    """
    if predictor.turns != 1:
        raise UsageError("maps are checked without rotation averaging; leave out --tta")
    scored = [cell for cell in cells if not cell.refusals]
    if not scored:
        raise UsageError("no cell image among those given; name cut-out cells on black")
    rng = np.random.default_rng(seed)
    settings = predictor.session.description()
    shuffled = [
        Session(content, engine=str(settings["engine"]), threads=int(settings["threads"]))
        for content in (
            shuffle_weights(predictor.bundle, rng, head_only=True),
            shuffle_weights(predictor.bundle, rng),
        )
    ]
    measures = []
    for number, prepared in enumerate(scored, 1):
        measures.append(_measure(predictor.session, shuffled, prepared, rng))
        if progress is not None:
            progress(number, len(scored))
    return ExplainCheck(
        tuple(cell.source.name for cell in scored),
        tuple(cell.source.subject or cell.source.name for cell in scored),
        tuple(measures),
        skipped + len(cells) - len(scored),
    )


def shuffle_weights(bundle: Bundle, rng: np.random.Generator, *, head_only: bool = False) -> bytes:
    """Return the bundle's model with the weights behind its map permuted, each tensor within itself.

    Parameters
    ----------
    head_only
        Shuffle only the weights of the head, which the map depends on and the embedding does not.
        Tensors of one dimension (biases, normalization) stay, so that the network keeps its scale.

    Raises
    ------
    UsageError
        The map depends on no weights of the head.
    """
    content = bundle.read(MODEL)
    graph = read_onnx_graph(content)
    behind = graph.origins(MAP)
    if head_only:
        behind -= graph.origins(EMBEDDING)
    weights = [weight for weight in graph.weights if weight.name in behind and _can_shuffle(weight)]
    if not weights:
        raise UsageError("the map of this bundle depends on no weights that could be shuffled")
    edited = bytearray(content)
    for weight in weights:
        start, end = weight.span
        values = np.frombuffer(content[start:end], dtype=SHUFFLED_DTYPES[weight.dtype])
        edited[start:end] = rng.permutation(values).tobytes()
    return bytes(edited)


def energy_inside(activation_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the share of the map's sum on the cell, with the map enlarged to the mask; NaN for zeros.

    Parameters
    ----------
    activation_map
        float32 (h, w), >= 0.
    mask
        bool (H, W), where the cell is.
    """
    large = np.asarray(
        Image.fromarray(activation_map).resize(mask.shape[::-1], Image.Resampling.BILINEAR), dtype=np.float64
    )
    total = float(large.sum())
    return float(large[mask].sum()) / total if total > 0 else float("nan")


def remove_pixels(cell: Cells, removed: NDArray[np.bool_], rng: np.random.Generator) -> Cells:
    """Fill removed pixels of the cell from those of its pixels that remain.

    The image is halved again and again, each time averaging known pixels only, until all pixels are known;
    on the way back unknown pixels take the coarser level's value.

    Parameters
    ----------
    cell
        uint8 (S, S, 3), on black.
    removed
        bool (S, S).
    """
    known = (cell_mask(cell) & ~removed).astype(np.float64)[..., None]
    filled = _pull_push(cell * known, known)
    noisy = filled + rng.normal(0, IMPUTATION_NOISE, filled.shape)
    result = np.where(removed[..., None], np.clip(np.rint(noisy), 0, 255), cell)
    return result.astype(np.uint8)


def rank_correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Spearman's correlation of two maps, ties sharing their mean rank; NaN where it is not defined."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    return _correlation(_ranks(first), _ranks(second))


def _measure(
    session: Session, shuffled: list[Session], prepared: PreparedCell, rng: np.random.Generator
) -> MapMeasures:
    cell = prepared.cell
    turned = np.stack([rotate_quarter(cell, quarters) for quarters in range(4)])
    forward = session.run(turned)
    # A graph of one logit explains its second class only, one of K logits the likeliest here.
    member = 1 if forward.activation_map.shape[1] == 1 else int(forward.logits[0].argmax())
    own = forward.map_of(0, member)
    mask = cell_mask(prepared.canvas)
    log_odds = group_log_odds(forward.logits, [member])
    drops = _drops(session, cell, own, member=member, log_odds=float(log_odds[0]), rng=rng)
    head, everything = (other.run(cell[None]).map_of(0, member) for other in shuffled)
    return MapMeasures(
        energy_inside=energy_inside(own, mask),
        area_share=float(mask.mean()),
        mask_energy=energy_inside(_on_grid(mask, own.shape), mask),
        most_relevant_drop=drops[0],
        least_relevant_drop=drops[1],
        random_drop=drops[2],
        shuffled_head=rank_correlation(own, head),
        shuffled_all=rank_correlation(own, everything),
        rotation=_rotation(forward, member),
        rotation_logit=float(np.abs(log_odds[1:] - log_odds[0]).max()),
    )


def _rotation(forward: ForwardResult, member: int) -> float:
    own = forward.map_of(0, member)
    correlations = [
        _correlation(own.ravel(), np.rot90(forward.map_of(quarters, member), -quarters).ravel())
        for quarters in (1, 2, 3)
    ]
    return min(correlations) if np.isfinite(correlations).all() else float("nan")


def _drops(
    session: Session,
    cell: Cells,
    activation_map: NDArray[np.float32],
    *,
    member: int,
    log_odds: float,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the mean fall of the class's log-odds for pixels removed most relevant, least and at random first."""
    mask = cell_mask(cell)
    places = np.flatnonzero(mask)
    size = Image.Resampling.BILINEAR
    relevance = np.asarray(Image.fromarray(activation_map).resize(mask.shape[::-1], size)).ravel()[places]
    ties = rng.permutation(len(places))  # equal relevance is ordered at random, not from the top down
    by_relevance = ties[np.argsort(relevance[ties], kind="stable")]
    orders = (by_relevance[::-1], by_relevance, rng.permutation(len(places)))
    altered = np.stack([image for order in orders for image in _removals(cell, places[order], rng)])
    falls = log_odds - group_log_odds(session.run(altered).logits, [member])
    most, least, random = falls.reshape(len(orders), -1).mean(axis=1)
    return float(most), float(least), float(random)


def _on_grid(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the share of the mask in each place of a grid (h, w)."""
    return np.asarray(
        Image.fromarray(mask.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BOX)
    )


def _removals(cell: Cells, ordered: NDArray[np.intp], rng: np.random.Generator) -> Iterator[Cells]:
    for share in REMOVED_SHARES:
        removed = np.zeros(cell.shape[:2], dtype=np.bool_)
        removed.flat[ordered[: round(share * len(ordered))]] = True
        yield remove_pixels(cell, removed, rng)


def _pull_push(weighted: Floats, known: Floats) -> Floats:
    if known.all() or min(known.shape[:2]) == 1:
        return weighted / np.maximum(known, 1e-9)
    height, width = known.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    coarse_values = _halve(np.pad(weighted, pad))
    coarse_known = _halve(np.pad(known, pad))
    coarse = _pull_push(coarse_values, coarse_known)
    large = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    own = weighted / np.maximum(known, 1e-9)
    return np.where(known > 0, own, large)


def _halve(values: Floats) -> Floats:
    return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]


def _ranks(values: NDArray[np.float32]) -> Floats:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2
    return means[inverse]


def _correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _can_shuffle(weight: Weight) -> bool:
    return len(weight.shape) >= 2 and weight.dtype in SHUFFLED_DTYPES and weight.span[1] > weight.span[0]
