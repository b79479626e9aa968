"""Nets as what the engine searches: a draw names a candidate, a worker measures and trains it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnas.config import StudyConfig
from vnas.search import space
from vnas.search.engine.protocol import Draw, Subject

if TYPE_CHECKING:
    from vnas.evaluate import NetEvaluator

LATENCY_ATTRIBUTES = ("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "latency")


class NetProblem:
    """The nets of a search space.

    Args:
        config: the study.
        in_chans: channels of the data.
        num_classes: classes of the data.
    """

    def __init__(self, config: StudyConfig, *, in_chans: int, num_classes: int) -> None:
        self._config = config
        self._in_chans, self._num_classes = in_chans, num_classes

    @cached_property
    def choices(self) -> Mapping[str, Sequence[Any]]:
        """See :func:`vnas.search.space.choices`."""
        return space.choices(self._config.space)

    @cached_property
    def size(self) -> int:
        """Distinct draws."""
        return space.size(self._config.space)

    @cached_property
    def rungs(self) -> Sequence[float]:
        """Epochs in all at each rung."""
        from vnas.evaluate import rung_epochs

        return rung_epochs(self._config.training, self._config.rungs)

    def subject(self, draw: Draw) -> Subject:
        """The candidate of a draw, with what it costs.

        Raises:
            ConfigError: the space allows a stem that no image of this size passes.
        """
        from vnas.evaluate import cost_attributes
        from vnas.nets import cost

        candidate = space.candidate_of(
            dict(draw),
            self._config.space,
            in_chans=self._in_chans,
            num_classes=self._num_classes,
            anneal=self._config.training.anneal,
        )
        costs = cost_attributes(cost(candidate.architecture, candidate.architecture.image_size))
        return Subject(
            digest=candidate.digest,
            latency_key=candidate.architecture.digest,
            attributes={**candidate.attributes(), **costs},
            costs={name: float(costs[name]) for name in ("params", "macs")},
        )

    def absent(self, draw: Draw) -> Collection[str]:
        """Names of the stages past the last one, and of what a lambda schedule of this shape does not have."""
        return space.absent(draw, self._config.space)

    def latency_key(self, attributes: Mapping[str, Any]) -> str | None:
        """The digest of the architecture: its latency is the same under every lambda schedule."""
        return attributes.get("digest")

    @property
    def latency_attributes(self) -> Collection[str]:
        """See :func:`vnas.evaluate.latency_attributes`."""
        return LATENCY_ATTRIBUTES


@dataclass(frozen=True)
class NetWorker:
    """Makes the evaluator of a worker process; it can be pickled.

    Attributes:
        config: the study.
        device: ``cpu`` or ``cuda:N``.
        threads: torch threads while a latency is measured; None for as many as torch takes.
        run_dir: of the study; see :class:`vnas.evaluate.NetEvaluator`.
    """

    config: StudyConfig
    device: str
    threads: int | None
    run_dir: Path

    def __call__(self) -> NetEvaluator:
        """Open the data, and be ready."""
        import torch

        from vnas.evaluate import NetEvaluator
        from vnas.profiler.allocator import keep_freed_memory
        from vnas.training import open_data

        keep_freed_memory()
        return NetEvaluator(
            self.config, open_data(self.config.data), torch.device(self.device), self.threads, self.run_dir
        )
