"""What a runtime is told that waits for a run of another one."""

from __future__ import annotations

import anyio
import pytest
from kinds import MakeStore

from taskflow import Runtime, task, workflow
from taskflow.loops.clocks import Clock
from taskflow.runtime.requests import POLL_INTERVAL

pytestmark = pytest.mark.anyio

RUNS = 30


class Restless(Clock):
    """Looks a thousand times a second what has become of the run, and lets it go on then."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = anyio.Event()

    def pause(self, interval: float, looks: int) -> float:
        if interval == POLL_INTERVAL:
            self.looks.set()
            return 0.001
        return interval


async def test_a_failure_elsewhere_is_the_result(make_store: MakeStore) -> None:
    """It is raised, and not taken for a run to be continued, at whichever moment it ends."""
    bodies: list[int] = []
    clock = Restless()

    @task
    async def step(number: int) -> None:
        bodies.append(number)
        await clock.looks.wait()
        await anyio.sleep(0.005)  # so many looks later

    @workflow
    async def fails(number: int) -> None:
        await step(number)
        raise ConnectionError("it was down")

    async with Runtime(make_store()) as runtime, Runtime(make_store(), clock=clock) as other:
        for number in range(RUNS):
            clock.looks = anyio.Event()
            handle = await runtime.start(fails(number), thread_id=f"{number}")
            with pytest.raises(ConnectionError, match="it was down"):
                await other.run(fails(number), thread_id=f"{number}", wait=True)
            with pytest.raises(ConnectionError):
                await handle.result()
            row = await other._store.run(f"{number}", None)
            assert row is not None
            assert row.epoch == 1
    assert bodies == list(range(RUNS))
