"""What tests of runs that wait share: a clock that jumps, and patience."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio

from taskflow import RunHandle, Runtime, WorkflowCall
from taskflow.events import RunPaused
from taskflow.loops.clocks import Clock
from taskflow.records import RunRecord, Wait

PATIENCE = 20.0  # seconds after which a condition will not come about any more
NEVER = 3600.0  # a poll interval: what happens has not been polled for


class JumpingClock(Clock):
    """A clock that also goes on when it is told to; one that stands goes on only then."""

    def __init__(self, *, stands: bool = False) -> None:
        super().__init__()
        self._stopped_at = super().now() if stands else None
        self._jumped = 0.0
        self._callbacks: list[Callable[[], None]] = []

    def now(self) -> float:
        return (super().now() if self._stopped_at is None else self._stopped_at) + self._jumped

    def when_moved(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def jump(self, seconds: float) -> None:
        self._jumped += seconds
        for callback in self._callbacks:
            callback()


async def until(condition: Callable[[], Any]) -> Any:
    """What ``condition``, a function or a coroutine function, gives as soon as that is true."""
    with anyio.fail_after(PATIENCE):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await anyio.sleep(0.005)


async def until_status(runtime: Runtime, status: str, *thread_ids: str) -> list[RunRecord]:
    """The latest runs of these threads, as soon as all have come to ``status``."""

    async def come() -> list[RunRecord]:
        records = [await runtime.get(each) for each in thread_ids]
        return records if all(each.status == status for each in records) else []

    found: list[RunRecord] = await until(come)
    return found


async def until_count(runtime: Runtime, status: str, count: int) -> None:
    """Wait until so many runs have come to ``status``."""

    async def enough() -> bool:
        return len(await runtime.runs(status=status, limit=10_000)) >= count

    await until(enough)


async def waits_of(runtime: Runtime, call: WorkflowCall[Any], thread_id: str = "t") -> list[Wait]:
    """What the run waits for when it pauses, for an answer or a time; nobody waits for it then."""
    with anyio.fail_after(PATIENCE):
        async with runtime.stream(call, thread_id=thread_id) as events:
            async for each in events:
                if isinstance(each, RunPaused):
                    return each.waits
            await events.result()
    raise AssertionError(f"{call!r} did not pause")


async def finish(runtime: Runtime, call: WorkflowCall[Any], thread_id: str = "t") -> Any:
    """The result of a run that does not pause any more."""
    with anyio.fail_after(PATIENCE):
        return await runtime.run(call, thread_id=thread_id)


async def result(handle: RunHandle[Any]) -> Any:
    """The result of a run that was started, soon."""
    with anyio.fail_after(PATIENCE):
        return await handle.result()
