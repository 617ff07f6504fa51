"""`now`, `random` and `uuid`: values that differ each time, and are recorded once."""

from __future__ import annotations

import asyncio
import warnings
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from kinds import MakeStore, on_asyncio
from waits import JumpingClock

from taskflow import Runtime, now, random, receive, task, uuid, workflow
from taskflow.errors import NotInRun, RunPaused

pytestmark = pytest.mark.anyio


async def test_a_rerun_is_given_the_values_of_the_first_run(runtime: Runtime) -> None:
    """Each is executed once."""
    seen: list[list[object]] = []

    @workflow
    async def draw() -> None:
        seen.append([await now(), await random(), await uuid(), await random(), await uuid()])
        await receive("x")

    for _ in range(2):
        with pytest.raises(RunPaused):
            await runtime.run(draw(), thread_id="t")
    await runtime.send("t", "x")
    await runtime.run(draw(), thread_id="t")

    assert seen[0] == seen[1] == seen[2]
    assert len(set(map(str, seen[0]))) == 5


async def test_values_have_the_types_that_they_say(runtime: Runtime) -> None:
    """A time in UTC, a number from 0 up to 1, a UUID of version 4; on a rerun too."""

    @workflow
    async def draw(fails: list[bool]) -> list[str]:
        when, number, unique = await now(), await random(), await uuid()
        assert isinstance(when, datetime)
        assert when.tzinfo is UTC or when.utcoffset() == UTC.utcoffset(None)
        assert isinstance(number, float)
        assert 0 <= number < 1
        assert isinstance(unique, UUID)
        assert unique.version == 4
        await receive("x")
        return [when.isoformat(), str(number), str(unique)]

    with pytest.raises(RunPaused):
        await runtime.run(draw([]), thread_id="t")
    await runtime.send("t", "x")
    shown = await runtime.run(draw([]), thread_id="t")

    tasks = await runtime.tasks("t")
    assert [each.name for each in tasks[:3]] == ["taskflow.now", "taskflow.random", "taskflow.uuid"]
    assert shown[2] == tasks[2].value


async def test_now_is_the_time_of_the_runtimes_clock(make_store: MakeStore) -> None:
    """A clock that is injected is the one that is asked; a rerun does not ask again."""
    clock = JumpingClock()

    @workflow
    async def when() -> float:
        return (await now()).timestamp()

    async with Runtime(make_store(), clock=clock) as runtime:
        clock.jump(10 * 86400)
        first = await runtime.run(when(), thread_id="t")
        assert first == pytest.approx(clock.now(), abs=60)
        clock.jump(86400)
        assert await runtime.run(when(), thread_id="t") == first


async def test_values_differ_between_runs_and_threads(runtime: Runtime) -> None:
    """What is recorded belongs to one run."""

    @workflow
    async def draw(turn: int) -> str:
        return str(await uuid())

    drawn = [
        await runtime.run(draw(turn), thread_id=thread_id)
        for thread_id in ("a", "b")
        for turn in (1, 2)
    ]
    assert len(set(drawn)) == 4


@on_asyncio
async def test_a_key_tells_branches_apart(runtime: Runtime) -> None:
    """Without a warning about equal calls in flight."""

    @workflow
    async def draw() -> list[str]:
        drawn = await asyncio.gather(*(uuid(key=str(branch)) for branch in range(3)))
        return [str(each) for each in drawn]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = await runtime.run(draw(), thread_id="t")
    assert len(set(first)) == 3
    assert await runtime.run(draw(), thread_id="t") == first


async def test_values_may_be_drawn_in_tasks_and_blocks(runtime: Runtime) -> None:
    """They are tasks like any other."""

    @task
    async def draw() -> list[Any]:
        return [str(await uuid()), await random(), (await now()).isoformat()]

    @workflow
    async def main() -> list[Any]:
        return await draw()

    drawn = await runtime.run(main(), thread_id="t")
    assert await runtime.run(main(), thread_id="t") == drawn
    async with runtime.thread("block"):
        first = await uuid()
    async with runtime.thread("block"):
        assert await uuid() == first


async def test_values_are_refused_outside_of_a_run(runtime: Runtime) -> None:
    """There is nothing that could record them."""
    for value in (now, random, uuid):
        with pytest.raises(NotInRun):
            value()


async def test_forgetting_a_value_draws_it_again(runtime: Runtime) -> None:
    """And what depends on it."""

    @workflow
    async def draw() -> str:
        return str(await uuid())

    first = await runtime.run(draw(), thread_id="t")
    (shown,) = await runtime.tasks("t")
    await runtime.forget("t", shown.task_id)

    assert await runtime.run(draw(), thread_id="t") != first
