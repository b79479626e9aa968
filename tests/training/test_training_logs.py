import io
from dataclasses import replace
from pathlib import Path

import pytest

from vnas.errors import MissingExtraError, UsageError
from vnas.profiler.screen import CLEAR, duration
from vnas.training.command import logs
from vnas.training.command.logs import COLUMNS, Log, Row, has_tensorboard, read_log, scalars
from vnas.training.command.recording import Recorder
from vnas.training.command.terminal import Terminal
from vnas.training.command.watching import Look, Watch
from vnas.training.result import Progress


def row(step: int, **more: float) -> Row:
    return Row(step, (step - 1) // 2, 1.0 / step, 1e-3 / 3, 0.25, 0.1 * step, 100.0, **more)


def written(path: Path, *rows: Row) -> None:
    log = Log(path)
    for one in rows:
        log.write(one)
    log.close()


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    rows = (row(1), row(2, val_top1_training_form=1.0 / 3, val_top1_fused=100.0), row(3))
    written(tmp_path / "log.csv", *rows)
    assert read_log(tmp_path / "log.csv") == rows
    text = (tmp_path / "log.csv").read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[1].endswith("100.0,,")


def test_a_kill_loses_no_row(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv")
    for step in (1, 2):
        log.write(row(step))
        assert read_log(tmp_path / "log.csv")[-1] == row(step)
    log.close()


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.csv") == ()


def test_steps_taken_again_replace_those_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    written(path, row(1), row(2), row(3), row(4))
    again = replace(row(3), loss=9.0)
    written(path, again)
    assert read_log(path) == (row(1), row(2), again)


def test_a_run_from_the_start_begins_the_log_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    written(path, row(1), row(2))
    written(path, row(1))
    assert read_log(path) == (row(1),)


@pytest.mark.parametrize("cut", range(1, 30))
def test_half_a_row_of_a_killed_run_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.csv"
    written(path, row(1), replace(row(2), val_top1_training_form=50.25, val_top1_fused=48.75))
    path.write_text(path.read_text()[:-cut])
    assert read_log(path) == (row(1),)
    written(path, row(3))
    assert read_log(path) == (row(1), row(3))


def test_the_last_row_gets_the_final_accuracies(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = Log(path)
    log.write(row(1))
    log.write(row(2))
    log.finish(50.0, 25.0)
    assert read_log(path) == (row(1), row(2, val_top1_training_form=50.0, val_top1_fused=25.0))


def test_finishing_a_run_whose_log_is_gone_writes_nothing(tmp_path: Path) -> None:
    Log(tmp_path / "log.csv").finish(50.0, 25.0)
    assert read_log(tmp_path / "log.csv") == ()


def test_another_file_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="is not the log of a training run; its columns must be step,epoch,loss"):
        read_log(path)


def test_tensorboard_is_shown_what_is_known() -> None:
    assert scalars(row(4)) == {
        "training/loss": 0.25,
        "training/lr": 1e-3 / 3,
        "training/lambda_min": 0.25,
        "training/lambda_max": 0.4,
        "training/images_per_second": 100.0,
    }
    judged = scalars(row(4, val_top1_training_form=0.0, val_top1_fused=2.0))
    assert (judged["validation/top1_training_form"], judged["validation/top1_fused"]) == (0.0, 2.0)


def test_events_without_tensorboard_name_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "vnas\[tensorboard\]"'):
        Log(tmp_path / "log.csv", tmp_path / "events")


def test_a_report_becomes_a_row_and_the_look_a_line(tmp_path: Path) -> None:
    class Looked(Watch):
        def __init__(self) -> None:
            pass

        def look(self) -> Look:
            return Look(50.0, 25.0)

    watch, out = Looked(), io.StringIO()
    recorder = Recorder(tmp_path / "log.csv", None, watch, Terminal(out, io.StringIO()))
    for step, seconds, images in ((1, 1.0, 100), (2, 2.0, 200)):  # two epochs of one step
        recorder(
            Progress(
                epoch=step - 1,
                epochs=2,
                step=step,
                steps=2,
                loss=1.0,
                lr=0.1,
                slope_min=0.0,
                slope_max=0.5,
                seconds=seconds,
                images_per_second=images / seconds,
            )
        )
    recorder.close()
    rows = read_log(tmp_path / "log.csv")
    assert [row.images_per_second for row in rows] == [100.0, 100.0]
    assert [row.val_top1_fused for row in rows] == [25.0, None]
    assert out.getvalue() == (
        "epoch   1/2   loss 1.0000   lambda 0.00 to 0.50   val  50.0 % training form,  25.0 % fused   (1 s left)\n"
    )


def test_the_progress_line_is_for_terminals_and_throttled() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    where = Progress(0, 2, 3, 10, 1.25, 1e-3, 0.5, 0.5, 6.0, 1000.0)
    times = iter([0.0, 0.05, 0.2, 0.25])
    screen, out = Screen(), io.StringIO()
    terminal = Terminal(out, screen, clock=lambda: next(times))
    for _ in range(3):
        terminal.progress(where)
    text = "epoch 1/2  step 3/10  loss 1.2500  lambda 0.50  lr 1.00e-03  1,000 images/s  14 s left"
    assert screen.getvalue() == f"{CLEAR}{text}\r" * 2
    terminal.progress(replace(where, step=10))
    assert "step 10/10" in screen.getvalue()
    terminal.say("a line")
    assert screen.getvalue().endswith(CLEAR)
    assert out.getvalue() == "a line\n"
    plain = io.StringIO()
    Terminal(out, plain).progress(where)
    assert plain.getvalue() == ""


def test_all_but_the_first_process_are_quiet_except_for_errors() -> None:
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(out, err, quiet=True)
    terminal.say("a line")
    terminal.complain("an error")
    assert (out.getvalue(), err.getvalue()) == ("", "an error\n")


@pytest.mark.skipif(not has_tensorboard(), reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_events_and_forgets_steps_that_are_taken_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, events = tmp_path / "log.csv", tmp_path / "events"
    for rows in ((row(1), row(2), row(3)), (replace(row(3), loss=9.0), row(4))):
        log = Log(path, events)
        for one in rows:
            log.write(one)
        log.close()
    Log(path, events).finish(50.0, 25.0)
    reader = EventAccumulator(str(events), purge_orphaned_data=True)
    reader.Reload()
    losses = [(event.step, event.value) for event in reader.Scalars("training/loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, 9.0), (4, 0.25)]
    assert [(event.step, event.value) for event in reader.Scalars("validation/top1_fused")] == [(4, 25.0)]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
