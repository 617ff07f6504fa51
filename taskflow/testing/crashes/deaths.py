"""`Death`: the end of a process that was dropped: nothing of it takes another step."""

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
    """Ends a body of a process that was dropped, after the comparison.

    A cancellation, which nothing logs. asyncio only: trio refuses any other than its own at a
    checkpoint.
    """


class Death:
    """Whether a process was dropped. From then on, until its burial, its bodies stand still.

    Store operations that it began before are completed, and their answers are discarded.
    """

    def __init__(self) -> None:
        self.has_come = False
        self.buried = Latch()
        self.outside = Outside()  # work of its threads: a virtual clock waits for it
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
        """Wait until the store operations that it began before it was dropped are completed."""
        await self._quiet.wait()

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do a store operation; its answer is withheld if the process is dropped meanwhile."""
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
        """Whether the current task takes no further step; one in a store operation completes it."""
        return self.has_come and anyio.get_current_task().id not in self._asking

    async def rest(self) -> None:
        """Wait for the burial, through any number of cancellations."""
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
