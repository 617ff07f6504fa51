"""What asyncio and trio do differently, and nothing else.

A `Promise` is a one-shot wake-up that carries no value; a *host* is the asyncio task in which a
call executes (trio has cancel scopes for what we need it for).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, Protocol

import anyio
from anyio.lowlevel import EventLoopToken, current_token

__all__ = (
    "Group",
    "Interruptible",
    "Latch",
    "Loop",
    "Promise",
    "current_loop",
    "notice_cancellation",
    "uninterrupted",
)


class Promise(Protocol):
    """A wake-up that happens once: awaiting it returns, or raises what it was given."""

    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def done(self) -> bool: ...
    def __await__(self) -> Generator[Any, Any, None]: ...


class Latch:
    """A promise that any number of waiters may await, each cancelled without harm to the others.

    Unlike an event of anyio it may be made where no loop runs, and costs next to nothing until
    somebody waits (0.2 µs against 3).
    """

    __slots__ = ("_error", "_is_done", "_waiters")

    def __init__(self) -> None:
        self._is_done = False
        self._error: BaseException | None = None
        self._waiters: list[Promise] = []

    def set_result(self, result: None = None, /) -> None:
        self._is_done = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self.set_result()

    def done(self) -> bool:
        return self._is_done

    @property
    def error(self) -> BaseException | None:
        """What it was broken with."""
        return self._error

    async def settled(self) -> None:
        """Wait until it is kept or broken, whichever it is."""
        if not self._is_done:
            waiter = _promise()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if not self._is_done:
                    self._waiters.remove(waiter)

    async def wait(self) -> None:
        """Wait until it is kept; raise what it was broken with."""
        await self.settled()
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()


class _TrioPromise:
    """A promise on trio."""

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


def _promise() -> Promise:
    """A promise for one waiter, on the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop().create_future()
    except RuntimeError:
        return _TrioPromise()


async def uninterrupted(latch: Latch) -> None:
    """Wait for ``latch`` though the waiter is cancelled, natively or by a scope; then raise that.

    A shield stops the scopes of anyio and trio. It does not stop asyncio's own ``task.cancel()``,
    which is caught here, once for each time.
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


class Interruptible(Protocol):
    """Code that can be cancelled from outside; leaving it swallows that cancellation."""

    def __enter__(self) -> object: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None: ...
    def cancel(self) -> None: ...


class _CancelledOnce:
    """The same on asyncio: one CancelledError, after which cleanup may await what it likes.

    A scope of anyio alone would cancel each await of that cleanup too; a bare ``task.cancel()``
    would break into code that shields itself. So there are two scopes, and the inner one becomes a
    shield as soon as the outer one's cancellation has been delivered.
    """

    def __init__(self) -> None:
        self._outer = anyio.CancelScope()
        self._inner = anyio.CancelScope()
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> _CancelledOnce:
        self._task = asyncio.current_task()
        self._outer.__enter__()
        self._inner.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None:
        self._task = None
        _cancelling.pop(self._name, None)
        self._inner.__exit__(kind, error, traceback)
        return self._outer.__exit__(kind, error, traceback)

    def cancel(self) -> None:
        if self._task is not None and not self._outer.cancel_called:
            _cancelling[self._name] = self
            self._outer.cancel()

    def delivered(self) -> None:
        """The cancellation has reached the code inside."""
        self._inner.shield = True

    @property
    def _name(self) -> str:
        # How anyio names a scope in the CancelledErrors that it causes. Should it cease to, each
        # await of a cleanup is cancelled again, as anyio does by itself.
        return f"{id(self._outer):x}"


# The scopes that were cancelled and have not been left, by their name.
_cancelling: dict[str, _CancelledOnce] = {}


def notice_cancellation(error: BaseException) -> None:
    """Called with what was thrown into a body: from here on, that scope cancels nothing more."""
    if _cancelling and isinstance(error, asyncio.CancelledError) and error.args:
        for name, scope in list(_cancelling.items()):
            if name in str(error.args[0]):
                scope.delivered()


class Group(Protocol):
    """Children that raise nothing, and have ended before what is around them goes on."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None: ...
    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> None: ...
    def cancel(self) -> None: ...


class _AsyncioGroup:
    """The same on asyncio, where each child is cancelled once."""

    def __init__(self) -> None:
        self._children: dict[_CancelledOnce, asyncio.Task[None]] = {}
        self._is_cancelled = False
        self._ended = Latch()

    async def __aenter__(self) -> _AsyncioGroup:
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._children:
            try:
                await self._ended.settled()
            except BaseException:
                self.cancel()
                await uninterrupted(self._ended)
                raise

    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> None:
        scope = _CancelledOnce()
        self._children[scope] = asyncio.get_running_loop().create_task(self._execute(child, scope))

    def cancel(self) -> None:
        self._is_cancelled = True
        for scope in self._children:
            scope.cancel()

    async def _execute(
        self, child: Callable[[], Coroutine[Any, Any, None]], scope: _CancelledOnce
    ) -> None:
        try:
            with scope:
                if not self._is_cancelled:
                    await child()
        finally:
            del self._children[scope]
            if not self._children:
                self._ended.set_result()


class _TrioGroup:
    """The same on trio."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> _TrioGroup:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._group.__aexit__(*raised)

    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._group.start_soon(child)

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()


class Loop:
    """The running event loop: promises, background tasks, and who is executing."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.token: EventLoopToken = current_token()

    is_asyncio = False

    def promise(self) -> Promise:
        """A new promise for one waiter."""
        return _TrioPromise()

    def host(self) -> asyncio.Task[Any] | None:
        """The asyncio task that is executing now; ``None`` on trio."""
        return None

    def when_done(self, spawned: object, callback: Callable[[], None]) -> None:
        """Call back when what `spawn` returned has ended; trio lets everything begin first."""

    def interruptible(self) -> Interruptible:
        """A stretch of code in the current task that somebody else may cancel."""
        return anyio.CancelScope()

    def time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """The same, cancelled after so many seconds."""
        return anyio.move_on_after(seconds)

    def group(self) -> Group:
        """Children that end before what is around them goes on."""
        return _TrioGroup()

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

    def interruptible(self) -> Interruptible:
        return _CancelledOnce()

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        with _CancelledOnce() as scope:
            timer = self._loop.call_later(seconds, scope.cancel)
            try:
                yield
            finally:
                timer.cancel()

    def group(self) -> Group:
        return _AsyncioGroup()

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
