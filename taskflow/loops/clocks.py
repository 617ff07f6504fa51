"""Time and timers: `Clock` tells the time, `Alarms` call back when it has come."""

from __future__ import annotations

import asyncio
import heapq
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

import anyio

from taskflow.loops.loop import Loop
from taskflow.loops.promises import Latch, Promise, uninterrupted

__all__ = ("Alarm", "Alarms", "Clock", "Ticker", "boot_time", "exact", "present")

logger = logging.getLogger("taskflow")

# Seconds after which a machine's sleep, or a moved clock, is noticed at the latest.
LONGEST_NAP: Final = 1.0
# Seconds since the machine booted, including its sleep; setting the wall clock does not move it.
boot_time: Callable[[], float] = time.monotonic
if sys.platform == "linux":
    boot_time = partial(time.clock_gettime, time.CLOCK_BOOTTIME)  # each task asks twice
FEW: Final = 100  # cancelled alarms that may stay in the heap


class Clock:
    """Wall-clock time, read when this object is made and advanced monotonically after that.

    Deadlines and durations are taken from it, so that setting the machine's clock neither shortens
    a wait nor gives a task a negative duration. Another clock needs only ``now`` and
    ``when_moved``.
    """

    longest_nap = LONGEST_NAP

    def __init__(self) -> None:
        self._offset = time.time() - boot_time()

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""
        return boot_time() + self._offset

    def elapsed(self) -> float:
        """Seconds since an arbitrary moment, without those in which the machine slept."""
        return time.monotonic()

    def when_moved(self, callback: Callable[[], None]) -> None:
        """Register ``callback`` for jumps of `now`; a real clock has none."""

    def pause(self, interval: float, looks: int) -> float:
        """Seconds to wait before the next poll of the store, after ``looks`` without a change."""
        return interval


class ExactClock(Clock):
    """A user's clock, completed with the optional methods; its integers become floats."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.longest_nap = getattr(clock, "longest_nap", LONGEST_NAP)

    def now(self) -> float:
        return float(self._clock.now())

    def elapsed(self) -> float:
        return float(getattr(self._clock, "elapsed", time.monotonic)())

    def when_moved(self, callback: Callable[[], None]) -> None:
        self._clock.when_moved(callback)

    def pause(self, interval: float, looks: int) -> float:
        pause: Callable[[float, int], float] = getattr(self._clock, "pause", super().pause)
        return pause(interval, looks)


def exact(clock: Clock) -> Clock:
    """``clock`` with all methods of `Clock`, of which it needs only ``now`` and ``when_moved``."""
    return clock if type(clock) is Clock else ExactClock(clock)


class Ticker(Clock):
    """A clock for durations: its `now` is another clock's ``elapsed``, which never jumps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.longest_nap = clock.longest_nap

    def now(self) -> float:
        return self._clock.elapsed()


class Present(threading.local):
    """The clock of this thread's code, for runtimes that are not given one."""

    clock: Clock | None = None  # None: the machine's clock


present: Final = Present()


class Alarm:
    """A callback that is called at a set time, unless it is cancelled before."""

    __slots__ = ("_alarms", "_callback")

    def __init__(self, alarms: Alarms, callback: Callable[[], None]) -> None:
        self._alarms = alarms
        self._callback: Callable[[], None] | None = callback

    @property
    def is_set(self) -> bool:
        """Whether it has neither rung nor been cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Drop the callback."""
        if self._callback is not None:
            self._callback = None
            self._alarms.note_cancelled()

    def ring(self) -> None:
        """Call the callback now, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Alarms:
    """All alarms of a runtime, in one background task."""

    def __init__(self, clock: Clock, loop: Loop) -> None:
        self.clock = clock
        self._loop = loop
        self._heap: list[tuple[float, int, Alarm]] = []
        self._cancelled = 0  # upper bound of the cancelled alarms in the heap
        self._order = count()
        self._wake: Promise | None = None
        self._napping_until = 0.0
        self._closing = False
        self._ended = Latch()
        clock.when_moved(self._notify)

    def set(self, when: float, callback: Callable[[], None]) -> Alarm:
        """Call ``callback`` at ``when`` (seconds since 1970), or soon where that is past."""
        alarm = Alarm(self, callback)
        heapq.heappush(self._heap, (when, next(self._order), alarm))
        if when < self._napping_until:
            self._notify()
        return alarm

    def note_cancelled(self) -> None:
        """Count a cancelled alarm; drop the cancelled ones when most of many are."""
        self._cancelled += 1
        if self._cancelled > max(FEW, len(self._heap) // 2):
            self._heap = [each for each in self._heap if each[2].is_set]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self) -> None:
        """Ring alarms until `close` is called."""
        try:
            while not self._closing:
                self._ring()
                now = self.clock.now()
                left = self._heap[0][0] - now if self._heap else self.clock.longest_nap
                if left <= 0:
                    continue
                nap = min(left, self.clock.longest_nap) if self._heap else None
                self._napping_until = float("inf") if nap is None else now + nap
                self._wake = self._loop.promise()
                with anyio.move_on_after(nap):
                    await self._wake
                self._napping_until = 0.0
        except asyncio.CancelledError:
            pass  # asyncio.run() cancels the tasks that are left at its end: alarms are void then
        finally:
            self._ended.set_result()

    async def close(self) -> None:
        """Stop ringing, and wait until `run` has ended."""
        self._closing = True
        self._notify()
        await uninterrupted(self._ended)

    def _ring(self) -> None:
        now = self.clock.now()
        while self._heap and self._heap[0][0] <= now:
            try:
                heapq.heappop(self._heap)[2].ring()
            except Exception:  # a failing callback must not stop the other alarms
                logger.exception("an alarm has failed")

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
