r"""Rungs: a net judged after a little training, then after more, each time as the net that would be deployed.

    branch     trunk  ----+--------------+---------> lambda small, rate constant: can always go on
                           \__ judged     \__ judged        each branch: lambda to 1, rate to its least
    restart    ------- judged, then from fresh weights  ------------------- judged
    continue   ----\__ judged ----------\__ judged           goes on from the annealed net, lambda put back

A training form with lambda below 1 is not the net that will run, and one whose rate is still high is not done. So the
accuracy at a rung is that of a complete anneal: lambda reaches exactly 1, the rate its least, batch norms are estimated
anew, and the fused net is evaluated. What a branch learns is lost to the trunk, and that is its cost
(:func:`overhead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import torch

from vnas.config import TrainingConfig
from vnas.errors import ConfigError
from vnas.nets import Architecture
from vnas.training.checkpointing import Checkpoint
from vnas.training.fit import check_fit
from vnas.training.images.data import Data
from vnas.training.result import Progress
from vnas.training.rungs.climbing import Climb
from vnas.training.rungs.rung import Rung, RungResult, Strategy, epochs_spent, overhead

__all__ = ["Rung", "RungResult", "Strategy", "epochs_spent", "overhead", "train_rungs"]


def train_rungs(
    arch: Architecture,
    data: Data,
    config: TrainingConfig,
    rungs: Sequence[Rung],
    *,
    seed: int,
    device: torch.device,
    strategy: Strategy = "branch",
    trunk_slope: float = 0.0,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[RungResult]:
    """Train a net from rung to rung; each result is worked for when it is asked for, and no sooner.

    With a checkpoint, the same call goes on from the file, in another process too: rungs that were judged are given
    from the file at once, then training goes on where it was. On the CPU the results are those of a candidate that was
    never stopped, bit for bit. More rungs may be added at the end when it goes on.

    The strategies, for the same rungs:

    - ``branch``: the branch takes a copy of the trunk's net, optimiser and place in the data; the trunk goes on from
      its own, with the batches and random numbers that it would have had without the branch.
    - ``restart``: fresh weights at each rung, for as many epochs as the trunk and the branch have together there.
    - ``continue``: what the branch has made of the net goes on as the trunk, at ``lr`` and the trunk's lambda.

    Args:
        arch: of the net, whose weights are initialised from the seed.
        data: training and validation sets. The test set is not touched.
        config: the recipe; ``epochs`` has no meaning here. ``anneal`` and the rate's way down count over a branch
            (over all of a restarted run). The rate warms up once, in at most half of what comes before the first
            branch. ``continue`` leaves ``merge`` out.
        rungs: in order.
        seed: of initialisation, order, augmentation and dropout.
        device: where to train.
        strategy: how the net comes from one rung to the next.
        trunk_slope: lambda in the trunk, from 0 to below 1.
        checkpoint: where the candidate is kept; written at each rung too.
        progress: called after every look at the loss; its steps and epochs are those of the trunk or branch alone.

    Yields:
        A result a rung.

    Raises:
        ArchitectureError: the net does not have the data's classes or channels.
        CheckpointError: the checkpoint cannot be read or written.
        ConfigError: no rungs, or options that exclude each other.
        ResumeError: the checkpoint is another candidate's.
        TrainingError: see :func:`vnas.training.fit`; comes with the result that is asked for.
    """
    check_fit(arch, data)
    if strategy not in get_args(Strategy):
        raise ConfigError(f"strategy {strategy!r} is not known; write one of {', '.join(get_args(Strategy))}")
    if not 0.0 <= trunk_slope < 1.0:
        raise ConfigError(f"trunk_slope = {trunk_slope}; lambda in the trunk must be from 0 to below 1")
    if not rungs:
        raise ConfigError("there are no rungs to train to; give one at least")
    if strategy == "continue":
        config = config.model_copy(update={"merge": False})  # lambda cannot be put back into a merged pair
    climb = Climb(arch, data, config, tuple(rungs), seed, device, strategy, trunk_slope, checkpoint, progress)
    return climb.results()
