"""What threads, runs and calls should come to, in plain Python: a second opinion on taskflow.

It knows the words of the documentation and nothing of the library: no task ids (a call is named by
its path: the calls that lead to it, each with its arguments and occurrence), no stores, no event
loop. Whatever is asked is done in one go, until nothing can happen any more, as if by an
interpreter that begins every run from its first line and is answered by what is recorded.

What cannot be known beforehand (the ids that are given to new runs, the exact time of a deadline,
which of two runtimes was faster) is told by whoever compares, and then has to stay as it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

Path = tuple[tuple[str, str, int], ...]  # (name, arguments as JSON, occurrence), outermost first
Key = tuple[str, str, str]  # a body: thread id, name, arguments as JSON
Script = list[Any]

SHORT = 1.0  # seconds up to which a run waits for a time without pausing
ATTEMPTS = {"stubborn": 2}
VALUE, RAISES, PENDING = "value", "raises", "pending"
Outcome = tuple[str, Any]


def said(arguments: Any) -> str:
    return json.dumps(arguments)


class Numbers:
    """Counts on from nought, and can be copied with everything else."""

    def __init__(self, step: int) -> None:
        self._last = 0
        self._step = step

    def __next__(self) -> int:
        self._last += self._step
        return self._last


@dataclass
class Moment:
    """When something happened: between these two."""

    since: float
    to: float

    def is_before(self, other: Moment) -> bool:
        """Whether this came first; it must be clear."""
        if self.to <= other.since:
            return True
        assert self.since >= other.to, f"{self} and {other}: which came first?"
        return False

    def is_over_by(self, now: Moment) -> bool:
        """Whether this time has come by the end of a step."""
        assert not self.since < now.to < self.to, f"has {self} come at {now}?"
        return self.to <= now.to


@dataclass
class Record:
    status: str
    value: Any
    attempts: int
    order: tuple[int, int]  # of its commit: what was recorded side by side has the same
    error: str | None = None
    ended_by: list[Path] = field(default_factory=list)
    signal: str | None = None  # the id of the one that it has taken
    type: str | None = None  # of the value, where a call alone does not tell


@dataclass
class Signal:
    id: str
    name: str
    value: Any
    sent: Moment
    taken: bool = False


@dataclass
class Wait:
    kind: str
    name: str
    path: Path
    type: str | None
    deadline: Moment | None


@dataclass(eq=False)
class Run:
    number: int
    thread_id: str
    run_id: str | None  # None: not told yet
    sequence: int
    workflow: str
    script: Script
    status: str = "running"
    result: int | None = None
    error: str | None = None
    saved: int | None = None
    is_owned: bool = True
    executor: Runtime | None = None  # that executes it now, or has died while it did
    calls: dict[Path, Record] = field(default_factory=dict)
    deadlines: dict[Path, Moment] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    in_flight: dict[Path, int] = field(default_factory=dict)  # bodies that stand still: attempt
    is_woken: bool = False
    is_deleted: bool = False
    finished: Moment | None = None

    @property
    def is_final(self) -> bool:
        return self.status in ("success", "cancelled")

    @property
    def is_open(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def needs_answer(self) -> bool:
        return any(each.kind == "signal" for each in self.waits)

    @property
    def is_executing(self) -> bool:
        return self.executor is not None and self.executor.executing.get(self.thread_id) is self

    def is_same(self, workflow: str, script: Script) -> bool:
        return (self.workflow, self.script) == (workflow, script)

    def chain(self, path: Path) -> list[Path]:
        """A recorded call, and the recorded calls that it was made by."""
        found = []
        while path in self.calls:
            found.append(path)
            path = path[:-1]
        return found

    def drop(self, path: Path) -> None:
        record = self.calls.pop(path, None)
        self.deadlines.pop(path, None)
        if record is not None and record.signal is not None:
            for each in self.signals:
                if each.id == record.signal:
                    each.taken = False

    @property
    def rows(self) -> int:
        return len(self.calls) + len(self.deadlines) + len(self.signals)


@dataclass(eq=False)
class Runtime:
    name: str
    executing: dict[str, Run] = field(default_factory=dict)
    types: set[tuple[str, str]] = field(default_factory=set)  # of signals that were waited for
    maybe: set[tuple[str, str]] = field(default_factory=set)  # the same, if it was the faster one


@dataclass(eq=False)
class Caller:
    """Somebody who waits for a run."""

    id: int
    runtime: Runtime
    run: Run
    is_patient: bool
    is_handle: bool = False  # what `start` leaves: it waits until its runtime is closed
    is_elsewhere: bool = False  # waits for what another runtime executes
    outlasts: bool = False  # waits for times, patient or not
    outcome: Outcome = (PENDING, None)


class Blocked(Exception):
    """The script cannot go on now."""

    def __init__(self, waits: list[Wait], stands: bool) -> None:
        self.waits = waits
        self.stands = stands


class Failed(Exception):
    """The script has failed."""

    def __init__(self, error: str, ended_by: list[Path]) -> None:
        self.error = error
        self.ended_by = ended_by


class Died(Exception):
    """Its process has."""


@dataclass
class Death:
    """At which record, from now on, the process dies; before it is durable, or after."""

    countdown: int
    is_after: bool


class Frame:
    """One body that makes calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counts: dict[tuple[str, str], int] = {}

    def call(self, name: str, arguments: Any) -> Path:
        same = name, said(arguments)
        occurrence = self._counts.get(same, 0)
        self._counts[same] = occurrence + 1
        return (*self.path, (*same, occurrence))


class Performance:
    """One run, executed from its first line as far as it goes."""

    def __init__(self, model: Model, run: Run, previous: int | None, death: Death | None) -> None:
        self.model = model
        self.run = run
        self.previous = previous
        self.saved: int | None = None
        self._death = death
        self._side_by_side = 0

    def perform(self, script: Script, acc: int, frame: Frame) -> int:
        for step in script:
            acc = self._step(step, acc, frame)
        return acc

    def _step(self, step: list[Any], acc: int, frame: Frame) -> int:
        match step:
            case ["add", number]:
                return self._task(frame, "add", [acc, number], lambda: acc + number)
            case ["note", text]:
                self._task(frame, "note", [text], lambda: text)
                return acc
            case ["fan", numbers]:
                parts = [
                    lambda each=each: self._task(frame, "double", [each], lambda: 2 * each)
                    for each in numbers
                ]
                return acc + sum(self._together(parts))
            case ["flaky" | "stubborn" as name, switch, handled]:
                try:
                    return self._task(frame, name, [switch, acc], lambda: acc + 1, switch)
                except Failed:
                    if not handled:
                        raise
                    return acc + 100
            case ["inner", handled, script]:
                try:
                    return self._inner(frame, script, acc)
                except Failed:
                    if not handled:
                        raise
                    return acc + 10_000
            case ["both", *scripts]:
                parts = [lambda each=each: self._inner(frame, each, acc) for each in scripts]
                return sum(self._together(parts))
            case ["receive", name, kind, timeout]:
                try:
                    value = self._receive(frame, name, kind, timeout)
                except Failed:
                    return acc + 1000
                return acc + (value if isinstance(value, int) else len(value))
            case ["sleep", seconds]:
                self._sleep(frame, seconds)
                return acc
            case ["save"]:
                self.saved = acc
                return acc
            case ["previous"]:
                return acc + (self.previous or 0)
        raise AssertionError(step)

    def _together(self, parts: list[Callable[[], int]]) -> list[int]:
        values: list[int] = []
        waits: list[Wait] = []
        blocked = stands = False
        if not self._side_by_side:
            self.model.tick()
        self._side_by_side += 1
        for part in parts:
            try:
                values.append(part())
            except Blocked as block:
                blocked = True
                stands = stands or block.stands
                waits += block.waits
        self._side_by_side -= 1
        if blocked:
            raise Blocked(waits, stands)
        return values

    def _recorded(self, path: Path) -> Record | None:
        record = self.run.calls.get(path)
        if record is not None and record.error is not None:
            raise Failed(record.error, [path, *record.ended_by])
        return record

    def _record(self, path: Path, record: Record) -> None:
        death = self._death
        if death is not None:
            death.countdown -= 1
            if death.countdown == 0 and not death.is_after:
                raise Died
        self.run.calls[path] = record
        for each in self.run.signals:
            if each.id == record.signal:
                each.taken = True
        if death is not None and death.countdown == 0:
            raise Died

    def _order(self) -> tuple[int, int]:
        if not self._side_by_side:
            self.model.tick()
        return self.model.order

    def _task(
        self,
        frame: Frame,
        name: str,
        arguments: list[Any],
        body: Callable[[], Any],
        switch: str | None = None,
    ) -> Any:
        run, model = self.run, self.model
        path = frame.call(name, arguments)
        if (record := self._recorded(path)) is not None:
            return record.value
        key = run.thread_id, name, said(arguments)
        last = ATTEMPTS.get(name, 1)
        begun = run.in_flight.pop(path, 0)
        for attempt in range(max(begun, 1), last + 1):
            if attempt != begun:
                model.executed.append(key)
            if key in model.closed:
                run.in_flight[path] = attempt
                raise Blocked([], True)
            if switch is None or switch not in model.broken:
                value = body()
                self._record(path, Record("success", value, attempt, self._order()))
                return value
        error = f"Broken: {switch}"
        self._record(path, Record("error", None, last, self._order(), error))
        raise Failed(error, [path])

    def _inner(self, frame: Frame, script: Script, acc: int) -> int:
        path = frame.call("inner", [script, acc])
        if (record := self._recorded(path)) is not None:
            return int(record.value)
        try:
            value = self.perform(script, acc, Frame(path))
        except Failed as failure:
            record = Record("error", None, 1, self._order(), failure.error, failure.ended_by)
            self._record(path, record)
            raise Failed(failure.error, [path, *failure.ended_by]) from None
        self._record(path, Record("success", value, 1, self._order()))
        return value

    def _receive(self, frame: Frame, name: str, kind: str, timeout: float | None) -> Any:
        run, model = self.run, self.model
        path = frame.call("taskflow.receive", name)
        if (record := self._recorded(path)) is not None:
            return record.value
        deadline = None if timeout is None else run.deadlines.get(path)
        for each in run.signals:
            fits = isinstance(each.value, int if kind == "int" else str)
            came_in_time = deadline is None or each.sent.is_before(deadline)
            if each.name == name and not each.taken and fits and came_in_time:
                record = Record("success", each.value, 1, self._order(), signal=each.id)
                record.type = kind
                self._record(path, record)
                return each.value
        if timeout is not None and deadline is None:
            deadline = run.deadlines[path] = model.later(timeout)
        if deadline is not None and deadline.is_over_by(model.now):
            error = f"TimeoutError: no signal {name!r} came in {timeout:g} s"
            record = Record("error", None, 1, self._order(), error)
            record.type = kind
            self._record(path, record)
            raise Failed(error, [path])
        raise Blocked([Wait("signal", name, path, kind, deadline)], False)

    def _sleep(self, frame: Frame, seconds: float) -> None:
        run, model = self.run, self.model
        path = frame.call("taskflow.sleep", seconds)
        if self._recorded(path) is not None:
            return
        deadline = run.deadlines.get(path)
        if deadline is None:
            deadline = run.deadlines[path] = model.later(seconds)
        if seconds > SHORT and not deadline.is_over_by(model.now):
            raise Blocked([Wait("timer", "sleep", path, None, deadline)], False)
        self._record(path, Record("success", None, 1, self._order()))


class Model:
    """Two runtimes on one store, and all that is recorded there."""

    def __init__(self) -> None:
        self.runtimes = [Runtime("A"), Runtime("B")]
        self.threads: dict[str, list[Run]] = {}
        self.callers: dict[int, Caller] = {}
        self.broken: set[str] = set()  # switches: tasks of that name fail
        self.closed: set[Key] = set()  # bodies that stand still
        self.executed: list[Key] = []  # bodies, by the latest step
        self.now = Moment(0.0, 0.0)  # of the latest step
        self.slack = 0.0  # seconds within which what began in it has happened
        self.order = (0, 0)
        self.took_over: list[tuple[Run, list[Runtime]]] = []  # who did is not known
        self._numbers = Numbers(1)
        self._handles = Numbers(-1)

    # Time, and what is known of it.

    def begin_step(self, since: float, to: float) -> None:
        self.now = Moment(since, to)
        self.slack = 0.0
        self.executed = []
        self.took_over = []
        self.order = (self.order[0] + 1, 0)

    def ring(self, times: list[Moment], slack: float) -> None:
        """These times come, one after another."""
        for each in times:
            self.now = Moment(each.to, each.to)
            self.slack = slack
            self.order = (self.order[0] + 1, 0)
            self.react()

    def tick(self) -> None:
        self.order = (self.order[0], self.order[1] + 1)

    def later(self, seconds: float) -> Moment:
        return Moment(self.now.since + seconds, self.now.to + seconds + self.slack)

    def predicted(self, step: Callable[[Model], object]) -> Model:
        """What would become of a step."""
        copy = deepcopy(self)
        copy.begin_step(self.now.to, self.now.to)
        step(copy)
        return copy

    # What there is.

    def runs(self) -> Iterator[Run]:
        return itertools.chain.from_iterable(self.threads.values())

    def latest(self, thread_id: str) -> Run | None:
        runs = self.threads.get(thread_id, [])
        return next((each for each in runs if each.is_open), runs[-1] if runs else None)

    def open_run(self, thread_id: str) -> Run | None:
        latest = self.latest(thread_id)
        return None if latest is None or latest.is_final else latest

    def find(self, thread_id: str, run_id: str) -> Run | None:
        found = (run for run in self.threads.get(thread_id, []) if run.run_id == run_id)
        return next(found, None)

    def previous(self, run: Run) -> int | None:
        earlier = [
            each
            for each in self.threads[run.thread_id]
            if each.sequence < run.sequence and each.status == "success"
        ]
        if not earlier:
            return None
        return earlier[-1].result if earlier[-1].saved is None else earlier[-1].saved

    def waiting(self, run: Run, runtime: Runtime | None = None) -> list[Caller]:
        """Who waits for a run and has not been answered; in one runtime, or in any."""
        return [
            each
            for each in self.callers.values()
            if each.run is run
            and each.outcome[0] == PENDING
            and (runtime is None or (each.runtime is runtime and not each.is_elsewhere))
        ]

    def executes_elsewhere(self, run: Run, runtime: Runtime) -> bool:
        return run.is_executing and run.executor is not runtime

    def is_busy(self, thread_id: str, runtime: Runtime) -> bool:
        """Whether anybody executes the thread's run, or this runtime one that was its run."""
        latest = self.latest(thread_id)
        return thread_id in runtime.executing or bool(latest and latest.is_executing)

    # The table.

    def run(
        self,
        runtime: Runtime,
        caller_id: int,
        thread_id: str,
        workflow: str,
        script: Script,
        *,
        run_id: str | None = None,
        fresh: bool = False,
        supersede: bool = False,
        wait: bool = False,
        starts: bool = False,
        death: Death | None = None,
    ) -> Outcome:
        here = runtime.executing.get(thread_id)
        known = None if run_id is None else self.find(thread_id, run_id)
        if here is not None and run_id in (None, here.run_id) and here.is_same(workflow, script):
            return self._join(runtime, caller_id, here, wait or starts, starts)
        if here is not None and not (known is not None and known.is_final):
            return RAISES, "ThreadBusy"
        if known is not None:
            if known.status == "cancelled":
                return RAISES, "RunCancelled"
            if not known.is_same(workflow, script):
                return RAISES, "HistoryMismatch"

        latest = self.latest(thread_id)
        asked = known
        if latest is not None and known is None and run_id is None:
            is_same = latest.is_same(workflow, script) and latest.status != "cancelled"
            if is_same and not (fresh and (supersede or not latest.is_open)):
                asked = latest
        is_answered = asked is not None and asked.status == "success"
        if latest is not None and latest.is_open and asked is not latest and not is_answered:
            if self.executes_elsewhere(latest, runtime):
                return RAISES, "ThreadBusy"
            if not supersede:
                return RAISES, "RunUnfinished"
            self._cancel(latest)
        if asked is not None:
            return self._ask(runtime, caller_id, asked, wait, starts, death)
        return self._new(
            runtime, caller_id, thread_id, workflow, script, run_id, wait, starts, death
        )

    def resume(self, runtime: Runtime, caller_id: int, thread_id: str, wait: bool) -> Outcome:
        latest = self.latest(thread_id)
        if latest is None:
            return RAISES, "RunNotFound"
        here = runtime.executing.get(thread_id)
        if here is not None and here.run_id == latest.run_id:
            return self._join(runtime, caller_id, here, wait, False)
        if latest.status == "cancelled":
            return RAISES, "RunCancelled"
        if here is not None and latest.status != "success":
            return RAISES, "ThreadBusy"
        return self._ask(runtime, caller_id, latest, wait, False, None)

    def _join(
        self, runtime: Runtime, caller_id: int, run: Run, is_patient: bool, starts: bool
    ) -> Outcome:
        caller = self.callers[caller_id] = Caller(caller_id, runtime, run, is_patient)
        if starts:
            handle = Caller(next(self._handles), runtime, run, True, is_handle=True)
            self.callers[handle.id] = handle
        return caller.outcome

    def _ask(
        self,
        runtime: Runtime,
        caller_id: int,
        run: Run,
        wait: bool,
        starts: bool,
        death: Death | None,
    ) -> Outcome:
        """For a run that nobody executes here."""
        if run.status == "success":
            return VALUE, run.result
        if self.executes_elsewhere(run, runtime):
            sleeps_here = any(
                each.is_patient or each.outlasts for each in self.waiting(run, runtime)
            )
            if not wait and not (starts and sleeps_here):
                return RAISES, "ThreadBusy"
            self._join(runtime, caller_id, run, True, starts)
            self.callers[caller_id].is_elsewhere = not sleeps_here
            return self.callers[caller_id].outcome
        self._join(runtime, caller_id, run, wait or starts, starts)
        self._execute(run, runtime, death)
        self.react()
        caller = self.callers.get(caller_id)
        return (PENDING, None) if caller is None else caller.outcome

    def _new(
        self,
        runtime: Runtime,
        caller_id: int,
        thread_id: str,
        workflow: str,
        script: Script,
        run_id: str | None,
        wait: bool,
        starts: bool,
        death: Death | None,
    ) -> Outcome:
        runs = self.threads.setdefault(thread_id, [])
        sequence = runs[-1].sequence + 1 if runs else 1
        run = Run(next(self._numbers), thread_id, run_id, sequence, workflow, deepcopy(script))
        runs.append(run)
        return self._ask(runtime, caller_id, run, wait, starts, death)

    # Execution.

    def _execute(self, run: Run, runtime: Runtime, death: Death | None = None) -> None:
        """As far as it goes."""
        run.status, run.error, run.saved, run.finished = "running", None, None, None
        run.waits, run.is_woken = [], False
        run.is_owned, run.executor = True, runtime
        performance = Performance(self, run, self.previous(run), death)
        try:
            result = performance.perform(run.script, 0, Frame(()))
        except Died:
            self.die(runtime, run)
            return
        except Blocked as blocked:
            run.waits = blocked.waits
            runtime.types |= {(each.name, each.type or "") for each in blocked.waits}
            if blocked.stands:
                runtime.executing[run.thread_id] = run
                return
            self._release(run, "paused")
            for each in self.waiting(run):
                each.outlasts = not run.needs_answer
                if run.needs_answer and not each.is_patient:
                    each.outcome = RAISES, "RunPaused"
            return
        except Failed as failure:
            for path in failure.ended_by:
                run.drop(path)
            run.error = failure.error
            self._release(run, "error")
            self._answer(run, (RAISES, failure.error))
            return
        run.result, run.saved = result, performance.saved
        self._release(run, "success")
        self._answer(run, (VALUE, result))

    def _release(self, run: Run, status: str) -> None:
        """Nobody executes it any more."""
        if run.is_executing and run.executor is not None:
            del run.executor.executing[run.thread_id]
        run.status, run.executor, run.is_owned = status, None, False
        run.in_flight.clear()
        if status != "paused":
            run.waits = []
        if status != "running":
            run.finished = self.later(0.0)

    def _answer(self, run: Run, outcome: Outcome, runtime: Runtime | None = None) -> None:
        for each in self.waiting(run, runtime):
            each.outcome = outcome

    def react(self) -> None:
        """Let everything happen that happens by itself."""
        has_changed = True
        while has_changed:
            has_changed = False
            for runtime in self.runtimes:
                for run in list(runtime.executing.values()):
                    has_changed |= self._go_on(run, runtime)
            for run in list(self.runs()):
                patient = [each for each in self.waiting(run) if each.is_patient or each.outlasts]
                if run.is_executing or run.is_final or run.status == "error" or not patient:
                    continue
                for each in patient:  # whoever waited for another runtime sleeps on it now
                    each.is_elsewhere = False
                if run.status == "running" or run.is_woken or self._has_rung(run):
                    self._take_over(run, patient)
                    has_changed = True

    def _go_on(self, run: Run, runtime: Runtime) -> bool:
        """What a run that executes does now; whether that is anything."""
        is_stray = run.is_deleted or run.is_final or run.executor is not runtime
        before = len(run.calls), len(self.executed), len(run.waits)
        if is_stray:
            if not self.closed.issuperset(self._standing(run)) or self._has_rung(run):
                # Its next commit is refused.
                del runtime.executing[run.thread_id]
                self._answer(run, (RAISES, "RunCancelled"), runtime)
                return True
            return False
        self._execute(run, runtime)
        is_over = not run.is_executing
        return is_over or before != (len(run.calls), len(self.executed), len(run.waits))

    def _standing(self, run: Run) -> list[Key]:
        return [(run.thread_id, path[-1][0], path[-1][1]) for path in run.in_flight]

    def _has_rung(self, run: Run) -> bool:
        return any(
            each.deadline is not None and each.deadline.is_over_by(self.now) for each in run.waits
        )

    def _take_over(self, run: Run, patient: list[Caller]) -> None:
        candidates = list(dict.fromkeys(each.runtime for each in patient))
        if len(candidates) > 1:
            self.took_over.append((run, candidates))
        self._execute(run, candidates[0])
        if len(candidates) > 1:
            for runtime in candidates:
                runtime.types -= {(each.name, each.type or "") for each in run.waits}
                runtime.maybe |= {(each.name, each.type or "") for each in run.waits}

    def executes_in(self, run: Run, runtime: Runtime) -> None:
        """Which of those that could take it over has."""
        if run.is_executing and run.executor is not None and run.executor is not runtime:
            del run.executor.executing[run.thread_id]
            run.executor = runtime
            runtime.executing[run.thread_id] = run

    # What ends runs, or cuts them off.

    def _cancel(self, run: Run) -> None:
        """For good; whoever executes it notices soon."""
        self._answer(run, (RAISES, "RunCancelled"))
        self._release(run, "cancelled")

    def cancel(self, runtime: Runtime, thread_id: str) -> Outcome:
        run = self.latest(thread_id)
        is_open = run is not None and not run.is_final
        if run is not None and is_open:
            self._cancel(run)
        # That one, or one that was ended elsewhere before.
        here = runtime.executing.pop(thread_id, None)
        if here is not None:
            here.waits = []
            here.in_flight.clear()
            self._answer(here, (RAISES, "RunCancelled"), runtime)
        self.react()
        is_cancelled = run is not None and run.status == "cancelled"
        return (VALUE, None) if is_cancelled else (RAISES, "RunNotFound")

    def abandon(self, caller_id: int) -> None:
        """A caller is cancelled; the last one takes the execution with him."""
        caller = self.callers.pop(caller_id)
        run, runtime = caller.run, caller.runtime
        executes = runtime.executing.get(run.thread_id) is run and not caller.is_elsewhere
        if executes and not self.waiting(run, runtime):
            self._cut_off(run, runtime)
        self.react()

    def _cut_off(self, run: Run, runtime: Runtime) -> None:
        if run.executor is runtime and not run.is_final and not run.is_deleted:
            self._release(run, "running")
        else:
            runtime.executing.pop(run.thread_id, None)
            run.in_flight.clear()
            run.waits = []

    def close(self, runtime: Runtime) -> None:
        """Close it, and open it again."""
        for run in list(runtime.executing.values()):
            is_stray = run.is_deleted or run.is_final
            self._cut_off(run, runtime)
            error = "RunCancelled" if is_stray else "RunUnfinished"
            self._answer(run, (RAISES, error), runtime)
        for each in self.callers.values():
            if each.runtime is runtime and each.outcome[0] == PENDING:
                each.outcome = RAISES, "RunUnfinished"
        runtime.types, runtime.maybe = set(), set()
        self.react()

    def die(self, runtime: Runtime, executing: Run | None = None) -> None:
        """Its process is killed, and started again; those who called it are gone."""
        runs = [each for each in runtime.executing.values() if each.executor is runtime]
        runtime.executing.clear()
        for run in [*runs, *([executing] if executing is not None else [])]:
            run.in_flight.clear()
            run.waits = []
            if not run.is_final and not run.is_deleted:
                run.status = "running"
        for each in list(self.callers.values()):
            if each.runtime is runtime:
                del self.callers[each.id]
        runtime.types, runtime.maybe = set(), set()
        self.react()

    def delete(self, runtime: Runtime, thread_id: str) -> Outcome:
        if self.is_busy(thread_id, runtime):
            return RAISES, "ThreadBusy"
        if thread_id not in self.threads:
            return RAISES, "RunNotFound"
        for run in self.threads.pop(thread_id):
            self._is_gone(run)
        return VALUE, None

    def _is_gone(self, run: Run) -> None:
        run.is_deleted = True
        for each in self.waiting(run):
            stray = each.runtime.executing.get(run.thread_id) is run and not each.is_elsewhere
            if not stray:
                each.outcome = RAISES, "RunNotFound"

    # Signals, switches, gates and times.

    def send(
        self, runtime: Runtime, thread_id: str, name: str, value: Any, id: str | None
    ) -> set[Outcome]:
        """What may come of it: more than one where it depends on who was faster."""
        outcomes: set[Outcome] = {(VALUE, None)}
        here = runtime.executing.get(thread_id)
        asked: list[str] = []
        fits = "int" if isinstance(value, int) else "str"
        run = here if here is not None else self.latest(thread_id)
        if run is not None and (here is not None or run.status == "paused"):
            asked = [each.type or "" for each in run.waits if each.name == name]
        if asked and fits not in asked:
            known = runtime.types if here is None else runtime.types | {(name, e) for e in asked}
            if all((name, each) in known for each in asked):
                return {(RAISES, "SerializationError")}
            if all((name, each) in known | runtime.maybe for each in asked):
                outcomes.add((RAISES, "SerializationError"))
        open_run = self.open_run(thread_id)
        held = [
            (each, signal)
            for each in self.threads.get(thread_id, [])
            for signal in each.signals
            if id is not None and signal.id == f"{name}={id}"
        ]
        for owner, signal in held:
            if signal.taken or owner is open_run:
                return outcomes
        if open_run is None:
            return {(RAISES, "RunNotFound"), *outcomes} - {(VALUE, None)}
        return outcomes

    def sent(self, thread_id: str, name: str, value: Any, id: str | None) -> None:
        """The signal was not refused."""
        open_run = self.open_run(thread_id)
        full = f"{name}={id}" if id is not None else f"{name}#{next(self._numbers)}"
        for run in self.threads.get(thread_id, []):
            for each in list(run.signals):
                if each.id == full:
                    if each.taken or run is open_run:
                        return
                    run.signals.remove(each)
        assert open_run is not None
        open_run.signals.append(Signal(full, name, value, self.now))
        open_run.is_woken = True
        self.react()

    def turn(self, switch: str) -> None:
        self.broken ^= {switch}

    def open(self, key: Key) -> None:
        self.closed.discard(key)
        self.react()

    def deadlines(self) -> list[Moment]:
        """All times that somebody waits for, or may wait for again."""
        return [each for run in self.runs() for each in run.deadlines.values()]

    # History.

    def forget(self, runtime: Runtime, thread_id: str, run: Run | None, path: Path) -> Outcome:
        if self.is_busy(thread_id, runtime):
            return RAISES, "ThreadBusy"
        if run is None or path not in run.calls:
            return RAISES, "RunNotFound"
        for each in run.chain(path):
            run.drop(each)
        self._reopen(run)
        return VALUE, None

    def replace(
        self, runtime: Runtime, thread_id: str, run: Run | None, path: Path, value: Any
    ) -> Outcome:
        if thread_id in runtime.executing:
            return RAISES, "ThreadBusy"
        if run is None or path not in run.calls:
            return RAISES, "RunNotFound"
        if self.is_busy(thread_id, runtime):
            return RAISES, "ThreadBusy"
        record = run.calls[path]
        record.status, record.value, record.error, record.ended_by = "success", value, None, []
        for each in run.chain(path)[1:]:
            run.drop(each)
        self._reopen(run)
        return VALUE, None

    def _reopen(self, run: Run) -> None:
        if run is self.latest(run.thread_id) and run.status == "success":
            run.status, run.result, run.saved, run.finished = "running", None, None, None

    def fork(
        self, source: Run | None, thread_id: str, to: str, without: list[Path], unknown: bool
    ) -> Outcome:
        if to in self.threads:
            return RAISES, "ThreadExists"
        if source is None or unknown:
            return RAISES, "RunNotFound"
        copies: list[Run] = []
        earlier = [
            each
            for each in self.threads[thread_id]
            if each.sequence < source.sequence and each.status == "success"
        ]
        if earlier:
            copies.append(self._copy(earlier[-1], to))
            copies[0].calls, copies[0].deadlines, copies[0].signals = {}, {}, []
        copy = self._copy(source, to)
        copies.append(copy)
        for path in without:
            for each in copy.chain(path):
                copy.drop(each)
        if source.status != "success" or without:
            copy.status, copy.result, copy.error, copy.saved = "running", None, None, None
            copy.finished = None
        copy.waits = []
        self.threads[to] = copies
        return VALUE, copy.status

    def adopt(self, thread_id: str, to: str) -> Outcome:
        """An export, imported under another id."""
        if thread_id not in self.threads:
            return RAISES, "RunNotFound"
        if to in self.threads:
            return RAISES, "ThreadExists"
        copies = [self._copy(each, to) for each in self.threads[thread_id]]
        for each in copies:
            if each.status != "paused":
                each.waits = []
        self.threads[to] = copies
        return VALUE, to

    def _copy(self, run: Run, to: str) -> Run:
        executor, run.executor = run.executor, None
        copy = deepcopy(run)
        run.executor = executor
        copy.number, copy.thread_id = next(self._numbers), to
        copy.is_owned = copy.is_woken = False
        copy.in_flight = {}
        return copy

    def prune(self, statuses: set[str], keep_last: int, before: float | None) -> tuple[int, int]:
        """How many runs and how many rows of theirs have gone."""
        runs_gone = rows_gone = 0
        for thread_id, runs in list(self.threads.items()):
            doomed = [
                run
                for index, run in enumerate(runs)
                if index < len(runs) - keep_last
                and run.status in statuses
                and (before is None or (run.finished is not None and run.finished.to < before))
            ]
            staying = [run for run in runs if run not in doomed]
            successes = [run for run in runs if run.status == "success"]
            needed = [
                [each for each in successes if each.sequence < run.sequence][-1:] for run in staying
            ]
            kept = [each for found in needed for each in found]
            if successes and (staying or successes[-1].saved is not None):
                kept.append(successes[-1])
            for run in doomed:
                rows_gone += run.rows
                if run in kept:
                    run.calls, run.deadlines, run.signals = {}, {}, []
                else:
                    runs_gone += 1
                    runs.remove(run)
                    self._is_gone(run)
            if not runs:
                del self.threads[thread_id]
        return runs_gone, rows_gone
