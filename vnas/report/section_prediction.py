"""The sections on what tells latency, and on the training runs."""

from __future__ import annotations

from collections.abc import Collection

from vnas.prediction import PREDICTORS, Scores
from vnas.report import findings
from vnas.report.analysis import Analysis
from vnas.report.document import Block, Figure, Paragraph, Section, Table
from vnas.report.numbers import ABSENT, measured

_TITLE, _ANCHOR = "What tells latency", "prediction"


def _score_row(label: str, scores: Scores | None) -> tuple[str, ...]:
    if scores is None:
        return (label, *(ABSENT,) * 6, "0")
    rmse = scores.rmse_ms
    return (
        label,
        findings.estimate(scores.kendall_tau),
        findings.estimate(scores.spearman),
        findings.estimate(scores.within_10, 0),
        findings.estimate(scores.r2),
        ABSENT if rmse is None else measured(rmse.value, rmse.low, rmse.high),
        findings.estimate(scores.rmspe, 0),
        str(scores.n),
    )


def _figure(analysis: Analysis) -> Figure:
    said = "; ".join(
        f"{PREDICTORS[name].label}, Kendall tau {findings.estimate(scores.kendall_tau) if scores else 'unknown'}"
        for name in ("flops", "params", "depth")
        for scores in (analysis.judgements[name].scores,)
    )
    return Figure(
        "prediction",
        "Measured against predicted latency. On the dashed line a prediction is right. Hollow: nets that the line was "
        "fitted on; filled: nets that it is judged by and had not seen.",
        f"Three scatter plots of measured against predicted latency: {said}.",
    )


def prediction(analysis: Analysis, figures: Collection[str]) -> Section:
    """How far each count tells latency, out of sample.

    Args:
        analysis: of the study.
        figures: names of the figures that were drawn.
    """
    blocks: list[Block] = []
    total, judged = len(analysis.nets), int(analysis.judgements["flops"].judged.sum())
    if all(judgement.scores is None for judgement in analysis.judgements.values()):
        blocks.append(
            Paragraph(f"Nets with a measured latency: {total}, too few to fit a line on half of them and judge it.")
        )
        return Section(_TITLE, _ANCHOR, tuple(blocks))
    blocks.append(
        Paragraph(
            f"Each of the {total} nets with a measured latency enters once, also those that were not trained. A line "
            f"is fitted on a random half ({total - judged}) and judged on the other ({judged}); brackets are 95 % "
            "bootstrap intervals over the judged nets. R² is about the mean of the judged nets, so it is negative "
            "where that mean would have told latency better."
        )
    )
    if "prediction" in figures:
        blocks.append(_figure(analysis))
    blocks.append(
        Table(
            "A line on each count, judged on nets that it was not fitted on.",
            (
                *("line on", "Kendall tau", "Spearman", "within 10 %, % of nets", "R²", "RMSE, ms"),
                *("RMSPE, %", "nets judged"),
            ),
            (False, *(True,) * 7),
            tuple(_score_row(PREDICTORS[name].label, j.scores) for name, j in analysis.judgements.items()),
        )
    )
    return Section(_TITLE, _ANCHOR, tuple(blocks))


def training(figures: Collection[str]) -> tuple[Section, ...]:
    """The learning curves with lambda; nothing where they were not drawn."""
    if "training" not in figures:
        return ()
    figure = Figure(
        "training",
        "Training loss of every trained trial, those of the front by letter, and lambda of the pair that is ahead; "
        "shaded down to the one behind. At lambda = 1 a pair of convolutions is one linear map and can be fused.",
        "Two panels over epochs: the training loss of each trial, and the slope lambda rising to 1.",
    )
    return (Section("Training", "training", (figure,)),)
