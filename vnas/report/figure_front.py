"""Accuracy against measured latency: every trained trial, the front, and the front retrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from vnas.report.analysis import Analysis, FrontNet, Interval
from vnas.report.figure_style import INK, SOFT, new_figure

_TEST = "#D55E00"
# Latencies that differ by more than this factor are easier to read on a logarithmic axis.
_LOG_BEYOND = 8.0


def _depth_colours(depths: Sequence[int]) -> dict[int, str]:
    levels = sorted(set(depths))
    return {level: to_hex(c) for level, c in zip(levels, sns.color_palette("crest", len(levels)), strict=True)}


def _log_if_wide(axes: Axes, latency_ms: npt.NDArray[np.float64]) -> None:
    known = latency_ms[np.isfinite(latency_ms) & (latency_ms > 0)]
    if len(known) < 2 or known.max() / known.min() <= _LOG_BEYOND:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _error(interval: Interval) -> list[list[float]] | None:
    # matplotlib takes lengths, and none below 0.
    if interval.low is None or interval.high is None:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]


def draw_front(analysis: Analysis) -> Figure | None:
    """The figure; None without a front."""
    if not analysis.front:
        return None
    trained = analysis.completed
    figure = new_figure(9.2, 5.4)
    axes = figure.subplots()
    depths = trained["depth"].fillna(0).astype(int)
    palette = _depth_colours(depths.tolist())
    sns.scatterplot(
        x=trained["latency_ms"], y=trained["val_top1"], hue=depths, palette=palette, s=42, alpha=0.75, linewidth=0.4,
        edgecolor="white", legend=False, zorder=3, ax=axes,
    )  # fmt: skip
    known = (trained["latency_low_ms"].notna() & trained["latency_high_ms"].notna()).to_numpy()
    axes.hlines(
        trained["val_top1"][known], trained["latency_low_ms"][known], trained["latency_high_ms"][known],
        colors=[palette[depth] for depth in depths[known]], lw=1.2, zorder=2,
    )  # fmt: skip
    best = trained[analysis.on_front[trained.index]].sort_values(["latency_ms", "val_top1"])
    flat = not analysis.record.study.energy  # a front of three objectives is no line
    if flat:
        axes.step(best["latency_ms"], best["val_top1"], where="post", color=INK, lw=1.4, zorder=2.5)
    for net in analysis.front:
        _front_net(axes, net, palette[net.depth if net.depth is not None else 0])
    _log_if_wide(axes, trained["latency_ms"].to_numpy(dtype=np.float64))
    _frame_front(axes, analysis, trained)
    axes.set_xlabel(f"latency of the fused net, batch 1, ms ({analysis.record.device or 'device unknown'})")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("Accuracy against measured latency")
    marks = [Line2D([], [], ls="", marker="o", ms=7, mfc=palette[d], mec="white", label=f"depth {d}") for d in palette]
    marks.append(
        Line2D([], [], color=INK, lw=1.4 if flat else 0.0, marker="o", ms=8, mfc="none", label="front (validation)")
    )
    if any(net.test_top1 is not None for net in analysis.front):
        marks.append(Line2D([], [], ls="", marker="D", ms=6.5, mfc=_TEST, mec="white", label="retrained (test)"))
    axes.legend(handles=marks, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    sns.despine(ax=axes)
    return figure


def _front_net(axes: Axes, net: FrontNet, colour: str) -> None:
    searched, x = net.search_latency_ms, net.search_latency_ms.value
    axes.scatter([x], [net.val_top1], s=95, color=colour, edgecolor=INK, linewidth=1.3, zorder=4)
    if (across := _error(searched)) is not None:
        axes.errorbar([x], [net.val_top1], xerr=across, fmt="none", ecolor=INK, elinewidth=1.3, capsize=3, zorder=3.5)
    axes.annotate(
        net.letter, (x, net.val_top1), xytext=(-7, 7), textcoords="offset points", ha="right", va="bottom",
        fontweight="bold", fontsize=11, zorder=6,
    )  # fmt: skip
    if net.test_top1 is None:
        return
    last, test = net.latency_ms.value, net.test_top1.value
    axes.plot([x, last], [net.val_top1, test], color=_TEST, lw=0.9, ls=":", zorder=2.2)
    axes.errorbar(
        [last], [test], xerr=_error(net.latency_ms), yerr=_error(net.test_top1), fmt="D", ms=6, mfc=_TEST, mec="white",
        ecolor=_TEST, elinewidth=1.1, capsize=2.5, zorder=5,
    )  # fmt: skip


def _frame_front(axes: Axes, analysis: Analysis, trained: pd.DataFrame) -> None:
    # A few nets near chance, or an interval from two seeds that spans everything, would press what is of interest
    # into one line: both may leave the frame.
    tested = [net.test_top1 for net in analysis.front if net.test_top1 is not None]
    values = [net.val_top1 for net in analysis.front] + [test.value for test in tested]
    span = max(max(values) - min(values), 2.0)
    ends = [end for test in tested for end in (test.low, test.high) if end is not None]
    shown = values + [min(max(end, min(values) - span), max(values) + span) for end in ends]
    top, least = max(shown), min(shown)
    floor = least - max(2.0 * (top - least), 2.0)
    accuracies = trained["val_top1"]
    below = int((accuracies < floor).sum())
    bottom = min(float(accuracies[accuracies >= floor].min()), least)
    margin = 0.08 * max(top - bottom, 1.0)
    frame = bottom - margin, top + 1.6 * margin
    axes.set_yticks([tick for tick in MaxNLocator(nbins=7).tick_values(*frame) if 0.0 <= tick <= 100.0])
    axes.set_ylim(*frame)  # room for letters above a net of 100 %, where there is no tick
    if below:
        axes.text(
            0.99, 0.02, f"{below} of {len(trained)} trained nets lie below this frame", transform=axes.transAxes,
            ha="right", color=SOFT, fontsize=9,
        )  # fmt: skip
