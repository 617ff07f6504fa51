"""Waking: what a timer, a signal or recovery continues, and what it must never begin again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore, on_asyncio
from waits import NEVER, PATIENCE, JumpingClock, result, until, until_status

from taskflow import (
    MemoryStore,
    RetryPolicy,
    RunCancelled,
    RunHandle,
    RunNotFound,
    RunPaused,
    Runtime,
    SQLiteStore,
    current,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.errors import CheckpointCorrupt, HistoryMismatch, StoreError
from taskflow.records import RunStatus
from taskflow.stores.batches import Batch, Committed
from taskflow.testing import FaultyStore

pytestmark = pytest.mark.anyio


SOON = 0.03


@workflow
async def ask(number: int) -> str:
    return await receive("go", str)


@asynccontextmanager
async def two_runtimes(make_store: MakeStore, **options: Any) -> AsyncIterator[tuple[Runtime, Any]]:
    """Two on the same records, as two processes have; the first one does not look by itself."""
    async with (
        Runtime(make_store(), poll_interval=NEVER, **options) as one,
        Runtime(make_store(), poll_interval=SOON) as two,
    ):
        yield one, two


async def left_with_a_signal(runtime: Runtime, thread_id: str) -> None:
    """A run that is paused and due, and that nobody waits for."""
    with pytest.raises(RunPaused):
        await runtime.run(ask(0), thread_id=thread_id)
    await runtime.send(thread_id, "go", "yes")


def change(path: Path, statement: str) -> None:
    """Do to the file what another program might."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


# What is gone is not begun again.


async def test_a_deleted_run_is_not_executed_again_by_its_timer(make_store: MakeStore) -> None:
    """Another process deleted it while it slept here: who waits hears that it is gone."""
    clock = JumpingClock()
    charged: list[str] = []

    @task
    async def charge() -> None:
        charged.append("once")

    @workflow
    async def charging() -> None:
        await charge()
        await sleep(100)

    async with two_runtimes(make_store, clock=clock) as (here, elsewhere):
        handle = await here.start(charging(), thread_id="t")
        await until(lambda: handle.status == RunStatus.PAUSED)
        await elsewhere.cancel("t")
        await elsewhere.delete("t")
        clock.jump(101)
        with pytest.raises(RunNotFound):
            await result(handle)
        assert await elsewhere.runs() == []
    assert charged == ["once"]


async def test_a_deleted_run_is_not_executed_again_by_recovery(make_store: MakeStore) -> None:
    """It was seen to be an orphan, and waited for room when it was deleted."""
    held = anyio.Event()
    begun: list[int] = []

    @task
    async def step(number: int) -> None:
        begun.append(number)
        await held.wait()

    @workflow
    async def one(number: int) -> None:
        await step(number)

    async with Runtime(make_store()) as runtime:
        for number in range(3):
            await runtime.start(one(number), thread_id=f"t{number}")
        await until(lambda: len(begun) == 3)
    begun.clear()
    options: dict[str, Any] = {"recover": True, "max_concurrent_runs": 1, "poll_interval": SOON}
    async with Runtime(make_store(), workflows=[one], **options) as runtime:
        await until(lambda: len(begun) == 1)
        rest = [number for number in range(3) if number != begun[0]]
        await runtime.delete(f"t{rest[0]}")
        held.set()
        await until_status(runtime, RunStatus.SUCCESS, f"t{begun[0]}", f"t{rest[1]}")
        assert len(await runtime.runs()) == 2
    assert sorted(begun) == sorted({0, 1, 2} - {rest[0]})


# What was counted is counted on.


async def test_attempts_are_counted_over_a_pause(make_store: MakeStore) -> None:
    """Each attempt waits until its deadline, in a pause; after the last one the task has failed."""
    clock = JumpingClock()
    attempts: list[int] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
    async def ask_in_vain() -> str:
        attempts.append(current().attempt)
        return await receive("go", str, timeout=100)

    @workflow
    async def asking() -> str:
        return await ask_in_vain()

    async with Runtime(make_store(), clock=clock) as runtime:
        handle = await runtime.start(asking(), thread_id="t")
        for executions in (1, 3):  # a rerun executes the attempt again that it had come to
            await until(lambda: len(attempts) == executions)  # noqa: B023
            await until(lambda: handle.status == RunStatus.PAUSED)
            clock.jump(101)
        with anyio.fail_after(PATIENCE), pytest.raises(TimeoutError):
            await handle.result()
    assert attempts == [1, 1, 2, 2]


# Signals reach the run that is there.


@on_asyncio
@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_run_that_supersedes_one_whose_timer_rings_gets_its_signals(
    make_store: MakeStore, turns: int
) -> None:
    """The sleeping run is woken while the claim of the new one is on its way."""
    clock = JumpingClock()

    @workflow
    async def nap() -> None:
        await sleep(100)

    async with Runtime(make_store(), clock=clock, poll_interval=NEVER) as runtime:
        sleeping = await runtime.start(nap(), thread_id="t")
        await until(lambda: sleeping.status == RunStatus.PAUSED)
        handles: list[RunHandle[str]] = []

        async def supersede() -> None:
            handles.append(await runtime.start(ask(2), thread_id="t", supersede=True))

        async with anyio.create_task_group() as group:
            group.start_soon(supersede)
            for _ in range(turns):
                await checkpoint()
            clock.jump(101)
        await runtime.send("t", "go", "yes")
        assert await result(handles[0]) == "yes"


async def test_a_run_that_supersedes_a_streamed_one_gets_its_signals(make_store: MakeStore) -> None:
    """The stream's result is asked for while the claim of the new run is on its way."""
    async with Runtime(make_store(), poll_interval=NEVER) as runtime:
        await runtime.start(ask(1), thread_id="t")
        handles: list[RunHandle[str]] = []

        async def supersede() -> None:
            handles.append(await runtime.start(ask(2), thread_id="t", supersede=True))

        async with runtime.stream(ask(1), thread_id="t") as events:
            async for _ in events:
                pass
            async with anyio.create_task_group() as group:
                group.start_soon(supersede)
                await checkpoint()
                with anyio.fail_after(PATIENCE), pytest.raises((RunPaused, RunCancelled)):
                    await events.result()
        await runtime.send("t", "go", "yes")
        assert await result(handles[0]) == "yes"


async def test_an_id_that_nobody_took_moves_to_the_next_run(runtime: Runtime) -> None:
    """The run it was sent to was cancelled: sent once more, the signal is not swallowed."""

    @workflow
    async def deaf() -> str:
        return await receive("something else", str)

    await runtime.start(deaf(), thread_id="t")
    await runtime.send("t", "go", "yes", id="m1")
    await runtime.cancel("t")
    with pytest.raises(RunNotFound):
        await runtime.send("t", "go", "yes", id="m1")
    handle = await runtime.start(ask(2), thread_id="t")
    await runtime.send("t", "go", "yes", id="m1")
    assert await result(handle) == "yes"


# What another process has made of a run.


@pytest.mark.parametrize("afterwards", ["another run", "cancel"])
async def test_who_waits_for_a_run_gets_the_result_that_it_had_elsewhere(
    make_store: MakeStore, afterwards: str
) -> None:
    """Whatever happens here before anybody has looked: a success stays one."""
    async with two_runtimes(make_store) as (here, elsewhere):
        handle = await here.start(ask(1), thread_id="t")
        await until(lambda: handle.status == RunStatus.PAUSED)
        await elsewhere.send("t", "go", "done")
        assert await elsewhere.run(ask(1), thread_id="t") == "done"
        if afterwards == "cancel":
            with pytest.raises(RunNotFound):
                await here.cancel("t")
        else:
            await here.start(ask(2), thread_id="t")
        assert await result(handle) == "done"


# What the store refuses, and what is damaged.


class Moody(MemoryStore):
    """A store that refuses the next claims, or every result."""

    def __init__(self, *, refused_claims: int = 0, is_full: bool = False) -> None:
        super().__init__()
        self.refused_claims = refused_claims
        self.is_full = is_full

    async def commit(self, batch: Batch) -> Committed:
        if self.is_full and batch.checkpoints:
            raise StoreError("there is no space left")
        if self.refused_claims and batch.claims:
            self.refused_claims -= 1
            raise StoreError("it is locked for a moment")
        return await super().commit(batch)


class Unreachable(SQLiteStore):
    """A store that cannot be looked at while it is down."""

    is_down = False
    refused = 0

    async def news(self, after: int | None) -> Any:
        if self.is_down:
            self.refused += 1
            raise StoreError("it does not answer")
        return await super().news(after)

    async def go_down(self) -> None:
        """Return when no look is under way that had begun before."""
        self.is_down = True
        await until(lambda: self.refused > 0)


async def test_a_claim_that_failed_once_is_tried_again_by_recovery() -> None:
    """The store was locked for a moment: that is no reason to give a run up."""
    store = Moody()
    async with Runtime(store) as runtime:
        await left_with_a_signal(runtime, "t")
    store.refused_claims = 2
    async with Runtime(store, workflows=[ask], recover=True, poll_interval=SOON) as runtime:
        await until_status(runtime, RunStatus.SUCCESS, "t")
    assert store.refused_claims == 0


async def test_a_run_whose_results_are_refused_is_set_aside() -> None:
    """Its task is executed max_takeovers times more, no oftener; by hand it goes on."""
    clock, store = JumpingClock(), Moody(is_full=True)
    charged: list[str] = []

    @task
    async def charge() -> str:
        charged.append("once more")
        return "paid"

    @workflow
    async def charging() -> str:
        return await charge()

    options: dict[str, Any] = {"recover": True, "poll_interval": 0.01, "clock": clock}
    async with Runtime(store, workflows=[charging], max_takeovers=3, **options) as runtime:
        with pytest.raises(StoreError):
            await result(await runtime.start(charging(), thread_id="t"))

        async def is_set_aside() -> bool:
            clock.jump(60)
            return (await runtime.get("t")).status == RunStatus.ERROR

        await until(is_set_aside)
        assert "RunSetAside" in str((await runtime.get("t")).error)
        assert len(charged) == 4
        store.is_full = False
        assert await runtime.resume("t") == "paid"


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_damaged_signal_of_another_process_ends_who_waits_for_it(
    tmp_path: Path, is_alone: bool
) -> None:
    """The run executes, and finds the signal by looking: it does not wait on for ever."""
    path = tmp_path / "taskflow.db"
    held = anyio.Event()

    @task
    async def work() -> None:
        await held.wait()

    @workflow
    async def asking() -> Any:
        return await (receive("go") if is_alone else asyncio.gather(receive("go"), work()))

    store = Unreachable(path)
    async with Runtime(store, poll_interval=SOON) as here, Runtime(path) as elsewhere:
        await store.go_down()
        handle = await here.start(asking(), thread_id="t")
        await elsewhere.send("t", "go", "yes")
        change(path, "UPDATE checkpoint SET payload = X'31' WHERE kind = 'signal'")
        store.is_down = False
        with pytest.raises(CheckpointCorrupt):
            await result(handle)


async def test_a_damaged_run_ends_its_own_wait_and_no_look(tmp_path: Path) -> None:
    """Superseded by another process, and damaged after that: the others are recovered."""
    path = tmp_path / "taskflow.db"
    store = Unreachable(path)
    options: dict[str, Any] = {"recover": True, "poll_interval": SOON}
    async with Runtime(store, workflows=[ask], **options) as here, Runtime(path) as elsewhere:
        handle = await here.start(ask(1), thread_id="t")
        await until(lambda: handle.status == RunStatus.PAUSED)
        async with anyio.create_task_group() as group:
            group.start_soon(_raises, CheckpointCorrupt, handle)
            await checkpoint()
            await store.go_down()
            await elsewhere.cancel("t")
            await elsewhere.start(ask(2), thread_id="t")
            change(path, "UPDATE run SET checksum = checksum + 1 WHERE status = 'cancelled'")
            await left_with_a_signal(elsewhere, "other")
            store.is_down = False
        await until_status(here, RunStatus.SUCCESS, "other")


async def _raises(kind: type[BaseException], handle: RunHandle[Any]) -> None:
    with pytest.raises(kind):
        await result(handle)


async def test_a_column_that_holds_something_else_keeps_one_run_from_recovery(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log and left alone; the others are continued."""
    path = tmp_path / "taskflow.db"
    async with Runtime(path) as runtime:
        for thread_id in ("t0", "t1", "t2"):
            await left_with_a_signal(runtime, thread_id)
    change(path, "UPDATE run SET takeovers = 'x' WHERE thread_id = 't1'")
    options: dict[str, Any] = {"recover": True, "poll_interval": SOON}
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(path, workflows=[ask], **options) as runtime:
            await until_status(runtime, RunStatus.SUCCESS, "t0", "t2")
    assert sum("'t1'" in each.getMessage() for each in caplog.records) == 1


# What a deployment cannot begin.


async def test_a_wrong_deployment_sets_a_run_aside_that_it_cannot_continue(
    make_store: MakeStore,
) -> None:
    """Its record says why, and the right one resumes it with the signal that had come."""

    @workflow(name="ask")
    async def ask_otherwise(number: list[str]) -> str:
        return await receive("go", str)

    async with Runtime(make_store()) as runtime:
        await left_with_a_signal(runtime, "t")
    options: dict[str, Any] = {"recover": True, "poll_interval": SOON}
    async with Runtime(make_store(), workflows=[ask_otherwise], **options) as runtime:
        await until_status(runtime, RunStatus.ERROR, "t")
        assert "SerializationError" in str((await runtime.get("t")).error)
    async with Runtime(make_store(), workflows=[ask], **options) as runtime:
        assert await runtime.resume("t") == "yes"


@pytest.mark.parametrize("recover", [True, False])
async def test_a_run_that_has_drifted_is_set_aside_by_recovery_alone(
    make_store: MakeStore, recover: bool
) -> None:
    """Who resumes it by hand hears why not, and it stays as it was: paused."""
    is_new: list[bool] = []

    @task
    async def before() -> None: ...

    @task
    async def after() -> None: ...

    @workflow
    async def drifting() -> str:
        await (after() if is_new else before())
        return await receive("go", str)

    async with Runtime(make_store()) as runtime:
        with pytest.raises(RunPaused):
            await runtime.run(drifting(), thread_id="t")
        await runtime.send("t", "go", "yes")
    is_new.append(True)
    options: dict[str, Any] = {"on_drift": "error", "poll_interval": SOON, "recover": recover}
    async with Runtime(make_store(), workflows=[drifting], **options) as runtime:
        if recover:
            await until_status(runtime, RunStatus.ERROR, "t")
            assert "HistoryMismatch" in str((await runtime.get("t")).error)
        else:
            with pytest.raises(HistoryMismatch):
                await runtime.resume("t")
            assert (await runtime.get("t")).status == RunStatus.PAUSED
    is_new.clear()
    async with Runtime(make_store(), workflows=[drifting]) as runtime:
        assert await runtime.resume("t") == "yes"


# Runs that wait for runs, and runs that nobody waits for.


async def test_parents_that_were_woken_leave_room_for_the_children_they_wait_for(
    make_store: MakeStore,
) -> None:
    """As many parents as there is room for."""

    @workflow
    async def child(number: int) -> str:
        return await receive("go", str)

    @task
    async def delegate(number: int) -> str:
        return await runtime.run(child(number), thread_id=f"child{number}", wait=True)

    @workflow
    async def parent(number: int) -> str:
        await receive("go", str)
        return await delegate(number)

    async with Runtime(make_store(), max_concurrent_runs=2) as runtime:
        handles = [await runtime.start(parent(n), thread_id=f"parent{n}") for n in range(2)]
        await until_status(runtime, RunStatus.PAUSED, "parent0", "parent1")
        for number in range(2):
            await runtime.send(f"parent{number}", "go", "on")
        await until_paused(runtime, "child0", "child1")
        for number in range(2):
            await runtime.send(f"child{number}", "go", f"yes {number}")
        assert [await result(each) for each in handles] == ["yes 0", "yes 1"]


async def until_paused(runtime: Runtime, *thread_ids: str) -> None:
    """Wait until these threads have runs, and these are paused."""

    async def are_paused() -> bool:
        paused = {each.thread_id for each in await runtime.runs(status="paused")}
        return paused >= set(thread_ids)

    await until(are_paused)


async def test_a_task_that_waits_for_another_run_leaves_its_slot_to_it(
    make_store: MakeStore,
) -> None:
    """With a single slot: a run, its child and that one's task."""

    @task
    async def work() -> str:
        return "done"

    @workflow
    async def child() -> str:
        return await work()

    @task
    async def delegate() -> str:
        return await runtime.run(child(), thread_id="child", wait=True)

    @workflow
    async def parent() -> str:
        return await delegate()

    async with Runtime(make_store(), max_concurrency=1) as runtime:
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(parent(), thread_id="parent") == "done"


async def test_a_signal_wakes_a_run_whose_caller_left_before_it_paused(
    make_store: MakeStore,
) -> None:
    """It was released while it was running: what is accepted for it is not left lying."""
    options: dict[str, Any] = {"recover": True, "poll_interval": SOON}
    async with Runtime(make_store(), workflows=[ask], **options) as runtime:
        async with runtime.stream(ask(1), thread_id="t"):
            pass
        await runtime.send("t", "go", "yes")
        await until_status(runtime, RunStatus.SUCCESS, "t")


async def test_a_signal_that_is_sent_while_the_run_is_loaded_is_taken(
    kind: str, make_store: MakeStore
) -> None:
    """It comes between the claim and the first step, in the process that continues the run."""
    async with Runtime(make_store()) as runtime:
        with pytest.raises(RunPaused):
            await runtime.run(ask(1), thread_id="t")
    gate = anyio.Event()
    store = FaultyStore(make_store()).delay("load", until=gate)
    async with Runtime(store) as runtime:
        handle = await runtime.start(ask(1), thread_id="t", wait=True)
        await store.asked("load")
        await runtime.send("t", "go", "yes")
        gate.set()

        assert await result(handle) == "yes"
