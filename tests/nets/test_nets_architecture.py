import dataclasses
import hashlib
import json
import math
import pickle

import pytest
from architecture_strategies import architectures
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import ArchitectureError, UsageError
from vnas.nets import Architecture, Stage, Stem
from vnas.nets.presets import PRESETS

PLAIN = Architecture(Stem(8, stride=2), (Stage(16), Stage(16, stride=1)), image_size=32, num_classes=10)


@given(architectures())
@settings(deadline=None, max_examples=100)
def test_json_goes_both_ways(arch: Architecture) -> None:
    assert Architecture.from_json(arch.to_json()) == arch
    assert Architecture.from_dict(arch.to_dict()) == arch
    assert json.loads(arch.to_json())["schema"] == 1
    assert hash(Architecture.from_json(arch.to_json())) == hash(arch)
    assert pickle.loads(pickle.dumps(arch)) == arch


@given(architectures())
@settings(deadline=None, max_examples=100)
def test_canonical_form_is_a_fixed_point_with_the_same_net(arch: Architecture) -> None:
    canonical = arch.canonical()
    assert canonical.canonical() == canonical
    assert canonical.digest == arch.digest
    assert canonical.feature_sizes == arch.feature_sizes
    assert [canonical.shortcut(i) for i in range(len(arch.stages))] == [
        arch.shortcut(i) for i in range(len(arch.stages))
    ]


@given(architectures())
@settings(deadline=None, max_examples=50)
def test_digest_is_the_hash_of_the_canonical_json_with_sorted_keys(arch: Architecture) -> None:
    c = arch.canonical()
    stages = ",".join(
        f'{{"pool_to":{"null" if s.pool_to is None else s.pool_to},"residual":"{s.residual}","series":{s.series},'
        f'"stride":{s.stride},"width":{s.width}}}'
        for s in c.stages
    )
    text = (
        f'{{"activation":"{c.activation}","dropout":{c.dropout!r},"image_size":{c.image_size},"in_chans":{c.in_chans},'
        f'"num_classes":{c.num_classes},"projection":"{c.projection}","schema":1,'
        f'"series_shift":{"true" if c.series_shift else "false"},"stages":[{stages}],'
        f'"stem":{{"kernel":{c.stem.kernel},"padding":{c.stem.padding},"series":{c.stem.series},'
        f'"stride":{c.stem.stride},"width":{c.stem.width}}}}}'
    )
    assert arch.digest == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_the_same_net_described_twice_has_one_digest() -> None:
    assert dataclasses.replace(PLAIN, projection="conv").digest == PLAIN.digest
    unpooled = dataclasses.replace(PLAIN, stages=(Stage(16), Stage(16, stride=1, pool_to=3)))
    assert unpooled.digest == PLAIN.digest
    by_two, by_three = (dataclasses.replace(PLAIN, stages=(Stage(16, stride=s, pool_to=5),)) for s in (2, 3))
    assert by_two.digest == by_three.digest
    assert dataclasses.replace(PLAIN, dropout=0).digest == PLAIN.digest
    assert dataclasses.replace(PLAIN, stages=list(PLAIN.stages)) == PLAIN


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.1},
        {"image_size": 33},
        {"activation": "gelu"},
        {"series_shift": True},
        {"num_classes": 0},
        {"stages": (Stage(16), Stage(16, stride=1, residual="before_activation"))},
        {"stages": (Stage(16), Stage(16, stride=1, residual="after_activation"))},
        {"stages": (Stage(16, pool_to=7), Stage(16, stride=1))},
    ],
)
def test_another_net_has_another_digest(change: dict[str, object]) -> None:
    assert dataclasses.replace(PLAIN, **change).digest != PLAIN.digest


def test_the_projection_rule_is_kept_where_a_shortcut_needs_it() -> None:
    pooled = (Stage(16), Stage(16, stride=2, residual="after_activation"))
    pad, conv = (dataclasses.replace(PLAIN, stages=pooled, projection=rule) for rule in ("pad", "conv"))
    assert pad.digest != conv.digest
    assert (pad.shortcut(1), conv.shortcut(1)) == ("pad", "conv")
    # Before the activation a pool comes after the addition, so equal widths are enough.
    before = dataclasses.replace(PLAIN, stages=(Stage(8, residual="before_activation"),), projection="conv")
    assert before.shortcut(0) == "identity"
    assert before.canonical().projection == "none"


def test_preset_sizes_match_the_strides_of_the_paper() -> None:
    assert Architecture.named("vanillanet_5").feature_sizes == (56, 28, 14, 7)
    assert Architecture.named("vanillanet_5").reductions == (4, 8, 16, 32)
    ada = Architecture.named("vanillanet_13_x1_5_ada_pool")
    assert ada.image_size == 384
    assert ada.feature_sizes == (128, 128, 38, 19, 19, 19, 19, 19, 19, 19, 10, 10)
    assert sorted(ada.reductions) == list(ada.reductions)


@pytest.mark.parametrize("name", PRESETS)
def test_the_name_counts_the_layers(name: str) -> None:
    assert Architecture.named(name).depth == int(name.split("_")[1])


def test_described_in_one_line() -> None:
    assert Architecture.named("vanillanet_5").describe() == "4x4/4-512 · 1024↓2 · 2048↓2 · 4096↓2  n=3"
    fancy = Architecture(
        Stem(8, 3, 2, 1, 1),
        (Stage(8, 2, 2, "before_activation"), Stage(8, 2, 0, "after_activation", 3)),
        "gelu",
        True,
        "pad",
        image_size=32,
    )
    assert fancy.describe() == "3x3/2p1-8 · 8↓2+pre · 8→3+post  n=1,2,0 gelu shift"


def stages(**change: object) -> tuple[Stage, ...]:
    return (Stage(16, **change),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Stem(0), ["stem.width is 0", "at least 1"]),
        (lambda: Stem(True), ["stem.width is True", "whole number"]),
        (lambda: Stem(8.0), ["stem.width is 8.0", "whole number"]),
        (lambda: Stem(8, stride=0), ["stem.stride is 0"]),
        (lambda: Stem(8, padding=-1), ["stem.padding is -1", "at least 0"]),
        (lambda: Stem(8, kernel=2, padding=2), ["only padding", "below 2"]),
        (lambda: Stem(8, series=-1), ["stem.series is -1"]),
        (lambda: Stage("16"), ["stage.width is '16'"]),
        (lambda: Stage(16, stride=False), ["stage.stride is False"]),
        (lambda: Stage(16, pool_to=0), ["stage.pool_to is 0"]),
        (lambda: Stage(16, residual="before"), ["'before'", "before_activation", "Did you mean"]),
        (lambda: Stage(16, residual=None), ["stage.residual is None"]),
        (lambda: Architecture(Stem(8), ()), ["stages is empty"]),
        (lambda: Architecture(8, stages()), ["stem is 8"]),
        (lambda: Architecture(Stem(8), ("x",)), ["stages is ('x',)"]),
        (lambda: Architecture(Stem(8), stages(), activation="rleu"), ["'rleu'", "Did you mean 'relu'?"]),
        (lambda: Architecture(Stem(8), stages(), projection="convs"), ["Did you mean 'conv'?"]),
        (lambda: Architecture(Stem(8), stages(), series_shift=1), ["series_shift is 1", "true or false"]),
        (lambda: Architecture(Stem(8), stages(), in_chans=0), ["in_chans is 0"]),
        (lambda: Architecture(Stem(8), stages(), num_classes=-1), ["num_classes is -1", "at least 0"]),
        (lambda: Architecture(Stem(8), stages(), num_classes=True), ["num_classes is True"]),
        (lambda: Architecture(Stem(8), stages(), image_size="224"), ["image_size is '224'"]),
        (lambda: Architecture(Stem(8), stages(), dropout=1.0), ["dropout is 1.0", "not including, 1"]),
        (lambda: Architecture(Stem(8), stages(), dropout=-0.1), ["dropout is -0.1"]),
        (lambda: Architecture(Stem(8), stages(), dropout=math.nan), ["dropout is nan"]),
        (lambda: Architecture(Stem(8), stages(), dropout=True), ["dropout is True"]),
        (lambda: Architecture(Stem(8), stages(), dropout="0"), ["dropout is '0'"]),
        (lambda: Architecture(Stem(8), stages(), image_size=3), ["vanishes at the stem", "3 -> 0"]),
        (lambda: Architecture(Stem(8), stages() * 3, image_size=16), ["stage 3 of 3", "16 -> 4 -> 2 -> 1 -> 0"]),
        (lambda: Architecture(Stem(8), stages(pool_to=9), image_size=32), ["enlarges", "stage 1 of 1", "at most 8"]),
        (
            lambda: Architecture(Stem(8), stages(residual="before_activation")),
            ["stage 1 of 1", "8 to 16 channels", 'projection="pad"'],
        ),
        (
            lambda: Architecture(Stem(16), stages(residual="after_activation")),
            ["16 to 16 channels, pooled", 'projection="conv"'],
        ),
        (
            lambda: Architecture(Stem(16), stages(residual="after_activation", pool_to=56)),
            ["16 to 16 channels, pooled"],
        ),
        (lambda: Architecture.named("vanilanet_6"), ["vanilanet_6", "Did you mean 'vanillanet_6'?"]),
        (lambda: Architecture.named("vanillanet_8", image_size=16), ["vanishes at stage 5 of 6"]),
    ],
)
def test_an_impossible_net_is_refused_with_the_reason(build, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArchitectureError) as caught:
        build()
    for word in words:
        assert word in str(caught.value)


def test_the_error_is_a_usage_error_and_a_value_error() -> None:
    with pytest.raises(UsageError):
        Stem(0)
    with pytest.raises(ValueError, match="width"):
        Stem(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(activaton="relu"), ["activaton", "Did you mean 'activation'?"]),
        (lambda d: d.pop("stem"), ["lacks the key 'stem'"]),
        (lambda d: d["stem"].pop("width"), ["stem lacks the key 'width'"]),
        (lambda d: d["stages"][1].update(strid=2), ["stage 2 of 2", "'strid'", "Did you mean 'stride'?"]),
        (lambda d: d["stages"][0].pop("width"), ["stage 1 of 2 lacks the key 'width'"]),
        (lambda d: d.update(stages={}), ["stages is {}", "list"]),
        (lambda d: d.update(stages=[3]), ["stage 1 of 1 is 3"]),
        (lambda d: d.update(stem=[8]), ["stem is [8]"]),
        (lambda d: d.update(schema=2), ["schema 2", "reads schema 1"]),
    ],
)
def test_json_is_read_strictly(change, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    data = PLAIN.to_dict()
    change(data)
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_dict(data)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_text_that_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="the architecture is"):
        Architecture.from_json(text)


def test_fields_with_a_default_may_be_left_out() -> None:
    short = Architecture.from_dict({"stem": {"width": 8}, "stages": [{"width": 16}]})
    assert short == Architecture(Stem(8), (Stage(16),))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
@settings(deadline=None, max_examples=50)
def test_any_other_json_is_an_architecture_error(data: object) -> None:
    with pytest.raises(ArchitectureError):
        Architecture.from_json(json.dumps(data))


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.dropout = 0.5  # type: ignore[misc]
