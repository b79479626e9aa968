"""One candidate: what it costs, how fast its fused net is, how accurate it is at each rung of a brief training.

Knows nothing of Optuna, nor of the order of the questions: :mod:`vnas.search.engine` asks the cheapest first.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vnas.config import Anneal, LatencyConfig, RungsConfig, StudyConfig, TrainingConfig
from vnas.errors import MeasurementError, TrainingError, VnasError
from vnas.nets import Architecture, Cost, FusedVanillaNet, save_weights
from vnas.profiler import Measurement, measure
from vnas.training import Data, Progress, TrainingResult, evaluate, fit
from vnas.training.checkpointing import Checkpoint
from vnas.training.rungs.training import Rung, epochs_spent, train_rungs

if TYPE_CHECKING:
    from torch import nn


ENERGY_SECONDS = 1.0
"""Window over which a candidate's energy is measured, where it is an objective: the shortest there is."""


class HasAttributes(Protocol):
    """What an evaluator is asked about: the attributes of :meth:`Candidate.attributes`."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """As JSON values."""


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
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Candidate:
        """Read back what :meth:`attributes` wrote."""
        return cls(
            Architecture.from_dict(attributes["architecture"]),
            Anneal.model_validate_json(json.dumps(attributes["anneal"])),
        )

    def seed(self, study_seed: int, repeat: int = 0) -> int:
        """Seed of this candidate's training: the same whenever and in whatever order it is evaluated."""
        text = f"{study_seed}/{self.digest}/{repeat}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def cost_attributes(value: Cost) -> dict[str, Any]:
    """The cost as JSON values, for a storage."""
    return {
        "params": value.params,
        "macs": value.macs,
        "activation_bytes": value.activation_bytes,
        "weight_bytes": value.weight_bytes,
        "traffic_bytes": value.traffic_bytes,
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
    net: nn.Module,
    image: tuple[int, int, int],
    device: torch.device,
    config: LatencyConfig,
    *,
    energy_seconds: float = 0.0,
) -> Measurement:
    """Latency of a net at batch 1 on random input.

    Args:
        net: in eval mode, on any device; it is moved to ``device``.
        image: channels, height and width of the input.
        device: where to measure.
        config: layout, threads and stop rule.
        energy_seconds: window over which energy is measured; 0 leaves it out.

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
            energy_seconds=energy_seconds,
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


def measure_architecture(
    architecture: Architecture, device: torch.device, config: LatencyConfig, *, energy_seconds: float = 0.0
) -> Measurement:
    """Latency of the fused net with fresh weights: the operators, and so the time, do not depend on the values.

    Raises:
        MeasurementError: the net could not be timed.
    """
    size = architecture.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FusedVanillaNet(architecture)
    return measure_net(net, (architecture.in_chans, size, size), device, config, energy_seconds=energy_seconds)


def train(
    candidate: Candidate,
    data: Data,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Train a candidate from fresh weights, drawn from the seed, under its own lambda schedule.

    Raises:
        TrainingError: the run ended early.
    """
    config = config.model_copy(update={"anneal": candidate.anneal})
    with _within_training_memory(device, config):
        return fit(
            candidate.architecture, data, config, seed=seed, device=device, progress=progress, checkpoint=checkpoint
        )


@contextmanager
def _within_training_memory(device: torch.device, config: TrainingConfig) -> Iterator[None]:
    smaller = max(2, config.batch_size // 2)
    advice = f"in batches of {config.batch_size}; try --set training.batch_size={smaller}"
    with _within_memory(device, TrainingError, f"training {advice}"):
        yield


def rungs_of(training: TrainingConfig, config: RungsConfig) -> tuple[Rung, ...]:
    """The rungs of a study.

    At each a candidate has had as many epochs as the rung's share says; the last part of them is its branch.
    """
    lengths = [training.epochs * share for share in config.shares]
    below = [0.0, *lengths[:-1]]
    if config.strategy == "continue":  # each part begins where the one before has ended
        parts = [length - before for length, before in zip(lengths, below, strict=True)]
        return tuple(Rung((1.0 - config.branch_share) * part, config.branch_share * part) for part in parts)
    trunks = [(1.0 - config.branch_share) * length for length in lengths]
    grown = [trunk - before for trunk, before in zip(trunks, [0.0, *trunks[:-1]], strict=True)]
    return tuple(Rung(trunk, config.branch_share * length) for trunk, length in zip(grown, lengths, strict=True))


def rung_epochs(training: TrainingConfig, config: RungsConfig) -> tuple[float, ...]:
    """Epochs that a candidate has cost in all when it is judged at each rung."""
    if len(config.shares) == 1:
        return (float(training.epochs),)
    return epochs_spent(rungs_of(training, config), config.strategy)


def net_folder(run_dir: Path, architecture: Architecture) -> Path:
    """Of a net of the front."""
    return run_dir / "nets" / architecture.digest


def seed_weights(run_dir: Path, architecture: Architecture, repeat: int) -> Path:
    """File of the fused weights of one training of a net of the front, until the best of them is chosen."""
    return net_folder(run_dir, architecture) / "seeds" / f"{repeat}.safetensors"


class NetEvaluator:
    """Measures and trains the candidates of a study, on one device.

    Args:
        config: the study.
        data: what to train and validate on.
        device: where.
        threads: torch threads while a latency is measured, unless the study says; None for as many as torch takes.
        run_dir: of the study: ``checkpoints/`` has candidates that may go on, ``nets/`` the weights of the front; None
            to keep nothing.
    """

    def __init__(
        self, config: StudyConfig, data: Data, device: torch.device, threads: int | None, run_dir: Path | None
    ) -> None:
        self._config, self._data, self._device, self._run_dir = config, data, device, run_dir
        latency = config.latency
        self._latency = latency.model_copy(update={"threads": threads}) if latency.threads is None else latency
        self._seed = config.seed

    def measure(self, subject: HasAttributes) -> dict[str, Any]:
        """Latency of the fused net; see :func:`measure_architecture`."""
        candidate = Candidate.from_attributes(subject.attributes)
        measured = measure_architecture(
            candidate.architecture,
            self._device,
            self._latency,
            energy_seconds=ENERGY_SECONDS if self._config.energy else 0.0,
        )
        if self._config.energy and measured.energy_mj is None:
            raise MeasurementError(
                f"energy = true, and the energy of a call cannot be measured on {self._device}: "
                f"{'; '.join(measured.notes) or 'it has no counter'}. Leave it out with --set energy=false"
            )
        return latency_attributes(measured)

    def train(self, subject: HasAttributes, rung: int, progress: Callable[[float], None]) -> dict[str, Any]:
        """Train to a rung, from the one below where its checkpoint is here; else from the beginning.

        Raises:
            TrainingError: the run ended early.
        """
        candidate = Candidate.from_attributes(subject.attributes)

        def advance(done: Progress) -> None:
            progress(done.step / done.steps)

        rungs = len(self._config.rungs.shares)
        with self._kept(candidate.digest, single=rungs == 1) as checkpoint:
            if rungs > 1:
                return self._climb(candidate, rung, checkpoint, advance)
            result = train(
                candidate,
                self._data,
                self._config.training,
                seed=candidate.seed(self._seed),
                device=self._device,
                progress=advance,
                checkpoint=checkpoint,
            )
        epochs = result.epochs
        return {"val_top1": result.val_top1, "epochs": epochs, "epochs_spent": epochs, "training": result.to_dict()}

    def retrain(self, subject: HasAttributes, repeat: int, progress: Callable[[float], None]) -> dict[str, Any]:
        """Train a net of the front anew, longer and with a fresh seed, and judge it on the test set.

        The fused weights are kept where :func:`seed_weights` says.

        Raises:
            TrainingError: the run ended early.
        """
        candidate, config = Candidate.from_attributes(subject.attributes), self._config
        epochs = math.ceil(config.front.epochs_factor * config.training.epochs)
        with self._kept(f"{candidate.digest}-{repeat}", single=True) as checkpoint:
            result = train(
                candidate,
                self._data,
                config.training.model_copy(update={"epochs": epochs}),
                seed=candidate.seed(self._seed, repeat + 1),
                device=self._device,
                progress=lambda done: progress(done.step / done.steps),
                checkpoint=checkpoint,
            )
        assert result.fused is not None
        images = self._data.loader("test", candidate.architecture.image_size, device=self._device)
        test_top1 = evaluate(result.fused, images, self._device)
        if self._run_dir is not None:
            path = seed_weights(self._run_dir, candidate.architecture, repeat)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_weights(result.fused, path)
        return {
            "val_top1": result.val_top1,
            "test_top1": test_top1,
            "epochs": result.epochs,
            "training": result.to_dict(),
        }

    def _climb(
        self,
        candidate: Candidate,
        rung: int,
        checkpoint: Checkpoint | None,
        advance: Callable[[Progress], None],
    ) -> dict[str, Any]:
        goes_on = checkpoint is not None and checkpoint.path.is_file()
        training = self._config.training.model_copy(update={"anneal": candidate.anneal})
        with _within_training_memory(self._device, training):
            results = list(
                train_rungs(
                    candidate.architecture,
                    self._data,
                    training,
                    rungs_of(self._config.training, self._config.rungs)[: rung + 1],
                    seed=candidate.seed(self._seed),
                    device=self._device,
                    strategy=self._config.rungs.strategy,
                    checkpoint=checkpoint,
                    progress=advance,
                )
            )
        last = results[-1]
        before = results[-2].epochs if goes_on and len(results) > 1 else 0.0
        if checkpoint is not None and rung + 1 == len(self._config.rungs.shares):
            checkpoint.path.unlink(missing_ok=True)
        values = {
            field.name: getattr(last, field.name) for field in fields(last) if field.name not in ("fused", "rung")
        }
        return {
            "val_top1": last.val_top1,
            "epochs": last.epochs,
            "epochs_spent": last.epochs - before,
            "training": {**values, "notes": list(last.notes)},
        }

    @contextmanager
    def _kept(self, name: str, *, single: bool) -> Iterator[Checkpoint | None]:
        """Where a candidate is kept on its way; a single run's file is of no use once it is over."""
        if self._run_dir is None:
            yield None
            return
        path = self._run_dir / "checkpoints" / f"{name}.pt"
        try:
            yield Checkpoint(path)
        finally:
            over = sys.exc_info()[0]
            if single and (over is None or issubclass(over, VnasError)):
                path.unlink(missing_ok=True)
