"""A study small enough to run whole in seconds, and ways to run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
name = "tiny"
sampler = "random"
trials = 4

[data]
source = "digits"
validation_share = 0.2
test_share = 0.2

[training]
epochs = 1
batch_size = 128
lr = 5e-3
warmup_epochs = 0.2
flip = false

[latency]
min_samples = 10
min_seconds = 0.01
max_seconds = 0.05
threads = 1

[front]
seeds = 2
epochs_factor = 1.0
max_nets = 2

[space]
name = "tiny"
image_size = 8

[space.stem]
kernel = 3
stride = 2
width = [4, 8, 16]
series = [0, 1]

[space.stages]
count = [1, 2]
width = [8, 16, 24]
stride = [1, 2]
series = [0, 1]

[space.anneal]
end = [0.33, 0.66]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The study file."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Callable[..., int]:
    """``run("--trials", "5")``: the command on the CPU, in this process, into ``tmp_path / "run"``."""
    from vnas.search.cli import main

    def call(*arguments: str) -> int:
        own = ["--study", str(tiny), "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "run")]
        return main([*own, *arguments])

    return call
