"""The time of an event loop while it is virtual: it stands still, and jumps from timer to timer."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from taskflow.loops.loop import is_busy_outside

__all__ = ("AsyncioTime", "LoopTime", "TrioTime", "ticks_up", "time_of_loop")

QUIET: Final = 3  # rounds of the loop in which nothing was scheduled
# Time moves in steps that a float holds exactly, also when counted from 1970: else a jump to a
# deadline could end a rounding error before it, and never get there.
TICK: Final = 2.0**-20  # seconds
RESOLUTION: Final = 1e-9  # seconds that asyncio takes for nothing
NAP: Final = 0.005  # seconds of real time between looks whether anything has happened, on trio


def ticks_up(seconds: float) -> float:
    """The next whole number of ticks, in seconds."""
    return math.ceil(seconds / TICK) * TICK


class LoopTime(Protocol):
    """The time of an event loop, virtual between `begin` and `end`."""

    def now(self) -> float: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...


def time_of_loop(grace: float) -> LoopTime:
    """The time of the loop that executes the caller. Raises RuntimeError where it cannot be set."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return TrioTime(grace)
    return AsyncioTime(loop, grace)


class _RealLoop:
    """The methods of an asyncio loop that are watched, as they are without it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.time = loop.time
        self.call_at = loop.call_at
        self.call_soon = loop.call_soon
        self.run_in_executor = loop.run_in_executor
        self._slow_callback_duration = loop.slow_callback_duration

    def replace(self, **methods: Callable[..., Any]) -> None:
        """Give the loop these in their place. Raises RuntimeError where it takes none."""
        for name, method in methods.items():
            try:
                setattr(self._loop, name, method)
            except AttributeError:
                raise RuntimeError(
                    f"the time of {type(self._loop).__qualname__} cannot be set: use the loop of "
                    "asyncio itself"
                ) from None
        # In debug mode asyncio would complain of callbacks in which days have passed.
        self._loop.slow_callback_duration = math.inf

    def restore(self, ahead: float) -> None:
        """Give the loop its own again; its time goes on so many seconds ahead of the real one."""
        loop: Any = self._loop
        loop.time = lambda: self.time() + ahead
        loop.slow_callback_duration = self._slow_callback_duration
        for name in ("call_at", "call_soon", "run_in_executor"):
            delattr(loop, name)


class AsyncioTime:
    """The time of an asyncio loop: it stands still while anything executes.

    Whatever is to execute is scheduled with ``call_soon`` or ``call_at``; both are watched. When
    nothing was scheduled for some rounds of the loop, nothing can execute: time jumps to the next
    timer, or passes as on a wall where there is none, or where something outside the loop is at
    work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        self._real = _RealLoop(loop)
        self._grace = grace
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._in_executors = 0
        self._timers: list[asyncio.TimerHandle] = []  # a heap, by their times
        self._now = ticks_up(loop.time())
        self._passes_since: float | None = None  # real time, while it passes as on a wall
        self._quiet_rounds = 0
        self._grace_over: asyncio.TimerHandle | None = None
        self._has_ended = False

    def now(self) -> float:
        if self._passes_since is None:
            return self._now
        return self._now + self._real.time() - self._passes_since

    def begin(self) -> None:
        self._real.replace(
            time=self.now,
            call_at=self._watched_call_at,
            call_soon=self._watched_call_soon,
            run_in_executor=self._watched_run_in_executor,
        )
        self._real.call_soon(self._look)

    def end(self) -> None:
        """Let time pass again; it does not go back."""
        self._has_ended = True
        self._let_pass()
        self._real.restore(ahead=self.now() - self._real.time())

    def _watched_call_soon(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        self._stand_still()
        return self._real.call_soon(*arguments, **options)

    def _watched_call_at(self, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timer = self._real.call_at(*arguments, **options)
        heapq.heappush(self._timers, timer)
        self._stand_still()
        return timer

    def _watched_run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        future = self._real.run_in_executor(*arguments)
        self._in_executors += 1
        future.add_done_callback(self._note_executed)
        return future

    def _note_executed(self, _: object) -> None:
        self._in_executors -= 1

    def _look(self) -> None:
        """Called in each round of the loop while time stands still."""
        if self._has_ended:
            return

        self._quiet_rounds += 1
        if self._quiet_rounds <= QUIET:
            self._real.call_soon(self._look)
        elif self._is_busy_outside() or self._next_timer() is None:
            self._let_pass()
        elif self._grace:
            self._let_pass()
            self._grace_over = self._real.call_at(self.now() + self._grace, self._jump_after_grace)
        else:
            self._jump()

    def _is_busy_outside(self) -> bool:
        return bool(is_busy_outside() or self._in_executors or self._limiter.borrowed_tokens)

    def _next_timer(self) -> float | None:
        now = self.now()
        while self._timers:
            timer = self._timers[0]
            if timer.when() > now and not timer.cancelled():
                return timer.when()
            heapq.heappop(self._timers)
        return None

    def _jump(self) -> None:
        self._skip_to_next_timer()
        self._quiet_rounds = 0
        self._real.call_soon(self._look)

    def _jump_after_grace(self) -> None:
        self._grace_over = None
        if self._passes_since is not None:
            self._stand_still()
            self._skip_to_next_timer()

    def _skip_to_next_timer(self) -> None:
        when = self._next_timer()
        if when is not None:
            self._now = ticks_up(when)
            if when >= self._now + RESOLUTION:  # as asyncio asks; a float of a year has none left
                self._now += TICK

    def _let_pass(self) -> None:
        """Time passes as on a wall, and the loop sleeps, until something is scheduled."""
        if self._passes_since is None:
            self._passes_since = self._real.time()

    def _stand_still(self) -> None:
        """Something is scheduled: until it has executed no time passes."""
        self._quiet_rounds = 0
        if self._passes_since is None:
            return
        self._now = ticks_up(self.now())
        self._passes_since = None
        if self._grace_over is not None:
            self._grace_over.cancel()
            self._grace_over = None
        self._real.call_soon(self._look)


class TrioTime:
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
            self._clock.jump(ticks_up(now + seconds) - now)
        else:
            # It is frozen because nobody should set it by accident.
            object.__setattr__(self._clock, "offset", self._clock.offset + seconds)
