"""One-shot wake-ups: `Promise` for one waiter, `Latch` for any number of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

import anyio

__all__ = (
    "Latch",
    "Promise",
    "TrioPromise",
    "check_call_room",
    "keep",
    "new_promise",
    "room_for",
    "uninterrupted",
)


class Promise(Protocol):
    """A wake-up that happens once: awaiting it returns, or raises the exception it was given."""

    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def done(self) -> bool: ...
    def __await__(self) -> Generator[Any, Any, None]: ...


class Latch:
    """A promise for any number of waiters, each of which can be cancelled without the others.

    Unlike an `anyio.Event` it can be made where no loop runs, and costs next to nothing until it is
    awaited (0.2 µs against 3).
    """

    __slots__ = ("_error", "_is_done", "_waiters")

    def __init__(self) -> None:
        self._is_done = False
        self._error: BaseException | None = None
        self._waiters: list[Promise] | None = None  # most latches are never awaited

    def set_result(self, result: None = None, /) -> None:
        if self._waiters:
            check_wake_room()  # before `_is_done` is set: a RecursionError later loses the waiters
        self._is_done = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self.set_result()

    def done(self) -> bool:
        return self._is_done

    @property
    def error(self) -> BaseException | None:
        """The exception that it was given, if any."""
        return self._error

    async def settled(self) -> None:
        """Wait until it is done; its exception is not raised."""
        if not self._is_done:
            waiter = new_promise()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if self._waiters is not None:
                    self._waiters.remove(waiter)

    async def wait(self) -> None:
        """Wait until it is done, and raise its exception if it has one."""
        await self.settled()
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()


class TrioPromise:
    """A `Promise` on trio."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._error: BaseException | None = None

    def set_result(self, result: None, /) -> None:
        self._event.set()

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self._event.set()

    def done(self) -> bool:
        return self._event.is_set()

    async def _wait(self) -> None:
        await self._event.wait()
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()


def room_for(levels: int) -> Callable[[], None]:
    """A check that raises RecursionError unless the stack has room for ``levels`` nested calls.

    A stack that overflows in the middle of a wake-up leaves a promise that is done and a waiter
    that is never woken. The check is a chain of functions without arguments: 18 ns a level, where
    functions that count down take 33.
    """

    def outer(inner: Callable[[], None]) -> Callable[[], None]:
        return lambda: inner()  # a frame of its own: `return inner` would not use the stack

    check: Callable[[], None] = lambda: None  # noqa: E731
    for _ in range(levels - 1):
        check = outer(check)
    return check


# A loop uses 6 levels to wake a waiter, 11 in asyncio's debug mode.
check_wake_room: Final = room_for(14)
# For the functions of this package that end a user's call and wake its waiters.
check_call_room: Final = room_for(24)


def keep(promise: Promise | None) -> None:
    """Complete ``promise`` if it is given and pending.

    Raises RecursionError, and leaves it pending, where the stack has no room for the wake-up.
    """
    if promise is not None and not promise.done():
        check_wake_room()
        promise.set_result(None)


def new_promise() -> Promise:
    """A promise for one waiter, on the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop().create_future()
    except RuntimeError:
        return TrioPromise()


async def uninterrupted(latch: Latch) -> None:
    """Wait for ``latch`` to the end even if this task is cancelled; then raise the cancellation.

    A shield stops the scopes of anyio and trio. It does not stop asyncio's own ``task.cancel()``,
    so each CancelledError is caught here.
    """
    try:
        await latch.settled()
    except BaseException:
        with anyio.CancelScope(shield=True):
            while not latch.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await latch.settled()
        raise
    await latch
