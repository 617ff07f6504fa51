"""What asyncio and trio do differently, and nothing else.

A `Promise` is a one-shot wake-up that carries no value; a *host* is the asyncio task in which a
call executes (trio has cancel scopes for what we need it for).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.lowlevel import EventLoopToken, current_token

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ("Latch", "Loop", "Promise", "current_loop", "uninterrupted")


class Promise(Protocol):
    """A wake-up that happens once: awaiting it returns, or raises what it was given."""

    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def done(self) -> bool: ...
    def __await__(self) -> Generator[Any, Any, None]: ...


class Latch:
    """A promise that any number of waiters may await, each cancelled without harm to the others."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._error: BaseException | None = None

    def set_result(self, result: None = None, /) -> None:
        self._event.set()

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self._event.set()

    def done(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()


async def uninterrupted(latch: Latch) -> None:
    """Wait for ``latch`` though the waiter is cancelled, natively or by a scope; then raise that.

    A shield stops the scopes of anyio and trio. It does not stop asyncio's own ``task.cancel()``,
    which is caught here, once for each time.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not latch.done():
            try:
                await latch._event.wait()
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
    await latch


class Loop:
    """The running event loop: promises, background tasks, and who is executing."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.token: EventLoopToken = current_token()

    is_asyncio = False

    def promise(self) -> Promise:
        """A new promise for one waiter."""
        return Latch()

    def host(self) -> asyncio.Task[Any] | None:
        """The asyncio task that is executing now; ``None`` on trio."""
        return None

    def spawn(self, main: Callable[[], Awaitable[None]], context: Context) -> None:
        """Execute ``main`` beside everything else; it must not raise."""
        import trio

        trio.lowlevel.spawn_system_task(main, context=context)


class AsyncioLoop(Loop):
    """The same on asyncio, where a bare future is the cheapest promise."""

    is_asyncio = True

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.promise = self._loop.create_future  # type: ignore[method-assign]
        self._main: asyncio.Task[None] | None = None

    def host(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    def spawn(self, main: Callable[[], Awaitable[None]], context: Context) -> None:
        async def run() -> None:
            await main()

        # The loop itself keeps only a weak reference to its tasks.
        self._main = self._loop.create_task(run(), context=context)


def current_loop() -> Loop:
    """The loop that is running in this thread.

    Raises RuntimeError where none is.
    """
    try:
        on_asyncio = asyncio.current_task() is not None
    except RuntimeError:
        on_asyncio = False
    return AsyncioLoop() if on_asyncio else Loop()
