"""Training loss and lambda over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vnas.report.analysis import Analysis, rows
from vnas.report.figure_style import new_figure

_REST = "#b6bec8"


def _curve(training: Mapping[str, Any] | None) -> pd.DataFrame | None:
    curve = training.get("curve") if isinstance(training, Mapping) else None
    if not isinstance(curve, list | tuple) or not all(isinstance(point, Mapping) for point in curve):
        return None
    columns = ["epoch", "loss", "slope_min", "slope_max"]
    frame = pd.DataFrame([{name: point.get(name) for name in columns} for point in curve], columns=columns)
    frame = frame.astype("float64").dropna(subset=["epoch", "loss"])
    # Epochs are stored from 0; a point stands at the end of its epoch.
    frame["epoch"] += 1.0
    return frame if len(frame) else None


def draw_training(analysis: Analysis) -> Figure | None:
    """The figure; None where no trial has a curve of two epochs or more."""
    curves = {int(row.number): _curve(row.training) for row in rows(analysis.completed)}
    drawn = {number: curve for number, curve in curves.items() if curve is not None}
    if not drawn or max(map(len, drawn.values())) < 2:
        return None
    figure = new_figure(9.2, 5.0)
    losses, slopes = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1.0))
    shown = [net for net in analysis.front if net.trial in drawn]
    colours = dict(zip([n.trial for n in shown], sns.color_palette("colorblind", max(1, len(shown))), strict=False))
    rest = [curve for number, curve in drawn.items() if number not in colours]
    for axes, column in ((losses, "loss"), (slopes, "slope_max")):
        lines = [curve[["epoch", column]].dropna().to_numpy() for curve in rest]
        axes.add_collection(LineCollection(lines, colors=_REST, linewidths=0.9, zorder=2))
        for number, colour in colours.items():
            axes.plot(drawn[number]["epoch"], drawn[number][column], color=colour, lw=1.9, zorder=3)
    for number, colour in colours.items():
        curve = drawn[number].dropna()
        slopes.fill_between(curve["epoch"], curve["slope_min"], curve["slope_max"], color=colour, alpha=0.25, lw=0)
    losses.margins(x=0.06)
    losses.autoscale_view()
    _label_ends(losses, {net.letter: (drawn[net.trial], colours[net.trial]) for net in shown})
    losses.set_ylabel("training loss")
    losses.set_title("Training of the trials (grey) and of the front (letters)")
    slopes.set_ylabel("lambda")
    slopes.set_ylim(-0.06, 1.06)
    slopes.set_xlabel("epochs trained")
    slopes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(figure)
    return figure


def _label_ends(axes: Axes, curves: Mapping[str, tuple[pd.DataFrame, Any]]) -> None:
    # Letters that would cover each other are spread, each with a thin lead to the end of its curve.
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    least = 0.06 * (high - low)
    ends = sorted((float(c["loss"].iloc[-1]), letter, float(c["epoch"].iloc[-1])) for letter, (c, _) in curves.items())
    places: list[float] = []
    for loss, _, _ in ends:
        places.append(max(loss, places[-1] + least) if places else loss)
    if not places:
        return
    excess = float(np.mean([place - loss for place, (loss, _, _) in zip(places, ends, strict=True)]))
    shift = min(excess, max(0.0, places[0] - low - 0.5 * least))
    for place, (loss, letter, epoch) in zip(places, ends, strict=True):
        x, y, colour = epoch + 0.025 * (right - left), place - shift, curves[letter][1]
        axes.plot([epoch, x - 0.004 * (right - left)], [loss, y], color=colour, lw=0.7, zorder=2.5)
        axes.text(x, y, letter, va="center", fontweight="bold", color=colour, fontsize=10)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
