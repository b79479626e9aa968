"""A report, section by section, from the analysis."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection
from typing import Any

import pandas as pd

from vnas.report import findings
from vnas.report.analysis import Analysis, rows
from vnas.report.document import Block, Document, Facts, Items, Paragraph, Section, Table
from vnas.report.limits import limits
from vnas.report.numbers import duration, number_word, shown, significant
from vnas.report.section_front import front
from vnas.report.section_prediction import prediction, training
from vnas.report.section_protocol import data_and_splits, protocol
from vnas.report.section_saved import saved_by

# Reasons differ in their numbers; beyond this many rows the table points to trials.csv.
_MOST_FAILURES = 20


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "at an unknown time"
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _answer(analysis: Analysis) -> tuple[Block, ...]:
    facts: list[tuple[str, str, str]] = []
    if analysis.front:
        fast, top = analysis.front[0], findings.best(analysis)
        facts.append(
            (f"Fastest of the front: {fast.letter}", findings.short_latency(fast), findings.accuracy(analysis, fast))
        )
        if top is not fast:
            reached, _, where = findings.accuracy(analysis, top).partition(" on ")
            facts.append((f"Most accurate: {top.letter}", reached, f"on {where}, {findings.short_latency(top)}"))
        if analysis.record.study.energy:
            frugal = findings.least_energy(analysis)
            energy = f"{significant(frugal.energy_mj)} mJ a pass"
            facts.append((f"Least energy: {frugal.letter}", energy, findings.short_latency(frugal)))
    flops = analysis.judgements["flops"].scores
    if flops is not None and flops.within_10 is not None:
        share = findings.estimate(flops.within_10, 0, " %")
        facts.append(("FLOPs line, within 10 %", share, f"of {number_word(flops.n, 'net')} held out"))
    trained = f"{_statuses(analysis)['complete']} of {len(analysis.candidates)}"
    name = "Candidates trained in full" if analysis.several_rungs else "Candidates trained"
    facts.append((name, trained, f"{number_word(len(analysis.front), 'net')} on the front"))
    return (*(Paragraph(sentence) for sentence in findings.headline(analysis)), Facts(tuple(facts)))


def _statuses(analysis: Analysis) -> Counter[str]:
    return Counter(candidate.status for candidate in analysis.candidates)


def _counts(analysis: Analysis) -> Facts:
    """Candidates by what became of them, each once; then the trials that are no candidates of their own."""
    trials, counts = analysis.record.trials, _statuses(analysis)
    facts = [("Trained in full" if analysis.several_rungs else "Trained", str(counts["complete"]), "")]
    if analysis.several_rungs:
        facts.append(("Stopped at a lower rung", str(counts["stopped"]), ""))
    higher = len(analysis.failed) - counts["failed"]
    duplicates = len(analysis.duplicates)
    facts += [
        ("Duplicates", str(duplicates), "known answer taken" if duplicates else ""),
        ("Turned away by a gate", str(counts["rejected"]), ""),
        ("Failed", str(counts["failed"]), f"and {higher} after a lower rung" if higher else ""),
    ]
    if interrupted := int(trials["interrupted"].sum()):
        facts.append(("Interrupted", str(interrupted), "trials cut short, not failures"))
    if unfinished := int(trials["state"].isin(["RUNNING", "WAITING"]).sum()):
        facts.append(("Not finished", str(unfinished), "running or waiting when this was read"))
    return Facts(tuple(facts))


def _hypervolume(analysis: Analysis) -> list[Block]:
    if analysis.hypervolume is None or analysis.reference_ms is None:
        return []
    limited = analysis.record.study.latency.budget_ms is not None
    unit, corner = "%·ms", f"0 % and {significant(analysis.reference_ms)} ms"
    origin = "the budget" if limited else "the slowest trained net"
    if analysis.reference_mj is not None:
        unit, energy = "%·ms·mJ", f"{significant(analysis.reference_mj)} mJ"
        corner = f"0 %, {significant(analysis.reference_ms)} ms and {energy}"
        origin += " and the most energy of a trained net"
    return [
        Paragraph(
            f"Hypervolume of the validation front: {significant(analysis.hypervolume)} {unit}, up to {corner} "
            f"({origin})."
        )
    ]


def _trials(analysis: Analysis) -> Section:
    blocks: list[Block] = [_counts(analysis)]
    if len(analysis.record.trials) == 0:
        blocks.append(Paragraph("The study holds no trial yet."))
    else:
        blocks += [Paragraph("What was not trained:"), Items(tuple(findings.savings(analysis)))]
    blocks += [*_hypervolume(analysis), *_unsuccessful(analysis)]
    return Section("Trials", "trials", tuple(blocks))


def _unsuccessful(analysis: Analysis) -> list[Block]:
    unsuccessful = pd.concat([analysis.failed, analysis.rejected]).sort_values("number")
    if not len(unsuccessful):
        return []
    head = unsuccessful.head(_MOST_FAILURES)
    rest = len(unsuccessful) - len(head)
    cells = tuple((str(row.number), _state(row), shown(row.reason), shown(row.description)) for row in rows(head))
    caption = "Trials that failed or were turned away" + (
        f", the first {len(head)}; {rest} more in trials.csv." if rest else "."
    )
    return [Table(caption, ("trial", "state", "reason", "architecture"), (True, False, False, False), cells)]


def _state(row: Any) -> str:
    if row.state == "FAIL":
        return "failed"
    return "turned away" if pd.isna(row.gate) else f"turned away: {row.gate}"


def compose(analysis: Analysis, figures: Collection[str], saved: Collection[str]) -> Document:
    """The whole report.

    Args:
        analysis: of the study.
        figures: names of the figures that were drawn.
        saved: digests whose weights are in the run directory.
    """
    record = analysis.record
    source = record.data.get("source", record.study.data.source)
    # A trial that goes on from another has the other's seconds until it ends.
    spent = record.trials["seconds"][record.trials["state"].isin(["COMPLETE", "PRUNED", "FAIL"])]
    spent = spent[~record.trials["interrupted"]].dropna()
    finished = record.trials["finished_at"].dropna()
    subtitle = (
        f"{source} · {record.device or 'device unknown'} · {number_word(len(analysis.candidates), 'candidate')} in "
        f"{number_word(len(record.trials), 'trial')} · sampler {record.study.sampler}, seed {record.study.seed}"
    )
    version = f"vnas {record.vnas_version}" if record.vnas_version else "an unknown version of vnas"
    closing = (
        f"Begun {_when(record.started_at)} with {version}"
        + (f", last trial finished {_when(float(finished.max()))}" if len(finished) else "")
        + (f", {duration(float(spent.sum()))} of evaluation" if len(spent) else "")
        + ". Beside this report: trials.csv, front.csv, environment.json, figures/. Rendered from the study's storage; "
        "python -m vnas.report renders it again."
    )
    return Document(
        title=f"Fast, accurate plain nets: {record.name}",
        subtitle=subtitle,
        answer=_answer(analysis),
        sections=(
            front(analysis, figures, saved),
            prediction(analysis, figures),
            *training(figures),
            _trials(analysis),
            *saved_by(analysis),
            Section("What this data cannot say", "limits", (Items(tuple(limits(analysis))),)),
            protocol(analysis),
            data_and_splits(analysis),
        ),
        closing=closing,
    )
