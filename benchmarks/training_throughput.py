"""Images a second of a training run, end to end, beside the limit that its net sets and beside timm's loader.

    python -m benchmarks.training_throughput --data path/to/cifar10        about 15 minutes on two cores
    python -m benchmarks.training_throughput --data path/to/train.tar --rounds 2 --seconds 0.5 --out rough.md

Every arm is a whole run of ``vnas.training.fit``, with the same net, recipe and steps; only what feeds it differs:

    limit     one batch, made once and given over and over: what the net and its optimiser alone allow
    ours      the resident pipeline
    timm, W   timm's create_loader, W worker processes, reading the images from where they lie

The recipe's augmentation is the same in all: mirrored with probability one half, moved by up to 2 pixels, normalised.
Each arm is a process of its own, whose allocator keeps what is freed, and trains one net after the other. On each net
they take turns of some seconds, in another order in each round, and stand still in between: what else the machine does
then hits all alike. The first step of a turn is not counted, nor are as many more as timm's workers may have made
batches for meanwhile.

A share is taken within each round; what is stated is its median over the rounds with the 95 % order-statistic interval.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WORKERS = (0, 1, 2)
LIMIT, OURS = "limit", "ours"
ARMS = (LIMIT, OURS, *(f"timm, {workers}" for workers in WORKERS))
TARGET = 0.95
BATCH = 256
# torch's DataLoader keeps two batches ready for each worker.
READY_PER_WORKER = 2
RESULTS = Path(__file__).parent / "results"


def nets() -> dict[str, Any]:
    """Architectures by name: five of search_spaces/cifar.toml from small to large, and the paper's shape, narrowed."""
    from vnas.nets import Architecture, Stage, Stem

    def net(stem: Stem, *stages: tuple[int, int, int]) -> Architecture:
        made = tuple(Stage(width, stride=stride, series=series) for width, stride, series in stages)
        return Architecture(stem, made, image_size=32, num_classes=10)

    coarse, fine = {"kernel": 4, "stride": 4, "padding": 0}, {"kernel": 4, "stride": 2, "padding": 1}
    finest = {"kernel": 3, "stride": 2, "padding": 1}
    return {
        "smallest of the space": net(Stem(32, **coarse, series=0), (64, 2, 0), (64, 2, 0)),
        "coarse stem": net(Stem(64, **coarse, series=1), (128, 1, 1), (256, 2, 1), (256, 1, 1)),
        "fine stem": net(Stem(32, **fine, series=1), (64, 2, 1), (128, 2, 1), (256, 2, 0)),
        "wide": net(Stem(96, **coarse, series=2), (256, 1, 2), (384, 2, 1), (384, 1, 1)),
        "deep": net(Stem(64, **finest, series=1), *((128, 2, 1), (128, 1, 1), (256, 2, 1), (256, 1, 1), (256, 2, 0))),
        "like VanillaNet-5": net(Stem(64, **coarse, series=3), (128, 2, 3), (256, 2, 2), (512, 2, 1)),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark, or one arm of it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder or .tar of CIFAR-10's classes, as for vnas.training")
    parser.add_argument("--gpu", type=int, help="index of the GPU; by default the CPU is used")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each arm on each net (7)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn at the limit (1.5)")
    parser.add_argument("--nets", type=int, default=len(nets()), help="only the first so many nets")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--out", type=Path, help="file for the table (benchmarks/results/training_throughput...md)")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.arm:
        return Arm(options.arm, options.data, device_name(options)).serve()
    out = options.out or RESULTS / f"training_throughput{'' if options.gpu is None else '_gpu'}.md"
    began = time.monotonic()
    rates: dict[str, dict[str, list[float]]] = {}
    with Children(options) as children:
        for name in list(nets())[: options.nets]:
            rates[name] = turns(children, name, options)
    text = report(rates, device_name(options), time.monotonic() - began)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)
    return 0


def device_name(options: argparse.Namespace) -> str:
    """As torch names it."""
    return "cpu" if options.gpu is None else f"cuda:{options.gpu}"


class Children:
    """A process for each arm."""

    def __init__(self, options: argparse.Namespace) -> None:
        gpu = [] if options.gpu is None else ["--gpu", str(options.gpu)]
        command = [sys.executable, "-m", "benchmarks.training_throughput", "--data", options.data, *gpu, "--arm"]
        self._processes = {
            arm: subprocess.Popen([*command, arm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for arm in ARMS
        }

    def __enter__(self) -> Children:
        """Nothing to wait for."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all of them; they stop at the end of their input."""
        for process in self._processes.values():
            process.communicate()

    def ask(self, arm: str, question: object) -> Any:
        """One question to one arm, and its answer."""
        process = self._processes[arm]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"the arm {arm!r} ended early; see its message above")
        return json.loads(answer)


def turns(children: Children, name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each arm on a net, one value a round."""
    for arm in ARMS:
        children.ask(arm, {"net": name})
    children.ask(LIMIT, {"steps": 2})
    rate = children.ask(LIMIT, {"steps": 4})
    steps = max(4, round(options.seconds * rate / BATCH))
    for arm in ARMS[1:]:  # memory, threads and files are warm after this
        children.ask(arm, {"steps": min(steps, 5)})
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(options.rounds):
        for arm in random.Random(f"{options.seed}/{name}/{number}").sample(ARMS, len(ARMS)):
            rates[arm].append(children.ask(arm, {"steps": steps}))
        line = ", ".join(f"{arm}: {values[-1]:,.0f}" for arm, values in rates.items())
        print(f"[{name}, {number + 1}/{options.rounds}] images/s: {line}", file=sys.stderr, flush=True)
    return rates


class _EndOfNetError(Exception):
    """Raised within a run to end it."""


class Arm:
    """One arm: runs that stand still until they are told to go on for some steps."""

    def __init__(self, arm: str, source: str, device: str) -> None:
        import torch

        from vnas.config import DataConfig
        from vnas.profiler.allocator import keep_freed_memory
        from vnas.training import open_data

        keep_freed_memory()
        streams = arm not in (LIMIT, OURS)
        workers = int(arm.rpartition(" ")[2]) if streams else 0
        self._uncounted = 1 + READY_PER_WORKER * workers
        config = DataConfig(source=source, pipeline="streaming" if streams else "resident", workers=workers)
        data: Any = open_data(config)
        self._data = OneBatch(data) if arm == LIMIT else data
        self._device = torch.device(device)

    def serve(self) -> int:
        """Answer until there are no more questions."""
        from vnas.config import TrainingConfig
        from vnas.training import fit

        recipe = TrainingConfig(epochs=10_000, batch_size=BATCH, lr=3e-3, flip=True, crop_padding=2)
        question = self._next()
        while question is not None:
            net = nets()[question["net"]]
            answer({"ready": question["net"]})
            self._taking_turns = self._turns()
            next(self._taking_turns)
            try:
                fit(net, self._data, recipe, seed=0, device=self._device, progress=self._progress)
            except _EndOfNetError as end:
                (question,) = end.args
            gc.collect()  # the run that was ended, and with it the workers of its loader
        return 0

    def _next(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def _progress(self, progress: Any) -> None:
        self._taking_turns.send(progress.step)

    def _turns(self) -> Iterator[None]:
        # Resumed with the number of steps done after every look at the loss: each step on a CPU, some on a GPU.
        step = yield
        while True:
            question = self._next()
            if question is None or "net" in question:
                raise _EndOfNetError(question)
            start = step
            while step < start + self._uncounted:
                step = yield
            began, first = time.perf_counter(), step
            while step < first + question["steps"]:
                step = yield
            answer(BATCH * (step - first) / (time.perf_counter() - began))


def answer(value: object) -> None:
    """To the parent."""
    print(json.dumps(value), flush=True)


class OneBatch:
    """Data whose training loader gives its first batch over and over; all else is the data's own."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        """Of the data."""
        return getattr(self._data, name)

    def training_loader(self, *args: object, **options: object) -> OneBatchLoader:
        """As the data's."""
        return OneBatchLoader(self._data.training_loader(*args, **options))


class OneBatchLoader:
    """As long as the loader that its batch is from."""

    def __init__(self, loader: Any) -> None:
        self.pipeline, self.reason = loader.pipeline, "one batch"
        self._count = len(loader)
        self._batch = next(iter(loader))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter([self._batch] * self._count)

    def state(self) -> dict[str, Any]:
        """Nothing to go on from."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """It is always where it was."""


def report(rates: dict[str, dict[str, list[float]]], device: str, seconds: float) -> str:
    """The table, and whether the targets are met."""
    from benchmarks.profiler_repeatability import machine
    from benchmarks.report_file import command_line

    lines = [
        "# Images a second of a training run",
        "",
        f"| net | limit, images/s | ours | {' | '.join(f'timm, workers: {workers}' for workers in WORKERS)} "
        "| ours / limit | best of timm / limit | ours / best of timm |",
        f"|---|{'---|' * (len(ARMS) + 3)}",
    ]
    to_limit, to_timm = [], []
    for name, of_arm in rates.items():
        medians = {arm: statistics.median(values) for arm, values in of_arm.items()}
        best = max(ARMS[2:], key=medians.__getitem__)
        shares = [share(of_arm, *pair) for pair in ((OURS, LIMIT), (best, LIMIT), (OURS, best))]
        to_limit.append(shares[0][0])
        to_timm.append(shares[2][0])
        cells = [f"{medians[arm]:,.0f}" for arm in ARMS]
        cells += [f"{median:.3f} ({low:.3f} to {high:.3f})" for median, low, high in shares]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rounds = len(next(iter(next(iter(rates.values())).values())))
    lines += [
        "",
        f"- Ours / limit: {min(to_limit):.3f} on the net with the lowest (target {TARGET} on every net: "
        f"{'met' if min(to_limit) >= TARGET else 'not met'}).",
        f"- Ours / best of timm: {min(to_timm):.2f} on the net with the lowest (target above 1 on every net: "
        f"{'met' if min(to_timm) > 1 else 'not met'}).",
        "",
        f"{machine(device)}, {datetime.datetime.now(datetime.UTC).date()}. {rounds} rounds, batch {BATCH}, CIFAR-10, "
        f"{seconds / 60:.1f} minutes in all. Command: "
        f"`{command_line('benchmarks.training_throughput', None, {'--data': 'CIFAR10'})}`",
        "",
    ]
    return "\n".join(lines)


def share(rates: dict[str, list[float]], arm: str, of: str) -> tuple[float, float, float]:
    """Median of one arm's rate over another's, round by round, and its interval."""
    from vnas.profiler.statistics import median_interval

    interval = median_interval([mine / theirs for mine, theirs in zip(rates[arm], rates[of], strict=True)])
    return interval.median, interval.low, interval.high


if __name__ == "__main__":
    sys.exit(main())
