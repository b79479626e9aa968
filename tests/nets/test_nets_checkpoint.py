import argparse
import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from architecture_strategies import SMALL, architectures, distance, images, randomise
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import vnas
import vnas.nets.checkpoint
from vnas.errors import CheckpointError
from vnas.nets import (
    Architecture,
    FusedVanillaNet,
    Stage,
    Stem,
    VanillaNet,
    build,
    fuse,
    load_checkpoint,
    merge,
    save_weights,
)
from vnas.nets.base import PlainNet

# The nets the official code can express: one series order, no shift, no residual.
OFFICIAL = Architecture(
    Stem(6, series=2), (Stage(8, stride=2, series=2), Stage(8, stride=1, series=2)), image_size=16, num_classes=4
)


class Written:
    """An official net as bare weights under the official names, and its forward pass written from the paper."""

    def __init__(self, deployed: bool) -> None:
        self.deployed = deployed
        self.weights: dict[str, Tensor] = {}
        torch.manual_seed(3)

    def conv(self, name: str, out: int, into: int, kernel: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight" if name else "weight"] = (
            torch.randn(out, into, kernel, kernel) / (into * kernel**2) ** 0.5
        )
        if bias:
            self.weights[f"{name}.bias"] = torch.randn(out)

    def norm(self, name: str, width: int) -> None:
        self.weights |= {
            f"{name}.weight": 0.5 + torch.rand(width),
            f"{name}.bias": torch.randn(width),
            f"{name}.running_mean": torch.randn(width),
            f"{name}.running_var": 0.5 + torch.rand(width),
            f"{name}.num_batches_tracked": torch.tensor(7),
        }

    def apply_conv(self, name: str, x: Tensor, **geometry: int) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **geometry)

    def apply_norm(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6
        )


def official(arch: Architecture, deployed: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights under official names, an input, and the logits at lambda = 1."""
    o, n, widths = Written(deployed), arch.stem.series, arch.widths
    x = image = torch.randn(2, 3, arch.image_size, arch.image_size)
    if deployed:
        o.conv("stem.0", widths[0], 3, 4)
        o.conv("stem.1", widths[0], 1, 2 * n + 1)
        x = o.apply_conv("stem.0", x, stride=4)
        x = o.apply_conv("stem.1", x.relu(), padding=n, groups=widths[0])
    else:
        o.conv("stem1.0", widths[0], 3, 4)
        o.norm("stem1.1", widths[0])
        o.conv("stem2.0", widths[0], widths[0], 1)
        o.norm("stem2.1", widths[0])
        o.conv("stem2.2", widths[0], 1, 2 * n + 1, bias=False)
        o.norm("stem2.2.bn", widths[0])
        x = o.apply_norm("stem1.1", o.apply_conv("stem1.0", x, stride=4))
        x = o.apply_norm("stem2.1", o.apply_conv("stem2.0", x))
        x = o.apply_norm("stem2.2.bn", o.apply_conv("stem2.2", x.relu(), padding=n, groups=widths[0]))
    for i, stage in enumerate(arch.stages):
        name, into, out = f"stages.{i}", widths[i], widths[i + 1]
        if deployed:
            o.conv(f"{name}.conv", out, into, 1)
            x = o.apply_conv(f"{name}.conv", x)
        else:
            for k, width in ((1, into), (2, out)):
                o.conv(f"{name}.conv{k}.0", width, into, 1)
                o.norm(f"{name}.conv{k}.1", width)
                x = o.apply_norm(f"{name}.conv{k}.1", o.apply_conv(f"{name}.conv{k}.0", x))
        o.conv(f"{name}.act", out, 1, 2 * n + 1, bias=deployed)
        x = F.max_pool2d(x, stage.stride)
        x = o.apply_conv(f"{name}.act", x.relu(), padding=n, groups=out)
        if not deployed:
            o.norm(f"{name}.act.bn", out)
            x = o.apply_norm(f"{name}.act.bn", x)
    x = x.mean((2, 3), keepdim=True)
    if deployed:
        o.conv("cls.2", arch.num_classes, widths[-1], 1)
        x = o.apply_conv("cls.2", x)
    else:
        o.conv("cls1.2", arch.num_classes, widths[-1], 1)
        o.norm("cls1.3", arch.num_classes)
        o.conv("cls2.0", arch.num_classes, arch.num_classes, 1)
        x = o.apply_conv("cls2.0", o.apply_norm("cls1.3", o.apply_conv("cls1.2", x)))
    return o.weights, image, x.flatten(1)


@pytest.mark.parametrize("deployed", [False, True], ids=["training", "deployed"])
@pytest.mark.parametrize("wrap", ["model", "model_ema", "state_dict", None])
def test_official_weights_give_the_official_output(deployed: bool, wrap: str | None, tmp_path: Path) -> None:
    weights, image, logits = official(OFFICIAL, deployed)
    content = weights if wrap is None else {wrap: weights, "epoch": 299, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "net.pth")
    net = load_checkpoint(tmp_path / "net.pth", OFFICIAL)
    assert isinstance(net, FusedVanillaNet if deployed else VanillaNet)
    assert not net.training
    torch.testing.assert_close(net(image), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fuse(net)(image), logits, rtol=1e-4, atol=1e-4)


def test_a_finished_official_training_form_is_at_lambda_1(tmp_path: Path) -> None:
    torch.save({"model": official(OFFICIAL, False)[0]}, tmp_path / "net.pth")
    net = load_checkpoint(tmp_path / "net.pth", OFFICIAL)
    assert isinstance(net, VanillaNet)
    assert net.slopes == (1.0,) * 4


def test_the_average_goes_before_the_model_unless_a_key_is_given(tmp_path: Path) -> None:
    weights, image, logits = official(OFFICIAL, True)
    other = {name: weight * 0.5 for name, weight in weights.items()}
    torch.save({"model": other, "model_ema": weights}, tmp_path / "net.pth")
    torch.testing.assert_close(load_checkpoint(tmp_path / "net.pth", OFFICIAL)(image), logits, rtol=1e-4, atol=1e-5)
    assert distance(load_checkpoint(tmp_path / "net.pth", OFFICIAL, key="model")(image), logits) > 0.1
    with pytest.raises(CheckpointError, match=r"no entry 'modle'.*Did you mean 'model'"):
        load_checkpoint(tmp_path / "net.pth", OFFICIAL, key="modle")


def forms(arch: Architecture, dtype: torch.dtype = torch.float32) -> list[PlainNet]:
    net = build(arch, dtype=dtype)
    randomise(net)
    net.set_slope(1)
    return [net, merge(net), fuse(net)]


@given(architectures())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_form_comes_back_bit_for_bit(tmp_path: Path, arch: Architecture) -> None:
    path, x = tmp_path / "weights.safetensors", images(arch)
    for net in forms(arch, torch.float64):
        save_weights(net, path)
        for back in (load_checkpoint(path), load_checkpoint(path, arch)):
            assert type(back) is type(net)
            assert back.form == net.form
            assert back.architecture == arch
            assert torch.equal(back(x), net(x))


def test_slopes_come_back(tmp_path: Path) -> None:
    net = build(SMALL)
    net.set_slope([0, 0.25, 0.5, 0.75, 1])
    save_weights(net, tmp_path / "w.safetensors")
    back = load_checkpoint(tmp_path / "w.safetensors")
    assert isinstance(back, VanillaNet)
    assert back.slopes == net.slopes


def test_own_weights_in_a_pickle_are_read_too(tmp_path: Path) -> None:
    x = images(SMALL, dtype=torch.float32)
    for net in forms(SMALL):
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pth")
        back = load_checkpoint(tmp_path / "w.pth", SMALL)
        assert back.form == net.form
        assert torch.equal(back(x), net(x))


def test_the_metadata_tells_what_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(fuse(forms(SMALL)[0]), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["form"] == "fused"
    assert metadata["vnas"] == vnas.__version__
    assert Architecture.from_json(metadata["architecture"]) == SMALL


def test_any_layout_and_dtype_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = forms(SMALL)[0].half().to(memory_format=torch.channels_last)
    save_weights(net, path)
    back = load_checkpoint(path)
    assert {p.dtype for p in back.parameters()} == {torch.float16}
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), back.state_dict().values(), strict=True))


def test_image_size_and_dropout_may_differ_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(build(SMALL), path)
    larger = dataclasses.replace(SMALL, image_size=32, dropout=0.1)
    assert load_checkpoint(path, larger).architecture == larger
    for change, words in (
        ({"activation": "gelu"}, 'activation is "relu", asked for was "gelu"'),
        ({"num_classes": 6}, "num_classes is 5, asked for was 6"),
        ({"projection": "pad"}, 'projection is "conv"'),
    ):
        with pytest.raises(CheckpointError, match="another architecture") as caught:
            load_checkpoint(path, dataclasses.replace(SMALL, **change))
        assert words in str(caught.value)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(build(SMALL), path)
    before = path.read_bytes()

    def half(state: object, target: Path, metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(vnas.nets.checkpoint, "save_file", half)
    with pytest.raises(CheckpointError, match="disk full"):
        save_weights(build(SMALL), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    save_weights(build(SMALL), tmp_path / "w.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        save_weights(build(SMALL), tmp_path / "none" / "w.safetensors")


def test_a_net_that_is_not_its_architecture_any_more_is_not_saved(tmp_path: Path) -> None:
    net = build(SMALL)
    net.prune_intermediate_layers([0])
    with pytest.raises(CheckpointError, match=r"the net do not fit.*missing: stages"):
        save_weights(net, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    torch.save({"model": Trap()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        with pytest.raises(CheckpointError, match="cannot read"):
            load_checkpoint(tmp_path / name, SMALL)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"\x00" * 64])
def test_a_broken_file_is_a_checkpoint_error(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(path, SMALL)


def test_a_truncated_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    save_weights(build(SMALL), tmp_path / "w.safetensors")
    torch.save({"model": build(SMALL).state_dict()}, tmp_path / "w.pth")
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CheckpointError, match="cannot read"):
            load_checkpoint(path, SMALL)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"a": 1}}, {}, torch.zeros(2)])
def test_a_file_without_weights_is_a_checkpoint_error(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="hold"):
        load_checkpoint(tmp_path / "w.pth", SMALL)


def test_what_is_not_there_or_says_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        load_checkpoint(tmp_path / "w.pth", SMALL)
    torch.save({"model": official(OFFICIAL, True)[0]}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not say its architecture"):
        load_checkpoint(tmp_path / "w.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by vnas"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    metadata = {"form": "fused", "architecture": json.dumps({"stem": 3})}
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "odd.safetensors")


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weights, _, _ = official(OFFICIAL, False)
    del weights["stages.0.conv1.0.bias"]
    weights["extra"] = torch.zeros(1)
    weights["cls2.0.bias"] = torch.zeros(9)
    torch.save({"model": weights}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pth", OFFICIAL)
    for words in (
        "missing: stages.0.pair.conv1.bias",
        "unexpected: extra",
        "of another shape: head.fc.conv2.bias (9,) for (4,)",
    ):
        assert words in str(caught.value)
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        load_checkpoint(tmp_path / "w.pth", Architecture.named("vanillanet_13"))


def test_loaded_weights_can_be_trained(tmp_path: Path) -> None:
    save_weights(build(SMALL), tmp_path / "w.safetensors")
    net = load_checkpoint(tmp_path / "w.safetensors").train()
    net(images(SMALL, 8, torch.float32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if isinstance(p, nn.Parameter))
