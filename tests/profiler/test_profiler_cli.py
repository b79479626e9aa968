from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_profiler_measurement import ENVIRONMENT, RESULT
from test_profiler_replication import Fake, wait_until

import vnas.profiler.session as session
import vnas.profiler.spawn as spawn
from vnas.errors import ArchitectureError, MissingExtraError, UsageError
from vnas.profiler import lock
from vnas.profiler.cli import main
from vnas.profiler.environment import cpu_kind
from vnas.profiler.lock import Held
from vnas.profiler.protocol import Progress
from vnas.profiler.results import read_json
from vnas.profiler.targets import Built, Target, find_target
from vnas.profiler.terminal import Terminal, grouped, progress_text

HERE = "profiler_callables"
EAGER_FIRST = "0"
"""A seed that puts the first of two runtimes first in process 0."""


def run(*arguments: str) -> int:
    return main([*arguments, "--device", "cpu", "--image-size", "16", "--max-seconds", "0.2"])


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Nets are then named as fake_worker.py reads them, and nothing is measured."""
    here = dataclasses.replace(ENVIRONMENT, device_kind=cpu_kind())
    shapes = ((4, 3, 16, 16),)
    made = Fake(tmp_path, dataclasses.replace(RESULT, environment=here, precision="fp32", input_shapes=shapes))

    def build() -> Callable[..., object]:
        raise AssertionError("a net was built in the parent")

    monkeypatch.setattr(spawn, "COMMAND", made.command)
    monkeypatch.setattr(spawn, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(session, "find_target", lambda text, size: Target(text, "eval", 3, size or 224, build))
    return made


def test_two_nets_in_a_fresh_process_a_table_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ["latency.json", "latency.csv", "latency.svg"]
    threads = torch.get_num_threads()
    nets = [f"{HERE}:doubling", f"{HERE}:module"]
    files = [
        argument
        for option, name in zip(("--json", "--csv", "--figure"), names, strict=True)
        for argument in (option, str(tmp_path / name))
    ]
    assert run(*nets, *files, "--batch", "2", "--threads", "1", "--processes", "1") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    out = captured.out.splitlines()
    assert out[0].startswith("device: cpu (")
    assert "torch threads: 1)" in out[0]
    assert out[1].startswith(f"{HERE}:doubling callable  eager fp32 contiguous  batch 2  ")
    assert out[2].startswith(f"{HERE}:module callable  eager fp32 contiguous  batch 2  ")
    assert "in 1 process  " in out[1]
    assert re.match(r"net +form +precision +batch +median ms +95 % interval +n +processes +noise", out[4])
    entries = read_json(tmp_path / names[0])
    assert [entry.net for entry in entries] == nets
    assert [entry.image_size for entry in entries] == [16, 16]
    for entry in entries:
        assert entry.measurement.input_shapes == ((2, 3, 16, 16),)
        assert entry.measurement.environment.threads == 1
        assert entry.measurement.processes == 1
    with (tmp_path / names[1]).open(newline="") as file:
        assert [row["net"] for row in csv.DictReader(file)] == nets
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert torch.get_num_threads() == threads


def test_one_net_that_fails_does_not_hide_the_others(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("2.0;error=MeasurementError", "3.0") == 1
    captured = capsys.readouterr()
    assert captured.err == "error: 2.0;error=MeasurementError: 2.0;error=MeasurementError in process 0\n"
    assert "\n3.0 eval  eager fp32 contiguous  batch 4  3.0000 ms [" in captured.out


def test_the_first_error_gives_the_exit_code(fake: Fake) -> None:
    assert run("2.0;error=DeviceError", "3.0;error=UsageError") == 3


def test_every_runtime_and_precision_of_every_net(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runtime", "eager,channels_last", "--precision", "fp32, bf16", "--processes", "1", "--batch", "8"]
    assert run("2.0", "3.0", *options, "--seed", "5", "--target", "2%", "--energy-seconds", "2") == 0
    told = [cell for plan in fake.plans for cell in plan["cells"]]
    ways = [(cell["net"], cell["runtime"], cell["precision"]) for cell in told]
    assert sorted(ways) == [
        (net, runtime, precision)
        for net in ("2.0", "3.0")
        for runtime in ("channels_last", "eager")
        for precision in ("bf16", "fp32")
    ]
    assert {(cell["batch"], cell["image_size"]) for cell in told} == {(8, 16)}
    rules = fake.plans[0]["rules"]
    assert (rules["target_relative"], rules["max_seconds"], rules["energy_seconds"]) == (0.02, 0.2, 2.0)
    assert {plan["seed"] for plan in fake.plans} == {5}
    assert sum(line.startswith(("2.0  eval", "3.0  eval")) for line in capsys.readouterr().out.splitlines()) == 8


def test_three_processes_are_the_default(fake: Fake) -> None:
    assert run("2.0") == 0
    assert [plan["process"] for plan in fake.plans] == [0, 1, 2]


def test_energy_is_always_asked_for_but_where_it_is_not_wanted(fake: Fake) -> None:
    run("2.0", "--processes", "1")
    assert fake.plans[-1]["rules"]["energy_seconds"] == 5.0
    run("2.0", "--processes", "1", "--energy-seconds", "0")
    assert fake.plans[-1]["rules"]["energy_seconds"] == 0.0


def test_whom_it_waits_for_is_said_though_nobody_watches(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("2.0;waits", "--processes", "1") == 0
    assert capsys.readouterr().err == "process 1 of 1: cpu is held by another process; waiting\n"


def test_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_own_nets.py").write_text("def small():\n    return abs\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    monkeypatch.setattr(session, "replicate", lambda *given, **options: workers.append(list(sys.path)))
    workers: list[list[str]] = []
    for _ in range(2):
        assert run("my_own_nets:small") == 0
    assert [path.count(str(tmp_path)) for path in workers] == [1, 1]
    assert workers[0][0] == str(tmp_path)


def test_an_interrupt_is_130_and_keeps_what_is_done(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "latency.json"

    def interrupt() -> None:
        wait_until(lambda: len(fake.plans) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run("2.0", "3.0;hang@1", "4.0;error=UsageError", "--json", str(path)) == 130
    captured = capsys.readouterr()
    assert captured.err.endswith(
        f"interrupted: 0 of 3 measurements were complete, 2 in fewer than 3 processes; what there is, is in {path}\n"
    )
    assert "3.0;hang@1" in captured.out
    assert [entry.measurement.processes for entry in read_json(path)] == [1, 1]


def test_an_interrupt_tells_how_many_were_complete(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        wait_until(lambda: any(cell["runtime"] == "channels_last" for plan in fake.plans for cell in plan["cells"]))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    ways = ["--runtime", "eager,channels_last", "--processes", "1", "--seed", EAGER_FIRST]
    assert run("2.0;hang@channels_last", *ways) == 130
    assert capsys.readouterr().err == "interrupted: 1 of 2 measurements were complete\n"


def test_what_is_done_is_in_the_file_after_every_process(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = session.write_json

    def write(path: Path, entries: Sequence[Any]) -> None:
        real(path, entries)
        written.append(read_json(path)[0].measurement.processes)

    monkeypatch.setattr(session, "write_json", write)
    assert run("2.0", "--json", str(tmp_path / "latency.json")) == 0
    assert written == [1, 2, 3]


def test_a_result_that_is_not_valid_is_exit_1(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer(valid=False, notes=("INVALID: too hot",))
    assert run("2.0") == 1
    out = capsys.readouterr().out
    assert "INVALID: too hot" in out.splitlines()[1]
    assert re.search(r"^2\.0 .* INVALID$", out, re.MULTILINE)


def compared(fake: Fake, folder: Path, *options: str, old: Sequence[str] = ("2.0",), new: Sequence[str]) -> int:
    """Exit code of a run that is compared with another one; a net's place in the list is its name."""
    path = folder / "old.json"
    assert run(*old, "--batch", "4", "--json", str(path)) == 0
    content = json.loads(path.read_text())
    for entry, name in zip(content["nets"], new, strict=False):
        entry["net"] = name
    path.write_text(json.dumps(content))
    return run(*new, "--batch", "4", "--compare", str(path), *options)


def test_a_slower_net_is_said_and_fails_where_asked(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(fake, tmp_path, new=["3.0"]) == 0
    out = capsys.readouterr().out
    assert f"compared with {tmp_path / 'old.json'}, intervals of 95 %:\n3.0 eval  eager fp32" in out
    assert re.search(r"2\.000* -> 3\.000* ms  slower\n", out)
    assert compared(fake, tmp_path, "--fail-on", "slower", new=["3.0"]) == 1


def test_a_net_that_is_the_same_or_faster_does_not_fail(fake: Fake, tmp_path: Path) -> None:
    assert compared(fake, tmp_path, "--fail-on", "slower", new=["2.0"]) == 0
    assert compared(fake, tmp_path, "--fail-on", "slower", new=["1.0"]) == 0


def test_many_nets_that_did_not_change_do_not_fail_more_often(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nets = ["2.0", "3.0"]
    assert compared(fake, tmp_path, "--fail-on", "slower", old=nets, new=nets) == 0
    assert "intervals of 97.5 %" in capsys.readouterr().out


def test_nets_that_only_one_side_has(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(fake, tmp_path, new=["2.0", "5.0"]) == 0
    assert f"not in {tmp_path / 'old.json'}: 5.0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "now",
    [["7.0"], ["2.0", "--runtime", "channels_last"], ["2.0", "--precision", "bf16"], ["2.0", "--batch", "8"]],
)
def test_nothing_to_compare_is_said_before_measuring(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], now: list[str]
) -> None:
    path = tmp_path / "old.json"
    assert run("2.0", "--batch", "4", "--processes", "1", "--json", str(path)) == 0
    assert run("7.0", "2.0", "--batch", "4", "--processes", "1", "--compare", str(path)) == 0  # one is enough
    before = len(fake.plans)
    assert run(*now[:1], *(() if "--batch" in now else ("--batch", "4")), *now[1:], "--compare", str(path)) == 2
    assert f"--compare {path} has none of these nets with these runtimes, precisions" in capsys.readouterr().err
    assert len(fake.plans) == before


def test_nothing_to_compare_that_shows_late_does_not_keep_the_layers_away(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.json"
    monkeypatch.setattr(session, "find_target", lambda text, size: Target(text, "callable", 3, 16, lambda: Built(abs)))
    assert run("2.0", "--processes", "1", "--json", str(path)) == 0
    fake.answer(input_shapes=((1, 5),))
    assert run("2.0", "--processes", "1", "--compare", str(path), "--layers") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: --compare {path} has none of these nets")
    assert second == "error: 2.0: layers: it is a builtin_function_or_method; only a module has layers"


def test_another_device_is_refused_before_measuring(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.json"
    assert run("2.0", "--processes", "1", "--json", str(path)) == 0
    monkeypatch.setattr(session, "cpu_kind", lambda: "Another CPU, 8 CPUs")
    assert run("2.0", "--compare", str(path)) == 2
    assert "measure both on one kind of device" in capsys.readouterr().err
    assert len(fake.plans) == 1


def test_layers_of_each_net(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "replicate", lambda *arguments, **options: [])
    threads = torch.get_num_threads()
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    assert run(f"{HERE}:module", f"{HERE}:doubling", "--layers", "--threads", str(threads + 1)) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    start = lines.index(f"{HERE}:module callable by layer, eager")
    assert lines[start + 1].split()[:2] == ["module", "type"]
    assert any(line.startswith("(top level)  Conv2d") for line in lines[start:])
    assert re.match(
        r"sum of the modules \d+\.\d{4} ms, of which the probes add .*; without probes .*; difference .*, tolerance",
        lines[start + 5],
    )
    assert captured.err == f"error: {HERE}:doubling: layers: it is a function; only a module has layers\n"
    assert seen == [threads + 1, threads]


def test_layers_are_in_the_files_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "replicate", lambda *arguments, **options: [])
    files = ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    assert run(f"{HERE}:module", *files, "--layers") == 0
    (layers,) = json.loads((tmp_path / "a.json").read_text())["layers"]
    assert (layers["net"], layers["form"]) == (f"{HERE}:module", "callable")
    assert {"total_ms", "plain_ms", "difference", "tolerance", "rows"} <= set(layers["breakdown"])
    with (tmp_path / "a.layers.csv").open(newline="") as file:
        assert [row["type"] for row in csv.DictReader(file)] == ["Conv2d"]
    assert run(f"{HERE}:module", "--csv", os.devnull, "--layers") == 2
    assert "is no file, and --layers writes one beside it" in capsys.readouterr().err


def test_who_has_the_device_while_the_layers_wait_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def taken(key: str, *, on_wait: Callable[[str], object] | None = None) -> Iterator[Held]:
        if on_wait is not None:
            on_wait(f"{key} is taken; waiting")
        yield Held()

    monkeypatch.setattr(session, "replicate", lambda *arguments, **options: [])
    monkeypatch.setattr(lock, "device_lock", taken)
    assert run(f"{HERE}:module", "--layers") == 0
    assert capsys.readouterr().err == "cpu is taken; waiting\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18"], "NET 'resnet18' is not known; a NET is vanillanet_5, .* Did you mean 'timm:resnet18'"),
        (["nonsense"], "NET 'nonsense' is not known"),
        ([":x"], "lacks a part on one side of the colon"),
        (["timm:resnet81"], r"timm has no model 'resnet81'\. Did you mean '"),
        (["torchvision:resnet81"], r"torchvision has no classification model 'resnet81'\. Did you mean '"),
        (["no_such_module:net"], "no_such_module cannot be imported"),
        ([f"{HERE}:doublign"], r"has no function 'doublign'\. Did you mean 'doubling'"),
        ([f"{HERE}:constant"], "has no function 'constant'"),
        (["missing.json"], "missing.json cannot be read"),
        ([f"{HERE}:doubling", "--runtime", "eagre"], "eagre.*Did you mean 'eager'"),
        ([f"{HERE}:doubling", "--runtime", "eager,cuda_graph"], "cuda_graph"),
        ([f"{HERE}:doubling", "--precision", "fp8"], "fp8"),
        ([f"{HERE}:doubling", "--precision", "tf32"], "tf32"),
        ([f"{HERE}:doubling", "--json", "no/such/folder/x.json"], "--json .* is not there or not writable"),
        ([f"{HERE}:doubling", "--csv", "no/such/folder/x.csv"], "--csv .* is not there or not writable"),
        ([f"{HERE}:doubling", "--json", "."], r"--json \. is a folder"),
        ([f"{HERE}:doubling", "--figure", "x.gif"], r"x\.gif ends in '\.gif'"),
        ([f"{HERE}:doubling", "--fail-on", "slower"], "--fail-on slower needs --compare"),
        ([f"{HERE}:doubling", "--compare", "no.json"], r"no\.json cannot be read"),
    ],
)
def test_what_was_typed_wrong_is_exit_2_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "replicate", lambda *given, **options: pytest.fail("measured"))
    assert run(*arguments) == UsageError.exit_code == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err), captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: NET"),
        (["x:y", "--batch", "0"], "'0' is not a whole number of at least 1"),
        (["x:y", "--threads", "two"], "'two' is not a whole number"),
        (["x:y", "--processes", "0"], "'0' is not a whole number of at least 1"),
        (["x:y", "--seed", "-1"], "--seed"),
        (["x:y", "--max-seconds", "soon"], "'soon' is not a number of seconds above 0"),
        (["x:y", "--max-seconds", "0"], "'0' is not a number of seconds above 0"),
        (["x:y", "--max-seconds", "inf"], "'inf' is not a number of seconds above 0"),
        (["x:y", "--energy-seconds", "0.5"], "'0.5' is not a number of seconds of at least 1"),
        (["x:y", "--energy-seconds", "nan"], "'nan' is not a number of seconds of at least 1"),
        (["x:y", "--target", "0"], "'0' is not a share between 0 and 1"),
        (["x:y", "--target", "100%"], "'100%' is not a share between 0 and 1"),
        (["x:y", "--target", "small"], "'small' is not a share"),
        (["x:y", "--runtime", "eager,"], "'eager,' has an empty name in it"),
        (["x:y", "--fail-on", "faster"], "choose from"),
        (["x:y", "--gpu", "0", "--device", "cpu"], "not allowed with"),
        (["x:y", "--dev", "cpu"], "unrecognized arguments: --dev"),
    ],
)
def test_argparse_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as got:
        main(arguments)
    assert got.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", [["--gpu", "63"], ["--gpu", "x"], ["--gpu=-1"], ["--device", "cuda:63"]])
def test_no_such_device_is_exit_3(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{HERE}:doubling", *place]) == 3
    err = capsys.readouterr().err
    assert "The devices there are:\n  cpu    " in err


def test_a_runtime_that_is_not_installed_is_told_with_its_pip_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(runtime: str, precision: str | None, device_type: str) -> None:
        assert (runtime, precision, device_type) == ("onnxruntime", None, "cpu")
        raise MissingExtraError("onnxruntime is not installed; pip install onnxruntime")

    monkeypatch.setattr(session.runtimes, "check", missing)
    assert run(f"{HERE}:doubling", "--runtime", "onnxruntime") == 2
    assert capsys.readouterr().err == "error: onnxruntime is not installed; pip install onnxruntime\n"


class Screen:
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


def test_progress_only_on_a_terminal_and_away_before_a_result() -> None:
    out: Any = Screen(False)
    err: Any = Screen(False)
    report = Terminal(out, err).progress(3)
    report(0, Progress("warm up", name="net"))
    assert err.text == ""
    report(1, Progress("wait", waiting="cpu is taken; waiting"))
    assert err.text == "process 2 of 3: cpu is taken; waiting\n"
    err = Screen(True)
    terminal = Terminal(out, err)
    report = terminal.progress(3)
    report(0, Progress("wait", waiting="cpu is taken; waiting"))
    assert err.text == "\r\x1b[Kprocess 1 of 3: cpu is taken; waiting\r"
    err.text = ""
    report(0, Progress("warm up", name="net"))
    assert err.text == "\r\x1b[Kprocess 1 of 3: net warm up\r"
    terminal.say("a result", "and another")
    terminal.say("a third")
    assert err.text == "\r\x1b[Kprocess 1 of 3: net warm up\r\r\x1b[K"
    assert out.text == "a result\nand another\na third\n"


def test_progress_in_words() -> None:
    where = Progress("sample", 60, 0.5, 12.3456, 0.021, "net")
    assert progress_text(1, 3, where) == "process 2 of 3: net sample, 60 samples, 12.346 ms, interval 2.1%"
    assert progress_text(1, 3, Progress("prepare")) == "process 2 of 3: prepare"


def test_notes_are_told_once_with_those_they_are_about() -> None:
    said = [("a", "hot"), ("b", "hot"), ("b", "noisy")]
    assert grouped("note", said, 2) == ["note (all): hot", "note (b): noisy"]
    assert grouped("note", said, 3) == ["note (a, b): hot", "note (b): noisy"]
    assert grouped("note", [("a", "hot")], 1) == ["note (a): hot"]


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
