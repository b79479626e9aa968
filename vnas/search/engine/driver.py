"""The loop of a study: one driver that owns asking and telling, and workers that measure and train.

    queue, or sampler --draw--> duplicate? cost? predicted latency? --> measured --> budget? hopeless? --> first rung
                                                                                                            |
    told to the sampler <-----------------------------------------------------------------------------------+
    judged: complete at the last rung; else stopped here, or on to the next rung, now or later

The driver only decides. What takes time is a job of a worker; what became of it comes back as an event, is stored,
and is announced after that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from vnas.errors import UsageError, VnasError
from vnas.search.engine.book import Book, Entry
from vnas.search.engine.ledger import DRIVER, INTERRUPTED, Ledger, TakenAwayError, was_left
from vnas.search.engine.protocol import (
    Advance,
    Answer,
    Attributes,
    Draw,
    Event,
    Executor,
    Failure,
    Job,
    Problem,
    Subject,
)
from vnas.search.engine.recovery import Recovered, recover
from vnas.search.engine.reporting import Reporter, line_of
from vnas.search.engine.rules import Rules
from vnas.search.interrupts import protected
from vnas.search.policy.gates import HOPELESS, PROMISE, Known
from vnas.search.policy.promotion import Spent, may_begin, may_go_on, next_on
from vnas.search.sampling.encoding import uniform
from vnas.search.sampling.suggester import Suggester, Told

STUCK_AFTER = 5
"""A sampler that has only repeated known candidates so often in a row is stuck: draws are random until one is new."""
EXHAUSTED_AFTER = 100
"""As many repetitions in a row mean that there is hardly anything new to be had."""
TURNED_AWAY_AFTER = 1000
"""As many candidates in a row that no gate lets pass mean that the study asks for what the space does not have."""
LOOKS_AT_MOST = 8
"""Candidates that are measured and not trained, put off or without hope, before one is trained whatever it promises."""
LOOKING_SHARE = 0.25
"""The most time for measuring what is then not trained, as a share of the time for training: looking has its price."""
BROKEN_AFTER = 3
"""As many failures in a row that vnas did not raise itself mean that something is wrong with the machine or with us."""
Mask = npt.NDArray[np.bool_]

WAIT_SECONDS = 0.5
SYNC_SECONDS = 2.0

_TAKEN_OVER = frozenset(
    {
        *("digest", "candidate", "architecture", "description", "depth", "anneal", "row"),
        *("params", "macs", "activation_bytes", "weight_bytes", "traffic_bytes", "kernels"),
        *("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "val_top1", "epochs", "rungs"),
        *("gate", "reason", "stopped", "over_budget"),
    }
)
"""What a repetition takes over from the trial that it repeats."""


@dataclass
class _Work:
    """A trial that is under way here."""

    number: int
    subject: Subject
    draw: Draw
    token: int | None
    rungs: list[Attributes]
    attempt: int
    began: float
    preset: bool = False
    job_began: float = 0.0


class Driver:
    """One study, one driver.

    Args:
        problem: what is searched.
        ledger: the trials.
        rules: limits, gates and seeds of the study.
        reporter: where it tells what it does.
        shared: whether other drivers may be at work on the study.
    """

    def __init__(
        self,
        problem: Problem,
        ledger: Ledger,
        rules: Rules,
        reporter: Reporter,
        *,
        shared: bool = False,
    ) -> None:
        self.problem, self._ledger = problem, ledger
        self._rules, self._reporter, self._shared = rules, reporter, shared
        self.book = Book()
        self._work: dict[int, _Work] = {}
        self._ready: deque[Job] = deque()
        self._tokens: dict[int, int] = {}
        self._suggested: set[str] = set()  # candidates that the sampler has an answer for
        self._latencies: dict[str, Attributes] = {}
        self._broken = 0
        self._in_a_row = 0
        self._looking = self._training = 0.0  # seconds of this run
        self._look = 0.0  # seconds of the last measurement
        self._asked = 0
        self._ended: str | None = None
        self._synced = -np.inf
        self._waited = False
        trials = ledger.trials()
        self._suggester = Suggester(
            rules.sampler,
            problem.choices,
            problem.absent,
            objectives=len(rules.objectives),
            seed=rules.seed,
            trials=len(trials),
            expected=rules.limits.candidates,
            floor=rules.floor,
            ceiling_ms=rules.ceiling_ms,
            budget_ms=rules.budget_ms,
        )
        for trial in trials:
            self._learn(trial, past=True)
        self._asked = len(trials)

    def recover(self) -> Recovered:
        """Put right what runs that ended left behind.

        That is every running trial of a study that only this driver works on, else those of drivers that have said
        nothing for too long.
        """
        with protected():
            if self._shared:
                self._ledger.fail_stale()
            else:
                for trial in self._ledger.trials():
                    if trial.state == TrialState.RUNNING and trial.number not in self._work:
                        self._ledger.abandon(trial)
            found = recover(self._ledger, self._rules, len(self.problem.rungs))
            for trial in self._ledger.trials():
                if trial.number not in self._work:
                    self._learn(trial)
        return found

    def run(self, executor: Executor) -> None:
        """Work until the limits are reached.

        Args:
            executor: who measures and trains.

        Raises:
            VnasError: several trials in a row failed for a reason that is not the candidate's.
            KeyboardInterrupt: passed on, after the trials at work were put back into the queue.
        """
        self._executor = executor
        self._began, idle = executor.clock(), time.monotonic()
        self._reporter.search_started(self.book.counted, self._rules.limits.candidates)
        try:
            with self._ledger.alive():
                while True:
                    # Without work, it looks again each time: another may have left what this one was to do. It asks
                    # first whether others are at work: what the last of them left is then seen before this one ends.
                    lingers = not self._work and self._lingers(time.monotonic() - idle)
                    self._sync(now=not self._work)
                    try:
                        self._fill()
                    except TakenAwayError as error:
                        self._taken_away(error)
                        continue
                    if self._work:
                        idle, self._waited = time.monotonic(), False
                    elif lingers:
                        time.sleep(WAIT_SECONDS)
                        continue
                    else:
                        break
                    event = self._executor.wait(WAIT_SECONDS)
                    if event is not None:
                        try:
                            self._handle(event)
                        except TakenAwayError as error:
                            self._taken_away(error)
        except BaseException:
            with protected():
                self._put_back()
            raise
        if self._ended is not None:
            self._reporter.note(self._ended)

    # What to do next.

    def _fill(self) -> None:
        while len(self._work) - len(self._ready) < self._executor.slots or self._ready:
            if not self._ready and not self._more():
                return
            if len(self._work) - len(self._ready) >= self._executor.slots:
                return
            job = self._ready.popleft()
            self._work[job.trial].job_began = self._executor.clock()
            self._executor.submit(job)

    def _more(self) -> bool:
        """Find another job; False where there is none."""
        if self._continue():
            return True
        while (why := self._full()) is None:
            if self._begin():
                return True
        self._ended = why or None
        return self._continue(begun_all=True)

    def _spent(self) -> Spent:
        first, above = self.book.epochs()
        rungs = self.problem.rungs
        candidates = self.book.counted
        for entry in self.book.working.values():
            if entry.queued or len(entry.rungs) == len(rungs):
                continue
            if entry.rungs:
                above += rungs[len(entry.rungs)] - rungs[len(entry.rungs) - 1]
            else:
                first += rungs[0]
                candidates += 1
        return Spent(candidates, first, above, self._executor.clock() - self._began)

    def _full(self) -> str | None:
        """Why no candidate is begun any more, in words or as an empty text where there is nothing to say."""
        limits, spent = self._rules.limits, self._spent()
        if spent.candidates >= limits.candidates:
            return ""
        if limits.seconds is not None and spent.seconds >= limits.seconds:
            return f"the time limit of {limits.seconds / 60:g} min is reached after {self.book.counted} candidates"
        cost = self.problem.rungs[0]
        if not may_begin(spent, limits, cost, above=len(self.problem.rungs) > 1) or not self._affords(cost):
            return ""
        tried = len(self.book.entries) - self.book.saved().get(PROMISE, 0)
        if self.book.repeated >= EXHAUSTED_AFTER or tried >= self.problem.size:
            return f"the space seems exhausted after {self.book.counted} candidates: draws only repeat them"
        if self.book.rejections >= TURNED_AWAY_AFTER:
            return (
                f"the last {self.book.rejections} candidates were all turned away before training; "
                "the limits of the study seem to leave nothing of the space"
            )
        return None

    def _affords(self, cost: float) -> bool:
        """Whether the limit of epochs allows so many beside those spent and under way."""
        limit, spent = self._rules.limits.epochs, self._spent()
        return limit is None or spent.first + spent.above + cost <= limit + 1e-9

    def _continue(self, *, begun_all: bool = False) -> bool:
        """Send a candidate that was stopped one rung up, if there is room and one is worth it."""
        rungs = self.problem.rungs
        spent = self._spent()
        for rung in range(len(rungs) - 1):
            cost = rungs[rung + 1] - rungs[rung]
            entries = self.book.judged(rung)
            may = may_go_on(spent, self._rules.limits, cost, begun_all=begun_all)
            if not entries or not (may or self._affords(cost)):
                continue
            gone = np.array([len(entry.rungs) > rung + 1 or self._climbs(entry, rung) for entry in entries])
            allowed = np.array(
                [entry.running is None and not entry.failed_above and self._feasible(entry) for entry in entries]
            )
            chosen = self._owed(entries, gone, allowed) if self._affords(cost) else None
            if chosen is None and may:
                chosen = next_on(self._points(entries, rung), gone, allowed, self._rules.corner)
            if chosen is not None and self._go_on(entries[chosen]):
                return True
        return False

    def _owed(self, entries: Sequence[Entry], gone: Mask, allowed: Mask) -> int | None:
        """One that goes on in any case, and whose run or worker ended before it did."""
        waiting = np.flatnonzero(allowed & ~gone).tolist()
        for at in waiting:
            if entries[at].preset:
                return int(at)
        left = self._rules.always - sum(gone) - sum(entry.failed_above for entry in entries)
        return int(waiting[0]) if left > 0 and len(waiting) else None

    def _climbs(self, entry: Entry, rung: int) -> bool:
        return entry.running is not None and len(entry.rungs) == rung + 1

    def _feasible(self, entry: Entry) -> bool:
        return all(value <= 0 for value in self._rules.constraints(entry.attributes).values())

    def _points(self, entries: Sequence[Entry], rung: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array(
            [
                (100.0 - entry.rungs[rung]["val_top1"], *(entry.attributes[name] for name in self._rules.objectives))
                for entry in entries
            ],
            dtype=np.float64,
        )

    def _go_on(self, entry: Entry) -> bool:
        attributes = {
            key: value for key, value in entry.attributes.items() if key not in ("finished_at", "stopped", "recovers")
        }
        attributes["continues"] = entry.number
        number = self._ledger.begin(entry.draw, attributes)
        if number is None:
            return False
        subject = self.problem.subject(entry.draw)
        rungs = [dict(found) for found in entry.rungs]
        work = _Work(number, subject, entry.draw, None, rungs, entry.lost + 1, self._executor.clock(), entry.preset)
        self._start(work)
        entry.running = number
        self.book.note(entry)
        if self._shared:
            self._sync(now=True, but=number)
            if entry.running != number or len(entry.rungs) > len(work.rungs):
                self._withdraw(work, "another driver sent it on")
                return False
        self._ready.append(Job(number, "train", subject, len(work.rungs)))
        return True

    def _begin(self) -> bool:
        """Ask for a candidate; True where there is a job for it now, False where its answer is there already."""
        with protected():
            taken = self._ledger.take()
            if taken is None:
                token, draw = self._draw()
            else:
                draw = {name: taken.params[name] for name in self.problem.choices}
                known_token = self._tokens.pop(taken.number, None)
                token = self._suggester.begin(draw) if known_token is None else known_token
        self._asked += 1
        began = self._executor.clock()
        attempt = 1 if taken is None else int(taken.user_attrs.get("attempt", 1))
        extra: Attributes = {"attempt": attempt} if attempt > 1 else {}
        try:
            subject = self.problem.subject(draw)
        except UsageError as error:
            self._suggester.drop(token)
            broken = taken.number if taken is not None else self._ledger.begin(draw, {})
            if broken is not None:
                self._finish(broken, TrialState.FAIL, began, attributes={"reason": str(error)})
            return False
        except BaseException:
            if taken is not None:
                self._ledger.end(taken.number, TrialState.FAIL, attributes={INTERRUPTED: True})
            raise
        known = {**subject.attributes, **extra}
        if taken is not None:
            number: int | None = taken.number
            self._ledger.record(taken.number, known)
        else:
            number = self._ledger.begin(draw, known)
        if number is None:
            self._suggester.drop(token)
            return False
        preset = bool(taken is not None and taken.user_attrs.get("preset"))
        self._sync(now=True, but=number)
        entry = self.book.entries.get(subject.digest)
        if entry is not None and self._rules.gates.duplicate and _has_or_gets_an_answer(entry, number):
            self._repeat(number, token, entry, began)
            return False
        if entry is not None and entry.rungs:  # trained again, since its known answer is not asked for
            self._ledger.record(number, {"repeats": entry.number})
        work = _Work(number, subject, draw, token, [], attempt, began, preset)
        self._start(work)
        entry = self.book.entries.setdefault(subject.digest, Entry(number, draw, dict(known), preset=preset))
        entry.running, entry.status, entry.queued = number, "running", False
        self.book.note(entry)
        if self._shared and self._too_many(number):
            self._withdraw(work, "other drivers have begun the last candidates of the study")
            return False
        if (why := self._turned_away(Known(subject.costs, None, self._guess_latency(draw)))) is not None:
            self._reject(work, *why)
            return False
        self._reporter.trial_started(number, subject)
        before = self._latencies.get(subject.latency_key)
        if before is None:
            self._ready.append(Job(number, "measure", subject))
            return True
        return self._measured(work, before)

    def _too_many(self, number: int) -> bool:
        """Whether trials that were begun before this one fill the study."""
        before = sum(
            1
            for entry in self.book.working.values()
            if not entry.rungs
            and entry.running is not None
            and entry.running < number
            # One that a driver has put there and not claimed yet is as good as begun.
            and (not entry.queued or DRIVER in entry.attributes)
        )
        return self.book.counted + before >= self._rules.limits.candidates

    def _withdraw(self, work: _Work, reason: str) -> None:
        """End a trial that another driver's has made needless; nothing takes its place."""
        if work.token is not None:
            self._suggester.drop(work.token)
            work.token = None
        self._close(work, TrialState.FAIL, attributes={"reason": reason, INTERRUPTED: True, "withdrawn": True})

    def _taken_away(self, error: TakenAwayError) -> None:
        work = self._work.get(error.number)
        if work is not None:
            self._withdraw(work, str(error))
        else:  # before there was anything to do for it
            self._ledger.end(error.number, TrialState.FAIL)

    def _draw(self) -> tuple[int, dict[str, Any]]:
        if self.book.repeated < STUCK_AFTER:
            return self._suggester.ask(only_measured=self._in_a_row >= LOOKS_AT_MOST, looks_again=self._may_look())
        generator = np.random.default_rng([self._rules.seed, self._asked])
        draw = uniform(self.problem.choices, generator)
        return self._suggester.begin(draw), draw

    def _start(self, work: _Work) -> None:
        self._work[work.number] = work

    # What became of it.

    def _handle(self, event: Event) -> None:
        work = self._work[event.job.trial]
        if isinstance(event, Advance):
            self._reporter.advanced(work.number, event.share)
        elif isinstance(event, Failure):
            self._failed(work, event)
        elif event.job.kind == "measure":
            self._latencies.setdefault(work.subject.latency_key, event.attributes)
            self._look = self._executor.clock() - work.job_began
            if not self._measured(work, event.attributes):
                self._looking += self._look
        else:
            self._broken = 0
            self._training += self._executor.clock() - work.job_began
            self._trained(work, event)

    def _measured(self, work: _Work, latency: Attributes) -> bool:
        """Store a latency and ask what it allows; True where the candidate is to be trained."""
        self._ledger.record(work.number, latency)
        entry = self.book.entries[work.subject.digest]
        entry.attributes |= latency
        if work.token is not None:
            self._suggester.know(work.token, latency["latency_ms"])
        gates, looks = self._rules.gates, self._has_time_to_look() and self._in_a_row < LOOKS_AT_MOST
        asked = gates.hopeless and looks and not work.preset
        guess = self._suggester.guess_accuracy(work.draw) if asked else None
        why = self._turned_away(Known(work.subject.costs, latency["latency_ms"], None, guess))
        if why is None and looks and not self._keeps_promise(work, latency["latency_ms"]):
            why = PROMISE, f"with {latency['latency_ms']:.4g} ms it promises less than another candidate"
        if why is not None:
            self._in_a_row += why[0] in (HOPELESS, PROMISE)
            self._reject(work, *why)
            return False
        self._in_a_row = 0
        self._ready.append(Job(work.number, "train", work.subject, 0))
        return True

    def _keeps_promise(self, work: _Work, latency_ms: float) -> bool:
        if work.preset or work.token is None or not self._rules.gates.promise:
            return True
        return self._suggester.keeps_promise(work.token, latency_ms)

    def _may_look(self) -> bool:
        """Whether there is time for measuring a candidate that is then not trained."""
        return self._rules.gates.promise and self._has_time_to_look()

    def _has_time_to_look(self) -> bool:
        return self._looking + self._look <= LOOKING_SHARE * self._training

    def _turned_away(self, known: Known) -> tuple[str, str] | None:
        for gate in self._rules.gates_for(*self.book.objectives()):
            reason = gate.reason(known)
            if reason is not None:
                return gate.name, reason
        return None

    def _guess_latency(self, draw: Draw) -> Any:
        asked = self._rules.gates.predicted and self._rules.budget_ms is not None
        return self._suggester.guess_latency(draw) if asked else None

    def _reject(self, work: _Work, gate: str, reason: str) -> None:
        self._tell(work, None, postponed=gate == PROMISE)
        self._close(work, TrialState.PRUNED, attributes={"gate": gate, "reason": reason})

    def _trained(self, work: _Work, answer: Answer) -> None:
        rung = answer.job.rung
        found = {"rung": rung, **{key: answer.attributes[key] for key in ("val_top1", "epochs", "epochs_spent")}}
        work.rungs.append(found)
        self._ledger.record(work.number, {**answer.attributes, "rungs": list(work.rungs)})
        entry = self.book.entries[work.subject.digest]
        entry.rungs, entry.judged_by = list(work.rungs), work.number
        entry.attributes |= answer.attributes
        entry.attributes["rungs"] = list(work.rungs)
        self.book.note(entry)
        if rung == 0:
            self._tell(work, answer.attributes["val_top1"])
        if rung + 1 == len(self.problem.rungs):
            self._close(work, TrialState.COMPLETE, values=self._values(entry))
        elif (work.preset or self._among_the_first(entry, rung)) and self._affords(0.0):
            self._ready.append(Job(work.number, "train", work.subject, rung + 1))
        else:
            self._close(work, TrialState.PRUNED, attributes={"stopped": rung})

    def _values(self, entry: Entry) -> tuple[float, ...]:
        return (entry.rungs[-1]["val_top1"], *(entry.attributes[name] for name in self._rules.objectives))

    def _among_the_first(self, entry: Entry, rung: int) -> bool:
        """Whether a candidate goes on because it is one of the first of its rung, there being none to rank it among."""
        return any(entry is one for one in self.book.judged(rung)[: self._rules.always])

    def _tell(self, work: _Work, accuracy: float | None, *, postponed: bool = False) -> None:
        if work.token is None:
            return
        entry = self.book.entries[work.subject.digest]
        self._suggester.tell(work.token, replace(self._told(entry.attributes, accuracy), postponed=postponed))
        work.token = None
        if not postponed:
            self._suggested.add(work.subject.digest)

    def _told(self, attributes: Mapping[str, Any], accuracy: float | None) -> Told:
        measured = all(attributes.get(name) is not None for name in self._rules.objectives)
        objectives = tuple(float(attributes[name]) for name in self._rules.objectives) if measured else None
        return Told(accuracy, objectives, self._rules.constraints(attributes))

    def _repeat(self, number: int, token: int, entry: Entry, began: float) -> None:
        """End a trial that drew a known candidate, with what is known."""
        accuracy = entry.rungs[0]["val_top1"] if entry.rungs else None
        self._suggester.tell(token, self._told(entry.attributes, accuracy))
        # In this order: a repetition that is cut off in the middle is known for one, and is judged at its end only.
        kept = {key: value for key, value in entry.attributes.items() if key in _TAKEN_OVER and key != "rungs"}
        rungs = {"rungs": entry.attributes["rungs"]} if "rungs" in entry.attributes else {}
        last = len(entry.rungs) == len(self.problem.rungs)
        values = self._values(entry) if last else None
        state = TrialState.COMPLETE if last else TrialState.FAIL if entry.status == "failed" else TrialState.PRUNED
        self._finish(
            number,
            state,
            began,
            values=values,
            attributes={"duplicate_of": entry.number, "seconds": 0.0, **kept, **rungs},
        )

    def _failed(self, work: _Work, failure: Failure) -> None:
        attributes: Attributes = {"reason": failure.reason}
        if failure.fault == "unexpected":
            self._broken += 1
            attributes |= {"unexpected": True, "traceback": failure.traceback}
        elif failure.fault == "candidate":
            self._broken = 0
        again = failure.fault == "worker" and work.attempt <= self._rules.retries
        if again:
            attributes[INTERRUPTED] = True
            attributes["attempt"] = work.attempt + 1
        if work.token is not None:
            self._suggester.drop(work.token)
            work.token = None
        self._close(work, TrialState.FAIL, attributes=attributes)
        if again:
            recover(self._ledger, self._rules, len(self.problem.rungs))
        if self._broken >= BROKEN_AFTER:
            raise VnasError(
                f"{self._broken} trials in a row failed with an unexpected error, the last with {failure.reason}. "
                "Completed trials are kept; --resume goes on"
            )

    def _close(
        self,
        work: _Work,
        state: TrialState,
        *,
        values: tuple[float, ...] | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        del self._work[work.number]
        self._finish(work.number, state, work.began, values=values, attributes=attributes)

    def _finish(
        self,
        number: int,
        state: TrialState,
        began: float,
        *,
        values: tuple[float, ...] | None = None,
        attributes: Attributes | None = None,
    ) -> FrozenTrial:
        seconds = self._executor.clock() - began
        attributes = {"seconds": seconds, **(attributes or {})}
        constraints = self._rules.constraints({**self._ledger.running[number], **attributes})
        frozen = self._ledger.end(number, state, values=values, attributes=attributes, constraints=constraints)
        self.book.learn(frozen)
        self._reporter.trial_finished(line_of(frozen, seconds), self.book.counted, self._rules.limits.candidates)
        return frozen

    # Other drivers, and the past.

    @property
    def others(self) -> bool:
        """Whether other drivers are at work on the study, or ended after this one."""
        return self._waited or self._at_work_elsewhere()

    def _lingers(self, seconds: float) -> bool:
        """Whether to wait, after so long without work, for what other drivers do next, or leave if they are killed."""
        elsewhere = self._at_work_elsewhere()
        self._waited |= elsewhere
        return self._shared and seconds < SYNC_SECONDS + elsewhere * self._ledger.grace_seconds

    def _at_work_elsewhere(self) -> bool:
        return self._shared and any(trial.state == TrialState.RUNNING for trial in self._ledger.trials())

    def _learn(self, trial: FrozenTrial, *, past: bool = False) -> None:
        """Take in a trial that another driver works on, or that lies in the past."""
        entry = self.book.learn(trial, past=past)
        attributes = trial.user_attrs
        if "latency" in attributes or "latency_ms" in attributes:
            self._keep_latency(attributes)
        if was_left(trial):
            token = self._tokens.pop(trial.number, None)
            if token is not None:
                self._suggester.drop(token)
            return
        if entry is None or "continues" in attributes or "duplicate_of" in attributes:
            return
        if trial.number not in self._tokens:
            if attributes["candidate"] in self._suggested:
                return
            self._tokens[trial.number] = self._suggester.begin(trial.params)
        if trial.state.is_finished():
            accuracy = entry.rungs[0]["val_top1"] if entry.rungs else None
            postponed = attributes.get("gate") == PROMISE and not entry.rungs
            self._suggester.tell(
                self._tokens.pop(trial.number), replace(self._told(attributes, accuracy), postponed=postponed)
            )
            if not postponed:
                self._suggested.add(attributes["candidate"])

    def _keep_latency(self, attributes: Mapping[str, Any]) -> None:
        key = self.problem.latency_key(attributes)
        if key is not None and key not in self._latencies:
            self._latencies[key] = {
                name: attributes[name] for name in self.problem.latency_attributes if name in attributes
            }

    def _sync(self, *, now: bool = False, but: int | None = None) -> None:
        """Look at what other drivers did."""
        if not self._shared or (not now and time.monotonic() - self._synced < SYNC_SECONDS):
            return
        self._synced = time.monotonic()
        self._ledger.look_for_queue = True
        if self._ledger.fail_stale():
            self._waited = False  # for one that was killed: this one is the last
        recover(self._ledger, self._rules, len(self.problem.rungs))
        for trial in self._ledger.trials():
            if trial.number not in self._work and trial.number != but:
                self._learn(trial)

    def _put_back(self) -> None:
        """Give up the trials that are under way, so that their draws are in the queue again."""
        for number in list(self._ledger.running):  # with one that was begun in the moment of a signal
            self._ledger.end(number, TrialState.FAIL, attributes={"reason": "interrupted", INTERRUPTED: True})
        self._work.clear()
        recover(self._ledger, self._rules, len(self.problem.rungs))


def _has_or_gets_an_answer(entry: Entry, number: int) -> bool:
    """Whether a drawn candidate needs no other trial; of two that are under way, the lower number goes on."""
    if entry.running is not None and not entry.rungs:
        return entry.running < number
    return entry.attributes.get("gate") != PROMISE or bool(entry.rungs)  # put off is not turned away
