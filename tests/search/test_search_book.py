"""What a study knows of a candidate while several drivers are at work on it."""

from typing import Any

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from vnas.search.engine.book import Book


def trial(number: int, state: TrialState, **attributes: Any) -> FrozenTrial:
    values = [attributes["rungs"][-1]["val_top1"], 1.0] if state == TrialState.COMPLETE else None
    made = create_trial(
        state=state,
        values=values,
        params={"a": 1},
        distributions={"a": IntDistribution(0, 1)},
        user_attrs={"candidate": "x", **attributes},
    )
    made.number = number
    return made


def test_a_repetition_lets_go_of_a_candidate_that_was_put_off() -> None:
    book = Book()
    book.learn(trial(0, TrialState.PRUNED, gate="promise", reason="put off", latency_ms=1.0))
    book.learn(trial(1, TrialState.RUNNING))
    assert book.entries["x"].running == 1
    book.learn(trial(1, TrialState.PRUNED, duplicate_of=0, gate="promise", reason="put off", latency_ms=1.0))
    entry = book.entries["x"]
    assert (entry.running, entry.status, entry.attributes["gate"]) == (None, "rejected", "promise")
    assert book.counted == 0
    assert book.saved() == {"promise": 1}


def test_of_two_trials_at_work_the_lower_has_the_candidate() -> None:
    book = Book()
    book.learn(trial(4, TrialState.RUNNING))
    book.learn(trial(3, TrialState.RUNNING))
    assert book.entries["x"].running == 3
    book.learn(trial(4, TrialState.PRUNED, duplicate_of=3))
    assert book.entries["x"].running == 3
    rung = {"rung": 0, "val_top1": 50.0, "epochs": 1.0, "epochs_spent": 1.0}
    book.learn(trial(3, TrialState.COMPLETE, rungs=[rung], latency_ms=1.0))
    entry = book.entries["x"]
    assert (entry.running, entry.status, book.counted) == (None, "judged", 1)


def test_a_candidate_knows_the_trial_that_judged_it_last() -> None:
    book = Book()
    book.learn(trial(0, TrialState.PRUNED, gate="promise", reason="put off", latency_ms=1.0))
    low = {"rung": 0, "val_top1": 50.0, "epochs": 1.0, "epochs_spent": 1.0}
    book.learn(trial(3, TrialState.PRUNED, rungs=[low], stopped=0, latency_ms=1.0))
    assert (book.entries["x"].number, book.entries["x"].judged_by) == (0, 3)
    high = {"rung": 1, "val_top1": 60.0, "epochs": 4.0, "epochs_spent": 3.0}
    book.learn(trial(7, TrialState.COMPLETE, rungs=[low, high], continues=0, latency_ms=1.0))
    assert book.entries["x"].judged_by == 7


def test_what_was_left_without_an_answer_may_be_drawn_again() -> None:
    book = Book()
    book.learn(trial(0, TrialState.RUNNING))
    book.learn(trial(0, TrialState.FAIL, interrupted=True, reason="interrupted"))
    assert not book.entries
    assert book.finished == book.counted == 0
