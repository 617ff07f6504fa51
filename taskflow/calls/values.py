"""`now`, `random` and `uuid`: values that differ each time, recorded once.

They are tasks; ``key`` tells apart the calls of branches that run at the same time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from taskflow.calls.tasks import task
from taskflow.runs.frame import FRAME

__all__ = ("now", "random", "uuid")


@task(name="taskflow.now")
async def now(key: str = "") -> datetime:
    """The time at which this was first executed, in UTC."""
    frame = FRAME.get()
    assert frame is not None
    return datetime.fromtimestamp(frame.run.scheduler.clock.now(), UTC)


@task(name="taskflow.random")
async def random(key: str = "") -> float:
    """A random number from 0 up to 1."""
    from random import random  # where it is used: importing it costs a tenth of this package

    return random()


@task(name="taskflow.uuid")
async def uuid(key: str = "") -> UUID:
    """A random UUID (version 4)."""
    return uuid4()
