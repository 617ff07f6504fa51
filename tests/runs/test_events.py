"""Every kind of event, what is in it, and that it survives a wire."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, get_args

import anyio
import msgspec
import pytest

from taskflow import RetryPolicy, RunPaused, Runtime, emit, receive, task, workflow
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskRetrying,
    TaskStarted,
    Waiting,
)
from taskflow.events import RunCancelled as RunCancelledEvent
from taskflow.events import RunPaused as RunPausedEvent
from taskflow.events import TaskFailed as TaskFailedEvent
from taskflow.records import Wait

pytestmark = pytest.mark.anyio


class Unlucky(Exception):
    """What is tried again."""


async def told(runtime: Runtime, call: Any, **options: Any) -> list[Event]:
    """All events of a run, whatever it ends with."""
    async with runtime.stream(call, thread_id="t", **options) as events:
        return [each async for each in events]


def of_kind(events: list[Event], kind: Any) -> Any:
    """The only event of a kind."""
    (found,) = [each for each in events if isinstance(each, kind)]
    return found


def check_run_event(event: Any, run_id: str, name: str, begun: float) -> None:
    """It is about the run itself."""
    assert (event.thread_id, event.run_id, event.name) == ("t", run_id, name)
    assert event.task_id is None
    assert event.parent_id is None
    assert begun <= event.time <= time.time() + 1


async def test_a_run_that_succeeds_is_told_from_its_start_to_its_result(runtime: Runtime) -> None:
    """One call in it: started and completed, with its attempts and its duration."""

    @task
    async def greet(name: str) -> str:
        await anyio.sleep(0.01)
        return f"hello {name}"

    @workflow
    async def welcome(name: str) -> dict[str, str]:
        return {"said": await greet(name)}

    begun = time.time() - 1
    events = await told(runtime, welcome("you"))
    run = await runtime.get("t")
    (recorded,) = await runtime.tasks("t")
    assert [type(each) for each in events] == [RunStarted, TaskStarted, TaskCompleted, RunCompleted]
    started, task_started, task_completed, completed = events
    for each in (started, completed):
        check_run_event(each, run.run_id, welcome.name, begun)
    for each in (task_started, task_completed):
        assert (each.thread_id, each.run_id, each.name) == ("t", run.run_id, greet.name)
        assert (each.task_id, each.parent_id) == (recorded.task_id, None)
    assert isinstance(task_started, TaskStarted)
    assert task_started.attempt == 1
    assert isinstance(task_completed, TaskCompleted)
    assert (task_completed.replayed, task_completed.attempts) == (False, 1)
    assert 0.005 < task_completed.duration < 30
    assert task_completed.number == recorded.sequence > started.number
    assert isinstance(completed, RunCompleted)
    assert completed.result == {"said": "hello you"}
    assert completed.number == recorded.sequence
    times = [each.time for each in events]
    assert times == sorted(times)


async def test_a_failure_is_told_with_its_type_and_message(runtime: Runtime) -> None:
    """Retrying, with the delay and the error; failed, and the run with it."""

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0.01, jitter=False))
    async def flaky() -> None:
        raise Unlucky("no luck")

    @workflow
    async def hope() -> None:
        await flaky()

    begun = time.time() - 1
    events = await told(runtime, hope())
    run = await runtime.get("t")
    expected: list[type] = [
        RunStarted, TaskStarted, TaskRetrying, TaskStarted, TaskFailedEvent, RunFailed,
    ]  # fmt: skip
    assert [type(each) for each in events] == expected
    first, second = [each for each in events if isinstance(each, TaskStarted)]
    retrying = of_kind(events, TaskRetrying)
    failed = of_kind(events, TaskFailedEvent)
    assert (first.attempt, second.attempt, retrying.attempt, failed.attempts) == (1, 2, 1, 2)
    assert retrying.delay == pytest.approx(0.01)
    assert {first.task_id, second.task_id, retrying.task_id, failed.task_id} == {first.task_id}
    for each in (retrying, failed, of_kind(events, RunFailed)):
        assert "Unlucky" in each.error
        assert "no luck" in each.error
    assert not failed.replayed
    assert failed.number > second.number
    check_run_event(of_kind(events, RunFailed), run.run_id, hope.name, begun)


async def test_a_workflow_that_is_retried_is_told(runtime: Runtime) -> None:
    """It is about the run itself; what is answered from the records is told as replayed."""
    attempts: list[int] = []

    @task
    async def step() -> int:
        return 1

    @workflow(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def twice() -> int:
        attempts.append(await step())
        if len(attempts) == 1:
            raise Unlucky
        return 2

    events = await told(runtime, twice())
    retrying = of_kind(events, TaskRetrying)
    assert (retrying.task_id, retrying.name, retrying.attempt) == (None, twice.name, 1)
    completed = [each for each in events if isinstance(each, TaskCompleted)]
    assert [each.replayed for each in completed] == [False, True]


async def test_a_rerun_tells_what_is_replayed(runtime: Runtime) -> None:
    """Results and failures that were recorded before, marked as such; nothing starts."""
    crash = True

    @task
    async def good() -> str:
        return "good"

    @task
    async def bad() -> None:
        raise ValueError("bad")

    @workflow
    async def both() -> str:
        found = await good()
        try:
            await bad()
        except ValueError:
            if crash:
                raise RuntimeError from None
        return found

    await told(runtime, both())
    crash = False
    events = await told(runtime, both())
    expected: list[type] = [RunStarted, TaskCompleted, TaskFailedEvent, RunCompleted]
    assert [type(each) for each in events] == expected
    assert of_kind(events, TaskCompleted).replayed
    assert of_kind(events, TaskFailedEvent).replayed
    assert "bad" in of_kind(events, TaskFailedEvent).error
    assert [each.task_id for each in events[1:3]] == [
        each.task_id for each in await runtime.tasks("t")
    ]


async def test_an_answer_from_the_record_is_one_event(runtime: Runtime) -> None:
    """A run that has succeeded is not begun again."""

    @workflow
    async def answer() -> int:
        return 42

    await told(runtime, answer())
    (completed,) = await told(runtime, answer())
    assert isinstance(completed, RunCompleted)
    assert completed.result == 42


async def test_waits_and_pauses_are_told(runtime: Runtime) -> None:
    """With all that is known of what the run waits for; and that it goes on."""

    @workflow
    async def ask() -> int:
        return await receive("number", int, prompt={"which": "one"}, timeout=1000)

    events = await told(runtime, ask())
    run = await runtime.get("t")
    assert [type(each) for each in events] == [RunStarted, Waiting, RunPausedEvent]
    waiting, paused = of_kind(events, Waiting), of_kind(events, RunPausedEvent)
    assert waiting.task_id == waiting.wait.task_id
    assert waiting.parent_id is None
    assert waiting.name == "taskflow.receive"
    assert (waiting.wait.kind, waiting.wait.name) == ("signal", "number")
    assert (waiting.wait.prompt, waiting.wait.type) == ({"which": "one"}, "int")
    assert waiting.wait.schema == {"type": "integer"}
    assert waiting.wait.deadline > waiting.time
    assert paused.waits == [waiting.wait] == run.waits
    await runtime.send("t", "number", 7)
    events = await told(runtime, ask())
    assert [type(each) for each in events] == [RunStarted, TaskCompleted, RunCompleted]


async def test_a_final_cancellation_is_told(runtime: Runtime) -> None:
    """Cancelled for good; a caller who goes away leaves a run that may be continued."""

    @workflow
    async def wait() -> None:
        await anyio.sleep_forever()

    begun = time.time() - 1
    found: list[Event] = []
    async with runtime.stream(wait(), thread_id="t") as events:
        found.append(await anext(events))
        await runtime.cancel("t")
        found += [each async for each in events]
    cancelled = of_kind(found, RunCancelledEvent)
    assert cancelled.final
    check_run_event(cancelled, (await runtime.get("t")).run_id, wait.name, begun)


async def test_an_execution_that_is_cut_off_is_told_to_others(runtime: Runtime) -> None:
    """Anybody may continue the run: the cancellation is not final."""

    @workflow
    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    begun = anyio.Event()
    async with runtime.subscribe("t") as watched:
        async with runtime.stream(wait(), thread_id="t") as events:
            await anext(events)
            await begun.wait()
        with anyio.fail_after(20):
            async for event in watched:
                if isinstance(event, RunCancelledEvent):
                    break
    assert not event.final


async def test_emitted_values_and_items_are_told(runtime: Runtime) -> None:
    """With the body that emits; values are durable, items are not."""

    @task
    async def count(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    @task
    async def tell() -> None:
        await emit({"half": 0.5})

    @workflow
    async def say() -> list[int]:
        await emit("first")
        await tell()
        return await count(2)

    events = await told(runtime, say())
    emitted = [each for each in events if isinstance(each, Emitted)]
    ids = {each.name: each.task_id for each in await runtime.tasks("t")}
    assert [(each.value, each.durable, each.name, each.task_id) for each in emitted] == [
        ("first", True, say.name, None),
        ({"half": 0.5}, True, tell.name, ids[tell.name]),
        (0, False, count.name, ids[count.name]),
        (1, False, count.name, ids[count.name]),
    ]


async def test_events_name_the_calls_that_made_them(runtime: Runtime) -> None:
    """A call in a call, in a child workflow."""

    @task
    async def leaf() -> int:
        return 1

    @workflow
    async def child() -> int:
        return await leaf()

    @workflow
    async def parent() -> int:
        return await child()

    events = await told(runtime, parent())
    ids = {each.name: each.task_id for each in await runtime.tasks("t")}
    about_tasks = [each for each in events if isinstance(each, TaskStarted | TaskCompleted)]
    assert [(type(each), each.task_id, each.parent_id) for each in about_tasks] == [
        (TaskStarted, ids[child.name], None),
        (TaskStarted, ids[leaf.name], ids[child.name]),
        (TaskCompleted, ids[leaf.name], ids[child.name]),
        (TaskCompleted, ids[child.name], None),
    ]


async def test_events_of_a_nested_call_name_its_parent(runtime: Runtime) -> None:
    """What a generator yields is told with the same parent as the start of its call."""

    @task
    async def count() -> AsyncIterator[int]:
        yield 1

    @task
    async def outer() -> list[int]:
        return await count()

    @workflow
    async def say() -> list[int]:
        return await outer()

    events = await told(runtime, say())
    ids = {each.name: each.task_id for each in await runtime.tasks("t")}
    item = of_kind(events, Emitted)
    assert (item.task_id, item.parent_id) == (ids[count.name], ids[outer.name])


async def test_every_event_of_a_run_survives_json(runtime: Runtime) -> None:
    """Encoded and decoded by the union alone, it is the same event of the same class."""

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def flaky() -> AsyncIterator[list[str]]:
        yield ["ä", "\u2028"]
        raise Unlucky("ü")

    @workflow
    async def everything() -> Any:
        await emit({"a": [1, 2.5, None, True, {"b": "\x00"}]})
        try:
            await flaky()
        except Unlucky:
            return await receive("go", dict[str, int | None], prompt=["?"])

    events = await told(runtime, everything())
    await runtime.send("t", "go", {"a": None})
    events += await told(runtime, everything())
    kinds = {type(each) for each in events}
    assert kinds == set(get_args(Event)) - {RunFailed, RunCancelledEvent, Dropped}
    for each in events:
        assert msgspec.json.decode(msgspec.json.encode(each), type=Event) == each


@pytest.mark.parametrize("kind", get_args(Event))
def test_every_kind_of_event_has_a_tag_of_its_own(kind: Any) -> None:
    """It names the class over a wire, whatever else is in it."""
    head: Any = (3, 1.5, "t", "r", "f:00", None, "f")
    wait = Wait("signal", "go", "f:00", 1.0, None, {"a": 1}, "int", {"type": "integer"})
    rest: dict[Any, tuple[Any, ...]] = {
        TaskRetrying: (1, 0.5, "ValueError: x"),
        TaskCompleted: (False, 1, 0.5),
        TaskFailedEvent: (True, 2, 0.5, "ValueError: x"),
        Emitted: ({"a": [None]}, False),
        Waiting: (wait,),
        RunCompleted: ([1, "a"],),
        RunFailed: ("ValueError: x",),
        RunPausedEvent: ([wait],),
        RunCancelledEvent: (True,),
        Dropped: (7,),
    }
    event = kind(*head, *rest.get(kind, ()))
    encoded = msgspec.json.encode(event)
    assert msgspec.json.decode(encoded, type=Event) == event
    tags = {msgspec.json.decode(encoded)["type"]}
    others = {each.__struct_config__.tag for each in get_args(Event) if each is not kind}
    assert not tags & others


async def test_values_from_a_record_decode_to_the_same_events(runtime: Runtime) -> None:
    """A run that fails and one that pauses, read again from the store."""

    @workflow
    async def fail(pause: bool) -> None:
        if pause:
            await receive("go")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await runtime.run(fail(False), thread_id="t")
    with pytest.raises(RunPaused):
        await runtime.run(fail(True), thread_id="u")
    async with runtime.subscribe("t") as events:
        found = [each async for each in events]
    assert [type(each) for each in found] == [RunStarted, RunFailed]
    async with runtime.subscribe("u") as events:
        found += [await anext(events), await anext(events)]
    assert isinstance(found[-1], RunPausedEvent)
    for each in found:
        assert msgspec.json.decode(msgspec.json.encode(each), type=Event) == each
