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

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from taskflow.loops.clocks import Clock, boot_time, present
from taskflow.loops.loop import is_busy_outside

__all__ = ("AsyncioTime", "VirtualClock")

LONGEST_PAUSE: Final = 6 * 3600.0  # seconds between looks at what others do, when nothing happens
QUIET: Final = 3  # rounds of the loop in which nothing was scheduled
# Time moves in steps that a float holds exactly, also when counted from 1970: else a jump to a
# deadline could end a rounding error before it, and never get there.
TICK: Final = 2.0**-20  # seconds
RESOLUTION: Final = 1e-9  # seconds that asyncio takes for nothing
NAP: Final = 0.005  # seconds of real time between looks whether anything has happened, on trio


class Time(Protocol):
    """The time of an event loop, while it is virtual."""

    def now(self) -> float: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...


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
        self._start = _ticks_up(time.time() if start is None else start)
        self._began = 0.0
        self._booted = 0.0
        self._time: Time | None = None

    def __enter__(self) -> VirtualClock:
        if present.clock is not None:
            raise RuntimeError("time is virtual already: leave the other VirtualClock first")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._time = _TrioTime(self._grace)
        else:
            self._time = AsyncioTime(loop, self._grace)
        self._began = self._time.now()
        self._booted = _ticks_up(boot_time())
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
        """Seconds since the machine was started, as leases count them: those of real processes
        on the same file are no later than those in virtual time.
        """
        return self._booted + self._passed()

    def _passed(self) -> float:
        if self._time is None:
            raise RuntimeError("enter the VirtualClock first: with VirtualClock() as clock: …")
        return self._time.now() - self._began

    def pause(self, interval: float, looks: int) -> float:
        """Who looks in vain again and again looks less often: a week is no 604,800 looks."""
        longest = max(interval, LONGEST_PAUSE)
        return min(interval * 2.0 ** min(looks - 1, 64), longest)


class AsyncioTime:
    """The time of an asyncio loop: it stands still while anything executes.

    Whatever is to execute is scheduled with ``call_soon`` or ``call_at``; both are watched. When
    nothing was scheduled for some rounds of the loop, nothing can execute.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        self._loop = loop
        self._grace = grace
        self._real_time = loop.time
        self._call_at = loop.call_at
        self._call_soon = loop.call_soon
        self._run_in_executor = loop.run_in_executor
        self._slow_callback_duration = loop.slow_callback_duration
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._executing = 0  # in executors
        self._now = _ticks_up(loop.time())
        self._passes_since: float | None = None  # real time, while it passes as on a wall
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        self._scheduled = 0  # how often
        self._seen = 0
        self._quiet = 0  # rounds
        self._is_waiting = False  # for something to happen
        self._has_ended = False
        self._grace_over: asyncio.TimerHandle | None = None

    def now(self) -> float:
        if self._passes_since is None:
            return self._now
        return self._now + self._real_time() - self._passes_since

    def begin(self) -> None:
        watched = {
            "time": self.now,
            "call_at": self._watched_call_at,
            "call_soon": self._watched_call_soon,
            "run_in_executor": self._watched_run_in_executor,
        }
        for name, method in watched.items():
            try:
                setattr(self._loop, name, method)
            except AttributeError:
                raise RuntimeError(
                    f"the time of {type(self._loop).__qualname__} cannot be set: use the loop of "
                    "asyncio itself"
                ) from None
        # In debug mode asyncio would complain of callbacks in which days have passed.
        self._loop.slow_callback_duration = math.inf
        self._call_soon(self._look)

    def end(self) -> None:
        """Let time pass again; it does not go back."""
        self._has_ended = True
        self._wait()
        ahead = self.now() - self._real_time()
        real_time = self._real_time
        loop: Any = self._loop
        loop.time = lambda: real_time() + ahead
        loop.slow_callback_duration = self._slow_callback_duration
        for name in ("call_at", "call_soon", "run_in_executor"):
            delattr(loop, name)

    def _watched_call_soon(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        self._scheduled += 1
        if self._is_waiting:
            self._go_on()
        return self._call_soon(*arguments, **options)

    def _watched_call_at(
        self, when: float, callback: Callable[..., Any], *arguments: Any, **options: Any
    ) -> asyncio.TimerHandle:
        self._scheduled += 1
        timer = self._call_at(when, callback, *arguments, **options)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        if self._is_waiting:
            self._go_on()
        return timer

    def _watched_run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        future = self._run_in_executor(*arguments)
        self._executing += 1
        future.add_done_callback(self._note_executed)
        return future

    def _note_executed(self, _: object) -> None:
        self._executing -= 1

    def _look(self) -> None:
        """Called in each round while it does not wait."""
        if self._has_ended:
            return
        if self._scheduled != self._seen:
            self._seen = self._scheduled
            self._quiet = 0
        else:
            self._quiet += 1
        if self._quiet < QUIET:
            self._call_soon(self._look)
        elif self._is_busy_outside() or self._next_timer() is None:
            self._wait()
        elif self._grace:
            self._wait()
            self._grace_over = self._call_at(self.now() + self._grace, self._jump_after_grace)
        else:
            self._jump()

    def _is_busy_outside(self) -> bool:
        return bool(is_busy_outside() or self._executing or self._limiter.borrowed_tokens)

    def _next_timer(self) -> float | None:
        now = self.now()
        while self._timers:
            when, _, timer = self._timers[0]
            if when > now and not timer.cancelled():
                return when
            heapq.heappop(self._timers)
        return None

    def _jump_after_grace(self) -> None:
        self._grace_over = None
        if self._is_waiting:
            self._go_on()
            self._jump()

    def _jump(self) -> None:
        when = self._next_timer()
        if when is not None:
            self._now = _ticks_up(when)
            if when >= self._now + RESOLUTION:  # as asyncio asks; a float of a year has none left
                self._now += TICK
        self._quiet = 0
        self._call_soon(self._look)

    def _wait(self) -> None:
        """Let the loop sleep until something happens; time passes meanwhile."""
        if not self._is_waiting:
            self._is_waiting = True
            self._passes_since = self._real_time()

    def _go_on(self) -> None:
        """Something has happened: time stands still again."""
        self._now = _ticks_up(self.now())
        self._passes_since = None
        self._is_waiting = False
        self._quiet = 0
        if self._grace_over is not None:
            self._grace_over.cancel()
            self._grace_over = None
        self._call_soon(self._look)


class _TrioTime:
    """The time of a trio run: that of its MockClock if it has one, else its own, set forward."""

    def __init__(self, grace: float) -> None:
        import trio
        import trio.testing

        self._trio = trio
        self._blocked = trio.testing.wait_all_tasks_blocked
        self._clock: Any = trio.lowlevel.current_clock()
        self._is_mock = isinstance(self._clock, trio.testing.MockClock)
        if not self._is_mock and not hasattr(self._clock, "offset"):
            raise RuntimeError(
                f"the time of {type(self._clock).__qualname__} cannot be set: use "
                "trio.run(…, clock=trio.testing.MockClock())"
            )
        self._grace = grace
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._scope = trio.CancelScope()

    def now(self) -> float:
        return float(self._clock.current_time())

    def begin(self) -> None:
        if self._is_mock:
            self._clock.autojump_threshold = math.inf
        self._trio.lowlevel.spawn_system_task(self._go_on)

    def end(self) -> None:
        self._scope.cancel()
        if self._is_mock:
            self._clock.rate = 1.0

    async def _go_on(self) -> None:
        with self._scope:
            while True:
                await self._blocked(self._grace)
                while is_busy_outside() or self._limiter.borrowed_tokens:
                    await self._pass(NAP)
                statistics = self._trio.lowlevel.current_statistics()
                left = statistics.seconds_to_next_deadline
                if left == math.inf:
                    await self._pass(NAP)
                elif left > 0:
                    self._jump(left)

    async def _pass(self, seconds: float) -> None:
        """Let time pass as on a wall until nothing has happened for so long."""
        if self._is_mock:
            self._clock.rate = 1.0
        await self._blocked(seconds)
        if self._is_mock:
            self._clock.rate = 0.0

    def _jump(self, seconds: float) -> None:
        now = self.now()
        if self._is_mock:
            self._clock.jump(_ticks_up(now + seconds) - now)
        else:
            # It is frozen because nobody should set it by accident.
            object.__setattr__(self._clock, "offset", self._clock.offset + seconds)


def _ticks_up(seconds: float) -> float:
    return math.ceil(seconds / TICK) * TICK
