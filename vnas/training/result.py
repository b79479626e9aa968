"""What a training run reports while it goes on and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vnas.nets import FusedVanillaNet, VanillaNet
from vnas.training.speed.choosing import Speed


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: epoch under way, from 0.
        epochs: epochs of the run.
        step: steps done.
        steps: steps of the run.
        loss: mean training loss of the steps since the last report: the last step's on the CPU.
        lr: its learning rate.
        slope_min: smallest lambda of a pair at that step.
        slope_max: largest lambda of a pair at that step.
        seconds: time since training began.
        images_per_second: training images since then, per second.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    slope_min: float
    slope_max: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class EpochRecord:
    """One point of the learning curve.

    Attributes:
        epoch: the epoch, from 0.
        loss: mean training loss over its steps.
        lr: learning rate at its last step.
        slope_min: smallest lambda of a pair at its last step.
        slope_max: largest lambda of a pair at its last step.
        seconds: time since training began, at its end.
    """

    epoch: int
    loss: float
    lr: float
    slope_min: float
    slope_max: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        val_top1: accuracy of the fused net on the validation set, in percent.
        val_top1_training_form: the same for the form that was trained, at lambda = 1.
        train_loss: mean loss over the last epoch.
        epochs: epochs trained.
        steps: optimiser steps taken.
        seconds: time for training, without the final evaluation.
        images_per_second: training images per second.
        curve: one record an epoch.
        pipeline: ``resident`` or ``streaming``.
        pipeline_reason: why that one, in words.
        ema: whether the weights are the exponential moving average's.
        merged_at: step from which the pairs were trained as one convolution, or None.
        speed: layout, precision and compilation of the training steps; None where it is not known.
        speed_reason: why these, in words.
        micro_batch: images in the largest part of a batch, where memory was too small for whole ones; None elsewhere.
        notes: what happened on the way that changes the meaning of the numbers, in words.
        fused: the fused net in eval mode, on the device it was trained on; None once read back from a dictionary.
        trained: the net that was fused, likewise: at lambda = 1, the average where there is one.
    """

    val_top1: float
    val_top1_training_form: float
    train_loss: float
    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    curve: tuple[EpochRecord, ...]
    pipeline: str
    pipeline_reason: str
    ema: bool
    merged_at: int | None = None
    speed: Speed | None = None
    speed_reason: str | None = None
    micro_batch: int | None = None
    notes: tuple[str, ...] = ()
    fused: FusedVanillaNet | None = field(default=None, repr=False, compare=False)
    trained: VanillaNet | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the nets, as values that JSON holds."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("fused", "trained")}
        speed = None if self.speed is None else asdict(self.speed)
        curve = [asdict(record) for record in self.curve]
        return {**values, "curve": curve, "speed": speed, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingResult:
        """Read back what :meth:`to_dict` gave, through JSON or not; without the nets.

        Raises:
            TypeError: a key is missing or unknown.
        """
        speed = values.get("speed")
        own = {
            "curve": tuple(EpochRecord(**record) for record in values["curve"]),
            "speed": None if speed is None else Speed(**speed),
            "notes": tuple(values.get("notes", ())),
        }
        return cls(**{**values, **own})
