"""Configuration is frozen and strict, reads back what it wrote, and its errors say what to type."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vnas.config import (
    PAPER_ANNEAL,
    Anneal,
    DataConfig,
    TrainingConfig,
    changed_fields,
    config_files,
    load_study,
    study_from_toml,
)
from vnas.errors import ConfigError


@pytest.mark.parametrize("name", ["quickstart", "cifar10", "imagenet"])
def test_shipped_studies_read_back_what_they_write(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study_from_toml(study.to_toml()) == study


@pytest.mark.parametrize("name", ["digits", "cifar", "vanillanet"])
def test_shipped_spaces_load(name: str) -> None:
    assert load_study("quickstart", [f"space={name}"]).space.name == name


@pytest.mark.parametrize("kind", ["studies", "search_spaces"])
def test_every_shipped_file_opens_with_its_command(kind: str) -> None:
    files = config_files(kind)
    assert len(files) >= 3
    for path in files.values():
        head = path.read_text(encoding="utf-8").split("\n\n")[0]
        assert "python -m vnas.search" in head, path.name
        assert "TIMING" not in head, path.name


def test_the_papers_schedule() -> None:
    # Section 3.1: lambda goes linearly from 0 to 1; the released code does so over 100 of 300 epochs.
    assert (PAPER_ANNEAL.shape, PAPER_ANNEAL.start, PAPER_ANNEAL.end) == ("linear", 0.0, 100 / 300)
    assert load_study("imagenet").training.anneal == PAPER_ANNEAL
    assert load_study("quickstart", ['training.anneal="paper"']).training.anneal == PAPER_ANNEAL


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.epoch=5", "training.epoch is not a known key. Did you mean 'epochs'?"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=true", "training.epochs"),
        ("training.lr=nan", "no number"),
        ("epochs", "write for example --set training.epochs=5"),
        ("training=3", "training"),
        ("training.epochs.more=3", "not a table"),
        ("training.anneal.start=0.9", "must be less than end"),
        ("training.anneal.stagger=0.9", "past the end of the run"),
        ("training.anneal=papr", 'write "paper" or a table'),
        ("training.min_lr=1.0", "must not exceed lr"),
        ("latency.min_seconds=100", "exceeds max_seconds"),
        ("space=cifr", "Did you mean 'cifar'?"),
        ("space.stem.width=[3, 3]", "lists a choice twice"),
        ("space.stem.width=[]", "space.stem.width"),
        ("space.stages.stride=[3]", "space.stages.stride"),
        ("name=a/b", "name"),
        ("trials=1.5", "trials"),
        ("sampler=tpee", "sampler"),
    ],
)
def test_what_is_not_allowed_is_named(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study("quickstart", [assignment])
    assert said in str(caught.value)


def test_an_unknown_study_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"cifar10, imagenet, quickstart.*Did you mean 'quickstart'") as caught:
        load_study("quikstart")
    assert "quikstart" in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n')
    with pytest.raises(ConfigError, match="space is missing"):
        load_study(str(path))


def test_broken_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML"):
        load_study(str(path))


def test_a_space_beside_the_study_is_found(tmp_path: Path) -> None:
    source = config_files("search_spaces")["digits"].read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(source.replace('name = "digits"', 'name = "own"'))
    (tmp_path / "mine.toml").write_text('name = "mine"\nspace = "own.toml"\n')
    assert load_study(str(tmp_path / "mine.toml")).space.name == "own"


def test_assignments_apply_in_order_and_reach_the_space() -> None:
    study = load_study(
        "quickstart",
        ["training.epochs=5", "training.epochs=7", "space=cifar", "space.stem.width=48", "data.source=a b"],
    )
    assert study.training.epochs == 7
    assert study.space.name == "cifar"
    assert study.space.stem.width == (48,)
    assert study.data.source == "a b"


def test_configuration_is_frozen() -> None:
    study = load_study("quickstart")
    with pytest.raises(ValidationError, match="frozen"):
        study.trials = 3  # type: ignore[misc]


def test_changed_fields_are_named_and_the_length_may_change() -> None:
    before = load_study("quickstart")
    assert changed_fields(before, load_study("quickstart", ["trials=99", "time_limit_minutes=5"])) == {}
    after = load_study("quickstart", ["training.epochs=9", "space.stem.width=[16, 32]", "seed=1"])
    assert changed_fields(before, after) == {
        "seed": (0, 1),
        "space.stem.width": ([8, 16, 32, 64], [16, 32]),
        "training.epochs": (8, 9),
    }


@settings(max_examples=100, deadline=None)
@given(
    shape=st.sampled_from(["linear", "cosine", "step"]),
    start=st.floats(0, 0.4),
    end=st.floats(0.5, 1.0),
    steps=st.integers(1, 6),
    order=st.sampled_from(["shallow_first", "deep_first"]),
)
def test_canonical_schedules(shape: str, start: float, end: float, steps: int, order: str) -> None:
    anneal = Anneal(shape=shape, start=start, end=end, steps=steps, order=order)
    canonical = anneal.canonical()
    assert canonical.canonical() == canonical
    assert canonical.order == "shallow_first"
    assert (canonical.steps == steps) == (shape == "step" or steps == 1)
    assert canonical.end == end


@settings(max_examples=50, deadline=None)
@given(
    epochs=st.integers(1, 10_000),
    lr=st.floats(1e-5, 10.0),
    widths=st.lists(st.integers(1, 4096), min_size=1, max_size=5, unique=True),
    source=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
)
def test_any_study_survives_toml(epochs: int, lr: float, widths: list[int], source: str) -> None:
    quoted = '"' + source.replace("\\", "\\\\").replace('"', '\\"') + '"'
    study = load_study(
        "quickstart",
        [f"training.epochs={epochs}", f"training.lr={lr}", f"space.stem.width={widths}", f"data.source={quoted}"],
    )
    assert study.data.source == source
    assert study_from_toml(study.to_toml()) == study
    assert tomllib.loads(study.to_toml())["training"]["lr"] == lr


@pytest.mark.parametrize("model", [Anneal, TrainingConfig, DataConfig])
def test_every_field_is_documented(model: type[Anneal | TrainingConfig | DataConfig]) -> None:
    lines = (model.__doc__ or "").splitlines()
    documented = [line.strip().partition(":")[0] for line in lines if line.startswith(" " * 8) and line[8] != " "]
    assert documented == list(model.model_fields)
