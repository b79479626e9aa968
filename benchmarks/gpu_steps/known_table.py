"""The paper's latency table with what was measured here beside it, and how far the two order the nets alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.gpu_steps.paper import PaperNet
from vnas.profiler.measurement import Measurement

Pass = tuple[str, str | None]
"""Runtime and precision; None is as torch sets it."""

Found = Mapping[Pass, Mapping[str, Measurement]]
"""Measurements by pass, then by the name that the paper gives the net."""


def markdown(nets: Sequence[PaperNet], found: Found, errors: Sequence[str]) -> str:
    """The whole page: the table, the rank correlations, what failed."""
    lines = ["# The paper's latency table, measured again", ""]
    first = next((m for by_net in found.values() for m in by_net.values()), None)
    if first is not None:
        e = first.environment
        lines += [
            f"{e.device_kind}, driver {e.driver}, CUDA {e.cuda}, cuDNN {e.cudnn}, torch {e.torch}, {e.date_utc}. "
            "Batch 1, 224 px, fresh weights, one process, milliseconds. `*`: the noise target was missed; `!`: the "
            "number is not valid (throttled); L: launch-bound. Paper: A100, eager, arXiv 2305.12972.",
            "",
        ]
    columns = list(_columns(found))
    lines += [
        "| net | depth | GMACs | A100, paper | " + " | ".join(heading for heading, _ in columns) + " |",
        "|---|" + "---|" * (3 + len(columns)),
    ]
    for net in nets:
        cells = [net.name, str(net.depth), f"{net.gmacs:g}", f"{net.a100_ms:.2f}"]
        cells += [values.get(net.name, "-") for _, values in columns]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Rank correlation with the paper's A100 latencies", ""]
    lines += ["| measured | nets | Spearman | Kendall tau-b |", "|---|---|---|---|"]
    lines += _correlation_rows(nets, found)
    if errors:
        lines += ["", "## Not measured", "", *(f"- {error}" for error in errors)]
    return "\n".join(lines) + "\n"


def correlations(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Spearman's rho and Kendall's tau-b; None for fewer than three pairs, or where one side is constant."""
    from scipy.stats import kendalltau, spearmanr

    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    if len(pairs) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(spearmanr(one, other).statistic), float(kendalltau(one, other).statistic)


def _columns(found: Found) -> Iterator[tuple[str, Mapping[str, str]]]:
    for number, (which, by_net) in enumerate(found.items()):
        yield heading(which, by_net), {name: _cell(m) for name, m in by_net.items()}
        waited = {n: f"{m.host_ms:.3f}" for n, m in by_net.items() if m.host_ms is not None}
        if number == 0 and waited:
            yield "host end to end", waited
        graphs = {n: f"{m.graph_ms:.3f}" for n, m in by_net.items() if m.graph_ms is not None}
        if graphs:
            yield f"{heading(which, by_net)}, graph replay", graphs


def heading(which: Pass, by_net: Mapping[str, Measurement]) -> str:
    """Runtime and precision, the one that the results say where none was asked for."""
    runtime, precision = which
    seen = sorted({m.precision for m in by_net.values() if m.precision is not None})
    return f"{runtime} {precision or '/'.join(seen) + ' (as set)'}"


def _cell(m: Measurement) -> str:
    marks = ("" if m.noise_ok else "*") + ("" if m.valid else "!") + (" L" if m.launch_bound else "")
    return f"{m.median_ms:.3f}{marks}"


def _correlation_rows(nets: Sequence[PaperNet], found: Found) -> Iterator[str]:
    families = {
        "all": nets,
        "VanillaNet": [net for net in nets if net.name.startswith("VanillaNet")],
        "others": [net for net in nets if not net.name.startswith("VanillaNet")],
    }
    for which, by_net in found.items():
        for what, of in (("events", "median_ms"), ("host", "host_ms"), ("graph", "graph_ms")):
            for family, members in families.items():
                pairs = [
                    (net.a100_ms, value)
                    for net in members
                    if net.name in by_net and (value := getattr(by_net[net.name], of)) is not None
                ]
                if (both := correlations(pairs)) is not None:
                    named = f"{heading(which, by_net)}, {what}, {family}"
                    yield f"| {named} | {len(pairs)} | {both[0]:.3f} | {both[1]:.3f} |"
