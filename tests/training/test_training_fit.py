import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vnas.config import Anneal, DataConfig, TrainingConfig
from vnas.errors import ArchitectureError, MeasurementError, NonFiniteLossError
from vnas.nets import Architecture, FusedVanillaNet, Stage, VanillaNet, build, fuse, merge
from vnas.profiler.lock import device_lock
from vnas.training import Data, Progress, TrainingResult, evaluate, fit, open_data, run, seeded, slopes, stepping

Make = Callable[[str, Mapping[str, int]], Path]
CPU = torch.device("cpu")
BRIEF = TrainingConfig(epochs=2, batch_size=128, flip=False, warmup_epochs=0.5)


def recipe(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate({**BRIEF.model_dump(), **options})


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    assert result.fused is not None
    return dict(result.fused.state_dict())


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def seen_slopes(net: VanillaNet, seen: list[tuple[float, ...]]) -> None:
    def look(module: nn.Module, args: object) -> None:
        # Only training steps: the estimate of the norms and the evaluation run in eval mode.
        if module.training:
            seen.append(net.slopes)

    net.register_forward_pre_hook(look)


def test_a_small_net_learns_the_digits(digits: Data, small: Architecture) -> None:
    stages = (Stage(32, series=1), Stage(64, series=1), Stage(64, stride=1, series=1))
    wider = replace(small, stem=replace(small.stem, width=16), stages=stages, image_size=32)
    result = fit(wider, digits, recipe(epochs=12), seed=0, device=CPU)
    assert result.val_top1 > 95
    assert result.val_top1 == pytest.approx(result.val_top1_training_form, abs=0.7)
    losses = [record.loss for record in result.curve]
    assert losses[-1] < 0.7 * losses[0]
    assert result.train_loss == losses[-1]
    assert (result.epochs, result.steps, len(result.curve)) == (12, 120, 12)
    assert result.pipeline == "resident"
    assert result.images_per_second == pytest.approx(120 * 128 / result.seconds)


def test_the_result_holds_the_fused_net_that_was_judged(digits: Data, small: Architecture) -> None:
    net = build(small)
    result = fit(net, digits, BRIEF, seed=0, device=CPU)
    assert isinstance(result.fused, FusedVanillaNet)
    assert not result.fused.training
    validation = digits.loader("validation", 16, device=CPU)
    assert evaluate(result.fused, validation, CPU) == result.val_top1
    assert evaluate(net, validation, CPU) == result.val_top1_training_form
    assert result.trained is net
    assert same(weights(result), fuse(net).state_dict())
    assert net.slopes == (1.0,) * net.num_pairs


@pytest.mark.parametrize(
    "anneal",
    [
        Anneal(),
        Anneal(shape="cosine", start=0.1, end=0.9),
        Anneal(shape="step", steps=3, end=1.0),
        Anneal(end=0.5, stagger=0.4, order="deep_first"),
    ],
)
def test_lambda_at_every_step_is_the_schedules(digits: Data, small: Architecture, anneal: Anneal) -> None:
    net, seen, told = build(small), [], []
    seen_slopes(net, seen)
    result = fit(net, digits, recipe(anneal=anneal.model_dump()), seed=0, device=CPU, progress=told.append)
    expected = [slopes(anneal, step, 20, net.num_pairs) for step in range(20)]
    assert np.allclose(seen, expected, atol=1e-7)
    assert seen[-1] == (1.0,) * net.num_pairs
    assert [(p.slope_min, p.slope_max) for p in told] == [(min(lambdas), max(lambdas)) for lambdas in expected]
    assert [(r.slope_min, r.slope_max) for r in result.curve] == [
        (min(lambdas), max(lambdas)) for lambdas in (expected[9], expected[19])
    ]


@pytest.mark.parametrize("batch_size", [1375, 5000, 700])
def test_a_run_of_a_single_step_ends_at_lambda_one(digits: Data, small: Architecture, batch_size: int) -> None:
    result = fit(small, digits, recipe(epochs=1, batch_size=batch_size), seed=0, device=CPU)
    assert result.steps == 1
    assert result.curve[0].slope_min == 1.0
    assert result.fused is not None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "lr": 0.05},
        {"optimizer": "lamb"},
        {"layer_decay": 0.8},
        {"loss": "bce"},
        {"label_smoothing": 0.0},
        {"mixup": 0.4},
        {"cutmix": 1.0, "loss": "bce"},
        {"mixup": 0.2, "cutmix": 1.0, "mixup_switch": 0.3},
        {"flip": True, "crop_padding": 2, "random_erasing": 0.25},
        {"ema_decay": 0.9},
        {"clip_grad": 0.5},
        {"merge": True},
        {"merge": True, "ema_decay": 0.9},
        {"channels_last": False},
        {"rand_augment": "rand-m7-mstd0.5-inc1", "color_jitter": 0.4},
    ],
    ids=str,
)
def test_every_option_trains_and_repeats_bit_for_bit(small: Architecture, options: dict[str, object]) -> None:
    data = open_data(DataConfig(workers=0))
    arch = replace(small, dropout=0.1)
    runs = [fit(arch, data, recipe(**options), seed=7, device=CPU) for _ in range(2)]
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].curve[-1].loss == runs[1].curve[-1].loss
    assert runs[0].val_top1 == runs[1].val_top1
    assert runs[0].val_top1 == pytest.approx(runs[0].val_top1_training_form, abs=1.4)
    assert not same(weights(runs[0]), weights(fit(arch, data, recipe(**options), seed=8, device=CPU)))
    if options:
        assert (
            not same(weights(runs[0]), weights(fit(arch, data, BRIEF, seed=7, device=CPU)))
            or "channels_last" in options
        )


def test_a_given_net_repeats_too(digits: Data, small: Architecture) -> None:
    results = []
    for _ in range(2):
        with seeded(3):
            net = build(small)
        results.append(fit(net, digits, BRIEF, seed=0, device=CPU))
    assert same(weights(results[0]), weights(results[1]))


def test_the_callers_random_numbers_are_left_alone(digits: Data, small: Architecture) -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.random()), random.random()

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    undisturbed = [draws() for _ in range(2)][1]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    draws()
    fit(small, digits, recipe(mixup=0.2), seed=5, device=CPU)
    assert draws() == undisturbed


def test_the_run_is_a_plain_adamw_loop(digits: Data, small: Architecture) -> None:
    """The same steps written out: the schedule of lambda and of the rate, AdamW, cross entropy."""
    config = recipe(epochs=1, anneal={"end": 0.5}, weight_decay=0.1, channels_last=False)
    with seeded(1):
        net, twin = build(small), build(small)
    twin.load_state_dict(net.state_dict())
    decayed = [p for p in twin.parameters() if p.ndim > 1]
    others = [p for p in twin.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], weight_decay=0.1)
    twin.train()
    losses = []
    for step, (images, labels) in enumerate(digits.training_loader(config, 16, seed=2, device=CPU)):
        twin.set_slope(min(1.0, (step / 9) / 0.5))
        warm = config.lr * (step + 1) / 6
        cooling = 1e-6 + (config.lr - 1e-6) * 0.5 * (1 + np.cos(np.pi * (step - 5) / 4))
        for group in optimizer.param_groups:
            group["lr"] = warm if step < 5 else cooling
        loss = nn.functional.cross_entropy(twin(images), labels, label_smoothing=0.1)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    told: list[Progress] = []
    fit(net, digits, config, seed=2, device=CPU, progress=told.append)
    # A shift that the next batch norm takes out again has no gradient but rounding, which Adam blows up to full steps:
    # so the losses and the kernels are compared, and no biases.
    assert [p.loss for p in told] == pytest.approx(losses, rel=1e-4)
    for name, kernel in net.named_parameters():
        if kernel.ndim > 1:
            expected = twin.get_parameter(name)
            torch.testing.assert_close(kernel, expected, atol=1e-4, rtol=1e-3, msg=f"{name} differs")


def test_merging_happens_when_lambda_reaches_one(digits: Data, small: Architecture) -> None:
    told: list[Progress] = []
    result = fit(small, digits, recipe(epochs=4, merge=True), seed=0, device=CPU, progress=told.append)
    reached = next(p.step - 1 for p in told if p.slope_min == 1.0)
    assert result.merged_at == reached == 13
    assert all(p.slope_min == 1.0 for p in told[reached:])
    assert fit(small, digits, BRIEF, seed=0, device=CPU).merged_at is None
    late = recipe(merge=True, anneal={"end": 1.0})
    assert fit(small, digits, late, seed=0, device=CPU).merged_at is None


def test_the_average_is_not_the_net_and_is_at_lambda_one(digits: Data, small: Architecture) -> None:
    nets = [build(small) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    plain = fit(nets[0], digits, recipe(epochs=6), seed=0, device=CPU)
    averaged = fit(nets[1], digits, recipe(epochs=6, ema_decay=0.9), seed=0, device=CPU)
    assert (plain.ema, averaged.ema) == (False, True)
    assert [r.loss for r in plain.curve] == [r.loss for r in averaged.curve]
    assert not same(weights(plain), weights(averaged))
    assert averaged.val_top1 > 50


def test_a_merge_merges_the_average_too(digits: Data, small: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[VanillaNet] = []

    def look(net: VanillaNet) -> VanillaNet:
        merged.append(net)
        return merge(net)

    monkeypatch.setattr(stepping, "merge", look)
    net = build(small)
    fit(net, digits, recipe(merge=True, ema_decay=0.9), seed=0, device=CPU)
    assert [one is net for one in merged] == [True, False]
    assert not same(merged[0].state_dict(), merged[1].state_dict())


def test_clipping_bounds_the_gradient(digits: Data, small: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.SGD.step

    def look(self: torch.optim.SGD, *args: object, **kwargs: object) -> object:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", look)
    fit(small, digits, recipe(optimizer="sgd", clip_grad=0.05), seed=0, device=CPU)
    assert len(norms) == 20
    assert max(norms) == pytest.approx(0.05, rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(digits: Data, small: Architecture) -> None:
    net, told = build(small), []

    def poison(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if len(told) == 13 else output

    net.register_forward_hook(poison)
    with pytest.raises(NonFiniteLossError, match=r"became nan at step 13 \(epoch 1\)") as caught:
        fit(net, digits, BRIEF, seed=0, device=CPU, progress=told.append)
    assert (caught.value.epoch, caught.value.step, len(told)) == (1, 13, 13)


def test_progress_tells_every_step_and_what_it_raises_ends_the_run(digits: Data, small: Architecture) -> None:
    told: list[Progress] = []

    class EnoughError(Exception):
        pass

    def watch(progress: Progress) -> None:
        told.append(progress)
        if progress.step == 12:
            raise EnoughError

    with pytest.raises(EnoughError):
        fit(small, digits, BRIEF, seed=0, device=CPU, progress=watch)
    assert [p.step for p in told] == list(range(1, 13))
    assert [p.epoch for p in told] == [0] * 10 + [1] * 2
    assert all(p.steps == 20 and p.epochs == 2 and p.images_per_second > 0 for p in told)


def test_a_result_survives_json(digits: Data, small: Architecture) -> None:
    result = fit(small, digits, recipe(merge=True), seed=0, device=CPU)
    back = TrainingResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert back == result
    assert back.fused is None
    assert back.trained is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_classes": 7}, "num_classes = 7, but 'digits' needs num_classes = 10"), ({"in_chans": 3}, "in_chans = 3")],
)
def test_a_net_that_does_not_fit_the_data(
    digits: Data, small: Architecture, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        fit(replace(small, **change), digits, BRIEF, seed=0, device=CPU)  # type: ignore[arg-type]


def test_streaming_trains_from_a_folder(make_folder: Make, small: Architecture) -> None:
    data = open_data(DataConfig(source=str(make_folder("pets", {"cat": 40, "dog": 40, "owl": 40})), workers=0))
    arch = replace(small, in_chans=3, num_classes=3)
    config = recipe(epochs=6, batch_size=16, rand_augment="rand-m3-mstd0.5-inc1", random_erasing=0.1)
    runs = [fit(arch, data, config, seed=0, device=CPU) for _ in range(2)]
    assert runs[0].pipeline == "streaming"
    assert runs[0].pipeline_reason == "training.rand_augment works on one image at a time"
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].val_top1 > 80


def test_evaluate_counts_hits_and_puts_the_mode_back(digits: Data) -> None:
    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    net = Always().train()
    validation = digits.loader("validation", 8, device=CPU, batch_size=100)
    labels = torch.cat([y for _, y in validation])
    assert evaluate(net, validation, CPU) == pytest.approx(100 * (labels == 3).float().mean().item())
    assert net.training


def test_a_measurement_waits_for_no_more_than_an_epoch(digits: Data, small: Architecture) -> None:
    steps: list[int] = []
    came_in_after: list[int] = []
    waits = threading.Event()

    def measurer() -> None:
        with device_lock("cpu", on_wait=lambda line: waits.set()):
            came_in_after.append(len(steps))

    thread = threading.Thread(target=measurer)

    def progress(now: Progress) -> None:
        steps.append(now.step)
        if len(steps) == 2:
            thread.start()
            assert waits.wait(10)

    result = fit(small, digits, recipe(epochs=3), seed=0, device=CPU, progress=progress)
    thread.join(10)
    assert came_in_after == [result.steps // 3]
    with device_lock("cpu", timeout_seconds=0):
        pass


def test_an_evaluation_shares_the_device(digits: Data, small: Architecture) -> None:
    net = build(small)
    refused: list[bool] = []

    def try_to_measure() -> None:
        try:
            with device_lock("cpu", timeout_seconds=0):
                refused.append(False)
        except MeasurementError:
            refused.append(True)

    def look(module: nn.Module, args: object) -> None:
        thread = threading.Thread(target=try_to_measure)
        thread.start()
        thread.join(10)

    net.register_forward_pre_hook(look)
    evaluate(net, digits.loader("validation", 16, device=CPU), CPU)
    assert refused
    assert all(refused)


def test_waiting_for_a_measurement_is_not_training_time(
    digits: Data, small: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = [0.0]

    @contextmanager
    def measured_before(key: str, *, exclusive: bool) -> Iterator[None]:
        assert (key, exclusive) == ("cpu", False)
        waited[0] += 1000.0
        yield

    real = time.perf_counter
    monkeypatch.setattr(run, "device_lock", measured_before)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: real() + waited[0]))
    result = fit(small, digits, BRIEF, seed=0, device=CPU)
    assert waited[0] >= 2000
    assert 0 < result.seconds < 1000


class Clock:
    """A millisecond goes by at each look at it, and what is slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-3
        return self.now


def test_what_is_done_at_a_report_is_no_training_time(
    digits: Data, small: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    told: list[Progress] = []

    def report(where: Progress) -> None:
        told.append(where)
        clock.now += 100.0

    result = fit(small, digits, TrainingConfig(epochs=2, batch_size=575), seed=0, device=CPU, progress=report)
    assert len(told) == 4
    assert clock.now > 400.0
    assert 0.0 < result.seconds < 1.0
    assert [where.seconds for where in told] == sorted({where.seconds for where in told})
    assert told[-1].images_per_second > 1000.0
