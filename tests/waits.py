"""What tests of runs that wait share: a clock that jumps, and patience."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskflow import RunPaused, Runtime, WorkflowCall
from taskflow.loops.clocks import Clock
from taskflow.records import Wait

PATIENCE = 20.0  # seconds after which a condition will not come about any more


class JumpingClock(Clock):
    """A clock that also goes on when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._jumped = 0.0
        self._callbacks: list[Callable[[], None]] = []

    def now(self) -> float:
        return super().now() + self._jumped

    def when_moved(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def jump(self, seconds: float) -> None:
        self._jumped += seconds
        for callback in self._callbacks:
            callback()


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What ``condition`` gives as soon as that is true."""
    with anyio.fail_after(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110 - it may be in another process
            await anyio.sleep(0.005)
        return found


async def waits_of(runtime: Runtime, call: WorkflowCall[Any], thread_id: str = "t") -> list[Wait]:
    """What the run waits for when it pauses."""
    with anyio.fail_after(PATIENCE), pytest.raises(RunPaused) as caught:
        await runtime.run(call, thread_id=thread_id)
    return list(caught.value.waits)


async def finish(runtime: Runtime, call: WorkflowCall[Any], thread_id: str = "t") -> Any:
    """The result of a run that does not pause any more."""
    with anyio.fail_after(PATIENCE):
        return await runtime.run(call, thread_id=thread_id)
