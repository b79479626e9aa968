"""Latency from counts: one fit / predict / validate protocol, and lines to judge it by.

``fit`` a predictor on some nets, ``predict`` others, and let ``judge`` say out of sample how far it could have told.
``agreement`` says how far any two orders of the same nets agree, ``tau_advantage`` which of two comes closer to the
truth.
"""

from vnas.prediction.linear import PREDICTORS, FittedLine, FittedPredictor, LinearPredictor, Predictor
from vnas.prediction.ranks import Agreement, Estimate, agreement, tau_advantage
from vnas.prediction.validate import Judgement, Scores, judge, scores, split_half, unique_nets

__all__ = [
    "PREDICTORS",
    "Agreement",
    "Estimate",
    "FittedLine",
    "FittedPredictor",
    "Judgement",
    "LinearPredictor",
    "Predictor",
    "Scores",
    "agreement",
    "judge",
    "scores",
    "split_half",
    "tau_advantage",
    "unique_nets",
]
