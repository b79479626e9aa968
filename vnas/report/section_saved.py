"""The section on what the questions before training saved, and the rungs."""

from __future__ import annotations

from vnas.config import StudyConfig
from vnas.report.analysis import Analysis
from vnas.report.candidates import gate_counts, rung_counts, trained
from vnas.report.document import Block, Paragraph, Section, Table
from vnas.report.numbers import ABSENT, count, number_word, significant

_LIMITED = {"params": "parameters", "macs": "MACs"}


def question(study: StudyConfig, gate: str) -> str:
    """What a gate asks, in words.

    Args:
        study: which says the limits.
        gate: its name.
    """
    budget = study.latency.budget_ms
    over = "over the budget" + ("" if budget is None else f" of {significant(budget)} ms")
    limits = study.constraints.model_dump(exclude_none=True)
    allowed = " or ".join(f"{count(limits[name])} {word}" for name, word in _LIMITED.items() if name in limits)
    return {
        "duplicate": "Is its answer known already?",
        "cost": f"Does it have more than {allowed or 'the parameters or MACs allowed'}?",
        "predicted": f"Is its latency predicted to be {over}, even by the low end of the prediction?",
        "budget": f"Is its measured latency {over}?",
        "hopeless": "Would it be behind the front even if an optimistic guess of its accuracy came true?",
        "promise": "Now that it is measured, does another candidate promise more?",
    }[gate]


def _gates(analysis: Analysis) -> Table | None:
    counts = gate_counts(analysis.record, analysis.candidates)
    if not any(entry.turned_away for entry in counts):
        return None
    return Table(
        "The gates, the cheapest first. A training is saved by the gate that turned a candidate away last; one that "
        "was put off and trained later, or that repeats what was never trained, saves none.",
        ("gate", "what it asks", "candidates turned away", "trainings saved"),
        (False, False, True, True),
        tuple(
            (entry.gate, question(analysis.record.study, entry.gate), str(entry.turned_away), str(entry.saved))
            for entry in counts
        ),
    )


def _epochs(value: float | None) -> str:
    # Two decimals where there are any; a thousand keeps its digits.
    return ABSENT if value is None else f"{value:,.2f}".rstrip("0").rstrip(".")


def _rungs(analysis: Analysis) -> list[Block]:
    counts = rung_counts(analysis.record, analysis.candidates)
    table = Table(
        "The rungs, the lowest first: epochs that a candidate costs there beyond the rung below, in the median. "
        "trials.csv counts the rungs from 0.",
        ("rung", "epochs a candidate", "candidates judged", "sent on"),
        (False, True, True, True),
        tuple(
            (
                str(entry.rung + 1),
                _epochs(entry.epochs),
                str(entry.judged),
                ABSENT if entry.sent_on is None else str(entry.sent_on),
            )
            for entry in counts
        ),
    )
    return [table, *_in_full(analysis)]


def _in_full(analysis: Analysis) -> list[Block]:
    """What the rungs spent, beside training every candidate in full."""
    spent = float(analysis.record.trials["epochs_spent"].sum())
    each = analysis.record.study.training.epochs
    candidates = len(trained(analysis.candidates))
    if not spent or not candidates:
        return []
    full = candidates * each
    return [
        Paragraph(
            f"Up to the last judgement of each candidate {_epochs(spent)} epochs were spent in all. Training "
            f"{'the one candidate' if candidates == 1 else f'each of the {candidates} candidates'} to the last rung, "
            f"{number_word(each, 'epoch')}{'' if candidates == 1 else ' each'}, would have cost {_epochs(full)}: "
            f"{significant(full / spent, 2)} times as many."
        )
    ]


def saved_by(analysis: Analysis) -> tuple[Section, ...]:
    """What each question saved; nothing where no gate turned anything away and there is one rung only.

    Args:
        analysis: of the study.
    """
    blocks: list[Block] = []
    if (gates := _gates(analysis)) is not None:
        blocks.append(gates)
    if analysis.several_rungs:
        blocks += _rungs(analysis)
    return (Section("What each question saved", "saved", tuple(blocks)),) if blocks else ()
