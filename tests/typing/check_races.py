"""Never run, only read by the type checkers: choosing and telling."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from taskflow import Call, Runtime, as_completed, emit, race, receive, sleep, task, workflow
from taskflow.calls.races import AsCompleted
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
from taskflow.runtime.subscriptions import Stream, Subscription


@task
async def number(text: str) -> int:
    return int(text)


@task
async def text(number: int) -> str:
    return str(number)


@task
def raw(number: int) -> bytes:
    return b"" * number


@task
async def items(count: int) -> AsyncIterator[int]:
    yield count


@workflow
async def child() -> float:
    return 0.5


@workflow
async def chooses() -> int | str:
    assert_type(race(number("1")), Call[int])
    assert_type(await race(number("1"), number("2")), int)
    assert_type(race(number("1"), text(1)), Call[int | str])
    assert_type(await race(number("1"), text(1)), int | str)
    assert_type(await race(number("1"), text(1), raw(1)), int | str | bytes)
    assert_type(await race(number("1"), sleep(3)), int | None)
    assert_type(await race(receive("a", bool), child()), bool | float)
    assert_type(await race(items(1), child()), list[int] | float)
    assert_type(await race(*[number(each) for each in "123"]), int)
    assert_type(await race(number("1"), number("2"), number("3"), number("4")), int)
    return await race(number("1"), text(1))


@workflow
async def collects() -> None:
    assert_type(as_completed(number("1"), number("2")), AsCompleted[int])
    assert_type(as_completed(number("1"), text(2)), AsCompleted[int | str])
    async with as_completed(number("1"), number("2")) as results:
        async for each in results:
            assert_type(each, int)
        assert_type(await anext(results), int)
    async with as_completed(*[text(each) for each in range(3)]) as texts:
        assert_type([each async for each in texts], list[str])
    assert_type(emit({"any": "value"}), Call[None])


async def what_is_told(runtime: Runtime) -> None:
    assert_type(runtime.subscribe("t", after=3), Subscription)
    async with runtime.subscribe("t") as watched:
        async for event in watched:
            assert_type(event, Event)
            narrow(event)
    async with runtime.stream(chooses(), thread_id="t", wait=True) as events:
        assert_type(events, Stream[int | str])
        async for event in events:
            assert_type(event.number, int)
            assert_type(event.time, float)
            assert_type(event.thread_id, str)
            assert_type(event.task_id, str | None)
            narrow(event)
        assert_type(await events.result(), int | str)


def narrow(event: Event) -> str:
    if isinstance(event, TaskCompleted):
        assert_type(event, TaskCompleted)
        assert_type(event.duration, float)
        assert_type(event.replayed, bool)
        return event.name
    if isinstance(event, TaskFailedEvent | RunFailed):
        assert_type(event.error, str)
        return event.error
    if isinstance(event, Emitted | RunCompleted):
        return "any value"
    if isinstance(event, Waiting):
        assert_type(event.wait, Wait)
        return event.wait.name
    if isinstance(event, RunPausedEvent):
        assert_type(event.waits, list[Wait])
        return "paused"
    if isinstance(event, RunCancelledEvent):
        assert_type(event.final, bool)
        return "cancelled"
    if isinstance(event, TaskRetrying):
        assert_type(event.delay, float)
        return event.error
    if isinstance(event, Dropped):
        assert_type(event.count, int)
        return "dropped"
    assert_type(event, RunStarted | TaskStarted)
    return event.name


def matched(event: Event) -> Any:
    match event:
        case Emitted(value=value):
            return value
        case RunCompleted(result=result):
            return result
        case _:
            return None


async def what_is_refused(runtime: Runtime) -> None:
    race(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    race(number)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    as_completed(number)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    as_completed([number("1")])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    runtime.subscribe(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    runtime.subscribe("t", after="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    runtime.stream(number("1"), thread_id="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    emit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wrong: str = await race(number("1"), number("2"))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    del wrong
