"""Latency from counts: one fit / predict / validate protocol, and lines to judge it by.

``fit`` a predictor on some nets, ``predict`` others, and let ``judge`` say out of sample how far it could have told.
"""

from vnas.prediction.linear import PREDICTORS, FittedLine, FittedPredictor, LinearPredictor, Predictor
from vnas.prediction.validate import Estimate, Judgement, Scores, judge, scores, split_half, unique_nets

__all__ = [
    "PREDICTORS",
    "Estimate",
    "FittedLine",
    "FittedPredictor",
    "Judgement",
    "LinearPredictor",
    "Predictor",
    "Scores",
    "judge",
    "scores",
    "split_half",
    "unique_nets",
]
