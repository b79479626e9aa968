"""Nets that are tried first: by name and by file, as draws of the space, refused where the space has not got them."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_studies
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from vnas.config import SpaceConfig, StudyConfig, load_study
from vnas.errors import ConfigError
from vnas.evaluate import Candidate
from vnas.nets import Architecture, Stage
from vnas.search import space as spaces
from vnas.search.command import _queue_missing
from vnas.search.presets import preset_draws

SPACES = ["digits", "cifar", "vanillanet"]


def study(space: str = "vanillanet", *presets: str) -> StudyConfig:
    return load_study("quickstart", [f"space={space}"]).model_copy(update={"presets": presets})


def drawn_of(space: SpaceConfig, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)
    return {name: generator.choice(options) for name, options in spaces.choices(space).items()}


def candidate(drawn: dict[str, Any], config: StudyConfig) -> Candidate:
    anneal = config.training.anneal
    return spaces.candidate_of(drawn, config.space, in_chans=3, num_classes=10, anneal=anneal)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_draw_is_found_again(name: str, seed: int) -> None:
    config = study(name)
    drawn = drawn_of(config.space, seed)
    found = candidate(drawn, config)
    again = spaces.draw_of(found, config.space)
    assert list(again) == list(spaces.choices(config.space))
    assert candidate(again, config) == found
    # What the first draw did not leave unused is drawn alike, but for what was mended.
    assert spaces.draw_of(candidate(again, config), config.space) == again


def architecture(config: StudyConfig, seed: int = 1) -> Architecture:
    return candidate(drawn_of(config.space, seed), config).architecture


def draws(config: StudyConfig) -> list[dict[str, Any]]:
    return preset_draws(config, in_chans=3, num_classes=10)


def test_a_net_in_a_file(tmp_path: Path) -> None:
    config = study("cifar")
    net = architecture(config)
    path = tmp_path / "net.json"
    path.write_text(net.to_json())
    (drawn,) = draws(config.model_copy(update={"presets": (str(path),)}))
    assert candidate(drawn, config).architecture == net
    assert draws(config) == []


def test_nets_known_by_name() -> None:
    config = study("vanillanet", "vanillanet_5", "vanillanet_6", "vanillanet_13")
    size = config.space.image_size[0]
    for name, drawn in zip(config.presets, draws(config), strict=True):
        net = Architecture.named(name, in_chans=3, num_classes=10, image_size=size).canonical()
        assert candidate(drawn, config).architecture == replace(net, dropout=config.space.dropout[0])


@pytest.mark.parametrize("space", ["digits", "cifar"])
def test_a_known_net_that_the_space_has_not_got_is_refused(space: str) -> None:
    said = {
        "digits": "presets: 'vanillanet_6' is neither .*the feature map vanishes",
        "cifar": "search space cifar has no net .*Add it to the space, or leave the net out of presets",
    }
    with pytest.raises(ConfigError, match=said[space]):
        draws(study(space, "vanillanet_6"))


@pytest.mark.parametrize("text", ["vanilanet_6", "no/such/file.json"])
def test_what_is_neither_name_nor_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is neither a file of an Architecture nor a known net: no net named"):
        draws(study("vanillanet", text))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"stem": 3}'])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is neither a file of an Architecture nor a known net"):
        draws(study("vanillanet", str(path)))


@pytest.mark.parametrize(("in_chans", "num_classes"), [(1, 10), (3, 100)])
def test_a_net_for_other_data_is_refused(in_chans: int, num_classes: int, tmp_path: Path) -> None:
    config = study("cifar")
    path = tmp_path / "net.json"
    path.write_text(architecture(config).to_json())
    config = config.model_copy(update={"presets": (str(path),)})
    said = f"is for 3 channels and 10 classes; the data have {in_chans} and {num_classes}"
    with pytest.raises(ConfigError, match=said):
        preset_draws(config, in_chans=in_chans, num_classes=num_classes)


def changed(net: Architecture, what: str) -> Architecture:
    first, *others = net.stages
    return {
        "width": lambda: replace(net, stages=(replace(first, width=7), *others)),
        "series": lambda: replace(net, stem=replace(net.stem, series=9)),
        "stages": lambda: replace(net, stages=tuple(Stage(first.width, stride=1) for _ in range(30))),
        "image_size": lambda: replace(net, image_size=net.image_size + 4),
        "dropout": lambda: replace(net, dropout=0.77),
        "padding": lambda: replace(net, stem=replace(net.stem, padding=net.stem.padding + 1)),
        "series_shift": lambda: replace(net, series_shift=not net.series_shift),
        "pool_to": lambda: replace(net, stages=(replace(first, stride=2, pool_to=2), *others)),
    }[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("width", "stage1.width = 7"),
        ("series", "stem.series = 9"),
        ("stages", "stages.count = 30"),
        ("image_size", "image_size = "),
        ("dropout", "dropout = 0.77"),
        ("padding", "stem.padding"),
        ("series_shift", "series_shift"),
        ("pool_to", "pool_to"),
    ],
)
def test_what_the_space_has_not_got_is_named(what: str, said: str, tmp_path: Path) -> None:
    config = study("cifar")
    path = tmp_path / "net.json"
    path.write_text(changed(architecture(config), what).to_json())
    with pytest.raises(ConfigError) as caught:
        draws(config.model_copy(update={"presets": (str(path),)}))
    assert "search space cifar has no net" in str(caught.value)
    assert said in str(caught.value)


def test_a_schedule_that_the_space_has_not_got_is_another_of_its_own() -> None:
    config = study("digits")
    net = architecture(config)
    odd = config.training.anneal.model_copy(update={"end": 0.123})
    drawn = spaces.draw_of(Candidate(net, odd), config.space)
    assert drawn["anneal.end"] == config.space.anneal.end[0]  # the net is what a preset is for
    assert candidate(drawn, config).architecture == net


def test_presets_that_a_killed_run_left_out_are_queued_by_the_next() -> None:
    lab = fake_studies.lab(3)
    presets = [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 3, "b": 3}]
    lab.ledger().queue(presets[1], {"preset": True})
    left = lab.ledger()
    left.withdraw(left.queue(presets[2], {"preset": True}), "the study was full")
    for _ in range(2):
        _queue_missing(lab.ledger(), presets)
    waiting = [trial.params for trial in lab.trials() if trial.state == TrialState.WAITING]
    assert waiting == [presets[1], presets[0], presets[2]]
