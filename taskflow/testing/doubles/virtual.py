"""Virtual time: what waits for a time waits no longer than it takes to get there.

    from datetime import timedelta

    import anyio

    from taskflow import MemoryStore, Runtime, sleep, workflow
    from taskflow.testing import VirtualClock

    @workflow
    async def remind(person: str) -> str:
        await sleep(timedelta(days=7))
        return f"{person} was reminded"

    async def main() -> None:
        with VirtualClock() as clock:
            began = clock.now()
            async with Runtime(MemoryStore()) as runtime:
                print(await runtime.run(remind("Ann"), thread_id="ann", wait=True))
            assert 0 <= clock.now() - began - 7 * 86400 < 1

    anyio.run(main)

While nothing can execute, time jumps to the next moment for which anything waits: `taskflow.sleep`
and deadlines, the back-off of retries, timeouts, leases, and plain ``asyncio.sleep`` or
``trio.sleep``, all in order. While worker threads, worker processes or SQLite are at work, time
passes as it does on a wall, so that nothing is overtaken. Whether anything will come from a socket
or from another program cannot be known: time does not wait for those, and a limit around a request
to a real server passes at once.
"""

from __future__ import annotations

import math
import time
from typing import Final

from taskflow.loops.clocks import Clock, boot_time, present
from taskflow.testing.doubles.loop_time import LoopTime, ticks_up, time_of_loop

__all__ = ("VirtualClock",)

LONGEST_PAUSE: Final = 6 * 3600.0  # seconds between looks at what others do, when nothing happens


class VirtualClock(Clock):
    """A clock that jumps to the next moment for which anything waits, when nothing can execute.

    A context, entered in the event loop whose time it is: asyncio or trio. Runtimes that are opened
    inside take it for their clock. ``grace``: for how many seconds of real time nothing may have
    happened before time jumps; raise it where something that the loop cannot see is to answer
    first, such as a server in another process. ``start``: what time it is at first, in seconds
    since 1970 (default: now).

    Raises RuntimeError where time is virtual already, or the loop's time cannot be set (uvloop).
    """

    longest_nap = math.inf

    def __init__(self, *, grace: float = 0.0, start: float | None = None) -> None:
        if grace < 0:
            raise ValueError(f"grace is a number of seconds, not negative, got {grace}")
        self._grace = grace
        self._start = ticks_up(time.time() if start is None else start)
        self._began = 0.0
        self._booted = 0.0
        self._time: LoopTime | None = None

    def __enter__(self) -> VirtualClock:
        if present.clock is not None:
            raise RuntimeError("time is virtual already: leave the other VirtualClock first")
        self._time = time_of_loop(self._grace)
        self._began = self._time.now()
        self._booted = ticks_up(boot_time())
        self._time.begin()
        present.clock = self
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._time is not None
        present.clock = None
        self._time.end()

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""
        return self._start + self._passed()

    def elapsed(self) -> float:
        """Seconds since the machine was started, as leases count them.

        Never behind real time: a process in real time on the same file takes nobody for dead.
        """
        return self._booted + self._passed()

    def _passed(self) -> float:
        if self._time is None:
            raise RuntimeError("enter the VirtualClock first: with VirtualClock() as clock: …")
        return self._time.now() - self._began

    def pause(self, interval: float, looks: int) -> float:
        """Seconds until the next look: ever more while nothing happens, as a week has 604,800."""
        longest = max(interval, LONGEST_PAUSE)
        return min(interval * 2.0 ** min(looks - 1, 64), longest)
