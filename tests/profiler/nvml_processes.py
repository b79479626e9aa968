"""Scripts in processes of their own, which find a compiled stand-in as NVML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

RunWithNvml = Callable[..., Any]


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAKE_NVML_")}
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **more}


def run_python(script: str, **environment: str) -> Any:
    """What the script prints, read as JSON; run in a fresh process where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def build_library(folder: Path, *options: str) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler (cc) for the stand-in NVML")
    source = Path(__file__).with_name("fake_nvml.c")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", *options, "-o", target, source], check=True)
    return folder


def runner(folder: Path) -> RunWithNvml:
    """Runs a script whose process finds the library of the folder; settings are the stand-in's, in lower case."""

    def run(script: str, **settings: str) -> Any:
        named = {f"FAKE_NVML_{name.upper()}": value for name, value in settings.items()}
        return run_python(script, LD_LIBRARY_PATH=str(folder), **named)

    return run
