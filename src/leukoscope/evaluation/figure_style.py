"""The common style of all figures: colors, fonts, axes, and rendering to bytes."""

import io
from collections.abc import Iterable
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with every common color-vision deficiency.
BLAST = "#D55E00"
NORMAL = "#0072B2"
MODEL = "#1B3A57"
BASELINES = ("#8C6D1F", "#009E73", "#9A9A9A")
MUTED = "#6B7280"
GRID = "#E5E7EB"
INK = "#1F2937"

ONE_COLUMN = (5.2, 4.2)
WIDE = (8.6, 3.6)

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    # The same numbers give the same bytes.
    "svg.hashsalt": "leukoscope",
    "svg.fonttype": "path",
}

Format = Literal["svg", "png"]


def styled() -> Any:
    """Return a context in which figures are made and rendered in the common style."""
    return mpl.rc_context(_STYLE)


def new_figure(size: tuple[float, float] = ONE_COLUMN) -> tuple[Figure, Axes]:
    """Return an empty figure with one pair of axes; must be called within ``styled``."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def unit_axes(axes: Axes, *, x: bool = True, y: bool = True) -> None:
    """Show 0 to 1 with a small margin, so that lines at the border are not cut."""
    if x:
        axes.set_xlim(-0.02, 1.02)
    if y:
        axes.set_ylim(-0.02, 1.02)


def end_labels(axes: Axes, texts: Iterable[str]) -> None:
    """Write notes into the lower right corner of the axes, one per line."""
    axes.text(
        0.98,
        0.03,
        "\n".join(texts),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def render(figure: Figure, kind: Format, source: str | None = None) -> bytes:
    """Return the drawn figure as SVG or PNG bytes, without a date in it.

    Parameters
    ----------
    source
        Source of the figure, for instance a digest; kept in the file's metadata as ``Source``.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    if source is not None:
        metadata["Source"] = source
    with styled():
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    figure.set_layout_engine("none")  # another rendering keeps the places
    return buffer.getvalue()
