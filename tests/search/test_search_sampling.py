from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from vnas.errors import ConfigError
from vnas.pareto import hypervolume
from vnas.search.sampling import grid, samplers, surrogate
from vnas.search.sampling.encoding import ABSENT, Encoding, ordered
from vnas.search.sampling.grid import GridSampler
from vnas.search.sampling.improvement import expected_gain
from vnas.search.sampling.local import MUTANTS, SECOND_CHANGE, STRANGERS, LocalSampler
from vnas.search.sampling.past import ACCURACY, LATENCY, POSTPONED, Reader
from vnas.search.sampling.suggester import ENOUGH, Suggester, Told
from vnas.search.sampling.surrogate import Surrogate

Draw = dict[str, Any]
Answer = Callable[[Draw], tuple[float, float]]

NAMES: tuple[samplers.Name, ...] = ("local", "tpe", "gp", "nsga2", "random", "grid")

# Text, numbers out of order, numbers with a fraction and truth values; one name that another makes irrelevant.
SPACE: dict[str, tuple[Any, ...]] = {
    "count": (1, 2),
    "one.width": (32, 8, 16),
    "two.width": (8, 16, 32),
    "two.residual": ("none", "before"),
    "dropout": (0.0, 0.1),
    "flip": (False, True),
}


def hidden(draw: Mapping[str, Any]) -> set[str]:
    return set() if draw["count"] == 2 else {"two.width", "two.residual"}


def no_names(draw: Mapping[str, Any]) -> set[str]:
    return set()


def answers(draw: Mapping[str, Any]) -> tuple[float, float]:
    """Accuracy and latency of a net of SPACE."""
    widths = [draw["one.width"], *([draw["two.width"]] if draw["count"] == 2 else [])]
    extra = draw["count"] == 2 and draw["two.residual"] == "before"
    accuracy = 30.0 + sum(8.0 * np.log2(w / 4) for w in widths) + 3.0 * extra + 2.0 * draw["flip"]
    return float(accuracy - 20.0 * draw["dropout"]), 0.5 + sum(widths) / 16 + 0.1 * extra


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """What Optuna warns of in its log fails a test too."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    listener = Listener(logging.WARNING)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").addHandler(listener)
    yield
    logging.getLogger("optuna").removeHandler(listener)
    optuna.logging.set_verbosity(before)
    assert heard == []


# encoding


def test_numbers_keep_their_order_and_the_rest_is_only_equal_or_not() -> None:
    encoding = Encoding({"width": (256, 64, 128), "residual": ("z", "a", "m"), "flip": (False, True)})
    assert encoding.by_equality.tolist() == [False, True, True]
    points = encoding.points(
        [
            {"width": 64, "residual": "z", "flip": False},
            {"width": 128, "residual": "a", "flip": True},
            {"width": 256, "residual": "m", "flip": True},
        ]
    )
    assert points[:, 0].tolist() == [0.0, 0.5, 1.0]
    apart = encoding.distances(points, points)
    assert apart[0].tolist() == [[0, 0, 0], [0.5, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(apart, apart.transpose(1, 0, 2))


def test_truth_values_are_no_numbers() -> None:
    assert ordered((1, 2.5))
    assert not ordered((False, True))
    assert not ordered((0, "none"))
    assert not ordered((0, None))


def test_what_is_absent_is_as_far_from_the_first_choice_as_the_first_is_from_the_last() -> None:
    encoding = Encoding(SPACE)
    short = {name: options[0] for name, options in SPACE.items()} | {"two.residual": "before"}
    long = short | {"count": 2, "two.width": 8}
    points = encoding.points([short, long], [hidden(short) | {"not.in.the.space"}, hidden(long)])
    width, residual = (encoding.names.index(name) for name in ("two.width", "two.residual"))
    assert points[0, [width, residual]].tolist() == [ABSENT, ABSENT]
    assert encoding.distances(points[:1], points[1:])[0, 0, [width, residual]].tolist() == [1.0, 1.0]


def test_draws_that_name_one_candidate_are_one_point() -> None:
    draws = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
    points = Encoding(SPACE).points(draws, [hidden(draw) for draw in draws])
    meanings = {tuple((k, v) for k, v in draw.items() if k not in hidden(draw)) for draw in draws}
    assert len({row.tobytes() for row in points}) == len(meanings) == 3 * 4 * (1 + 6)


def test_no_draws_and_no_names() -> None:
    assert Encoding(SPACE).points([]).shape == (0, len(SPACE))
    assert Encoding({}).points([{}, {}]).shape == (2, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_the_weighted_sum_of_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = Encoding(SPACE)
    draws = [{k: v[int(rng.integers(len(v)))] for k, v in SPACE.items()} for _ in range(9)]
    points = encoding.points(draws, [hidden(draw) for draw in draws])
    weights = rng.random(len(SPACE))
    expected = (encoding.distances(points[:4], points[4:]) * weights).sum(axis=2)
    np.testing.assert_allclose(encoding.weighted(points[:4], points[4:], weights), expected, rtol=1e-12, atol=1e-12)


# surrogate

WIDE: dict[str, tuple[Any, ...]] = {
    "a": (0, 1, 2, 3, 4),
    "b": (0, 1, 2, 3, 4),
    "c": ("x", "y", "z"),
    "d": (False, True),
}


def some(n: int, seed: int = 0, space: Mapping[str, tuple[Any, ...]] = WIDE) -> list[Draw]:
    rng = np.random.default_rng(seed)
    return [{k: v[int(rng.integers(len(v)))] for k, v in space.items()} for _ in range(n)]


def kernel_by_hand(first: list[Draw], second: list[Draw], lengths: Mapping[str, float]) -> np.ndarray:
    """exp(- sum of distance over length), from the draws themselves, with no encoding."""
    found = np.ones((len(first), len(second)))
    for (i, x), (j, y) in itertools.product(enumerate(first), enumerate(second)):
        for name in WIDE:
            apart = abs(x[name] - y[name]) / 4 if name in ("a", "b") else float(x[name] != y[name])
            found[i, j] *= np.exp(-apart / lengths[name])
    return found


def test_predictions_as_by_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, noise = {"a": 0.7, "b": 3.0, "c": 1.5, "d": 9.0}, 0.05
    theta = np.log([*lengths.values(), noise])
    monkeypatch.setattr(surrogate, "_best", lambda apart, values, start: theta)
    seen, asked = some(25), some(12, seed=1)
    values = np.random.default_rng(2).normal(60.0, 7.0, 25)
    encoding = Encoding(WIDE)
    found = Surrogate(encoding).fit(encoding.points(seen), values).predict(encoding.points(asked))
    # Rasmussen and Williams (2006), eq. 2.25 and 2.26, by eigenvectors; the scale is that of greatest likelihood.
    mean, unit = values.mean(), values.std()
    scaled = (values - mean) / unit
    eigen, vectors = np.linalg.eigh(kernel_by_hand(seen, seen, lengths) + (noise + 1e-6) * np.eye(25))
    inverse = (vectors / eigen) @ vectors.T
    scale = scaled @ inverse @ scaled / 25
    shared = kernel_by_hand(asked, seen, lengths)
    np.testing.assert_allclose(found.mean, mean + unit * shared @ inverse @ scaled, rtol=1e-9)
    variance = scale * (1.0 - np.diag(shared @ inverse @ shared.T))
    np.testing.assert_allclose(found.spread, unit * np.sqrt(variance), rtol=1e-7)
    assert found.noise == pytest.approx(unit * np.sqrt(scale * noise))


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_as_by_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = Encoding(WIDE)
    points = encoding.points(some(20, seed))
    flat = encoding.distances(points, points).reshape(400, 4)
    values = rng.normal(size=20)
    values = (values - values.mean()) / values.std()
    theta = rng.normal([0, 0, 0, 0, -2], 1.0)
    _, gradient = surrogate._loss(theta, flat, values)
    for j, step in enumerate(1e-5 * np.eye(5)):
        above, below = surrogate._loss(theta + step, flat, values)[0], surrogate._loss(theta - step, flat, values)[0]
        assert gradient[j] == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-6)


def test_the_loss_is_the_density_of_a_normal_variable() -> None:
    # With the scale at its best, -2 log N(y; 0, s2 K) is n log(2 pi s2) + log |K| + n; the prior is added.
    from scipy.stats import multivariate_normal, norm

    encoding = Encoding(WIDE)
    draws = some(15, 3)
    points = encoding.points(draws)
    values = np.random.default_rng(3).normal(size=15)
    differences = []
    for theta in ([0.3, 0.5, 0.1, 1.0, -2.0], [1.0, -0.5, 2.0, 0.0, -1.0]):
        loss, _ = surrogate._loss(np.array(theta), encoding.distances(points, points).reshape(225, 4), values)
        kernel = kernel_by_hand(draws, draws, dict(zip(WIDE, np.exp(theta[:4]), strict=True)))
        kernel += (np.exp(theta[4]) + 1e-6) * np.eye(15)
        scale = values @ np.linalg.solve(kernel, values) / 15
        density = multivariate_normal.logpdf(values, cov=scale * kernel)
        density += norm.logpdf(theta[:4], np.log(2.0), 1.0).sum() + norm.logpdf(theta[4], np.log(0.1), 1.5)
        differences.append(loss + density)
    assert differences[0] == pytest.approx(differences[1], abs=1e-8)


def test_it_learns_what_depends_on_two_names_only() -> None:
    draws, asked = some(80), some(60, seed=1)
    encoding = Encoding(WIDE)

    def truth(draws: list[Draw]) -> np.ndarray:
        return np.array([50.0 + 4.0 * d["a"] + (6.0 if d["c"] == "y" else 0.0) for d in draws])

    model = Surrogate(encoding).fit(encoding.points(draws), truth(draws))
    found = model.predict(encoding.points(asked))
    wrong = np.sqrt(np.mean((found.mean - truth(asked)) ** 2))
    assert wrong < 0.15 * truth(asked).std()
    a, b, c, d = model._theta[:4]
    assert min(b, d) > max(a, c)  # far in what does not matter


def test_the_lengths_are_learned_anew_after_a_tenth_more(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[int] = []
    monkeypatch.setattr(surrogate, "_best", lambda apart, values, start: learned.append(len(values)) or start)
    encoding = Encoding(WIDE)
    points = encoding.points(some(30))
    model = Surrogate(encoding)
    for n in range(10, 31):
        model.fit(points[:n], np.arange(n, dtype=np.float64))
    assert learned == [10, 12, 14, 16, 18, 20, 23, 26, 29]


@pytest.mark.parametrize(
    "values",
    [[5.0], [5.0, 5.0, 5.0, 5.0], [0.1, 0.1, 0.1], [1.0, 2.0], [1e-300, 0.0]],
    ids=["one", "constant", "constant but for rounding", "two", "tiny"],
)
@pytest.mark.parametrize("repeated", [False, True])
def test_little_to_learn_from_is_no_error(values: list[float], repeated: bool) -> None:
    encoding = Encoding(WIDE)
    points = encoding.points(some(len(values)))
    if repeated:
        points[:] = points[0]
    found = Surrogate(encoding).fit(points, np.array(values)).predict(encoding.points(some(9, seed=1)))
    assert np.isfinite(found.mean).all()
    assert (found.mean <= max(values) + 1e-6).all()
    assert (found.mean >= min(values) - 1e-6).all()
    assert (found.spread > 0).all()
    assert np.isfinite(found.noise)


def test_repeated_points_with_different_answers_are_noise() -> None:
    encoding = Encoding(WIDE)
    points = np.repeat(encoding.points(some(10)), 4, axis=0)
    values = np.random.default_rng(0).normal(50.0, 2.0, 40)
    found = Surrogate(encoding).fit(points, values).predict(points)
    assert 1.0 < found.noise < 4.0
    assert np.abs(found.mean - 50.0).max() < 2.0


# improvement

FRONT = np.array([1.0, 2.0, 4.0, 3.0, 6.0, 2.5]), np.array([40.0, 55.0, 70.0, 50.0, 90.0, 10.0])
FLOOR, CEILING = 20.0, 5.0


def gain_of(latency: float, accuracy: float) -> float:
    corner, maximise = (CEILING, FLOOR), (False, True)
    there = np.column_stack(FRONT)
    return hypervolume([*there, (latency, accuracy)], corner, maximise) - hypervolume(there, corner, maximise)


@pytest.mark.parametrize(
    ("latency", "mean", "spread"),
    [(0.5, 50.0, 10.0), (1.5, 45.0, 5.0), (2.0, 55.0, 3.0), (3.5, 30.0, 20.0), (4.5, 60.0, 8.0), (4.5, 99.0, 0.5)],
)
def test_the_expected_gain_as_by_monte_carlo(latency: float, mean: float, spread: float) -> None:
    sample = np.random.default_rng(0).normal(mean, spread, 200_000)
    # At one latency the gain bends only at the floor and at the levels of the front: exact in between.
    knots = np.array([-1e4, FLOOR, 40.0, 55.0, 70.0, 1e4])
    gains = np.interp(sample, knots, [gain_of(latency, knot) for knot in knots])
    for at in (0, 1, 2):
        assert gains[at] == pytest.approx(gain_of(latency, sample[at]), abs=1e-9)
    found = expected_gain(*(np.array([x]) for x in (latency, mean, spread)), FRONT, FLOOR, CEILING)[0]
    assert found == pytest.approx(gains.mean(), abs=4.5 * gains.std() / np.sqrt(len(gains)) + 1e-12)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 12).map(lambda k: k / 2 + 0.25), st.integers(0, 20).map(lambda k: 5.0 * k + 1.0))
def test_without_doubt_it_is_the_gain(latency: float, accuracy: float) -> None:
    found = expected_gain(np.array([latency]), np.array([accuracy]), np.array([1e-9]), FRONT, FLOOR, CEILING)
    assert found[0] == pytest.approx(gain_of(latency, accuracy), abs=1e-6)


def test_nothing_is_gained_beyond_the_floor_and_the_ceiling() -> None:
    latency, mean, spread = np.array([1.0, 5.0, 7.0]), np.array([19.0, 99.0, 99.0]), np.full(3, 1e-6)
    assert expected_gain(latency, mean, spread, FRONT, FLOOR, CEILING).tolist() == [0.0, 0.0, 0.0]
    nothing = np.empty(0), np.empty(0)
    alone = expected_gain(np.array([2.0]), np.array([70.0]), np.array([1e-6]), nothing, FLOOR, CEILING)
    assert alone[0] == pytest.approx((5.0 - 2.0) * (70.0 - 20.0))


def test_doubt_is_worth_something() -> None:
    latency, mean = np.full(3, 3.0), np.full(3, 50.0)
    gain = expected_gain(latency, mean, np.array([0.1, 5.0, 20.0]), FRONT, FLOOR, CEILING)
    assert gain[0] < gain[1] < gain[2]


# local


def objective(space: Mapping[str, tuple[Any, ...]], answer: Answer) -> Callable[[optuna.Trial], tuple[float, float]]:
    def judge(trial: optuna.Trial) -> tuple[float, float]:
        draw = {name: trial.suggest_categorical(name, options) for name, options in space.items()}
        accuracy, latency = answer(draw)
        trial.set_user_attr(ACCURACY, accuracy)
        trial.set_user_attr(LATENCY, latency)
        return accuracy, latency

    return judge


def searched(
    sampler: optuna.samplers.BaseSampler,
    n: int,
    space: Mapping[str, tuple[Any, ...]] = SPACE,
    answer: Answer = answers,
) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective(space, answer), n_trials=n)
    return study


def meaning(draw: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, draw[name]) for name in SPACE if name not in hidden(draw))


def test_what_was_tried_is_not_proposed_again() -> None:
    study = searched(LocalSampler(SPACE, hidden, seed=0), 45)  # of 84
    assert len({meaning(trial.params) for trial in study.trials}) == 45


def test_one_seed_gives_one_sequence() -> None:
    first, second, other = (searched(LocalSampler(SPACE, hidden, seed=seed), 16).trials for seed in (1, 1, 2))
    assert [t.params for t in first] == [t.params for t in second]
    assert [t.params for t in first] != [t.params for t in other]


@pytest.mark.parametrize(
    "space",
    [
        {f"n{i}": (0, 1) for i in range(6)},
        {"only": tuple(range(30))},
        {"flip": (False, True), "act": ("relu", "gelu", "silu"), "norm": (None, "batch"), "drop": (0.0, 0.1)},
    ],
    ids=["two choices each", "one name", "no numbers"],
)
def test_spaces_of_every_kind(space: dict[str, tuple[Any, ...]]) -> None:
    def answer(draw: Draw) -> tuple[float, float]:
        places = [space[name].index(value) for name, value in draw.items()]
        return 50.0 + sum(places), 1.0 + sum(i * place for i, place in enumerate(places, 1))

    study = searched(LocalSampler(space, no_names, seed=0), 20, space, answer)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 20


def test_a_space_that_is_used_up_is_no_error() -> None:
    space = {"a": (0, 1, 2, 3), "b": (False, True, None)}
    study = searched(LocalSampler(space, no_names, seed=0), 15, space, lambda draw: (50.0 + draw["a"], 1.0))
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 12


def test_what_is_under_way_is_not_proposed_again() -> None:
    study = searched(LocalSampler(SPACE, hidden, seed=0), 12)
    fixed = {name: CategoricalDistribution(options) for name, options in SPACE.items()}
    for _ in range(12):
        study.ask(fixed_distributions=fixed)
    assert len({meaning(trial.params) for trial in study.trials}) == 24


def test_a_trial_under_way_counts_as_what_is_expected_of_it() -> None:
    # One name: whoever would add most is under way; a second like it adds little, so another part is looked at.
    space = {"a": tuple(range(40))}
    sampler = LocalSampler(space, no_names, seed=0)
    study = searched(sampler, 12, space, lambda draw: (50.0 + draw["a"], 1.0 + draw["a"] ** 2))
    fixed = {"a": CategoricalDistribution(space["a"])}
    first = study.ask(fixed_distributions=fixed)
    before = len(sampler._promises[first.number].front[0])
    second = study.ask(fixed_distributions=fixed)
    assert len(sampler._promises[second.number].front[0]) == before + 1


def test_what_was_read_of_one_study_is_not_known_of_another() -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0)
    long, short = searched(sampler, 14), searched(sampler, 3)
    for study in (long, short, long):
        trials = study.get_trials(deepcopy=False)
        past = sampler._past(study, trials[-1])
        expected = sampler._points([trial.params for trial in trials])
        np.testing.assert_array_equal(past.points, expected)


def postponed(study: optuna.Study, draw: Draw, latency: float, accuracy: float | None = None) -> None:
    """A draw that was measured and put off, or trained where its accuracy is given."""
    study.enqueue_trial(draw)
    trial = study.ask(fixed_distributions={name: CategoricalDistribution(SPACE[name]) for name in SPACE})
    trial.set_user_attr(LATENCY, latency)
    trial.set_user_attr(*((POSTPONED, True) if accuracy is None else (ACCURACY, accuracy)))
    study.tell(trial, (accuracy or 0.0, latency))


def test_only_what_was_measured_where_that_is_asked_for() -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0, ceiling_ms=10.0)
    study = searched(sampler, 12)
    tried = {meaning(trial.params) for trial in study.trials}
    draws = [draw for draw in some(100, 5, SPACE) if meaning(draw) not in tried and draw["count"] == 1]
    one = draws[0]
    two = next(draw for draw in draws if meaning(draw) != meaning(one))
    fixed = {name: CategoricalDistribution(options) for name, options in SPACE.items()}
    sampler.only_measured = True
    new = study.ask(fixed_distributions=fixed)  # nothing was put off
    assert meaning(new.params) not in tried | {meaning(one), meaning(two)}
    study.tell(new, state=TrialState.FAIL)
    for draw in (one, two, two):
        postponed(study, draw, answers(draw)[1])
    past = sampler._past(study, study.trials[0])
    assert len(sampler._candidates(past, 10.0)[0]) == 2  # each once
    sampler.only_measured = False
    assert len(sampler._candidates(past, 10.0)[0]) > 2
    sampler.only_measured = True
    asked = study.ask(fixed_distributions=fixed)
    other = study.ask(fixed_distributions=fixed)
    assert {meaning(asked.params), meaning(other.params)} == {meaning(one), meaning(two)}
    for trial in (asked, other):
        study.tell(trial, state=TrialState.FAIL)
    third = study.ask(fixed_distributions=fixed)
    assert meaning(third.params) not in {meaning(one), meaning(two)}


@pytest.mark.parametrize("count", [1, 2])
def test_mutations_change_one_or_two_names_that_mean_something_evenly(count: int) -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0)
    parent = next(draw for draw in some(40, 3, SPACE) if draw["count"] == count)
    changed: Counter[str] = Counter()
    chosen: Counter[tuple[str, Any]] = Counter()
    mutants = [draw for _ in range(30) for draw in sampler._neighbours([parent])[STRANGERS:]]
    assert len(mutants) == 30 * MUTANTS
    for draw in mutants:
        names = [name for name in SPACE if draw[name] != parent[name]]
        assert 1 <= len(names) <= 2
        changed.update(names)
        chosen.update((name, draw[name]) for name in names)
    twice = changed.total() / len(mutants) - 1.0
    assert twice == pytest.approx(SECOND_CHANGE, abs=0.03)
    assert set(changed) == set(SPACE) - set(hidden(parent))
    assert min(changed.values()) > 0.8 * max(changed.values())
    for name, times in changed.items():
        others = [option for option in SPACE[name] if option != parent[name]]
        assert all(chosen[name, option] > 0.8 * times / len(others) for option in others)


@pytest.mark.parametrize("seed", range(5))
def test_reading_on_says_what_reading_anew_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = {"a": (0, 1, 2), "b": ("x", "y")}
    encoding = Encoding(choices)
    study = optuna.create_study()
    reader = Reader(("a", "b"), encoding.points)
    fixed = {name: CategoricalDistribution(options) for name, options in choices.items()}
    at_work: list[optuna.Trial] = []
    for _ in range(200):  # more trials than a reader's first table has rows
        if rng.random() < 0.5:
            at_work.append(study.ask(fixed_distributions=fixed if rng.random() < 0.9 else {}))
        elif at_work:
            trial = at_work.pop(int(rng.integers(len(at_work))))
            if rng.random() < 0.8:
                trial.set_user_attr(LATENCY, float(rng.random()))
            if rng.random() < 0.5:
                trial.set_user_attr(POSTPONED, True)
            elif rng.random() < 0.8:
                trial.set_user_attr(ACCURACY, float(rng.random()))
            if rng.random() < 0.8:
                study.tell(trial, 0.0)
            else:
                study.tell(trial, state=TrialState.FAIL)
        if rng.random() < 0.3:
            continue  # not asked each time
        trials = study.get_trials(deepcopy=False)
        but = int(rng.integers(-1, len(trials) + 1))
        past = reader.read(trials, but)
        known = [
            trial for trial in trials if len(trial.params) == 2 and (trial.state.is_finished() or trial.number != but)
        ]
        points = encoding.points([trial.params for trial in known])
        expected = np.column_stack(
            [
                points,
                [trial.user_attrs.get(LATENCY, np.nan) for trial in known],
                [trial.user_attrs.get(ACCURACY, np.nan) for trial in known],
                [trial.state == TrialState.RUNNING for trial in known],
            ]
        ).reshape(-1, 5)
        found = np.column_stack([past.points, past.latency, past.accuracy, past.running])
        assert rows_of(found) == rows_of(expected)
        assert rows_of(encoding.points(past.draws)) == rows_of(past.points)
        assert past.under_way == [trial.number for trial in known if trial.state == TrialState.RUNNING]
        off, done = set(), set()
        for trial, point in zip(known, points, strict=True):
            (off if trial.user_attrs.get(POSTPONED) and trial.state.is_finished() else done).add(tuple(point))
        assert sorted(tuple(past.points[row]) for row in past.postponed) == sorted(off - done)
        for draw in ({"a": a, "b": b} for a in choices["a"] for b in choices["b"]):
            point = encoding.points([draw])[0]
            assert past.has(point) == (tuple(point) in off | done)


def rows_of(table: Any) -> list[tuple[float, ...]]:
    """Rows in an order of their own, with a number for what is not one."""
    return sorted(tuple(row) for row in np.nan_to_num(np.asarray(table, dtype=float), nan=-7.0))


def test_what_was_put_off_is_not_proposed_once_its_candidate_was_trained() -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0, ceiling_ms=10.0)
    study = searched(sampler, 12)
    tried = {meaning(trial.params) for trial in study.trials}
    first = next(draw for draw in some(100, 5, SPACE) if meaning(draw) not in tried and draw["count"] == 1)
    accuracy, latency = answers(first)
    postponed(study, first, latency)
    # Another draw of the same candidate: it differs in a name without a meaning.
    twin = first | {"two.residual": "before" if first["two.residual"] == "none" else "none"}
    postponed(study, twin, latency, accuracy)
    sampler.only_measured = True
    asked = study.ask(fixed_distributions={name: CategoricalDistribution(options) for name, options in SPACE.items()})
    assert meaning(asked.params) != meaning(first)


def test_a_promise_is_kept_by_what_is_fast_and_broken_by_what_is_slow() -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0, ceiling_ms=6.0)
    study = searched(sampler, 12)
    fixed = {name: CategoricalDistribution(options) for name, options in SPACE.items()}
    slow, fast = (study.ask(fixed_distributions=fixed).number for _ in range(2))
    assert sampler._promises[slow].others > 0
    assert not sampler.keeps_promise(slow, 6.0)  # it adds nothing at the ceiling
    assert sampler.keeps_promise(slow, 6.0)  # asked once
    assert sampler.keeps_promise(fast, 0.1)
    assert sampler.keeps_promise(10_000, 6.0)  # a draw that it did not choose
    assert sampler.keeps_promise(0, 6.0)  # a random one


def test_a_promise_is_not_compared_with_itself() -> None:
    # Of twelve choices eleven are known: some hundred mutations are the one and the same draw.
    space = {"a": tuple(range(12))}
    sampler = LocalSampler(space, no_names, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for a in range(11):
        study.enqueue_trial({"a": a})
    study.optimize(objective(space, lambda draw: (50.0 + draw["a"], 1.0 + draw["a"])), n_trials=11)
    trial = study.ask(fixed_distributions={"a": CategoricalDistribution(space["a"])})
    assert trial.params == {"a": 11}
    assert sampler._promises[trial.number].others == 0.0
    assert sampler.keeps_promise(trial.number, 1e6)


def test_promises_that_nobody_asked_for_are_forgotten() -> None:
    sampler = LocalSampler(SPACE, hidden, seed=0)
    searched(sampler, 20)
    assert len(sampler._promises) == 1  # of the last


def test_a_better_front_than_that_of_random_draws() -> None:
    space = {f"n{i}": (0, 1, 2, 3) for i in range(7)}

    def answer(draw: Draw) -> tuple[float, float]:
        accuracy = sum(gain * draw[f"n{i}"] for i, gain in enumerate((5, 4, 3, 2, 1, 0.5, 0)))
        latency = sum(cost * draw[f"n{i}"] for i, cost in enumerate((0, 0.5, 1, 2, 3, 4, 5)))
        return 40.0 + accuracy, 1.0 + latency

    def volume(sampler: optuna.samplers.BaseSampler) -> float:
        values = [trial.values for trial in searched(sampler, 26, space, answer).trials]
        return hypervolume(values, (40.0, 48.0), maximise=(True, False))

    ratios = [
        volume(LocalSampler(space, no_names, seed=seed, floor=40.0, ceiling_ms=48.0))
        / volume(optuna.samplers.RandomSampler(seed=seed))
        for seed in range(10)
    ]
    assert np.median(ratios) > 1.1
    assert min(ratios) > 1.0


# grid

SMALL: dict[str, tuple[Any, ...]] = {"a": (1, 2, 3), "b": ("x", "y"), "c": (False, True)}
SMALL_FIXED = {name: CategoricalDistribution(options) for name, options in SMALL.items()}


def asked(study: optuna.Study, n: int) -> list[tuple[Any, ...]]:
    return [tuple(study.ask(fixed_distributions=SMALL_FIXED).params.values()) for _ in range(n)]


def test_every_draw_once_in_an_order_of_the_seed() -> None:
    every = set(itertools.product(*SMALL.values()))
    orders = [asked(optuna.create_study(sampler=GridSampler(SMALL, seed=seed)), 12) for seed in (0, 0, 1)]
    assert all(set(found) == every for found in orders)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_the_grid_leaves_out_what_was_tried() -> None:
    study = optuna.create_study(sampler=GridSampler(SMALL, seed=0))
    study.enqueue_trial({"a": 2, "b": "y", "c": True})
    study.enqueue_trial({"a": 1, "b": "x", "c": False})
    assert len(set(asked(study, 12))) == 12


def test_after_the_last_draw_of_the_grid_they_are_random() -> None:
    found = asked(optuna.create_study(sampler=GridSampler(SMALL, seed=0)), 20)
    assert len(set(found[:12])) == 12
    assert set(found[12:]) <= set(itertools.product(*SMALL.values()))


def test_a_grid_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"would try 10,000,000 draws; it takes at most 1,000,000.*'random'"):
        GridSampler({f"n{i}": tuple(range(10)) for i in range(7)}, seed=0)
    monkeypatch.setattr(grid, "LIMIT", 12)
    GridSampler(SMALL, seed=0)


# samplers and suggester


def asking(name: samplers.Name, *, seed: int = 0, trials: int = 0, objectives: int = 1) -> Suggester:
    return Suggester(
        name, SPACE, hidden, seed=seed, trials=trials, expected=30, objectives=objectives, floor=10.0, ceiling_ms=4.0
    )


@pytest.mark.parametrize(
    ("name", "n"),
    [*((name, 14 if name == "gp" else 30) for name in NAMES), pytest.param("gp", 30, marks=pytest.mark.slow)],
)
def test_draws_of_every_sampler_with_answers_of_every_kind(name: samplers.Name, n: int) -> None:
    suggester = asking(name)
    rejected: list[tuple[Any, ...]] = []
    for at in range(n):
        token, draw = suggester.ask()
        assert list(draw) == list(SPACE)
        assert all(draw[key] in options and type(draw[key]) is type(options[0]) for key, options in SPACE.items())
        accuracy, latency = answers(draw)
        over = {"latency_over_budget_ms": latency - 4.0, "params_over_limit": -1.0}
        suggester.guess_accuracy(draw)
        suggester.guess_latency(draw)
        if at % 7 == 3:
            suggester.drop(token)
        elif at % 7 == 5:  # turned away before it was measured
            rejected.append(meaning(draw))
            suggester.tell(token, Told(None, None, over | {"params_over_limit": 1.0}))
        else:
            suggester.know(token, latency)
            kept = suggester.keeps_promise(token, latency)
            rejected += [meaning(draw)] if latency > 4.0 else []
            told = accuracy if kept and latency <= 4.0 else None
            suggester.tell(token, Told(told, (latency,), over, postponed=not kept))
    finished = [trial for trial in suggester._study.trials if trial.state == TrialState.COMPLETE]
    assert len(finished) == n - len(range(3, n, 7))
    assert {tuple(trial.constraints) for trial in finished} == {("latency_over_budget_ms", "params_over_limit")}
    if name in ("gp", "local"):  # what was turned away is not proposed again and again
        assert len(set(rejected)) >= len(rejected) - 1


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_of_a_sampler_is_the_study_s_and_its_number_of_trials(name: samplers.Name) -> None:
    def first(seed: int, trials: int) -> list[Draw]:
        suggester = asking(name, seed=seed, trials=trials)
        return [suggester.ask()[1] for _ in range(8)]

    assert first(3, 0) == first(3, 0)
    assert first(3, 0) != first(4, 0)
    # The grid goes on with its order, and leaves out what it is told of.
    assert (first(3, 0) == first(3, 5)) is (name == "grid")


def test_the_sampler_is_told_exactly_what_is_known() -> None:
    suggester = asking("random", objectives=2)
    token, draw = suggester.ask()
    suggester.tell(token, Told(61.5, (2.25, 130.0), {"over": -0.5, "also": 1.5}))
    (trial,) = suggester._study.trials
    assert trial.values == [61.5, 2.25, 130.0]
    assert trial.state == TrialState.COMPLETE
    assert trial.constraints == {"over": -0.5, "also": 1.5}
    assert trial.user_attrs == {ACCURACY: 61.5, LATENCY: 2.25}
    assert trial.params == draw
    assert trial.intermediate_values == {}
    assert [d.name for d in suggester._study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


def tell(suggester: Suggester, accuracy: float | None, *objectives: float) -> list[float] | None:
    """The values that the sampler sees for the next draw."""
    token, _ = suggester.ask()
    suggester.tell(token, Told(accuracy, objectives or None, {"over": 1.0}))
    return suggester._study.trials[-1].values


def test_an_accuracy_that_is_not_known_is_the_median_of_the_nearest_in_latency() -> None:
    suggester = asking("random")
    assert tell(suggester, None, 3.0) == [0.0, 3.0]
    for latency, accuracy in ((6, 60), (1, 10), (20, 99), (4, 40), (2, 20), (5, 50), (3, 30)):
        tell(suggester, accuracy, latency)
    assert tell(suggester, None, 4.1) == [40.0, 4.1]  # of 4, 5, 3, 6 and 2
    assert tell(suggester, None, 0.1) == [30.0, 0.1]  # of 1 to 5
    assert tell(suggester, None, 99.0) == [50.0, 99.0]  # of 20, 6, 5, 4 and 3
    trial = suggester._study.trials[-1]
    assert trial.user_attrs == {LATENCY: 99.0}  # what is imputed is not learned from
    for accuracy in range(70, 77):
        tell(suggester, accuracy, 4.1)
    assert tell(suggester, None, 4.1) == [74.0, 4.1]  # of the last five of equal ones


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), st.integers(0, 10**6))
def test_the_nearest_as_by_looking_at_all(latencies: list[int], at: int) -> None:
    suggester = asking("random")
    for place, latency in enumerate(latencies):
        tell(suggester, float(place), latency + 0.5)
    values = tell(suggester, None, at + 0.25)
    apart = np.abs(np.array(latencies) + 0.25 - at)
    assert values == [np.median(np.argsort(apart, kind="stable")[:5]), at + 0.25]


def test_objectives_that_are_not_known_are_the_median_of_what_was_measured() -> None:
    suggester = asking("local", objectives=2)
    assert tell(suggester, None) is None
    assert suggester._study.trials[-1].state == TrialState.FAIL
    for accuracy, *objectives in ((50.0, 1.0, 30.0), (60.0, 2.0, 10.0), (None, 9.0, 20.0)):
        tell(suggester, accuracy, *objectives)
    assert tell(suggester, None) == [55.0, 2.0, 20.0]
    trial = suggester._study.trials[-1]
    assert trial.state == TrialState.COMPLETE
    assert trial.constraints == {"over": 1.0}
    assert trial.user_attrs == {}
    assert tell(suggester, None) == [55.0, 2.0, 20.0]  # nor does it count for the next
    assert len(suggester._accuracy_model._answers) == 2
    assert len(suggester._latency_model._answers) == 3


def test_what_was_put_off_is_marked() -> None:
    suggester = asking("local")
    token, _ = suggester.ask()
    suggester.tell(token, Told(None, (2.0,), {}, postponed=True))
    assert suggester._study.trials[-1].user_attrs == {LATENCY: 2.0, POSTPONED: True}


def test_a_latency_is_known_while_the_training_goes_on() -> None:
    suggester = asking("local")
    token, _ = suggester.ask()
    suggester.know(token, 2.5)
    (trial,) = suggester._study.trials
    assert (trial.state, trial.user_attrs) == (TrialState.RUNNING, {LATENCY: 2.5})
    suggester.drop(token)
    assert suggester._study.trials[0].state == TrialState.FAIL
    assert suggester.guess_latency(some(1, space=SPACE)[0]) is None


def test_nothing_is_guessed_from_little() -> None:
    suggester = asking("random")
    for at in range(ENOUGH):
        draw = some(1, at, SPACE)[0]
        assert suggester.guess_accuracy(draw) is None
        assert suggester.guess_latency(draw) is None
        accuracy, latency = answers(draw)
        suggester.tell(suggester.begin(draw), Told(accuracy if at else None, (latency,), {}))
    assert suggester.guess_latency(draw) is not None
    assert suggester.guess_accuracy(draw) is None  # one was not trained


def test_guesses_hold_as_often_as_they_should() -> None:
    rng = np.random.default_rng(0)
    told = asking("random")
    for draw in some(70, 1, SPACE):
        accuracy, latency = answers(draw)
        told.tell(told.begin(draw), Told(accuracy + rng.normal(), (latency * np.exp(0.05 * rng.normal()),), {}))
    others = some(150, 2, SPACE)
    right = dict.fromkeys(("accuracy", "latency"), 0)
    widths = []
    for draw in others:
        accuracy, latency = answers(draw)
        top1, ms = told.guess_accuracy(draw), told.guess_latency(draw)
        assert top1 is not None
        assert ms is not None
        right["accuracy"] += top1.low <= accuracy + rng.normal() <= top1.high
        right["latency"] += ms.low <= latency * np.exp(0.05 * rng.normal()) <= ms.high
        widths.append(top1.high - top1.low)
    # Two standard deviations: .954 of them, were the model true.
    assert all(count / len(others) >= 0.85 for count in right.values())
    assert np.median(widths) < 4.0 * np.std([answers(draw)[0] for draw in others])


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_that_the_sampler_did_not_choose(name: samplers.Name) -> None:
    suggester = asking(name)
    draws = some(6, 3, SPACE)
    tokens = [suggester.begin(draw) for draw in draws]
    for token, draw in zip(tokens, draws, strict=True):
        trial = suggester._study.trials[token]
        assert {key: suggester._choice(key, trial.params[key]) for key in SPACE} == draw
        assert suggester.keeps_promise(token, 1e9)
    for token, draw in reversed(list(zip(tokens, draws, strict=True))):
        accuracy, latency = answers(draw)
        suggester.tell(token, Told(accuracy, (latency,), {}))
        assert suggester._study.trials[token].values == [accuracy, latency]
    assert suggester.ask()[0] == 6


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_numbers_are_told_by_their_place(name: samplers.Name) -> None:
    suggester = asking(name)
    draw = {"count": 2, "one.width": 32, "two.width": 8, "two.residual": "before", "dropout": 0.1, "flip": True}
    token = suggester.begin(draw)
    assert suggester._study.trials[token].params == {
        **{"count": 1, "one.width": 2, "two.width": 0, "dropout": 1},
        **{"two.residual": "before", "flip": True},
    }


def test_the_grid_loses_no_draw_to_those_that_it_did_not_choose() -> None:
    suggester = Suggester("grid", SMALL, no_names, seed=0, expected=12)
    first = {"a": 2, "b": "y", "c": True}
    suggester.tell(suggester.begin(first), Told(None, None, {}))
    found = [suggester.ask()[1] for _ in range(11)]
    assert len({tuple(draw.values()) for draw in [first, *found]}) == 12
