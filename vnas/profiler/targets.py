"""What NET on the command line stands for. Names are checked at once; the net itself is built when its turn comes.

    vanillanet_5                     the fused net of that preset, with fresh weights
    timm:resnet50                    timm.create_model, without pretrained weights
    torchvision:shufflenet_v2_x1_5   torchvision.models.get_model, without weights
    FILE.json                        the fused net of an architecture
    package.module:function          called with no arguments; returns what is called with one batch of images, or
                                     (what is called, its inputs) for a net that takes anything else

The images of such a function's net have three channels; for more or fewer it gives its own inputs.
``vnas.nets`` is reached by its name only when a VanillaNet is asked for: the rest of this package works without it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnas.errors import MissingExtraError, UsageError, nearest

if TYPE_CHECKING:
    import torch

IMAGE_SEED = 0
"""Every net gets the same images; they are noise, since no latency here depends on what they show."""

DEFAULT_IMAGE_SIZE = 224
FORMS = "vanillanet_5, timm:resnet50, torchvision:resnet50, an architecture FILE.json, or package.module:function"


@dataclass(frozen=True)
class Built:
    """A net, and what it is called with.

    Attributes:
        callable: on the CPU; a module in eval mode.
        inputs: its positional arguments, on the CPU; None where it takes one batch of images.
    """

    callable: Callable[..., object]
    inputs: tuple[object, ...] | None = None


@dataclass(frozen=True)
class Target:
    """One net to be measured.

    Attributes:
        name: as it was typed.
        form: ``fused`` for this project's nets, ``eval`` for others' modules, ``callable`` for a function's.
        in_chans: channels of the images it takes.
        image_size: height and width of the images.
        create: makes the net, on the CPU.
    """

    name: str
    form: str
    in_chans: int
    image_size: int
    create: Callable[[], Built]

    def build(self) -> Callable[..., object]:
        """The net alone, on the CPU; modules are in eval mode."""
        return self.create().callable


def materialise(
    target: Target, batch: int, device: str | torch.device
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The net of a target and its inputs, on a device.

    Args:
        target: its function's own inputs, where it gives some; else images of its size.
        batch: images a call.
        device: where both go.

    Returns:
        The callable and its positional arguments: ``(images,)`` of shape (B, C, H, W), or what the function gave.

    Raises:
        UsageError: the net cannot be built, or brings inputs of its own and a batch is asked for as well.
    """
    import torch

    from vnas.profiler.runtimes.precision import mapped

    built = target.create()
    net = built.callable
    if built.inputs is not None and batch != 1:
        raise UsageError(f"{target.name} brings inputs of its own; leave out --batch {batch}")
    inputs = built.inputs
    if inputs is None:
        shape = (batch, target.in_chans, target.image_size, target.image_size)
        inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(IMAGE_SEED)),)  # (B, C, H, W)
    if isinstance(net, torch.nn.Module):
        net = net.to(device)
    return net, mapped(inputs, lambda tensor: tensor.to(device))


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
    return _from_function(text, source, rest, image_size)


def _nets() -> Any:
    return importlib.import_module("vnas.nets")


def _fused(name: str, architecture: Any) -> Target:
    def create() -> Built:
        return Built(_nets().FusedVanillaNet(architecture).eval())

    return Target(name, "fused", architecture.in_chans, architecture.image_size, create)


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

    def create() -> Built:
        return Built(timm.create_model(model, pretrained=False, **options).eval())

    return Target(text, "eval", 3, image_size, create)


def _from_torchvision(text: str, model: str, image_size: int) -> Target:
    models = _library("torchvision").models
    known = models.list_models(module=models)
    if model not in known:
        raise UsageError(f"torchvision has no classification model {model!r}.{nearest(model, known)}")

    def create() -> Built:
        return Built(models.get_model(model, weights=None).eval())

    return Target(text, "eval", 3, image_size, create)


def _from_function(text: str, module: str, function: str, image_size: int | None) -> Target:
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"NET {text!r}: {module} cannot be imported ({error}); a NET is {FORMS}") from error
    made = getattr(home, function, None)
    if not callable(made):
        raise UsageError(f"NET {text!r}: {module} has no function {function!r}.{nearest(function, vars(home))}")

    def create() -> Built:
        try:
            built = _built(text, made())
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{text} raised {type(error).__name__}: {error}") from error
        if built.inputs is not None and image_size is not None:
            raise UsageError(f"{text} brings inputs of its own; leave out --image-size {image_size}")
        return built

    return Target(text, "callable", 3, DEFAULT_IMAGE_SIZE if image_size is None else image_size, create)


def _built(text: str, made: object) -> Built:
    """What a function returned: something to call, or that and a tuple of inputs."""
    net, inputs = made, None
    if isinstance(made, tuple) and len(made) == 2:
        net, inputs = made
        if not isinstance(inputs, (tuple, list)):
            raise UsageError(
                f"{text} returned inputs of type {type(inputs).__name__}; "
                "it must return (callable, inputs), inputs being a tuple of tensors, e.g. (net, (tokens,))"
            )
        inputs = tuple(inputs)
    if not callable(net):
        raise UsageError(
            f"{text} returned a {type(net).__name__}; it must return something that can be called, "
            "or that and a tuple of its inputs"
        )
    if hasattr(net, "eval") and hasattr(net, "training"):
        net.eval()
    return Built(net, inputs)


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
