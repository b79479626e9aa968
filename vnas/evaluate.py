"""One candidate, cheapest question first: cost, latency of the fused net, then brief training.

Knows nothing of Optuna. What each question answered is handed to ``record`` at once, so that a run killed during
training has kept the latency.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vnas.config import Anneal, LatencyConfig, TrainingConfig
from vnas.errors import MeasurementError, TrainingError, VnasError
from vnas.nets import Architecture, Cost, FusedVanillaNet, cost
from vnas.profiler import Measurement, measure
from vnas.training import Data, Progress, TrainingResult, fit

if TYPE_CHECKING:
    from torch import nn

Record = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a trial stands for: a net and the lambda schedule it is trained with."""

    architecture: Architecture
    anneal: Anneal

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that tell candidates apart; the same net under another schedule is another one."""
        canonical = {
            "architecture": self.architecture.digest,
            "anneal": self.anneal.canonical().model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:12]

    def attributes(self) -> dict[str, Any]:
        """The candidate as JSON values, for a storage."""
        return {
            "digest": self.architecture.digest,
            "candidate": self.digest,
            "architecture": self.architecture.to_dict(),
            "description": self.architecture.describe(),
            "depth": self.architecture.depth,
            "anneal": self.anneal.model_dump(mode="json"),
        }

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> Candidate:
        """Read back what :meth:`attributes` wrote."""
        return cls(
            Architecture.from_dict(attributes["architecture"]),
            Anneal.model_validate_json(json.dumps(attributes["anneal"])),
        )

    def seed(self, study_seed: int, repeat: int = 0) -> int:
        """Seed of this candidate's training: the same whenever and in whatever order it is evaluated."""
        text = f"{study_seed}/{self.digest}/{repeat}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What became known of a candidate; ``training`` is None where the latency was over the budget.

    Attributes:
        cost: of the fused net.
        latency: of the fused net at batch 1.
        training: the brief run, judged on the validation set in fused form.
        over_budget: the latency was over the study's budget.
        seconds: wall time of the evaluation.
    """

    cost: Cost
    latency: Measurement
    training: TrainingResult | None
    over_budget: bool
    seconds: float


def cost_attributes(value: Cost) -> dict[str, Any]:
    """The cost as JSON values, for a storage."""
    return {
        "params": value.params,
        "macs": value.macs,
        "activation_bytes": value.activation_bytes,
        "weight_bytes": value.weight_bytes,
        "kernels": value.kernels,
    }


def latency_attributes(value: Measurement) -> dict[str, Any]:
    """The latency as JSON values, for a storage: its summary and the whole measurement."""
    return {
        "latency_ms": value.median_ms,
        "latency_low_ms": value.interval_ms[0],
        "latency_high_ms": value.interval_ms[1],
        "energy_mj": value.energy_mj,
        "latency": value.to_dict(),
    }


def measure_net(
    net: nn.Module, image: tuple[int, int, int], device: torch.device, config: LatencyConfig
) -> Measurement:
    """Latency of a net at batch 1 on random input.

    Args:
        net: in eval mode, on any device; it is moved to ``device``.
        image: channels, height and width of the input.
        device: where to measure.
        config: layout, threads and stop rule.

    Raises:
        MeasurementError: the net could not be timed.
    """
    with _within_memory(device, MeasurementError, "at batch 1"):
        net = net.to(device).eval()
        images = torch.randn((1, *image), generator=torch.Generator().manual_seed(0)).to(device)  # (1, C, H, W)
        if config.channels_last:
            net = net.to(memory_format=torch.channels_last)
            images = images.to(memory_format=torch.channels_last)
        return measure(
            net,
            images,
            device=device,
            target_relative=config.target_relative,
            min_samples=config.min_samples,
            min_seconds=config.min_seconds,
            max_seconds=config.max_seconds,
            threads=config.threads,
        )


@contextmanager
def _within_memory(device: torch.device, error: type[VnasError], doing: str) -> Iterator[None]:
    """Running out of memory is an answer about the candidate, not a fault of the study."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as cause:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise error(f"out of memory on {device} {doing}") from cause


def measure_architecture(architecture: Architecture, device: torch.device, config: LatencyConfig) -> Measurement:
    """Latency of the fused net with fresh weights: the operators, and so the time, do not depend on the values.

    Raises:
        MeasurementError: the net could not be timed.
    """
    size = architecture.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FusedVanillaNet(architecture)
    return measure_net(net, (architecture.in_chans, size, size), device, config)


def train(
    candidate: Candidate,
    data: Data,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train a candidate from fresh weights, drawn from the seed, under its own lambda schedule.

    Raises:
        TrainingError: the run ended early.
    """
    config = config.model_copy(update={"anneal": candidate.anneal})
    smaller = max(2, config.batch_size // 2)
    advice = f"in batches of {config.batch_size}; try --set training.batch_size={smaller}"
    with _within_memory(device, TrainingError, f"training {advice}"):
        return fit(candidate.architecture, data, config, seed=seed, device=device, progress=progress)


def evaluate(
    candidate: Candidate,
    data: Data,
    training: TrainingConfig,
    latency: LatencyConfig,
    *,
    seed: int,
    device: torch.device,
    known_latency: Measurement | None = None,
    record: Record = lambda attributes: None,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Answer the questions in order of their price: cost, latency, budget, accuracy.

    Args:
        candidate: net and lambda schedule.
        data: what to train and validate on.
        training: the brief run.
        latency: protocol and budget.
        seed: of the brief run.
        device: where to measure and train.
        known_latency: of the same architecture, measured before in this study.
        record: takes the attributes of each answer as soon as it is known.
        progress: called during training.

    Raises:
        MeasurementError: the net could not be timed.
        TrainingError: the run ended early.
    """
    start = time.perf_counter()
    record(candidate.attributes())
    price = cost(candidate.architecture, candidate.architecture.image_size)
    record(cost_attributes(price))
    measured = known_latency or measure_architecture(candidate.architecture, device, latency)
    record(latency_attributes(measured))
    over_budget = latency.budget_ms is not None and measured.median_ms > latency.budget_ms
    record({"over_budget": over_budget})
    result = None
    if not over_budget:
        result = train(candidate, data, training, seed=seed, device=device, progress=progress)
        record({"val_top1": result.val_top1, "epochs": result.epochs, "training": result.to_dict()})
    seconds = time.perf_counter() - start
    record({"seconds": seconds})
    return Evaluation(price, measured, result, over_budget, seconds)
