"""The samples in a figure: on the left which net is faster, on the right how its samples lie around its median."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnas.errors import MissingExtraError, UsageError
from vnas.profiler.lines import decimals
from vnas.profiler.measurement import Measurement
from vnas.profiler.results import Entry, put_aside_share, write_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = npt.NDArray[np.float64]

SUFFIXES = (".png", ".svg", ".pdf")

MOST_SAMPLES = 1500
"""Of a net, in the figure: its distribution does not change with more."""

MOST_MARKS = 150
"""Of a net's samples put aside."""

STRETCH = 60.0
"""An interval, or samples put aside, stretch an axis to this many percent from the median and no further."""

_INK, _SOFT, _GRID, _FILL, _ASIDE = "#1d2430", "#55606f", "#e6eaef", "#a9c8e3", "#b3541e"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True, "axes.edgecolor": "#c3cad3", "axes.grid": True, "axes.labelcolor": _INK,
    "axes.labelsize": 9, "axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold",
    "figure.facecolor": "white", "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"],
    "grid.color": _GRID, "grid.linewidth": 0.8, "text.color": _INK, "xtick.color": _SOFT, "ytick.color": _INK,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
    "svg.hashsalt": "vnas",
}  # fmt: skip


def check_suffix(path: Path) -> None:
    """Refuse a file that could not be drawn, before minutes are spent on measuring.

    Raises:
        UsageError: the name ends in something else than ``SUFFIXES``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path} ends in {path.suffix or 'no suffix'!r}; a figure ends in one of {', '.join(SUFFIXES)}, "
            f"e.g. {path.with_suffix('.png')}"
        )


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Draw one row a net, fastest first, and write it as PNG, SVG or PDF by the suffix of ``path``.

    Left: the median with its interval. Right: the samples over the median of their net, the same interval, and faint
    marks for the samples put aside.

    Raises:
        UsageError: another suffix, no entries, or a file that cannot be written.
        MissingExtraError: seaborn is not installed.
    """
    check_suffix(path)
    if not entries:
        raise UsageError("there is nothing to draw: no net was measured")
    try:
        import matplotlib as mpl
        import seaborn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("a figure needs seaborn: pip install seaborn") from error
    file = io.BytesIO()
    kind = path.suffix.lower()[1:]
    with mpl.rc_context(STYLE):
        figure_of(entries).savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    write_whole(path, file.getvalue())


def figure_of(entries: Sequence[Entry]) -> Figure:
    """The figure itself; it belongs to no window, and no state of pyplot is touched."""
    from matplotlib.figure import Figure

    ordered = sorted(entries, key=lambda entry: entry.measurement.median_ms)
    rows = len(ordered)
    labels, numbers = row_labels(ordered), _numbers(ordered)
    width = 6.5 + 0.065 * (max(map(len, labels)) + max(map(len, numbers)))
    caption = "\n".join(line for part in caption_lines(ordered) for line in textwrap.wrap(part, int(17 * width)))
    height = 1.35 + 0.16 * caption.count("\n") + rows * (0.3 if rows > 12 else 0.36)
    figure = Figure(figsize=(width, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    _draw_medians(left, ordered)
    _draw_samples(right, ordered)
    right.yaxis.tick_right()
    for axes, texts in ((left, labels), (right, numbers)):
        axes.set_yticks(range(rows), texts)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=_SOFT, linespacing=1.35)
    return figure


def row_labels(entries: Sequence[Entry]) -> list[str]:
    """Net and form, then whatever of runtime, precision, batch and image size is not the same for all."""
    parts = [_parts(entry) for entry in entries]
    common = _common(parts)
    labels = []
    for entry, own in zip(entries, parts, strict=True):
        net = entry.net if len(entry.net) <= 44 else f"{entry.net[:14]}…{entry.net[-29:]}"
        words = [f"{net} {entry.form}", *(word for word in own if word and word not in common)]
        labels.append("  ".join(words) + ("" if entry.measurement.valid else "  INVALID"))
    return labels


def caption_lines(entries: Sequence[Entry]) -> list[str]:
    """What all rows share; where it was measured, with how many threads, when; and how to read the marks."""
    environments = [entry.measurement.environment for entry in entries]
    places = dict.fromkeys(
        e.device_kind + (f", {e.threads} thread{'s' if e.threads != 1 else ''}" if e.device_type == "cpu" else "")
        for e in environments
    )
    days = sorted({e.date_utc[:10] for e in environments})
    processes = sorted({entry.measurement.processes for entry in entries})
    level = min(0.95, *(entry.measurement.interval_level for entry in entries))
    about = [
        *_common([_parts(entry) for entry in entries]),
        " and ".join(places),
        f"torch {', '.join(dict.fromkeys(e.torch for e in environments))}",
        days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        f"{' or '.join(map(str, processes))} process{'es' if processes != [1] else ''}",
    ]
    marks = f"Point and bar: median and its {100 * level:.0f} % interval; hollow: the noise target was missed."
    if any(entry.measurement.discarded_ms for entry in entries):
        marks += " Faint marks: samples put aside (slowed or throttled), at the edge those beyond it."
    return [", ".join(about), marks]


def thinned(samples: Sequence[float], most: int) -> list[float]:
    """At most so many of the samples, evenly over their order by size, the smallest and the largest among them."""
    ordered = sorted(samples)
    if len(ordered) <= most:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (most - 1)] for i in range(most)]


def frame(kept: Sequence[Floats], aside: Sequence[Floats], ends: Sequence[float]) -> tuple[float, float]:
    """Limits of the right panel: all intervals and nearly all samples; one outlier must not press the others flat.

    Args:
        kept: deviations in percent of the samples that count, one array a row.
        aside: likewise of those put aside.
        ends: deviations in percent of the intervals' ends.
    """
    import numpy as np

    low = min(float(np.quantile(row, 0.002)) for row in kept)
    high = max(float(np.quantile(row, 0.98)) for row in kept)
    slow = [min(float(np.quantile(row, 0.9)), STRETCH) for row in aside if len(row)]
    held = [min(max(end, -STRETCH), STRETCH) for end in ends]
    low, high = min(low, *held), max(high, *held, *slow)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _draw_medians(axes: Axes, entries: Sequence[Entry]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    most = 1.0 + STRETCH / 100.0
    for row, entry in enumerate(entries):
        m = entry.measurement
        _interval(axes, row, m, m.interval_ms, m.median_ms)
    medians = [entry.measurement.median_ms for entry in entries]
    lows = [max(entry.measurement.interval_ms[0], entry.measurement.median_ms / most) for entry in entries]
    highs = [min(entry.measurement.interval_ms[1], entry.measurement.median_ms * most) for entry in entries]
    if max(medians) > 10.0 * min(medians):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(lows) / 1.1, max(highs) * 1.1)
    else:
        axes.set_xlim(0.0, 1.06 * max(highs))
    axes.set_xlabel("ms a call")
    axes.set_title("Median latency")


def _draw_samples(axes: Axes, entries: Sequence[Entry]) -> None:
    import numpy as np
    import pandas as pd
    import seaborn as sns

    def deviations(m: Measurement, samples: Sequence[float], most: int) -> Floats:
        return 100.0 * (np.array(thinned(samples, most), dtype=np.float64) / m.median_ms - 1.0)

    results = [entry.measurement for entry in entries]
    kept = [deviations(m, m.samples_ms, MOST_SAMPLES) for m in results]
    aside = [deviations(m, m.discarded_ms, MOST_MARKS) for m in results]
    ends = [100.0 * (end / m.median_ms - 1.0) for m in results for end in m.interval_ms]
    low, high = frame(kept, aside, ends)
    # The width of the smoothing is that of what is seen, not of an outlier far away.
    seen = [row[(row >= low) & (row <= high)] for row in kept]
    table = pd.DataFrame(
        {"row": np.repeat(np.arange(len(seen)), [len(row) for row in seen]), "deviation": np.concatenate(seen)}
    )
    sns.violinplot(
        table, x="deviation", y="row", orient="h", order=range(len(seen)), native_scale=True, cut=0, inner=None,
        bw_adjust=0.6, density_norm="width", width=0.8, color=_FILL, saturation=1.0, linewidth=0.7, linecolor=_FILL,
        ax=axes,
    )  # fmt: skip
    for row, m in enumerate(results):
        marks = np.clip(aside[row], low, high)
        axes.scatter(marks, np.full(len(marks), row + 0.36), s=9, marker="|", lw=0.8, color=_ASIDE, alpha=0.35)
        _interval(axes, row, m, tuple(100.0 * (end / m.median_ms - 1.0) for end in m.interval_ms), 0.0)
    axes.axvline(0.0, color=_SOFT, lw=0.8, zorder=1)
    axes.set_xlim(low, high)
    axes.set(xlabel="% from the net's own median", ylabel="")
    axes.set_title("Samples around it")


def _interval(axes: Axes, row: int, m: Measurement, ends: tuple[float, ...], at: float) -> None:
    colour = _INK if m.valid else _ASIDE
    axes.hlines(row, ends[0], ends[1], color=colour, lw=1.5, zorder=4)
    axes.scatter([at], [row], s=22, color=colour if m.noise_ok else "white", edgecolor=colour, lw=1.1, zorder=5)


def _parts(entry: Entry) -> tuple[str, ...]:
    m = entry.measurement
    size = "" if entry.image_size is None else f"{entry.image_size} px"
    return m.runtime, m.precision or "precision unknown", f"batch {m.batch if m.batch is not None else 'unknown'}", size


def _common(parts: Sequence[tuple[str, ...]]) -> list[str]:
    return [words[0] for words in zip(*parts, strict=True) if words[0] and len(set(words)) == 1]


def _numbers(entries: Sequence[Entry]) -> list[str]:
    texts = []
    for m in (entry.measurement for entry in entries):
        low, high = m.interval_ms
        digits = decimals(high - low)
        share = f"  {put_aside_share(m):.0%} aside" if m.discarded_ms else ""
        texts.append(f"{m.median_ms:.{digits}f} ms [{low:.{digits}f} .. {high:.{digits}f}]{share}")
    return texts
