"""The published nets as timm models: ``timm.create_model("vanillanet_6", num_classes=10)``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, model_entrypoint, register_model
from torch import Tensor, nn

from vnas.errors import ArchitectureError, nearest
from vnas.nets.architecture import Architecture
from vnas.nets.base import PlainNet, check_global_pool, default_cfg
from vnas.nets.official import renamed
from vnas.nets.presets import PRESETS
from vnas.nets.vanillanet import VanillaNet

_NET_ARGUMENTS = ("num_classes", "in_chans", "drop_rate", "img_size", "image_size", "global_pool", "device", "dtype")
_TIMM_ARGUMENTS = (
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "pretrained_model_args",
    "cache_dir",
    "features_only",
    "out_indices",
    "feature_cls",
)

default_cfgs = generate_default_cfgs({name: default_cfg(Architecture.named(name)) for name in PRESETS})


def _construct(
    cfg: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    img_size: int | tuple[int, int] | None = None,
    image_size: int | None = None,
    global_pool: str = "avg",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VanillaNet:
    check_global_pool(global_pool, num_classes)
    size = _square(img_size)
    if size is not None and image_size not in (None, size):
        raise ArchitectureError(f"img_size is {img_size!r} and image_size {image_size!r}; give one of them")
    arch = Architecture.named(
        cfg,
        num_classes=num_classes,
        image_size=image_size if size is None else size,
        in_chans=in_chans,
        dropout=drop_rate,
    )
    net = VanillaNet(arch, device=device, dtype=dtype)
    if global_pool == "":
        net.reset_classifier(0, "")
    return net


def _square(img_size: int | tuple[int, int] | None) -> int | None:
    """The side that timm's ``img_size`` names."""
    if img_size is None or isinstance(img_size, int):
        return img_size
    if len(set(img_size)) != 1:
        raise ArchitectureError(f"img_size is {img_size!r}; the input must be square, such as 224")
    return img_size[0]


def adapt_weights(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Weights as timm loads them: official names become this project's, and a classifier of other classes is left out.

    Args:
        state: A state dict of the training form, under official or own names.
        net: The net that will load it.
    """
    own = net.state_dict()
    return {
        name: weight
        for name, weight in renamed(state).items()
        if not (name.startswith("head.") and name in own and own[name].shape != weight.shape)
    }


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The published net ``name`` in its training form, built by timm's rules.

    Args:
        name: A name of ``Architecture.named``.
        pretrained: Load the weights that ``pretrained_cfg`` or its overlay names; none are published under this name.
        **kwargs: num_classes, in_chans, drop_rate, img_size or image_size, global_pool, device, dtype, and timm's own:
            pretrained_cfg, pretrained_cfg_overlay, features_only, out_indices, feature_cls.

    Raises:
        ArchitectureError: An unknown argument, or a net that cannot exist.
    """
    allowed = (*_NET_ARGUMENTS, *_TIMM_ARGUMENTS)
    for key in kwargs:
        if key not in allowed:
            raise ArchitectureError(
                f"{name} has no argument {key!r}; there are {', '.join(allowed)}.{nearest(key, allowed)}"
            )
    out_indices = kwargs.pop("out_indices", None)
    if out_indices is None:
        out_indices = last_of_each_reduction(Architecture.named(name))
    net: nn.Module = build_model_with_cfg(
        _construct,
        name,
        pretrained,
        model_cfg=name,
        feature_cfg={"out_indices": out_indices, "flatten_sequential": True},
        pretrained_filter_fn=adapt_weights,
        **kwargs,
    )
    if isinstance(net, PlainNet):
        # timm hands over its table's entry, which does not know the sizes that were asked for.
        actual = default_cfg(net.architecture)
        net.pretrained_cfg.update({key: actual[key] for key in ("input_size", "pool_size", "mean", "std")})
    return net


def last_of_each_reduction(arch: Architecture) -> tuple[int, ...]:
    """Positions of the feature maps that a detector wants: the deepest at each resolution."""
    reductions = arch.reductions
    ends = [i for i, (here, after) in enumerate(pairwise(reductions)) if here != after]
    return (*ends, len(reductions) - 1)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{name}: {Architecture.named(name).describe()}. Arguments as for ``create``."
    return entrypoint


def _register(name: str) -> None:
    entrypoint = _entrypoint(name)
    globals()[name] = entrypoint
    with warnings.catch_warnings():
        if is_model(name) and model_entrypoint(name).__module__ == __name__:
            # A reload of this module: timm would warn that a name is taken, by ourselves.
            warnings.simplefilter("ignore")
        register_model(entrypoint)


for _name in PRESETS:
    _register(_name)
