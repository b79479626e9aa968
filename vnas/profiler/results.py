"""Results on disk: one JSON file with every sample and its provenance, one CSV file with every single value."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnas.errors import UsageError
from vnas.profiler.layer_table import LayerBreakdown
from vnas.profiler.measurement import OLD_SCHEMA, SCHEMA, Measurement, from_schema_1
from vnas.profiler.records import from_plain, to_plain

_READS = f"this version reads schemas {OLD_SCHEMA} and {SCHEMA}"

_AGAIN = "measure again: python -m vnas.profiler NET... --json FILE"


@dataclass(frozen=True)
class Entry:
    """One net of a file of results.

    Attributes:
        net: as it was named, e.g. ``timm:resnet18``.
        form: what was built of it, e.g. ``fused``.
        image_size: height and width of the images, in pixels; None where it is called with something else.
        measurement: what was measured.
    """

    net: str
    form: str
    image_size: int | None
    measurement: Measurement


@dataclass(frozen=True)
class Layers:
    """Where the time of one net goes.

    Attributes:
        net: as it was named.
        form: what was built of it.
        breakdown: its modules, eager and in the net's own precision.
    """

    net: str
    form: str
    breakdown: LayerBreakdown


def write_json(path: Path, entries: Sequence[Entry], layers: Sequence[Layers] = ()) -> None:
    """Write ``{"schema": 2, "nets": [{"net", "form", "image_size", "measurement"}, ...]}``, whole or not at all.

    The schema is that of the measurements, and ``measurement`` is what ``Measurement.to_dict`` gives, the environment
    in it. Where layers were timed, ``"layers": [{"net", "form", "breakdown"}, ...]`` follows, with the fields of
    ``LayerBreakdown``.

    Raises:
        UsageError: the file cannot be written.
    """
    nets = [
        {"net": e.net, "form": e.form, "image_size": e.image_size, "measurement": e.measurement.to_dict()}
        for e in entries
    ]
    data = {"schema": SCHEMA, "nets": nets}
    if layers:
        data["layers"] = to_plain(layers)
    write_whole(path, (json.dumps(data, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> list[Entry]:
    """The nets that ``write_json`` wrote, in this version or in 0.1 (schema 1).

    Raises:
        UsageError: the file is not there or not readable, is not JSON, has another schema, or does not hold what a
            result must; the message says where.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); it must be a file that --json wrote") from error
    if not isinstance(data, Mapping) or "nets" not in data:
        raise UsageError(f'{path} is not a file of results: it has no "nets"; it must be a file that --json wrote')
    if data.get("schema") not in (OLD_SCHEMA, SCHEMA):
        raise UsageError(f"{path} has schema {data.get('schema')!r}; {_READS}; {_AGAIN}")
    if not isinstance(data["nets"], list):
        raise UsageError(f'{path}: "nets" must be a list; it is of type {type(data["nets"]).__name__}')
    return [_entry(item, f"{path}: nets[{i}]") for i, item in enumerate(data["nets"])]


def write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """Write one row a net, with every single value; what is None is an empty field.

    The columns, in this order: net, form, image_size, batch, input_shapes, runtime, precision, layout, device,
    median_ms, low_ms, high_ms, interval_level, interval_method, relative_width, target_relative, noise_ok, n,
    processes, stop_reason, valid, put_aside_share, warmup_iterations, warmup_seconds, timer, host_ms, enqueue_ms,
    graph_ms, launch_bound, throttled, contention, other_cpus, quiet_us, page_faults, energy_source, energy_gross_mj,
    energy_gross_low_mj, energy_gross_high_mj, energy_net_mj, energy_net_low_mj, energy_net_high_mj, idle_w,
    energy_seconds, energy_calls, error_max_relative, error_rms_relative, sm_clock_mhz, memory_clock_mhz,
    temperature_c, power_w (these four as last seen), then every field of ``Environment``, and notes, with `` | ``
    between them. ``put_aside_share`` is the share of the samples taken that do not count.

    Raises:
        UsageError: the file cannot be written.
    """
    _write_rows(path, [csv_row(entry) for entry in entries])


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def csv_row(entry: Entry) -> dict[str, object]:
    """The columns of ``write_csv`` with their values."""
    m = entry.measurement
    energy, error = m.energy, m.error
    last = m.telemetry[-1] if m.telemetry else None
    gross_low, gross_high = energy.gross_interval_mj if energy else (None, None)
    net_low, net_high = (energy.net_interval_mj if energy else None) or (None, None)
    return {
        "net": entry.net,
        "form": entry.form,
        "image_size": entry.image_size,
        "batch": m.batch,
        "input_shapes": " ".join("x".join(map(str, shape)) for shape in m.input_shapes),
        "runtime": m.runtime,
        "precision": m.precision,
        "layout": m.layout,
        "device": m.device,
        "median_ms": m.median_ms,
        "low_ms": m.interval_ms[0],
        "high_ms": m.interval_ms[1],
        "interval_level": m.interval_level,
        "interval_method": m.interval_method,
        "relative_width": m.relative_width,
        "target_relative": m.target_relative,
        "noise_ok": m.noise_ok,
        "n": m.n,
        "processes": m.processes,
        "stop_reason": m.stop_reason,
        "valid": m.valid,
        "put_aside_share": put_aside_share(m),
        "warmup_iterations": m.warmup_iterations,
        "warmup_seconds": m.warmup_seconds,
        "timer": m.timer,
        "host_ms": m.host_ms,
        "enqueue_ms": m.enqueue_ms,
        "graph_ms": m.graph_ms,
        "launch_bound": m.launch_bound,
        "throttled": m.throttled,
        "contention": m.contention,
        "other_cpus": m.other_cpus,
        "quiet_us": m.quiet_us,
        "page_faults": m.page_faults,
        "energy_source": energy and energy.source,
        "energy_gross_mj": energy and energy.gross_mj,
        "energy_gross_low_mj": gross_low,
        "energy_gross_high_mj": gross_high,
        "energy_net_mj": energy and energy.net_mj,
        "energy_net_low_mj": net_low,
        "energy_net_high_mj": net_high,
        "idle_w": energy and energy.idle_w,
        "energy_seconds": energy and energy.window_seconds,
        "energy_calls": energy and energy.calls,
        "error_max_relative": error and error.max_relative,
        "error_rms_relative": error and error.rms_relative,
        "sm_clock_mhz": last and last.sm_clock_mhz,
        "memory_clock_mhz": last and last.memory_clock_mhz,
        "temperature_c": last and last.temperature_c,
        "power_w": last and last.power_w,
        **m.environment.to_dict(),
        "packages": ";".join(f"{name}={version}" for name, version in m.environment.packages.items()),
        "notes": " | ".join(m.notes),
    }


def layers_path(path: Path) -> Path:
    """The file beside a CSV file of results that holds the layers: ``latency.layers.csv`` for ``latency.csv``."""
    return path.with_name(f"{path.stem}.layers{path.suffix}")


def write_layers_csv(path: Path, layers: Sequence[Layers]) -> None:
    """Write one row a module.

    The columns, in this order: net, form, module (empty for the whole net's own), type, runs, exclusive_ms,
    low_quartile_ms, high_quartile_ms, share, parameters, kernels, then those of the whole, the same in every row of a
    net: total_ms, plain_ms, plain_low_ms, plain_high_ms, overhead_ms, difference, tolerance, calls, device, timer, and
    notes, with `` | `` between them.

    Raises:
        UsageError: the file cannot be written.
    """
    _write_rows(path, [row for one in layers for row in _layer_rows(one)])


def _layer_rows(layers: Layers) -> list[dict[str, object]]:
    b = layers.breakdown
    whole = {
        "total_ms": b.total_ms,
        "plain_ms": b.plain_ms,
        "plain_low_ms": b.plain_interval_ms[0],
        "plain_high_ms": b.plain_interval_ms[1],
        "overhead_ms": b.overhead_ms,
        "difference": b.difference,
        "tolerance": b.tolerance,
        "calls": b.calls,
        "device": b.device,
        "timer": b.timer,
        "notes": " | ".join(b.notes),
    }
    return [
        {
            "net": layers.net,
            "form": layers.form,
            "module": row.path,
            "type": row.type,
            "runs": row.calls,
            "exclusive_ms": row.exclusive_ms,
            "low_quartile_ms": row.quartiles_ms[0],
            "high_quartile_ms": row.quartiles_ms[1],
            "share": row.share,
            "parameters": row.parameters,
            "kernels": row.kernels,
            **whole,
        }
        for row in b.rows
    ]


def put_aside_share(measurement: Measurement) -> float:
    """Share of the samples taken that do not count, from 0 to 1."""
    aside = len(measurement.discarded_ms)
    return aside / (aside + measurement.n)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of another one beside it, so that a reader never sees half of it.

    Raises:
        UsageError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():  # a pipe or /dev/stdout is written to, not replaced
            path.write_bytes(content)
            return
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def _entry(item: object, where: str) -> Entry:
    if not isinstance(item, Mapping) or not isinstance(item.get("measurement"), Mapping):
        return from_plain(Entry, item, where)  # which says what is wrong
    measurement: dict[str, Any] = dict(item["measurement"])
    schema = measurement.pop("schema", None)
    if schema == OLD_SCHEMA:
        measurement, schema = from_schema_1(measurement), SCHEMA
    if schema != SCHEMA:
        raise UsageError(f"{where}.measurement has schema {schema!r}; {_READS}; {_AGAIN}")
    entry = from_plain(Entry, {**item, "measurement": measurement}, where)
    _check_blocks(entry.measurement, where)
    return entry


def _check_blocks(measurement: Measurement, where: str) -> None:
    for name, kept in (("samples_ms", True), ("discarded_ms", False)):
        counts = [block.count for block in measurement.blocks if (block.discarded is None) is kept]
        there = len(getattr(measurement, name))
        if measurement.blocks and (sum(counts) != there or min(counts, default=0) < 0):
            raise UsageError(f"{where}.measurement has {there} {name}, but its blocks count {sum(counts)}; {_AGAIN}")
