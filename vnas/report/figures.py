"""The figures, each a matplotlib ``Figure`` of its own: no window, no state shared with the caller.

Colours are told apart by colour-blind readers (seaborn's "crest" by lightness, Okabe and Ito's for marks).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from vnas.prediction import PREDICTORS, Scores
from vnas.report.analysis import Analysis, FrontNet, Interval, rows
from vnas.report.findings import estimate

_INK, _SOFT, _GRID, _REST = "#1d2430", "#55606f", "#e6eaef", "#b6bec8"
_TEST = "#D55E00"
_JUDGED, _FITTED = "#0072B2", "#8a94a1"
_SHOWN = ("flops", "params", "depth")
# Latencies that differ by more than this factor are easier to read on a logarithmic axis.
_LOG_BEYOND = 8.0


@dataclass(frozen=True)
class Drawing:
    """One figure, for a repository and for a page."""

    png: bytes
    svg: bytes


@contextmanager
def _style() -> Iterator[None]:
    own: dict[Any, Any] = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.9),
        "axes.edgecolor": "#c3cad3",
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "grid.color": _GRID,
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


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def _saved(figure: Figure) -> Drawing:
    png, svg = io.BytesIO(), io.BytesIO()
    # Laid out once, for both files.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(png.getvalue(), svg.getvalue())


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


def _front(analysis: Analysis) -> Figure:
    trained = analysis.completed
    figure = _figure(9.2, 5.4)
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
    axes.step(best["latency_ms"], best["val_top1"], where="post", color=_INK, lw=1.4, zorder=2.5)
    for net in analysis.front:
        _front_net(axes, net, palette[net.depth if net.depth is not None else 0])
    _log_if_wide(axes, trained["latency_ms"].to_numpy(dtype=np.float64))
    _frame_front(axes, analysis, trained)
    axes.set_xlabel(f"latency of the fused net, batch 1, ms ({analysis.record.device or 'device unknown'})")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("Accuracy against measured latency")
    marks = [Line2D([], [], ls="", marker="o", ms=7, mfc=palette[d], mec="white", label=f"depth {d}") for d in palette]
    marks.append(Line2D([], [], color=_INK, lw=1.4, marker="o", ms=8, mfc="none", label="front (validation)"))
    if any(net.test_top1 is not None for net in analysis.front):
        marks.append(Line2D([], [], ls="", marker="D", ms=6.5, mfc=_TEST, mec="white", label="retrained (test)"))
    axes.legend(handles=marks, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    sns.despine(ax=axes)
    return figure


def _front_net(axes: Axes, net: FrontNet, colour: str) -> None:
    searched, x = net.search_latency_ms, net.search_latency_ms.value
    axes.scatter([x], [net.val_top1], s=95, color=colour, edgecolor=_INK, linewidth=1.3, zorder=4)
    if (across := _error(searched)) is not None:
        axes.errorbar([x], [net.val_top1], xerr=across, fmt="none", ecolor=_INK, elinewidth=1.3, capsize=3, zorder=3.5)
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
    # A few nets near chance would press everything of interest into one line, so they may fall below the frame.
    tested = [net.test_top1 for net in analysis.front if net.test_top1 is not None]
    shown = [net.val_top1 for net in analysis.front] + [test.value for test in tested]
    shown += [end for test in tested for end in (test.low, test.high) if end is not None]
    top, least = max(shown), min(shown)
    floor = least - max(2.0 * (top - least), 2.0)
    accuracies = trained["val_top1"]
    below = int((accuracies < floor).sum())
    bottom = min(float(accuracies[accuracies >= floor].min()), least)
    margin = 0.08 * max(top - bottom, 1.0)
    axes.set_ylim(bottom - margin, top + 1.6 * margin)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    if below:
        axes.text(
            0.99, 0.02, f"{below} of {len(trained)} trained nets lie below this frame", transform=axes.transAxes,
            ha="right", color=_SOFT, fontsize=9,
        )  # fmt: skip


def _heading(scores: Scores | None) -> str:
    if scores is None:
        return "too few nets to judge\n\n"
    return (
        f"Kendall tau {estimate(scores.kendall_tau)}\nwithin 10 %: {estimate(scores.within_10, 0, ' %')}\n"
        f"R² {estimate(scores.r2)}, {scores.n} nets judged"
    )


def _prediction(analysis: Analysis) -> Figure:
    figure = _figure(10.6, 5.2)
    panels = figure.subplots(1, len(_SHOWN), sharex=True, sharey=True)
    measured = analysis.nets["latency_ms"].to_numpy(dtype=np.float64)
    fitted = [analysis.judgements[name].fitted_ms for name in _SHOWN]
    everything = np.concatenate([measured, *fitted])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    pad = 0.06 * (high - low) or 0.05 * high
    ends = (low - pad, high + pad)
    for axes, name, predicted in zip(panels, _SHOWN, fitted, strict=True):
        judgement = analysis.judgements[name]
        axes.plot(ends, ends, ls=(0, (4, 3)), color=_SOFT, lw=1.1, zorder=2)
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
            color=_SOFT,
        )  # fmt: skip
        sns.despine(ax=axes)
    panels[0].set_ylabel("measured latency, batch 1, ms")
    marks = [
        Line2D([], [], ls="", marker="o", ms=7, mfc="white", mec=_FITTED, label="the line was fitted on"),
        Line2D([], [], ls="", marker="o", ms=7, mfc=_JUDGED, mec="white", label="the line is judged by"),
        Line2D([], [], ls=(0, (4, 3)), color=_SOFT, label="predicted = measured"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


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


def _training(analysis: Analysis) -> Figure | None:
    curves = {int(row.number): _curve(row.training) for row in rows(analysis.completed)}
    drawn = {number: curve for number, curve in curves.items() if curve is not None}
    if not drawn or max(map(len, drawn.values())) < 2:
        return None
    figure = _figure(9.2, 5.0)
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


def draw(analysis: Analysis) -> dict[str, Drawing]:
    """Every figure that the data allows, by the name of its file."""
    drawings = {}
    with _style():
        if analysis.front:
            drawings["front"] = _saved(_front(analysis))
        if any(np.isfinite(analysis.judgements[name].fitted_ms).any() for name in _SHOWN):
            drawings["prediction"] = _saved(_prediction(analysis))
        training = _training(analysis)
        if training is not None:
            drawings["training"] = _saved(training)
    return drawings
