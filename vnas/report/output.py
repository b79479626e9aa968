"""A record into the files of a run directory."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from vnas.report import files
from vnas.report.analysis import analyse
from vnas.report.figures import draw
from vnas.report.html import page
from vnas.report.markdown import text
from vnas.report.record import Record
from vnas.report.sections import compose
from vnas.report.tables import front_table, trials_table, weights_path


@dataclass(frozen=True)
class Paths:
    """What :func:`render` wrote."""

    run_dir: Path
    trials_csv: Path
    front_csv: Path
    environment_json: Path
    report_md: Path
    report_html: Path
    figures: tuple[Path, ...]


def _environment(record: Record) -> str:
    facts = {
        "study": record.name,
        "vnas_version": record.vnas_version,
        "started_at": record.started_at,
        "device_kind": record.device,
        "environment": dict(record.environment),
        "data": dict(record.data),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def render(record: Record, run_dir: str | Path) -> Paths:
    """Write tables, figures and reports; what is there already is replaced, each file whole.

    The same record gives the same files, whatever the number of trials and whether or not the front was retrained.

    Args:
        record: from ``read`` or ``read_run``.
        run_dir: where to; made where it is missing. Weights under ``nets/`` are linked to where they are there.
    """
    folder = Path(run_dir)
    analysis = analyse(record)
    saved = {net.digest for net in analysis.front if net.saved and (folder / weights_path(net.digest)).is_file()}
    paths = Paths(
        run_dir=folder,
        trials_csv=folder / "trials.csv",
        front_csv=folder / "front.csv",
        environment_json=folder / "environment.json",
        report_md=folder / "report.md",
        report_html=folder / "report.html",
        figures=(),
    )
    figures = draw(analysis)
    written = []
    for name, drawing in figures.items():
        for suffix, content in (("png", drawing.png), ("svg", drawing.svg)):
            path = folder / "figures" / f"{name}.{suffix}"
            files.write(path, content)
            written.append(path)
    for path, table in ((paths.trials_csv, trials_table(analysis)), (paths.front_csv, front_table(analysis, saved))):
        buffer = io.StringIO()
        table.to_csv(buffer, index=False, lineterminator="\n")
        files.write(path, buffer.getvalue())
    files.write(paths.environment_json, _environment(record))
    document = compose(analysis, frozenset(figures), frozenset(saved))
    files.write(paths.report_md, text(document))
    files.write(paths.report_html, page(document, figures))
    return Paths(**{**vars(paths), "figures": tuple(written)})
