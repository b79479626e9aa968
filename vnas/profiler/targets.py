"""What NET on the command line stands for. Names are checked at once; the net itself is built when its turn comes.

    vanillanet_5                     the fused net of that preset, with fresh weights
    timm:resnet50                    timm.create_model, without pretrained weights
    torchvision:shufflenet_v2_x1_5   torchvision.models.get_model, without weights
    FILE.json                        the fused net of an architecture
    package.module:function          called with no arguments; returns what is called with one batch of images

``vnas.nets`` is reached by its name only when a VanillaNet is asked for: the rest of this package works without it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnas.errors import MissingExtraError, UsageError, nearest

DEFAULT_IMAGE_SIZE = 224
FORMS = "vanillanet_5, timm:resnet50, torchvision:resnet50, an architecture FILE.json, or package.module:function"


@dataclass(frozen=True)
class Target:
    """One net to be measured.

    Attributes:
        name: as it was typed.
        form: ``fused`` for this project's nets, ``eval`` for others' modules, ``callable`` for a function's.
        in_chans: channels of the images it takes.
        image_size: height and width of the images.
        build: makes the net, on the CPU; modules come in eval mode.
    """

    name: str
    form: str
    in_chans: int
    image_size: int
    build: Callable[[], Callable[..., object]]


def find_target(text: str, image_size: int | None = None) -> Target:
    """The target that a NET stands for.

    Args:
        text: as typed.
        image_size: pixels; by default what an architecture says, else 224.

    Raises:
        UsageError: nothing of that name, or a file that cannot be read.
    """
    source, colon, rest = text.partition(":")
    if text.endswith(".json"):
        return _from_file(text, image_size)
    if not colon:
        if not text.startswith("vanillanet"):
            raise UsageError(f"NET {text!r} is not known; a NET is {FORMS}.{_with_prefix(text)}")
        sizes = {} if image_size is None else {"image_size": image_size}
        return _fused(text, _nets().Architecture.named(text, **sizes))
    if not source or not rest:
        raise UsageError(f"NET {text!r} lacks a part on one side of the colon; a NET is {FORMS}")
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    if source == "timm":
        return _from_timm(text, rest, size)
    if source == "torchvision":
        return _from_torchvision(text, rest, size)
    return _from_function(text, source, rest, size)


def _nets() -> Any:
    return importlib.import_module("vnas.nets")


def _fused(name: str, architecture: Any) -> Target:
    def build() -> Callable[..., object]:
        net: Callable[..., object] = _nets().FusedVanillaNet(architecture).eval()
        return net

    return Target(name, "fused", architecture.in_chans, architecture.image_size, build)


def _from_file(text: str, image_size: int | None) -> Target:
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{text} cannot be read: {error}") from error
    architecture = _nets().Architecture.from_json(content)
    if image_size is not None and image_size != architecture.image_size:
        raise UsageError(
            f"{text} is an architecture for {architecture.image_size} px; leave out --image-size {image_size}"
        )
    return _fused(text, architecture)


def _from_timm(text: str, model: str, image_size: int) -> Target:
    timm = _library("timm")
    if not timm.is_model(model):
        raise UsageError(f"timm has no model {model!r}.{nearest(model, timm.list_models())}")
    config = timm.get_pretrained_cfg(model)
    fixed = config is not None and config.fixed_input_size and config.input_size[-1] != image_size
    options = {"img_size": image_size} if fixed else {}

    def build() -> Callable[..., object]:
        net: Callable[..., object] = timm.create_model(model, pretrained=False, **options).eval()
        return net

    return Target(text, "eval", 3, image_size, build)


def _from_torchvision(text: str, model: str, image_size: int) -> Target:
    models = _library("torchvision").models
    known = models.list_models(module=models)
    if model not in known:
        raise UsageError(f"torchvision has no classification model {model!r}.{nearest(model, known)}")

    def build() -> Callable[..., object]:
        net: Callable[..., object] = models.get_model(model, weights=None).eval()
        return net

    return Target(text, "eval", 3, image_size, build)


def _from_function(text: str, module: str, function: str, image_size: int) -> Target:
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"NET {text!r}: {module} cannot be imported ({error}); a NET is {FORMS}") from error
    made = getattr(home, function, None)
    if not callable(made):
        raise UsageError(f"NET {text!r}: {module} has no function {function!r}.{nearest(function, vars(home))}")

    def build() -> Callable[..., object]:
        try:
            net = made()
        except Exception as error:
            raise UsageError(f"{text} raised {type(error).__name__}: {error}") from error
        if not callable(net):
            raise UsageError(f"{text} returned a {type(net).__name__}; it must return something that can be called")
        if hasattr(net, "eval") and hasattr(net, "training"):
            net.eval()
        called: Callable[..., object] = net
        return called

    return Target(text, "callable", 3, image_size, build)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{name} is not installed; pip install {name}") from error


def _with_prefix(text: str) -> str:
    """A hint for a library's model that was typed without the library."""
    if importlib.util.find_spec("timm") is not None and _library("timm").is_model(text):
        return f" Did you mean 'timm:{text}'?"
    return ""
