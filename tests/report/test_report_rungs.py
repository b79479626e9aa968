"""Studies with rungs and gates: who counts once, who is on the front, what was saved."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState
from synthetic_study import Writer, attributes, config, full_study, judged_at, rung_study, untrained
from test_report_render import text_of

from vnas.config import GatesConfig
from vnas.report import read_run, render
from vnas.report.analysis import Analysis, analyse
from vnas.report.candidates import GateCount, RungCount, gate_counts, rung_counts
from vnas.report.document import Paragraph
from vnas.report.limits import limits
from vnas.report.output import Paths
from vnas.report.section_protocol import data_and_splits
from vnas.report.section_saved import question, saved_by


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("rungs")
    rung_study(folder / "study.db")
    return analyse(read_run(folder))


@pytest.fixture(scope="module")
def paths(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return render(analysis.record, tmp_path_factory.mktemp("rendered"))


@pytest.fixture(scope="module")
def rows(paths: Paths) -> list[dict[str, str]]:
    with paths.trials_csv.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_what_a_trial_is_is_in_trials_csv(rows: list[dict[str, str]]) -> None:
    columns = ("state", "gate", "over_budget", "rung", "continues", "interrupted", "epochs", "epochs_spent")
    #                state       gate         over    rung cont. interrupted epochs epochs_spent
    assert {int(row["number"]): tuple(row[name] for name in columns) for row in rows} == {
        0: ("COMPLETE", "", "", "1", "", "False", "8", "8"),
        1: ("PRUNED", "", "", "0", "", "False", "2", "2"),
        2: ("PRUNED", "cost", "", "", "", "False", "", ""),
        3: ("PRUNED", "predicted", "True", "", "", "False", "", ""),
        4: ("PRUNED", "budget", "True", "", "", "False", "", ""),
        5: ("PRUNED", "hopeless", "", "", "", "False", "", ""),
        6: ("PRUNED", "promise", "", "", "", "False", "", ""),
        7: ("COMPLETE", "", "", "1", "", "False", "8", ""),
        8: ("PRUNED", "budget", "True", "", "", "False", "", ""),
        9: ("FAIL", "", "", "", "", "True", "", ""),
        10: ("PRUNED", "", "", "0", "", "False", "2", "2"),
        11: ("COMPLETE", "", "", "1", "1", "False", "8", "6"),
        12: ("PRUNED", "", "", "0", "", "False", "2", "2"),
        13: ("FAIL", "", "", "", "", "False", "", ""),
        14: ("FAIL", "", "", "0", "", "True", "2", "2"),
        15: ("PRUNED", "", "", "0", "", "False", "2", ""),
        16: ("FAIL", "", "", "0", "10", "False", "2", ""),
        17: ("PRUNED", "promise", "", "", "", "False", "", ""),
        18: ("WAITING", "", "", "", "", "False", "", ""),
        19: ("FAIL", "", "", "0", "14", "True", "2", ""),
        20: ("RUNNING", "", "", "0", "14", "False", "2", ""),
    }


def test_a_candidate_counts_once_however_many_trials_it_had(analysis: Analysis) -> None:
    assert {candidate.trials: (candidate.status, candidate.rung) for candidate in analysis.candidates} == {
        (0,): ("complete", 1),
        (1, 11): ("complete", 1),
        (2,): ("rejected", None),
        (3,): ("rejected", None),
        (4,): ("rejected", None),
        (5,): ("rejected", None),
        (6, 12): ("stopped", 0),
        (9, 10, 16): ("stopped", 0),
        (13,): ("failed", None),
        (14, 15, 19, 20): ("stopped", 0),
        (17,): ("rejected", None),
    }
    assert analysis.failed["number"].tolist() == [13, 16]
    assert analysis.rejected["number"].tolist() == [2, 3, 4, 5, 17]


def test_the_counts_that_the_report_says(paths: Paths) -> None:
    facts = dict(re.findall(r"- ([^:]+): \*\*(.+?)\*\*", paths.report_md.read_text(encoding="utf-8")))
    assert facts["Candidates trained in full"] == "2 of 11"
    assert facts["Trained in full"] == "2"
    assert facts["Stopped at a lower rung"] == "3"
    assert facts["Duplicates"] == "2"
    assert facts["Turned away by a gate"] == "5"
    assert facts["Failed"] == "1"
    assert facts["Interrupted"] == "3"
    assert facts["Not finished"] == "2"
    said = text_of(paths)
    assert "11 candidates in 21 trials" in said
    assert "and 1 after a lower rung" in said
    assert "5 candidates were trained with one seed each" in said
    assert "What 3 candidates would have reached in full" in said
    # 40 + 10 + 0 + 0 + 12 + 30 + 14 + 2 + 3 s of ended trials; the running one has the 9 s of the trial before it.
    assert "2 min of evaluation" in said


def test_only_the_last_rung_is_on_the_front(analysis: Analysis, rows: list[dict[str, str]]) -> None:
    # c7 has 99 % at 0.9 ms, at the first rung.
    assert [row["number"] for row in rows if row["on_front"] == "True"] == ["0", "11"]
    assert [(net.letter, net.trial, net.val_top1) for net in analysis.front] == [("A", 11, 85.0), ("B", 0, 90.0)]
    assert analysis.completed["number"].tolist() == [0, 11]
    # Up to 2 ms: 85 % from 0.8 ms to 1 ms, 90 % from there on.
    assert analysis.hypervolume == pytest.approx(0.2 * 85 + 1.0 * 90)


def test_a_retrained_net_is_found_by_its_candidate(analysis: Analysis) -> None:
    # The search stores the number of the first trial, and the front has that of the last.
    assert [len(net.retrained) for net in analysis.front] == [2, 0]


def test_of_two_schedules_of_a_net_the_retrained_one_speaks_for_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config("two", None, "training.epochs=8", "rungs.shares=[0.25, 1.0]"))
    one = untrained(0, 1.0)
    other = one | {"candidate": "other", "latency_ms": 1.1}
    writer.trial(one | judged_at(70.0) | {"stopped": 0}, TrialState.PRUNED)
    writer.trial(one | judged_at(70.0, 79.0) | {"continues": 0})
    writer.trial(other | judged_at(70.0, 80.0))
    writer.retrain(one, 0, [78.0])  # stored under its first trial, and on the front by its second
    writer.close()
    (net,) = analyse(read_run(tmp_path)).front
    assert (net.trial, net.val_top1, len(net.retrained)) == (1, 79.0, 1)


def test_predictors_use_every_measured_architecture_once(analysis: Analysis) -> None:
    assert analysis.nets["digest"].tolist() == [f"{index:012x}" for index in (0, 1, 4, 5, 6, 7, 8, 9, 10)]


def test_what_each_gate_saved(analysis: Analysis) -> None:
    # One of the two repetitions is of a candidate that was rejected; one of the two put off was trained later.
    assert gate_counts(analysis.record, analysis.candidates) == (
        GateCount("duplicate", 2, 1),
        GateCount("cost", 1, 1),
        GateCount("predicted", 1, 1),
        GateCount("budget", 1, 1),
        GateCount("hopeless", 1, 1),
        GateCount("promise", 2, 1),
    )


def test_what_happened_at_each_rung(analysis: Analysis) -> None:
    # Sent on: c0 and c1, c7 that failed on its way, c9 that is on it.
    assert rung_counts(analysis.record, analysis.candidates) == (RungCount(0, 2.0, 5, 4), RungCount(1, 6.0, 2, None))


@pytest.mark.parametrize("form", ["report_md", "report_html"])
def test_the_tables_are_in_page_and_text(paths: Paths, form: str) -> None:
    if form == "report_html":
        said = text_of(paths)
    else:
        said = " ".join(getattr(paths, form).read_text(encoding="utf-8").replace("|", " ").split())
    for words in (
        "What each question saved",
        "duplicate Is its answer known already? 2 1",
        "cost Does it have more than 50.0 k parameters? 1 1",
        "predicted Is its latency predicted to be over the budget of 2.00 ms, even by the low end of the prediction? "
        "1 1 ",
        "budget Is its measured latency over the budget of 2.00 ms? 1 1",
        "hopeless Would it be behind the front even if an optimistic guess of its accuracy came true? 1 1",
        "promise Now that it is measured, does another candidate promise more? 2 1",
        "1 2 5 4 2 6 2 —",
        # 8 + 2 + 2 + 6 + 2 + 2 epochs; 5 candidates were trained.
        "Up to the last judgement of each candidate 22 epochs were spent in all. Training each of the 5 candidates to "
        "the last rung, 8 epochs each, would have cost 40: 1.8 times as many.",
    ):
        assert words in said


def test_what_was_not_trained_is_timed_by_the_first_rung(paths: Paths) -> None:
    said = text_of(paths)
    # 10, 12 and 14 s; the trial that went through both rungs at once and the one that went on are left out.
    typical = "At the median 12 s of a trial that ended at the first rung that is"
    assert f"2 trials drew a candidate that was known and took its answer. {typical} 12 s." in said
    assert (
        f"1 net was over the latency budget of 2.00 ms, measured before training and not trained. {typical} 12 s."
        in (said)
    )
    assert f"4 candidates were turned away before training by another question. {typical} 48 s." in said


def test_the_table_lists_what_came_to_nothing(paths: Paths) -> None:
    table = paths.report_md.read_text(encoding="utf-8").partition("Trials that failed or were turned away")[2]
    found = re.findall(r"^\| (\d+) \| ([^|]+) \|", table.partition("##")[0], re.MULTILINE)
    assert found == [
        ("2", "turned away: cost"),
        ("3", "turned away: predicted"),
        ("4", "turned away: budget"),
        ("5", "turned away: hopeless"),
        ("13", "failed"),
        ("16", "failed"),
        ("17", "turned away: promise"),
    ]


def test_without_gates_that_turned_away_and_rungs_there_is_no_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    for index in range(3):
        writer.trial(attributes(index, stem=16, widths=[32] * (index + 1)))
    writer.close()
    found = analyse(read_run(tmp_path))
    assert saved_by(found) == ()
    assert "What each question saved" not in text_of(render(found.record, tmp_path))


def test_rungs_alone_have_their_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config("rungs", None, "training.epochs=8", "rungs.shares=[0.25, 1.0]"))
    found = analyse(read_run(tmp_path, "rungs"))
    assert [len(section.blocks) for section in saved_by(found)] == [1]  # nothing was trained yet: no sentence
    writer.trial(untrained(0, 1.0) | judged_at(70.0) | {"stopped": 0}, TrialState.PRUNED)
    writer.close()
    (section,) = saved_by(analyse(read_run(tmp_path, "rungs")))
    sentence = section.blocks[1]
    assert isinstance(sentence, Paragraph)
    assert "Training the one candidate to the last rung, 8 epochs, would have cost 8: 4.0 times" in sentence.text


def test_old_studies_say_the_gate_by_the_budget(tmp_path: Path) -> None:
    full_study(tmp_path / "study.db")
    found = analyse(read_run(tmp_path))
    trials = found.record.trials.set_index("number")
    assert trials["gate"].dropna().to_dict() == {11: "budget", 12: "budget"}
    assert trials["rung"].isna().tolist() == [number in (11, 12, 14, 15) for number in range(24)]
    assert trials["epochs_spent"][0] == 6
    assert pd.isna(trials["epochs_spent"][9])  # a repetition
    # 24 trials: 2 repetitions and an interrupted one are no candidates.
    statuses = Counter(candidate.status for candidate in found.candidates)
    assert statuses == {"complete": 18, "rejected": 2, "failed": 1}
    counts = {count.gate: (count.turned_away, count.saved) for count in gate_counts(found.record, found.candidates)}
    assert counts["duplicate"] == (2, 2)
    assert counts["budget"] == (2, 2)
    assert "cost" not in counts  # the study sets no limit


def test_a_gate_that_is_off_has_no_row(analysis: Analysis) -> None:
    study = config("off", 2.0, "gates.hopeless=false", "gates.budget=false")
    record = replace(analysis.record, study=study)
    rows = [count.gate for count in gate_counts(record, ())]
    assert rows == ["duplicate", "predicted", "promise"]


def test_every_gate_has_its_question(analysis: Analysis) -> None:
    for gate in GatesConfig.model_fields:
        assert question(analysis.record.study, gate).endswith("?")
    assert question(config(), "budget") == "Is its measured latency over the budget?"
    study = config("both", None, "constraints.params=1_000_000", "constraints.macs=2_500_000")
    assert question(study, "cost") == "Does it have more than 1.00 M parameters or 2.50 M MACs?"


def test_rungs_that_a_trial_before_the_last_judged_are_counted_once(tmp_path: Path) -> None:
    # `continues` is the first trial, also where one after it judged another rung.
    writer = Writer(tmp_path / "study.db", config("three", None, "training.epochs=8", "rungs.shares=[0.25, 0.5, 1.0]"))
    net = untrained(0, 1.0)
    three = [
        {"rung": rung, "val_top1": 70.0 + rung, "epochs": epochs, "epochs_spent": spent}
        for rung, epochs, spent in ((0, 2.0, 2.0), (1, 4.0, 2.0), (2, 8.0, 4.0))
    ]
    writer.trial(net | {"rungs": three[:1], "stopped": 0}, TrialState.PRUNED)
    writer.trial(net | {"rungs": three[:2], "stopped": 1, "continues": 0}, TrialState.PRUNED)
    writer.trial(net | {"rungs": three, "continues": 0, "val_top1": 72.0})
    writer.close()
    found = analyse(read_run(tmp_path))
    assert found.record.trials["epochs_spent"].tolist() == [2.0, 2.0, 4.0]
    assert [(rung.epochs, rung.judged, rung.sent_on) for rung in rung_counts(found.record, found.candidates)] == [
        (2.0, 1, 1), (2.0, 1, 1), (4.0, 1, None),
    ]  # fmt: skip


def test_parts_of_an_epoch_are_kept(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config("part", None, "rungs.shares=[0.05, 1.0]"))
    rung = {"rung": 0, "val_top1": 50.0, "epochs": 0.5, "epochs_spent": 0.5}
    judged = {"rungs": [rung], "val_top1": 50.0, "epochs": 0.5, "stopped": 0}
    writer.trial(untrained(0, 1.0) | judged, TrialState.PRUNED)
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    table = pd.read_csv(paths.trials_csv)
    assert (table["epochs"][0], table["epochs_spent"][0]) == (0.5, 0.5)
    assert "1 0.5 1 0" in text_of(paths)


def test_a_net_over_the_budget_is_not_on_the_front_where_no_gate_asked(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config("slow", 2.0, "gates.budget=false"))
    for index, latency_ms in enumerate((1.0, 2.0, 2.5)):
        writer.trial(attributes(index, stem=16, widths=[32]) | {"latency_ms": latency_ms, "val_top1": 80.0 + index})
    writer.close()
    assert [net.trial for net in analyse(read_run(tmp_path)).front] == [0, 1]


def test_a_candidate_that_was_trained_twice_is_one_with_the_last_result(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config("twice", None, "gates.duplicate=false"))
    net = attributes(0, stem=16, widths=[32])
    for accuracy in (80.0, 79.0):
        writer.trial(net | {"val_top1": accuracy, "rungs": [{"rung": 0, "val_top1": accuracy, "epochs_spent": 6}]})
    writer.close()
    found = analyse(read_run(tmp_path))
    assert [(net.trial, net.val_top1) for net in found.front] == [(1, 79.0)]
    assert len(found.candidates) == 1
    assert found.record.trials["epochs_spent"].tolist() == [6, 6]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "In the search each net is trained for 10 epochs and judged, fused, on the validation set. Of the front"),
        (
            ("rungs.shares=[0.1, 0.35, 1.0]",),
            "In the search each net is trained for 1 epoch and judged, fused, on the validation set; some are sent on "
            "and judged again after 3.5 and 10 epochs. Lambda reaches 1 before each judgement. A net that is sent on "
            "starts from the one that was judged, with lambda put back. Of the front",
        ),
        (("rungs.shares=[0.2, 1.0]", "rungs.strategy='restart'"), "trained for 2 epochs and judged"),
        (("rungs.shares=[0.2, 1.0]", "rungs.strategy='restart'"), "starts from fresh weights. Of the front"),
        (("rungs.shares=[0.2, 1.0]", "rungs.strategy='branch'"), "starts from where the branch left. Of the front"),
    ],
)
def test_how_nets_are_trained_in_the_search(analysis: Analysis, settings: tuple[str, ...], said: str) -> None:
    record = replace(analysis.record, study=config("data", None, *settings))
    blocks = data_and_splits(replace(analysis, record=record)).blocks
    assert any(said in block.text for block in blocks if isinstance(block, Paragraph))


def energetic(folder: Path, *nets: tuple[float, float, float]) -> Paths:
    writer = Writer(folder / "study.db", config("energy", None, "energy=true"))
    for index, (accuracy, latency_ms, energy_mj) in enumerate(nets):
        values = attributes(index, stem=16, widths=[32] * (index + 1))
        values |= {"val_top1": accuracy, "latency_ms": latency_ms, "energy_mj": energy_mj}
        writer.trial(values | {"latency_low_ms": latency_ms * 0.99, "latency_high_ms": latency_ms * 1.01})
    writer.close()
    return render(read_run(folder), folder)


def test_energy_is_a_third_objective(tmp_path: Path) -> None:
    #          accuracy  latency  energy
    #   0 / B  90        2        4       the most accurate
    #   1 / A  80        1        5       the fastest
    #   2 / C  80        3        2       dominated but for its energy
    #   3      80        3        3       2 is as good and needs less
    paths = energetic(tmp_path, (90.0, 2.0, 4.0), (80.0, 1.0, 5.0), (80.0, 3.0, 2.0), (80.0, 3.0, 3.0))
    front = pd.read_csv(paths.front_csv)
    assert front["trial"].tolist() == [1, 0, 2]
    assert front["energy_mj"].tolist() == [5.0, 4.0, 2.0]
    text = paths.report_md.read_text(encoding="utf-8")
    (head,) = [line for line in text.splitlines() if line.startswith("| net | latency, ms")]
    assert head.endswith("| MACs | energy, mJ |")
    (row,) = [line for line in text.splitlines() if line.startswith("| C | 3.0")]
    assert row.endswith("| 2.00 |")
    said = text_of(paths)
    assert "Energy is an objective too: C needs least of it, 2.00 mJ a pass, with 3.00 ms and 80.0 %" in said
    # Below 3 ms, 5 mJ: 0 has 90 x (3 - 2) x (5 - 4); the others lie in a corner of it.
    assert "Hypervolume of the validation front: 90.0 %·ms·mJ, up to 0 %, 3.00 ms and 5.00 mJ" in said


def test_with_energy_one_net_may_be_fastest_and_most_accurate_and_not_alone(tmp_path: Path) -> None:
    said = text_of(energetic(tmp_path, (90.0, 1.0, 4.0), (80.0, 2.0, 2.0)))
    assert "One net is both the fastest and the most accurate of those trained" in said
    assert "B needs least of it" in said


def test_without_energy_as_an_objective_nothing_is_said_of_it(paths: Paths) -> None:
    assert "energy, mJ" not in paths.report_md.read_text(encoding="utf-8")
    assert "Energy is an objective" not in text_of(paths)


@pytest.mark.parametrize(("energy_mj", "displaced"), [(4.0, False), (6.0, True)])
def test_the_test_set_judges_three_objectives(tmp_path: Path, energy_mj: float, displaced: bool) -> None:
    writer = Writer(tmp_path / "study.db", config("energy", None, "energy=true"))
    fast = attributes(0, stem=16, widths=[32]) | {"val_top1": 80.0, "latency_ms": 1.0, "energy_mj": 5.0}
    slow = attributes(1, stem=16, widths=[32, 32]) | {"val_top1": 90.0, "latency_ms": 2.0, "energy_mj": energy_mj}
    # Slower, and worse on the test set; still of the front if it needs less energy.
    writer.retrain(fast, writer.trial(fast), [88.0])
    writer.retrain(slow, writer.trial(slow), [80.0])
    writer.close()
    said = " ".join(limits(analyse(read_run(tmp_path))))
    assert ("and energy, another net is at least as good in all three as B." in said) == displaced
