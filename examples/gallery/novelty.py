"""Novelty: images that the shipped model rejects, by input checks or by novelty.

There are two steps: input checks (one whole, sharp cell on black, of the right size), and
novelty, the distance of its embedding from those of the training cells. One dot per image, at its novelty divided by
the limit: right of 1 it is rejected as novel. Hollow dots were rejected by the input checks. The shipped cells were
seen in training; other images are real and synthetic, whole and cut out so that only their content differs.

    python examples/gallery/novelty.py novelty.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.decision.input_checks import check_descriptors
from leukoscope.evaluation import figure_style as style
from leukoscope.evaluation.ood_images import cut_out_cell, make_ood_images
from leukoscope.evaluation.ood_report import measure_images
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.predictor import Predictor

MADE = 10


def collect(made: int = MADE) -> dict[str, list[np.ndarray]]:
    """Return images by kind, uint8 (H, W, 3) each; ``made`` of each artificial kind."""
    pbc = [decode_image(path) for path in sorted((other_images_directory() / "pbc").glob("*.jpg"))]
    images = {
        "Shipped C-NMC cells": [
            decode_image(path) for path in sorted(sample_cells_directory().rglob("UID_*"))
        ],
        "Other blood cells, whole image (PBC)": pbc,
        "Other blood cells, cut out": [cut_out_cell(rgb) for rgb in pbc],
        "Other blood cells, cut out, enlarged": [cut_out_cell(rgb, 1.35) for rgb in pbc],
        "Fields of view (BCCD)": [
            decode_image(path) for path in sorted((other_images_directory() / "bccd").glob("*.jpg"))
        ],
    }
    for name, kind in make_ood_images(made).items():
        if name != "blank":
            images[name.capitalize()] = kind
    return images


def draw(predictor: Predictor, images: dict[str, list[np.ndarray]]) -> Figure:
    """Return the picture."""
    rng = np.random.default_rng(0)
    decision = predictor.bundle.decision
    figure, axes = style.new_figure((9.2, 0.42 * len(images) + 1.2))
    for place, (kind, pictures) in enumerate(reversed(images.items())):
        measured = measure_images(
            pictures, lambda cells: predictor.forward(cells).embedding, predictor.session.input_px
        )
        scores = predictor.bundle.novelty.score(measured.embeddings) / decision.novelty.limit
        checked = np.array(
            [bool(check_descriptors(one, decision.input_limits)) for one in measured.descriptors]
        )
        refused = checked | (scores > 1)
        color = style.NORMAL if kind.startswith("Shipped") else style.BLAST
        heights = place + rng.uniform(-0.22, 0.22, len(scores))
        axes.scatter(scores[~checked], heights[~checked], s=16, color=color, alpha=0.75, linewidths=0)
        axes.scatter(
            scores[checked], heights[checked], s=16, facecolors="none", edgecolors=color, linewidths=0.9
        )
        axes.text(
            1.01, place, f"{refused.sum()} of {len(refused)} rejected", va="center", fontsize=8.5,
            color=style.INK, transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.axvline(1, color=style.INK, linewidth=1, linestyle="--")
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(images)), list(reversed(images)))
    axes.grid(visible=False, axis="y")
    for color, face, label in (
        (style.INK, style.INK, "passes the input checks"),
        (style.INK, "none", "rejected by the input checks"),
    ):
        axes.scatter([], [], s=16, edgecolors=color, facecolors=face, label=label)
    figure.legend(loc="outside lower center", ncols=2)
    axes.set(title="Rejection", xlabel="Novelty divided by its limit (above 1: rejected as novel)")
    return figure


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else MADE
    predictor = Predictor.open()
    with style.styled():
        picture = style.render(draw(predictor, collect(count)), "png", predictor.bundle.sha256)
    Path(sys.argv[1]).write_bytes(picture)
