"""The figures, each a matplotlib ``Figure`` of its own: no window, no state shared with the caller.

Colours are told apart by colour-blind readers (seaborn's "crest" by lightness, Okabe and Ito's for marks).
"""

from __future__ import annotations

from vnas.report.analysis import Analysis
from vnas.report.figure_front import draw_front
from vnas.report.figure_prediction import draw_prediction
from vnas.report.figure_style import Drawing, saved, style
from vnas.report.figure_training import draw_training


def draw(analysis: Analysis) -> dict[str, Drawing]:
    """Every figure that the data allows, by the name of its file."""
    drawers = {"front": draw_front, "prediction": draw_prediction, "training": draw_training}
    with style():
        drawn = {name: drawer(analysis) for name, drawer in drawers.items()}
        return {name: saved(figure) for name, figure in drawn.items() if figure is not None}
