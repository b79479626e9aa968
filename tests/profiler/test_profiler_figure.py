from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from result_examples import an_entry, elsewhere

from vnas.errors import MissingExtraError, UsageError
from vnas.profiler.blocks import Block
from vnas.profiler.figure import (
    MOST_MARKS,
    STRETCH,
    STYLE,
    caption_lines,
    check_suffix,
    draw,
    figure_of,
    frame,
    row_labels,
    thinned,
)
from vnas.profiler.results import Entry


def noisy(median: float, count: int = 60, **changes: Any) -> Entry:
    taken = median * np.exp(np.random.default_rng(0).gamma(2.0, 0.01, count) - 0.0168)
    return an_entry([taken.tolist()], **changes)


def slowed(median: float, aside: int) -> Entry:
    blocks = (Block(0, 0, 0.0, 60), Block(0, 0, 1.0, aside, 9.0, "slowed"))
    return noisy(median, blocks=blocks, discarded_ms=tuple(median * (1.3 + 0.002 * i) for i in range(aside)))


def panels(figure: Figure) -> tuple[Axes, Axes]:
    left, right = figure.axes
    return left, right


def ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_the_suffix_says_what_is_written(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    draw([noisy(10.0)], path)
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz"])
def test_another_suffix_is_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=r"ends in .*; a figure ends in one of \.png, \.svg, \.pdf, e\.g\. .*a(\.png)+"
    ):
        draw([noisy(10.0)], tmp_path / name)
    with pytest.raises(UsageError):
        check_suffix(Path(name))


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        draw([], tmp_path / "a.png")


def test_without_seaborn_the_message_holds_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seaborn", None)
    with pytest.raises(MissingExtraError, match="pip install seaborn"):
        draw([noisy(10.0)], tmp_path / "a.png")


def test_the_caller_keeps_its_own_matplotlib(tmp_path: Path) -> None:
    with mpl.rc_context({name: mpl.rcParamsDefault[name] for name in STYLE}):
        mine, style, backend = plt.figure(), dict(mpl.rcParams), mpl.get_backend()
        axes = mine.add_subplot()
        draw([noisy(10.0)], tmp_path / "a.png")
        assert plt.get_fignums() == [mine.number]
        assert plt.gcf() is mine
        assert not axes.collections
        assert dict(mpl.rcParams) == style
        assert mpl.get_backend() == backend
        plt.close(mine)


def test_the_same_results_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw([noisy(10.0), slowed(20.0, 5)], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_fastest_is_on_top_and_its_numbers_beside_it() -> None:
    figure = figure_of([noisy(30.0, net="c"), noisy(10.0, net="a"), slowed(20.0, 20)])
    left, right = panels(figure)
    assert ticks(left) == ["a eval", "timm:resnet18 eval", "c eval"]
    bottom, top = left.get_ylim()
    assert top < 0 < 2 < bottom
    assert right.get_ylim() == (bottom, top)
    assert [round(float(text.split(" ms ")[0])) for text in ticks(right)] == [10, 20, 30]
    assert [text.endswith("25% aside") for text in ticks(right)] == [False, True, False]


def test_the_interval_of_the_median_is_drawn_in_both_panels() -> None:
    entry = noisy(10.0, interval_ms=(9.0, 12.0))
    median = entry.measurement.median_ms
    left, right = panels(figure_of([entry]))
    for axes, ends in ((left, (9.0, 12.0)), (right, (900.0 / median - 100.0, 1200.0 / median - 100.0))):
        segments = [line for c in axes.collections if hasattr(c, "get_segments") for line in c.get_segments()]
        assert any(line[:, 0] == pytest.approx(ends) for line in segments)
        low, high = axes.get_xlim()
        assert low <= ends[0] < ends[1] <= high


@pytest.mark.parametrize("slowest", [20.0, 200.0])
def test_an_interval_that_says_nothing_does_not_press_the_rest_flat(slowest: float) -> None:
    wide = noisy(10.0, interval_ms=(0.001, 50_000.0))
    left, right = panels(figure_of([wide, noisy(slowest, net="b")]))
    assert left.get_xlim()[0] == (0.0 if slowest == 20.0 else pytest.approx(10.0 / 1.6 / 1.1, rel=0.01))
    assert left.get_xlim()[1] < 1.3 * slowest
    assert right.get_xlim()[0] > -70.0
    assert right.get_xlim()[1] < 70.0


def test_samples_put_aside_are_marks_apart_and_not_too_many() -> None:
    _, right = panels(figure_of([slowed(10.0, 1000)]))
    (marks,) = [c for c in right.collections if len(c.get_offsets()) == MOST_MARKS]
    assert set(marks.get_offsets()[:, 1].tolist()) == {0.36}
    assert marks.get_offsets()[:, 0].min() == pytest.approx(30.0, abs=2.0)
    assert marks.get_offsets()[:, 0].max() <= right.get_xlim()[1]
    _, right = panels(figure_of([noisy(10.0)]))
    assert max(len(c.get_offsets()) for c in right.collections) == 1


@pytest.mark.parametrize(("medians", "scale"), [((1.0, 9.9), "linear"), ((1.0, 10.5), "log"), ((5.0,), "linear")])
def test_the_axis_is_logarithmic_only_beyond_a_decade(medians: tuple[float, ...], scale: str) -> None:
    left, right = panels(figure_of([an_entry([[median] * 9]) for median in medians]))
    assert left.get_xscale() == scale
    assert right.get_xscale() == "linear"
    if scale == "linear":
        assert left.get_xlim()[0] == 0.0


@pytest.mark.parametrize("count", [1, 3, 30])
def test_no_text_is_cut(count: int) -> None:
    name = "" if count == 1 else "folder/with/a/long/name/that/goes/on/and/on/and/on.json"
    place = {"device_kind": "A Processor with a Rather Long Marketing Name @ 2.00GHz (Engineering Sample), 64 CPUs"}
    entries = [elsewhere(noisy(3.0 * (i + 1), net=f"{i}{name}", valid=i != 1), **place) for i in range(count)]
    with mpl.rc_context(STYLE):
        figure = figure_of(entries if count == 1 else [*entries, slowed(7.0, 10)])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    texts = [t for axes in figure.axes for t in (*axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label)]
    for text in [*texts, *figure.texts]:
        if not text.get_text():
            continue
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= width, text.get_text()
        assert box.y1 <= height, text.get_text()


def test_identical_samples_and_a_single_one_can_be_drawn(tmp_path: Path) -> None:
    draw([an_entry([[2.0] * 50]), an_entry([[3.0]], interval_ms=(3.0, 3.0))], tmp_path / "a.png")


def test_rows_name_what_is_not_the_same_for_all() -> None:
    entries = [noisy(1.0), noisy(1.0, runtime="openvino", precision=None), noisy(1.0, image_size=None, valid=False)]
    assert row_labels(entries) == [
        "timm:resnet18 eval  eager  fp32  224 px",
        "timm:resnet18 eval  openvino  precision unknown  224 px",
        "timm:resnet18 eval  eager  fp32  INVALID",
    ]
    assert row_labels([noisy(1.0)]) == ["timm:resnet18 eval"]
    assert row_labels([noisy(1.0, net="x" * 20 + "y" * 40)]) == ["x" * 14 + "…" + "y" * 29 + " eval"]


def test_the_caption_says_where_with_how_many_threads_and_when() -> None:
    where, marks = caption_lines([noisy(1.0), noisy(2.0)])
    assert where == ("eager, fp32, batch 1, 224 px, A CPU, 2 CPUs, 2 threads, torch 2.9.0, 2025-01-01, 1 process")
    assert marks == "Point and bar: median and its 95 % interval; hollow: the noise target was missed."
    other = elsewhere(noisy(2.0, precision="fp16", processes=3, interval_level=0.5), threads=1, torch="2.11.0")
    other = elsewhere(other, date_utc="2025-02-03T00:00:00+00:00")
    where, marks = caption_lines([slowed(1.0, 4), other])
    assert where == (
        "eager, batch 1, 224 px, A CPU, 2 CPUs, 2 threads and A CPU, 2 CPUs, 1 thread, torch 2.9.0, 2.11.0, "
        "2025-01-01 to 2025-02-03, 1 or 3 processes"
    )
    assert "its 50 % interval" in marks
    assert "Faint marks: samples put aside" in marks


def test_thinning_keeps_the_ends_and_the_middle() -> None:
    samples = [float(i) for i in reversed(range(1001))]
    kept = thinned(samples, 101)
    assert (len(kept), kept[0], kept[50], kept[-1]) == (101, 0.0, 500.0, 1000.0)
    assert thinned(samples, 1001) == sorted(samples)


def test_the_frame_holds_intervals_but_no_single_outlier() -> None:
    row = np.concatenate([np.linspace(-1.0, 4.0, 999), [500.0]])
    low, high = frame([row], [np.array([])], [-3.0, 2.0])
    assert -4.0 < low <= -3.0
    assert 3.5 < high < 6.0
    assert frame([row], [np.full(9, 20.0)], [-3.0, 2.0])[1] > 20.0
    assert frame([row], [np.full(9, 900.0)], [-3.0, 2.0])[1] < STRETCH + 5.0
    assert frame([np.zeros(3)], [np.array([])], [0.0, 0.0]) == (-0.5, 0.5)
