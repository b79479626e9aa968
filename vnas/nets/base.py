"""What a timm backbone offers, written once for the training form and the fused form.

Shapes: B batch, C channels, H and W sides in pixels, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from vnas.errors import ArchitectureError
from vnas.nets.architecture import Architecture


def default_cfg(arch: Architecture) -> dict[str, Any]:
    """The description that timm keeps of the input and the classifier of a net, before any weights."""
    size, last = arch.image_size, arch.feature_sizes[-1]
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    if arch.in_chans != len(mean):
        mean, std = ((sum(values) / len(values),) * arch.in_chans for values in (mean, std))
    return {
        "input_size": (arch.in_chans, size, size),
        "fixed_input_size": False,
        "pool_size": (last, last),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": mean,
        "std": std,
        "num_classes": arch.num_classes,
        "first_conv": "stem.pair.conv1",
        "classifier": ("head.fc.conv1", "head.fc.conv2"),
    }


class Head(nn.Module):
    """Global average pool, dropout, classifier. A fully connected layer is a 1x1 convolution on a 1x1 map."""

    def __init__(self, fc: nn.Module, dropout: float, *, pools: bool = True) -> None:
        super().__init__()
        self.pools = pools
        self.pool = nn.AdaptiveAvgPool2d(1) if pools else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc = fc

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, K); (B, C) with ``pre_logits``; unpooled heads give a map instead."""
        x = self.drop(self.pool(x))  # (B, C, 1, 1)
        if not pre_logits:
            x = self.fc(x)  # (B, K, 1, 1)
        return x.flatten(1) if self.pools else x


class PlainNet(nn.Module, ABC):
    """A stem, a sequence of stages and a head, with timm's interface.

    Attributes:
        architecture: What the net is.
        feature_info: Width, reduction and module name of every feature map: the stem's, then each stage's.
        pretrained_cfg: timm's description of the input; also ``default_cfg``.
    """

    __jit_unused_properties__ = ("form", "pairs", "num_pairs", "slopes")

    def __init__(self, arch: Architecture, stem: nn.Module, stages: Sequence[nn.Module], head: Head) -> None:
        super().__init__()
        self.architecture = arch
        self.stem: nn.Module = stem
        self.stages = nn.Sequential(*stages)
        self.head: Head = head
        self.in_chans = arch.in_chans
        self.num_classes = arch.num_classes
        self.num_features = arch.widths[-1]
        self.head_hidden_size = self.num_features
        self.drop_rate = arch.dropout
        self.grad_checkpointing = False
        names = ["stem", *(f"stages.{i}" for i in range(len(arch.stages)))]
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": name}
            for width, reduction, name in zip(arch.widths, arch.reductions, names, strict=True)
        ]
        self.pretrained_cfg = self.default_cfg = default_cfg(arch)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H', W'), the last feature map."""
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            x = checkpoint_seq(self.stages, x)
        else:
            x = self.stages(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H', W') -> (B, K) logits, or (B, C) pooled features with ``pre_logits`` or without a classifier."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, K) logits, or (B, C) where ``num_classes`` is 0."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The feature maps at ``indices`` beside the last one.

        Args:
            x: (B, in_chans, H, W).
            indices: Positions in ``feature_info``; a number n means the last n; None means all.
            norm: timm's switch for a final norm; these nets have none, so it changes nothing.
            stop_early: Stop at the last index instead of running to the end.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The last map computed and the list of maps (B, C_i, H_i, W_i), or the list alone.

        Raises:
            ArchitectureError: Another ``output_fmt``.
        """
        if output_fmt != "NCHW":
            raise ArchitectureError(f'output_fmt is {output_fmt!r}; it must be "NCHW"')
        take, last = self._take(indices)
        x = self.stem(x)
        found = [x] if 0 in take else []
        stages = self.stages[:last] if stop_early else self.stages
        for index, stage in enumerate(stages, start=1):
            x = checkpoint_seq(nn.Sequential(stage), x) if self.grad_checkpointing else stage(x)
            if index in take:
                found.append(x)
        return found if intermediates_only else (x, found)

    def _take(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """Absolute positions of the feature maps, and the last."""
        wanted = indices if indices is None or isinstance(indices, int) else list(indices)
        take, last = feature_take_indices(len(self.stages) + 1, wanted)
        return list(take), last

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of ``indices``, and the head.

        An architecture has at least one stage, so ``architecture`` keeps its first when all are dropped.

        Args:
            indices: As for ``forward_intermediates``.
            prune_norm: timm's switch for a final norm; there is none.
            prune_head: Drop the head too. It goes in any case where a stage goes, since its width no longer fits.

        Returns:
            The positions kept, all counted from the front.
        """
        take, last = self._take(indices)
        shorter = last < len(self.stages)
        self.stages = self.stages[:last]
        self.feature_info = self.feature_info[: last + 1]
        self.architecture = replace(self.architecture, stages=self.architecture.stages[: max(last, 1)])
        self.num_features = self.head_hidden_size = int(str(self.feature_info[-1]["num_chs"]))
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return take

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The classifier, or ``nn.Identity`` where there is none."""
        return self.head.fc

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, on the same device and in the same dtype.

        Args:
            num_classes: Classes; 0 for none.
            global_pool: "avg"; "" for no pool, which a classifier does not allow; None leaves it as it is, or
                restores "avg" where there is a classifier.

        Raises:
            ArchitectureError: Another ``global_pool``, or "" with a classifier.
        """
        if global_pool is None:
            global_pool = "avg" if num_classes or self.head.pools else ""
        check_global_pool(global_pool, num_classes)
        self.architecture = replace(self.architecture, num_classes=num_classes)
        head = Head(self._classifier(num_classes), self.drop_rate, pools=global_pool == "avg")
        self.head = head.train(self.training)
        self.num_classes = num_classes

    @abstractmethod
    def _classifier(self, num_classes: int) -> nn.Module:
        """A fresh classifier in the form of the net; an identity for no classes."""

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of keeping its activations.

        As with any checkpointed batch norm, a training step then updates the running statistics twice.
        """
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameter names into layers, for layer-wise learning rates.

        A stage is one layer, as in the paper's layer decay.

        Args:
            coarse: timm's; makes no difference here.
        """
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}


def check_global_pool(global_pool: str, num_classes: int) -> None:
    """Raise ArchitectureError unless a head can pool like this."""
    if global_pool not in ("avg", "") or (global_pool == "" and num_classes):
        raise ArchitectureError(
            f'global_pool is {global_pool!r} with {num_classes} classes; it must be "avg", or "" with num_classes=0'
        )
