import contextlib
import importlib
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_nets

from vnas.config import DataConfig, TrainingConfig
from vnas.errors import CheckpointError, ResumeError
from vnas.nets import Architecture, build
from vnas.training import Checkpoint, Data, Progress, TrainingResult, checkpointing, fit, open_data, seeded
from vnas.training.seeding import Streams, derived_seed, random_state, set_random_state
from vnas.training.speed.choosing import Speed

Make = Callable[[str, Mapping[str, int]], Path]
CPU = torch.device("cpu")
TINY = replace(training_nets.TINY, dropout=0.2)
# Everything that has a state of its own: order, augmentation, mixing, dropout, an average, a merge, AdamW.
FULL = TrainingConfig(
    epochs=2,
    batch_size=275,
    crop_padding=1,
    random_erasing=0.3,
    mixup=0.3,
    cutmix=1.0,
    ema_decay=0.8,
    merge=True,
    anneal="paper",
    warmup_epochs=0.5,
)
STEPS = 10


class StoppedError(Exception):
    pass


def recipe(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"epochs": 2, "batch_size": 275, "warmup_epochs": 0.5, **options})


def stop_at(step: int) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        if now.step == step:
            raise StoppedError

    return progress


def train(
    data: Data, config: TrainingConfig, path: Path | None, arch: Architecture = TINY, **options: object
) -> TrainingResult:
    checkpoint = None if path is None else Checkpoint(path, seconds=0.0)
    return fit(arch, data, config, seed=3, device=CPU, checkpoint=checkpoint, **options)  # type: ignore[arg-type]


def assert_same(one: TrainingResult, other: TrainingResult) -> None:
    assert one.fused is not None
    assert other.fused is not None
    weights, others = one.fused.state_dict(), other.fused.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert [record.loss for record in one.curve] == [record.loss for record in other.curve]
    assert (one.val_top1, one.val_top1_training_form) == (other.val_top1, other.val_top1_training_form)
    assert (one.merged_at, one.steps, one.train_loss) == (other.merged_at, other.steps, other.train_loss)


@pytest.fixture(scope="module")
def whole(digits: Data) -> TrainingResult:
    """Of a run that was never stopped."""
    return train(digits, FULL, None)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_that_was_stopped_at_any_step_ends_in_the_same_net(
    digits: Data, tmp_path: Path, whole: TrainingResult, step: int
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        train(digits, FULL, path, progress=stop_at(step))
    assert path.exists() == (step > 1)
    told: list[Progress] = []
    result = train(digits, FULL, path, progress=told.append)
    assert [now.step for now in told] == list(range(step, STEPS + 1))
    assert_same(result, whole)


def test_a_run_that_is_stopped_after_each_step_ends_in_the_same_net(
    digits: Data, tmp_path: Path, whole: TrainingResult
) -> None:
    for step in range(2, STEPS + 1):
        with pytest.raises(StoppedError):
            train(digits, FULL, tmp_path / "run.pt", progress=stop_at(step))
    assert_same(train(digits, FULL, tmp_path / "run.pt"), whole)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "lr": 0.05, "clip_grad": 0.5},
        {"optimizer": "lamb", "loss": "bce", "ema_decay": 0.9},
        {"layer_decay": 0.8, "merge": True},
        {"optimizer": "orthogonal", "lr": 0.02, "init": "identity", "merge": True, "ema_decay": 0.9},
        {"channels_last": False, "mixup": 0.2},
        {"flip": "alternating", "cutout": 3},
        {"anneal": {"shape": "step", "steps": 3, "end": 0.8, "stagger": 0.2}},
    ],
    ids=str,
)
def test_every_option_goes_on_from_the_middle_of_an_epoch(
    digits: Data, tmp_path: Path, options: dict[str, object]
) -> None:
    config = recipe(**options)
    with pytest.raises(StoppedError):
        train(digits, config, tmp_path / "run.pt", progress=stop_at(8))
    assert_same(train(digits, config, tmp_path / "run.pt"), train(digits, config, None))


def test_a_run_that_was_killed_again_and_again_ends_in_the_same_net(
    digits: Data, tmp_path: Path, whole: TrainingResult
) -> None:
    """SIGKILL, sent by a process to itself: between steps, and in the middle of writing the file."""
    code = """
import os, signal, sys
from pathlib import Path
from test_training_checkpoint import FULL, train
from vnas.training import open_data
import torch

def die():
    os.kill(os.getpid(), signal.SIGKILL)

path, data = Path(sys.argv[1]), open_data("digits")
for kill, looks in enumerate((4, 4)):
    in_writing = kill % 2 == 1
    if os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
        continue
    seen, whole = [], torch.save
    def look(now):
        seen.append(now)
        if len(seen) >= looks and not in_writing:
            die()
    def half(content, file):
        if len(seen) >= looks and in_writing:
            file.write(bytes(1000))
            file.flush()
            die()
        whole(content, file)
    torch.save = half
    train(data, FULL, path, progress=look)
    os._exit(1)
"""
    path = tmp_path / "run.pt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".run.pt.part").exists()
    told: list[Progress] = []
    result = train(digits, FULL, path, progress=told.append)
    assert told[0].step == 7  # each of the two got one step less far than it had looked
    assert_same(result, whole)
    assert not (tmp_path / ".run.pt.part").exists()


def test_a_streamed_run_goes_on_from_the_start_of_an_epoch(make_folder: Make, tmp_path: Path) -> None:
    data = open_data(DataConfig(source=str(make_folder("pets", {"cat": 20, "dog": 20, "owl": 20})), workers=0))
    arch = replace(TINY, in_chans=3, num_classes=3)
    config = recipe(epochs=3, batch_size=16, rand_augment="rand-m3-mstd0.5-inc1", random_erasing=0.2)
    per_epoch = train(data, config, None, arch).steps // 3
    with pytest.raises(StoppedError):
        train(data, config, tmp_path / "run.pt", arch, progress=stop_at(2 * per_epoch))
    told: list[Progress] = []
    result = train(data, config, tmp_path / "run.pt", arch, progress=told.append)
    assert result.pipeline == "streaming"
    assert told[0].step == per_epoch + 1
    assert_same(result, train(data, config, None, arch))


def test_the_file_holds_lambda_and_no_code(digits: Data, tmp_path: Path) -> None:
    told: list[Progress] = []

    def progress(now: Progress) -> None:
        told.append(now)
        stop_at(6)(now)

    with pytest.raises(StoppedError):
        train(digits, recipe(), tmp_path / "run.pt", progress=progress)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    slopes = [value.item() for name, value in content["state"]["run"]["learner"]["net"].items() if "slope" in name]
    assert slopes == [pytest.approx(told[4].slope_min)] * 3
    assert content["identity"]["training.anneal.end"] == pytest.approx(1 / 3)
    assert content["identity"]["seed"] == 3


def test_the_file_is_not_written_more_often_than_asked(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written, whole = [0.0], [], torch.save

    def save(content: object, file: io.IOBase) -> None:
        written.append(now[0])
        whole(content, file)

    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch, "save", save)

    def progress(told: Progress) -> None:
        now[0] = 10.0 * told.step

    checkpoint = Checkpoint(tmp_path / "run.pt", seconds=25.0)
    fit(TINY, digits, recipe(), seed=0, device=CPU, progress=progress, checkpoint=checkpoint)
    assert written == [30.0, 60.0, 90.0, 100.0]  # the last one when training is over


def test_a_finished_run_is_judged_again_and_not_trained(digits: Data, tmp_path: Path) -> None:
    first = train(digits, FULL, tmp_path / "run.pt")
    told: list[Progress] = []
    again = train(digits, FULL, tmp_path / "run.pt", progress=told.append)
    assert told == []
    assert_same(first, again)
    assert again.seconds == pytest.approx(first.seconds)
    assert again.images_per_second == pytest.approx(first.images_per_second)


def test_a_run_goes_on_at_the_speed_that_was_chosen_for_it(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package gives the name of this module to its function, so it is looked up as a module.
    module = importlib.import_module("vnas.training.fit")
    chosen = [(Speed(False, "bf16", False), "measured"), (Speed(True, "off", False), "measured otherwise")]
    asked: list[int] = []

    def choose(net: object, config: object, device: object, batch: tuple[torch.Tensor, object], steps: int) -> object:
        asked.append(steps)
        assert batch[0].shape == (275, 1, 8, 8)
        return chosen[len(asked) - 1]

    monkeypatch.setattr(module, "choose_speed", choose)
    with pytest.raises(StoppedError):
        train(digits, recipe(), tmp_path / "run.pt", progress=stop_at(7))
    result = train(digits, recipe(), tmp_path / "run.pt")
    assert asked == [STEPS]
    assert (result.speed, result.speed_reason) == chosen[0]
    assert train(digits, recipe(), None).speed_reason == "measured otherwise"


def test_a_net_that_was_given_goes_on_too(digits: Data, tmp_path: Path) -> None:
    def given(seed: int = 1) -> object:
        with seeded(seed):
            return build(TINY)

    with pytest.raises(StoppedError):
        train(digits, recipe(), tmp_path / "run.pt", given(), progress=stop_at(7))  # type: ignore[arg-type]
    net = given()
    result = train(digits, recipe(), tmp_path / "run.pt", net)  # type: ignore[arg-type]
    assert result.trained is net
    assert_same(result, train(digits, recipe(), None, given()))  # type: ignore[arg-type]
    with pytest.raises(ResumeError, match=r"weights was '[0-9a-f]{16}' and is '[0-9a-f]{16}'"):
        train(digits, recipe(), tmp_path / "run.pt", given(2))  # type: ignore[arg-type]


def test_another_run_is_refused_by_name(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(digits, recipe(), path)
    kept = path.read_bytes()
    other_data = open_data(DataConfig(split_seed=1))
    for expected, act in {
        r"seed was 3 and is 4": lambda: fit(
            TINY, digits, recipe(), seed=4, device=CPU, checkpoint=Checkpoint(path, 0.0)
        ),
        rf"training.lr was {recipe().lr} and is 0.5\. Go on": lambda: train(digits, recipe(lr=0.5), path),
        r"training.anneal.end was 0.33\d* and is 0.5": lambda: train(digits, recipe(anneal={"end": 0.5}), path),
        r"architecture.dropout was 0.2 and is 0.1": lambda: train(digits, recipe(), path, replace(TINY, dropout=0.1)),
        r"architecture.stem.width was 4 and is 5": lambda: train(
            digits, recipe(), path, replace(TINY, stem=replace(TINY.stem, width=5))
        ),
        r"another run: data was '\w+' and is '\w+'\.": lambda: train(other_data, recipe(), path),
        r"training.epochs was 2 and is 3; training.loss was 'cross_entropy' and is 'bce'": lambda: train(
            digits, recipe(epochs=3, loss="bce"), path
        ),
    }.items():
        with pytest.raises(ResumeError, match=expected):
            act()
    assert path.read_bytes() == kept


def damaged(whole: bytes, trace: Path) -> dict[str, bytes]:
    flipped = bytearray(whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        record = max(map(archive.read, archive.namelist()), key=len)
    flipped[whole.index(record) + len(record) // 2] ^= 0xFF  # between the records there is padding that nobody reads

    class Evil:
        def __reduce__(self) -> object:
            return os.mkdir, (str(trace),)

    def saved(content: object) -> bytes:
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "text": b"not a checkpoint at all",
        "flipped": bytes(flipped),
        "code": saved({"format": 1, "identity": {}, "state": Evil()}),
        "a pickle": pickle.dumps({"format": 1}),
        "a list": saved([1, 2]),
        "older": saved({"format": 0, "identity": {}, "state": {}}),
        "no state": saved({"format": 1, "identity": {}}),
    }


def test_a_damaged_file_says_what_to_do(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(digits, recipe(), path)
    for what, content in damaged(path.read_bytes(), tmp_path / "code ran").items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"run\.pt .*delete it to start the run anew"):
            train(digits, recipe(), path)
        assert path.read_bytes() == content, what
    assert not (tmp_path / "code ran").exists()


def test_a_file_that_cannot_be_written(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        train(digits, recipe(), tmp_path / "file" / "run.pt")
    path = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        train(digits, recipe(), path, progress=stop_at(3))
    kept = path.read_bytes()

    def full(content: object, file: io.BufferedWriter) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(CheckpointError, match=r"cannot write .*run\.pt: .*No space left on device"):
            train(digits, recipe(), path)
    assert path.read_bytes() == kept
    assert list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part")) == []


def test_a_file_is_on_the_disk_before_it_takes_its_name(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("sync")
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    fit(TINY, digits, recipe(epochs=1), seed=0, device=CPU, checkpoint=Checkpoint(tmp_path / "sub" / "run.pt", 1e9))
    assert done == ["sync", ".run.pt.part -> run.pt"]
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["run.pt"]


def test_a_process_that_is_not_the_first_reads_and_does_not_write(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    config = recipe(batch_size=274)
    train(digits, config, path, shard=(1, 2))
    assert not path.exists()
    with pytest.raises(StoppedError):
        train(digits, config, path, shard=(0, 2), progress=stop_at(8))
    told: list[Progress] = []
    train(digits, config, path, shard=(1, 2), progress=told.append)
    assert told[0].step == 8
    with pytest.raises(ResumeError, match="processes was 2 and is 1"):
        train(digits, config, path)


def test_the_callers_random_numbers_are_left_alone_when_a_run_goes_on(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(digits, FULL, tmp_path / "run.pt", progress=stop_at(4))
    before = random_state()
    train(digits, FULL, tmp_path / "run.pt")
    after = random_state()
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert torch.equal(before["torch"], after["torch"])


def draws() -> tuple[float, float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), float(np.random.normal()), random.random()


def test_random_streams_can_be_put_back_through_a_file() -> None:
    with seeded(5):
        draws()
        random.gauss(0, 1)  # leaves a second value for the next call, as numpy's normal does
        file = io.BytesIO()
        torch.save(random_state(), file)
        expected = [draws() for _ in range(3)], random.gauss(0, 1)
        file.seek(0)
        set_random_state(torch.load(file, weights_only=True))
        assert ([draws() for _ in range(3)], random.gauss(0, 1)) == expected


def test_streams_are_in_place_only_while_they_are_active() -> None:
    with seeded(5):
        expected = [draws() for _ in range(4)]
    streams = Streams(5, CPU)
    with seeded(9):
        undisturbed = [draws() for _ in range(2)]
    with seeded(9):
        seen = []
        with streams.active():
            seen += [draws(), draws()]
        outside = [draws()]
        with streams.active():
            seen.append(draws())
        outside.append(draws())
        with contextlib.suppress(StoppedError), streams.active():
            seen.append(draws())
            raise StoppedError
    assert seen == expected
    assert outside == undisturbed


def test_derived_seeds_differ_by_seed_and_purpose() -> None:
    seeds = {derived_seed(seed, purpose) for seed in range(100) for purpose in ("mixing", "speed")}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**32 for seed in seeds)
