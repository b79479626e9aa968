"""How a net is trained, and on which images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from vnas.config.options import NonNegative, Positive, Shape, Share, Strict


class Anneal(Strict):
    """A lambda schedule: how the slope of the inner activations goes from 0 to 1.

    Attributes:
        shape: ``linear``, ``cosine`` (0.5 (1 - cos(pi t))) or ``step`` (``steps`` equal jumps).
        start: share of the run at which lambda leaves 0.
        end: share of the run at which lambda reaches 1 (the paper: a third).
        steps: number of jumps, for ``step`` only.
        stagger: share of the run by which the last pair's window starts after the first pair's (0: all
            together); the windows of the pairs between are spread evenly.
        order: which end of the net goes first when staggered.
    """

    shape: Shape = "linear"
    start: Share = 0.0
    end: Share = 1.0 / 3.0
    steps: Positive = 1
    stagger: Share = 0.0
    order: Literal["shallow_first", "deep_first"] = "shallow_first"

    @model_validator(mode="after")
    def _window(self) -> Anneal:
        if self.start >= self.end:
            raise ValueError(f"start = {self.start} must be less than end = {self.end}")
        if self.end + self.stagger > 1.0 + 1e-9:
            raise ValueError(
                f"end + stagger = {self.end + self.stagger:.3g} is past the end of the run; they may add up to 1"
            )
        return self

    def canonical(self) -> Anneal:
        """The same schedule with every field that has no effect at its default."""
        changes: dict[str, object] = {}
        if self.shape != "step":
            changes["steps"] = 1
        elif self.steps == 1:
            changes["start"] = 0.0  # one jump, at the end of the window: where the window starts is moot
        if self.stagger == 0.0:
            changes["order"] = "shallow_first"
        return self.model_copy(update=changes)


PAPER_ANNEAL = Anneal()


def _anneal_by_name(value: object) -> object:
    if value == "paper":
        return PAPER_ANNEAL.model_dump()
    if isinstance(value, str):
        raise ValueError(f'{value!r} is not a lambda schedule; write "paper" or a table with shape, start and end')
    return value


class TrainingConfig(Strict):
    """One training run. Times are in epochs, learning rates for the batch size given.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step, over all processes together.
        init: weights to start from: ``default`` (the official code's) or ``identity`` (kernels that hand on what they
            get, as far as their form allows it).
        optimizer: ``adamw``, ``sgd`` (with Nesterov momentum), ``lamb``, or ``orthogonal``: kernels that mix channels
            move along their momentum made orthogonal, the rest is ``adamw``'s.
        lr: highest learning rate.
        adamw_lr: the same of what ``orthogonal`` leaves to AdamW; it rises and falls with ``lr``.
        min_lr: learning rate of the last step.
        lr_shape: how it falls from the one to the other: ``cosine`` (half a period) or ``linear``.
        weight_decay: of all parameters of more than one dimension.
        momentum: of ``sgd`` and ``orthogonal``.
        layer_decay: factor by which the learning rate falls from each layer to the one before it.
        warmup_epochs: length of the linear warm-up; at most half of the run.
        loss: ``cross_entropy``, or ``bce`` (one binary cross entropy a class).
        label_smoothing: share of each label that is spread over all classes.
        anneal: how lambda goes from 0 to 1; ``paper`` for the paper's schedule.
        merge: make each pair one convolution as soon as its lambda is 1, and train on as that.
        flip: mirror each image with probability one half; ``alternating``: in every second pass, half of the images in
            the one, the others in the other (resident pipeline only).
        crop_padding: pixels by which an image moves at most, up or down and to either side.
        crop_fill: what comes in where an image has moved: ``black``, or its own border mirrored (``reflect``).
        cutout: side in pixels of a square that is set to the mean in each image; 0 for none.
        mixup: alpha of the Beta distribution that two images are blended by; 0 for none.
        cutmix: alpha of the Beta distribution of the share that another image's rectangle takes; 0 for none.
        mixup_switch: probability of cutmix where a recipe has both.
        rand_augment: timm's text for RandAugment, such as ``rand-m7-mstd0.5-inc1`` (streaming pipeline only).
        color_jitter: strength of the random change of brightness, contrast and saturation (streaming pipeline only).
        random_erasing: probability that a rectangle of an image becomes noise.
        random_resized_crop: train on random parts of an image, resized (streaming pipeline only).
        ema_decay: of the running average of the weights, which is then the net that is judged.
        amp: mixed precision: ``false``, ``bf16``, ``fp16`` (with scaled gradients), ``true`` (on a GPU the first of
            these two that it has; a CPU stays at float32), or ``auto``: where it is measured to be faster. Not given:
            ``auto`` on a GPU, ``false`` on a CPU.
        channels_last: images and weights in the order that convolutions on most devices prefer: ``true``, ``false`` or
            ``auto``. Not given: ``auto`` on a GPU, ``true`` on a CPU.
        compile: train a net that torch.compile has compiled: ``true``, ``false``, or ``auto``: where it is measured to
            be faster by more than compiling costs. Not given: ``auto`` on a GPU, ``false`` on a CPU. With ``auto`` the
            same seed need not give the same weights again.
        clip_grad: norm that the gradient is clipped to.
    """

    epochs: Positive = 10
    batch_size: Positive = 128
    init: Literal["default", "identity"] = "default"
    optimizer: Literal["adamw", "sgd", "lamb", "orthogonal"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 2e-3
    adamw_lr: Annotated[float, Field(gt=0)] = 3e-3
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    lr_shape: Literal["cosine", "linear"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    anneal: Annotated[Anneal, BeforeValidator(_anneal_by_name)] = PAPER_ANNEAL
    merge: bool = False
    flip: bool | Literal["alternating"] = True
    crop_padding: NonNegative = 0
    crop_fill: Literal["black", "reflect"] = "black"
    cutout: NonNegative = 0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    mixup_switch: Share = 0.5
    rand_augment: str | None = None
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    random_erasing: Share = 0.0
    random_resized_crop: bool = False
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    amp: bool | Literal["auto", "bf16", "fp16"] | None = None
    channels_last: bool | Literal["auto"] | None = None
    compile: bool | Literal["auto"] | None = None
    clip_grad: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr = {self.min_lr} must not exceed lr = {self.lr}")
        if self.optimizer == "sgd" and self.momentum == 0.0:
            raise ValueError('momentum = 0 with optimizer = "sgd", whose Nesterov momentum must be above 0')
        return self


class DataConfig(Strict):
    """Where the images come from and how they reach the net.

    Attributes:
        source: ``digits`` or whatever timm's ``create_dataset`` reads.
        validation_share: share of the training set held out to choose nets by.
        test_share: share cut off as a test set where the source has none.
        split_seed: seed of both cuts.
        pipeline: ``resident`` (decoded once, augmented in batches), ``streaming`` (timm's loader) or ``auto``.
        resident_limit_mib: largest decoded set that ``auto`` keeps in memory, where the device has as much free.
        workers: loader processes of the streaming pipeline.
        cache: keep decoded images in a folder, so that the next run need not decode them.
        cache_limit_mib: most that this folder may hold; the sets that were not used for longest make room.
    """

    source: str = "digits"
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    split_seed: NonNegative = 0
    pipeline: Literal["auto", "resident", "streaming"] = "auto"
    resident_limit_mib: Positive = 2048
    workers: NonNegative = 2
    cache: bool = True
    cache_limit_mib: Positive = 8192
