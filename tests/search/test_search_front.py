"""The front trained anew on all workers: each run once, whatever becomes of a worker; nothing stored is repeated."""

from collections import deque
from pathlib import Path
from typing import Any

import optuna
import pytest

from vnas.config import Anneal, StudyConfig, load_study
from vnas.errors import VnasError
from vnas.evaluate import Candidate, net_folder, seed_weights
from vnas.nets import Architecture
from vnas.search import front, store
from vnas.search.engine.book import Entry
from vnas.search.engine.protocol import Advance, Answer, Event, Failure, Job

SEEDS = 3


class Crew:
    """Workers that answer in the order of a script, newest job first; ``fails`` says how a run ends, once each.

    Attributes:
        most: jobs that were under way at once.
    """

    slots = 2

    def __init__(self, run_dir: Path, fails: dict[tuple[int, int], list[str]] | None = None) -> None:
        self._run_dir, self._fails = run_dir, fails or {}
        self._jobs: list[Job] = []
        self._events: deque[Event | None] = deque()
        self.done: list[tuple[str, int]] = []
        self.most = 0
        self._now = 0.0

    def submit(self, job: Job) -> None:
        assert job.kind == "retrain"
        self._jobs.append(job)
        self.most = max(self.most, len(self._jobs))
        assert len(self._jobs) <= self.slots

    def wait(self, seconds: float) -> Event | None:
        if self._events:
            return self._events.popleft()
        self._now += 1.0
        job = self._jobs.pop()
        self._events += [None, self._end(job)]
        return Advance(job, 0.5)

    def _end(self, job: Job) -> Event:
        net = Candidate.from_attributes(job.subject.attributes).architecture
        key = net.stages[0].width, job.repeat
        if self._fails.get(key):
            fault: Any = self._fails[key].pop(0)
            if fault == "nobody":
                raise VnasError("no worker can be started")
            return Failure(job, f"fault of {fault}", fault)
        self.done.append((job.subject.digest, job.repeat))
        path = seed_weights(self._run_dir, net, job.repeat)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        found = {"val_top1": 50.0 + job.repeat, "test_top1": 40.0 + job.repeat, "epochs": 2, "training": {}}
        return Answer(job, found)

    def clock(self) -> float:
        return self._now

    def close(self) -> None: ...


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.started: tuple[int, int, int] | None = None
        self.shares: list[tuple[int, float]] = []
        self.runs: list[front.Retrained] = []
        self.notes: list[str] = []

    def front_started(self, nets: int, runs: int, done: int) -> None:
        self.started = nets, runs, done

    def advanced(self, number: int, share: float) -> None:
        self.shares.append((number, share))

    def retrained(self, result: front.Retrained) -> None:
        self.runs.append(result)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def config() -> StudyConfig:
    return load_study("quickstart", [f"front.seeds={SEEDS}", "workers.retries=1"])


@pytest.fixture
def job(config: StudyConfig, tmp_path: Path) -> front.FrontJob:
    return front.FrontJob(optuna.create_study(), config, tmp_path)


def entry(number: int, width: int) -> Entry:
    net = Architecture.named("vanillanet_5", num_classes=10, image_size=32, in_chans=1)
    net = net.from_dict({**net.to_dict(), "stages": [{**stage, "width": width} for stage in net.to_dict()["stages"]]})
    attributes = {**Candidate(net.canonical(), Anneal()).attributes(), "latency_ms": float(width)}
    return Entry(number, {}, attributes, [{"rung": 0, "val_top1": float(width)}], "judged")


NETS = [entry(3, 8), entry(5, 16)]


def stored(job: front.FrontJob) -> dict[tuple[int, int], dict[str, Any]]:
    """Results by the number of the net's trial and the repeat."""
    return {(found["trial"], int(key.split("/")[1])): found for key, found in store.front_results(job.study).items()}


def test_every_run_once_on_all_workers(job: front.FrontJob, tmp_path: Path) -> None:
    crew, told = Crew(tmp_path), Told()
    nets = front.retrain(job, NETS, crew, told)
    assert [net.trial for net in nets] == [3, 5]
    assert crew.most == crew.slots
    assert len(crew.done) == len(set(crew.done)) == 2 * SEEDS
    assert told.started == (2, 6, 0)
    assert sorted(number for number, _ in told.shares) == list(range(6))
    assert sorted((run.net.trial, run.repeat) for run in told.runs) == sorted(stored(job))
    for (trial, repeat), found in stored(job).items():
        net = next(net for net in nets if net.trial == trial)
        assert found["seed"] == net.candidate.seed(job.config.seed, repeat + 1)
        assert (found["val_top1"], found["test_top1"], found["chosen"]) == (50.0 + repeat, 40.0 + repeat, None)
        assert found["seconds"] >= 1.0
    assert not told.notes


def test_what_is_stored_is_not_done_again(job: front.FrontJob, tmp_path: Path) -> None:
    front.retrain(job, NETS, Crew(tmp_path), Told())
    lost = seed_weights(tmp_path, front.select(NETS, 8)[0].candidate.architecture, 1)
    lost.unlink()
    crew, told = Crew(tmp_path), Told()
    front.retrain(job, NETS, crew, told)
    assert crew.done == [(front.select(NETS, 8)[0].candidate.digest, 1)]
    assert told.started == (2, 6, 5)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies(deaths: int, job: front.FrontJob, tmp_path: Path) -> None:
    crew, told = Crew(tmp_path, {(8, 1): ["worker"] * deaths}), Told()
    front.retrain(job, NETS, crew, told)
    assert len(stored(job)) == 6 - (deaths - 1)
    again = ["retraining of trial 3, run 2 failed: fault of worker. --resume tries it again"]
    assert told.notes == again * (deaths - 1)


def test_a_net_that_cannot_be_trained_is_stored_as_that(job: front.FrontJob, tmp_path: Path) -> None:
    crew, told = Crew(tmp_path, {(16, 0): ["candidate"]}), Told()
    front.retrain(job, NETS, crew, told)
    assert stored(job)[5, 0]["reason"] == "fault of candidate"
    assert told.notes == ["retraining of trial 5, run 1: fault of candidate"]
    again = Crew(tmp_path)
    front.retrain(job, NETS, again, Told())
    assert again.done == []


def test_an_unexpected_error_is_tried_by_the_next_run(job: front.FrontJob, tmp_path: Path) -> None:
    told = Told()
    front.retrain(job, NETS, Crew(tmp_path, {(8, 0): ["unexpected"]}), told)
    assert len(stored(job)) == 5
    assert told.notes == ["retraining of trial 3, run 1 failed: fault of unexpected. --resume tries it again"]
    again = Crew(tmp_path)
    front.retrain(job, NETS, again, Told())
    assert len(again.done) == 1


def test_without_any_worker_there_is_still_a_report(job: front.FrontJob, tmp_path: Path) -> None:
    told = Told()
    nets = front.retrain(job, NETS, Crew(tmp_path, {(8, 1): ["nobody"]}), told)
    assert len(nets) == 2
    said = "the front could not be trained anew: no worker can be started. --resume tries it again"
    assert told.notes == [said]


def test_an_empty_front(job: front.FrontJob, tmp_path: Path) -> None:
    told = Told()
    assert front.retrain(job, [], Crew(tmp_path), told) == []
    assert told.started is None


def test_the_seed_that_validates_best_is_kept(
    job: front.FrontJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "_measure_again", lambda *arguments: None)
    nets = front.retrain(job, NETS, Crew(tmp_path), Told())
    front.conclude(job, nets, None, Told())  # type: ignore[arg-type]
    for net in nets:
        folder = net_folder(tmp_path, net.candidate.architecture)
        assert sorted(path.name for path in folder.iterdir()) == ["architecture.json", "weights.safetensors"]
    assert {repeat for (_, repeat), found in stored(job).items() if found["chosen"]} == {SEEDS - 1}
