"""Measurements of one cell: shape and size of cell and nucleus, staining, focus; names as scikit-image has them."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from leukoscope.smear.calibrate import Calibration, edge_width
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.picture import Box, Picture
from leukoscope.smear.raster import Bools, Floats, dilate, erode, label_parts, trace_outlines

MEASUREMENTS: dict[str, str] = {
    "cell_area_um2": "Cell: Area µm^2",
    "cell_perimeter_um": "Cell: Perimeter µm",
    "cell_circularity": "Cell: Circularity",
    "cell_eccentricity": "Cell: Eccentricity",
    "cell_solidity": "Cell: Solidity",
    "cell_equivalent_diameter_um": "Cell: Equivalent diameter µm",
    "cell_axis_major_length_um": "Cell: Max diameter µm",
    "cell_axis_minor_length_um": "Cell: Min diameter µm",
    "nucleus_area_um2": "Nucleus: Area µm^2",
    "nucleus_perimeter_um": "Nucleus: Perimeter µm",
    "nucleus_circularity": "Nucleus: Circularity",
    "nucleus_eccentricity": "Nucleus: Eccentricity",
    "nucleus_solidity": "Nucleus: Solidity",
    "nucleus_cell_area_ratio": "Nucleus/Cell area ratio",
    "nucleus_lobes": "Nucleus: Lobes",
    "nucleus_od_red_mean": "Nucleus: Red OD mean",
    "nucleus_od_green_mean": "Nucleus: Green OD mean",
    "nucleus_od_blue_mean": "Nucleus: Blue OD mean",
    "nucleus_od_green_std": "Nucleus: Green OD std dev",
    "nucleus_texture": "Nucleus: Texture",
    "cytoplasm_od_red_mean": "Cytoplasm: Red OD mean",
    "cytoplasm_od_green_mean": "Cytoplasm: Green OD mean",
    "cytoplasm_od_blue_mean": "Cytoplasm: Blue OD mean",
    "edge_width_um": "Cell: Edge width µm",
}
"""Column in ``cells.csv`` -> name in QuPath."""

_LEAST_LOBE_UM2 = 2.5


def measure_cell(cell: FoundCell, density: Floats, microns_per_pixel: float) -> dict[str, float | None]:
    """Measure one cell.

    Parameters
    ----------
    cell
        Masks in its box.
    density
        float32 (h, w, 3): optical density above the background in the cell's box.
    microns_per_pixel
        Scale.

    Returns
    -------
    measurements
        By the names of ``MEASUREMENTS``; None where there is nothing to measure (no cytoplasm, no nucleus).
    """
    um = microns_per_pixel
    values: dict[str, float | None] = dict.fromkeys(MEASUREMENTS)
    values.update({f"cell_{name}": value for name, value in shape_of(cell.cell, um).items()})
    nucleus = cell.nucleus
    if nucleus.any():
        shape = shape_of(nucleus, um)
        values.update(
            {f"nucleus_{name}": value for name, value in shape.items() if f"nucleus_{name}" in values}
        )
        values["nucleus_cell_area_ratio"] = float(nucleus.sum() / cell.cell.sum())
        values["nucleus_lobes"] = float(count_lobes(nucleus, um))
        inside = density[nucleus]
        for channel, name in enumerate(("red", "green", "blue")):
            values[f"nucleus_od_{name}_mean"] = float(inside[:, channel].mean())
        values["nucleus_od_green_std"] = float(inside[:, 1].std())
        values["nucleus_texture"] = texture_of(density[..., 1], nucleus, um)
    cytoplasm = cell.cell & ~dilate(nucleus, 0.3 / um) if nucleus.any() else cell.cell
    if cytoplasm.sum() * um * um >= 1.0:
        for channel, name in enumerate(("red", "green", "blue")):
            values[f"cytoplasm_od_{name}_mean"] = float(density[cytoplasm][:, channel].mean())
    values["edge_width_um"] = edge_width(density[..., 1], um)
    return values


def edge_width_of(picture: Picture, calibration: Calibration, box: Box) -> float:
    """Return the width of the edges in a part of a field, in micrometers: large is out of focus."""
    density = calibration.light.optical_density(picture.read(box), box)
    return edge_width(density[..., 1], calibration.scale.value)


def touching_cells(cells: Sequence[FoundCell], reach_px: float) -> set[int]:
    """Return the positions of cells whose outlines come within ``reach_px`` of another's."""
    found: set[int] = set()
    wide = int(reach_px) + 1
    for first, second in combinations(range(len(cells)), 2):
        one, other = cells[first].box, cells[second].box
        y0, x0 = max(one[0], other[0]) - wide, max(one[1], other[1]) - wide
        y1, x1 = min(one[2], other[2]) + wide, min(one[3], other[3]) + wide
        if y0 >= y1 or x0 >= x1:
            continue
        near, here = (_window(cells[number], (y0, x0, y1, x1)) for number in (first, second))
        if (dilate(near, reach_px) & here).any():
            found |= {first, second}
    return found


def _window(cell: FoundCell, box: Box) -> Bools:
    """Return the mask of a cell in a part of the field that its box need not fill."""
    window = np.zeros((box[2] - box[0], box[3] - box[1]), np.bool_)
    top, left = max(box[0], cell.box[0]), max(box[1], cell.box[1])
    bottom, right = min(box[2], cell.box[2]), min(box[3], cell.box[3])
    if top < bottom and left < right:
        window[top - box[0] : bottom - box[0], left - box[1] : right - box[1]] = cell.cell[
            top - cell.box[0] : bottom - cell.box[0], left - cell.box[1] : right - cell.box[1]
        ]
    return window


def shape_of(mask: Bools, um: float) -> dict[str, float]:
    """Measure a mask: area, perimeter, circularity, eccentricity, solidity, diameters.

    Notes
    -----
    Perimeter as in scikit-image (K. Benkrid, D. Crookes 2000); circularity 4 pi area / perimeter^2, at most 1, as in
    QuPath; axes of the ellipse with the same second moments; solidity by the convex hull of the pixels' corners.
    """
    rows, columns = np.nonzero(mask)
    area = float(rows.size)
    length = perimeter(mask)
    yy, xx = float(rows.var()) + 1 / 12, float(columns.var()) + 1 / 12
    xy = float(((rows - rows.mean()) * (columns - columns.mean())).mean())
    middle, apart = (yy + xx) / 2, math.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = middle + apart, max(middle - apart, 0.0)
    return {
        "area_um2": area * um * um,
        "perimeter_um": length * um,
        "circularity": min(1.0, 4 * math.pi * area / length**2) if length else 0.0,
        "eccentricity": math.sqrt(max(0.0, 1 - small / large)),
        "solidity": area / max(hull_area(mask), area),
        "equivalent_diameter_um": math.sqrt(4 * area / math.pi) * um,
        "axis_major_length_um": 4 * math.sqrt(large) * um,
        "axis_minor_length_um": 4 * math.sqrt(small) * um,
    }


def perimeter(mask: Bools) -> float:
    """Return the length of the outline of a mask in px, by weights of its border pixels' neighborhoods."""
    wide = np.pad(mask, 2)
    inner = wide[1:-1, 1:-1]
    core = inner & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    border = np.pad(inner & ~core, 1).astype(np.int16)
    straight = border[:-2, 1:-1] + border[2:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    across = border[:-2, :-2] + border[:-2, 2:] + border[2:, :-2] + border[2:, 2:]
    codes = border[1:-1, 1:-1] + 2 * straight + 10 * across
    counts = np.bincount(codes.ravel(), minlength=50)
    ones = [5, 7, 15, 17, 25, 27]
    return float(
        counts[ones].sum()
        + math.sqrt(2) * counts[[21, 33]].sum()
        + (1 + math.sqrt(2)) / 2 * counts[[13, 23]].sum()
    )


def hull_area(mask: Bools) -> float:
    """Return the area of the convex hull of the pixels' corners (A. M. Andrew 1979)."""
    points = sorted({(int(y), int(x)) for ring in trace_outlines(mask) for y, x in ring})
    if len(points) < 3:
        return float(mask.sum())

    def half(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
        chain: list[tuple[int, int]] = []
        for point in ordered:
            while len(chain) > 1:
                (ay, ax), (by, bx) = chain[-2], chain[-1]
                if (by - ay) * (point[1] - ax) - (bx - ax) * (point[0] - ay) > 0:
                    break
                chain.pop()
            chain.append(point)
        return chain[:-1]

    hull = np.array(half(points) + half(points[::-1]), np.float64)
    y, x = hull[:, 0], hull[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def count_lobes(nucleus: Bools, um: float) -> int:
    """Count the lobes: parts that remain when the nucleus is made thinner, at the depth that shows most of them."""
    most = 1
    padded = np.pad(nucleus, 1)
    for depth_um in (0.0, 0.3, 0.5, 0.7, 0.9, 1.2):
        parts = label_parts(erode(padded, depth_um / um) if depth_um else padded)
        # A lobe of the least area loses its rim, too.
        radius = math.sqrt(_LEAST_LOBE_UM2 / math.pi)
        least = math.pi * max(radius - depth_um, 0.25) ** 2 / um**2
        most = max(most, int((parts.areas_px >= least).sum()))
    return most


def texture_of(values: Floats, mask: Bools, um: float) -> float:
    """Return the mean difference of neighbors about 0.3 um apart inside the mask, in optical density."""
    step = max(1, round(0.3 / um))
    inner = erode(mask, max(0.3 / um, 1.0))
    if min(values.shape) <= step:
        return 0.0
    down = inner[step:] & inner[:-step]
    aside = inner[:, step:] & inner[:, :-step]
    steps: list[NDArray[np.float32]] = [
        np.abs(values[step:] - values[:-step])[down],
        np.abs(values[:, step:] - values[:, :-step])[aside],
    ]
    together = np.concatenate(steps)
    return float(together.mean()) if together.size else 0.0
