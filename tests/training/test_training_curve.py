from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from vnas.errors import UsageError
from vnas.profiler.figure import STYLE
from vnas.training.command.curve import Caption, draw, figure_of, smoothed, thinned
from vnas.training.command.logs import Row

CAPTION = Caption("a_net on some_data", "Recipe r$1$, seed 0.")


def log(steps: int = 40, per_epoch: int = 10, reached: int = 20) -> list[Row]:
    """A run whose lambda is at 1 from a step on; looked at after each epoch."""
    rows = []
    for step in range(1, steps + 1):
        slope = min(1.0, step / reached)
        judged = step % per_epoch == 0
        rows.append(
            Row(
                step=step,
                epoch=(step - 1) // per_epoch,
                loss=2.0 - step / steps,
                lr=0.01 * (1 - step / steps),
                slope_min=max(0.0, slope - 0.2) if slope < 1 else 1.0,
                slope_max=min(1.0, 2 * slope),
                images_per_second=100.0,
                val_top1_training_form=50.0 + step if judged else None,
                val_top1_fused=(50.0 + step if slope == 1.0 else 10.0) if judged else None,
            )
        )
    return rows


def drawn(rows: Sequence[Row], per_epoch: int = 10) -> Figure:
    with mpl.rc_context(STYLE):
        figure = figure_of(rows, per_epoch, CAPTION)
        figure.draw_without_rendering()
    return figure


def test_a_smoothed_line_is_the_mean_over_the_last_values() -> None:
    assert smoothed(np.array([4.0, 2.0, 0.0, 1.0]), 2).tolist() == [4.0, 3.0, 1.0, 0.5]
    assert smoothed(np.array([4.0, 2.0]), 1).tolist() == [4.0, 2.0]
    assert smoothed(np.array([4.0, 2.0]), 9).tolist() == [4.0, 3.0]


def test_thinning_keeps_both_ends() -> None:
    assert thinned(5, 9).tolist() == [0, 1, 2, 3, 4]
    places = thinned(100_000, 2000)
    assert (len(places), places[0], places[-1]) == (2000, 0, 99_999)
    assert (np.diff(places) > 0).all()


def test_both_forms_stand_at_the_epochs_they_were_judged_at() -> None:
    accuracy = drawn(log()).axes[1]
    training_form, fused = accuracy.get_lines()
    assert training_form.get_xydata().tolist() == [[1, 60], [2, 70], [3, 80], [4, 90]]
    assert fused.get_xydata().tolist() == [[1, 10], [2, 70], [3, 80], [4, 90]]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "training form, as it is",
        "fused, every lambda set to 1",
    ]


def test_loss_lambda_and_learning_rate_are_drawn_against_epochs() -> None:
    rows = log()
    figure = drawn(rows)
    losses, _, lambdas, rates = figure.axes
    each, mean = losses.get_lines()
    assert each.get_xdata().tolist() == [row.step / 10 for row in rows]
    assert each.get_ydata().tolist() == [row.loss for row in rows]
    assert len(mean.get_ydata()) == len(rows)
    high, low = lambdas.get_lines()
    assert high.get_ydata().tolist() == [row.slope_max for row in rows]
    assert low.get_ydata().tolist() == [row.slope_min for row in rows]
    (rate,) = rates.get_lines()
    assert rate.get_ydata().tolist() == [row.lr for row in rows]
    assert lambdas.get_xlabel() == "epochs trained"


@pytest.mark.parametrize("reached", [1, 20, 40])
def test_the_shade_begins_where_every_lambda_is_1(reached: int) -> None:
    figure = drawn(log(reached=reached))
    for axes in figure.axes[:3]:
        (shade,) = axes.patches
        assert shade.get_x() == pytest.approx(reached / 10)
        assert shade.get_x() + shade.get_width() == pytest.approx(4.0)


def test_a_run_of_one_step_without_a_look_can_be_drawn() -> None:
    figure = drawn([log(steps=1, per_epoch=2)[0]], per_epoch=2)
    assert figure.axes[1].get_legend() is None


def test_the_same_log_gives_the_same_files(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw(log(), 10, CAPTION, tmp_path / "one")]
    again = [path.read_bytes() for path in draw(log(), 10, CAPTION, tmp_path / "two.v1")]
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg", "two.v1.png", "two.v1.svg"]
    assert first[1].startswith(b"\x89PNG")
    assert b"<svg" in first[0]


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        draw([], 10, CAPTION, tmp_path / "curve")
