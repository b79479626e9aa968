"""How layout, precision and compilation are chosen: with steps that take a time told in advance, and with real ones."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
import training_nets
from torch import Tensor, distributed

from vnas.config import TrainingConfig
from vnas.errors import ConfigError
from vnas.nets import Architecture, VanillaNet, build, merge
from vnas.training.seeding import random_state
from vnas.training.speed import choosing as speed_module
from vnas.training.speed import measuring as speed_measuring
from vnas.training.speed import options as speed_options
from vnas.training.speed.choosing import Speed, choose_speed
from vnas.training.speed.options import options_of
from vnas.training.speed.trial import Trial

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TINY = replace(training_nets.TINY, dropout=0.1)
PLAIN, LAST = Speed(False, "off", False), Speed(True, "off", False)
BF16, BOTH = Speed(False, "bf16", False), Speed(True, "bf16", False)
ALL_AUTO = {"channels_last": "auto", "amp": "auto", "compile": "auto"}


def recipe(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate(options)


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn((count, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(count) % 10


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_measuring, "RACES", {})
    monkeypatch.setattr(speed_measuring, "COMPILED", {})


@dataclass
class Pretended:
    """Stands for ``Trial``: a step takes so many seconds at each speed, and the first compiled one a while more."""

    seconds: dict[Speed, float]
    compiling: float = 30.0
    failure: str | None = None
    most_images: int = 10**6
    made: list[tuple[Speed, int]] = field(default_factory=list)

    def __call__(
        self,
        net: VanillaNet,
        config: TrainingConfig,
        speed: Speed,
        device: torch.device,
        images: Tensor,
        labels: Tensor,
    ) -> "PretendedTrial":
        assert len(images) == len(labels)
        self.made.append((speed, len(images)))
        if len(images) > self.most_images:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        return PretendedTrial(self, speed)


class PretendedTrial:
    def __init__(self, all_of_them: Pretended, speed: Speed) -> None:
        self.notes: list[str] = []
        self._all, self._speed, self._first = all_of_them, speed, speed.compile

    def __call__(self, steps: int) -> float:
        extra, self._first = self._all.compiling * self._first, False
        if extra and self._all.failure is not None:
            self.notes.append(self._all.failure)
        return extra + steps * self._all.seconds[self._speed]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pretended]:
    def make(*milliseconds: float, compiled: float = 1.0, **options: object) -> Pretended:
        """A step of the contiguous and of the channels_last net in float32, then of both in bfloat16."""
        seconds = {speed: 1e-3 * value for speed, value in zip((PLAIN, LAST, BF16, BOTH), milliseconds, strict=False)}
        seconds |= {Speed(s.channels_last, s.amp, True): compiled * value for s, value in seconds.items()}
        pretended = Pretended(seconds, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(speed_measuring, "Trial", pretended)
        monkeypatch.setattr(speed_measuring, "why_not", lambda device: None)
        return pretended

    return make


def chosen(config: TrainingConfig, steps: int | None = 10**4, images: int = 8) -> tuple[Speed, str]:
    return choose_speed(build(TINY), config, CPU, batch(images), steps)


# --- what there is to choose from


def test_a_cpu_measures_nothing_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_measuring, "Trial", None)
    speed, reason = chosen(recipe())
    assert speed == LAST
    assert reason == (
        'channels_last float32: on a cpu nothing is measured that is not asked for (with "auto"), so that a seed gives '
        "the same weights again"
    )
    for options, expected in (
        ({"channels_last": False}, PLAIN),
        ({"amp": "bf16"}, BOTH),
        ({"amp": "fp16", "channels_last": False, "compile": True}, Speed(False, "fp16", True)),
        ({"amp": True}, LAST),  # the GPU's, by the name that it had before there were others
        ({"compile": True}, Speed(True, "off", True)),
    ):
        assert chosen(recipe(**options))[0] == expected, options
    assert chosen(recipe(channels_last=True, amp=False, compile=False))[1] == "channels_last float32, as configured"


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_measures_everything_that_is_not_settled(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(speed_options, "_has_bf16", lambda device: native)
    half = "bf16" if native else "fp16"
    options = options_of(recipe(), CUDA)
    assert (options.channels_last, options.amp, options.compile) == ((False, True), ("off", half), (False, True))
    assert options == options_of(recipe(**ALL_AUTO), CUDA)
    assert options.plain == PLAIN
    settled = options_of(recipe(channels_last=True, amp=True, compile=False), CUDA)
    assert settled.settled
    assert settled.plain == Speed(True, half, False)  # type: ignore[arg-type]
    assert options_of(recipe(amp=False), CUDA).amp == ("off",)
    assert options_of(recipe(amp="fp16"), CUDA).amp == ("fp16",)


def test_a_precision_that_a_gpu_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_options, "_has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")
    with pytest.raises(ConfigError, match='amp = "bf16", but Old Card has no bfloat16; write "fp16", or "auto"'):
        options_of(recipe(amp="bf16"), CUDA)


@pytest.mark.parametrize("options", [{"amp": "half"}, {"compile": "yes"}, {"channels_last": 1}, {"amp": "off"}])
def test_other_words_are_no_configuration(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        recipe(**options)


# --- what is measured decides


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        ((20, 20, 20, 20), PLAIN),
        ((20, 10, 20, 10), LAST),
        ((20, 25, 10, 12), BF16),
        ((20, 15, 15, 10), BOTH),
        ((20, 10, 12, 11), LAST),
        ((10, 12, 2000, 2000), PLAIN),
    ],
)
def test_each_is_used_only_where_it_is_faster(
    pretend: Callable[..., Pretended], milliseconds: tuple[float, ...], expected: Speed
) -> None:
    pretend(*milliseconds)
    assert chosen(recipe(**ALL_AUTO))[0] == expected


def test_the_reason_holds_what_was_measured(pretend: Callable[..., Pretended]) -> None:
    pretend(20.0, 10.0, 16.0, 8.0)
    assert chosen(recipe(channels_last="auto", amp="auto"))[1] == (
        "channels_last bf16: measured in 12 rounds of 1 step with 8 images: contiguous float32 20.00 ms a step, "
        "channels_last float32 2.00x as fast (2.00 to 2.00), contiguous bf16 1.25x as fast (1.25 to 1.25), "
        "channels_last bf16 2.50x as fast (2.50 to 2.50); not compiled, as configured"
    )


def test_what_was_hopeless_is_in_the_reason_too(pretend: Callable[..., Pretended]) -> None:
    pretend(20.0, 10.0, 2000.0, 8.0)
    assert "contiguous bf16 0.01x as fast at a first look" in chosen(recipe(channels_last="auto", amp="auto"))[1]


def test_what_is_settled_is_not_tried(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 10.0, 5.0, 4.0)
    assert chosen(recipe(channels_last=False, amp="auto"))[0] == BF16
    assert chosen(recipe(channels_last="auto", amp=False))[0] == LAST
    assert {speed for speed, _ in pretended.made} == {PLAIN, BF16, LAST}
    speed, reason = chosen(recipe(channels_last="auto", amp=False, compile=True))
    assert speed == Speed(True, "off", True)
    assert reason.endswith("; compiled, as configured")


def test_a_brief_run_trains_plainly_and_unmeasured(pretend: Callable[..., Pretended]) -> None:
    """Six rounds of two steps of 100 ms and six steps to warm up: 1.8 s, a twentieth of 36 s."""
    pretended = pretend(100.0, 10.0)
    speed, reason = chosen(recipe(channels_last="auto"), steps=350)
    assert (speed, reason) == (
        PLAIN,
        "contiguous float32: the run takes about 35.0 s, too brief to measure what is faster",
    )
    assert len(pretended.made) == 1
    assert chosen(recipe(channels_last="auto"), steps=370)[0] == LAST


def test_half_a_second_may_always_be_spent(pretend: Callable[..., Pretended]) -> None:
    pretend(20.0, 10.0)
    assert chosen(recipe(channels_last="auto"), steps=1)[0] == LAST
    pretend(30.0, 10.0)
    assert chosen(recipe(channels_last="auto"), steps=1, images=7)[0] == PLAIN


def test_a_net_is_measured_once_in_a_process(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 10.0)
    config, net = recipe(channels_last="auto"), build(TINY)
    first = choose_speed(net, config, CPU, batch(), 1000)
    assert choose_speed(build(TINY), config, CPU, batch(), 2000) == first
    assert len(pretended.made) == 2
    for count, (other, options, images) in enumerate(
        [
            (merge(at_one()), {}, 8),
            (net, {}, 4),
            (net, {"optimizer": "sgd"}, 8),
            (net, {"mixup": 0.1}, 8),
            (net, {"clip_grad": 1.0}, 8),
            (net, {"amp": "auto"}, 8),
            (build(Architecture.from_json(TINY.to_json().replace('"dropout": 0.1', '"dropout": 0.2'))), {}, 8),
        ],
        start=2,
    ):
        pretend_more = pretended.seconds | {BF16: 0.02, BOTH: 0.02}
        pretended.seconds = pretend_more
        choose_speed(other, recipe(channels_last="auto", **options), CPU, batch(images), 1000)
        assert len(speed_measuring.RACES) == count


def at_one() -> VanillaNet:
    net = build(TINY)
    net.set_slope(1.0)
    return net


# --- compiling


def test_compiling_is_not_tried_in_a_brief_run(pretend: Callable[..., Pretended]) -> None:
    """It is taken to cost 40 s at first: a twentieth of 800 s, which are 80,000 steps of 10 ms."""
    pretended = pretend(20.0, 10.0, 10.0, 10.0, compiled=0.5)
    speed, reason = chosen(recipe(**ALL_AUTO), steps=79_900)
    assert speed == LAST
    assert reason.endswith(
        "; not compiled, as that takes some 40 s, which is too much for one try: the run takes about 799.0 s"
    )
    assert not any(speed.compile for speed, _ in pretended.made)
    assert chosen(recipe(**ALL_AUTO), steps=80_100)[0] == Speed(True, "off", True)
    # Now it is known to have taken 30 s with this net, which need not be spent again; another net may try for 30.
    assert chosen(recipe(**ALL_AUTO), steps=20_000)[0] == Speed(True, "off", True)
    assert chosen(recipe(**ALL_AUTO), steps=59_900, images=4)[0] == LAST
    assert chosen(recipe(**ALL_AUTO), steps=60_100, images=4)[0] == Speed(True, "off", True)


def test_the_best_uncompiled_choice_is_what_is_compiled(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 15.0, 14.0, 10.0, compiled=0.5)
    speed, reason = chosen(recipe(**ALL_AUTO), steps=10**6)
    assert speed == Speed(True, "bf16", True)
    assert [speed for speed, _ in pretended.made][4:] == [BOTH, speed]
    assert reason.endswith(
        "; torch.compile took 30.0 s, and then steps were 2.00x as fast (2.00 to 2.00): over 1000000 steps that saves "
        "5000 s and costs 30 s"
    )


@pytest.mark.parametrize("compiled", [1.0, 1.5, 5.0])
def test_a_compiled_net_that_is_not_faster_is_not_used(pretend: Callable[..., Pretended], compiled: float) -> None:
    pretend(20.0, 10.0, 10.0, 10.0, compiled=compiled)
    speed, reason = chosen(recipe(**ALL_AUTO), steps=10**6)
    assert speed == LAST
    assert reason.endswith(": not faster")


def test_compiling_must_pay_for_itself(pretend: Callable[..., Pretended]) -> None:
    """One per cent of 10 ms a step: 30 s are 300,000 steps, and a merge doubles them."""
    pretend(20.0, 10.0, 10.0, 10.0, compiled=0.99)
    for steps, merges, expected in (
        (290_000, False, False),
        (310_000, False, True),
        (590_000, True, False),
        (610_000, True, True),
    ):
        assert chosen(recipe(**ALL_AUTO, merge=merges), steps=steps)[0].compile == expected, (steps, merges)


def test_only_compiling_can_be_open(pretend: Callable[..., Pretended]) -> None:
    pretend(20.0, 10.0, compiled=0.5)
    config = recipe(channels_last=False, amp=False, compile="auto")
    assert chosen(config, steps=39_000)[0] == PLAIN
    assert chosen(config, steps=41_000)[0] == Speed(False, "off", True)


def test_a_failure_to_compile_is_the_reason(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 10.0, failure="torch.compile failed (AssertionError: no such instruction): as it is")
    config = recipe(channels_last=True, amp=False, compile="auto")
    for _ in range(2):
        speed, reason = chosen(config, steps=10**6)
        assert speed == LAST
        assert reason == "channels_last float32: torch.compile failed (AssertionError: no such instruction): as it is"
    assert sum(speed.compile for speed, _ in pretended.made) == 1


def test_a_missing_compiler_is_the_reason(pretend: Callable[..., Pretended], monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = pretend(20.0, 10.0)
    monkeypatch.setattr(speed_measuring, "why_not", lambda device: "torch.compile needs triton on a GPU")
    config = recipe(channels_last=True, amp=False, compile="auto")
    assert chosen(config, 10**6) == (LAST, "channels_last float32: not compiled, torch.compile needs triton on a GPU")
    assert pretended.made == []


# --- memory and processes


def test_where_memory_runs_out_less_is_measured(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 10.0, most_images=20)
    speed, reason = chosen(recipe(channels_last="auto"), images=64)
    assert speed == LAST
    assert "with 16 images" in reason
    assert [images for _, images in pretended.made] == [64, 32, 16, 16]


def test_where_nothing_fits_nothing_is_measured(pretend: Callable[..., Pretended]) -> None:
    pretended = pretend(20.0, 10.0, most_images=1)
    expected = PLAIN, "contiguous float32: memory is too small to measure what is faster"
    assert chosen(recipe(channels_last="auto"), images=9) == expected
    assert [images for _, images in pretended.made] == [9, 4, 2]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_one_measures(
    pretend: Callable[..., Pretended], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    pretended = pretend(20.0, 10.0)
    sent: list[object] = []

    def broadcast(values: list[object], src: int, device: torch.device | None) -> None:
        assert (src, device) == (0, None)
        sent.extend(values)
        if rank == 1:
            values[0] = (BF16, "the first one says so")

    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", rank)):
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    monkeypatch.setattr(distributed, "broadcast_object_list", broadcast)
    speed, reason = chosen(recipe(channels_last="auto"))
    if rank == 0:
        assert speed == LAST
        assert sent == [(speed, reason)]
    else:
        assert (speed, reason) == (BF16, "the first one says so")
        assert (sent, pretended.made) == ([None], [])


# --- real steps


@pytest.fixture
def watched() -> tuple[VanillaNet, list[str]]:
    net, calls = build(TINY), list[str]()
    net.register_forward_hook(lambda *_: calls.append("forward"))
    for module in net.modules():
        module.register_full_backward_hook(lambda *_: calls.append("backward"))
    return net, calls


@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.2, "clip_grad": 1.0}, {"loss": "bce", "optimizer": "lamb"}], ids=str
)
def test_measuring_leaves_the_run_as_it_was(watched: tuple[VanillaNet, list[str]], options: dict[str, object]) -> None:
    net, calls = watched
    before, mode = copy.deepcopy(net.state_dict()), net.training
    states = random_state()
    images, labels = batch()
    speed, reason = choose_speed(net, recipe(channels_last="auto", amp="auto", **options), CPU, (images, labels), 10**4)
    assert reason.startswith(f"{speed}: measured in ")
    assert "channels_last bf16 " in reason
    for name, value in net.state_dict().items():
        assert value.equal(before[name]), name
    assert all(weight.grad is None for weight in net.parameters())
    assert (net.training, calls) == (mode, [])
    assert (images.equal(batch()[0]), labels.equal(batch()[1])) == (True, True)
    after = random_state()
    assert after["torch"].equal(states["torch"])
    assert after["python"] == states["python"]
    assert after["numpy"][1].equal(states["numpy"][1])


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "orthogonal"])
def test_a_trial_takes_real_steps_at_its_speed(amp: str, channels_last: bool, optimizer: str) -> None:
    speed = Speed(channels_last, amp, False)  # type: ignore[arg-type]
    net = build(replace(TINY, in_chans=3))
    images = torch.randn((8, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    trial = Trial(net, recipe(optimizer=optimizer, weight_decay=0.5), speed, CPU, images, batch()[1])
    seen: list[tuple[bool, torch.dtype]] = []
    trial._net.stem.pair.conv1.register_forward_hook(
        lambda module, args, out: seen.append((args[0].is_contiguous(memory_format=torch.channels_last), out.dtype))
    )
    steps: list[str] = []
    trial._optimizer.register_step_post_hook(lambda *_: steps.append("step"))
    assert trial(3) > 0.0
    dtype = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    assert seen == [(channels_last, dtype)] * 3
    assert trial._labels.dtype == torch.int64
    assert len(steps) == (6 if optimizer == "orthogonal" else 3)  # a step of AdamW is part of its own
    weight = trial._net.stages[0].pair.conv2.weight
    assert weight.equal(net.stages[0].pair.conv2.weight)
    dense = trial._net.stem.pair.conv1.weight  # 2 x 2 over three channels: the two layouts differ
    assert dense.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert trial._net.training


def test_a_trial_takes_the_net_as_it_is() -> None:
    merged = merge(at_one())
    trial = Trial(merged.double(), recipe(), PLAIN, CPU, batch()[0].double(), batch()[1])
    assert trial._net.merged
    assert trial._net.stem.pair.conv.weight.equal(merged.stem.pair.conv.weight)
    trial(1)


def test_speeds_in_words() -> None:
    assert str(Speed(True, "bf16", True)) == "channels_last bf16 compiled"
    assert str(PLAIN) == "contiguous float32"
    assert speed_module.__all__ == ["Speed", "choose_speed"]
