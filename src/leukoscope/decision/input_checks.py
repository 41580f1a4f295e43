"""Checks on the image itself, before anything the network says is looked at."""

from typing import TYPE_CHECKING, NamedTuple

from leukoscope.decision.parameters import InputLimits
from leukoscope.terms import Reason

if TYPE_CHECKING:
    from leukoscope.imaging.descriptors import Descriptors


class Finding(NamedTuple):
    """A reason code with the sentence for people: the value, the limit and the remedy."""

    code: Reason
    message: str


def check_descriptors(descriptors: "Descriptors", limits: InputLimits) -> list[Finding]:
    """Say what keeps this image from being judged; an empty list where nothing does.

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
                "are accepted; give one cell an image.",
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
