"""A field made comparable: light, scale, stain and focus, or the one reason why it cannot be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.smear.illumination import Illumination, estimate_illumination, thumbnail_of
from leukoscope.smear.picture import Picture, shrunk_shape
from leukoscope.smear.raster import Floats
from leukoscope.smear.scale import COARSEST_UM, RedCellSize, Scale, measure_red_cells, scale_of
from leukoscope.smear.stain import Stain, measure_stain, smooth_channels

SHARP_UM = 1.7
"""Width of an edge, from 10 to 90 % of its height, above which an image is out of focus."""

_LEAST_BRIGHTNESS = 25.0
_LEAST_CONTRAST = 2.5
_COARSE_PX = 60  # side of the picture on which an image is empty or not
_LEAST_COLOR = 2.0
_LEAST_GREEN = 0.82  # of the background, by the lower of red and blue; stained tissue is darker in green
_MOST_BLUE = 1.5  # absorbed by red cells, by what they absorb in green
_BRIGHTER = 0.1  # optical density by which nothing in a smear is brighter than the background
_WIDEST_EDGE_PX = 40.0  # where no scale is known
_MOST_NOISE = (
    0.0215  # of the background in optical density; at the cap of the estimate there is no even background
)
_WRONG_SCALE = 2.0
_UNKNOWN = (
    "the scale is unknown: no red cells could be measured and the file does not tell it; "
    "if this is a blood smear, give it with --microns-per-pixel (0.1 is usual for a 100x objective, 0.25 for 40x); "
    "other photographs cannot be read"
)


@dataclass(frozen=True)
class Calibration:
    """Measurements of one field before cells are searched.

    Attributes
    ----------
    light
        Brightness of the background.
    scale
        Micrometers per pixel.
    stain
        Colors of background, red cells and nuclei.
    edge_um
        Width of the sharpest edges of the field; above ``SHARP_UM`` it is out of focus.
    warnings
        Sentences for the user.
    """

    light: Illumination
    scale: Scale
    stain: Stain
    edge_um: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """Light and red cells of a field, before its scale is settled."""

    light: Illumination
    red_cells: RedCellSize


def survey_field(picture: Picture) -> Survey:
    """Estimate the light and measure the red cells.

    Raises
    ------
    ImageError
        ``BLANK`` or ``UNSUPPORTED_MODE`` (gray) or ``NOT_A_SMEAR``: nothing stained in bright light.
    """
    whole = (0, 0, picture.height_px, picture.width_px)
    thumbnail = thumbnail_of(picture.read(whole, shrunk_shape(picture, 400)))
    _check_light(thumbnail)
    light = estimate_illumination(thumbnail, (picture.height_px, picture.width_px))
    if light.noise > _MOST_NOISE and light.background_share < 0.35:
        raise ImageError(
            Reason.NOT_A_SMEAR,
            f"only {light.background_share:.0%} of the image is an even bright background; "
            "give a bright-field photograph of a stained smear where cells lie apart",
        )
    return Survey(light, measure_red_cells(picture, light))


def calibrate_field(
    picture: Picture,
    survey: Survey,
    *,
    given: float | None = None,
    metadata: tuple[float, str] | None = None,
    smear: Scale | None = None,
) -> Calibration:
    """Settle scale, stain and focus of a field.

    Parameters
    ----------
    picture, survey
        The field, and its result of ``survey_field``.
    given, metadata
        Micrometers per pixel by the user, and by the file with what names it.
    smear
        By the red cells of other fields of the same smear, where this one shows few.

    Raises
    ------
    ImageError
        ``NO_SCALE``, ``WRONG_SCALE``, ``BLURRED`` or ``NOT_A_SMEAR``.
    """
    scale = smear or scale_of(given, metadata, survey.red_cells)
    if scale is None:
        raise _without_scale(picture, survey)
    _check_scale(scale)
    stain = measure_stain(picture, survey.light, survey.red_cells)
    edge = measure_focus(picture, survey.light, scale.value)
    _check_colors(stain)
    return Calibration(survey.light, scale, stain, edge, tuple(_warnings(scale, stain, survey, edge)))


def measure_focus(picture: Picture, light: Illumination, microns_per_pixel: float) -> float:
    """Return the width of the sharpest edges in the middle of the field, in micrometers."""
    side = round(120 / microns_per_pixel)
    height, width = min(picture.height_px, side), min(picture.width_px, side)
    top, left = (picture.height_px - height) // 2, (picture.width_px - width) // 2
    box = (top, left, top + height, left + width)
    factor = max(1.0, 0.15 / microns_per_pixel)
    shape = (max(8, round(height / factor)), max(8, round(width / factor)))
    density = smooth_channels(light.optical_density(picture.read(box, shape), box))
    return edge_width(density[..., 1], microns_per_pixel * height / shape[0])


def edge_width(density: Floats, um: float) -> float:
    """Return the height of what is seen by its steepest slope: the width of an edge in micrometers."""
    if min(density.shape) < 4:
        return 0.0
    low, high = np.quantile(density, (0.05, 0.97))
    dy = density[2:, 1:-1] - density[:-2, 1:-1]
    dx = density[1:-1, 2:] - density[1:-1, :-2]
    slope = float(np.quantile(np.hypot(dy, dx), 0.985)) / (2 * um)
    return 0.8 * float(high - low) / max(slope, 1e-4)


def _check_light(thumbnail: NDArray[np.uint8]) -> None:
    values = thumbnail.astype(np.float32)
    bright = float(np.quantile(values, 0.98))
    if bright < _LEAST_BRIGHTNESS:
        raise ImageError(
            Reason.BLANK,
            f"the image is black (brightest {bright:.0f} of 255); check lamp, shutter and exposure",
        )
    contrast = _contrast(thumbnail)
    if contrast < _LEAST_CONTRAST * 2:
        raise ImageError(
            Reason.BLANK,
            f"the image is empty ({contrast:.0f} of 255 between dark and bright); give one with cells",
        )
    color = (values.max(axis=-1) - values.min(axis=-1)).mean()
    if color < _LEAST_COLOR:
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            "the image is gray: the stain's color is missing; give a color photograph",
        )


def _contrast(thumbnail: NDArray[np.uint8]) -> float:
    """Return the largest difference within a channel, after averaging until the camera's noise is gone."""
    height, width = thumbnail.shape[:2]
    factor = max(1.0, (height * width) ** 0.5 / _COARSE_PX)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    coarse = Image.fromarray(np.ascontiguousarray(thumbnail)).resize(size, Image.Resampling.BOX)
    low, high = np.quantile(np.asarray(coarse).reshape(-1, 3), (0.002, 0.998), axis=0)
    return float((high - low).max())


def _without_scale(picture: Picture, survey: Survey) -> ImageError:
    """Return why there is no scale: the magnification is too low, or red cells are missing or out of focus."""
    from leukoscope.smear.scale import measure_small_red_cells

    small = measure_small_red_cells(picture, survey.light)
    if small is not None:
        return ImageError(
            Reason.WRONG_SCALE,
            f"red cells have about {small:.0f} px, the least is {7.2 / COARSEST_UM:.0f}; "
            "photograph at 40x or more, and give the image at full size",
        )
    stain = measure_stain(picture, survey.light, survey.red_cells)
    try:
        _check_colors(stain)
    except ImageError as error:
        return error
    edge_px = measure_focus(picture, survey.light, 1.0)
    if edge_px > _WIDEST_EDGE_PX:
        return ImageError(
            Reason.BLURRED,
            f"the sharpest edges are {edge_px:.0f} px wide, the limit without a known scale is {_WIDEST_EDGE_PX:.0f}; "
            "focus and photograph again",
        )
    return ImageError(Reason.NO_SCALE, _UNKNOWN)


def _check_scale(scale: Scale) -> None:
    if scale.value > COARSEST_UM:
        raise ImageError(
            Reason.WRONG_SCALE,
            f"{scale.value:.3g} um a pixel, the coarsest that shows white cells is {COARSEST_UM}; "
            "photograph at 40x or more, and give the image at full size",
        )
    if scale.measured is not None and scale.contradicted:
        factor = max(scale.value / scale.measured, scale.measured / scale.value)
        if factor > _WRONG_SCALE:
            raise ImageError(
                Reason.WRONG_SCALE,
                f"{scale.value:.3g} um a pixel ({scale.source.value}) does not fit: {scale.n_red_cells} red cells show "
                f"about {scale.measured:.3g}; correct it with --microns-per-pixel",
            )


def _check_colors(stain: Stain) -> None:
    """Refuse what has no red cells' color: they absorb green and blue, hardly more red."""
    red, green, blue = stain.background_rgb
    if green < _LEAST_GREEN * min(red, blue):
        raise ImageError(
            Reason.NOT_A_SMEAR,
            f"the background is pink (red {red:.0f}, green {green:.0f}, blue {blue:.0f} of 255), as in a section of "
            "tissue or a thick smear; give a thin smear where cells lie apart on a bright background",
        )
    red, green, blue = stain.red_cells
    is_blue = blue > 0.1 and blue > _MOST_BLUE * green
    is_bright = min(red, green, blue) < -_BRIGHTER
    if stain.n_pixels and (is_blue or is_bright):
        raise _other_colors(stain)
    if stain.n_pixels and (green < 0.5 * red or max(green, blue) < 0.015 or red > 0.35):
        raise _other_colors(stain)


def _other_colors(stain: Stain) -> ImageError:
    red, green, blue = stain.red_cells
    return ImageError(
        Reason.NOT_A_SMEAR,
        f"what is seen on the background absorbs red {red:.2f}, green {green:.2f}, blue {blue:.2f}: "
        "not the colors of red cells; give a photograph of a stained blood smear",
    )


def _warnings(scale: Scale, stain: Stain, survey: Survey, edge: float) -> list[str]:
    warnings = []
    if scale.measured is not None and scale.contradicted:
        warnings.append(
            f"scale {scale.value:.3g} um a pixel ({scale.source.value}), but {scale.n_red_cells} red cells show "
            f"{scale.measured:.3g}; check --microns-per-pixel"
        )
    if scale.interval is not None and scale.n_red_cells < 5:
        warnings.append(
            f"the scale rests on {scale.n_red_cells} red cells only; give it with --microns-per-pixel"
        )
    if stain.is_far:
        name, far = min(stain.distances().items(), key=lambda item: item[1])
        warnings.append(
            f"the stain is far from the reference laboratories ({far:.1f} from {name}, the nearest)"
        )
    if edge > SHARP_UM:
        warnings.append(
            f"out of focus: edges are {edge:.1f} um wide, the limit is {SHARP_UM}; focus and photograph again"
        )
    if survey.light.unevenness > 3.0:
        warnings.append(
            f"the light is uneven ({survey.light.unevenness:.1f} times as bright in one place as in another)"
        )
    return warnings
