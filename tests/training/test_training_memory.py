import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_nets import TINY

from vnas.config import TrainingConfig
from vnas.errors import TrainingError
from vnas.nets import VanillaNet, build
from vnas.training import Checkpoint, Data, Progress, TrainingResult, evaluate, fit, seeded
from vnas.training.memory import Portions
from vnas.training.precision import Precision

CPU = torch.device("cpu")


def recipe(**options: object) -> TrainingConfig:
    plain = {"epochs": 1, "batch_size": 275, "warmup_epochs": 0.0, "flip": False, "channels_last": False}
    return TrainingConfig.model_validate({**plain, **options})


def made() -> VanillaNet:
    with seeded(1):
        return build(TINY)


def small_memory(net: nn.Module, most: int, seen: list[int] | None = None) -> Callable[[nn.Module, object], None]:
    """Let a net in training run out of memory with more images than so many; take note of what it was given."""

    def look(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if module.training:
            if seen is not None:
                seen.append(len(args[0]))
            if len(args[0]) > most:
                raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    net.register_forward_pre_hook(look)
    return look


def test_a_batch_that_does_not_fit_is_halved_for_the_rest_of_the_run(digits: Data) -> None:
    net, seen = made(), []
    small_memory(net, 100, seen)
    result = fit(net, digits, recipe(), seed=0, device=CPU)
    assert seen == [275, 138, *([69, 69, 69, 68] * 5)]
    assert result.micro_batch == 69
    assert [note.split(" images, whose")[0] for note in result.notes] == [
        "out of memory on cpu: from step 0 on, batches of 275 are cut into 2 parts of 138",
        "out of memory on cpu: from step 0 on, batches of 275 are cut into 4 parts of 69",
    ]
    assert "a batch norm averages over a part" in result.notes[0]
    assert result.images_per_second == pytest.approx(5 * 275 / result.seconds)
    assert TrainingResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_norms_are_estimated_in_parts_that_fit(digits: Data) -> None:
    """The net is in eval mode then, its norms are not; the evaluation afterwards finds out for itself what fits."""
    net, seen = made(), []
    small_memory(net, 100)

    def look(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if not module.training and module.get_submodule("stem.pair.bn1").training:
            seen.append(len(args[0]))

    net.register_forward_pre_hook(look)
    fit(net, digits, recipe(), seed=0, device=CPU)
    assert seen == [69, 69, 69, 68] * 5  # of each of the five batches in a pass


def test_the_optimisers_step_may_lack_memory_too(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Precision, *_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Precision, "step", step)
    with pytest.raises(TrainingError, match="out of memory on cpu in the optimiser's step"):
        fit(made(), digits, recipe(), seed=0, device=CPU)


@pytest.mark.parametrize("message", ["CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"])
def test_libraries_that_lack_memory_say_so_in_words(message: str) -> None:
    def work(parts: int) -> int:
        if parts == 1:
            raise RuntimeError(message)
        return parts

    assert Portions(CPU, least=2).attempt(8, "now", work) == 2
    with pytest.raises(RuntimeError, match="another thing"):
        Portions(CPU, least=2).attempt(8, "now", lambda parts: (_ for _ in ()).throw(RuntimeError("another thing")))


def test_whole_batches_have_no_parts_and_no_notes(digits: Data) -> None:
    result = fit(TINY, digits, recipe(), seed=0, device=CPU)
    assert (result.micro_batch, result.notes) == (None, ())


def test_the_parts_gradients_add_up_to_the_batchs(digits: Data) -> None:
    """The same steps written out: Nesterov's SGD on the mean loss over 275 images, batch norms over a part of them."""
    net, twin = made(), made()
    small_memory(net, 92)
    config = recipe(optimizer="sgd", lr=0.1, min_lr=0.1, weight_decay=0.0, momentum=0.9, anneal={"end": 0.5})
    told: list[Progress] = []
    fit(net, digits, config, seed=2, device=CPU, progress=told.append)
    losses = []
    pace = [torch.zeros_like(weight) for weight in twin.parameters()]
    twin.train()
    for step, (images, labels) in enumerate(digits.training_loader(config, 8, seed=2, device=CPU)):
        twin.set_slope(min(1.0, step / 4 / 0.5))
        total = torch.zeros(())
        for first, last in ((0, 69), (69, 138), (138, 207), (207, 275)):
            logits = twin(images[first:last])
            total = total + F.cross_entropy(logits, labels[first:last], label_smoothing=0.1, reduction="sum") / 275
        losses.append(total.item())
        gradients = torch.autograd.grad(total, list(twin.parameters()))
        with torch.no_grad():
            for weight, gradient, speed in zip(twin.parameters(), gradients, pace, strict=True):
                speed.mul_(0.9).add_(gradient)
                weight -= 0.1 * (gradient + 0.9 * speed)
    assert [now.loss for now in told] == pytest.approx(losses, rel=1e-5)
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight, twin.get_parameter(name), atol=1e-5, rtol=1e-4, msg=name)


def test_nothing_of_a_failed_attempt_is_left(digits: Data) -> None:
    """Memory runs out in the second half of the third batch, when the first half has left its gradient."""
    disturbed, plain = made(), made()
    small_memory(plain, 70)
    calls = [0]

    def look(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if module.training:
            calls[0] += 1
            if calls[0] == 1 or (len(args[0]) > 70 and calls[0] == 3):
                raise torch.OutOfMemoryError

    disturbed.register_forward_pre_hook(look)
    results = [fit(net, digits, recipe(), seed=0, device=CPU) for net in (disturbed, plain)]
    assert [len(result.notes) for result in results] == [2, 2]
    # The first half was seen by the batch norms once more, which is why their running statistics are left out.
    for name, weight in disturbed.named_parameters():
        assert torch.equal(weight, plain.get_parameter(name)), name


@pytest.mark.parametrize(
    "options", [{}, {"crop_padding": 1, "random_erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}], ids=str
)
def test_the_images_are_those_of_a_run_with_enough_memory(digits: Data, options: dict[str, object]) -> None:
    seen: list[list[torch.Tensor]] = []
    for most in (1000, 150):
        net, inputs = made(), []

        def look(module: nn.Module, args: tuple[torch.Tensor], inputs: list[torch.Tensor] = inputs) -> None:
            if module.training:
                inputs.append(args[0].clone())

        small_memory(net, most)
        net.register_forward_pre_hook(look)  # after the other: what has failed is not seen
        fit(net, digits, recipe(epochs=2, **options), seed=0, device=CPU)
        seen.append(inputs)
    assert [len(inputs) for inputs in seen] == [10, 20]
    assert torch.equal(torch.cat(seen[0]), torch.cat(seen[1]))


def test_too_little_memory_for_the_smallest_part_ends_the_run(digits: Data) -> None:
    net, seen = made(), []
    small_memory(net, 1, seen)
    with pytest.raises(
        TrainingError, match="out of memory on cpu with 3 images at a time, which cannot be cut further"
    ):
        fit(net, digits, recipe(), seed=0, device=CPU)
    assert seen == [275, 138, 69, 35, 18, 9, 5, 3]


def test_two_images_at_a_time_are_enough(digits: Data) -> None:
    class EnoughError(Exception):
        pass

    def stop(now: Progress) -> None:
        raise EnoughError

    net, seen = made(), []
    small_memory(net, 2, seen)
    with pytest.raises(EnoughError):
        fit(net, digits, recipe(batch_size=8), seed=0, device=CPU, progress=stop)
    assert seen == [8, 4, 2, 2, 2, 2]


def test_a_run_goes_on_with_the_parts_that_it_had(digits: Data, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(now: Progress) -> None:
        if now.step == 4:
            raise StoppedError

    def run(progress: Callable[[Progress], None] | None, keep: bool, seen: list[int]) -> TrainingResult:
        net = made()
        small_memory(net, 140, seen)
        checkpoint = Checkpoint(tmp_path / "run.pt", 0.0) if keep else None
        return fit(net, digits, recipe(), seed=0, device=CPU, progress=progress, checkpoint=checkpoint)

    with pytest.raises(StoppedError):
        run(stop, True, [])
    seen: list[int] = []
    result = run(None, True, seen)
    assert seen == [138, 137] * 2
    whole = run(None, False, [])
    assert (result.micro_batch, result.notes) == (138, whole.notes)
    assert result.fused is not None
    assert whole.fused is not None
    weights = whole.fused.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in result.fused.state_dict().items())


def test_a_batch_that_processes_share_is_not_cut(digits: Data) -> None:
    net = made()
    small_memory(net, 100)
    with pytest.raises(TrainingError, match=r"with 137 images at a time; .* make training\.batch_size smaller"):
        fit(net, digits, recipe(batch_size=274), seed=0, device=CPU, shard=(0, 2))


def test_other_errors_are_not_taken_for_a_lack_of_memory(digits: Data) -> None:
    net = made()

    def fail(module: nn.Module, args: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    net.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        fit(net, digits, recipe(), seed=0, device=CPU)


def test_an_evaluation_in_parts_counts_the_same_hits(digits: Data) -> None:
    net = made()
    validation = digits.loader("validation", 8, device=CPU)
    whole = evaluate(net, validation, CPU)

    def look(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if len(args[0]) > 20:
            raise torch.OutOfMemoryError

    net.register_forward_pre_hook(look)
    assert evaluate(net, validation, CPU) == whole


def test_portions_do_not_come_back_to_fewer() -> None:
    portions = Portions(CPU, least=1)
    tried: list[int] = []

    def work(parts: int) -> int:
        tried.append(parts)
        if parts < 4:
            raise torch.OutOfMemoryError
        return parts

    assert [portions.attempt(8, "now", work) for _ in range(3)] == [4, 4, 4]
    assert tried == [1, 2, 4, 4, 4]
    assert (portions.largest(8), portions.largest(9)) == (2, 3)
