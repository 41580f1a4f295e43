"""Recall, precision and overlap of a finder on annotated fields."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.field import FieldResult, Instance
from leukoscope.imaging.mask_file import read_mask
from leukoscope.stats.intervals import wilson
from leukoscope.training.finder.examples import Box, Example

Find = Callable[[NDArray[np.uint8], float], FieldResult]
LEAST_IOU = 0.5
_BORDER_UM = 1.0


@dataclass(frozen=True)
class FieldScore:
    """Counts of one field.

    Parameters
    ----------
    name
        Of the field.
    boxes, cells
        Annotated and found.
    hit_iou, hit_center
        Annotated boxes with a found cell: box IoU >= 0.5; center of the found cell inside the box.
    inner_boxes, inner_hit_iou, inner_hit_center
        The same for boxes that do not reach the border.
    false_iou, false_center
        Found cells without an annotated box.
    inner_false_iou, inner_false_center
        Those that do not touch the border.
    dice
        Of the union of the found cells against the field's mask; None without a mask.
    dice_cells
        Dice of each masked cell that has a box and was found.
    """

    name: str
    boxes: int
    cells: int
    hit_iou: int
    hit_center: int
    inner_boxes: int
    inner_hit_iou: int
    inner_hit_center: int
    false_iou: int
    false_center: int
    inner_false_iou: int
    inner_false_center: int
    dice: float | None
    dice_cells: tuple[float, ...]


def box_iou(first: Box, second: Box) -> float:
    """Return the intersection over the union of two boxes."""
    height = min(first[2], second[2]) - max(first[0], second[0])
    width = min(first[3], second[3]) - max(first[1], second[1])
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (areas[0] + areas[1] - both)


def score_field(example: Example, cells: Sequence[Instance], shape: tuple[int, int]) -> FieldScore:
    """Match found cells with annotated boxes, each at most once, best first."""
    margin = _BORDER_UM / example.microns_per_pixel
    inner = [
        box[0] > margin and box[1] > margin and box[2] < shape[0] - margin and box[3] < shape[1] - margin
        for box in example.white
    ]
    by_iou = _match([[box_iou(box, cell.box) for cell in cells] for box in example.white], LEAST_IOU)
    by_center = _match(
        [[_holds(box, cell) * (0.01 + box_iou(box, cell.box)) for cell in cells] for box in example.white],
        0.005,
    )
    free_iou = [cell for i, cell in enumerate(cells) if i not in by_iou.values()]
    free_center = [cell for i, cell in enumerate(cells) if i not in by_center.values()]
    dice, dice_cells = _overlap(example, cells, shape, by_iou)
    return FieldScore(
        example.name, len(example.white), len(cells), len(by_iou), len(by_center), sum(inner),
        sum(inner[i] for i in by_iou), sum(inner[i] for i in by_center), len(free_iou), len(free_center),
        sum(not cell.touches_border for cell in free_iou), sum(not cell.touches_border for cell in free_center),
        dice, dice_cells,
    )  # fmt: skip


def evaluate_fields(examples: Iterable[Example], find: Find) -> tuple[dict[str, Any], list[FieldScore]]:
    """Run a finder over fields and return the summary and the fields' counts."""
    scores, ratios = [], []
    for example in examples:
        rgb = example.read()
        result = find(rgb, example.microns_per_pixel)
        scores.append(score_field(example, result.cells, rgb.shape[:2]))
        if len(result.red_diameters_px) >= 3:
            ratios.append(float(7.2 / np.median(result.red_diameters_px) / example.microns_per_pixel))
    summary = summarize(scores)
    if ratios:
        summary["scale_ratio"] = {
            "fields": len(ratios),
            "median": round(float(np.median(ratios)), 4),
            "p10": round(float(np.percentile(ratios, 10)), 4),
            "p90": round(float(np.percentile(ratios, 90)), 4),
        }
    return summary, scores


def summarize(scores: Sequence[FieldScore]) -> dict[str, Any]:
    """Return recall and precision with Wilson's intervals, and mean Dice. Unit of analysis: the cell."""

    def total(name: str) -> int:
        return sum(getattr(score, name) for score in scores)

    result: dict[str, Any] = {"fields": len(scores), "boxes": total("boxes"), "cells": total("cells")}
    for rule in ("iou", "center"):
        result[f"recall_{rule}"] = _share(total(f"hit_{rule}"), total("boxes"))
        result[f"precision_{rule}"] = _share(total("cells") - total(f"false_{rule}"), total("cells"))
        result[f"recall_{rule}_inner"] = _share(total(f"inner_hit_{rule}"), total("inner_boxes"))
        hits = total(f"hit_{rule}")
        result[f"precision_{rule}_inner"] = _share(hits, hits + total(f"inner_false_{rule}"))
    dice = [score.dice for score in scores if score.dice is not None]
    cells = [value for score in scores for value in score.dice_cells]
    if dice:
        result["dice_field_mean"] = round(float(np.mean(dice)), 4)
    if cells:
        result["dice_cell"] = {
            "n": len(cells), "mean": round(float(np.mean(cells)), 4), "median": round(float(np.median(cells)), 4),
            "p05": round(float(np.percentile(cells, 5)), 4),
        }  # fmt: skip
    result["missed_or_false"] = sorted(
        score.name for score in scores if score.hit_center < score.boxes or score.false_center
    )
    return result


def _share(part: int, whole: int) -> dict[str, Any]:
    if not whole:
        return {"n": 0}
    low, high = wilson(part, whole)
    return {
        "value": round(part / whole, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "k": part,
        "n": whole,
    }


def _holds(box: Box, cell: Instance) -> bool:
    rows, columns = np.nonzero(cell.cell)
    y, x = cell.box[0] + rows.mean(), cell.box[1] + columns.mean()
    return bool(box[0] <= y <= box[2] and box[1] <= x <= box[3])


def _match(table: list[list[float]], least: float) -> dict[int, int]:
    """Pair rows and columns greedily by value; return row -> column."""
    pairs = sorted(
        (
            (value, row, column)
            for row, line in enumerate(table)
            for column, value in enumerate(line)
            if value >= least
        ),
        reverse=True,
    )
    taken: dict[int, int] = {}
    for _, row, column in pairs:
        if row not in taken and column not in taken.values():
            taken[row] = column
    return taken


def _overlap(
    example: Example, cells: Sequence[Instance], shape: tuple[int, int], pairs: dict[int, int]
) -> tuple[float | None, tuple[float, ...]]:
    if example.mask is None:
        return None, ()
    truth = read_mask(example.mask)
    found = np.zeros(shape, bool)
    for cell in cells:
        y0, x0, y1, x1 = cell.box
        found[y0:y1, x0:x1] |= cell.cell
    whole = truth.sum() + found.sum()
    values = []
    for row, column in pairs.items():
        cell, box = cells[column], example.white[row]
        own = np.zeros(shape, bool)
        own[cell.box[0] : cell.box[2], cell.box[1] : cell.box[3]] = cell.cell
        limits = np.zeros(shape, bool)
        slack = 12
        limits[
            max(0, int(box[0]) - slack) : int(box[2]) + slack,
            max(0, int(box[1]) - slack) : int(box[3]) + slack,
        ] = True
        others = found & ~own
        masked = truth & limits & ~others
        if masked.any():
            values.append(2 * float((own & masked).sum()) / float(own.sum() + masked.sum()))
    return (2 * float((truth & found).sum()) / float(whole) if whole else None), tuple(values)
