"""`Runtime.stream`: the events of a run, as they happen, for who runs it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from kinds import MakeStore, every_durability, on_asyncio
from waits import PATIENCE

from taskflow import (
    RunCancelled,
    RunPaused,
    Runtime,
    RunUnfinished,
    ThreadBusy,
    emit,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskStarted,
)
from taskflow.events import RunCancelled as RunCancelledEvent
from taskflow.events import RunPaused as RunPausedEvent
from taskflow.events import TaskFailed as TaskFailedEvent

pytestmark = pytest.mark.anyio


@task
async def step(number: int) -> int:
    return number


@workflow
async def steps(count: int) -> int:
    for number in range(count):
        await step(number)
    return count


@workflow
async def ask() -> str:
    return await receive("answer", str)


async def kinds_of(events: Any) -> list[str]:
    """The names of all that comes."""
    return [type(each).__name__ async for each in events]


def durable(events: list[Event]) -> list[int]:
    """The numbers of those that can be asked for again."""
    return [
        each.number
        for each in events
        if (isinstance(each, TaskCompleted | TaskFailedEvent) and not each.replayed)
        or (isinstance(each, Emitted) and each.durable)
    ]


async def test_the_block_gives_events_and_then_the_result(runtime: Runtime) -> None:
    """Reading to the end is the end of the run; the result is there."""
    async with runtime.stream(steps(3), thread_id="t") as events:
        names = await kinds_of(events)
        assert await events.result() == 3
    assert names == ["RunStarted", *["TaskStarted", "TaskCompleted"] * 3, "RunCompleted"]


async def test_the_result_may_be_asked_for_first(runtime: Runtime) -> None:
    """And several times; the events are there afterwards."""
    async with runtime.stream(steps(3), thread_id="t") as events:
        assert await events.result() == 3
        assert await events.result() == 3
        assert (await kinds_of(events))[-1] == "RunCompleted"
        assert await kinds_of(events) == []


async def test_an_event_comes_while_the_body_still_executes(runtime: Runtime) -> None:
    """Each step is taken only when the events of the one before were read."""
    taken = [anyio.Event() for _ in range(3)]

    @task
    async def wait_for(number: int) -> None:
        await taken[number].wait()

    @workflow
    async def three() -> None:
        for number in range(3):
            await wait_for(number)

    begun = 0
    with anyio.fail_after(PATIENCE):
        async with runtime.stream(three(), thread_id="t") as events:
            async for each in events:
                if isinstance(each, TaskStarted):
                    taken[begun].set()
                    begun += 1
    assert begun == 3


async def test_items_of_a_generator_come_as_they_are_made(runtime: Runtime) -> None:
    """The next one is made only when the one before was read."""
    read = [anyio.Event() for _ in range(3)]

    @task
    async def make() -> AsyncIterator[dict[str, int]]:
        for number in range(3):
            yield {"n": number}
            await read[number].wait()

    @workflow
    async def all_items() -> list[dict[str, int]]:
        return await make()

    items: list[Any] = []
    with anyio.fail_after(PATIENCE):
        async with runtime.stream(all_items(), thread_id="t") as events:
            async for each in events:
                if isinstance(each, Emitted):
                    items.append(each.value)
                    read[each.value["n"]].set()
            assert await events.result() == items == [{"n": 0}, {"n": 1}, {"n": 2}]


@every_durability
async def test_numbers_of_durable_events_are_those_of_the_records(
    make_store: MakeStore, durability: Any
) -> None:
    """They grow, and none is told twice, however much happens at once."""

    @task
    async def noisy(number: int) -> int:
        await emit(number)
        if number % 7 == 3:
            raise ValueError(number)
        return number

    @workflow
    async def fan_out() -> int:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(quietly, number)
        return len(await step.map(range(50)))

    async def quietly(number: int) -> None:
        try:
            await noisy(number)
        except ValueError:
            await emit(f"no {number}")

    async with Runtime(make_store(), durability=durability) as runtime:
        async with runtime.stream(fan_out(), thread_id="t") as events:
            found = [each async for each in events]
        told = durable(found)
        assert told == sorted(set(told))
        assert len(told) == 50 + 50 + 7 + 50
        tasks = [each.sequence for each in await runtime.tasks("t")]
        assert set(tasks) < set(told)
        numbers = [each.number for each in found]
        assert numbers == sorted(numbers)


async def test_numbers_never_fall(runtime: Runtime) -> None:
    """Not on a rerun either, which asks in another order than that of the commits."""
    first = {number: anyio.Event() for number in range(3)}
    crashes = iter([True, False])

    @task
    async def turn(number: int) -> int:
        if number < 2:
            await first[number + 1].wait()
        return number

    @workflow
    async def backwards() -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        if next(crashes):
            raise ValueError

    async def one(number: int) -> None:
        await turn(number)
        first[number].set()

    for _ in range(2):
        async with runtime.stream(backwards(), thread_id="t") as events:
            numbers = [each.number async for each in events]
        assert numbers == sorted(numbers)


async def test_a_run_that_fails_ends_the_stream(runtime: Runtime) -> None:
    """The events end with the failure; leaving the block raises nothing, the result does."""

    @workflow
    async def fail() -> None:
        await step(1)
        raise ValueError("no")

    async with runtime.stream(fail(), thread_id="t") as events:
        assert (await kinds_of(events))[-1] == "RunFailed"
        with pytest.raises(ValueError, match="no"):
            await events.result()


async def test_a_pause_ends_the_stream_of_who_is_not_to_wait(runtime: Runtime) -> None:
    """The result is RunPaused, as of `run`."""
    async with runtime.stream(ask(), thread_id="t") as events:
        assert await kinds_of(events) == ["RunStarted", "Waiting", "RunPaused"]
        with pytest.raises(RunPaused):
            await events.result()
    assert (await runtime.get("t")).status == "paused"


async def test_who_waits_is_told_how_it_goes_on(runtime: Runtime) -> None:
    """Through a pause, to the end."""
    names: list[str] = []
    with anyio.fail_after(PATIENCE):
        async with runtime.stream(ask(), thread_id="t", wait=True) as events:
            async for each in events:
                names.append(type(each).__name__)
                if isinstance(each, RunPausedEvent):
                    await runtime.send("t", "answer", "yes")
            assert await events.result() == "yes"
    assert names[:3] == ["RunStarted", "Waiting", "RunPaused"]
    assert names[3] == "RunStarted"
    assert names[-1] == "RunCompleted"


async def test_a_timer_wakes_the_run_of_who_waits(runtime: Runtime) -> None:
    """The pause and its end are told."""

    @workflow
    async def nap() -> None:
        await sleep(1.3)

    with anyio.fail_after(PATIENCE):
        async with runtime.stream(nap(), thread_id="t", wait=True) as events:
            names = await kinds_of(events)
    assert names[0] == "RunStarted"
    assert names[-1] == "RunCompleted"


async def test_who_leaves_early_cancels_the_run_that_nobody_else_waits_for(
    runtime: Runtime,
) -> None:
    """By break, and by an exception; it has been unwound when the block is left."""
    executing: set[int] = set()

    @workflow
    async def endless(number: int) -> None:
        executing.add(number)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            executing.discard(number)

    async with runtime.stream(endless(1), thread_id="t1") as events:
        async for _ in events:
            break
    assert not executing
    with contextlib.suppress(KeyError):
        async with runtime.stream(endless(2), thread_id="t2") as events:
            await anext(events)
            raise KeyError
    assert not executing
    with anyio.CancelScope() as scope:
        async with runtime.stream(endless(3), thread_id="t3") as events:
            async for _ in events:
                scope.cancel()
    assert not executing
    assert [each.status for each in await runtime.runs()] == ["running"] * 3
    assert [each.owner for each in await runtime.runs()] == [None] * 3


async def test_who_leaves_early_leaves_the_run_to_others(runtime: Runtime) -> None:
    """A handle, and another stream, are waiters too."""
    go_on = anyio.Event()

    @workflow
    async def wait() -> str:
        await go_on.wait()
        return "done"

    with anyio.fail_after(PATIENCE):
        handle = await runtime.start(wait(), thread_id="t")
        async with runtime.stream(wait(), thread_id="t"):
            pass
        async with runtime.stream(wait(), thread_id="u") as stays:
            async with runtime.stream(wait(), thread_id="u"):
                pass
            go_on.set()
            assert (await kinds_of(stays))[-1] == "RunCompleted"
            assert await stays.result() == "done"
        assert await handle.result() == "done"


async def test_two_streams_of_one_run_are_told_the_same(runtime: Runtime) -> None:
    """They join one execution."""
    found: list[list[str]] = [[], []]

    async def read(place: int) -> None:
        async with runtime.stream(steps(20), thread_id="t") as events:
            found[place] = await kinds_of(events)

    async with anyio.create_task_group() as group:
        group.start_soon(read, 0)
        group.start_soon(read, 1)
    assert found[0] == found[1]
    assert found[0].count("TaskCompleted") == 20


@pytest.mark.parametrize("buffer", [1, 2, 7, 100])
async def test_what_a_slow_reader_misses_is_counted(runtime: Runtime, buffer: int) -> None:
    """What is told and what is counted is all there was, and the end is always told."""
    async with runtime.stream(steps(100), thread_id="t", buffer=buffer) as events:
        assert await events.result() == 100
        found = [each async for each in events]
    assert isinstance(found[-1], RunCompleted)
    assert found[-1].result == 100
    dropped = sum(each.count for each in found if isinstance(each, Dropped))
    others = sum(not isinstance(each, Dropped) for each in found)
    assert dropped + others == 202
    assert len(found) <= buffer + 2
    numbers = [each.number for each in found]
    assert numbers == sorted(numbers)


async def test_a_reader_that_is_slow_now_and_then_is_told_what_it_missed_in_its_place(
    runtime: Runtime,
) -> None:
    """The sum is right over many droppings, and numbers grow."""
    found: list[Event] = []
    async with runtime.stream(steps(500), thread_id="t", buffer=8) as events:
        async for each in events:
            found.append(each)
            if len(found) % 5 == 0:
                await anyio.sleep(0.002)
    dropped = sum(each.count for each in found if isinstance(each, Dropped))
    others = sum(not isinstance(each, Dropped) for each in found)
    assert dropped + others == 1002
    assert isinstance(found[-1], RunCompleted)
    told = durable(found)
    assert told == sorted(set(told))


async def test_a_reader_that_never_reads_does_not_slow_or_fill_anything(runtime: Runtime) -> None:
    """Two thousand values, of which ten are kept."""

    @workflow
    async def shout(count: int) -> int:
        for number in range(count):
            await emit([str(number) * 200])
        return count

    async with runtime.stream(shout(10), thread_id="warm", buffer=10) as events:
        await events.result()
    del events
    gc.collect()
    before = sum(isinstance(each, Emitted) for each in gc.get_objects())
    async with runtime.subscribe("t", buffer=10):
        await runtime.run(shout(2000), thread_id="t")
        gc.collect()
        held = sum(isinstance(each, Emitted) for each in gc.get_objects())
    assert held - before <= 12


async def test_a_superseded_stream_ends(runtime: Runtime) -> None:
    """It hears that its run is over, and nothing of the one that took its place."""
    found: list[Event] = []
    ended = anyio.Event()

    async def read() -> None:
        async with runtime.stream(ask(), thread_id="t", wait=True) as events:
            async for each in events:
                found.append(each)  # noqa: PERF401
            with pytest.raises(RunCancelled):
                await events.result()
        ended.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            while not any(isinstance(each, RunPausedEvent) for each in found):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await runtime.run(steps(5), thread_id="t", supersede=True)
            await ended.wait()
    assert len({each.run_id for each in found}) == 1
    assert isinstance(found[-1], RunCancelledEvent)


@pytest.mark.parametrize("how", ["cancel", "delete", "supersede", "finish"])
async def test_who_waits_hears_that_another_process_has_ended_the_run(
    tmp_path: Path, how: str
) -> None:
    """A paused run in another process's hands: the reader does not wait for ever."""
    path = tmp_path / "taskflow.db"
    found: list[Event] = []

    async with Runtime(path, poll_interval=0.02) as one, Runtime(path, poll_interval=0.02) as two:

        async def read() -> None:
            async with one.stream(ask(), thread_id="t", wait=True) as events:
                async for each in events:
                    found.append(each)  # noqa: PERF401

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                while not any(isinstance(each, RunPausedEvent) for each in found):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                if how == "cancel":
                    await two.cancel("t")
                elif how == "delete":
                    await two.delete("t")
                elif how == "supersede":
                    await two.run(steps(1), thread_id="t", supersede=True)
                else:
                    await one.send("t", "answer", "yes")
                    with contextlib.suppress(RunUnfinished):
                        await two.run(ask(), thread_id="t", wait=True)
    expected: Any = (RunCompleted,) if how == "finish" else (RunCancelledEvent, RunPausedEvent)
    assert isinstance(found[-1], expected)


async def test_a_patient_stream_waits_for_another_process(tmp_path: Path) -> None:
    """As `run` does with ``wait=True``; without it the thread is busy."""
    path = tmp_path / "taskflow.db"
    go_on = anyio.Event()

    @task
    async def hold() -> str:
        await go_on.wait()
        return "held"

    @workflow
    async def wait() -> str:
        return await hold()

    async with Runtime(path) as one, Runtime(path) as two:
        handle = await one.start(wait(), thread_id="t")
        with pytest.raises(ThreadBusy):
            async with two.stream(wait(), thread_id="t"):
                pass
        results: list[str] = []

        async def read() -> None:
            async with two.stream(wait(), thread_id="t", wait=True) as events:
                await kinds_of(events)
                results.append(await events.result())

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await anyio.sleep(0.05)
                go_on.set()
            assert results == [await handle.result()] == ["held"]


async def test_closing_the_runtime_ends_the_stream(make_store: MakeStore) -> None:
    """Of a run that executes, and of one that is paused."""

    @workflow
    async def endless() -> None:
        await anyio.sleep_forever()

    runtime = await Runtime(make_store()).open()
    ends: list[list[str]] = []

    async def read(call: Any, thread_id: str) -> None:
        async with runtime.stream(call, thread_id=thread_id, wait=True) as events:
            ends.append(await kinds_of(events))
            with pytest.raises(RunUnfinished):
                await events.result()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(read, endless(), "t")
            group.start_soon(read, ask(), "u")
            while len(await runtime.runs(status="paused")) < 1:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)
            await runtime.aclose()
    assert {each[-1] for each in ends} == {"RunCancelled", "RunPaused"}


async def test_a_refused_stream_leaves_nothing_behind(runtime: Runtime) -> None:
    """What `run` refuses, `stream` refuses at once, and the thread can be run after that."""
    with pytest.raises(RunPaused):
        await runtime.run(ask(), thread_id="t")
    with pytest.raises(RunUnfinished):
        async with runtime.stream(steps(1), thread_id="t"):
            pass
    with pytest.raises(TypeError):
        async with runtime.stream(step, thread_id="t"):  # type: ignore[arg-type]
            pass
    async with runtime.stream(steps(1), thread_id="t", supersede=True) as events:
        names = await kinds_of(events)
    assert names[-1] == "RunCompleted"


@on_asyncio
async def test_a_natively_cancelled_reader_unwinds_its_run(runtime: Runtime) -> None:
    """At each of its steps: nothing executes when the reader's task has ended."""
    executing: list[int] = []

    @task
    async def slow(number: int) -> int:
        executing.append(number)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise
        finally:
            executing.remove(number)
        return number

    @workflow
    async def several() -> int:
        return sum([await slow(number) for number in range(5)])

    async def read(thread_id: str) -> None:
        async with runtime.stream(several(), thread_id=thread_id) as events:
            await kinds_of(events)

    for count in range(45):
        reader = asyncio.create_task(read(f"t{count}"))
        for _ in range(count):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        assert not executing
        assert await runtime.run(several(), thread_id=f"t{count}") == 10


async def test_a_rerun_of_ten_thousand_calls_is_told_within_its_buffer(runtime: Runtime) -> None:
    """More than a buffer holds, replayed in one go: counted, not kept."""

    @workflow
    async def wide(crash: bool) -> int:
        return len(await step.map(range(6000)))

    await runtime.run(wide(False), thread_id="t")
    await runtime.forget("t", (await runtime.tasks("t"))[-1].task_id)
    async with runtime.stream(wide(False), thread_id="t", buffer=1000) as events:
        assert await events.result() == 6000
        found = [each async for each in events]
    assert len(found) <= 1002
    dropped = sum(each.count for each in found if isinstance(each, Dropped))
    # Started, 5999 replayed, one started and completed, completed.
    assert dropped + sum(not isinstance(each, Dropped) for each in found) == 6003


async def test_several_runs_on_one_thread_are_told_apart(runtime: Runtime) -> None:
    """Each stream begins with its own run, and ends with it."""
    for number in range(3):
        async with runtime.stream(steps(number), thread_id="t") as events:
            found = [each async for each in events]
        assert isinstance(found[0], RunStarted)
        assert isinstance(found[-1], RunCompleted)
        assert found[-1].result == number
        assert len({each.run_id for each in found}) == 1
        assert not any(isinstance(each, RunFailed) for each in found)
