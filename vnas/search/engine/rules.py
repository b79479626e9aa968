"""What a study asks for, as the engine needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vnas.config import GatesConfig, SamplerName, StudyConfig
from vnas.search.policy.gates import BudgetGate, CostGate, Gate, HopelessGate, PredictedLatencyGate
from vnas.search.policy.promotion import Limits
from vnas.search.sampling.encoding import Floats


@dataclass(frozen=True)
class Rules:
    """Limits, gates and seeds.

    Attributes:
        sampler: by name.
        limits: how much may be spent.
        seed: of the study.
        objectives: beside the accuracy: ``latency_ms``, then ``energy_mj`` where it is one.
        budget_ms: latency that a net may have.
        costs: the most of each cost that a net may have.
        gates: which are on.
        always: first candidates of each rung that go on in any case.
        retries: times that a trial is tried again after its worker died.
        floor: accuracy in percent that counts as nothing.
        ceiling_ms: latency that counts as nothing; None for the greatest seen.
    """

    sampler: SamplerName
    limits: Limits
    seed: int = 0
    objectives: tuple[str, ...] = ("latency_ms",)
    budget_ms: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    gates: GatesConfig = field(default_factory=GatesConfig)
    always: int = 1
    retries: int = 1
    floor: float = 0.0
    ceiling_ms: float | None = None

    @classmethod
    def of(cls, config: StudyConfig, *, floor: float = 0.0, ceiling_ms: float | None = None) -> Rules:
        """The rules of a study.

        Args:
            config: the study.
            floor: accuracy in percent that counts as nothing: that of guessing.
            ceiling_ms: latency that counts as nothing; the budget, if there is one, without it.
        """
        minutes = config.time_limit_minutes
        return cls(
            sampler=config.sampler,
            limits=Limits(
                candidates=config.trials,
                epochs=config.epochs_limit,
                seconds=None if minutes is None else 60.0 * minutes,
                spend=config.rungs.spend,
                last=config.rungs.last,
            ),
            seed=config.seed,
            objectives=("latency_ms", "energy_mj") if config.energy else ("latency_ms",),
            budget_ms=config.latency.budget_ms,
            costs={name: value for name, value in config.constraints.model_dump().items() if value is not None},
            gates=config.gates,
            always=config.rungs.always,
            retries=config.workers.retries,
            floor=floor,
            ceiling_ms=ceiling_ms if ceiling_ms is not None else config.latency.budget_ms,
        )

    def constraints(self, attributes: Mapping[str, Any]) -> dict[str, float]:
        """By how much each limit is exceeded, always the same limits in the same order; 0 where it is not known."""
        over: dict[str, float] = {}
        if self.budget_ms is not None:
            latency = attributes.get("latency_ms")
            over["latency_over_budget_ms"] = 0.0 if latency is None else latency - self.budget_ms
        for name, limit in self.costs.items():
            over[f"{name}_over_limit"] = float(attributes.get(name, limit)) - limit
        return over

    def gates_for(self, latency_ms: Floats, accuracy: Floats) -> list[Gate]:
        """The gates that are on, the cheapest first.

        Args:
            latency_ms: (N,) of the nets that were judged at the first rung.
            accuracy: (N,) of them, in percent.
        """
        gates: list[Gate] = []
        if self.gates.cost and self.costs:
            gates.append(CostGate(self.costs))
        if self.budget_ms is not None and self.gates.predicted:
            gates.append(PredictedLatencyGate(self.budget_ms))
        if self.budget_ms is not None and self.gates.budget:
            gates.append(BudgetGate(self.budget_ms))
        if self.gates.hopeless:
            gates.append(HopelessGate(latency_ms, accuracy))
        return gates

    @property
    def corner(self) -> Floats | None:
        """The worst that counts, of error and latency; None where it is the worst seen."""
        if self.ceiling_ms is None or len(self.objectives) > 1:
            return None
        return np.array([100.0 - self.floor, self.ceiling_ms])
