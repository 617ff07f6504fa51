"""`emit`: a value is told once, and again to whoever asks again."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import anyio
import pytest
from kinds import MakeStore, every_durability
from reruns import Crash

from taskflow import RetryPolicy, Runtime, as_completed, emit, receive, task, workflow
from taskflow.errors import NotInRun, SerializationError
from taskflow.events import Emitted

pytestmark = pytest.mark.anyio


class Unlucky(Exception):
    """What is tried again."""


async def emitted(runtime: Runtime, call: Any) -> list[Any]:
    """What a run emits while it executes."""
    async with runtime.stream(call, thread_id="t") as events:
        return [each.value async for each in events if isinstance(each, Emitted)]


async def recorded(runtime: Runtime) -> list[Any]:
    """What a thread's run has emitted until it ended, read from the store."""
    async with runtime.subscribe("t") as events:
        return [each.value async for each in events if isinstance(each, Emitted)]


@every_durability
async def test_a_rerun_does_not_tell_again(make_store: MakeStore, durability: Any) -> None:
    """What was told before the crash is recorded; only what comes after it is new."""
    crash = True

    @task
    async def work(number: int) -> None:
        await emit(f"in {number}")

    @workflow
    async def tell() -> None:
        await emit("begun")
        await work(1)
        if crash:
            raise Crash
        await work(2)
        await emit("ended")

    async with Runtime(make_store(), durability=durability) as runtime:
        assert await emitted(runtime, tell()) == ["begun", "in 1"]
    crash = False
    async with Runtime(make_store(), durability=durability) as runtime:
        assert await emitted(runtime, tell()) == ["in 2", "ended"]
        assert await recorded(runtime) == ["begun", "in 1", "in 2", "ended"]
        assert [each.name for each in await runtime.tasks("t")] == [work.name, work.name]


async def test_a_retry_does_not_repeat_what_the_attempt_before_has_told(runtime: Runtime) -> None:
    """Only what it tells more; in tasks, and in a workflow that is attempted again."""
    attempts: list[int] = []

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0))
    async def work() -> None:
        attempts.append(1)
        for number in range(len(attempts)):
            await emit(f"step {number}")
        if len(attempts) < 3:
            raise Unlucky

    @workflow(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def tell() -> None:
        await emit("begun")
        await work()
        if len(attempts) < 4:
            attempts.append(1)
            raise Crash

    expected = ["begun", "step 0", "step 1", "step 2"]
    assert await emitted(runtime, tell()) == expected
    assert await recorded(runtime) == expected


async def test_a_task_that_is_executed_again_does_not_repeat_itself(runtime: Runtime) -> None:
    """It was cut off, or has failed, without a policy: what it told before is recorded."""
    crash = True

    @task
    async def work() -> None:
        await emit("a")
        await emit("a")
        if crash:
            raise Crash
        await emit("b")

    @workflow
    async def tell() -> None:
        await work()

    assert await emitted(runtime, tell()) == ["a", "a"]
    crash = False
    assert await emitted(runtime, tell()) == ["b"]
    assert await recorded(runtime) == ["a", "a", "b"]


async def test_equal_values_are_told_as_often_as_they_are_emitted(runtime: Runtime) -> None:
    """One after another, and from branches that execute at the same time; nobody is warned."""

    @workflow
    async def tell() -> None:
        for _ in range(3):
            await emit(1)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
        await emit(1.5)
        await emit(True)

    async def one() -> None:
        await emit(1)

    assert await emitted(runtime, tell()) == [1] * 6 + [1.5, True]
    assert await recorded(runtime) == [1] * 6 + [1.5, True]


async def test_emit_in_def_bodies(runtime: Runtime) -> None:
    """``result()`` hands the value in from a worker thread."""

    @task
    def work() -> None:
        emit("task").result()

    @workflow
    def tell() -> None:
        emit("workflow").result()
        work().result()

    assert await emitted(runtime, tell()) == ["workflow", "task"]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {1: "a"},
        object(),
        "\ud800",
        [{"deep": [object()]}],
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_json_cannot_carry_exactly_is_refused(runtime: Runtime, value: Any) -> None:
    """At the call, before anything is told; the run goes on if it likes."""

    @workflow
    async def tell() -> str:
        with pytest.raises(SerializationError, match=r"emit\(\)"):
            await emit(value)
        await emit("fine")
        return "ended"

    assert await emitted(runtime, tell()) == ["fine"]


async def test_what_contains_itself_is_refused(runtime: Runtime) -> None:
    """It has no end."""

    @workflow
    async def tell() -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(SerializationError):
            await emit(value)

    assert await emitted(runtime, tell()) == []


@pytest.mark.parametrize("value", [(1, 2), {1}, b"bytes", datetime(2026, 1, 1)])
async def test_what_json_carries_otherwise_is_told_the_same_to_everybody(
    runtime: Runtime, value: Any
) -> None:
    """Live, and from the record."""

    @workflow
    async def tell() -> None:
        try:
            await emit(value)
        except SerializationError:
            await emit("refused")

    assert await emitted(runtime, tell()) == await recorded(runtime)


async def test_an_object_is_refused_or_told_as_what_it_is_in_json(runtime: Runtime) -> None:
    """Never as something that a rerun, or a later reader, sees otherwise."""

    @dataclasses.dataclass
    class Step:
        name: str

    @workflow
    async def tell() -> None:
        try:
            await emit(Step("a"))
        except SerializationError:
            await emit("refused")

    assert await emitted(runtime, tell()) == await recorded(runtime)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"a": None}])
async def test_empty_values_are_told(runtime: Runtime, value: Any) -> None:
    """They are values like any other."""

    @workflow
    async def tell() -> None:
        await emit(value)

    assert await emitted(runtime, tell()) == [value]
    assert await recorded(runtime) == [value]


async def test_a_value_that_is_changed_later_is_told_as_it_was(runtime: Runtime) -> None:
    """It is encoded at the call."""

    @workflow
    async def tell() -> None:
        value = {"count": 1}
        call = emit(value)
        value["count"] = 2
        await call

    assert await emitted(runtime, tell()) == [{"count": 1}]


async def test_values_come_while_the_body_still_executes(runtime: Runtime) -> None:
    """The reader has it before the task ends, in every durability."""
    go_on = anyio.Event()

    @task
    async def work() -> None:
        await emit("half way")
        await go_on.wait()

    @workflow
    async def tell() -> None:
        await work()

    with anyio.fail_after(20):
        async with runtime.stream(tell(), thread_id="t") as events:
            async for each in events:
                if isinstance(each, Emitted):
                    go_on.set()
            assert await events.result() is None


@every_durability
async def test_values_come_early_in_every_durability(
    make_store: MakeStore, durability: Any
) -> None:
    """Nobody waits for the end of the run to hear of them."""
    go_on = anyio.Event()

    @workflow
    async def tell() -> None:
        await emit("early")
        await go_on.wait()

    async with Runtime(make_store(), durability=durability) as runtime:
        with anyio.fail_after(20):
            async with runtime.stream(tell(), thread_id="t") as events:
                async for each in events:
                    if isinstance(each, Emitted):
                        go_on.set()
        assert await recorded(runtime) == ["early"]


async def test_a_live_value_and_a_recorded_one_look_the_same(runtime: Runtime) -> None:
    """Whoever came after the run had begun is told the workflow's name, too."""

    @task
    async def work() -> None:
        await emit("task")

    @workflow
    async def tell() -> None:
        await receive("go")
        await emit("workflow")
        await work()
        await receive("end")

    handle = await runtime.start(tell(), thread_id="t")
    live: list[Emitted] = []
    with anyio.fail_after(20):
        async with runtime.subscribe("t") as events:
            await anext(events)
            await runtime.send("t", "go")
            async for each in events:
                if isinstance(each, Emitted):
                    live.append(each)
                if len(live) == 2:
                    break
        await runtime.send("t", "end")
        await handle.result()
    async with runtime.subscribe("t") as events:
        again = [each async for each in events if isinstance(each, Emitted)]
    assert live == again
    assert [each.name for each in live] == [tell.name, work.name]


async def test_values_in_arms_are_told_until_they_have_lost(runtime: Runtime) -> None:
    """In the order of the commits, and once."""

    @workflow
    async def arm(name: str) -> str:
        await emit(name)
        return name

    @workflow
    async def tell() -> list[str]:
        async with as_completed(arm("a"), arm("b")) as results:
            return [each async for each in results]

    assert sorted(await emitted(runtime, tell())) == ["a", "b"]


async def test_emit_in_a_block_without_a_workflow(runtime: Runtime) -> None:
    """It is recorded like a task: the next block on the thread does not tell it again."""
    heard: list[Any] = []
    async with runtime.thread("t"):
        await emit("before")
    async with runtime.subscribe("t") as events:

        async def listen() -> None:
            async for each in events:
                if isinstance(each, Emitted):
                    heard.append(each.value)  # noqa: PERF401

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            for _ in range(2):
                async with runtime.thread("t"):
                    await emit("before")
                    await emit("after")
            with anyio.fail_after(20):
                while len(heard) < 2:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
    assert heard == ["before", "after"]


async def test_emit_outside_of_a_run_is_refused() -> None:
    """There is nobody who could listen."""
    with pytest.raises(NotInRun):
        emit("nobody")


async def test_emit_that_is_never_awaited_warns_and_tells_nothing(runtime: Runtime) -> None:
    """As any call."""

    @workflow
    async def tell() -> None:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            emit("lost")

    assert await emitted(runtime, tell()) == []


async def test_a_thousand_values_come_in_their_order(runtime: Runtime) -> None:
    """With numbers that grow."""

    @workflow
    async def tell() -> None:
        for number in range(1000):
            await emit(number)

    async with runtime.stream(tell(), thread_id="t") as events:
        found = [each async for each in events if isinstance(each, Emitted)]
    assert [each.value for each in found] == list(range(1000))
    numbers = [each.number for each in found]
    assert numbers == sorted(set(numbers))
