"""`Death`: what a dropped process leaves behind stands still, as if it were not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from taskflow.errors import StoreError
from taskflow.loops.cancellation import notice_cancellation
from taskflow.loops.loop import Outside, counted
from taskflow.loops.promises import Latch, uninterrupted

__all__ = ("Burial", "Death", "on_asyncio")

T = TypeVar("T")


class Burial(asyncio.CancelledError):
    """Ends a body of a process that was dropped, when everything has been looked at.

    A cancellation, as nobody complains of those. asyncio only: trio minds that anything but its own
    cancellation is raised where code waits.
    """


class Death:
    """Whether a process was dropped: from then on, what it executes and asks stands still.

    Until it is buried. What it had asked of the store before is still done, and answered to no one.
    """

    def __init__(self) -> None:
        self.has_come = False
        self.buried = Latch()
        self.outside = Outside()  # what threads do for it: nobody waits for those of the dead
        counted.all.append(self.outside)
        self._asking: list[int] = []  # the loop's tasks that wait for the store, at this moment
        self._quiet = Latch()

    def come(self) -> None:
        """Drop the process."""
        if not self.has_come:
            self.has_come = True
            counted.all.remove(self.outside)
            self._note_quiet()

    async def silence(self) -> None:
        """Wait until nothing that it had asked of the store before it was dropped is under way."""
        await self._quiet.wait()

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """The answer to what is asked of the store, unless the process is dead by then."""
        await self._stand_still()
        child = anyio.get_current_task().id
        self._asking.append(child)
        try:
            answer = await work()
        finally:
            self._asking.remove(child)
            if self.has_come:
                self._note_quiet()
        await self._stand_still()
        return answer

    def stops_this(self) -> bool:
        """Whether the code that executes takes no further step.

        What the store was asked before is under way: its answer comes first.
        """
        return self.has_come and anyio.get_current_task().id not in self._asking

    async def rest(self) -> None:
        """Wait to be buried, however often what stands still is cancelled meanwhile."""
        try:
            await uninterrupted(self.buried)
        except GeneratorExit:
            raise
        except BaseException as error:
            notice_cancellation(error)

    async def _stand_still(self) -> None:
        if self.has_come:
            await uninterrupted(self.buried)
            raise StoreError("this process was dropped: it asks nothing of the store any more")

    def _note_quiet(self) -> None:
        if not self._asking and not self._quiet.done():
            self._quiet.set_result()


def on_asyncio() -> bool:
    """Whether this is the event loop of asyncio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
