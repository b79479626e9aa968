"""The section on the front: figure, tables, and the nets drawn."""

from __future__ import annotations

from collections.abc import Collection

from vnas.report import findings
from vnas.report.analysis import Analysis, FrontNet
from vnas.report.diagram import draw_net
from vnas.report.document import Block, Diagrams, Figure, Paragraph, Section, Table
from vnas.report.numbers import ABSENT, count, measured, number_word, percent, significant
from vnas.report.tables import weights_path


def _figure(analysis: Analysis) -> Figure:
    if any(net.retrained for net in analysis.front):
        test = "; diamonds are test accuracies of the retrained nets, mean over seeds with the 95 % t interval."
    else:
        test = "; test accuracies are missing because the front was not retrained yet."
    nets = "; ".join(
        f"{net.letter} {findings.short_latency(net)}, {findings.accuracy(analysis, net)}" for net in analysis.front
    )
    shown = "Every trial that was judged at the last rung" if analysis.several_rungs else "Every trained trial"
    line = "the line is the front, towards the upper left is better"
    if analysis.record.study.energy:
        line = "rings mark the front, on which a net may be for its energy too"
    return Figure(
        "front",
        f"{shown}, coloured by depth; {line}. Horizontal bars are the 95 % interval of the median latency within "
        f"one process{test}",
        f"Scatter of validation accuracy against batch-1 latency. The front, fastest first: {nets}.",
    )


def _test_cell(net: FrontNet, images: int | None) -> str:
    value = net.test_top1
    if value is None:
        return ABSENT
    if value.low is None or value.high is None:
        return percent(value.value, images)
    return f"{percent(value.value, images)} [{percent(value.low, images)}, {percent(value.high, images)}]"


def _numbers(analysis: Analysis) -> Table:
    energy = analysis.record.study.energy
    tested, validated = findings.images(analysis, "test"), findings.images(analysis, "validation")
    rows = tuple(
        (
            net.letter,
            measured(net.latency_ms.value, net.latency_ms.low, net.latency_ms.high),
            _test_cell(net, tested),
            percent(net.saved.test_top1, tested) if net.saved else ABSENT,
            percent(net.val_top1, validated),
            ABSENT if net.depth is None else str(net.depth),
            count(net.params),
            count(net.macs),
            *([significant(net.energy_mj)] if energy else []),
        )
        for net in analysis.front
    )
    return Table(
        f"The front. Latency of the fused net at batch 1 on {analysis.record.device or 'an unnamed device'}, median "
        "with its 95 % interval; test accuracy of the retrained nets, mean over seeds with its 95 % t interval; "
        "validation accuracy of the brief run in the search; parameters and MACs of the fused net"
        + ("; energy of one pass, measured in the search, the third objective." if energy else "."),
        (
            *("net", "latency, ms", "test top-1, %", "saved weights, test top-1, %", "validation top-1, %"),
            *("depth", "parameters", "MACs", *(["energy, mJ"] if energy else [])),
        ),
        (False, *(True,) * (8 if energy else 7)),
        rows,
    )


def _architectures(analysis: Analysis) -> Table:
    rows = []
    for net in analysis.front:
        trained = "not retrained"
        if net.retrained:
            seeds, epochs = len(net.retrained), net.retrained[0].epochs
            trained = f"{number_word(seeds, 'seed')}, {number_word(epochs, 'epoch')}"
        schedule = findings.schedule(net.anneal)
        origin = f"{net.digest}, trial {net.trial}"
        rows.append((net.letter, net.description or ABSENT, schedule, trained, origin))
    return Table(
        "The nets of the front: kernel, stride and width of the stem, then the width of each stage with its pool; n is "
        "the order of the series activation. The schedule gives the shares of the training between which lambda rises.",
        ("net", "architecture", "lambda schedule", "retrained with", "digest"),
        (False,) * 5,
        tuple(rows),
    )


def _diagrams(analysis: Analysis) -> list[Block]:
    drawn = []
    for net in analysis.front:
        title = f"Drawing of net {net.letter}: {net.description}"
        svg = draw_net(net.architecture, title) if net.architecture is not None else None
        if svg is not None:
            words = f"{findings.short_latency(net)}, {findings.front_sizes(net)}"
            drawn.append((svg, f"Net {net.letter}", words))
    if not drawn:
        return []
    return [
        Diagrams(
            tuple(drawn),
            "A block is as high as the side of the feature map and as wide as its channels are many, both logarithmic. "
            "Above it stands the side in pixels; below it the convolution with its pool (↓), the channels, and the "
            "order n of the series activation, whose depthwise kernel is 2n + 1 wide.",
        )
    ]


def front(analysis: Analysis, figures: Collection[str], saved: Collection[str]) -> Section:
    """The front.

    Args:
        analysis: of the study.
        figures: names of the figures that were drawn.
        saved: digests whose weights are in the run directory.
    """
    blocks: list[Block] = []
    if not analysis.front:
        blocks.append(Paragraph("No trial was trained to the end within the limits, so there is no front."))
        return Section("The front", "front", tuple(blocks))
    if "front" in figures:
        blocks.append(_figure(analysis))
    blocks += [_numbers(analysis), _architectures(analysis)]
    kept = [weights_path(net.digest) for net in analysis.front if net.digest in saved]
    if kept:
        blocks.append(Paragraph(f"Fused weights that reload: {', '.join(kept)}."))
    blocks += _diagrams(analysis)
    return Section("The front", "front", tuple(blocks))
