"""What is faster for a net on a device, measured within a small share of its run.

    1  a few steps of the plainest candidate          how long the run will be, and so what measuring may take:
                                                      a twentieth of it, or half a second where that is more
    2  every layout in every precision, in turns      of copies of the net, on one batch; one that is plainly slower at
                                                      a first look gets no turns
    3  the fastest, an earlier one where it is open   the 95 % interval of the gain must lie above 1
    4  that one compiled, in turns with itself        only where the twentieth covers what compiling took last, or takes
                                                      as a rule; used where the run's steps make up for compiling again

A run whose twentieth is too short for step 2 trains plainly. What was measured holds for all runs of the same net in
the process: only the length of the run is looked at anew.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet
from vnas.training.speed.compiling import why_not
from vnas.training.speed.options import Options, Speed
from vnas.training.speed.race import Race, race
from vnas.training.speed.trial import Trial

SHARE = 0.05
"""Of a run that measuring may take."""

LEAST_SECONDS = 0.5
"""That measuring may take, however brief a run is."""

COMPILE_SECONDS = 40.0
"""What compiling a training step is taken to cost until it was measured in this process."""


@dataclass(frozen=True)
class Compiling:
    """What is known of a net's compiled steps.

    Attributes:
        seconds: that the first step took, beyond those of a step.
        race: of the net as it is and compiled; None where compiling failed.
        notes: why it failed.
    """

    seconds: float
    race: Race[Speed] | None
    notes: tuple[str, ...] = ()


Key = tuple[object, ...]
RACES: dict[Key, Race[Speed]] = {}
COMPILED: dict[Key, Compiling] = {}


class Measuring:
    """One choice for one run. See :func:`vnas.training.speed.choosing.choose_speed` for the arguments.

    Args:
        net: stays as it is.
        config: the recipe.
        device: where.
        batch: images and labels.
        steps: of the run, or None.
        options: what there is to choose from.
    """

    def __init__(
        self,
        net: VanillaNet,
        config: TrainingConfig,
        device: torch.device,
        batch: tuple[Tensor, Tensor],
        steps: int,
        options: Options,
    ) -> None:
        self._net, self._config, self._device, self._batch = net, config, device, batch
        self._steps, self._options = steps, options
        mixed = config.mixup > 0.0 or config.cutmix > 0.0
        recipe = (config.optimizer, config.layer_decay, config.loss, mixed, config.clip_grad is None)
        threads = torch.get_num_threads()
        self._key: Key = (str(device), threads, net.architecture.digest, net.merged, tuple(batch[0].shape), *recipe)

    def choice(self) -> tuple[Speed, str]:
        """What to use, and why.

        Raises:
            OutOfMemoryError: torch's, with this batch.
        """
        candidates = self._options.uncompiled
        if len(candidates) == 1:
            return self._with_compiling(candidates[0], None, "")
        key = (*self._key, *candidates)
        if key not in RACES:
            ran = race(candidates, self._trial, self._allowance)
            if isinstance(ran, float):
                plain = self._options.plain
                return plain, f"{plain}: {self._length(ran)}, too brief to measure what is faster"
            RACES[key] = ran
        ran = RACES[key]
        winner = ran.winner()
        return self._with_compiling(winner, statistics.median(ran.seconds[winner]), self._told(ran))

    def _with_compiling(self, speed: Speed, step_seconds: float | None, told: str) -> tuple[Speed, str]:
        if len(self._options.compile) == 1:
            chosen = replace(speed, compile=self._options.compile[0])
            return chosen, f"{chosen}: {told}; {'' if chosen.compile else 'not '}compiled, as configured"
        use, why = self._compiling(speed, step_seconds)
        chosen = replace(speed, compile=use)
        return chosen, f"{chosen}: {'; '.join(filter(None, (told, why)))}"

    def _compiling(self, speed: Speed, step_seconds: float | None) -> tuple[bool, str]:
        if (lacking := why_not(self._device)) is not None:
            return False, f"not compiled, {lacking}"
        if step_seconds is None:
            trial = self._trial(speed)
            trial(2)
            step_seconds = trial(1)
        key = (*self._key, speed)
        if key not in COMPILED:
            costs = max((one.seconds for one in COMPILED.values()), default=COMPILE_SECONDS)
            if self._allowance(step_seconds) < costs:
                length = self._length(step_seconds)
                return False, f"not compiled, as that takes some {costs:.0f} s, which is too much for one try: {length}"
            COMPILED[key] = self._compile(speed)
        found = COMPILED[key]
        if found.race is None:
            return False, "; ".join(found.notes)
        compiled = replace(speed, compile=True)
        told = f"torch.compile took {found.seconds:.1f} s, and then steps were {found.race.told(compiled, speed)}"
        if not found.race.beats(compiled, speed):
            return False, f"{told}: not faster"
        a_step = statistics.median(found.race.seconds[speed]) - statistics.median(found.race.seconds[compiled])
        saved, cost = self._steps * a_step, found.seconds * (2 if self._config.merge else 1)  # a merge compiles anew
        return saved > cost, f"{told}: over {self._steps} steps that saves {saved:.0f} s and costs {cost:.0f} s"

    def _compile(self, speed: Speed) -> Compiling:
        compiled = replace(speed, compile=True)
        ready = {speed: self._trial(speed), compiled: self._trial(compiled)}
        first = ready[compiled](1)
        if ready[compiled].notes:
            return Compiling(first, None, tuple(ready[compiled].notes))
        ran = race([speed, compiled], ready.__getitem__, lambda step_seconds: float("inf"))
        assert isinstance(ran, Race)
        return Compiling(first - statistics.median(ran.seconds[speed]), ran)

    def _trial(self, speed: Speed) -> Trial:
        return Trial(self._net, self._config, speed, self._device, *self._batch)

    def _allowance(self, step_seconds: float) -> float:
        return max(LEAST_SECONDS, SHARE * self._steps * step_seconds)

    def _length(self, step_seconds: float) -> str:
        return f"the run takes about {self._steps * step_seconds:.1f} s"

    def _told(self, ran: Race[Speed]) -> str:
        plain, *others = (*ran.seconds, *ran.hopeless)
        milliseconds = 1e3 * statistics.median(ran.seconds[plain])
        steps = "1 step" if ran.steps == 1 else f"{ran.steps} steps"
        how = f"{len(ran.seconds[plain])} rounds of {steps} with {len(self._batch[0])} images"
        ratios = "".join(f", {speed} {ran.told(speed, plain)}" for speed in others)
        return f"measured in {how}: {plain} {milliseconds:.2f} ms a step{ratios}"
