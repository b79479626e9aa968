"""The sections on how and where the numbers were taken, and on the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vnas.config import StudyConfig
from vnas.report import findings
from vnas.report.analysis import Analysis
from vnas.report.document import Block, Items, Listing, Paragraph, Section, Table
from vnas.report.numbers import number_word, shown, significant

_STRATEGIES = {
    "continue": "A net that is sent on starts from the one that was judged, with lambda put back.",
    "branch": "The rise of lambda is a branch each time; a net that is sent on starts from where the branch left.",
    "restart": "A net that is sent on starts from fresh weights.",
}


def _span(values: list[int]) -> str | None:
    if not values:
        return None
    return f"{min(values)} each" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _kind(note: str) -> str:
    # Notes that differ in their numbers only are of one kind.
    return re.sub(r"\d+(\.\d+)?", "#", note)


def _notes(measurements: list[Mapping[str, Any]]) -> list[str]:
    """One note of each kind, with the number of measurements that had one like it."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for measurement in measurements:
        notes = [str(note) for note in measurement.get("notes") or ()]
        counts.update({_kind(note) for note in notes})
        for note in notes:
            examples.setdefault(_kind(note), note)
    total = len(measurements)
    return [
        f"{note} ({counts[kind]} of {total} measurements{' had one like it' if kind != note else ''})"
        for kind, note in sorted(examples.items())
    ]


def _yes_no(value: Any) -> str | None:
    return None if value is None else "yes" if value is True else "no" if value is False else str(value)


def protocol(analysis: Analysis) -> Section:
    """How latency was measured, where, and the study as resolved."""
    record, latency = analysis.record, analysis.record.study.latency
    measurements = analysis.measurements
    first: Mapping[str, Any] = measurements[0] if measurements else {}
    # A measurement knows more than the start of the run did, such as the driver; its threads are its own.
    found = {key: value for key, value in (first.get("environment") or {}).items() if value is not None}
    environment = {**record.environment, **found}
    level = first.get("interval_level")
    samples = [len(m["samples_ms"]) for m in measurements if isinstance(m.get("samples_ms"), list | tuple)]
    reasons: dict[str, int] = {}
    for item in measurements:
        reasons[str(item.get("stop_reason", "unknown"))] = reasons.get(str(item.get("stop_reason", "unknown")), 0) + 1
    shapes = sorted({" x ".join(map(str, s)) for m in measurements for s in (m.get("input_shapes") or [])[:1]})
    threads = sorted({m["environment"]["threads"] for m in measurements if (m.get("environment") or {}).get("threads")})
    protocol = [
        ("what is timed", "the fused net, eval mode, batch 1, before any training"),
        ("input (B, C, H, W)", ", ".join(shapes) if shapes else None),
        ("runtime", first.get("runtime")),
        ("timer", first.get("timer")),
        ("precision", first.get("precision")),
        ("torch threads while measuring", ", ".join(map(str, threads)) or None),
        ("memory layout", first.get("layout") or ("channels_last" if latency.channels_last else "contiguous")),
        (
            "stop rule",
            f"interval of the median within {significant(100 * latency.target_relative, 2)} % of it, at least "
            f"{latency.min_samples} samples and {significant(latency.min_seconds, 2)} s, at most "
            f"{significant(latency.max_seconds, 2)} s",
        ),
        ("samples taken", _span(samples)),
        ("stopped because", ", ".join(f"{reason}: {n}" for reason, n in sorted(reasons.items())) or None),
        (
            "interval",
            "order statistics of the median, within one process"
            + (f", coverage {significant(100 * level, 3)} %" if isinstance(level, float) else ""),
        ),
        ("latency budget", None if latency.budget_ms is None else f"{significant(latency.budget_ms)} ms"),
    ]
    device = [
        ("device", record.device or environment.get("device_kind")),
        ("processor", environment.get("cpu_model")),
        ("torch threads while training", record.environment.get("threads")),
        ("torch", environment.get("torch")),
        ("Python", environment.get("python")),
        ("driver", environment.get("driver")),
        ("CUDA", environment.get("cuda") if environment.get("device_type") == "cuda" else None),
        ("cuDNN", environment.get("cudnn") if environment.get("device_type") == "cuda" else None),
        ("CPU governor", environment.get("cpu_governor")),
        ("float32 matmul precision", environment.get("matmul_precision")),
        ("cuDNN TF32", _yes_no(environment.get("cudnn_tf32")) if environment.get("device_type") == "cuda" else None),
        ("cuDNN benchmark", _yes_no(environment.get("cudnn_benchmark"))),
        ("operating system", environment.get("os")),
        ("energy", None if analysis.nets["energy_mj"].notna().any() else "not measured"),
    ]

    def rows(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, ...], ...]:
        return tuple((name, str(value)) for name, value in pairs if value is not None)

    blocks: list[Block] = [
        Table("How latency was measured.", ("what", "how"), (False, False), rows(protocol)),
        Table("Where.", ("what", "value"), (False, False), rows(device)),
    ]
    if notes := _notes(measurements):
        blocks += [Paragraph("Notes that came with the measurements:"), Items(tuple(notes))]
    blocks.append(Listing("The study, as resolved", record.study.to_toml()))
    return Section("Protocol and environment", "protocol", tuple(blocks))


def _brief_runs(study: StudyConfig) -> str:
    """How nets are trained in the search."""
    first, *higher = [f"{round(study.training.epochs * share, 2):g}" for share in study.rungs.shares]
    if not higher:
        return (
            f"In the search each net is trained for {number_word(study.training.epochs, 'epoch')} and judged, fused, "
            "on the validation set."
        )
    return (
        f"In the search each net is trained for {first} {'epoch' if first == '1' else 'epochs'} and judged, fused, on "
        f"the validation set; some are sent on and judged again after {' and '.join(higher)} epochs. Lambda reaches 1 "
        f"before each judgement. {_STRATEGIES[study.rungs.strategy]}"
    )


def data_and_splits(analysis: Analysis) -> Section:
    """Where the images came from and what each part was used for."""
    data, study = analysis.record.data, analysis.record.study
    counts, splits = findings.part(data, "counts"), findings.part(data, "splits")
    uses = {"train": "training", "validation": "choosing nets", "test": "the retrained front only"}
    rows = tuple(
        (part, shown(counts.get(part)), uses[part], shown(splits.get(part)))
        for part in ("train", "validation", "test")
        if part in counts or part in splits
    )
    classes = data.get("num_classes")
    names = data.get("class_names")
    sentence = f"Source: {data.get('source', study.data.source)}."
    if isinstance(classes, int):
        sentence += f" {number_word(classes, 'class', 'classes')}"
        if isinstance(names, list | tuple) and names:
            listed = [str(name) for name in names[:12]]
            sentence += f": {', '.join(listed)}" + (", ..." if len(names) > len(listed) else "")
        sentence += "."
    if data.get("pipeline"):
        sentence += f" Pipeline: {data['pipeline']}."
    if data.get("fingerprint"):
        sentence += f" Fingerprint: {data['fingerprint']}."
    blocks: list[Block] = [Paragraph(sentence)]
    if rows:
        columns = ("part", "images", "used for", "origin")
        blocks.append(Table("Images and where each part comes from.", columns, (False, True, False, False), rows))
    blocks.append(
        Paragraph(
            f"{_brief_runs(study)} Of the front at most {number_word(study.front.max_nets, 'net')} "
            f"{'is' if study.front.max_nets == 1 else 'are'} then trained anew, "
            f"{significant(study.front.epochs_factor, 2)} times as long, with "
            f"{number_word(study.front.seeds, 'seed')}; the seed whose weights are saved is picked by validation "
            "accuracy."
        )
    )
    return Section("Data and splits", "data", tuple(blocks))
