"""Which runtime runs where, in which precision, and what must be installed for it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from typing import Any

from vnas.errors import MissingExtraError, UsageError, nearest

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")

_ON_THE_CPU = ("fp32", "fp16", "bf16")

# ONNX Runtime computes fp16 on an x86 CPU as fp32 between casts, and its convolutions take no bf16.
_WHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "eager": {"cpu": _ON_THE_CPU, "cuda": PRECISIONS},
    "channels_last": {"cpu": _ON_THE_CPU, "cuda": PRECISIONS},
    "cuda_graph": {"cuda": PRECISIONS},
    "compile": {"cpu": _ON_THE_CPU, "cuda": PRECISIONS},
    "compile_max_autotune": {"cpu": _ON_THE_CPU, "cuda": PRECISIONS},
    "onnxruntime": {"cpu": ("fp32",), "cuda": ("fp32", "tf32", "fp16")},
    "openvino": {"cpu": _ON_THE_CPU},
    "tensorrt": {"cuda": PRECISIONS},
}

RUNTIMES = tuple(_WHERE)

COMPILED = ("compile", "compile_max_autotune")

EXPORTED = ("onnxruntime", "openvino", "tensorrt")
"""Those that take an exported graph: modules only, in one of the precisions above."""

_EXPORTER = ("onnx", "onnxscript")


def check(runtime: str, precision: str | None, device_type: str) -> None:
    """Refuse what cannot be, before anything is built. Imports no runtime.

    Args:
        runtime: one of ``RUNTIMES``.
        precision: one of ``PRECISIONS``; None leaves it as the callable is.
        device_type: ``cpu`` or ``cuda``.

    Raises:
        UsageError: an unknown name, or a combination that does not exist.
        MissingExtraError: a package or a compiler is not installed.
    """
    if runtime not in _WHERE:
        raise UsageError(
            f"runtime {runtime!r} is not known; allowed are {', '.join(RUNTIMES)}.{nearest(runtime, RUNTIMES)}"
        )
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is not known; allowed are {', '.join(PRECISIONS)}."
            f"{nearest(precision, PRECISIONS)}"
        )
    if device_type not in _WHERE[runtime]:
        here = [name for name, places in _WHERE.items() if device_type in places]
        raise UsageError(
            f"runtime {runtime} does not exist on {device_type}, only on {', '.join(_WHERE[runtime])}; "
            f"on {device_type} there are {', '.join(here)}"
        )
    allowed = _WHERE[runtime][device_type]
    if precision is not None and precision not in allowed:
        raise UsageError(
            f"runtime {runtime} does not compute in {precision} on {device_type}; there it has {', '.join(allowed)}"
        )
    if runtime in COMPILED:
        _check_compiler(device_type)
    if runtime in EXPORTED:
        _check_packages(runtime, device_type)


def packages(runtime: str, device_type: str) -> tuple[str, ...]:
    """What a runtime is made of beside torch, by the names under which it is imported.

    Args:
        runtime: one of ``RUNTIMES``.
        device_type: ``cpu`` or ``cuda``.
    """
    if runtime in EXPORTED:
        return (*_EXPORTER, runtime)
    return ("triton",) if runtime in COMPILED and device_type == "cuda" else ()


def library(name: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} cannot be imported ({error}); pip install {name}") from error


def _check_packages(runtime: str, device_type: str) -> None:
    needed = packages(runtime, device_type)
    missing = [name for name in needed if not _installed(name)]
    if missing:
        # The package of that name has no CUDA provider, and would have to be taken away again.
        names = ["onnxruntime-gpu" if (name, device_type) == ("onnxruntime", "cuda") else name for name in missing]
        raise MissingExtraError(f"runtime {runtime} needs {', '.join(needed)}; pip install {' '.join(names)}")


def _check_compiler(device_type: str) -> None:
    if device_type == "cuda":
        if not _installed("triton"):
            raise MissingExtraError("torch.compile needs triton on a GPU; pip install triton")
        return
    asked = os.environ.get("CXX")
    names = (asked,) if asked else ("cl",) if sys.platform == "win32" else ("g++", "clang++")
    if not any(shutil.which(name) for name in names):
        raise no_compiler(" or ".join(names))


def no_compiler(names: str) -> MissingExtraError:
    """What to say where torch.compile finds no C++ compiler."""
    return MissingExtraError(
        f"torch.compile needs a C++ compiler on the CPU, and there is no {names}; "
        "install one (apt install g++, dnf install gcc-c++, xcode-select --install) or name yours in CXX"
    )


def _installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None
