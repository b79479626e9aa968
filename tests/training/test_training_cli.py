"""``python -m vnas.training`` as a user meets it: a run directory, an interrupt, a resume, wrong input."""

import importlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vnas.training
from vnas import __main__ as commands
from vnas.nets import Architecture, Stage, Stem, build, load_checkpoint
from vnas.training import Progress, evaluate, fit, open_data
from vnas.training.command import distributed
from vnas.training.command.cli import main
from vnas.training.command.logs import read_log
from vnas.training.command.plan import Plan, check_same, find_architecture, size_note, to_toml
from vnas.training.command.recipes import load_recipe
from vnas.training.command.recording import Recorder
from vnas.training.command.watching import Watch

Train = Callable[..., int]
CPU = torch.device("cpu")
FEW = ["--device", "cpu", "--epochs", "3", "--set", "training.batch_size=256"]
SMALL = Architecture(
    Stem(8, kernel=4, stride=4, series=1),
    (Stage(16, stride=2, series=1), Stage(16, stride=1, series=0)),
    in_chans=1,
    image_size=16,
    num_classes=10,
)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state_dict())


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def images() -> Mapping[str, int]:
    """Of each split, as the recipe that is taken by default cuts them."""
    return open_data(load_recipe("brief", "net", "digits").data).counts


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """The command on the small net and the digits, into ``run`` unless told otherwise."""
    net = tmp_path / "net.json"
    net.write_text(SMALL.to_json())

    def run(*more: str, out: str = "run") -> int:
        return main([str(net), *FEW, "--out", str(tmp_path / out), *more])

    return run


@dataclass(frozen=True)
class Done:
    """A run that has ended, for tests that read what it left."""

    folder: Path
    code: int
    said: str

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return told


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    base = tmp_path_factory.mktemp("done")
    (base / "net.json").write_text(SMALL.to_json())
    with redirect_stdout(io.StringIO()) as said:
        code = main([str(base / "net.json"), *FEW, "--out", str(base / "run")])
    return Done(base / "run", code, said.getvalue())


def test_a_run_writes_its_directory(done: Done) -> None:
    assert done.code == 0
    names = {path.name for path in done.folder.iterdir() if path.is_file()}
    assert names == {
        "train.toml", "architecture.json", "log.csv", "curve.svg", "curve.png", "result.json", "weights.safetensors",
        "training_form.safetensors",
    }  # fmt: skip
    assert done.said.startswith("device: cpu (")
    recipe = load_recipe("brief", "net", "digits")
    counts = ", ".join(f"{count} {split}" for split, count in images().items())
    assert f"data: digits: 10 classes, {counts} images\n" in done.said
    of_study = "recipe: brief: that of study quickstart; 3 epochs, batches of 256, "
    assert f"{of_study}{recipe.training.optimizer}, learning rate {recipe.training.lr:g}\n" in done.said
    assert done.said.count("% training form") == 2
    assert f"all: {done.folder / 'result.json'}" in done.said
    assert Architecture.from_json((done.folder / "architecture.json").read_text()) == SMALL

    rows = read_log(done.folder / "log.csv")
    assert [row.step for row in rows] == list(range(1, 13))
    assert [row.step for row in rows if row.val_top1_fused is not None] == [4, 8, 12]
    assert (rows[0].slope_min, rows[-1].slope_min) == (0.0, 1.0)

    told = done.told
    assert told["digest"] == SMALL.digest
    assert told["training_run"]["val_top1"] == told["evaluation"]["validation"]["fused"]["top1"]
    assert rows[-1].val_top1_fused == told["training_run"]["val_top1"]
    assert rows[-1].val_top1_training_form == told["evaluation"]["validation"]["training_form"]["top1"]
    assert told["evaluation"]["test"]["fused"]["images"] == images()["test"]
    assert told["evaluation"]["test"]["logit_difference"] < 1e-4
    assert told["environment"]["device_type"] == "cpu"


def test_what_is_written_is_what_was_judged(done: Done) -> None:
    test = open_data(load_recipe("brief", "net", "digits").data).loader("test", 16, device=CPU)
    fused, trained = (load_checkpoint(done.folder / f"{name}.safetensors") for name in ("weights", "training_form"))
    assert (fused.form, trained.form) == ("fused", "training")
    assert evaluate(fused, test, CPU) == done.told["evaluation"]["test"]["fused"]["top1"]
    assert evaluate(trained, test, CPU) == done.told["evaluation"]["test"]["training_form"]["top1"]


@pytest.mark.parametrize("options", [["training.ema_decay=0.9"], ["training.merge=true", "training.epochs=4"]])
def test_the_training_form_that_was_judged_is_the_one_that_is_written(
    train: Train, tmp_path: Path, options: list[str]
) -> None:
    assert train(*(word for option in options for word in ("--set", option))) == 0
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    for split in ("validation", "test"):
        assert told["evaluation"][split]["logit_difference"] < 1e-4
    assert told["evaluation"]["validation"]["training_form"]["top1"] == told["training_run"]["val_top1_training_form"]


def test_the_command_trains_what_fit_trains(done: Done) -> None:
    recipe = load_recipe("brief", "net", "digits", ["training.epochs=3", "training.batch_size=256"])
    result = fit(SMALL, open_data(recipe.data), recipe.training, seed=0, device=CPU)
    assert result.fused is not None
    written = weights(done.folder / "weights.safetensors")
    assert all(torch.equal(weight, written[name]) for name, weight in result.fused.state_dict().items())


def test_train_toml_is_a_recipe_for_the_same_run(done: Done) -> None:
    table = tomllib.loads((done.folder / "train.toml").read_text())
    assert (table["seed"], table["training"]["batch_size"], table["data"]["source"]) == (0, 256, "digits")
    again = load_recipe(str(done.folder / "train.toml"), "net", "digits")
    first = load_recipe("brief", "net", "digits", ["training.epochs=3", "training.batch_size=256"])
    assert (again.training, again.data, again.dropout) == (first.training, first.data, first.dropout)


def test_an_interrupted_run_goes_on_to_the_same_net(
    train: Train, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(watch: Watch) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "look", interrupted)
        patched.setattr("vnas.training.command.session.CHECKPOINT_SECONDS", 0.0)
        assert train() == 130
    said = capsys.readouterr().err
    assert "interrupted at step 4 of 12" in said
    assert re.search(r"run keeps checkpoint\.pt, \d+ s old, and log\.csv\. Go on with\n", said)
    command = shlex.split(said.splitlines()[-1])
    assert command[-1] == "--resume"

    steps: list[int] = []
    record = Recorder.__call__
    monkeypatch.setattr(Recorder, "__call__", lambda self, where: (steps.append(where.step), record(self, where))[1])
    assert main(command[command.index("vnas.training") + 1 :]) == 0
    assert steps == list(range(4, 13))
    assert same(tmp_path / "run" / "weights.safetensors", done.folder / "weights.safetensors")
    rows, whole = (read_log(folder / "log.csv") for folder in (tmp_path / "run", done.folder))
    assert [replace(row, images_per_second=0) for row in rows] == [replace(row, images_per_second=0) for row in whole]
    assert not (tmp_path / "run" / "checkpoint.pt").exists()

    capsys.readouterr()
    assert train("--resume") == 0
    assert f"the run in {tmp_path / 'run'} is finished" in capsys.readouterr().out


def test_of_a_finished_run_no_process_waits_for_the_others(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "joined", lambda *_: pytest.fail("it waits for the first process"))
    net = done.folder.parent / "net.json"
    assert main([str(net), *FEW, "--out", str(done.folder), "--resume"]) == 0
    assert capsys.readouterr().out == ""  # the first process says it


def test_an_interrupt_before_the_first_checkpoint_says_so(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(recorder: Recorder, where: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "__call__", interrupted)
    assert train() == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted before the first step; ")
    assert "keeps nothing to go on from: there was no checkpoint.pt yet" in said


def test_a_second_run_does_not_overwrite_and_another_one_does_not_go_on(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    recipe = load_recipe("brief", "net", "digits", ["training.epochs=3", "training.batch_size=256"])
    plan = Plan(str(tmp_path / "net.json"), SMALL, recipe, 0)
    (tmp_path / "run" / "train.toml").write_text(to_toml(plan))
    check_same(tmp_path / "run", plan)
    elsewhere = ["data.cache=false", "data.pipeline='resident'", "data.resident_limit_mib=1", "data.workers=0"]
    recipe = load_recipe("brief", "net", "digits", ["training.epochs=3", "training.batch_size=256", *elsewhere])
    check_same(tmp_path / "run", replace(plan, recipe=recipe))
    assert train() == 2
    assert "already holds a training run. Add --resume" in capsys.readouterr().err
    assert train("--resume", "--seed", "7", "--set", "training.lr=0.5") == 2
    assert f"Changed: seed: 0 -> 7; training.lr: {recipe.training.lr} -> 0.5" in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.csv").exists()


def test_resume_where_there_is_nothing_begins(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--resume", "--epochs", "1") == 0
    assert "nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        (["vanilanet_6"], 2, "NET 'vanilanet_6' is not known; .* Did you mean 'vanillanet_6'"),
        (["missing.json"], 2, "missing.json cannot be read"),
        (["vanillanet_6", "--image-size", "8"], 2, "the feature map vanishes"),
        (["vanillanet_6", "--recipe", "breif"], 2, "Did you mean 'brief'"),
        (["vanillanet_6", "--set", "training.epoch=3"], 2, "Did you mean 'epochs'"),
        (["vanillanet_6", "--set", "training.lr=fast"], 2, "training.lr: .*got 'fast'"),
        (["vanillanet_6", "--data", "digit"], 2, "Did you mean 'digits'"),
        (["vanillanet_6", "--gpu", "99"], 3, "The devices there are"),
        (["vanillanet_6", "--out", "a_file/inside"], 2, "a_file is a file; give a directory"),
        (["vanillanet_6", "--sync-norms", "--device", "cpu"], 2, "--sync-norms needs GPUs"),
        (["evaluate", "missing.safetensors", "--data", "digits"], 1, "there is no file missing.safetensors"),
        (["evaluate", "missing.safetensors"], 2, "type --data SOURCE"),
        (["evaluate", "net.pth", "--data", "digits"], 2, "type for example --net vanillanet_6"),
    ],
)
def test_wrong_input_is_told_with_what_to_type(
    typed: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    device = [] if {"--gpu", "--device"} & set(typed) else ["--device", "cpu"]
    assert main([*typed, *device]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error.replace("\n", " ")), error
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("typed", [["vanillanet_6", "--epochs", "0"], ["vanillanet_6", "--seed", "-1"], []])
def test_a_flag_that_cannot_be_read_is_a_usage_error(typed: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(typed)
    assert caught.value.code == 2


def test_events_without_tensorboard_are_refused_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vnas.training.command.logs.has_tensorboard", lambda: False)
    assert main(["vanillanet_6", "--data", "nowhere", "--tensorboard"]) == 2
    assert 'pip install "vnas[tensorboard]"' in capsys.readouterr().err


def test_stored_weights_are_judged_on_the_cut_they_were_trained_with(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = done.told["evaluation"]
    for split in ("test", "validation"):
        file = tmp_path / f"{split}.json"
        path = done.folder / "weights.safetensors"
        assert main(["evaluate", str(path), "--device", "cpu", "--split", split, "--json", str(file)]) == 0
        found = json.loads(file.read_text())
        assert {name: found[name] for name in ("top1", "top5", "images")} == told[split]["fused"]
        assert found["images"] == images()[split]
    test = told["test"]["fused"]
    line = f"top-1 {test['top1']:.2f} %, top-5 {test['top5']:.2f} %, {images()['test']} images"
    assert line in capsys.readouterr().out


def test_a_pth_is_judged_on_a_folder_named_val_as_a_whole(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder("val", {"a": 5, "b": 4})
    text = SMALL.to_json().replace('"num_classes": 10', '"num_classes": 2').replace('"in_chans": 1', '"in_chans": 3')
    (tmp_path / "two.json").write_text(text)
    torch.save({"model_ema": build(Architecture.from_json(text)).state_dict()}, tmp_path / "two.pth")
    typed = ["evaluate", str(tmp_path / "two.pth"), "--net", str(tmp_path / "two.json"), "--device", "cpu"]
    assert main([*typed, "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "all 9 images" in out
    assert "training form at lambda 0, " in out
    assert "9 images of 16 px, all" in out
    assert main([*typed, "--data", "digits"]) == 2
    assert (
        "two.pth: the net has num_classes = 2, but 'digits' needs num_classes = 10; give other --data"
        in capsys.readouterr().err
    )


def test_a_preset_takes_classes_and_channels_from_the_data_and_dropout_from_the_recipe(tmp_path: Path) -> None:
    arch = find_architecture("vanillanet_6", num_classes=7, in_chans=1, image_size=64, dropout=0.05)
    assert (arch.num_classes, arch.in_chans, arch.image_size, arch.dropout) == (7, 1, 64, 0.05)
    path = tmp_path / "net.json"
    path.write_text(arch.to_json())
    assert find_architecture(str(path), num_classes=9, in_chans=3) == arch
    assert find_architecture(str(path), num_classes=9, in_chans=3, dropout=0.1).dropout == 0.1


def test_images_that_are_enlarged_a_lot_are_noted() -> None:
    digits = open_data("digits")
    assert size_note(digits, 12) is None
    assert "8 x 8 px, enlarged to 224 px" in str(size_note(digits, 224))


def test_fit_is_the_function_whatever_was_imported_first() -> None:
    module = importlib.import_module("vnas.training.fit")
    vnas.training.fit = module  # what importing a submodule does
    assert vnas.training.fit is module.fit
    assert set(vnas.training.__all__) <= set(dir(vnas.training))


def test_vnas_train_is_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["train", "--help"], ["train", "evaluate", "--help"]):
        with pytest.raises(SystemExit) as caught:
            commands.main(typed)
        assert caught.value.code == 0
    assert "--split" in capsys.readouterr().out
