"""The tables of ``rung_fidelity.py``: how well each arm foretells the order of the nets after the long run."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rung_records import ZERO_COST, Outcome, Score
from vnas.prediction import Agreement, Estimate, agreement, tau_advantage
from vnas.report.findings import estimate

OURS = "branch"
TRUTH = "long"
AGAIN = "long, another seed"
TRAINED = {
    OURS: "ours: branch of a trunk, fused",
    "restart": "a complete anneal from scratch, fused",
    "continue": "annealed net put back and on, fused",
    "stopped": "long run stopped, training form",
    "stopped, fused": "long run stopped, fused anyway",
}
TARGET_TAU = 0.75


@dataclass(frozen=True)
class Row:
    """One arm at one rung.

    Attributes:
        arm: its name.
        rung: number of the rung, or ``ZERO_COST``.
        epochs_share: epochs trained, as a share of the long run's; the mean over the nets.
        seconds_share: time taken, as a share of the long run's; the median over the nets.
        mean: of the values over the nets.
        agrees: with the long run.
        behind: tau of ours at this rung (of its first rung, for what costs nothing) less this arm's; None for ours.
    """

    arm: str
    rung: int
    epochs_share: float
    seconds_share: float
    mean: float
    agrees: Agreement
    behind: Estimate | None


Values = Mapping[tuple[str, int], Mapping[str, Score]]
"""By arm and rung: what it says, by net."""


def by_arm(outcomes: Sequence[Outcome], seed: int) -> dict[tuple[str, int], dict[str, Score]]:
    """The scores of the runs with a seed, and the long run of another seed as an arm of its own."""
    found: dict[tuple[str, int], dict[str, Score]] = {}
    for outcome in outcomes:
        for score in outcome.scores:
            arm = score.arm if outcome.seed == seed else AGAIN
            if outcome.seed == seed or score.arm == TRUTH:
                found.setdefault((arm, score.rung), {})[outcome.net] = score
    return found


def complete(values: Values) -> list[str]:
    """Nets that every arm has judged, the long run of another seed aside, in alphabetical order."""
    arms = [set(nets) for (arm, _), nets in values.items() if arm != AGAIN]
    return sorted(set.intersection(*arms)) if arms else []


def rows(values: Values, epochs: int, seed: int = 0) -> list[Row]:
    """A row for each arm and rung, on the nets that all arms have judged.

    Args:
        values: see :func:`by_arm`.
        epochs: of the long run.
        seed: of the bootstrap; the same resamples of nets for every row.
    """
    nets = complete(values)
    found = []
    for (arm, rung), scores in sorted(values.items(), key=_order):
        judged = [net for net in nets if net in scores]
        if arm == TRUTH or not judged:
            continue
        truth = [values[TRUTH, 0][net] for net in judged]
        foretold = [_finite(scores[net].value) for net in judged]
        accuracies = [score.value for score in truth]
        behind = None
        ours = values.get((OURS, max(rung, 0)))
        if arm not in (OURS, AGAIN) and ours is not None:
            behind = tau_advantage(accuracies, [ours[net].value for net in judged], foretold, seed=seed)
        found.append(
            Row(
                arm,
                rung,
                statistics.fmean(scores[net].epochs for net in judged) / epochs,
                statistics.median(scores[net].seconds / one.seconds for net, one in zip(judged, truth, strict=True)),
                statistics.fmean(scores[net].value for net in judged),
                agreement(accuracies, foretold, seed=seed),
                behind,
            )
        )
    return found


def markdown(found: Sequence[Row]) -> list[str]:
    """The rows as a table."""
    lines = [
        "| arm | epochs, share | seconds, share | mean, % | Kendall tau | Spearman | tau: ours less this |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        trained = row.rung != ZERO_COST
        cells = [
            TRAINED.get(row.arm, row.arm),
            f"{row.epochs_share:.3f}",
            f"{row.seconds_share:.3f}",
            f"{row.mean:.1f}" if trained else "",
            estimate(row.agrees.kendall_tau),
            estimate(row.agrees.spearman),
            "" if row.behind is None else estimate(row.behind),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict(found: Sequence[Row]) -> list[str]:
    """What the rows say, rung by rung, against the targets."""
    lines = []
    for ours in (row for row in found if row.arm == OURS):
        tau = ours.agrees.kendall_tau
        if tau is None:
            continue
        others = [
            (row.agrees.kendall_tau.value, row)
            for row in found
            if row.arm not in (OURS, AGAIN) and row.rung in (ours.rung, ZERO_COST) and row.agrees.kendall_tau
        ]
        line = f"- At {ours.epochs_share:.2f} of the long run's epochs ours has tau {estimate(tau)}"
        if ours.rung == 0:
            line += f" (target {TARGET_TAU:g}: {'met' if tau.value >= TARGET_TAU else 'not met'})"
        if others:
            best, other = max(others, key=lambda pair: pair[0])
            name = TRAINED.get(other.arm, other.arm)
            place = "the highest, next" if tau.value > best else "not the highest, which is"
            line += f"; {place} {name} with {best:.2f}"
        lines.append(line + ".")
    again = next((row for row in found if row.arm == AGAIN), None)
    if again is not None:
        lines.append(
            "- What can be reached: two long runs that differ in nothing but the seed agree to tau "
            f"{estimate(again.agrees.kendall_tau)}."
        )
    return lines


def net_table(values: Values, described: Mapping[str, tuple[str, float]]) -> list[str]:
    """Each net that all arms have judged, the best first: multiply-accumulates, and its accuracies in percent.

    Args:
        values: see :func:`by_arm`.
        described: of each net, its description and the millions of multiply-accumulates of its training form.
    """
    columns = [key for key in sorted(values, key=lambda key: _order((key, None))) if key[1] != ZERO_COST]
    lines = [
        f"| net | MMACs | {' | '.join(f'{arm} {rung + 1}' if arm in TRAINED else arm for arm, rung in columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for net in sorted(complete(values), key=lambda net: -values[TRUTH, 0][net].value):
        cells = [f"{values[column][net].value:.1f}" if net in values[column] else "" for column in columns]
        description, mmacs = described[net]
        lines.append(f"| {description} | {mmacs:.1f} | {' | '.join(cells)} |")
    return lines


def _order(item: tuple[tuple[str, int], object]) -> tuple[float, int, str]:
    """Rung by rung, ours first; then what costs nothing; then the long runs."""
    arm, rung = item[0]
    arms = list(TRAINED)
    if arm in (TRUTH, AGAIN):
        return math.inf, len(arm), arm
    if rung == ZERO_COST:
        return sys.maxsize, 0, arm
    return rung, arms.index(arm) if arm in arms else len(arms), arm


def _finite(value: float) -> float:
    """A proxy may be infinite; its place in the order is what counts."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))
