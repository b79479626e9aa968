import math

import numpy as np
import pytest
import torch
from scipy.special import betainc, betaincinv

from vnas.config import TrainingConfig
from vnas.training.images.mixing import Mixing


def mixing(**options: float) -> Mixing:
    return Mixing(TrainingConfig.model_validate({"label_smoothing": 0.0, **options}), 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("option", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_labels_are_blended_alike(option: dict[str, float], layout: torch.memory_format) -> None:
    mix, random = mixing(**option), generator()
    for count in (6, 7):
        labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])[:count]
        images = labels.float()[:, None, None, None].expand(-1, 3, 10, 12).contiguous(memory_format=layout)
        before = images.clone()
        for _ in range(10):
            mixed, soft = mix(images, labels, random)
            assert torch.equal(images, before)
            assert mixed.is_contiguous(memory_format=layout)
            assert mixed.shape == images.shape
            torch.testing.assert_close(mixed.mean((1, 2, 3)), soft[:, 1], atol=1e-5, rtol=0)
            torch.testing.assert_close(soft.sum(1), torch.ones(count))
            # Each is mixed with its mirror in the batch; the one in the middle of an odd number is left.
            torch.testing.assert_close(soft[:, 1] + soft.flip(0)[:, 1], (labels + labels.flip(0)).float())
            if count == 7:
                assert torch.equal(mixed[3], images[3])


def test_mixup_is_a_weighted_mean_and_cutmix_a_rectangle() -> None:
    images = torch.arange(2.0)[:, None, None, None].expand(-1, 1, 9, 9)
    blended, _ = mixing(mixup=1.0)(images, torch.tensor([0, 1]), generator())
    share = blended[1, 0, 0, 0]
    assert 0 < share < 1
    torch.testing.assert_close(blended, torch.stack([1 - share, share])[:, None, None, None].expand_as(blended))
    for seed in range(20):
        pasted = mixing(cutmix=1.0)(images, torch.tensor([0, 1]), generator(seed))[0][:, 0]
        assert torch.equal(pasted[0], 1 - pasted[1])
        inside = pasted[0] == 1
        assert torch.equal(inside, inside.any(1)[:, None] & inside.any(0)[None])


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    mix, random = mixing(mixup=alpha), generator()
    shares = sorted(mix.draw(8, 8, random).share for _ in range(500))
    # Kolmogorov and Smirnov's distance; chance exceeds 1.63 / sqrt(n) once in a hundred times.
    expected = betainc(alpha, alpha, np.array(shares))
    assert np.abs(expected - (np.arange(500) + 0.5) / 500).max() < 1.63 / math.sqrt(500)


def test_boxes_have_the_share_that_is_drawn_where_they_lie_in_the_image() -> None:
    mix, random, again = mixing(cutmix=3.0), generator(), generator()
    blends = [mix.draw(1000, 500, random) for _ in range(300)]
    assert all(blend.box is not None for blend in blends)
    whole = []
    for blend in blends:
        level = torch.rand(4, generator=again, dtype=torch.float64)[1].item()
        top, bottom, left, right = blend.box  # type: ignore[misc]
        assert 0 <= top <= bottom <= 1000
        assert 0 <= left <= right <= 500
        assert blend.share == pytest.approx(1 - (bottom - top) * (right - left) / 500_000)
        if top > 0 and left > 0 and bottom < 1000 and right < 500:
            whole.append((bottom - top) / (right - left))
            assert blend.share == pytest.approx(betaincinv(3.0, 3.0, level), abs=0.01)  # whole pixels
    assert whole
    assert np.median(whole) == pytest.approx(2.0, rel=0.05)  # of the image's own aspect


def test_the_switch_is_the_probability_of_cutmix() -> None:
    mix, random = mixing(mixup=0.5, cutmix=1.0, mixup_switch=0.2), generator()
    boxes = sum(mix.draw(8, 8, random).box is not None for _ in range(1000))
    assert abs(boxes - 200) < 4 * math.sqrt(160)
    assert all(mixing(mixup=0.5, mixup_switch=1.0).draw(8, 8, random).box is None for _ in range(50))
    assert all(mixing(cutmix=0.5, mixup_switch=0.0).draw(8, 8, random).box is not None for _ in range(50))


def test_targets_are_smoothed_as_timms() -> None:
    from timm.data.mixup import mixup_target

    config = TrainingConfig(mixup=0.7, label_smoothing=0.1)
    labels = torch.tensor([4, 0, 2, 2])
    images = torch.rand(4, 1, 4, 4, generator=generator())
    mix = Mixing(config, 5)
    share = mix.draw(4, 4, generator(3)).share
    mixed, targets = mix(images, labels, generator(3))
    torch.testing.assert_close(targets, mixup_target(labels, 5, share, 0.1))
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))


def test_the_generator_decides() -> None:
    mix = mixing(mixup=0.5, cutmix=1.0)
    first, again, other = (
        [mix.draw(32, 32, random) for _ in range(5)] for random in (generator(1), generator(1), generator(2))
    )
    assert first == again != other
