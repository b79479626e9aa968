"""How every figure looks, and how it becomes files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, SOFT, GRID = "#1d2430", "#55606f", "#e6eaef"


@dataclass(frozen=True)
class Drawing:
    """One figure, for a repository and for a page."""

    png: bytes
    svg: bytes


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures, for as long as the context lasts."""
    own: dict[Any, Any] = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.9),
        "axes.edgecolor": "#c3cad3",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        # A dollar sign in the name of a device is no formula.
        "text.parse_math": False,
        "svg.fonttype": "path",
        # Otherwise identifiers in the SVG are random, and the same record would give another file.
        "svg.hashsalt": "vnas",
        "figure.facecolor": "white",
    }
    with mpl.rc_context(own):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def saved(figure: Figure) -> Drawing:
    """The figure as files; the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    # Laid out once, for both files.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(png.getvalue(), svg.getvalue())
