"""The sentences of a report, each computed from the data and hedged where it is thin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vnas.prediction import Estimate
from vnas.report.analysis import Analysis, FrontNet
from vnas.report.candidates import gate_counts
from vnas.report.numbers import ABSENT, count, duration, measured, middle, number_word, percent, significant

# Rank correlations from fewer judged nets than this are called thin whatever their interval.
FEW_NETS = 20


def estimate(value: Estimate | None, places: int = 2, unit: str = "") -> str:
    """A score with its interval, ``0.71 [0.42, 0.90]``."""
    if value is None:
        return "not defined"
    # Adding 0.0 after rounding keeps a minus sign from a value that rounds to zero.
    shown = [
        f"{round(part, places) + 0.0:.{places}f}" for part in (value.value, value.low, value.high) if part is not None
    ]
    ends = f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else ""
    return f"{shown[0]}{unit}{ends}"


def part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table inside the stored data; empty where it is not there."""
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def images(analysis: Analysis, split: str) -> int | None:
    """Number of images of a split, where stored."""
    value = part(analysis.record.data, "counts").get(split)
    return value if isinstance(value, int) else None


def accuracy(analysis: Analysis, net: FrontNet) -> str:
    """The accuracy of a net of the front, saying which set it is on."""
    if net.saved is not None:
        return f"{percent(net.saved.test_top1, images(analysis, 'test'))} % on the test set"
    return f"{percent(net.val_top1, images(analysis, 'validation'))} % on the validation set"


def best(analysis: Analysis) -> FrontNet:
    """The most accurate net of the front: by validation accuracy, as it was chosen, not by the test set."""
    return max(analysis.front, key=lambda net: (net.val_top1, -net.latency_ms.value))


def _latency(net: FrontNet) -> str:
    value = net.latency_ms
    return f"{measured(value.value, value.low, value.high)} ms"


def headline(analysis: Analysis) -> list[str]:
    """The answer in two or three sentences."""
    device = analysis.record.device or "an unnamed device"
    if not analysis.front:
        return [
            f"No net was trained to the end within the limits, so there is no front yet on {device}.",
            *_prediction_sentences(analysis),
        ]
    fast, top = analysis.front[0], best(analysis)
    # With energy as an objective a net that is neither may be on the front too.
    if len(analysis.front) == 1 or (top is fast and analysis.record.study.energy):
        first = (
            f"One net is both the fastest and the most accurate of those trained, at batch 1 on {device}: {fast.letter}"
            f", {_latency(fast)}, {accuracy(analysis, fast)}."
        )
    else:
        ratio = top.latency_ms.value / fast.latency_ms.value
        first = (
            f"At batch 1 on {device} the fastest net of the front, {fast.letter}, takes {_latency(fast)} and reaches "
            f"{accuracy(analysis, fast)}; the most accurate on the validation set, {top.letter}, takes {_latency(top)} "
            f"({significant(ratio, 2)} times as long) and reaches {accuracy(analysis, top)}.{_overlap(fast, top)}"
        )
    return [first, *_energy_sentence(analysis), *_prediction_sentences(analysis)]


def _energy_sentence(analysis: Analysis) -> list[str]:
    if not analysis.record.study.energy:
        return []
    frugal = least_energy(analysis)
    return [
        f"Energy is an objective too: {frugal.letter} needs least of it, {significant(frugal.energy_mj)} mJ a pass, "
        f"with {short_latency(frugal)} and {accuracy(analysis, frugal)}."
    ]


def least_energy(analysis: Analysis) -> FrontNet:
    """The net of the front that needs least energy, the faster of equal ones."""
    return min(analysis.front, key=lambda net: math.inf if net.energy_mj is None else net.energy_mj)


def _overlap(fast: FrontNet, top: FrontNet) -> str:
    one, other = fast.test_top1, top.test_top1
    if one is None or other is None or one.high is None or other.low is None or other.low > one.high:
        return ""
    return " Over seeds their test accuracies overlap, so the slower one is not shown to be better."


def _prediction_sentences(analysis: Analysis) -> list[str]:
    flops = analysis.judgements["flops"].scores
    if flops is None:
        measured_nets = number_word(len(analysis.nets), "measured net")
        return [
            f"How far FLOPs tell latency cannot be said: {measured_nets}, too few to fit on half and judge on half."
        ]
    if flops.kendall_tau is None:
        return ["How far FLOPs rank latency is not defined here: the judged nets do not differ in FLOPs or in latency."]
    thin = "Thin evidence: " if flops.n < FEW_NETS else ""
    sentence = (
        f"{thin}a line on FLOPs ranked {number_word(flops.n, 'net')} that it was not fitted on with Kendall tau "
        f"{estimate(flops.kendall_tau)} and put {estimate(flops.within_10, 0, ' %')} of them within 10 %"
    )
    depth = analysis.judgements["depth"].scores
    if depth is not None and depth.kendall_tau is not None:
        sentence += f"; a line on depth: tau {estimate(depth.kendall_tau)}, {estimate(depth.within_10, 0, ' %')}"
        sentence += "." + _compare(flops.kendall_tau, depth.kendall_tau)
    else:
        sentence += "."
    return [sentence[0].upper() + sentence[1:]]


def _compare(flops: Estimate, depth: Estimate) -> str:
    if flops.low is None or flops.high is None or depth.low is None or depth.high is None:
        return " There are too few nets for intervals, so neither can be called better."
    if flops.low > depth.high:
        return " FLOPs rank these nets better than depth."
    if depth.low > flops.high:
        return " Depth ranks these nets better than FLOPs."
    return " The intervals overlap, so neither is shown to be better."


def savings(analysis: Analysis) -> list[str]:
    """What was not trained, and about how long that would have taken."""
    lines = []
    counts = {count.gate: count for count in gate_counts(analysis.record, analysis.candidates)}

    if n := len(analysis.duplicates):
        known = f"{number_word(n, 'trial')} drew a candidate that was known and took its answer."
        lines.append(known + _time_of(analysis, counts["duplicate"].saved))
    over = counts["budget"].saved if "budget" in counts else 0
    if over:
        budget = analysis.record.study.latency.budget_ms
        limit = f" of {significant(budget)} ms" if budget is not None else ""
        lines.append(
            f"{number_word(over, 'net was', 'nets were')} over the latency budget{limit}, measured before training and "
            f"not trained.{_time_of(analysis, over)}"
        )
    if other := sum(count.saved for gate, count in counts.items() if gate not in ("duplicate", "budget")):
        turned_away = number_word(other, "candidate was", "candidates were")
        lines.append(f"{turned_away} turned away before training by another question.{_time_of(analysis, other)}")
    unnamed = sum(candidate.status == "rejected" and not candidate.gates for candidate in analysis.candidates)
    if unnamed:
        lines.append(f"{number_word(unnamed, 'trial was', 'trials were')} stopped for another reason.")
    return lines or ["Nothing: every trial was a new candidate within the limits."]


def _time_of(analysis: Analysis, trainings: int) -> str:
    """About how long so many trainings would have taken, to the first rung at least."""
    trials = analysis.record.trials
    begun = trials["state"].isin(["COMPLETE", "PRUNED"]) & trials["continues"].isna()
    to_first = begun & trials["rungs"].map(lambda rungs: [entry["rung"] for entry in rungs] == [0])
    seconds = trials["seconds"][to_first].dropna()
    if not trainings or not len(seconds):
        return ""
    typical = float(seconds.median())
    trial = "trial that ended at the first rung" if analysis.several_rungs else "trained trial"
    return f" At the median {duration(typical)} of a {trial} that is {duration(trainings * typical)}."


def schedule(anneal: Mapping[str, Any] | None) -> str:
    """A lambda schedule in a few words."""
    if not anneal:
        return ABSENT
    start, end = anneal.get("start"), anneal.get("end")
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return str(anneal.get("shape", ABSENT))
    shape = str(anneal.get("shape"))
    if shape == "step":
        shape += f" x{anneal.get('steps', 1)}"
    text = f"{shape}, {significant(start, 2)} to {significant(end, 2)}"
    return text + (f", staggered {significant(anneal['stagger'], 2)}" if anneal.get("stagger") else "")


def front_sizes(net: FrontNet) -> str:
    """Depth, parameters and MACs of a net in one phrase."""
    parts = [f"depth {net.depth}"] if net.depth is not None else []
    parts += [f"{count(net.params)} parameters"] if net.params is not None else []
    parts += [f"{count(net.macs)} MACs"] if net.macs is not None else []
    return ", ".join(parts)


def short_latency(net: FrontNet) -> str:
    """The latency alone, to the digits it supports, with its unit."""
    return f"{middle(net.latency_ms.value, net.latency_ms.low, net.latency_ms.high)} ms"
