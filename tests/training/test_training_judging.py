import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vnas.config import TrainingConfig
from vnas.nets import Architecture, VanillaNet, build, fuse
from vnas.training import Data, evaluate, fit
from vnas.training.command.watching import LOOKS, Watch, due
from vnas.training.judging import Accuracy, compare_forms, judge
from vnas.training.norms import reestimate_norms
from vnas.training.result import Progress

CPU = torch.device("cpu")
BRIEF = TrainingConfig(epochs=3, batch_size=256, flip=False, warmup_epochs=0.5)


class Told(nn.Module):
    """Answers with the images themselves, so that a test writes the logits."""

    def __init__(self, added: float = 0.0) -> None:
        super().__init__()
        self.added = added

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + self.added


class Batches:
    """A loader of given batches."""

    pipeline = "resident"
    reason = "a test"

    def __init__(self, *batches: tuple[list[list[float]], list[int]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._batches:
            yield torch.tensor(images)[:, :, None, None], torch.tensor(labels)  # (B, K) -> (B, K, 1, 1)


SIX = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_top1_and_top5_count_the_largest_logits() -> None:
    # Labels 0: first. 4: fifth. 5: sixth. 1: second.
    loader = Batches(([SIX, SIX], [0, 4]), ([SIX, SIX], [5, 1]))
    assert judge(Told(), [loader], CPU) == Accuracy(top1=25.0, top5=75.0, images=4)


def test_several_sets_are_judged_as_one() -> None:
    one, other = Batches(([SIX], [0])), Batches(([SIX, SIX, SIX], [5, 5, 0]))
    assert judge(Told(), [one, other], CPU) == Accuracy(top1=50.0, top5=50.0, images=4)


def test_five_classes_have_no_top5() -> None:
    assert judge(Told(), [Batches(([[0.0, 1.0, 2.0, 3.0, 4.0]], [4]))], CPU) == Accuracy(100.0, None, 1)


def test_the_mode_of_a_net_is_put_back() -> None:
    net = Told().train()
    judge(net, [Batches(([SIX], [0]))], CPU)
    assert net.training


def test_two_forms_are_compared_image_by_image() -> None:
    class Swapped(Told):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).flip(1)

    loader = Batches(([SIX, [1.0] * 5 + [9.0]], [0, 0]), ([SIX], [5]))
    found = compare_forms(Told(), Swapped(), loader, CPU)
    assert found.training_form == Accuracy(top1=100.0 / 3, top5=200.0 / 3, images=3)
    # Flipped, the largest logits are those of classes 5, 0 and 5; class 0 is the last of the first image.
    assert found.fused == Accuracy(top1=200.0 / 3, top5=200.0 / 3, images=3)
    assert found.differing == 3
    assert found.logit_difference == pytest.approx(8.0 / 9.0)


def test_equal_forms_do_not_differ() -> None:
    found = compare_forms(Told(), Told(), Batches(([SIX], [0])), CPU)
    assert (found.differing, found.logit_difference) == (0, 0.0)


def test_judging_agrees_with_evaluate(digits: Data, small: Architecture) -> None:
    net = build(small).eval()
    loader = digits.loader("validation", 16, device=CPU)
    assert judge(net, [loader], CPU).top1 == evaluate(net, loader, CPU)


@pytest.mark.parametrize("epochs", [1, 2, 19, 20, 21, 30, 300, 1000])
def test_looks_are_spread_over_a_run_and_leave_out_its_end(epochs: int) -> None:
    looked = [epoch for epoch in range(epochs) if due(epoch, epochs)]
    assert len(looked) == min(epochs, LOOKS) - 1
    assert epochs - 1 not in looked
    gaps = [after - before for before, after in zip([-1, *looked], [*looked, epochs - 1], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_watching_changes_nothing_of_the_run(digits: Data, small: Architecture) -> None:
    plain = fit(small, digits, BRIEF, seed=3, device=CPU)
    watch = Watch(digits, BRIEF, small.image_size, 3, CPU)
    looks = []

    def look(where: Progress) -> None:
        looks.append(watch.look())

    watched = fit(small, digits, BRIEF, seed=3, device=CPU, progress=look, wrap=watch.keep)
    assert len(looks) == plain.steps
    assert plain.fused is not None
    assert watched.fused is not None
    other = watched.fused.state_dict()
    assert all(torch.equal(weight, other[name]) for name, weight in plain.fused.state_dict().items())
    assert watch.seconds > 0


def test_a_look_judges_both_forms_and_leaves_the_net_alone(digits: Data, small: Architecture) -> None:
    watch = Watch(digits, BRIEF, small.image_size, 0, CPU)
    net = fit(small, digits, BRIEF, seed=0, device=CPU).trained
    assert net is not None
    net.set_slope(0.25)
    net.train()
    before = copy.deepcopy(net.state_dict())
    assert watch.keep(net) is net
    look = watch.look()
    assert net.training
    assert net.slopes == (0.25,) * net.num_pairs
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())

    def prepared(slope: float) -> VanillaNet:
        again = build(small)
        again.load_state_dict(before)
        batches = digits.training_loader(BRIEF, small.image_size, seed=0, device=CPU)
        if slope == 1.0:  # a second pass over what the first has had
            again.set_slope(0.25)
            reestimate_norms(again, batches, 8)
        again.set_slope(slope)
        reestimate_norms(again, batches, 8)
        return again

    validation = digits.loader("validation", small.image_size, device=CPU)
    assert look.training_form == judge(prepared(0.25), [validation], CPU).top1
    assert look.fused == judge(fuse(prepared(1.0)), [validation], CPU).top1
    assert look.training_form != look.fused


def test_a_look_takes_no_random_numbers_from_the_run(
    digits: Data, small: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a loader with worker processes does.
    monkeypatch.setattr("vnas.training.command.watching.judge", lambda *args: Accuracy(float(torch.rand(())), None, 1))
    watch = Watch(digits, BRIEF, small.image_size, 0, CPU)
    watch.keep(build(small))
    before = torch.get_rng_state()
    watch.look()
    assert torch.equal(torch.get_rng_state(), before)


def test_at_lambda_one_a_look_sees_one_function(digits: Data, small: Architecture) -> None:
    watch = Watch(digits, BRIEF, small.image_size, 0, CPU)
    net = build(small)
    net.set_slope(1.0)
    watch.keep(net)
    look = watch.look()
    assert look.fused == pytest.approx(look.training_form, abs=0.5)
