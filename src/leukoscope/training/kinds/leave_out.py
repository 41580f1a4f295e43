"""Fit one recipe with a laboratory left out, and store the outputs of the network for every crop of the pack.

The study of adaptation reads the output: whether a profile or corrected cells help in a laboratory that the
network was not trained on.
"""

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from leukoscope.core.errors import UsageError
from leukoscope.core.io import replacing
from leukoscope.training.kinds.bank import Bank, build_bank
from leukoscope.training.kinds.fit import FitSettings, fit
from leukoscope.training.kinds.network import create_network
from leukoscope.training.kinds.packing import read_items, read_pack
from leukoscope.training.kinds.prediction import Predicted, predict_pasted, predict_plain
from leukoscope.training.kinds.protocol import FOLDS, RECIPES, Recipe, training_rows
from leukoscope.training.kinds.views import INPUT_PX, ViewSettings

logger = logging.getLogger(__name__)

DEFAULT_RECIPE = "lite0-frozen-norm"


def answer_all(bank: Bank, network: torch.nn.Module, input_px: int, turns: int = 1) -> Predicted:
    """Return probabilities and embeddings of every crop in its surroundings; cut-out cells are pasted into others."""
    rows = np.arange(len(bank.items), dtype=np.int64)
    plain = predict_plain(network, bank, rows, cut_out=False, input_px=input_px, turns=turns)  # type: ignore[arg-type]
    cut_out = np.flatnonzero(bank.cut_out.cpu().numpy())
    around = bank.rows(laboratory="pbc", held_out=True)
    if len(cut_out) and len(around):
        pasted = predict_pasted(network, bank, cut_out, surroundings=around, input_px=input_px)  # type: ignore[arg-type]
        plain.probabilities[cut_out] = pasted.probabilities
        plain.embeddings[cut_out] = pasted.embeddings
    return plain


def leave_out(
    bank: Bank, recipe: Recipe, fold: str, initial: Path, settings: FitSettings
) -> tuple[Predicted, Predicted, dict[str, object]]:
    """Fit a recipe without the laboratories of a fold.

    Returns
    -------
    once, turned, record
        Outputs for every crop, unchanged and as the mean of four rotations; and the fit.
    """
    network = create_network(recipe.arch, initial / f"{recipe.arch}.safetensors", recipe.norm, recipe.style)
    fitted = fit(network.to(bank.images.device), bank, training_rows(bank, FOLDS[fold]), settings)
    side = settings.views.input_px
    record = {
        "recipe": asdict(recipe),
        "fold": fold,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "loss": fitted.loss,
    }
    once, turned = (answer_all(bank, fitted.network, side, turns) for turns in (1, 4))
    return once, turned, record


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="file of write_pack")
    parser.add_argument(
        "initial", type=Path, help="folder of initial weights, named after their architecture"
    )
    parser.add_argument("out", type=Path, help="folder of the outputs, one file per fold")
    parser.add_argument("--folds", nargs="+", default=["munich", "pbc"], choices=sorted(FOLDS))
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--seconds", type=float, default=75.0, help="of training, each fold")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--input-px", type=int, default=INPUT_PX)
    parser.add_argument("--every", type=int, default=1, help="use only each n-th crop, to try it out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipes = {recipe.name: recipe for recipe in RECIPES}
    if options.recipe not in recipes:
        raise UsageError(f"--recipe {options.recipe}: expected one of {', '.join(recipes)}")
    rows = list(range(0, len(read_items(options.pack)), options.every))
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    bank = build_bank(read_pack(options.pack, rows), torch.device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    settings = FitSettings(
        steps=20_000, seconds=options.seconds, batch=options.batch, views=ViewSettings(options.input_px)
    )
    for fold in options.folds:
        once, turned, record = leave_out(bank, recipes[options.recipe], fold, options.initial, settings)
        tensors: dict[str, NDArray[Any]] = {
            "rows": np.array(rows, np.int32),
            "probabilities": once.probabilities.astype(np.float32),
            "turned": turned.probabilities.astype(np.float32),
            "embeddings": once.embeddings,
        }
        with replacing(options.out / f"left-out-{fold}.safetensors") as part:
            save_file(tensors, part, metadata={"record": json.dumps(record)})
        logger.info("%s: %s", fold, record)


if __name__ == "__main__":
    main()
