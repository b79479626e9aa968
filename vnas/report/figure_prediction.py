"""Measured against predicted latency: FLOPs, parameters and depth side by side."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vnas.prediction import PREDICTORS, Scores
from vnas.report.analysis import Analysis
from vnas.report.figure_style import SOFT, new_figure
from vnas.report.findings import estimate

_JUDGED, _FITTED = "#0072B2", "#8a94a1"
_SHOWN = ("flops", "params", "depth")


def _heading(scores: Scores | None) -> str:
    if scores is None:
        return "too few nets to judge\n\n"
    return (
        f"Kendall tau {estimate(scores.kendall_tau)}\nwithin 10 %: {estimate(scores.within_10, 0, ' %')}\n"
        f"R² {estimate(scores.r2)}, {scores.n} nets judged"
    )


def draw_prediction(analysis: Analysis) -> Figure | None:
    """The figure; None where no line could be fitted."""
    figure = new_figure(10.6, 5.2)
    panels = figure.subplots(1, len(_SHOWN), sharex=True, sharey=True)
    measured = analysis.nets["latency_ms"].to_numpy(dtype=np.float64)
    fitted = [analysis.judgements[name].fitted_ms for name in _SHOWN]
    if not any(np.isfinite(predicted).any() for predicted in fitted):
        return None
    everything = np.concatenate([measured, *fitted])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    pad = 0.06 * (high - low) or 0.05 * high
    ends = (low - pad, high + pad)
    for axes, name, predicted in zip(panels, _SHOWN, fitted, strict=True):
        judgement = analysis.judgements[name]
        axes.plot(ends, ends, ls=(0, (4, 3)), color=SOFT, lw=1.1, zorder=2)
        known = np.isfinite(predicted)
        fit, judged = known & ~judgement.judged, known & judgement.judged
        axes.scatter(predicted[fit], measured[fit], s=40, facecolor="white", edgecolor=_FITTED, linewidth=1.3, zorder=3)
        axes.scatter(predicted[judged], measured[judged], s=46, color=_JUDGED, edgecolor="white", lw=0.5, zorder=4)
        axes.set(xlim=ends, ylim=ends, xlabel="predicted latency, ms")
        axes.set_box_aspect(1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_title(f"a line on {PREDICTORS[name].label}", pad=52)
        axes.text(
            0.0, 1.025, _heading(judgement.scores), transform=axes.transAxes, va="bottom", fontsize=9, linespacing=1.35,
            color=SOFT,
        )  # fmt: skip
        sns.despine(ax=axes)
    panels[0].set_ylabel("measured latency, batch 1, ms")
    marks = [
        Line2D([], [], ls="", marker="o", ms=7, mfc="white", mec=_FITTED, label="the line was fitted on"),
        Line2D([], [], ls="", marker="o", ms=7, mfc=_JUDGED, mec="white", label="the line is judged by"),
        Line2D([], [], ls=(0, (4, 3)), color=SOFT, label="predicted = measured"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
