"""What the data of a study cannot say, computed from it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
from scipy import stats

from vnas.pareto import non_dominated
from vnas.report.analysis import Analysis, FrontNet
from vnas.report.candidates import trained
from vnas.report.findings import images, part
from vnas.report.numbers import number_word, percent, significant


def correlation(nets: pd.DataFrame, first: str, second: str) -> float | None:
    """Spearman correlation of two columns over the nets that have both; None where it is not defined."""
    both = nets[[first, second]].dropna().astype("float64")
    if len(both) < 3 or both[first].nunique() < 2 or both[second].nunique() < 2:
        return None
    return float(stats.spearmanr(both[first], both[second]).statistic)


def _about_numbers(analysis: Analysis) -> list[str]:
    lines = []
    n = len(analysis.nets)
    flops = analysis.judgements["flops"].scores
    if flops is not None:
        tau = flops.kendall_tau
        if tau is not None and tau.low is not None and tau.high is not None:
            spread = f"; the interval of FLOPs' tau is {significant(tau.high - tau.low, 2)} wide"
        else:
            spread = ", too few for an interval"
        lines.append(
            f"The predictors are judged on {flops.n} of {number_word(n, 'measured net')}, one random split{spread}. "
            "The nets were drawn by the search, not independently, so they crowd where it looked."
        )
    else:
        lines.append(f"With {number_word(n, 'measured net')} nothing can be said about what predicts latency.")
    pairs = []
    for first, second, name in (
        ("macs", "depth", "FLOPs and depth"),
        ("macs", "params", "FLOPs and parameters"),
        ("params", "depth", "parameters and depth"),
    ):
        rho = correlation(analysis.nets, first, second)
        if rho is not None:
            pairs.append((name, rho))
    if pairs:
        strongest = max(pairs, key=lambda pair: abs(pair[1]))
        listing = ", ".join(f"{name} {rho:.2f}" for name, rho in pairs)
        verdict = (
            f"so this sample can hardly tell {strongest[0]} apart"
            if abs(strongest[1]) >= 0.7
            else "so this sample can tell them apart to some extent"
        )
        lines.append(f"Counts move together in this sample (Spearman: {listing}), {verdict}.")
    return lines


def overlapping(front: tuple[FrontNet, ...]) -> list[str]:
    """Neighbours on the front whose latency intervals overlap, as ``A and B``."""
    pairs = []
    for fast, slow in itertools.pairwise(front):
        high, low = fast.latency_ms.high, slow.latency_ms.low
        if high is not None and low is not None and high >= low:
            pairs.append(f"{fast.letter} and {slow.letter}")
    return pairs


def _about_latency(analysis: Analysis) -> list[str]:
    lines = []
    if pairs := overlapping(analysis.front):
        lines.append(f"Which is faster of {', '.join(pairs)}: their latency intervals overlap.")
    measurements = analysis.measurements
    total = len(measurements)
    if any(m.get("processes", 1) == 1 for m in measurements):
        lines.append(
            "What another process would measure: each latency interval is of the median within one process, and "
            "between fresh processes medians may differ by more."
        )
    missed = sum(m.get("noise_ok") is False for m in measurements)
    if missed:
        target = analysis.record.study.latency.target_relative
        lines.append(
            f"{missed} of {total} latency measurements missed the noise target (an interval within "
            f"{significant(100 * target, 2)} % of the median)."
        )
    if limited := sum("time" in str(m.get("stop_reason", "")) for m in measurements):
        lines.append(f"{limited} of {total} measurements ended at the time limit of {_limit(analysis)}.")
    contention = Counter(str(m.get("contention", "unknown")) for m in measurements)
    if contention["yes"]:
        lines.append(f"{contention['yes']} of {total} measurements shared the device with other processes.")
    if contention["unknown"]:
        lines.append(
            f"Whether something else used the device during {contention['unknown']} of {total} measurements: "
            "that could not be seen."
        )
    if throttled := sum(m.get("throttled") is True for m in measurements):
        lines.append(f"The hardware slowed itself down during {throttled} of {total} measurements.")
    changes = [
        abs(net.latency_ms.value / net.search_latency_ms.value - 1.0)
        for net in analysis.front
        if net.digest in analysis.record.front_latency
    ]
    if changes:
        typical, most = 100 * float(np.median(changes)), 100 * max(changes)
        lines.append(
            f"Measured again at the end, the front's latencies changed by {significant(typical, 2)} % in the median "
            f"and {significant(most, 2)} % at most; smaller differences than that are not to be relied on."
        )
    return lines


def _about_environments(analysis: Analysis) -> list[str]:
    """Versions and switches that changed between measurements, as after a resume on an updated machine."""
    found = []
    for key in ("torch", "driver", "cuda", "cudnn", "python", "threads", "cpu_governor", "matmul_precision", "os"):
        values = sorted({str((m.get("environment") or {}).get(key)) for m in analysis.measurements})
        if len(values) > 1:
            found.append(f"{key} {' and '.join(values)}")
    return [f"Not all latencies were measured alike: {', '.join(found)}."] if found else []


def _about_judgement(analysis: Analysis) -> list[str]:
    """Nets that are on the front by the search's figures and would not be by the final ones."""
    judged = [net for net in analysis.front if net.test_top1 is not None]
    lines = []
    if len(judged) > 1 and (out := _displaced(analysis, judged)):
        by, each = "test accuracy and the latency measured at the end", "both"
        if analysis.record.study.energy:
            by, each = "test accuracy, the latency measured at the end and energy", "all three"
        lines.append(
            f"The front is the search's. By {by}, another net is at least as good in {each} as {', '.join(out)}."
        )
    budget = analysis.record.study.latency.budget_ms
    if budget is not None and (over := [n.letter for n in analysis.front if n.latency_ms.value > budget]):
        lines.append(f"At the end {', '.join(over)} took more than the latency budget of {significant(budget)} ms.")
    return lines


def _displaced(analysis: Analysis, judged: list[FrontNet]) -> list[str]:
    energy = analysis.record.study.energy
    points = [
        (
            net.test_top1.value if net.test_top1 else 0.0,
            net.latency_ms.value,
            *([math.nan if net.energy_mj is None else net.energy_mj] if energy else []),
        )
        for net in judged
    ]
    kept = non_dominated(points, maximise=(True, False, False) if energy else (True, False))
    return [net.letter for net, keep in zip(judged, kept, strict=True) if not keep]


def _limit(analysis: Analysis) -> str:
    return f"{significant(analysis.record.study.latency.max_seconds, 2)} s"


def _about_accuracy(analysis: Analysis) -> list[str]:
    if not analysis.front:
        return []
    lines = []
    retrained = [net for net in analysis.front if net.retrained]
    waiting = len(analysis.front) - len(retrained)
    if waiting:
        which = "the front" if not retrained else ", ".join(n.letter for n in analysis.front if not n.retrained)
        lines.append(
            f"Test accuracy of {which}: not retrained, so only validation accuracies, by which the nets were chosen "
            "and which are therefore optimistic, are known."
        )
    if retrained:
        seeds = max(len(net.retrained) for net in retrained)
        ends = [(net.test_top1.low, net.test_top1.high) for net in retrained if net.test_top1 is not None]
        widths = [high - low for low, high in ends if low is not None and high is not None]
        spread = f"; the widest interval over seeds spans {significant(max(widths), 2)} points" if widths else ""
        lines.append(
            f"The nets were chosen by validation accuracy from brief runs, then trained anew with "
            f"{number_word(seeds, 'seed')} and judged on the test set{spread}. A net that needs longer "
            "training to show its worth may have been missed."
        )
    tested = images(analysis, "test")
    if retrained and tested:
        middling = float(np.median([net.test_top1.value for net in retrained if net.test_top1 is not None]))
        lines.append(
            f"Small differences in test accuracy: one of the {tested} test images is {significant(100 / tested, 2)} "
            f"points, and other test images would move an accuracy of {percent(middling, tested)} % by about "
            f"{significant(_binomial_half_width(middling, tested), 2)} points either way (95 %)."
        )
    stopped = sum(candidate.status == "stopped" for candidate in analysis.candidates)
    if stopped:
        lines.append(
            f"What {number_word(stopped, 'candidate')} would have reached in full: judged at a lower rung only, a net "
            "that is slow to show its worth looks worse than it is."
        )
    lines.append(
        f"{number_word(len(trained(analysis.candidates)), 'candidate was', 'candidates were')} trained with one seed "
        "each, so nets that are close in validation accuracy are ranked partly by chance."
    )
    return lines


def _binomial_half_width(top1: float, images: int) -> float:
    """Half of the 95 % Wilson interval of a share of so many images, in points."""
    share, z = top1 / 100.0, 1.959964
    return 100.0 * z / (1 + z**2 / images) * math.sqrt((share * (1 - share) + z**2 / (4 * images)) / images)


def _about_data(analysis: Analysis) -> list[str]:
    if "cut" in str(part(analysis.record.data, "splits").get("test", "")):
        return [
            "How the nets compare with published ones on this data: its source has no test set of its own, so one was "
            "cut from it."
        ]
    return []


def limits(analysis: Analysis) -> list[str]:
    """What the data cannot say."""
    lines = [
        *_about_numbers(analysis),
        *_about_latency(analysis),
        *_about_environments(analysis),
        *_about_judgement(analysis),
        *_about_accuracy(analysis),
        *_about_data(analysis),
    ]
    stale = {entry.digest for entry in analysis.record.front} - {net.digest for net in analysis.front}
    if stale:
        which = "1 net was" if len(stale) == 1 else f"{len(stale)} nets were"
        lines.append(f"{which} retrained and then displaced from the front by later trials, and left out here.")
    lines.append("Anything about another device, runtime, precision, batch size or image size than those measured.")
    return lines
