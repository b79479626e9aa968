"""Tables of known answers: what is read, what is refused, what a search of them is told and when."""

import itertools
import math
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import ConfigError, DataError, MeasurementError, TrainingError, UsageError
from vnas.search.engine.protocol import Answer, Attributes, Failure, Job, Subject
from vnas.search.tabular.problem import TableEvaluator, TableProblem, digest_of
from vnas.search.tabular.simulated import SimulatedExecutor
from vnas.search.tabular.table import Table, load

ROOT = Path(__file__).parents[2]
NASBENCH201 = ROOT / "../shared/data/nasbench201"

CSV = """\
op,width,early,late_0,late_1,latency,train_seconds,params
conv,16,50,58,62,1,400,1000
conv,8,40,81,79,2,200,500
none,16,60,90,90,4,800,2000
"""
TOML = """\
csv = "nets.csv"
choices = ["op", "width"]
latency_ms = "latency"
seconds = "train_seconds"
costs = {params = "params"}

[[rungs]]
epochs = 10
accuracy = "early"

[[rungs]]
epochs = 40
accuracy = ["late_0", "late_1"]

[reference]
error = 100.0
latency_ms = 10.0
"""
FIRST = {"op": "conv", "width": 16}
SECOND = {"op": "conv", "width": 8}
THIRD = {"op": "none", "width": 16}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(csv, toml)``: both files, the second's path."""

    def call(csv: str = CSV, toml: str = TOML) -> Path:
        (tmp_path / "nets.csv").write_text(csv, encoding="utf-8")
        (tmp_path / "table.toml").write_text(toml, encoding="utf-8")
        return tmp_path / "table.toml"

    return call


@pytest.fixture
def table(write: Write) -> Table:
    return load(write())


def swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def job(problem: TableProblem, draw: dict[str, Any], rung: int | None = None) -> Job:
    subject = problem.subject(draw)
    return Job(0, "measure", subject) if rung is None else Job(0, "train", subject, rung)


# What is read


def test_a_table_as_it_is_read(table: Table) -> None:
    assert len(table) == 3
    assert table.choices == {"op": ("conv", "none"), "width": (8, 16)}
    assert list(table.choices) == ["op", "width"]
    assert table.index == {("conv", 16): 0, ("conv", 8): 1, ("none", 16): 2}
    assert table.rungs == (10.0, 40.0)
    assert table.accuracy[0].tolist() == [[50.0], [40.0], [60.0]]
    assert table.accuracy[1].tolist() == [[58.0, 62.0], [81.0, 79.0], [90.0, 90.0]]
    assert table.true_accuracy.tolist() == [60.0, 80.0, 90.0]
    assert table.latency_ms.tolist() == [1.0, 2.0, 4.0]
    assert table.seconds.tolist() == [400.0, 200.0, 800.0]
    assert {name: values.tolist() for name, values in table.costs.items()} == {"params": [1000.0, 500.0, 2000.0]}
    assert table.reference == (100.0, 10.0)


def test_the_arrays_are_read_only(table: Table) -> None:
    arrays = (*table.accuracy, *table.costs.values(), table.latency_ms, table.seconds, table.true_accuracy)
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (("10", "9", "+8"), (8, 9, 10)),
        (("10", "9.5", "1e1"), (9.5, 10.0)),  # 10 and 1e1 are one number
        (("10", "9", "none"), ("10", "9", "none")),
        (("1", "nan", "2"), ("1", "2", "nan")),
        (("1", "1e999", "2"), ("1", "1e999", "2")),
        (("3_3", "1_1", "5_5"), ("1_1", "3_3", "5_5")),  # int() would take these for 33, 11 and 55
        (("NA", "None", "null"), ("NA", "None", "null")),
    ],
)
def test_choices_are_numbers_where_all_of_them_are(
    write: Write, cells: tuple[str, ...], options: tuple[object, ...]
) -> None:
    lines = [f"{cell},{other},50,50,50,1,1,1" for other, cell in enumerate(cells)]
    table = load(write("\n".join([CSV.splitlines()[0], *lines])))
    assert table.choices["op"] == options
    assert [type(value) for value in table.choices["op"]] == [type(value) for value in options]


def test_a_column_of_one_value_is_no_choice(write: Write) -> None:
    table = load(write(CSV.replace("none,16", "conv,32")))
    assert table.choices == {"width": (8, 16, 32)}
    assert table.row({"width": 32}) == 2


def test_what_the_mapping_leaves_out(write: Write) -> None:
    toml = swap(TOML.split("[reference]")[0], 'seconds = "train_seconds"\n', "")
    table = load(write(toml=swap(toml, 'costs = {params = "params"}\n', "")))
    assert table.seconds.tolist() == [40.0, 40.0, 40.0]  # an epoch takes a second
    assert table.costs == {}
    assert table.reference == (100.0, 4.0)
    error_only = load(write(toml=swap(TOML, "latency_ms = 10.0", "")))
    assert error_only.reference == (100.0, 4.0)


def test_the_csv_may_be_given(write: Write, tmp_path: Path) -> None:
    mapping = write(toml=swap(TOML, 'csv = "nets.csv"\n', ""))
    (tmp_path / "other").mkdir()
    other = (tmp_path / "nets.csv").rename(tmp_path / "other" / "answers.csv")
    assert len(load(mapping, other)) == 3
    with pytest.raises(ConfigError, match=r'table\.toml names no CSV; write csv = "FILE"'):
        load(mapping)


def test_a_training_that_was_not_run(write: Write) -> None:
    table = load(write(swap(CSV, "58,62", ",62")))
    assert np.isnan(table.accuracy[1][0]).tolist() == [True, False]
    assert table.true_accuracy.tolist() == [62.0, 80.0, 90.0]
    assert table.hypervolume([0]) == pytest.approx(62 * 9)
    subject = TableProblem(table).subject(FIRST)
    told = {TableEvaluator(table, seed).train(subject, 1, lambda share: None)["val_top1"] for seed in range(20)}
    assert told == {62.0}


def test_a_spreadsheets_marks_are_no_content(write: Write) -> None:
    quoted = CSV.replace("conv,16", '"conv", 16').replace("\n", "\r\n\r\n")
    assert load(write("\ufeff" + quoted)).index == {("conv", 16): 0, ("conv", 8): 1, ("none", 16): 2}


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("conv,8,40", "conv,8,forty", ["line 3", "early is 'forty'", "percentage", "leave the row out"]),
        ("conv,8,40", "conv,8,", ["line 3", "early is ''", "percentage"]),
        ("conv,8,40", "conv,8,nan", ["line 3", "early is 'nan'"]),
        ("conv,8,40", "conv,8,-1", ["line 3", "early is '-1'", "from 0 to 100"]),
        ("90,90,4", "90,100.5,4", ["line 4", "late_1 is '100.5'", "from 0 to 100"]),
        ("90,90,4", "90,nan,4", ["line 4", "late_1 is 'nan'", "from 0 to 100"]),
        ("90,90,4", ",,4", ["line 4", "late_0, late_1 are all empty", "give one of them"]),
        ("90,90,4", "90,90,0", ["line 4", "latency is '0'", "above 0"]),
        ("4,800", "inf,800", ["line 4", "latency is 'inf'", "above 0"]),
        ("4,800", "4,-800", ["line 4", "train_seconds is '-800'", "above 0"]),
        ("800,2000", "800,many", ["line 4", "params is 'many'", "finite number"]),
        ("conv,8", "conv,16", ["lines 2 and 3", "same choices", "(op=conv)", "keep one"]),
        ("none,16", ",16", ["line 4", "op is empty"]),
        ("conv,8,40", "conv,8", ["line 3", "7 cells", "8 column names"]),
        ("conv,8,40", "conv,8,40,41", ["line 3", "9 cells", "8 column names"]),
        ("late_1", "late_0", ["columns of one name: late_0", "rename"]),
        ("none,16", '"none,16', ["not a CSV in UTF-8"]),
        (CSV, "", ["empty", "first line must name the columns"]),
        (CSV, "\n\n", ["empty"]),
        (CSV, CSV.splitlines()[0], ["no rows"]),
        (CSV, "\n".join(CSV.splitlines()[:2]), ["one value only", "nothing to search"]),
    ],
)
def test_a_csv_that_cannot_be_used(write: Write, old: str, new: str, words: list[str]) -> None:
    mapping = write(swap(CSV, old, new))
    with pytest.raises(DataError) as caught:
        load(mapping)
    for word in ["nets.csv", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"latency"', '"latncy"', ["latency_ms", "'latncy'", "Did you mean 'latency'?", "Its columns: op, width"]),
        ('"op", "width"', '"op", "depth"', ["choices", "'depth'"]),
        ('"train_seconds"', '"train_second"', ["seconds", "Did you mean 'train_seconds'?"]),
        ('params = "params"', 'macs = "macs"', ["costs.macs", "'macs'"]),
        ('"late_0", "late_1"', '"late_0", "late_2"', ["rungs.1.accuracy", "'late_2'", "Did you mean"]),
        ('"op", "width"', '"op", "op"', ["['op', 'op']", "twice"]),
        ('"late_0", "late_1"', '"late_0", "late_0"', ["['late_0', 'late_0']", "twice"]),
        ("epochs = 40", "epochs = 10", ["[10.0, 10.0]", "must ascend"]),
        ("epochs = 40", "epochs = 4", ["[10.0, 4.0]", "must ascend"]),
        ("epochs = 10", "epochs = 0", ["rungs.0.epochs", "greater than 0"]),
        ("epochs = 10", 'epochs = "10"', ["rungs.0.epochs", "valid number"]),
        ('"op", "width"', "", ["choices", "at least 1"]),
        ("[reference]", "[referense]", ["referense", "not a known key", "Did you mean 'reference'?"]),
        ("latency_ms = 10.0", "latency_ms = 0.0", ["reference.latency_ms", "greater than 0"]),
        ("[reference]", "[reference", ["not valid TOML"]),
    ],
)
def test_a_mapping_that_cannot_be_used(write: Write, old: str, new: str, words: list[str]) -> None:
    mapping = write(toml=swap(TOML, old, new))
    with pytest.raises(ConfigError) as caught:
        load(mapping)
    for word in ["table.toml", *words]:
        assert word in str(caught.value)


def test_files_that_are_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*absent\.toml; give the TOML file"):
        load(tmp_path / "absent.toml")
    mapping = write()
    with pytest.raises(DataError, match=r"no file .*absent\.csv; give the CSV"):
        load(mapping, tmp_path / "absent.csv")
    (tmp_path / "nets.csv").write_bytes(b"op,\xff\n")
    with pytest.raises(UsageError, match="not a CSV in UTF-8"):
        load(mapping)


# What a search can reach


def test_hypervolume_by_hand(table: Table) -> None:
    # Errors 40, 20, 10 at 1, 2, 4 ms, up to 100 % and 10 ms:
    # 60 from 1 to 2 ms, 80 from 2 to 4 ms, 90 from 4 to 10 ms.
    assert table.hypervolume([0, 1, 2]) == pytest.approx(60 * 1 + 80 * 2 + 90 * 6)
    assert table.optimum() == pytest.approx(760)
    assert table.hypervolume([1]) == pytest.approx(80 * 8)
    assert table.hypervolume([0, 2, 2, 0]) == pytest.approx(60 * 3 + 90 * 6)
    assert table.hypervolume([]) == 0.0


def test_rows_beyond_a_budget_add_nothing_and_the_reference_stays(table: Table) -> None:
    assert table.optimum(3.0) == pytest.approx(60 * 1 + 80 * 8)  # the row at 4 ms is beyond it
    assert table.hypervolume([0, 2], 3.0) == pytest.approx(60 * 9)
    assert table.optimum(20.0) == pytest.approx(60 * 1 + 80 * 2 + 90 * 6)
    assert table.optimum(0.5) == 0.0


def test_the_reference_error_counts(write: Write) -> None:
    table = load(write(toml=swap(TOML, "error = 100.0", "error = 30.0")))
    assert table.optimum() == pytest.approx(10 * 2 + 20 * 6)  # the row with an error of 40 % is beyond it


cells = st.fixed_dictionaries(
    {"accuracy": st.integers(0, 100), "latency": st.integers(1, 20), "chosen": st.booleans()},
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.dictionaries(st.tuples(st.integers(0, 3), st.sampled_from(["", "x", "y"])), cells, min_size=2),
    budget=st.none() | st.integers(1, 25),
)
def test_any_small_table(rows: dict[tuple[int, str], dict[str, Any]], budget: int | None) -> None:
    lines = [f"{number},op{op},{cell['accuracy']},{cell['latency']}" for (number, op), cell in rows.items()]
    with tempfile.TemporaryDirectory() as folder:
        csv, mapping = Path(folder, "t.csv"), Path(folder, "t.toml")
        csv.write_text("\n".join(["number,op,accuracy,latency", *lines]))
        mapping.write_text(
            'csv = "t.csv"\nchoices = ["number", "op"]\nlatency_ms = "latency"\n'
            '[[rungs]]\nepochs = 1\naccuracy = "accuracy"\n'
        )
        table = load(mapping)
    chosen = [row for row, cell in enumerate(rows.values()) if cell["chosen"]]
    assert table.optimum(budget) >= table.hypervolume(chosen, budget) >= 0.0

    problem = TableProblem(table)
    subjects = [problem.subject(table.draw(row)) for row in range(len(table))]
    assert [subject.attributes["row"] for subject in subjects] == list(range(len(rows)))
    assert len({subject.digest for subject in subjects}) == problem.size == len(rows)
    for row, (number, op) in enumerate(rows):
        full = {"number": number, "op": f"op{op}"}
        assert table.draw(row) == {name: full[name] for name in table.choices}
    draws = [dict(zip(table.choices, values, strict=True)) for values in itertools.product(*table.choices.values())]
    assert sum(tuple(draw.values()) in table.index for draw in draws) == len(rows)


# The problem


def test_what_a_draw_names(table: Table) -> None:
    problem = TableProblem(table)
    subject = problem.subject({"width": 8, "op": "conv"})
    # printf '{"op":"conv","width":8}' | sha256sum
    assert subject.digest == subject.latency_key == digest_of(SECOND) == "bb9c1ce08d86"
    assert subject.attributes == {
        "digest": subject.digest,
        "candidate": subject.digest,
        "description": "op=conv width=8",
        "row": 1,
        "params": 500.0,
    }
    assert subject.costs == {"params": 500.0}
    assert problem.rungs == (10.0, 40.0)
    assert problem.choices == {"op": ("conv", "none"), "width": (8, 16)}
    assert problem.size == 3
    assert problem.absent(SECOND) == ()


def test_equal_numbers_are_one_candidate(table: Table) -> None:
    problem = TableProblem(table)
    assert problem.subject({"op": "conv", "width": 8.0}) == problem.subject(SECOND)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        ({"op": "none", "width": 8}, "no row for op=none width=8; it answers 3 of 4 combinations, draw another"),
        ({"op": "pool", "width": 8}, "no row for op=pool width=8; op must be one of 'conv', 'none'"),
        ({"op": "conv", "width": "8"}, "no row for op=conv width=8; width must be one of 8, 16"),
        ({"op": "conv"}, "no row for op=conv; width must be one of 8, 16"),
    ],
)
def test_a_draw_without_a_row(table: Table, draw: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        TableProblem(table).subject(draw)


# The evaluator


def test_the_latency_is_the_tables(table: Table) -> None:
    answer = TableEvaluator(table, seed=0).measure(TableProblem(table).subject(THIRD))
    assert answer == {"latency_ms": 4.0, "latency_low_ms": 4.0, "latency_high_ms": 4.0}


def test_a_training_goes_on_from_the_rung_below(table: Table) -> None:
    subject = TableProblem(table).subject(THIRD)
    evaluator = TableEvaluator(table, seed=0)
    shares: list[float] = []
    # 800 s for 40 epochs: 20 s an epoch.
    first = evaluator.train(subject, 0, shares.append)
    assert first == {"val_top1": 60.0, "epochs": 10.0, "epochs_spent": 10.0, "seconds": 200.0}
    second = evaluator.train(subject, 1, shares.append)
    assert second == {"val_top1": 90.0, "epochs": 40.0, "epochs_spent": 30.0, "seconds": 600.0}
    assert shares == [1.0, 1.0]
    again = evaluator.train(subject, 1, shares.append)
    assert again["epochs_spent"] == 40.0


def test_a_training_without_the_rung_below_begins_anew(table: Table) -> None:
    problem = TableProblem(table)
    evaluator = TableEvaluator(table, seed=0)
    evaluator.train(problem.subject(FIRST), 0, lambda share: None)
    other = evaluator.train(problem.subject(SECOND), 1, lambda share: None)
    assert (other["epochs_spent"], other["seconds"]) == (40.0, 200.0)
    elsewhere = TableEvaluator(table, seed=0).train(problem.subject(FIRST), 1, lambda share: None)
    assert (elsewhere["epochs_spent"], elsewhere["seconds"]) == (40.0, 400.0)


def test_a_seed_chooses_one_of_several_trainings(table: Table) -> None:
    subject = TableProblem(table).subject(FIRST)

    def answers() -> list[float]:
        return [TableEvaluator(table, seed).train(subject, 1, lambda share: None)["val_top1"] for seed in range(200)]

    assert answers() == answers()
    assert set(answers()) == {58.0, 62.0}
    assert 70 <= answers().count(58.0) <= 130


# The clock


def test_two_slots_of_the_clock(table: Table) -> None:
    problem = TableProblem(table)
    executor = SimulatedExecutor(TableEvaluator(table, seed=0), slots=2)
    assert (executor.slots, executor.clock()) == (2, 0.0)
    assert executor.wait(1.0) is None
    # Seconds to the first rung: 100, 50 and 200.
    first, second, third = (job(problem, draw, rung=0) for draw in (FIRST, SECOND, THIRD))
    executor.submit(first)
    executor.submit(second)
    with pytest.raises(RuntimeError, match="all 2 slots are taken"):
        executor.submit(third)
    seen = [(executor.wait(1.0), executor.clock())]
    executor.submit(third)  # from 50 to 250
    seen.append((executor.wait(1.0), executor.clock()))
    executor.submit(job(problem, FIRST, rung=1))  # 30 epochs at 10 s, from 100 to 400
    seen += [(executor.wait(1.0), executor.clock()) for _ in range(2)]
    events = [event for event, _ in seen]
    assert all(isinstance(event, Answer) for event in events)
    assert [event.job.subject.attributes["row"] for event in events] == [1, 0, 2, 0]
    assert [event.job.rung for event in events] == [0, 0, 0, 1]
    assert [moment for _, moment in seen] == [50.0, 100.0, 250.0, 400.0]
    assert executor.wait(1.0) is None
    assert executor.clock() == 400.0


def test_a_measurement_takes_no_time_and_ties_keep_their_order(table: Table) -> None:
    problem = TableProblem(table)
    executor = SimulatedExecutor(TableEvaluator(table, seed=0), slots=4)
    executor.submit(job(problem, FIRST, rung=0))
    for draw in (THIRD, FIRST, SECOND):
        executor.submit(job(problem, draw))
    events = [executor.wait(0.0) for _ in range(3)]
    assert [event.attributes["latency_ms"] for event in events if isinstance(event, Answer)] == [4.0, 1.0, 2.0]
    assert executor.clock() == 0.0
    executor.close()
    assert executor.wait(0.0) is None
    assert executor.clock() == 0.0


class Broken:
    """Measures nothing, and trains nothing either."""

    def measure(self, subject: Subject) -> Attributes:
        raise MeasurementError("too noisy")

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> Attributes:
        raise TrainingError("the loss became nan") if rung == 0 else ZeroDivisionError


def test_a_candidate_that_fails_does_so_at_once(table: Table) -> None:
    problem = TableProblem(table)
    executor = SimulatedExecutor(Broken(), slots=2)
    jobs = [job(problem, FIRST), job(problem, FIRST, rung=0)]
    for each in jobs:
        executor.submit(each)
    assert executor.wait(1.0) == Failure(jobs[0], "too noisy", "candidate")
    assert executor.wait(1.0) == Failure(jobs[1], "the loss became nan", "candidate")
    assert executor.clock() == 0.0


def test_an_error_of_the_code_is_not_swallowed(table: Table) -> None:
    executor = SimulatedExecutor(Broken())
    with pytest.raises(ZeroDivisionError):
        executor.submit(job(TableProblem(table), FIRST, rung=1))
    assert executor.wait(1.0) is None


def test_no_slots_are_no_executor(table: Table) -> None:
    with pytest.raises(ValueError, match="slots is 0; it must be at least 1"):
        SimulatedExecutor(TableEvaluator(table, seed=0), slots=0)


# The shipped mapping


@pytest.mark.skipif(not NASBENCH201.is_dir(), reason="the NAS-Bench-201 table is not beside the repository")
def test_nasbench201() -> None:
    began = time.process_time()
    table = load(ROOT / "benchmarks/tables/nasbench201.toml", NASBENCH201 / "cifar100_titan_rtx.csv")
    assert time.process_time() - began < 1.0
    assert len(table) == 5**6 == 15_625
    assert list(table.choices) == [f"op{number}" for number in range(6)]
    operations = ("avg_pool_3x3", "none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect")
    assert set(table.choices.values()) == {operations}
    assert [accuracy.shape for accuracy in table.accuracy] == [(15_625, 1), (15_625, 3)]
    # The first row of the file.
    first = ("avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_1x1", "skip_connect", "skip_connect")
    assert table.index[first] == 0
    assert table.accuracy[0][0].tolist() == [31.84]
    assert table.true_accuracy[0] == pytest.approx((51.88 + 53.08 + 53.14) / 3)
    assert (table.seconds[0], table.latency_ms[0]) == (2888.4, 5.5567)
    assert np.isnan(table.accuracy[1]).sum(axis=0).tolist() == [0, 0, 7456]
    assert table.reference == (100.0, 10.0)
    assert 0 < table.optimum(5.0) < table.optimum() < 100 * 10
    problem = TableProblem(table)
    assert len({problem.subject(table.draw(row)).digest for row in range(len(table))}) == 15_625
    assert np.isfinite(table.true_accuracy).all()
    assert math.isclose(table.hypervolume(np.flatnonzero(table.latency_ms < 10).tolist()), table.optimum())
