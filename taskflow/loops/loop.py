"""What asyncio and trio do differently: promises, background tasks, hosts, cancellation.

A *host* is the asyncio task in which a call executes; trio has cancel scopes for what we need it
for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from typing import Any, Final

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from taskflow.loops.cancellation import AsyncioGroup, CancelledOnce, Group, Interruptible, TrioGroup
from taskflow.loops.promises import Promise, TrioPromise

__all__ = (
    "OUTSIDE",
    "Loop",
    "Outside",
    "counted",
    "current_loop",
    "is_busy_outside",
    "outside",
)


class Outside:
    """How much worker threads and processes do at this moment for a loop.

    `outside` is used as a context around each wait for one. Nothing goes by it but clocks that pass
    by themselves when nothing happens, which have to wait for what happens outside.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *raised: object) -> None:
        self.count -= 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A thread that is counted waits for the loop meanwhile, and does nothing."""
        self.count -= 1
        try:
            yield
        finally:
            self.count += 1


class Counted(threading.local):
    """The counts of the loop that runs in this thread."""

    def __init__(self) -> None:
        self.default = Outside()
        self.all = [self.default]


counted: Final = Counted()
# A count of its own for code that may come to a standstill.
OUTSIDE: Final[ContextVar[Outside | None]] = ContextVar("taskflow_outside", default=None)


def outside() -> Outside:
    """The count that goes with the code that asks."""
    return OUTSIDE.get() or counted.default


def is_busy_outside() -> bool:
    """Whether a thread or process does something for the loop of this thread."""
    return any(each.count > 0 for each in counted.all)


class Loop:
    """The running event loop: promises, background tasks, and who is executing."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.token: EventLoopToken = current_token()

    is_asyncio = False

    def promise(self) -> Promise:
        """A new promise for one waiter."""
        return TrioPromise()

    def host(self) -> asyncio.Task[Any] | None:
        """The asyncio task that is executing now; ``None`` on trio."""
        return None

    def when_done(self, spawned: object, callback: Callable[[], None]) -> None:
        """Call back when what `spawn` returned has ended; trio lets everything begin first."""

    def has_ended(self, spawned: object) -> bool:
        """Whether what `spawn` returned has ended, though nobody told it to; trio's never do."""
        return False

    def interruptible(self) -> Interruptible:
        """A stretch of code in the current task that somebody else may cancel."""
        return anyio.CancelScope()

    def time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """The same, cancelled after so many seconds."""
        return anyio.move_on_after(seconds)

    def group(self) -> Group:
        """Children that end before what is around them goes on."""
        return TrioGroup()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after so many seconds, if the loop still runs; on trio never."""

    def cancel_requests(self) -> int:
        """How often the current task was asked to cancel; on trio that is all Cancelled means."""
        return 0

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Execute ``main`` beside everything else, in a copy of the context; it must not raise.

        What is returned is to be kept until it has ended: asyncio itself may forget it.
        """
        import trio

        return trio.lowlevel.spawn_system_task(main, context=copy_context())


class AsyncioLoop(Loop):
    """The same on asyncio, where a bare future is the cheapest promise."""

    is_asyncio = True

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.promise = self._loop.create_future  # type: ignore[method-assign]

    def host(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task(self._loop)

    def when_done(self, spawned: object, callback: Callable[[], None]) -> None:
        assert isinstance(spawned, asyncio.Task)
        spawned.add_done_callback(lambda _: callback())

    def has_ended(self, spawned: object) -> bool:
        assert isinstance(spawned, asyncio.Task)
        return spawned.done()

    def interruptible(self) -> Interruptible:
        return CancelledOnce()

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        with CancelledOnce() as scope:
            timer = self._loop.call_later(seconds, scope.cancel)
            try:
                yield
            finally:
                timer.cancel()

    def group(self) -> Group:
        return AsyncioGroup()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(seconds, callback)

    def cancel_requests(self) -> int:
        task = asyncio.current_task(self._loop)
        return 0 if task is None else task.cancelling()

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> object:
        return self._loop.create_task(main())


def current_loop() -> Loop:
    """The loop that is running in this thread.

    Raises RuntimeError where none is.
    """
    try:
        on_asyncio = asyncio.current_task() is not None
    except RuntimeError:
        on_asyncio = False
    return AsyncioLoop() if on_asyncio else Loop()
