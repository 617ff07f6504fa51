"""Two runtimes on one store, and a model of them in plain Python: equal after every step."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as explore
from kinds import MakeStore
from model import PENDING, VALUE, Death, Key, Model, Moment, Outcome, Path, Run, said
from model import Runtime as ModelRuntime
from processes import ENVIRONMENT
from scripts import WORKFLOWS, board
from stage import PATIENCE, SETTLE, Caller, Stage

from taskflow import MemoryStore, RunPaused, SQLiteStore

STEP = 10.0  # virtual seconds: more than any step takes
THREADS = ["t0", "t1", "t2", "t3"]

# What tells the calls of one name apart.
PARAMETERS = {
    "add": ["acc", "number"],
    "note": ["text"],
    "double": ["number"],
    "flaky": ["switch", "acc"],
    "stubborn": ["switch", "acc"],
    "inner": ["script", "acc"],
    "taskflow.receive": ["name"],
    "taskflow.sleep": ["seconds"],
}

PROGRAM = File(__file__).with_name("scripts.py")


# Scripts.

HANDLED = st.booleans()
SWITCHES = st.sampled_from(["f", "g"])
KINDS = st.sampled_from(["int", "str"])
TIMEOUTS = st.sampled_from([None, 200, 2000])
NUMBERS = st.integers(1, 3)


def safe_steps(signal: str) -> st.SearchStrategy[list[Any]]:
    """Steps that cannot fail."""
    return st.one_of(
        st.builds(lambda number: ["add", number], NUMBERS),
        st.builds(lambda text: ["note", text], st.sampled_from("xy")),
        st.builds(lambda numbers: ["fan", numbers], st.lists(NUMBERS, min_size=2, unique=True)),
        st.builds(lambda seconds: ["sleep", seconds], st.sampled_from([0.5, 100, 1000])),
        st.builds(lambda kind, limit: ["receive", signal, kind, limit], KINDS, TIMEOUTS),
        st.just(["previous"]),
    )


def arms() -> st.SearchStrategy[list[Any]]:
    left, right = (st.lists(safe_steps(signal), min_size=1, max_size=3) for signal in ("a", "b"))
    return st.builds(
        lambda one, other: ["both", [["note", "left"], *one], [["note", "right"], *other]],
        left,
        right,
    )


def steps(depth: int) -> st.SearchStrategy[list[Any]]:
    failing = st.builds(
        lambda name, switch, handled: [name, switch, handled],
        st.sampled_from(["flaky", "stubborn"]),
        SWITCHES,
        HANDLED,
    )
    if depth == 0:
        return st.one_of(safe_steps("go"), failing)
    nested = st.builds(
        lambda handled, script: ["inner", handled, script],
        HANDLED,
        st.lists(steps(depth - 1), min_size=1, max_size=3),
    )
    return st.one_of(safe_steps("go"), failing, nested, arms())


# Small ones in which a lot may happen.
WELL_KNOWN: list[Any] = [
    [["add", 1], ["add", 2], ["add", 3]],
    [["previous"], ["add", 1], ["save"], ["add", 2]],
    [["previous"], ["note", "x"], ["note", "y"], ["note", "x"], ["add", 1]],
    [["fan", [1, 2, 3]], ["add", 1], ["previous"]],
    [["inner", False, [["add", 1], ["inner", False, [["add", 2], ["note", "x"]]]]], ["add", 3]],
    [["inner", True, [["note", "x"], ["inner", False, [["flaky", "f", False]]]]], ["add", 1]],
    [["add", 1], ["inner", False, [["add", 1], ["stubborn", "f", False]]], ["add", 2]],
    [["flaky", "f", True], ["add", 1], ["flaky", "g", False], ["save"]],
    [["receive", "go", "int", None], ["add", 1], ["receive", "go", "str", None]],
    [["add", 1], ["receive", "go", "int", 200], ["receive", "go", "int", 200], ["add", 2]],
    [["inner", False, [["receive", "go", "str", 2000], ["add", 1]]], ["sleep", 100], ["add", 1]],
    [["sleep", 100], ["add", 1], ["sleep", 100], ["save"], ["sleep", 0.5]],
    [
        ["both", [["note", "left"], ["receive", "a", "int", 200], ["add", 1]], [["note", "right"]]],
        ["add", 1],
    ],
    [
        [
            "both",
            [["note", "left"], ["add", 1], ["sleep", 100], ["add", 2]],
            [["note", "right"], ["receive", "b", "str", None], ["add", 3]],
        ]
    ],
]
SCRIPTS = st.one_of(
    st.sampled_from(WELL_KNOWN),
    st.sampled_from(WELL_KNOWN),
    st.lists(st.one_of(steps(2), st.just(["save"])), min_size=1, max_size=4),
)


def has_threads(machine: Machine) -> bool:
    """Whether there is anything to ask about."""
    return bool(machine.model.threads)


PRUNED = st.sets(st.sampled_from(["success", "cancelled", "error", "paused"]), min_size=1)


class Machine(RuleBasedStateMachine):
    """Each step is done by a runtime and by the model; then both are compared."""

    backend = "asyncio"
    on_disk = False
    is_long = False
    examples = steps = bodies = 0  # how many there were

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        self.folder = tempfile.mkdtemp() if self.on_disk else None
        self.stage = Stage(self.backend, self.make_store())
        self.model = Model()
        self.numbers = itertools.count(1)
        self.ids: dict[tuple[str, Path], str] = {}  # task ids, by run id and path
        self.paths: dict[tuple[str, str], Path] = {}
        self.scripts: list[Any] = []
        self.observers = itertools.cycle([0, 1])
        board.closed.clear()
        board.broken.clear()
        board.tell = self.stage.executed.append
        now = self.stage.now()
        self.model.begin_step(now, now)

    @property
    def db(self) -> str:
        """The database."""
        assert self.folder is not None
        return os.path.join(self.folder, "taskflow.db")

    def make_store(self) -> MakeStore:
        """Opens the same records again and again."""
        if self.on_disk:
            # Nobody loses power here.
            return lambda: SQLiteStore(self.db, synchronous="NORMAL")
        memory = MemoryStore()
        return lambda: memory

    def teardown(self) -> None:
        self.stage.end()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    @initialize(scripts=st.lists(SCRIPTS, min_size=2, max_size=3), data=st.data())
    def write(self, scripts: list[Any], data: st.DataObject) -> None:
        """There is something to run, and something was run."""
        self.scripts = scripts
        self.begin(0, data, stops=data.draw(st.booleans(), "stops"))

    # How a step is done.

    def step(self, work: Callable[[], Awaitable[Any]], then: Callable[[Any], Any]) -> None:
        """Do it, tell the model what it was, and compare."""
        before = self.stage.now()
        self.stage.executed.clear()
        done = self.stage.do(work)
        self.model.begin_step(before, self.stage.now())
        then(done)
        self.compare()
        type(self).steps += 1
        type(self).bodies += len(self.model.executed)

    def ask(
        self,
        ask: Callable[[], Awaitable[Any]],
        expected: Callable[[int], Outcome | set[Outcome]],
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Have a runtime asked, and the model; both come to the same."""
        self.pass_deadlines()
        number = next(self.numbers)

        def check(caller: Caller) -> None:
            outcome = expected(number)
            allowed = outcome if isinstance(outcome, set) else {outcome}
            assert caller.outcome in allowed, (caller.outcome, allowed, caller.error)
            if caller.outcome == (VALUE, None):
                then()

        self.step(lambda: self.stage.ask(number, ask), check)

    def pass_deadlines(self) -> None:
        """None comes in the middle of the next step."""
        while (times := self.times()) and times[0].since <= self.stage.now() + STEP:
            self.jump()

    def times(self) -> list[Moment]:
        """The deadlines that have not come, the first one first."""
        now = self.stage.now()
        times = [each for each in self.model.deadlines() if each.to >= now]
        return sorted(times, key=lambda each: each.to)

    def jump(self) -> None:
        """To the next deadline, and those that come shortly after it."""
        near: list[Moment] = []
        for each in self.times():
            if not near or each.since <= near[-1].to + STEP:
                near.append(each)
        seconds = near[-1].to - self.stage.now()
        self.step(lambda: self.stage.settle(seconds), lambda _: self.model.ring(near, SETTLE))

    def pass_time(self, seconds: float) -> None:
        self.step(lambda: self.stage.settle(seconds), lambda _: self.model.react())

    # What is compared.

    def compare(self) -> None:
        observer = next(self.observers)
        seen = self.stage.do(lambda: self.observe(observer))
        assert Counter(self.stage.executed) == Counter(self.model.executed)
        for run, candidates in self.model.took_over:
            faster = [each for each in candidates if run.thread_id in seen["progress"][each.name]]
            if run.is_executing and faster:
                self.model.executes_in(run, faster[0])
        self.compare_runs(seen)
        # In this order: what is recorded tells whose calls those are that wait.
        for run in list(self.model.runs()):
            self.compare_calls(run, seen)
        for run, record in self.records(seen):
            waits = record.waits
            if run.is_executing and run.executor is not None:
                waits = seen["live"][run.thread_id, run.run_id][run.executor.name]
            self.compare_waits(run, waits)
        for thread_id, orders in self.orders(seen).items():
            assert orders == sorted(orders), thread_id
        self.compare_callers()
        for runtime in self.model.runtimes:
            assert seen["progress"][runtime.name] == set(runtime.executing), runtime.name

    async def observe(self, observer: int) -> dict[str, Any]:
        runtime = self.stage.runtimes[observer]
        seen: dict[str, Any] = {
            "runs": await runtime.runs(limit=1000),
            "signals": {},
            "tasks": {},
            "live": {},
        }
        for record in seen["runs"]:
            key = record.thread_id, record.run_id
            rows = await self.stage.stores[observer].signals(*key, 0)
            seen["signals"][key] = [(each.name, json.loads(each.payload)) for each in rows]
        for thread_id in {record.thread_id for record in seen["runs"]}:
            seen["tasks"][thread_id] = await runtime.tasks(thread_id)
        seen["progress"] = {}
        for each, model in zip(self.stage.runtimes, self.model.runtimes, strict=True):
            executing = {name for name in THREADS if each._progress(name) is not None}
            seen["progress"][model.name] = executing
            for thread_id in executing & set(seen["tasks"]):
                record = await each.get(thread_id)
                if record.owner is not None:
                    seen["live"].setdefault((thread_id, record.run_id), {})[model.name] = (
                        record.waits
                    )
        return seen

    def records(self, seen: dict[str, Any]) -> list[tuple[Run, Any]]:
        """Every run of the model, beside its record."""
        newest_first = sorted(self.model.runs(), key=lambda run: -run.number)
        assert len(seen["runs"]) == len(newest_first)
        return list(zip(newest_first, seen["runs"], strict=True))

    def compare_runs(self, seen: dict[str, Any]) -> None:
        for run, record in self.records(seen):
            if run.run_id is None:
                assert record.run_id not in {each.run_id for each in self.model.runs()}
                run.run_id = record.run_id
            assert (record.thread_id, record.run_id) == (run.thread_id, run.run_id)
            about = {
                "sequence": (record.sequence, run.sequence),
                "workflow": (record.workflow, run.workflow),
                "status": (record.status, run.status),
                "input": (record.input, {"script": run.script}),
                "result": (record.result, run.result),
                "error": (plain(record.error), run.error),
                "owner": (record.owner is not None, run.is_owned),
            }
            assert {name: both[0] for name, both in about.items()} == {
                name: both[1] for name, both in about.items()
            }, run.thread_id
            assert (record.finished is None) == (run.finished is None)
            if run.finished is not None:
                assert run.finished.since <= record.finished <= run.finished.to
                run.finished = Moment(record.finished, record.finished)

    def compare_waits(self, run: Run, waits: list[Any]) -> None:
        left = list(run.waits) if run.status == "paused" or run.is_executing else []
        for each in waits:
            known = self.paths.get((str(run.run_id), each.task_id))
            (wait,) = [
                wait
                for wait in left
                if (wait.kind, wait.name, wait.type) == (each.kind, each.name, each.type)
                and known in (None, wait.path)
                and (known is not None or (str(run.run_id), wait.path) not in self.ids)
                and self.is_parent(run, wait.path, each.parent_id)
            ][:1] or pytest.fail(f"{each} is none of {left}")
            left.remove(wait)
            self.learn(run, wait.path, each.task_id, each.parent_id)
            assert (each.deadline is None) == (wait.deadline is None)
            if wait.deadline is not None:
                assert wait.deadline.since <= each.deadline <= wait.deadline.to
                wait.deadline.since = wait.deadline.to = each.deadline
        assert not left

    def compare_calls(self, run: Run, seen: dict[str, Any]) -> None:
        run_id = str(run.run_id)
        untaken = [(each.name, each.value) for each in run.signals if not each.taken]
        assert seen["signals"][run.thread_id, run_id] == untaken
        records = [each for each in seen["tasks"][run.thread_id] if each.run_id == run_id]
        assert len(records) == len(run.calls), (records, run.calls)
        for record in records:
            path = self.paths.get((run_id, record.task_id)) or self.found(run, record)
            assert path in run.calls, record
            call = run.calls[path]
            self.learn(run, path, record.task_id, record.parent_id)
            assert (record.status, record.value, record.attempts, plain(record.error)) == (
                call.status,
                call.value,
                call.attempts,
                call.error,
            )

    def found(self, run: Run, record: Any) -> Path:
        """The call that a record must be of which was not seen before."""
        arguments: Any = [record.arguments[name] for name in PARAMETERS[record.name]]
        if record.name.startswith("taskflow."):
            (arguments,) = arguments
        for path in run.calls:
            is_new = (str(run.run_id), path) not in self.ids
            is_like = path[-1][:2] == (record.name, said(arguments))
            if is_new and is_like and self.is_parent(run, path, record.parent_id):
                return path
        raise AssertionError(f"{record} is not expected")

    def is_parent(self, run: Run, path: Path, parent_id: str | None) -> bool:
        if parent_id is None or len(path) == 1:
            return parent_id is None and len(path) == 1
        known = self.ids.get((str(run.run_id), path[:-1]))
        return (
            known in (None, parent_id)
            and self.paths.get((str(run.run_id), parent_id), path[:-1]) == path[:-1]
        )

    def learn(self, run: Run, path: Path, task_id: str, parent_id: str | None) -> None:
        """A call has one id for ever, on whatever thread, and no other call has it."""
        run_id = str(run.run_id)
        assert self.ids.setdefault((run_id, path), task_id) == task_id
        assert self.paths.setdefault((run_id, task_id), path) == path
        assert task_id.startswith(f"{path[-1][0]}:")
        if parent_id is not None:
            assert self.ids.setdefault((run_id, path[:-1]), parent_id) == parent_id
            assert self.paths.setdefault((run_id, parent_id), path[:-1]) == path[:-1]

    def orders(self, seen: dict[str, Any]) -> dict[str, list[tuple[int, int]]]:
        """What was recorded one after another, in the order of the records."""
        orders: dict[str, list[tuple[int, int]]] = {}
        for thread_id, records in seen["tasks"].items():
            runs = {run.run_id: run for run in self.model.threads[thread_id]}
            orders[thread_id] = [
                runs[each.run_id].calls[self.paths[each.run_id, each.task_id]].order
                for each in records
            ]
        return orders

    def compare_callers(self) -> None:
        for number, caller in list(self.model.callers.items()):
            if number < 0:
                if caller.outcome[0] != PENDING:
                    del self.model.callers[number]
                continue
            real = self.stage.callers[number]
            assert real.outcome == caller.outcome, (number, caller, real.error)
            if isinstance(real.error, RunPaused):
                told = Counter((each.kind, each.name, each.type) for each in real.error.waits)
                assert told == Counter(
                    (each.kind, each.name, each.type) for each in caller.run.waits
                )
            if caller.outcome[0] != PENDING:
                del self.model.callers[number]

    # Steps.

    runtimes = st.integers(0, 1)

    def thread(self, data: st.DataObject) -> str:
        """A thread, which is there more often than not."""
        there = sorted(self.model.threads)
        if there and data.draw(st.integers(0, 9), "another"):
            return data.draw(st.sampled_from(there), "thread")
        return data.draw(st.sampled_from(THREADS[:2]), "thread")

    def call(self, thread_id: str, data: st.DataObject) -> tuple[str, Any]:
        """A workflow and its script: often those of the thread's latest run."""
        latest = self.model.latest(thread_id)
        if latest is not None and data.draw(st.integers(0, 3), "another") < 3:
            return latest.workflow, latest.script
        script = data.draw(st.sampled_from(self.scripts), "script")
        return data.draw(st.sampled_from(["play", "play", "encore"]), "workflow"), script

    @rule(number=runtimes, wait=st.booleans(), data=st.data())
    def run(self, number: int, wait: bool, data: st.DataObject) -> None:
        self.begin(number, data, wait=wait)

    @rule(number=runtimes, wait=st.booleans(), starts=st.booleans(), data=st.data())
    def run_until_a_body_stands(
        self, number: int, wait: bool, starts: bool, data: st.DataObject
    ) -> None:
        self.begin(number, data, wait=wait, starts=starts, stops=True)

    @rule(number=runtimes, data=st.data())
    def start(self, number: int, data: st.DataObject) -> None:
        self.begin(number, data, starts=True)

    @rule(
        number=runtimes,
        run_id=st.sampled_from([None, "m1", "m2"]),
        supersede=st.booleans(),
        wait=st.booleans(),
        stops=st.booleans(),
        data=st.data(),
    )
    def run_this(
        self,
        number: int,
        run_id: str | None,
        supersede: bool,
        wait: bool,
        stops: bool,
        data: st.DataObject,
    ) -> None:
        fresh = run_id is None and data.draw(st.booleans(), "fresh")
        self.begin(number, data, run_id, supersede, fresh=fresh, wait=wait, stops=stops)

    def begin(
        self,
        number: int,
        data: st.DataObject,
        run_id: str | None = None,
        supersede: bool = False,
        *,
        fresh: bool = False,
        wait: bool = False,
        starts: bool = False,
        stops: bool = False,
        thread_id: str | None = None,
    ) -> None:
        """Run a workflow; with ``stops`` up to one of its bodies, which stands still."""
        self.pass_deadlines()
        thread_id = thread_id or self.thread(data)
        workflow, script = self.call(thread_id, data)
        wait = wait and not starts

        def modelled(model: Model, caller_id: int) -> Outcome:
            return model.run(
                model.runtimes[number],
                caller_id,
                thread_id,
                workflow,
                script,
                run_id=run_id,
                fresh=fresh,
                supersede=supersede,
                wait=wait,
                starts=starts,
            )

        if stops:
            bodies = self.model.predicted(lambda model: modelled(model, 0)).executed
            bodies = [key for key in bodies if key not in self.model.closed]
            if bodies:
                self.close_gate(bodies[data.draw(st.integers(0, len(bodies) - 1), "stops at")])

        async def ask() -> Any:
            runtime = self.stage.runtimes[number]
            call = WORKFLOWS[workflow](script)
            options: dict[str, Any] = {
                "thread_id": thread_id,
                "run_id": run_id,
                "fresh": fresh,
                "supersede": supersede,
            }
            if starts:
                return await (await runtime.start(call, **options)).result()
            return await runtime.run(call, **options, wait=wait)

        self.ask(ask, lambda caller_id: modelled(self.model, caller_id))

    def close_gate(self, key: Key) -> None:
        async def close() -> None:
            board.closed[key] = anyio.Event()

        self.model.closed.add(key)
        self.stage.do(close)

    @precondition(has_threads)
    @rule(number=runtimes, wait=st.booleans(), data=st.data())
    def resume(self, number: int, wait: bool, data: st.DataObject) -> None:
        thread_id = self.thread(data)
        self.ask(
            lambda: self.stage.runtimes[number].resume(thread_id, wait=wait),
            lambda caller: self.model.resume(self.model.runtimes[number], caller, thread_id, wait),
        )

    @precondition(lambda self: self.model.closed)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A body that stands still ends."""
        self.pass_deadlines()
        if not self.model.closed:
            return
        key = data.draw(st.sampled_from(sorted(self.model.closed)), "body")

        async def open() -> None:
            board.closed.pop(key).set()
            await self.stage.settle()

        self.step(open, lambda _: self.model.open(key))

    @rule(switch=SWITCHES)
    def turn(self, switch: str) -> None:
        board.broken ^= {switch}
        self.model.turn(switch)

    @precondition(lambda self: any(number > 0 for number in self.model.callers))
    @rule(natively=st.booleans(), data=st.data())
    def leave(self, natively: bool, data: st.DataObject) -> None:
        """A caller is cancelled."""
        self.pass_deadlines()
        callers = [number for number in self.model.callers if number > 0]
        if not callers:
            return
        number = data.draw(st.sampled_from(callers), "caller")

        async def cancel() -> None:
            self.stage.callers.pop(number).cancel(natively=natively)
            await self.stage.settle()

        self.step(cancel, lambda _: self.model.abandon(number))

    @precondition(has_threads)
    @rule(
        number=runtimes,
        name=st.sampled_from(["go", "go", "a", "b"]),
        value=st.sampled_from([7, 8, "word"]),
        id=st.sampled_from([None, "i1", "i2"]),
        data=st.data(),
    )
    def send(self, number: int, name: str, value: Any, id: str | None, data: st.DataObject) -> None:
        thread_id = self.thread(data)
        self.ask(
            lambda: self.stage.runtimes[number].send(thread_id, name, value, id=id),
            lambda _: self.model.send(self.model.runtimes[number], thread_id, name, value, id),
            lambda: self.model.sent(thread_id, name, value, id),
        )

    @precondition(has_threads)
    @rule(number=runtimes, data=st.data())
    def end(self, number: int, data: st.DataObject) -> None:
        """A run is ended, or what has ended is deleted."""
        end = data.draw(st.sampled_from(["cancel", "cancel", "prune", "prune", "delete"]), "end")
        self.pass_deadlines()
        if end == "prune":
            self.prune(number, data)
        elif end == "cancel":
            self.cancel(number, self.thread(data))
        else:
            self.delete(number, self.thread(data))

    def cancel(self, number: int, thread_id: str) -> None:
        self.ask(
            lambda: self.stage.runtimes[number].cancel(thread_id),
            lambda _: self.model.cancel(self.model.runtimes[number], thread_id),
        )

    def delete(self, number: int, thread_id: str) -> None:
        self.ask(
            lambda: self.stage.runtimes[number].delete(thread_id),
            lambda _: self.model.delete(self.model.runtimes[number], thread_id),
        )

    def recorded(self, thread_id: str, data: st.DataObject) -> tuple[Run | None, Path, str]:
        """A recorded call of a thread, or one that is not there."""
        calls = [(run, path) for run in self.model.threads.get(thread_id, []) for path in run.calls]
        if not calls or data.draw(st.integers(0, 9), "unknown") == 0:
            return None, (), "add:0123"
        run, path = calls[data.draw(st.integers(0, len(calls) - 1), "call")]
        return run, path, self.ids[str(run.run_id), path]

    @precondition(has_threads)
    @rule(number=runtimes, replaces=st.booleans(), reruns=st.booleans(), data=st.data())
    def change(self, number: int, replaces: bool, reruns: bool, data: st.DataObject) -> None:
        """A recorded call is forgotten or replaced; then its run may be run again."""
        self.pass_deadlines()
        thread_id = self.thread(data)
        if replaces:
            self.replace(number, thread_id, data)
        else:
            self.forget(number, thread_id, data)
        if reruns:
            self.begin(number, data, thread_id=thread_id)

    def forget(self, number: int, thread_id: str, data: st.DataObject) -> None:
        run, path, task_id = self.recorded(thread_id, data)
        self.ask(
            lambda: self.stage.runtimes[number].forget(thread_id, task_id),
            lambda _: self.model.forget(self.model.runtimes[number], thread_id, run, path),
        )

    def replace(self, number: int, thread_id: str, data: st.DataObject) -> None:
        run, path, task_id = self.recorded(thread_id, data)
        value: Any = data.draw(st.integers(50, 52), "value")
        if run is not None:
            name = run.calls[path].type or path[-1][0]
            value = {"str": "new", "note": "new", "taskflow.sleep": None}.get(name, value)
        self.ask(
            lambda: self.stage.runtimes[number].replace(thread_id, task_id, value),
            lambda _: self.model.replace(self.model.runtimes[number], thread_id, run, path, value),
        )

    @precondition(has_threads)
    @rule(
        number=runtimes,
        other=runtimes,
        to=st.sampled_from(THREADS),
        forks=st.booleans(),
        reruns=st.booleans(),
        data=st.data(),
    )
    def copy(
        self, number: int, other: int, to: str, forks: bool, reruns: bool, data: st.DataObject
    ) -> None:
        """A thread is copied to another one; then that may be run."""
        self.pass_deadlines()
        thread_id = self.thread(data)
        if forks:
            self.fork(number, thread_id, to, data)
        else:
            self.move(number, other, thread_id, to)
        if reruns:
            self.begin(other, data, thread_id=to)

    def fork(self, number: int, thread_id: str, to: str, data: st.DataObject) -> None:
        runs = self.model.threads.get(thread_id, [])
        run = data.draw(st.sampled_from(runs), "run") if runs else None
        names_it = run is None or run is not runs[-1] or data.draw(st.booleans(), "by its id")
        run_id = "unknown" if run is None else run.run_id
        paths: list[Path] = []
        if run is not None and run.calls:
            paths = data.draw(st.lists(st.sampled_from(list(run.calls)), max_size=2), "without")
        without = [self.ids[str(run_id), path] for path in paths]
        unknown = data.draw(st.integers(0, 9), "unknown") == 0
        if unknown:
            without.append("add:0123")

        async def ask() -> Any:
            record = await self.stage.runtimes[number].fork(
                thread_id, to=to, run_id=run_id if names_it else None, without=without
            )
            return str(record.status)

        self.ask(ask, lambda _: self.model.fork(run, thread_id, to, paths, unknown))

    def move(self, number: int, other: int, thread_id: str, to: str) -> None:
        """Exported by one runtime, imported by another one."""

        async def ask() -> Any:
            lines = [line async for line in self.stage.runtimes[number].export(thread_id)]
            return await self.stage.runtimes[other].import_thread(lines, to=to)

        self.ask(ask, lambda _: self.model.adopt(thread_id, to))

    def prune(self, number: int, data: st.DataObject) -> None:
        statuses = data.draw(PRUNED, "statuses")
        keep_last = data.draw(st.integers(0, 2), "keep last")
        ends = sorted({run.finished.to for run in self.model.runs() if run.finished is not None})
        before = data.draw(st.sampled_from([None, *ends]), "before")
        before = None if before is None else before + 0.001

        async def ask() -> Any:
            pruned = await self.stage.runtimes[number].prune(
                finished_before=None if before is None else datetime.fromtimestamp(before, UTC),
                status=statuses,
                keep_last=keep_last,
            )
            return pruned.runs, pruned.checkpoints

        self.ask(ask, lambda _: (VALUE, self.model.prune(statuses, keep_last, before)))

    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        """Time passes, up to one of the deadlines, or for a while."""
        self.pass_deadlines()
        times = [each.to for each in self.times()]
        until = data.draw(st.integers(0, len(times)), "until")
        if until == len(times):
            self.pass_time(1.0)
            return
        while (first := self.times()) and first[0].to <= times[until]:
            self.jump()

    @rule(number=runtimes, dies=st.booleans())
    def reopen(self, number: int, dies: bool) -> None:
        """A runtime is closed, or its process dies; then it is there again."""
        self.pass_deadlines()
        runtime = self.model.runtimes[number]
        then = self.model.die if dies else self.model.close
        self.step(lambda: self.stage.reopen(number, dies=dies), lambda _: then(runtime))

    @rule(number=runtimes, is_after=st.booleans(), data=st.data())
    def die(self, number: int, is_after: bool, data: st.DataObject) -> None:
        """The process dies while it records a call: before that is durable, or after."""
        self.pass_deadlines()
        thread_id = self.thread(data)
        workflow, script = self.call(thread_id, data)
        if is_parallel(script):
            return
        runtime = self.model.runtimes[number]
        if runtime.executing:
            return  # the same: other runs record something
        death = Death(data.draw(st.integers(1, 4), "at record"), is_after)

        def modelled(model: Model, death: Death | None) -> Outcome:
            return model.run(model.runtimes[number], 0, thread_id, workflow, script, death=death)

        copy = Death(death.countdown, is_after)
        self.model.predicted(lambda model: modelled(model, copy))
        if copy.countdown > 0:
            return  # it does not record so many
        store = self.stage.stores[number]
        store.death = Death(death.countdown, is_after)

        async def kill() -> None:
            call = WORKFLOWS[workflow](script)
            caller = Caller(lambda: self.stage.runtimes[number].run(call, thread_id=thread_id))
            self.stage.send(caller)
            await self.stage.settle()
            assert store.is_dead
            await self.stage.reopen(number, dies=False)

        self.step(kill, lambda _: modelled(self.model, death))

    @precondition(lambda self: self.on_disk and self.is_long)
    @rule(data=st.data())
    def be_killed(self, data: st.DataObject) -> None:
        """A third runtime, in a process of its own, is killed while it executes a body."""
        self.pass_deadlines()
        thread_id = self.thread(data)
        workflow, script = self.call(thread_id, data)
        is_disturbed = any(key[0] == thread_id for key in self.model.closed)
        if is_disturbed or is_parallel(script):
            return
        third = ModelRuntime("killed")

        def modelled(model: Model) -> None:
            model.run(deepcopy(third), 0, thread_id, workflow, script)

        bodies = self.model.predicted(modelled).executed
        if not bodies:
            return
        key = data.draw(st.sampled_from(bodies), "killed at")
        order = {
            "db": self.db,
            "thread_id": thread_id,
            "workflow": workflow,
            "script": script,
            "body": key[1:],
            "broken": sorted(board.broken),
            "now": self.stage.now(),
        }

        async def kill() -> None:
            self.stage.executed += told_until_killed(order, key)
            await self.stage.settle()

        def killed(_: object) -> None:
            self.model.slack = PATIENCE
            self.model.closed.add(key)
            self.model.run(third, 0, thread_id, workflow, script)
            assert third.executing
            self.model.slack = 0.0
            self.model.closed.remove(key)
            self.model.die(third)

        self.step(kill, killed)


class TrioMachine(Machine):
    """The same on trio."""

    backend = "trio"


class SQLiteMachine(Machine):
    """The same on a file."""

    on_disk = True


def is_parallel(script: Any) -> bool:
    """Whether some of it is done side by side, and may be recorded at once."""
    return any(word in said(script) for word in ('"fan"', '"both"'))


def told_until_killed(order: dict[str, Any], key: Key) -> list[Key]:
    """The bodies that a process executes, up to the one in which it is killed."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(order)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    last_moment = threading.Timer(PATIENCE, process.kill)
    last_moment.start()
    told: list[Key] = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(tuple(json.loads(line)))
            if told[-1] == key:
                break
        process.kill()
    last_moment.cancel()
    return told


def plain(error: str | None) -> str | None:
    """What failed, without the module that knows it."""
    return None if error is None else error.rpartition("scripts.")[2]


# The class of each machine, and how many examples its short and its long form try.
MACHINES = {
    "memory-asyncio": (Machine, 70, 3000),
    "memory-trio": (TrioMachine, 40, 1000),
    "sqlite-asyncio": (SQLiteMachine, 12, 300),
}


@pytest.fixture
def failures() -> Iterator[list[str]]:
    """What is logged as an error: nothing."""
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("taskflow")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    yield logged
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagates


@pytest.mark.parametrize("name", MACHINES)
def test_runtimes_do_what_the_model_says(
    name: str, is_long: bool, request: pytest.FixtureRequest, failures: list[str]
) -> None:
    """Whatever is asked, in whatever order, by two runtimes on one store."""
    seed = request.config.getoption("--seed")
    print(f"seed {seed}: repeat with --seed={seed}")  # noqa: T201
    machine, few, many = MACHINES[name]
    tried = type(machine.__name__, (machine,), {"is_long": is_long})
    explore(
        hypothesis.seed(seed)(tried),
        settings=settings(
            max_examples=many if is_long else few,
            stateful_step_count=40 if is_long else 25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
        ),
    )
    assert failures == []
    print(f"{tried.examples} examples, {tried.steps} steps, {tried.bodies} bodies")  # noqa: T201
    assert tried.examples >= (many if is_long else few)
    assert tried.bodies > tried.examples
