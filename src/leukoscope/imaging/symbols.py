"""The symbols of classes and statuses: one geometry for images (Pillow) and pages (SVG)."""

import math
from dataclasses import dataclass

SIDE = 18
"""Shapes fill a square of 18 x 18, y downwards."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A shape as polygons in a square of ``SIDE``, or as a circle around its center.

    Attributes
    ----------
    polygons
        Closed lines of points (x, y); empty for a circle.
    filled
        Whether the inside is colored; else the outline is.
    """

    polygons: tuple[tuple[tuple[float, float], ...], ...]
    filled: bool

    @property
    def path(self) -> str:
        """The polygons as the path of an SVG; empty for a circle."""
        return "".join(
            "M" + " ".join(f"{x:.2f} {y:.2f}" for x, y in points) + ("z" if len(points) > 2 else "")
            for points in self.polygons
        )


def _regular(corners: int, first_deg: float, *, star: bool = False) -> tuple[tuple[float, float], ...]:
    """Return the corners of a regular polygon, or of a star, the first at an angle from the top."""
    steps = 2 * corners if star else corners
    points = []
    for step in range(steps):
        radius = 8.4 if not star or step % 2 == 0 else 3.7
        angle = math.radians(first_deg - 90 + 360 * step / steps)
        points.append((9 + radius * math.cos(angle), 9 + radius * math.sin(angle)))
    return tuple(points)


_TRIANGLE = ((9.0, 1.5), (17.0, 16.5), (1.0, 16.5))
_SQUARE = ((2.0, 2.0), (16.0, 2.0), (16.0, 16.0), (2.0, 16.0))
_DIAMOND = ((9.0, 1.8), (16.2, 9.0), (9.0, 16.2), (1.8, 9.0))

OUTLINES: dict[str, Outline] = {
    "triangle": Outline((_TRIANGLE,), True),
    "ring": Outline((), False),
    "square": Outline((_SQUARE,), True),
    "disc": Outline((), True),
    "triangle_down": Outline((tuple((x, 18 - y) for x, y in _TRIANGLE),), True),
    "hexagon": Outline((_regular(6, 0),), True),
    "star": Outline((_regular(5, 0, star=True),), True),
    "square_open": Outline((_SQUARE,), False),
    "pentagon": Outline((_regular(5, 0),), True),
    "triangle_open": Outline((_TRIANGLE,), False),
    "hexagon_open": Outline((_regular(6, 0),), False),
    "star_open": Outline((_regular(5, 0, star=True),), False),
    "diamond": Outline((_DIAMOND,), False),
    "cross": Outline((((3.0, 3.0), (15.0, 15.0)), ((15.0, 3.0), (3.0, 15.0))), False),
}
"""Shape -> outline, for every symbol of ``core.classes``."""
