"""Checks on the image itself, before the output of the network is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leukoscope.core.terms import Reason
from leukoscope.decision.parameters import InputLimits
from leukoscope.imaging.descriptors import Descriptors


class Finding(NamedTuple):
    """A reason code with a sentence that states the value, the limit and the remedy."""

    code: Reason
    message: str


def check_descriptors(descriptors: Descriptors, limits: InputLimits) -> list[Finding]:
    """Return the failed checks of an image; an empty list if it can be classified.

    A blank frame and a background that is not black end the checks: area, focus and border contact of such an
    image measure no cell.
    """
    area = descriptors.area_px
    if area < limits.blank_area_px:
        return [
            Finding(
                Reason.BLANK,
                f"The frame holds {area} px of foreground, a cell at least {limits.min_area_px}; "
                "give an image with one cell on black.",
            )
        ]
    if descriptors.foreground_share > limits.max_foreground_share:
        return [
            Finding(
                Reason.NOT_SEGMENTED,
                f"{descriptors.foreground_share:.0%} of the frame is foreground, a cut-out cell covers at "
                f"most {limits.max_foreground_share:.0%}; cut the cell out and set its background to black.",
            )
        ]
    findings = []
    if not limits.min_area_px <= area <= limits.max_area_px:
        findings.append(
            Finding(
                Reason.WRONG_SCALE,
                f"The object covers {area} px, cells of the training data {limits.min_area_px} to "
                f"{limits.max_area_px}; give the image at the scale of C-NMC, without resizing.",
            )
        )
    if descriptors.border_contact_px > limits.max_border_contact_px:
        findings.append(
            Finding(
                Reason.CUT_OFF,
                f"{descriptors.border_contact_px} px of the object lie on the border, at most "
                f"{limits.max_border_contact_px} are accepted; give the whole cell with a black margin.",
            )
        )
    if descriptors.components > limits.max_components:
        findings.append(
            Finding(
                Reason.SEVERAL_OBJECTS,
                f"The frame holds {descriptors.components} separate objects, at most {limits.max_components} "
                "are accepted; give one cell per image.",
            )
        )
    if descriptors.focus < limits.min_focus:
        findings.append(
            Finding(
                Reason.BLURRED,
                f"The focus measure is {descriptors.focus:.3g}, at least {limits.min_focus:.3g} is needed; "
                "focus again, or give the image without smoothing or enlarging.",
            )
        )
    return findings


@dataclass(frozen=True)
class LimitRule:
    """How limits are taken from training cells: an extreme quantile, widened by a factor.

    The quantile prevents that one unusual training cell sets a limit; the factor allows for subjects that
    differ from all those seen. Together they reject hardly any cell; finer differences are left to the novelty
    score.
    """

    tail: float = 0.001
    area_factor: float = 1.3
    focus_factor: float = 0.5
    share_factor: float = 1.5
    border_contact_px: int = 20
    components: int = 3


def fit_input_limits(
    descriptors: Mapping[str, npt.ArrayLike],
    rule: LimitRule = LimitRule(),
) -> InputLimits:
    """Fit the limits on the descriptors of training cells.

    Parameters
    ----------
    descriptors
        Columns ``area_px``, ``foreground_share``, ``focus``, ``border_contact_px`` and ``components``, each (N,).
    rule
        Quantile and factors.

    Raises
    ------
    ValueError
        No cells, a missing column, or a descriptor that is not finite.
    """
    names = ("area_px", "foreground_share", "focus", "border_contact_px", "components")
    columns = {}
    for name in names:
        if name not in descriptors:
            raise ValueError(f"descriptors have no column {name!r}; needed are {', '.join(names)}")
        columns[name] = np.asarray(descriptors[name], dtype=np.float64)
        if not columns[name].size or not np.isfinite(columns[name]).all():
            raise ValueError(f"descriptor {name!r}: expected finite numbers of at least one cell")

    def low(name: str) -> float:
        return float(np.quantile(columns[name], rule.tail))

    def high(name: str) -> float:
        return float(np.quantile(columns[name], 1 - rule.tail))

    min_area = int(low("area_px") / rule.area_factor)
    return InputLimits(
        blank_area_px=min_area // 10,
        min_area_px=min_area,
        max_area_px=int(np.ceil(high("area_px") * rule.area_factor)),
        max_foreground_share=min(1.0, high("foreground_share") * rule.share_factor),
        min_focus=low("focus") * rule.focus_factor,
        max_border_contact_px=int(np.ceil(high("border_contact_px"))) + rule.border_contact_px,
        max_components=max(rule.components, int(high("components"))),
    )
