"""A report, section by section, from the analysis."""

from __future__ import annotations

import datetime
from collections.abc import Collection

import pandas as pd

from vnas.report import findings
from vnas.report.analysis import Analysis, rows
from vnas.report.document import Block, Document, Facts, Items, Paragraph, Section, Table
from vnas.report.limits import limits
from vnas.report.numbers import duration, number_word, shown, significant
from vnas.report.section_front import front
from vnas.report.section_prediction import prediction, training
from vnas.report.section_protocol import data_and_splits, protocol

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
    flops = analysis.judgements["flops"].scores
    if flops is not None and flops.within_10 is not None:
        share = findings.estimate(flops.within_10, 0, " %")
        facts.append(("FLOPs line, within 10 %", share, f"of {number_word(flops.n, 'net')} held out"))
    trained = f"{len(analysis.completed)} of {len(analysis.record.trials)}"
    facts.append(("Trials trained", trained, f"{number_word(len(analysis.front), 'net')} on the front"))
    return (*(Paragraph(sentence) for sentence in findings.headline(analysis)), Facts(tuple(facts)))


def _trials(analysis: Analysis) -> Section:
    trials = analysis.record.trials
    states = trials["state"]
    other = {name: int((states == name).sum()) for name in ("RUNNING", "WAITING")}
    interrupted = int(trials["interrupted"].fillna(False).sum())
    facts = [
        ("Trained", str(len(analysis.completed)), ""),
        ("Duplicates", str(len(analysis.duplicates)), "known answer taken" if len(analysis.duplicates) else ""),
        ("Stopped by a gate", str(len(analysis.rejected)), ""),
        ("Failed", str(len(analysis.failed)), ""),
    ]
    if interrupted:
        facts.append(("Interrupted", str(interrupted), "drawn again after a resume"))
    if other["RUNNING"] + other["WAITING"]:
        facts.append(
            ("Not finished", str(other["RUNNING"] + other["WAITING"]), "running or waiting when this was read")
        )
    blocks: list[Block] = [Facts(tuple(facts))]
    if len(trials) == 0:
        blocks.append(Paragraph("The study holds no trial yet."))
    else:
        blocks += [Paragraph("What was not trained:"), Items(tuple(findings.savings(analysis)))]
    if analysis.hypervolume is not None and analysis.reference_ms is not None:
        blocks.append(
            Paragraph(
                f"Hypervolume of the validation front: {significant(analysis.hypervolume)} %·ms, up to 0 % and "
                f"{significant(analysis.reference_ms)} ms "
                + (
                    "(the budget)."
                    if analysis.record.study.latency.budget_ms is not None
                    else "(the slowest trained net)."
                )
            )
        )
    unsuccessful = pd.concat([analysis.failed, analysis.rejected]).sort_values("number")
    if len(unsuccessful):
        head = unsuccessful.head(_MOST_FAILURES)
        rest = len(unsuccessful) - len(head)
        cells = tuple(
            (str(row.number), _state(row.state), shown(row.reason), shown(row.description)) for row in rows(head)
        )
        caption = "Trials without a trained net" + (
            f", the first {len(head)}; {rest} more in trials.csv." if rest else "."
        )
        blocks.append(Table(caption, ("trial", "state", "reason", "architecture"), (True, False, False, False), cells))
    return Section("Trials", "trials", tuple(blocks))


def _state(state: str) -> str:
    return {"FAIL": "failed", "PRUNED": "stopped"}.get(state, state.lower())


def compose(analysis: Analysis, figures: Collection[str], saved: Collection[str]) -> Document:
    """The whole report.

    Args:
        analysis: of the study.
        figures: names of the figures that were drawn.
        saved: digests whose weights are in the run directory.
    """
    record = analysis.record
    source = record.data.get("source", record.study.data.source)
    spent = record.trials["seconds"].dropna()
    finished = record.trials["finished_at"].dropna()
    subtitle = (
        f"{source} · {record.device or 'device unknown'} · {number_word(len(record.trials), 'trial')} · sampler "
        f"{record.study.sampler}, seed {record.study.seed}"
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
            Section("What this data cannot say", "limits", (Items(tuple(limits(analysis))),)),
            protocol(analysis),
            data_and_splits(analysis),
        ),
        closing=closing,
    )
