"""`Loop`: the operations in which asyncio and trio differ, behind one interface.

A *host* is the asyncio task in which a call executes. It is needed to cancel the call; on trio, a
cancel scope does that.
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

from taskflow.loops.cancellation import (
    AsyncioGroup,
    CancelledOnce,
    Group,
    Interruptible,
    TimeLimit,
    TrioGroup,
    TrioTimeLimit,
)
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
    """The number of worker threads and processes that are working for a loop at this moment.

    Each wait for one is wrapped in ``with outside():``. Only virtual clocks read the count: they
    advance when nothing happens on the loop, and must not while work goes on outside it.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *raised: object) -> None:
        self.count -= 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Do not count a worker thread while it waits for the loop."""
        self.count -= 1
        try:
            yield
        finally:
            self.count += 1


class Counted(threading.local):
    """All counts of the loop that runs in this thread."""

    def __init__(self) -> None:
        self.default = Outside()
        self.all = [self.default]


counted: Final = Counted()
# A separate count for the code of this context, where only its standstill is to be detected.
OUTSIDE: Final[ContextVar[Outside | None]] = ContextVar("taskflow_outside", default=None)


def outside() -> Outside:
    """The count of the current context."""
    return OUTSIDE.get() or counted.default


def is_busy_outside() -> bool:
    """Whether a worker thread or process is working for the loop of this thread."""
    return any(each.count > 0 for each in counted.all)


class Loop:
    """The running event loop; this class serves trio, `AsyncioLoop` asyncio."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.token: EventLoopToken = current_token()

    is_asyncio = False

    def is_running_here(self) -> bool:
        """Whether the present code is executed by this loop, and not by another one or by none."""
        try:
            return current_token() == self.token
        except RuntimeError:
            return False

    def promise(self) -> Promise:
        """A new promise for one waiter."""
        return TrioPromise()

    def host(self) -> asyncio.Task[Any] | None:
        """The asyncio task that is executing now; ``None`` on trio."""
        return None

    def when_done(self, spawned: object, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the task that `spawn` returned has ended.

        On trio never: it is needed for tasks that are cancelled before their first step, and trio
        always executes that step.
        """

    def has_ended(self, spawned: object) -> bool:
        """Whether the task that `spawn` returned was ended from outside; on trio it never is."""
        return False

    def interruptible(self) -> Interruptible:
        """A block of the current task that other tasks may cancel."""
        return anyio.CancelScope()

    def time_limit(self, seconds: float) -> AbstractContextManager[TimeLimit]:
        """A block of the current task that is cancelled after ``seconds``."""
        return TrioTimeLimit(seconds)

    def group(self) -> Group:
        """A new group of children."""
        return TrioGroup()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` after ``seconds``, if the loop still runs; on trio never."""

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Execute ``main`` as a background task in a copy of the context; it must not raise.

        Keep the returned task until it has ended: asyncio holds only a weak reference to it.
        """
        import trio

        return trio.lowlevel.spawn_system_task(main, context=copy_context())


class AsyncioLoop(Loop):
    """A `Loop` on asyncio; its promises are bare futures, the cheapest there are."""

    is_asyncio = True

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.promise = self._loop.create_future  # type: ignore[method-assign]

    def is_running_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

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
    def time_limit(self, seconds: float) -> Iterator[TimeLimit]:
        with CancelledOnce() as scope:
            timer = self._loop.call_later(seconds, scope.cancel)
            try:
                yield scope
            finally:
                timer.cancel()

    def group(self) -> Group:
        return AsyncioGroup()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(seconds, callback)

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> object:
        return self._loop.create_task(main())


def current_loop() -> Loop:
    """The loop that is running in this thread. Raises RuntimeError where none is."""
    try:
        on_asyncio = asyncio.current_task() is not None
    except RuntimeError:
        on_asyncio = False
    return AsyncioLoop() if on_asyncio else Loop()
