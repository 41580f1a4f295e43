"""Leakage: a split by cells on data without a signal.

Simulated subjects, each with an appearance (stain, day, camera) that all of its cells share, and each with one
label. Left the cells carry no sign of the disease at all, right a modest one. A logistic regression is scored twice
on the same cells: on random fifths of the cells, and on unseen subjects. Bands: 10 to 90 % of repetitions.

    python examples/gallery/leakage.py leakage.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedGroupKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from leukoscope.evaluation import figure_style as style
from leukoscope.stats.metrics import roc_auc

PEOPLE, CELLS_EACH, FEATURES, FOLDS = 42, 40, 48, 5
LOOKS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)
REPETITIONS = 10


def draw(repetitions: int = REPETITIONS) -> Figure:
    """Return the picture; more repetitions make it smoother."""
    rng = np.random.default_rng(0)
    figure, panes = _new_figure()
    for pane, signal, title in zip(
        panes, (0.0, 0.12), ("Nothing to learn", "A modest true signal"), strict=True
    ):
        results = np.array(
            [[_score(rng, look, signal) for look in LOOKS] for _ in range(repetitions)]
        )  # (repetitions, looks, 2)
        for column, color, label in (
            (0, style.BLAST, "random cells"),
            (1, style.NORMAL, "unseen subjects"),
        ):
            mean = results[:, :, column].mean(axis=0)
            low, high = np.quantile(results[:, :, column], (0.1, 0.9), axis=0)
            pane.fill_between(LOOKS, low, high, color=color, alpha=0.15, linewidth=0)
            pane.plot(LOOKS, mean, "o-", color=color, markersize=4, label=f"Tested on {label}")
        pane.axhline(0.5, color=style.MUTED, linewidth=1, linestyle=":")
        pane.set(title=title, xlabel="Variation between subjects", ylim=(0.3, 1.02))
    panes[0].set_ylabel("ROC AUC, cells")
    panes[0].legend(loc="upper left", bbox_to_anchor=(0, 0.93))
    return figure


def _new_figure() -> tuple[Figure, np.ndarray]:
    figure, axes = style.new_figure(style.WIDE)
    axes.remove()
    return figure, figure.subplots(1, 2, sharey=True)


def _score(rng: np.random.Generator, look: float, signal: float) -> tuple[float, float]:
    """Return the AUC on random cells and on unseen subjects."""
    people = np.repeat(np.arange(PEOPLE), CELLS_EACH)
    labels = (people % 2).astype(int)
    looks = rng.normal(0, look, (PEOPLE, FEATURES))[people]
    disease = signal * (2 * labels - 1)[:, None] * np.ones(FEATURES) * np.sqrt(16 / FEATURES)
    cells = looks + disease + rng.normal(0, 1, (len(people), FEATURES))
    model = LogisticRegression(C=0.1, max_iter=500)
    seed = int(rng.integers(1_000_000))
    ways = (
        (KFold(FOLDS, shuffle=True, random_state=seed), None),
        (StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed), people),
    )
    scores = [
        cross_val_predict(model, cells, labels, groups=groups, cv=way, method="decision_function")
        for way, groups in ways
    ]
    return roc_auc(labels, scores[0]), roc_auc(labels, scores[1])


if __name__ == "__main__":
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else REPETITIONS
    with style.styled(), threadpool_limits(1):
        Path(sys.argv[1]).write_bytes(style.render(draw(repetitions), "png"))
