"""Every draw of a space names a net that exists; different draws of one net share a digest."""

import itertools
import random
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vnas.config import PAPER_ANNEAL, SpaceConfig, load_study
from vnas.errors import ConfigError
from vnas.evaluate import Candidate
from vnas.nets import FusedVanillaNet, build, fuse
from vnas.search import space as spaces
from vnas.search.engine.ledger import Ledger
from vnas.search.nets import NetProblem
from vnas.search.sampling.suggester import Suggester

SPACES = ["digits", "cifar", "vanillanet"]


def load_space(name: str) -> SpaceConfig:
    return load_study("quickstart", [f"space={name}"]).space


def candidate(drawn: dict[str, Any], space: SpaceConfig) -> Candidate:
    return spaces.candidate_of(drawn, space, in_chans=3, num_classes=10, anneal=PAPER_ANNEAL)


def draw(space: SpaceConfig, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)
    return {name: generator.choice(options) for name, options in spaces.choices(space).items()}


def small(**changes: Any) -> SpaceConfig:
    table: dict[str, Any] = {
        "name": "small",
        "image_size": 16,
        "stem": {"kernel": [3, 4], "stride": [1, 2, 4], "width": [4, 6], "series": [0, 1]},
        "stages": {
            "count": [1, 2, 3],
            "width": [4, 6, 8],
            "stride": [1, 2],
            "series": [0, 1, 2],
            "residual": ["none", "before_activation", "after_activation"],
        },
    }
    return SpaceConfig.model_validate({**table, **changes}, strict=False)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_draw_of_a_shipped_space_exists(name: str, seed: int) -> None:
    space = load_space(name)
    found = candidate(draw(space, seed), space)
    assert found.architecture.num_classes == 10
    assert min(found.architecture.feature_sizes) >= 1
    assert found.architecture == found.architecture.canonical()
    assert 0 <= found.anneal.start < found.anneal.end <= 1
    assert found.anneal.end + found.anneal.stagger <= 1


@pytest.mark.parametrize("projection", ["none", "pad", "conv"])
def test_every_kind_of_draw_trains_and_fuses_exactly(projection: str) -> None:
    space = small(projection=projection, series_shift=True)
    for seed in range(25):
        architecture = candidate(draw(space, seed), space).architecture
        torch.manual_seed(seed)
        net = build(architecture).double()
        images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
        net.train()
        net(images)  # moves the running statistics of every batch norm off their start
        net.eval()
        net.set_slope(1.0)
        with torch.inference_mode():
            expected, got = net(images), fuse(net)(images)
        assert torch.linalg.norm(got - expected) <= 1e-12 * torch.linalg.norm(expected)


def test_unused_stages_do_not_matter() -> None:
    space = load_space("digits")
    drawn = draw(space, 1) | {"stages.count": 2}
    other = drawn | {"stage3.width": 16, "stage4.residual": "after_activation", "stage4.series": 0}
    assert other != drawn
    assert candidate(drawn, space).digest == candidate(other, space).digest


def test_the_schedule_tells_candidates_of_one_net_apart() -> None:
    space = load_space("digits")
    one, other = (candidate(draw(space, 1) | {"anneal.shape": shape}, space) for shape in ("linear", "cosine"))
    assert one.architecture.digest == other.architecture.digest
    assert one.digest != other.digest


def test_a_stride_that_would_make_the_map_vanish_becomes_one() -> None:
    space = small(image_size=4)
    drawn = draw(space, 0) | {"stem.kernel": 4, "stem.stride": 4, "stages.count": 3}
    drawn |= {f"stage{i}.stride": 2 for i in (1, 2, 3)}
    assert [stage.stride for stage in candidate(drawn, space).architecture.stages] == [1, 1, 1]


@pytest.mark.parametrize(
    ("residual", "stride", "width", "kept"),
    [
        ("before_activation", 2, 4, True),  # joins ahead of the pool: only widths count
        ("before_activation", 1, 6, False),
        ("after_activation", 1, 4, True),
        ("after_activation", 2, 4, False),
        ("after_activation", 1, 6, False),
    ],
)
def test_a_residual_without_a_rule_is_dropped_where_shapes_differ(
    residual: str, stride: int, width: int, kept: bool
) -> None:
    space = small()
    drawn = draw(space, 0) | {"stem.width": 4, "stem.stride": 1, "stages.count": 1}
    drawn |= {"stage1.residual": residual, "stage1.stride": stride, "stage1.width": width}
    assert candidate(drawn, space).architecture.stages[0].residual == (residual if kept else "none")


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 5))
def test_stems_divide_the_image_by_their_stride(kernel: int, stride: int) -> None:
    if kernel < stride:
        return
    padding = spaces.stem_padding(kernel, stride)
    size = (48 + 2 * padding - kernel) // stride + 1
    assert abs(size - 48 / stride) <= 1
    assert padding < kernel


def test_the_papers_stems() -> None:
    # 4x4 with stride 4 is unpadded; the adaptive-pool variant's stride 3 goes with padding 1.
    assert spaces.stem_padding(4, 4) == 0
    assert spaces.stem_padding(4, 3) == 1


def test_size_counts_the_draws() -> None:
    space = small(
        stem={"kernel": 3, "stride": 1, "width": [4, 6], "series": 0},
        stages={"count": [1, 2], "width": [4, 6], "stride": [1, 2], "series": 0, "residual": "none"},
    )
    names = spaces.choices(space)
    draws = [dict(zip(names, values, strict=True)) for values in itertools.product(*names.values())]
    assert len({candidate(drawn, space).digest for drawn in draws}) == spaces.size(space) == 2 * (4 + 16)


def test_every_trial_has_the_same_names_in_the_same_order() -> None:
    config = load_study("quickstart", ["space=cifar"])
    problem = NetProblem(config, in_chans=3, num_classes=10)
    assert dict(problem.choices) == spaces.choices(config.space)
    study = optuna.create_study(directions=["maximize", "minimize"])
    ledger = Ledger(study, problem.choices, "here")
    suggester = Suggester("random", problem.choices, problem.absent, seed=0, expected=20)
    for _ in range(20):
        _, drawn = suggester.ask()
        ledger.begin(drawn, {})
    for trial in study.get_trials():
        assert list(trial.params) == list(problem.choices)
        assert problem.subject(trial.params).digest == candidate(trial.params, config.space).digest


def test_what_a_draw_leaves_unused_is_absent() -> None:
    space = load_space("digits")
    for seed in range(50):
        drawn = draw(space, seed)
        absent = spaces.absent(drawn, space)
        assert absent <= spaces.choices(space).keys() | {"anneal.steps"}
        changed = {name: options[-1] if drawn[name] == options[0] else options[0] for name, options in
                   spaces.choices(space).items() if name in absent}  # fmt: skip
        assert candidate(drawn | changed, space).digest == candidate(drawn, space).digest


def test_a_subject_of_a_net() -> None:
    config = load_study("quickstart")
    problem = NetProblem(config, in_chans=1, num_classes=10)
    drawn = draw(config.space, 1)
    subject = problem.subject(drawn)
    found = Candidate.from_attributes(subject.attributes)
    assert subject.digest == found.digest == subject.attributes["candidate"]
    assert subject.latency_key == problem.latency_key(subject.attributes) == found.architecture.digest
    assert subject.costs == {name: float(subject.attributes[name]) for name in ("params", "macs")}
    assert subject.costs["params"] == sum(parameter.numel() for parameter in fuse_fresh(found).parameters())
    assert problem.size == spaces.size(config.space)
    assert problem.latency_key({}) is None


def fuse_fresh(found: Candidate) -> torch.nn.Module:
    return FusedVanillaNet(found.architecture)


def test_a_stem_that_no_image_passes_is_refused_before_the_study() -> None:
    space = small(image_size=[2, 16], stem={"kernel": 4, "stride": 4, "width": 4})
    with pytest.raises(ConfigError, match=r"search space small allows a net that cannot exist: .*vanishes at the stem"):
        spaces.check(space, in_chans=3, num_classes=10, anneal=PAPER_ANNEAL)


def test_an_unknown_activation_is_refused_before_the_study() -> None:
    space = small(activation=["relu", "rellu"])
    with pytest.raises(ConfigError, match="Did you mean 'relu'"):
        spaces.check(space, in_chans=3, num_classes=10, anneal=PAPER_ANNEAL)


def test_schedules_that_cannot_be_are_mended_or_refused() -> None:
    space = small(anneal={"start": [0.0, 0.5], "end": [0.33, 1.0], "stagger": [0.0, 0.5]})
    for draw_ in ({"anneal.start": 0.5, "anneal.end": 0.33}, {"anneal.end": 1.0, "anneal.stagger": 0.5}):
        anneal = candidate(draw(space, 0) | draw_, space).anneal
        assert 0 <= anneal.start < anneal.end
        assert anneal.end + anneal.stagger <= 1
    with pytest.raises(ValidationError, match="greater than 0"):
        small(anneal={"end": [0.0]})


def test_random_draws_repeat_with_their_seed_and_cover_the_choices() -> None:
    problem = NetProblem(load_study("quickstart"), in_chans=1, num_classes=10)

    def draws(seed: int) -> list[dict[str, Any]]:
        suggester = Suggester("random", problem.choices, problem.absent, seed=seed, expected=200)
        return [suggester.ask()[1] for _ in range(200)]

    first = draws(0)
    assert first == draws(0) != draws(1)
    for name, options in problem.choices.items():
        assert {drawn[name] for drawn in first} == set(options)


def test_attributes_read_back() -> None:
    space = load_space("digits")
    found = candidate(draw(space, 3), space)
    assert Candidate.from_attributes(found.attributes()) == found
    assert found.seed(0) == Candidate.from_attributes(found.attributes()).seed(0)
    assert len({found.seed(0), found.seed(1), found.seed(0, 1)}) == 3
