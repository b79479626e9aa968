"""The learning curve as a figure: loss, accuracy of both forms, and lambda and the learning rate under them.

+----------------------------+
| training loss              |
+----------------------------+   shaded in all three: every lambda is 1, so the two forms are one function
| validation accuracy        |
+----------------------------+
| lambda | learning rate     |
+----------------------------+
  epochs trained
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vnas.errors import UsageError
from vnas.profiler.figure import STYLE
from vnas.profiler.results import write_whole
from vnas.training.command.logs import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

MOST_POINTS = 2000
"""Of the loss, in the figure: one a pixel is enough."""

SMOOTHED_SHARE = 0.02
"""Of the run, that the smooth line of the loss is a mean over."""

CAPTION_LETTERS = 135
"""In a line under the figure."""

_FORMS = (
    ("val_top1_training_form", "training form, as it is", "#0173b2", "o"),
    ("val_top1_fused", "fused, every lambda set to 1", "#d55e00", "s"),
)
_LOSS, _FAINT, _LAMBDA, _RATE, _SHADE, _SOFT = "#1d2430", "#b6bec8", "#029e73", "#7a4f9a", "#eef3ee", "#55606f"


@dataclass(frozen=True)
class Caption:
    """What is said around the curve.

    Attributes:
        title: net and data.
        below: recipe, device and result, in a line.
    """

    title: str
    below: str


def draw(rows: Sequence[Row], steps_per_epoch: int, caption: Caption, stem: Path) -> tuple[Path, Path]:
    """Draw the curve and write it as ``STEM.svg`` and ``STEM.png``.

    Args:
        rows: the log of a run, in order.
        steps_per_epoch: turns steps into epochs.
        caption: what is said around it.
        stem: where to, without the suffix.

    Returns:
        The two files.

    Raises:
        UsageError: there are no rows, or a file cannot be written.
    """
    import matplotlib as mpl

    if not rows:
        raise UsageError("there is nothing to draw: the log has no steps")
    written = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    with mpl.rc_context(STYLE):
        figure = figure_of(rows, steps_per_epoch, caption)
        for path in written:
            file = io.BytesIO()
            kind = path.suffix[1:]
            figure.savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
            write_whole(path, file.getvalue())
    return written


def figure_of(rows: Sequence[Row], steps_per_epoch: int, caption: Caption) -> Figure:
    """The figure itself; it belongs to no window, and no state of pyplot is touched."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1.5, 1.0))
    epochs = np.array([row.step for row in rows]) / steps_per_epoch
    _draw_loss(panels[0], epochs, rows)
    _draw_accuracy(panels[1], epochs, rows)
    _draw_schedules(panels[2], epochs, rows)
    merged_from = _from_lambda_one(epochs, rows)
    for axes in panels:
        axes.axvspan(merged_from, epochs[-1], color=_SHADE, lw=0, zorder=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_title(caption.title)
    panels[2].set_xlabel("epochs trained")
    panels[2].set_xlim(min(0.0, epochs[0]), epochs[-1])
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=epochs[-1] >= 3))
    figure.align_ylabels(panels)
    below = "\n".join(textwrap.wrap(caption.below, CAPTION_LETTERS))
    figure.supxlabel(below, x=0.01, ha="left", fontsize=8, color=_SOFT, linespacing=1.35)
    return figure


def smoothed(values: Floats, window: int) -> Floats:
    """The mean over the last ``window`` values at each place, over fewer at the beginning; the same length."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    means: Floats = (sums[ends] - sums[begins]) / (ends - begins)
    return means


def thinned(count: int, most: int = MOST_POINTS) -> npt.NDArray[np.intp]:
    """Places of at most so many of ``count`` points, evenly, the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.intp)


def _from_lambda_one(epochs: Floats, rows: Sequence[Row]) -> float:
    """Where the last lambda reaches 1 for good; the end of the run where none does."""
    below = [place for place, row in enumerate(rows) if row.slope_min < 1.0]
    if not below:
        return float(epochs[0])
    return float(epochs[min(below[-1] + 1, len(rows) - 1)])


def _draw_loss(axes: Axes, epochs: Floats, rows: Sequence[Row]) -> None:
    losses = np.array([row.loss for row in rows])
    shown = thinned(len(rows))
    axes.plot(epochs[shown], losses[shown], color=_FAINT, lw=0.8, label="at each look")
    mean = smoothed(losses, max(1, round(SMOOTHED_SHARE * len(rows))))
    axes.plot(epochs[shown], mean[shown], color=_LOSS, lw=1.6, label=f"mean over {SMOOTHED_SHARE:.0%} of the run")
    axes.set_ylabel("training loss")
    axes.legend(loc="upper right", fontsize=8, frameon=False)


def _draw_accuracy(axes: Axes, epochs: Floats, rows: Sequence[Row]) -> None:
    judged = [place for place, row in enumerate(rows) if row.val_top1_fused is not None]
    for name, label, colour, marker in _FORMS:
        values = [getattr(rows[place], name) for place in judged]
        # The two forms coincide once lambda is 1: the larger marker stays hollow so that both are seen.
        size, inside = (4.0, colour) if marker == "o" else (6.5, "none")
        axes.plot(
            epochs[judged], values, color=colour, lw=1.6, marker=marker, ms=size, mfc=inside, label=label, clip_on=False
        )
    axes.set_ylabel("validation top-1, %")
    axes.margins(y=0.12)
    if judged:
        axes.legend(loc="lower right", fontsize=8, frameon=False)


def _draw_schedules(axes: Axes, epochs: Floats, rows: Sequence[Row]) -> None:
    shown = thinned(len(rows))
    low = np.array([row.slope_min for row in rows])[shown]
    high = np.array([row.slope_max for row in rows])[shown]
    axes.fill_between(epochs[shown], low, high, color=_LAMBDA, alpha=0.25, lw=0)
    axes.plot(epochs[shown], high, color=_LAMBDA, lw=1.6)
    axes.plot(epochs[shown], low, color=_LAMBDA, lw=1.6)
    axes.set_ylim(-0.06, 1.06)
    axes.set_ylabel("lambda", color=_LAMBDA)
    rates = axes.twinx()
    rate = np.array([row.lr for row in rows])
    rates.plot(epochs[shown], rate[shown], color=_RATE, lw=1.6, ls="--")
    rates.set_ylabel("learning rate", color=_RATE)
    highest = rate.max() or 1.0
    rates.set_ylim(-0.06 * highest, 1.06 * highest)  # its 0 stands where that of lambda does
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    rates.tick_params(axis="y", labelcolor=_SOFT)
    rates.grid(visible=False)
    for side in ("top", "left"):
        rates.spines[side].set_visible(False)
