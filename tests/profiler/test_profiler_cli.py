from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vnas.errors import ArchitectureError, MeasurementError, UsageError
from vnas.profiler.cli import _progress_to, main
from vnas.profiler.measurement import Measurement
from vnas.profiler.protocol import Progress
from vnas.profiler.targets import find_target

HERE = "profiler_callables"


def run(*arguments: str) -> int:
    return main([*arguments, "--device", "cpu", "--image-size", "16", "--max-seconds", "0.1"])


def test_two_nets_a_table_and_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    threads = torch.get_num_threads()
    nets = [f"{HERE}:doubling", f"{HERE}:module"]
    assert run(*nets, "--json", str(path), "--batch", "2", "--threads", "1") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("device: cpu (")
    assert "torch threads: 1)" in out[0]
    assert out[1].startswith(f"{HERE}:doubling callable  float32 contiguous  batch 2  ")
    assert out[2].startswith(f"{HERE}:module callable  float32 contiguous  batch 2  ")
    assert any("median ms" in line and "95 % interval" in line for line in out)
    assert any(line.startswith("note (all): one process") for line in out)
    written = json.loads(path.read_text())
    assert written["schema"] == 1
    assert [entry["net"] for entry in written["nets"]] == nets
    assert [entry["image_size"] for entry in written["nets"]] == [16, 16]
    result = Measurement.from_dict(written["nets"][1]["measurement"])
    assert result.input_shapes == ((2, 3, 16, 16),)
    assert result.environment.threads == 1
    assert torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [path]


def test_one_net_that_fails_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{HERE}:wrong_channels", f"{HERE}:doubling") == MeasurementError.exit_code == 1
    captured = capsys.readouterr()
    assert f"error: {HERE}:wrong_channels: check: the callable raised RuntimeError" in captured.err
    assert f"{HERE}:doubling callable" in captured.out


def test_an_interrupt_is_130_and_keeps_what_is_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    assert run(f"{HERE}:doubling", f"{HERE}:interrupting", "--json", str(path)) == 130
    assert f"interrupted: 1 of 2 nets were measured; they are in {path}" in capsys.readouterr().err
    assert len(json.loads(path.read_text())["nets"]) == 1


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        (["resnet18"], "NET 'resnet18' is not known; a NET is vanillanet_5, .* Did you mean 'timm:resnet18'"),
        (["nonsense"], "NET 'nonsense' is not known"),
        ([":x"], "lacks a part on one side of the colon"),
        (["timm:resnet81"], r"timm has no model 'resnet81'\. Did you mean '"),
        (["torchvision:resnet81"], r"torchvision has no classification model 'resnet81'\. Did you mean '"),
        (["no_such_module:net"], "no_such_module cannot be imported"),
        ([f"{HERE}:doublign"], r"has no function 'doublign'\. Did you mean 'doubling'"),
        ([f"{HERE}:constant"], "has no function 'constant'"),
        ([f"{HERE}:failing"], "failing raised FileNotFoundError: weights.bin"),
        ([f"{HERE}:number"], "returned a int; it must return something that can be called"),
        (["missing.json"], "missing.json cannot be read"),
        ([f"{HERE}:doubling", "--json", "no/such/folder/x.json"], "is not there or not writable"),
        ([f"{HERE}:doubling", "--json", "."], r"--json \. is a folder"),
    ],
)
def test_what_was_typed_wrong_is_exit_2(nets: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*nets) == UsageError.exit_code == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err


def test_a_typo_is_said_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{HERE}:doubling", "timm:resnet81") == 2
    assert "batch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x:y", "--batch", "0"],
        ["x:y", "--threads", "two"],
        ["x:y", "--max-seconds", "soon"],
        ["x:y", "--max-seconds", "0"],
        ["x:y", "--gpu", "0", "--device", "cpu"],
        ["x:y", "--dev", "cpu"],
    ],
)
def test_argparse_refuses(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as got:
        main(arguments)
    assert got.value.code == 2


@pytest.mark.parametrize("place", [["--gpu", "63"], ["--gpu", "x"], ["--gpu=-1"], ["--device", "cuda:63"]])
def test_no_such_device_is_exit_3(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{HERE}:doubling", *place]) == 3
    err = capsys.readouterr().err
    assert "The devices there are:\n  cpu    " in err


class Terminal:
    def __init__(self, interactive: bool) -> None:
        self.interactive = interactive
        self.text = ""

    def isatty(self) -> bool:
        return self.interactive

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_only_on_a_terminal() -> None:
    assert _progress_to(Terminal(False), "net") is None  # type: ignore[arg-type]
    terminal: Any = Terminal(True)
    report = _progress_to(terminal, "net")
    assert report is not None
    report(Progress("warm up"))
    report(Progress("sample", 60, 0.5, 12.3456, 0.021))
    assert "net: warm up\r" in terminal.text
    assert terminal.text.endswith("net: sample, 60 samples, 12.346 ms, interval 2.1%\r")


def test_a_model_of_timm() -> None:
    target = find_target("timm:test_resnet", 64)
    net = target.build()
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    assert (target.form, target.in_chans, target.image_size) == ("eval", 3, 64)
    assert find_target("timm:test_resnet").image_size == 224


def test_a_model_of_timm_with_a_fixed_input_is_built_for_the_size() -> None:
    net = find_target("timm:test_vit", 96).build()
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)  # type: ignore[attr-defined]


def test_a_model_of_torchvision() -> None:
    target = find_target("torchvision:shufflenet_v2_x0_5")
    net = target.build()
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    # The count that torchvision publishes with the weights of shufflenet_v2_x0_5.
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_366_792


def test_a_module_from_a_function_comes_in_eval_mode() -> None:
    net = find_target(f"{HERE}:module").build()
    assert isinstance(net, torch.nn.Module)
    assert not net.training


def test_presets_are_fused_nets() -> None:
    pytest.importorskip("vnas.nets")
    target = find_target("vanillanet_5", 64)
    assert (target.form, target.image_size, target.in_chans) == ("fused", 64, 3)
    net = target.build()
    assert isinstance(net, torch.nn.Module)
    assert type(net).__name__ == "FusedVanillaNet"
    assert not net.training
    assert find_target("vanillanet_5").image_size == 224
    with pytest.raises(ArchitectureError, match="vanillanet_6"):
        find_target("vanillanet_66")


def test_an_architecture_file_is_a_fused_net(tmp_path: Path) -> None:
    nets = pytest.importorskip("vnas.nets")
    path = tmp_path / "tiny.json"
    stages = (nets.Stage(width=8), nets.Stage(width=12))
    architecture = nets.Architecture(stem=nets.Stem(width=4), stages=stages, in_chans=1, image_size=32, num_classes=5)
    path.write_text(architecture.to_json())
    target = find_target(str(path))
    assert (target.in_chans, target.image_size) == (1, 32)
    with torch.inference_mode():
        assert target.build()(torch.zeros(1, 1, 32, 32)).shape == (1, 5)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="leave out --image-size 64"):
        find_target(str(path), 64)
