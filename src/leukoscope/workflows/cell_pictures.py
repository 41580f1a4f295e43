"""Pictures of a report's cells, each with its heat map."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.core.errors import UsageError

if TYPE_CHECKING:
    from leukoscope.evaluation.report import CellPicture
    from leukoscope.models.report import CellCase

MARGIN_PX = 12


def picture_cells(
    cells: "Iterable[CellCase]",
    images: Path,
    bundle: Path | None,
    progress: Callable[[str], None] = lambda _: None,
) -> "dict[str, CellPicture]":
    """Draw each cell and, with a bundle, its heat map.

    Parameters
    ----------
    images
        Folder that cell keys are relative to.
    bundle
        Model that explains; None draws the cells only. A cell that the bundle refuses gets no heat map.

    Raises
    ------
    UsageError
        None of the cells has an image under ``images``.
    """
    from leukoscope.evaluation.report import CellPicture
    from leukoscope.imaging.canvas import place_on_canvas
    from leukoscope.imaging.decode import decode_image
    from leukoscope.imaging.overlay import encode_png, heat_map_overlay

    predictor = None
    if bundle is not None:
        from leukoscope.inference.predictor import Predictor

        predictor = Predictor.open(bundle)
    pictures: dict[str, CellPicture] = {}
    wanted = list(cells)
    for number, case in enumerate(wanted, start=1):
        progress(f"picture {number} of {len(wanted)}")
        path = images / case.cell
        if not path.is_file():
            continue
        canvas = place_on_canvas(decode_image(path))
        window = _window(canvas)
        heat_map = None
        if predictor is not None:
            attribution = predictor.predict(path).activation_map
            if attribution is not None:
                heat_map = encode_png(heat_map_overlay(canvas, attribution)[window])
        pictures[case.cell] = CellPicture(encode_png(canvas[window]), heat_map)
    if wanted and not pictures:
        raise UsageError(
            f"--images {images}: none of {len(wanted)} cells is there, for instance {wanted[0].cell!r}"
        )
    return pictures


def _window(canvas: "object") -> tuple[slice, slice]:
    """Return a square around the foreground, so that the cell fills its picture."""
    import numpy as np

    pixels = np.asarray(canvas).max(axis=2) > 0
    if not pixels.any():
        return slice(None), slice(None)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 2 * MARGIN_PX
    spans = []
    for span, size in ((rows, pixels.shape[0]), (columns, pixels.shape[1])):
        start = max(0, min(int((span[0] + span[-1] - side) // 2), size - side))
        spans.append(slice(start, start + int(side)))
    return spans[0], spans[1]
