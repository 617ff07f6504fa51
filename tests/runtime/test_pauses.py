"""Pausing: when a run is idle, what is told of it, what is unwound, who is woken by what."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore, in_memory_on_asyncio, on_asyncio
from waits import PATIENCE, JumpingClock, finish, result, until, waits_of

from taskflow import (
    MemoryStore,
    RetryPolicy,
    RunCancelled,
    RunHandle,
    RunNotFound,
    RunPaused,
    Runtime,
    RunUnfinished,
    Store,
    ThreadBusy,
    current,
    previous,
    receive,
    save,
    sleep,
    task,
    workflow,
)
from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.rows import SignalRow
from taskflow.testing import WrappedStore

pytestmark = pytest.mark.anyio


@workflow
async def ask(name: str = "x") -> Any:
    return await receive(name)


@workflow
async def ask_twice() -> list[Any]:
    return [await receive("x"), await receive("y")]


async def paused(handle: RunHandle[Any]) -> None:
    """Wait until nothing of the run executes."""
    await until(lambda: handle.status == RunStatus.PAUSED)


@asynccontextmanager
async def two_runtimes(
    make_store: MakeStore, **options: Any
) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Two on the same records, as two processes have."""
    options = {"poll_interval": 0.03, **options}
    async with (
        Runtime(make_store(), **options) as one,
        Runtime(make_store(), **options) as two,
    ):
        yield one, two


# When a run is idle.


async def test_a_run_that_waits_is_paused_and_says_for_what(runtime: Runtime) -> None:
    """RunPaused names thread, run and every open wait, and so does the record."""
    with anyio.fail_after(PATIENCE), pytest.raises(RunPaused) as caught:
        await runtime.run(ask(), thread_id="t", run_id="r")

    error = caught.value
    assert (error.thread_id, error.run_id) == ("t", "r")
    assert [(each.kind, each.name) for each in error.waits] == [("signal", "x")]
    assert "'x'" in str(error)
    record = await runtime.get("t")
    assert (record.status, record.owner, record.waits) == ("paused", None, list(error.waits))
    assert [each.thread_id for each in await runtime.runs(status="paused")] == ["t"]


async def test_a_run_that_is_finished_waits_for_nothing(runtime: Runtime) -> None:
    """Its record shows no waits any more, nor that of one that executes or was cancelled."""
    await waits_of(runtime, ask())
    await runtime.send("t", "x", 1)
    await finish(runtime, ask())
    assert (await runtime.get("t")).waits == []

    await waits_of(runtime, ask("again"))
    await runtime.cancel("t")
    assert (await runtime.get("t")).waits == []


@on_asyncio
async def test_a_body_that_executes_keeps_the_run_awake(runtime: Runtime) -> None:
    """Beside an open receive: it is paused when that body has ended, and no earlier."""
    go, begun = anyio.Event(), anyio.Event()

    @task
    async def work() -> str:
        begun.set()
        await go.wait()
        return "done"

    @workflow
    async def main() -> list[Any]:
        return list(await asyncio.gather(receive("x"), work()))

    handle = await runtime.start(main(), thread_id="t")
    await begun.wait()
    await anyio.sleep(0.4)  # several times as long as an idle run takes
    assert handle.status == RunStatus.RUNNING
    go.set()
    await paused(handle)
    assert [each.name for each in await runtime.tasks("t")] == ["work"]
    await runtime.send("t", "x", 1)

    assert await result(handle) == [1, "done"]


@on_asyncio
async def test_a_body_that_waits_for_its_own_calls_does_not_execute(runtime: Runtime) -> None:
    """However deep: what is at the bottom decides."""

    @task
    async def inner() -> Any:
        return await receive("x")

    @task
    async def outer() -> Any:
        return await inner()

    @workflow
    async def main() -> Any:
        return await outer()

    assert [each.name for each in await waits_of(runtime, main())] == ["x"]


async def test_a_run_without_a_wait_is_not_paused(runtime: Runtime) -> None:
    """Plain awaits in a workflow are none of the runtime's business."""

    @workflow
    async def main() -> str:
        await anyio.sleep(0.35)
        return "done"

    assert await finish(runtime, main()) == "done"


@on_asyncio
async def test_a_task_between_its_attempts_keeps_the_run_awake(runtime: Runtime) -> None:
    """Who waits for the next attempt is about to execute."""
    attempts: list[int] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0.4, jitter=False))
    async def work() -> str:
        attempts.append(current().attempt)
        if len(attempts) == 1:
            raise OSError("once more")
        return "done"

    @workflow
    async def main() -> list[Any]:
        return list(await asyncio.gather(receive("x"), work()))

    await waits_of(runtime, main())
    assert attempts == [1, 2]


@on_asyncio
async def test_a_short_timer_keeps_the_run_awake(runtime: Runtime) -> None:
    """A second is not worth an unwinding, whatever else the run waits for."""
    begun: list[str] = []

    @workflow
    async def main() -> list[Any]:
        begun.append("again")
        return list(await asyncio.gather(receive("x"), sleep(0.4), sleep(0.2)))

    await waits_of(runtime, main())
    assert begun == ["again"]
    assert len(await runtime.tasks("t")) == 2


# What is unwound.


@pytest.mark.parametrize("handler", ["except Exception", "except*", "suppress"])
async def test_no_except_exception_swallows_a_pause(runtime: Runtime, handler: str) -> None:
    """It is a cancellation: neither a task nor a workflow meets it as an error."""
    met: list[str] = []

    @task
    async def careful() -> Any:
        try:
            return await receive("x")
        except Exception as error:
            met.append(repr(error))
            return "swallowed"

    @workflow
    async def main() -> Any:
        try:
            return await careful()
        except Exception as error:
            met.append(repr(error))
            return "swallowed"

    @workflow
    async def main_of_groups() -> Any:
        try:
            return await careful()
        except* Exception as group:
            met.append(repr(group))
        return "swallowed"

    call = main() if handler != "except*" else main_of_groups()
    again = main() if handler != "except*" else main_of_groups()
    await waits_of(runtime, call)
    await runtime.send("t", "x", "signal")
    assert await finish(runtime, again) == "signal"
    assert met == []


async def test_no_except_exception_of_a_def_body_swallows_a_pause(runtime: Runtime) -> None:
    """Worker threads meet it as the same kind of exception."""
    met: list[str] = []

    @task
    def careful() -> Any:
        try:
            return receive("x").result()
        except Exception as error:
            met.append(repr(error))
            return "swallowed"

    @workflow
    def main() -> Any:
        try:
            return careful().result()
        except Exception as error:
            met.append(repr(error))
            return "swallowed"

    await waits_of(runtime, main())
    await runtime.send("t", "x", "signal")
    assert await finish(runtime, main()) == "signal"
    assert met == []


async def test_a_workflow_that_swallows_the_pause_has_not_ended(runtime: Runtime) -> None:
    """``except BaseException``: what it returns, raises or saves after that is discarded."""

    @workflow
    async def main(how: str) -> Any:
        try:
            return await receive("x")
        except BaseException:
            save("swallowed")
            if how == "raise":
                raise ValueError("swallowed") from None
            return "swallowed"

    for how in ("return", "raise"):
        await waits_of(runtime, main(how), how)
        record = await runtime.get(how)
        assert (record.status, record.result, record.error) == ("paused", None, None)
        await runtime.send(how, "x", 1)
        assert await finish(runtime, main(how), how) == 1


@on_asyncio
async def test_a_task_that_swallows_the_pause_is_not_recorded(runtime: Runtime) -> None:
    """What its body came to is no outcome: the rerun executes it again."""

    @task
    async def careless(how: str) -> Any:
        try:
            return await receive("x")
        except BaseException:
            if how == "raise":
                raise ValueError("swallowed") from None
            return "swallowed"

    @workflow
    async def main(how: str) -> Any:
        return await careless(how)

    for how in ("return", "raise"):
        await waits_of(runtime, main(how), how)
        assert await runtime.tasks(how) == []
        await runtime.send(how, "x", 1)
        assert await finish(runtime, main(how), how) == 1


async def test_a_task_with_retries_is_not_retried_by_a_pause(runtime: Runtime) -> None:
    """An attempt that is unwound is not one that has failed."""
    attempts: list[int] = []

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0.001, retry_on=Exception))
    async def work() -> Any:
        attempts.append(current().attempt)
        return await receive("x")

    @workflow
    async def main() -> Any:
        return await work()

    await waits_of(runtime, main())
    await waits_of(runtime, main())
    assert attempts == [1, 1]


async def test_cleanup_is_done_before_the_run_is_paused(runtime: Runtime) -> None:
    """``finally`` bodies, also those that await behind a shield, of every body on the way."""
    cleaned: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                await anyio.sleep(0.01)
            cleaned.append(name)

    @task
    async def work() -> Any:
        async with resource("task"):
            return await receive("x")

    @workflow
    async def main() -> Any:
        async with resource("workflow"):
            return await work()

    await waits_of(runtime, main())
    assert cleaned == ["task", "workflow"]


async def test_no_call_starts_while_a_run_is_unwound_for_a_pause(runtime: Runtime) -> None:
    """Cleanup that calls a task is cut off there; the rerun does it in its place."""
    refunds: list[str] = []

    @task
    async def refund() -> None:
        refunds.append("refund")

    @workflow
    async def main() -> Any:
        try:
            return await receive("x")
        finally:
            await refund()

    await waits_of(runtime, main())
    assert refunds == []
    await runtime.send("t", "x", 1)
    assert await finish(runtime, main()) == 1
    assert refunds == ["refund"]


@on_asyncio
async def test_a_body_that_ends_while_the_run_is_unwound_counts(runtime: Runtime) -> None:
    """Its outcome is recorded, and the run goes on at once: nothing is executed twice."""
    bodies: list[str] = []

    @task
    async def shielded() -> str:
        bodies.append("begun")
        with anyio.CancelScope(shield=True):
            await receive("never", timeout=60)
        return "never"

    @workflow
    async def main() -> list[Any]:
        return list(await asyncio.gather(receive("x"), sleep(60)))

    await waits_of(runtime, main())
    assert bodies == []


@on_asyncio
async def test_a_paused_group_of_tasks_is_unwound_as_one(runtime: Runtime) -> None:
    """asyncio's TaskGroup and anyio's: no exception group comes out of them."""

    @workflow
    async def main(kind: str) -> list[Any]:
        if kind == "asyncio":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(receive(name)) for name in "ab"]
            return [each.result() for each in tasks]
        found: list[Any] = []

        async def one(name: str) -> None:
            found.append(await receive(name))

        async with anyio.create_task_group() as anyio_group:
            for name in "ab":
                anyio_group.start_soon(one, name)
        return sorted(found)

    for kind in ("asyncio", "anyio"):
        assert len(await waits_of(runtime, main(kind), kind)) == 2
        await runtime.send(kind, "b", 2)
        await runtime.send(kind, "a", 1)
        assert await finish(runtime, main(kind), kind) == [1, 2]


# Who waits.


async def test_with_wait_run_waits_through_every_pause(runtime: Runtime) -> None:
    """Until signals have come, one after the other."""
    results: list[Any] = []

    async def go() -> None:
        results.append(await runtime.run(ask_twice(), thread_id="t", wait=True))

    async with anyio.create_task_group() as group:
        group.start_soon(go)
        for name, value in (("x", 1), ("y", 2)):
            await until(lambda name=name: _is_paused_for(runtime, name))
            assert results == []
            await runtime.send("t", name, value)

    assert results == [[1, 2]]


async def _is_paused_for(runtime: Runtime, name: str, thread_id: str = "t") -> bool:
    try:
        record = await runtime.get(thread_id)
    except RunNotFound:
        return False
    return record.status == "paused" and name in [each.name for each in record.waits]


async def test_a_started_run_goes_on_by_itself(runtime: Runtime) -> None:
    """Its handle says how far it is; nobody has to ask for its result."""
    handle = await runtime.start(ask_twice(), thread_id="t")
    assert handle.status == RunStatus.RUNNING
    await paused(handle)
    await runtime.send("t", "x", 1)
    await until(lambda: _is_paused_for(runtime, "y"))
    await paused(handle)
    await runtime.send("t", "y", 2)

    async def has_ended() -> bool:
        return handle.status == RunStatus.SUCCESS

    await until(has_ended)
    assert await result(handle) == [1, 2]
    assert (await runtime.get("t")).result == [1, 2]


async def test_a_started_run_that_fails_after_a_pause_tells_its_handle(runtime: Runtime) -> None:
    """The exception of the round that failed."""

    @workflow
    async def main() -> None:
        await receive("x")
        raise ValueError("after the pause")

    handle = await runtime.start(main(), thread_id="t")
    await paused(handle)
    await runtime.send("t", "x")
    with pytest.raises(ValueError, match="after the pause"):
        await result(handle)
    assert (await runtime.get("t")).status == "error"


async def test_patient_and_impatient_waiters_of_one_run(runtime: Runtime) -> None:
    """At a pause some are told, the others wait on; all get the same result."""
    results: list[Any] = []
    told: list[str] = []

    async def patient() -> None:
        results.append(await runtime.run(ask_twice(), thread_id="t", wait=True))

    async def impatient() -> None:
        try:
            results.append(await runtime.run(ask_twice(), thread_id="t"))
        except RunPaused as pause:
            told.extend(each.name for each in pause.waits)

    async with anyio.create_task_group() as group:
        for each in (impatient, patient, impatient, patient):
            group.start_soon(each)
        await until(lambda: _is_paused_for(runtime, "x"))
        await until(lambda: _has(told, 2))
        await impatient()  # comes while it sleeps: wakes it, and is told again
        assert told == ["x"] * 3
        await runtime.send("t", "x", 1)
        await until(lambda: _is_paused_for(runtime, "y"))
        await impatient()
        assert told == ["x"] * 3 + ["y"]
        await runtime.send("t", "y", 2)
        await impatient()

    assert results == [[1, 2]] * 3


async def _has(items: list[Any], count: int) -> bool:
    return len(items) >= count


async def test_an_impatient_waiter_that_comes_late_hears_the_result(runtime: Runtime) -> None:
    """The signal is there, so the run does not pause for it."""
    handle = await runtime.start(ask(), thread_id="t")
    await paused(handle)
    await runtime.send("t", "x", 1)
    assert await finish(runtime, ask()) == 1
    assert await result(handle) == 1


async def test_a_patient_waiter_that_leaves_a_sleeping_run_changes_nothing(
    runtime: Runtime,
) -> None:
    """The run stays paused, and anybody continues it."""
    with anyio.move_on_after(0.5):
        await runtime.run(ask(), thread_id="t", wait=True)
    await until(lambda: _is_paused_for(runtime, "x"))
    await runtime.send("t", "x", 1)
    await anyio.sleep(0.05)
    assert (await runtime.get("t")).status == "paused"  # nobody waits here, nobody recovers
    assert await finish(runtime, ask()) == 1


async def test_waiters_may_leave_at_any_moment_of_a_pause(runtime: Runtime) -> None:
    """Cancelled before, while and after the run is unwound: the next one finds it whole."""
    await runtime.start(ask("unrelated"), thread_id="unrelated")
    for milliseconds in range(60, 160, 7):
        thread_id = str(milliseconds)
        with contextlib.suppress(RunPaused), anyio.move_on_after(milliseconds / 1000):
            await runtime.run(ask(), thread_id=thread_id, wait=bool(milliseconds % 2))
        await waits_of(runtime, ask(), thread_id)
        await runtime.send(thread_id, "x", milliseconds)
        assert await finish(runtime, ask(), thread_id) == milliseconds


@in_memory_on_asyncio
async def test_a_run_that_nobody_waits_for_is_not_woken(make_store: MakeStore) -> None:
    """Its waiter left while it waited for room, after its signal had come."""
    hold = anyio.Event()
    executed: list[str] = []

    @task
    async def work(name: str) -> None:
        executed.append(name)
        await hold.wait()

    @workflow
    async def main(name: str) -> None:
        await receive("x")
        await work(name)

    async with Runtime(make_store(), max_concurrent_runs=1) as runtime:
        first = await runtime.start(main("first"), thread_id="first")
        await paused(first)
        async with anyio.create_task_group() as group:

            async def leaves() -> None:
                await runtime.run(main("second"), thread_id="second", wait=True)

            group.start_soon(leaves)
            await until(lambda: _is_paused_for(runtime, "x", "second"))
            await anyio.sleep(0.05)
            await runtime.send("first", "x")
            await until(lambda: _has(executed, 1))
            await runtime.send("second", "x")
            await anyio.sleep(0.02)
            group.cancel_scope.cancel()
        hold.set()
        await result(first)
        await anyio.sleep(0.2)

    assert executed == ["first"]


async def test_as_many_runs_as_there_is_room_for_go_on_at_once(make_store: MakeStore) -> None:
    """``max_concurrent_runs``: the others follow, and all get their turn."""
    executing: list[int] = []
    most = 0

    @task
    async def work(number: int) -> None:
        nonlocal most
        executing.append(number)
        most = max(most, len(executing))
        await anyio.sleep(0.01)
        executing.remove(number)

    @workflow
    async def main(number: int) -> int:
        await receive("x")
        await work(number)
        return number

    async with Runtime(make_store(), max_concurrent_runs=2) as runtime:
        handles = [await runtime.start(main(n), thread_id=str(n)) for n in range(8)]
        for each in handles:
            await paused(each)
        for number in range(8):
            await runtime.send(str(number), "x")
        assert [await result(each) for each in handles] == list(range(8))

    assert most == 2


# What is done to a paused run.


async def test_a_paused_run_is_cancelled_for_good(runtime: Runtime) -> None:
    """Whoever waits hears of it; a signal is RunNotFound after that."""
    handle = await runtime.start(ask(), thread_id="t")
    await paused(handle)
    await runtime.cancel("t")

    with pytest.raises(RunCancelled):
        await result(handle)
    assert handle.status == RunStatus.CANCELLED
    assert (await runtime.get("t")).status == "cancelled"
    with pytest.raises(RunNotFound):
        await runtime.send("t", "x", 1)
    assert len(await waits_of(runtime, ask())) == 1  # a new run


async def test_a_handle_cancels_a_paused_run(runtime: Runtime) -> None:
    """The same, twice without harm."""
    handle = await runtime.start(ask(), thread_id="t")
    await paused(handle)
    await handle.cancel()
    await handle.cancel()
    assert (await runtime.get("t")).status == "cancelled"


async def test_a_run_that_paused_for_nobody_is_cancelled_too(runtime: Runtime) -> None:
    """There is only its row."""
    await waits_of(runtime, ask())
    await runtime.cancel("t")
    assert (await runtime.get("t")).status == "cancelled"


async def test_a_paused_run_is_superseded(runtime: Runtime) -> None:
    """Its waiters get RunCancelled; other input without ``supersede`` is RunUnfinished."""
    handle = await runtime.start(ask(), thread_id="t")
    await paused(handle)
    with pytest.raises(RunUnfinished):
        await runtime.run(ask("y"), thread_id="t")
    await paused(handle)

    second = await runtime.start(ask("y"), thread_id="t", supersede=True)
    with pytest.raises(RunCancelled):
        await result(handle)
    await paused(second)
    await runtime.send("t", "y", 2)
    assert await result(second) == 2


async def test_a_paused_run_is_deleted(runtime: Runtime) -> None:
    """With its signals; its waiters hear that it is gone."""
    handle = await runtime.start(ask("y"), thread_id="t")
    await paused(handle)
    await runtime.send("t", "x", "of the old run", id="m")
    await paused(handle)
    await until(lambda: _deleted(runtime))

    with pytest.raises(RunNotFound):
        await result(handle)
    with pytest.raises(RunNotFound):
        await runtime.send("t", "x", 1)
    assert len(await waits_of(runtime, ask())) == 1
    await runtime.send("t", "x", "of the new run", id="m")
    assert await finish(runtime, ask()) == "of the new run"


async def _deleted(runtime: Runtime) -> bool:
    try:
        await runtime.delete("t")
    except ThreadBusy:  # it looks whether the signal is for it
        return False
    return True


async def test_what_a_paused_run_has_recorded_can_be_forgotten(runtime: Runtime) -> None:
    """It executes again when the run goes on."""
    bodies: list[str] = []

    @task
    async def step() -> int:
        bodies.append("step")
        return len(bodies)

    @workflow
    async def main() -> list[Any]:
        return [await step(), await receive("x")]

    handle = await runtime.start(main(), thread_id="t")
    await paused(handle)
    (shown,) = await runtime.tasks("t")
    await runtime.forget("t", shown.task_id)
    await runtime.send("t", "x", 5)

    assert await result(handle) == [2, 5]


async def test_a_paused_run_is_resumed(make_store: MakeStore) -> None:
    """By its thread alone, with its recorded input, in another runtime."""
    async with Runtime(make_store()) as runtime:
        await waits_of(runtime, ask("z"))
    async with Runtime(make_store(), workflows=[ask]) as runtime:
        with pytest.raises(RunPaused):
            await runtime.resume("t")
        await runtime.send("t", "z", 3)
        assert await runtime.resume("t") == 3


async def test_a_paused_run_keeps_what_its_predecessor_saved(runtime: Runtime) -> None:
    """``previous`` is the same in every round, and ``save`` counts in the last one."""

    @workflow
    async def turn(number: int) -> list[Any]:
        before = previous(int)
        value = await receive("x")
        save(number)
        return [before, value]

    for number, expected in ((1, None), (2, 1), (3, 2)):
        await waits_of(runtime, turn(number))
        await runtime.send("t", "x", number)
        assert await finish(runtime, turn(number)) == [expected, number]


async def test_closing_the_runtime_tells_who_waits_for_a_paused_run(make_store: MakeStore) -> None:
    """RunUnfinished; the run stays paused, and the next runtime continues it."""
    heard: list[BaseException] = []

    async def go(runtime: Runtime) -> None:
        try:
            await runtime.run(ask(), thread_id="t", wait=True)
        except RunUnfinished as error:
            heard.append(error)

    async with anyio.create_task_group() as group:
        async with Runtime(make_store()) as runtime:
            handle = await runtime.start(ask(), thread_id="t")
            group.start_soon(go, runtime)
            await paused(handle)
            await until(lambda: _is_paused_for(runtime, "x"))
        with pytest.raises(RunUnfinished):
            await result(handle)
    assert len(heard) == 1

    async with Runtime(make_store()) as runtime:
        assert (await runtime.get("t")).status == "paused"
        await runtime.send("t", "x", 1)
        assert await finish(runtime, ask()) == 1


@pytest.mark.parametrize("milliseconds", range(60, 150, 10))
async def test_a_runtime_may_be_closed_in_any_moment_of_a_pause(
    make_store: MakeStore, milliseconds: int
) -> None:
    """Whatever is under way: the run is whole for the next runtime."""
    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(ask_twice(), thread_id="t")
        await runtime.send("t", "x", 1)
        await anyio.sleep(milliseconds / 1000)
    assert handle.status in (RunStatus.RUNNING, RunStatus.PAUSED)

    async with Runtime(make_store()) as runtime:
        record = await runtime.get("t")
        assert record.owner is None
        await runtime.send("t", "y", 2)
        assert await finish(runtime, ask_twice()) == [1, 2]


async def test_a_runtime_that_recovers_continues_what_is_due(make_store: MakeStore) -> None:
    """Nobody else asks: a signal that came, and a time that has come, while nobody lived."""
    clock = JumpingClock()

    @workflow
    async def nap() -> str:
        await sleep(3600)
        return "awake"

    async with Runtime(make_store(), clock=clock) as runtime:
        for thread_id, call in (("signal", ask()), ("none", ask()), ("timer", nap())):
            await waits_of(runtime, call, thread_id)
        await runtime.send("signal", "x", 1)
    clock.jump(4000)
    async with Runtime(make_store(), clock=clock, workflows=[ask, nap], recover=True) as runtime:
        await until(lambda: _has_succeeded(runtime, "signal", "timer"))
        assert (await runtime.get("none")).status == "paused"
        assert (await runtime.get("signal")).result == 1


async def _has_succeeded(runtime: Runtime, *thread_ids: str) -> bool:
    return all([(await runtime.get(each)).status == "success" for each in thread_ids])


# Signals that come while it is being paused.


@pytest.mark.parametrize("from_here", [True, False])
async def test_a_signal_that_comes_while_the_run_is_unwound_wakes_it(
    make_store: MakeStore, from_here: bool
) -> None:
    """From this runtime and from another one; before, while and after its cleanup."""
    cleaning, go = anyio.Event(), anyio.Event()

    @workflow
    async def main() -> Any:
        try:
            return await receive("x")
        finally:
            cleaning.set()
            with anyio.CancelScope(shield=True):
                await go.wait()

    async with two_runtimes(make_store) as (here, there):
        handle = await here.start(main(), thread_id="t")
        with anyio.fail_after(PATIENCE):
            await cleaning.wait()
        await (here if from_here else there).send("t", "x", 1)
        go.set()
        assert await result(handle) == 1


async def test_an_impatient_waiter_is_given_what_came_while_the_run_was_unwound(
    runtime: Runtime,
) -> None:
    """It is not told of a pause that is over already."""
    cleaning = anyio.Event()

    @workflow
    async def main() -> Any:
        try:
            return await receive("x")
        finally:
            if not cleaning.is_set():
                cleaning.set()
                with anyio.CancelScope(shield=True):
                    await runtime.send("t", "x", 1)

    assert await finish(runtime, main()) == 1


async def test_signals_at_any_time_around_the_pause_are_taken(make_store: MakeStore) -> None:
    """Many runs, each sent to at another moment of its pause, from here and from elsewhere."""
    count = 60

    async with two_runtimes(make_store) as (here, there):
        handles: list[RunHandle[Any]] = []

        async def one(number: int) -> None:
            thread_id = str(number)
            handles.append(await here.start(ask_twice(), thread_id=thread_id))
            await anyio.sleep(0.08 + 0.001 * number)
            sender = here if number % 2 else there
            await sender.send(thread_id, "x", number)
            await anyio.sleep(0.14 - 0.001 * number)
            await sender.send(thread_id, "y", number)

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)
        results = [await result(each) for each in handles]

    assert sorted(results) == [[number, number] for number in range(count)]


class StoreThatTells(MemoryStore):
    """Calls back after a signal was committed, before its sender hears of that."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    async def commit(self, batch: Batch) -> Committed:
        committed = await super().commit(batch)
        if batch.signals:
            self._then()
        return committed


@pytest.mark.parametrize("turns", range(8))
async def test_a_signal_in_the_moment_of_the_pause_is_not_lost(turns: int) -> None:
    """It was handed over, and before the receive has seen it the run is found to be idle."""
    clock = JumpingClock(stands=True)

    @workflow
    async def main() -> Any:
        return await asyncio.gather(receive("x"), receive("y"))

    def be_idle_in(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(be_idle_in, turns - 1)
        else:
            clock.jump(0.11)

    async with Runtime(StoreThatTells(lambda: be_idle_in(turns)), clock=clock) as runtime:
        handle = await runtime.start(main(), thread_id="t")
        await until(lambda: _waits(runtime, 2))
        clock.jump(0.11)  # since then, nothing has happened
        await anyio.sleep(0.02)
        assert handle.status == RunStatus.RUNNING
        await runtime.send("t", "x", 1)
        await anyio.sleep(0.1)
        if handle.status == RunStatus.PAUSED:
            assert await _has_recorded(runtime, 1), "it sleeps, and its signal is there"
        await runtime.send("t", "y", 2)
        assert await result(handle) == [1, 2]


async def _waits(runtime: Runtime, count: int) -> bool:
    progress = runtime._progress("t")
    return progress is not None and progress.executing.count("taskflow.receive") == count


async def _has_recorded(runtime: Runtime, count: int) -> bool:
    return len(await runtime.tasks("t")) == count


# Two runtimes, one run.


async def test_a_signal_from_elsewhere_wakes_who_sleeps_here(make_store: MakeStore) -> None:
    """Within the poll interval; each effect happens once."""
    effects: list[str] = []

    @task
    async def effect(value: str) -> None:
        effects.append(value)

    @workflow
    async def main() -> None:
        await effect(await receive("x", str))

    async with two_runtimes(make_store) as (here, there):
        mine = await here.start(main(), thread_id="t")
        await paused(mine)
        theirs = await there.start(main(), thread_id="t")
        await paused(theirs)
        await there.send("t", "x", "once")
        await result(mine)
        await result(theirs)

    assert effects == ["once"]


async def test_a_run_that_another_runtime_has_woken_is_busy(make_store: MakeStore) -> None:
    """It executes there: who is not patient hears that, and not of a pause without waits."""
    async with awake_elsewhere(make_store) as (here, handle, main, go):
        with anyio.fail_after(PATIENCE), pytest.raises(ThreadBusy) as caught:
            await here.run(main(), thread_id="t")
        assert caught.value.same_run
        go.set()
        assert await result(handle) == "done"


async def test_cancel_reaches_a_run_that_another_runtime_has_woken(make_store: MakeStore) -> None:
    """``cancel`` ends it, whoever executes it, though it once slept here."""
    async with awake_elsewhere(make_store) as (here, handle, _, go):
        with anyio.fail_after(PATIENCE):
            await here.cancel("t")
        assert (await here.get("t")).status == "cancelled"
        go.set()
        with pytest.raises(RunCancelled):
            await result(handle)


async def test_a_handle_cancels_a_run_that_another_runtime_has_woken(make_store: MakeStore) -> None:
    """The same for who holds on to it."""
    async with awake_elsewhere(make_store) as (here, handle, _, go):
        with anyio.fail_after(PATIENCE):
            await handle.cancel()
        assert (await here.get("t")).status == "cancelled"
        go.set()


async def test_a_run_that_another_runtime_has_woken_is_not_deleted_or_forgotten(
    make_store: MakeStore,
) -> None:
    """ThreadBusy, as for any that executes elsewhere."""
    async with awake_elsewhere(make_store) as (here, handle, _, go):
        (shown, *_) = await here.tasks("t")
        with pytest.raises(ThreadBusy):
            await here.delete("t")
        with pytest.raises(ThreadBusy):
            await here.forget("t", shown.task_id)
        go.set()
        assert await result(handle) == "done"


@asynccontextmanager
async def awake_elsewhere(
    make_store: MakeStore,
) -> AsyncIterator[tuple[Runtime, RunHandle[Any], Callable[[], Any], anyio.Event]]:
    """A run that sleeps here, and executes a body in another runtime."""
    go, begun = anyio.Event(), anyio.Event()

    @task
    async def work() -> str:
        begun.set()
        await go.wait()
        return "done"

    @workflow
    async def main() -> str:
        await receive("x")
        return await work()

    async with (
        Runtime(make_store(), poll_interval=0.05) as one,
        Runtime(make_store(), poll_interval=0.05) as other,
    ):
        first = await one.start(main(), thread_id="t")
        await paused(first)
        second = await other.start(main(), thread_id="t")
        await until(lambda: _is_paused_for(other, "x"))
        await paused(second)
        await other.send("t", "x")
        with anyio.fail_after(PATIENCE):
            await begun.wait()
        # Mostly the sender continues it, as it hears of the signal first.
        progress = one._progress("t")
        if progress is not None and "work" in progress.executing:
            yield other, second, main, go
        else:
            yield one, first, main, go


async def test_who_sleeps_here_follows_what_others_do_to_the_run(make_store: MakeStore) -> None:
    """Cancelled, superseded, deleted elsewhere: whoever waits here hears of it."""
    async with two_runtimes(make_store) as (here, there):
        heard: dict[str, BaseException] = {}

        async def wait_for(thread_id: str) -> None:
            try:
                await here.run(ask(), thread_id=thread_id, wait=True)
            except Exception as error:
                heard[thread_id] = error

        async with anyio.create_task_group() as group:
            for thread_id in ("cancelled", "superseded", "deleted"):
                group.start_soon(wait_for, thread_id)
            for thread_id in ("cancelled", "superseded", "deleted"):
                await until(lambda name=thread_id: _is_paused_for(there, "x", name))
            await there.cancel("cancelled")
            await there.start(ask("other"), thread_id="superseded", supersede=True)
            await there.delete("deleted")
            await until(lambda: _has(list(heard), 3))

    assert isinstance(heard["cancelled"], RunCancelled)
    assert isinstance(heard["superseded"], RunCancelled)
    assert isinstance(heard["deleted"], RunNotFound)


@on_asyncio
async def test_every_awaited_sleeping_run_is_looked_at(make_store: MakeStore) -> None:
    """However many there are: what another runtime has ended is heard of here."""
    go, begun = anyio.Event(), anyio.Event()

    @task
    async def work() -> None:
        begun.set()
        await go.wait()

    @workflow
    async def main() -> str:
        await receive("x")
        await work()
        return "done"

    async with two_runtimes(make_store) as (here, there):
        handles = [await here.start(main(), thread_id=str(number)) for number in range(130)]
        for each in handles:
            await paused(each)
        results: list[str] = []

        async def wait(handle: RunHandle[Any]) -> None:
            results.append(await handle.result())

        async with anyio.create_task_group() as group:
            for each in handles:
                group.start_soon(wait, each)
            theirs = await there.start(main(), thread_id="129")
            await paused(theirs)
            await there.send("129", "x")
            await begun.wait()
            await anyio.sleep(0.2)  # the signal is old news here
            go.set()
            await result(theirs)
            try:
                await until(lambda: _has(results, 1))
            finally:
                group.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 5])
async def test_two_runtimes_that_sleep_on_one_timer_execute_it_once(
    make_store: MakeStore, count: int
) -> None:
    """Both wake at the same time; the store gives the run to one of them."""
    clock = JumpingClock()
    effects: list[int] = []

    @task
    async def effect(number: int) -> int:
        effects.append(number)
        return number

    @workflow
    async def main(number: int) -> int:
        await sleep(3600)
        return await effect(number)

    async with two_runtimes(make_store, clock=clock) as (here, there):
        handles: list[RunHandle[Any]] = []
        for runtime in (here, there):
            for number in range(count):
                handle = await runtime.start(main(number), thread_id=str(number))
                await paused(handle)
                handles.append(handle)
        clock.jump(3601)
        results = [await result(each) for each in handles]

    assert results == [*range(count)] * 2
    assert sorted(effects) == list(range(count))


class StoreThatFailsOnce(MemoryStore):
    """Cannot read signals, once."""

    fails = False

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        if self.fails:
            self.fails = False
            raise StoreError("locked for a moment")
        return await super().signals(thread_id, run_id, after)


async def test_a_store_that_fails_while_it_is_looked_at_keeps_nobody_waiting() -> None:
    """The signal is found a little later, or whoever waits is told why not."""
    go, begun = anyio.Event(), anyio.Event()

    @task
    async def work() -> None:
        begun.set()
        await go.wait()

    @workflow
    async def main() -> Any:
        value, _ = await asyncio.gather(receive("x"), work())
        return value

    store = StoreThatFailsOnce()
    async with two_runtimes(lambda: store) as (here, there):
        handle = await here.start(main(), thread_id="t")
        await begun.wait()
        store.fails = True
        await there.send("t", "x", 1)

        async def has_failed() -> bool:
            return not store.fails

        await until(has_failed)
        go.set()
        try:
            assert await result(handle) == 1
        except StoreError as error:
            assert "locked for a moment" in str(error)  # noqa: PT017 - either is right


class StoreThatLooksSlowly(MemoryStore):
    """Takes its time to tell what is new, once."""

    def __init__(self) -> None:
        super().__init__()
        self.looking: anyio.Event | None = None
        self.go = anyio.Event()

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        if self.looking is not None and not self.looking.is_set():
            self.looking.set()
            await self.go.wait()
        return await super().news(after)


async def test_a_signal_that_comes_while_an_idle_runtime_looks_is_not_lost() -> None:
    """A run has begun by then, and the signal is for it."""
    store = StoreThatLooksSlowly()
    async with (
        Runtime(store, poll_interval=0.03) as here,
        Runtime(store, poll_interval=3600) as there,
    ):
        await anyio.sleep(0.1)  # the other one has looked for the first time
        store.looking = anyio.Event()
        await store.looking.wait()
        handle = await here.start(ask(), thread_id="t")
        await paused(handle)
        await there.send("t", "x", 1)
        store.go.set()
        assert await result(handle) == 1


# What stays in memory.


class Load:
    """Something heavy that a body holds on to."""


async def test_nothing_of_a_paused_run_stays_in_memory(runtime: Runtime) -> None:
    """Neither its frames nor what it has read, nor its Run: only its handle and its row."""
    loads: list[weakref.ref[Load]] = []

    @task
    async def inner(load_of_the_caller: int) -> Any:
        mine = Load()
        loads.append(weakref.ref(mine))
        return await receive("x"), mine

    @workflow
    async def main(number: int) -> Any:
        mine = Load()
        loads.append(weakref.ref(mine))
        await step(number)
        return await inner(number), mine

    @task
    async def step(number: int) -> str:
        return "x" * 10_000

    handles = [await runtime.start(main(number), thread_id=str(number)) for number in range(20)]
    for each in handles:
        await paused(each)
    await anyio.sleep(0.05)

    assert len(loads) == 40
    gc.collect()
    assert [each() for each in loads if each() is not None] == []
    assert _alive(runtime, "Run", "ReceiveCall", "RecordedCall") == {}


async def test_nothing_of_a_run_stays_that_paused_for_an_impatient_waiter(
    runtime: Runtime,
) -> None:
    """RunPaused carries what it waits for, and no traceback into the run."""
    loads: list[weakref.ref[Load]] = []

    @workflow
    async def main() -> Any:
        mine = Load()
        loads.append(weakref.ref(mine))
        return await receive("x", timeout=3600), mine

    errors: list[RunPaused] = []
    for _ in range(3):
        try:
            await runtime.run(main(), thread_id="t")
        except RunPaused as error:
            errors.append(error.with_traceback(None))  # which leads to its caller
    await anyio.sleep(0.05)
    gc.collect()

    assert len(loads) == 3
    assert [each() for each in loads if each() is not None] == []
    assert _alive(runtime, "Run", "ReceiveCall", "RecordedCall") == {}


async def test_who_starts_a_run_from_a_run_does_not_stay_with_it(runtime: Runtime) -> None:
    """A paused run keeps nothing of the run in whose body it was started."""
    loads: list[weakref.ref[Load]] = []

    @task
    async def begin() -> None:
        mine = Load()
        loads.append(weakref.ref(mine))
        await runtime.start(ask(), thread_id="child")

    @workflow
    async def parent() -> None:
        await begin()

    await finish(runtime, parent(), "parent")
    await until(lambda: _is_paused_for(runtime, "x", "child"))
    await anyio.sleep(0.1)
    gc.collect()

    assert [each() for each in loads if each() is not None] == []
    assert _alive(runtime, "Run") == {}


def _alive(runtime: Runtime, *names: str) -> dict[str, int]:
    """How many objects of these classes are reachable that belong to this runtime."""
    found: dict[str, int] = {}
    scheduler = runtime._service and runtime._service.scheduler
    for each in gc.get_objects():
        kind = type(each)
        if kind.__module__.startswith("taskflow.") and kind.__name__ in names:
            run = (
                each
                if kind.__name__ == "Run"
                else getattr(getattr(each, "frame", None), "run", None)
            )
            if run is not None and run.scheduler is scheduler:
                found[kind.__name__] = found.get(kind.__name__, 0) + 1
    return found


async def test_a_warning_of_a_paused_run_is_logged(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody awaits it in this moment who could be warned."""
    if not isinstance(runtime._store, MemoryStore):
        pytest.skip("one store will do")

    @task
    async def shouted(words: list[str]) -> int:
        words.append("!")
        return len(words)

    @workflow
    async def main() -> Any:
        await shouted(["a"])
        return await receive("x")

    with caplog.at_level(logging.WARNING, "taskflow"):
        handle = await runtime.start(main(), thread_id="t")
        await paused(handle)
    assert any("shouted" in each.message for each in caplog.records)


async def test_a_run_is_paused_and_woken_many_times(runtime: Runtime) -> None:
    """A conversation: a hundred turns, each a pause, with nothing that grows in memory."""

    @workflow
    async def talk() -> int:
        total = 0
        while (said := await receive("said", int)) >= 0:
            total += said
        return total

    handle = await runtime.start(talk(), thread_id="t")
    for number in range(8):
        await paused(handle)
        await runtime.send("t", "said", number)
        await until(lambda number=number: _has_recorded(runtime, number + 1))
    for number in range(100):  # these come faster than it pauses
        await runtime.send("t", "said", number)
    await runtime.send("t", "said", -1)

    assert await result(handle) == sum(range(8)) + sum(range(100))


class SlowToPause(WrappedStore):
    """Stands still at the commit of a pause until it is told to go on."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reached, self.goes_on = anyio.Event(), anyio.Event()

    async def commit(self, batch: Batch) -> Committed:
        if any(each.status == RunStatus.PAUSED for each in batch.finishes):
            self.reached.set()
            await self.goes_on.wait()
        return await super().commit(batch)


@on_asyncio
async def test_who_is_cancelled_while_the_run_pauses_is_cancelled(make_store: MakeStore) -> None:
    """He is not told of the pause instead, which would make his own time limit no limit."""
    store = SlowToPause(make_store())
    async with Runtime(store) as runtime:
        caller = asyncio.create_task(runtime.run(ask(), thread_id="t"))
        await store.reached.wait()
        caller.cancel()
        await checkpoint()
        store.goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
