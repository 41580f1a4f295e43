"""Whether a profile or corrected cells help in a laboratory that a network never saw.

Reads what ``training.kinds.leave_out`` wrote. Corrected cells are drawn at random from the laboratory, the rest of it
is measured, and the draw is repeated.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from leukoscope.core.io import write_text
from leukoscope.learning.refit import refit_head
from leukoscope.stats.metrics import roc_auc
from leukoscope.training.kinds.classes import MATURE_GROUPS, NAMES, class_members, class_schema, label_class
from leukoscope.training.kinds.packing import Item, read_items

Floats = NDArray[np.float64]

COUNTS = (20, 50, 100)
DRAWS = 10
_FLOOR = 1e-8


def class_logits(probabilities: Floats) -> Floats:
    """Return log probabilities (N, C) of classes for probabilities (N, K) of kinds."""
    sums = np.stack([probabilities[:, list(kinds)].sum(axis=1) for kinds in class_members()], axis=1)
    logits: Floats = np.log(np.maximum(sums, _FLOOR))
    return logits


def measure(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float | None]:
    """Return the AUC of blasts against mature cells, and mean recalls, of classes ``label_class`` names."""
    names = np.array(class_schema().names)
    mature = np.isin(names[labels], MATURE_GROUPS)
    blasts = names[labels] == "blast"
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    blast = (shares / shares.sum(axis=1, keepdims=True))[:, int(np.flatnonzero(names == "blast")[0])]
    taken = mature | blasts
    called = logits.argmax(axis=1)
    recalls = {str(names[kind]): float((called[labels == kind] == kind).mean()) for kind in np.unique(labels)}
    of_mature = [value for name, value in recalls.items() if name in MATURE_GROUPS]
    auc = float(roc_auc(blasts[taken], blast[taken])) if blasts.any() and mature.any() else None
    return {
        "auc_blast": auc,
        "recall_mean": float(np.mean(list(recalls.values()))),
        "recall_mature": float(np.mean(of_mature)) if of_mature else None,
    }


def with_corrections(
    embeddings: Floats, logits: Floats, labels: NDArray[np.int64], center: Floats, *, seed: int = 0
) -> dict[str, Any]:
    """Measure a laboratory with 20, 50 and 100 corrected cells drawn at random, the rest measured; means over draws.

    Parameters
    ----------
    embeddings, logits
        (N, D) and (N, C) of the laboratory's cells.
    labels
        (N,) classes.
    center
        (D,) mean embedding of the cells trained on.
    """
    classes = class_schema()
    result: dict[str, Any] = {}
    for count in COUNTS:
        if count > len(labels) // 2:
            continue
        before, after, changed = [], [], 0
        for draw in range(DRAWS):
            order = np.random.default_rng([seed, count, draw]).permutation(len(labels))
            given, rest = order[:count], order[count:]
            head, _ = refit_head(embeddings[given], logits[given], labels[given], classes, center=center)
            corrected = logits[rest]
            if head is not None:
                changed += 1
                corrected = (
                    head.scale * corrected + embeddings[rest] @ np.array(head.weights).T + np.array(head.bias)
                )
            before.append(measure(logits[rest], labels[rest]))
            after.append(measure(corrected, labels[rest]))
        result[str(count)] = {
            "draws": DRAWS,
            "changed": changed,
            "before": _means(before),
            "after": _means(after),
            "worst_fall_of_recall_mean": max(
                float(b["recall_mean"] or 0) - float(a["recall_mean"] or 0)
                for a, b in zip(after, before, strict=True)
            ),
        }
    return result


def standardized(embeddings: Floats, own: NDArray[np.bool_], trained: NDArray[np.bool_]) -> Floats:
    """Return the laboratory's embeddings with the mean and deviation of the trained cells instead of its own."""
    spread = embeddings[own].std(axis=0)
    scaled = (embeddings[own] - embeddings[own].mean(axis=0)) / np.maximum(spread, 1e-6)
    moved: Floats = scaled * embeddings[trained].std(axis=0) + embeddings[trained].mean(axis=0)
    return moved


def measure_laboratory(
    items: tuple[Item, ...],
    laboratory: str,
    embeddings: Floats,
    logits: Floats,
    *,
    head: Callable[[Floats], Floats] | None = None,
    turned: Floats | None = None,
) -> dict[str, Any]:
    """Measure one laboratory that was left out: as it is, over four turns, standardized, and with corrected cells.

    Parameters
    ----------
    items
        Rows of the pack.
    laboratory
        That was left out.
    embeddings, logits, turned
        (N, D), (N, C) and (N, C) for all rows; ``turned`` over four turns.
    head
        From embeddings to logits, to measure standardization.
    """
    names = class_schema().names
    kinds = [label_class(item.label) for item in items]
    known = np.array([kind is not None for kind in kinds])
    own = np.array([item.laboratory == laboratory for item in items]) & known
    trained = np.array([item.laboratory != laboratory and not item.held_out for item in items]) & known
    labels = np.array([names.index(kind) for kind, taken in zip(kinds, own, strict=True) if taken and kind])
    result: dict[str, Any] = {"cells": len(labels), "as_it_is": measure(logits[own], labels)}
    if turned is not None:
        result["four_turns"] = measure(turned[own], labels)
    if head is not None:
        result["standardized"] = measure(head(standardized(embeddings, own, trained)), labels)
    center = embeddings[trained].mean(axis=0)
    result["corrected"] = with_corrections(embeddings[own], logits[own], labels, center)
    return result


def _means(measured: list[dict[str, float | None]]) -> dict[str, float | None]:
    return {
        name: None
        if any(entry[name] is None for entry in measured)
        else float(np.mean([float(entry[name] or 0) for entry in measured]))
        for name in measured[0]
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure the files of ``leave_out`` from the command line; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="file of write_pack")
    parser.add_argument("answers", type=Path, nargs="+", help="left-out-LABORATORY.safetensors of leave_out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    items = read_items(options.pack)
    laboratories: dict[str, Any] = {}
    for path in options.answers:
        with safe_open(path, framework="numpy") as file:
            record = json.loads((file.metadata() or {})["record"])
        tensors = load_file(path)
        rows = tuple(items[row] for row in tensors["rows"])
        if tensors["probabilities"].shape[1] != len(NAMES):
            raise ValueError(f"{path}: {tensors['probabilities'].shape[1]} kinds, expected {len(NAMES)}")
        embeddings = tensors["embeddings"].astype(np.float64)
        logits, turned = (
            class_logits(tensors[name].astype(np.float64)) for name in ("probabilities", "turned")
        )
        measured = measure_laboratory(rows, record["fold"], embeddings, logits, turned=turned)
        laboratories[record["fold"]] = {"network": record, **measured}
    write_text(options.out, json.dumps({"laboratories": laboratories}, indent=1) + "\n")


if __name__ == "__main__":
    main()
