"""`Scheduler`: the event loop, clock, slots and worker threads that one runtime's bodies share."""

from __future__ import annotations

import os
from collections import OrderedDict

import anyio

from taskflow.loops.clocks import Alarms, Clock, Ticker
from taskflow.loops.loop import Loop
from taskflow.loops.promises import Promise
from taskflow.loops.steps import Stepped, stepped
from taskflow.loops.workers import WorkerThreads

__all__ = ("Scheduler", "Slots")


class Scheduler:
    """The resources that the bodies of one runtime share."""

    def __init__(self, loop: Loop, max_concurrency: int, clock: Clock | None = None) -> None:
        self.loop = loop
        self.clock = clock or Clock()
        self.alarms = Alarms(self.clock, loop)  # for deadlines
        self.timers = Alarms(Ticker(self.clock), loop)  # for durations, whatever the clock shows
        self.is_draining = False  # no call may start any more
        self.width = max_concurrency  # how many bodies may execute at the same time
        self.slots = Slots(max_concurrency, loop)
        self.stepped: Stepped = stepped  # executes bodies that are coroutines
        self.threads = WorkerThreads(loop)
        self.processes = anyio.CapacityLimiter(os.cpu_count() or 1)


class Slots:
    """A counting semaphore whose slots are granted in the order of the requests."""

    __slots__ = ("_free", "_loop", "_waiting")

    def __init__(self, count: int, loop: Loop) -> None:
        self._free = count
        self._loop = loop
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()

    def try_take(self) -> bool:
        """Take a slot if one is free now, in which case no task waits for one."""
        if self._free > 0:
            self._free -= 1
            return True
        return False

    async def take(self) -> None:
        """Wait for a slot and take it."""
        if self.try_take():
            return

        waiter = _Waiter(self._loop.promise())
        self._waiting[waiter] = None
        try:
            await waiter.promise
        except BaseException:
            self._waiting.pop(waiter, None)
            if waiter.was_served:  # while we were being cancelled
                self.give_back()
            raise

    def give_back(self) -> None:
        """Return a slot, which passes to the first waiting task."""
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.promise.done():
                waiter.was_served = True
                waiter.promise.set_result(None)
                return
        self._free += 1


class _Waiter:
    __slots__ = ("promise", "was_served")

    def __init__(self, promise: Promise) -> None:
        self.promise = promise
        self.was_served = False
