"""Cancellation of user code: delivered once, and not inside a shield of its own.

In asyncio a cancellation is one CancelledError, after which cleanup may await anything; in anyio
and trio, cleanup protects itself with a shield. On asyncio this module honours both; on trio its
native scopes already behave as users expect.
"""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.abc

from taskflow.loops.promises import Latch, uninterrupted

__all__ = (
    "AsyncioGroup",
    "Cancellable",
    "CancelledOnce",
    "Group",
    "Interruptible",
    "Thrown",
    "TimeLimit",
    "TrioGroup",
    "TrioTimeLimit",
    "Uncancelled",
    "cancel_requests",
    "check_cancelled",
    "note_thrown",
    "notice_cancellation",
)


T = TypeVar("T")


class Interruptible(Protocol):
    """A block of code that can be cancelled from outside; its exit swallows that cancellation."""

    def __enter__(self) -> object: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None: ...
    def cancel(self) -> None: ...


class TimeLimit(Protocol):
    """A block of code that is cancelled after a time; its exit swallows that cancellation."""

    was_delivered: bool  # the cancellation, to the code inside

    def watch(self, body: Awaitable[T], /) -> Awaitable[T]:
        """Await ``body`` in the block by this: else ``was_delivered`` may not be known."""
        ...


class CancelledOnce:
    """`Interruptible` on asyncio: one CancelledError, after which cleanup may await anything.

    An anyio scope alone would cancel each await of that cleanup too; a bare ``task.cancel()`` would
    interrupt code inside a shield. So there are two scopes, and the inner one becomes a shield as
    soon as the outer one's cancellation has been delivered.
    """

    def __init__(self) -> None:
        self._outer = anyio.CancelScope()
        self._inner = anyio.CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self.is_cancelled = False  # also by a `cancel` before the block is entered
        self.was_delivered = False  # to the code inside

    def __enter__(self) -> CancelledOnce:
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
        self.is_cancelled = True
        if self._task is not None and not self._outer.cancel_called:
            _cancelling[self._name] = self
            self._outer.cancel()

    def delivered(self) -> None:
        """Note that the cancellation has reached the code inside: cancel nothing more."""
        self._inner.shield = True
        self.was_delivered = True

    def watch(self, body: Awaitable[T], /) -> Awaitable[T]:
        return body  # `notice_cancellation` tells of a delivery

    @property
    def _name(self) -> str:
        # The name that anyio gives a scope in the text of its CancelledErrors. If a later anyio
        # changes that text, each await of a cleanup is cancelled again: anyio's own behaviour.
        return f"{id(self._outer):x}"


SCOPE_NAME: Final = re.compile(r"\b[0-9a-f]{4,}\b")

# The scopes that were cancelled and have not been left, by name.
_cancelling: dict[str, CancelledOnce] = {}


class Uncancelled(Exception):
    """A body has ended in a CancelledError, and nobody had cancelled it."""

    def __init__(self, original: BaseException) -> None:
        self.original = original
        super().__init__("a body has ended in a CancelledError, and nobody had cancelled it")


def cancel_requests() -> int:
    """``Task.cancelling()`` of the current asyncio task; 0 on trio, which counts none."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return 0 if task is None else task.cancelling()


class Thrown:
    """The CancelledErrors that were thrown into one body on asyncio, from the first one on.

    One of them comes from a cancellation if the task's count of requests has grown since the body
    began to wait; else the body awaits something that was cancelled itself. The count alone tells
    nothing: a TaskGroup before Python 3.13, and libraries that cancel the task for a time limit of
    their own, leave it too high for good.
    """

    def __init__(self, requests: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._baseline = requests  # as the body began
        self._known = requests  # that were delivered, and not withdrawn since
        # Each CancelledError that came from a cancellation, with the number of its requests.
        self._real: list[tuple[asyncio.CancelledError, int]] = []
        self._is_latest_real = False  # and the body has not waited since

    def add(self, error: asyncio.CancelledError) -> None:
        """``error`` is thrown into the body."""
        requests = self._task.cancelling()
        self._is_latest_real = requests > self._known
        if self._is_latest_real:
            self._real.append((error, requests - self._known))
            self._known = requests

    def wait(self) -> None:
        """The body waits: what was withdrawn until now may be requested anew."""
        self._is_latest_real = False
        withdrawn = self._known - self._task.cancelling()
        while withdrawn > 0 and self._real:
            error, count = self._real.pop()
            if count > withdrawn:
                self._real.append((error, count - withdrawn))
            withdrawn -= count
        self._known = min(self._known, self._task.cancelling())

    def is_cancellation(self, error: BaseException) -> bool:
        """Whether ``error``, in which the body ends, comes from a cancellation."""
        if isinstance(error, BaseExceptionGroup):
            return any(self.is_cancellation(each) for each in error.exceptions)
        if not isinstance(error, asyncio.CancelledError):
            return not isinstance(error, Exception)
        if self._is_latest_real and self._task.cancelling() > self._baseline:
            return True  # as `asyncio.Condition` does, it may raise another one in its place
        passed_on = _passed_on(error)
        return any(each is real for each in passed_on for real, _ in self._real)

    def end(self, error: BaseException | None = None) -> None:
        """The body has ended: withdraw the requests that it has met and not passed on.

        A scope withdraws its own. Any other that is left would make the cancellation of a scope
        around the body look like one that came from beyond it.
        """
        passed_on = [] if error is None else _passed_on(error)
        left = sum(
            count
            for met, count in self._real
            if not (_scope_names(met) or any(met is each for each in passed_on))
        )
        for _ in range(min(left, self._known - self._baseline, self._task.cancelling())):
            self._task.uncancel()
        self._real.clear()  # their tracebacks hold the frames that hold this


def notice_cancellation(error: BaseException) -> None:
    """Tell the scope that caused ``error``, which was thrown into a body, that it was delivered."""
    if _cancelling and isinstance(error, asyncio.CancelledError):
        for name in _scope_names(error):
            if (scope := _cancelling.get(name)) is not None:
                scope.delivered()


def note_thrown(error: BaseException, thrown: Thrown | None, requests: int) -> Thrown | None:
    """Note that ``error`` is thrown into a body.

    ``thrown`` is what was thrown into it before, ``requests`` the `cancel_requests` as it began.
    """
    notice_cancellation(error)
    if isinstance(error, asyncio.CancelledError) and asyncio._get_running_loop() is not None:
        thrown = thrown or Thrown(requests)
        thrown.add(error)
    return thrown


def check_cancelled(error: BaseException, thrown: Thrown | None) -> None:
    """Raise `Uncancelled` where a body ends in a CancelledError without having been cancelled."""
    is_own = _consists_of_cancellations(error) and not (thrown and thrown.is_cancellation(error))
    if thrown is not None:
        thrown.end(error)
    if is_own:
        raise Uncancelled(error) from None


def _consists_of_cancellations(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(
            isinstance(each, Exception) or _consists_of_cancellations(each)
            for each in error.exceptions
        )
    return isinstance(error, asyncio.CancelledError)


def _passed_on(error: BaseException) -> list[BaseException]:
    """``error``, and the CancelledErrors in whose handling it was raised."""
    chain: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup) and not isinstance(each, Exception):
            pending.extend(each.exceptions)
        elif isinstance(each, asyncio.CancelledError) and not any(each is met for met in chain):
            chain.append(each)
            pending.extend((each.__cause__, each.__context__))
    return chain


def _scope_names(error: asyncio.CancelledError) -> list[str]:
    return SCOPE_NAME.findall(str(error.args[0])) if error.args else []


class TrioTimeLimit:
    """A `TimeLimit` on trio, which hands a cancellation to a task as what it waits for."""

    def __init__(self, seconds: float) -> None:
        self.was_delivered = False
        self._scope = anyio.move_on_after(seconds)

    def __enter__(self) -> TrioTimeLimit:
        self._scope.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None:
        return self._scope.__exit__(kind, error, traceback)

    @types.coroutine
    def watch(self, body: Awaitable[T], /) -> Generator[Any, Any, T]:
        steps = body.__await__()
        step: Callable[..., Any] = steps.send
        cancelled = anyio.get_cancelled_exc_class()
        sent: Any = None
        while True:
            try:
                awaited = step(sent)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                sent, step = (yield awaited), steps.send
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                sent, step = error, steps.throw
            if isinstance(getattr(sent, "error", None), cancelled) and self._scope.cancel_called:
                self.was_delivered = True


class Group(Protocol):
    """Children that raise nothing, all of which have ended when the block is left."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None: ...
    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable: ...
    def cancel(self) -> None: ...


class Cancellable(Protocol):
    """One child of a group, as ``Group.start`` returns it."""

    def cancel(self) -> None: ...


class AsyncioGroup:
    """A `Group` on asyncio; each child is cancelled once."""

    def __init__(self) -> None:
        self._children: dict[CancelledOnce, asyncio.Task[None]] = {}
        self._is_cancelled = False
        self._ended = Latch()

    async def __aenter__(self) -> AsyncioGroup:
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._children:
            try:
                await self._ended.settled()
            except BaseException:
                self.cancel()
                await uninterrupted(self._ended)
                raise

    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        scope = CancelledOnce()
        task = asyncio.get_running_loop().create_task(self._execute(child, scope))
        # Not at the end of `_execute`: asyncio may cancel a task before its first step.
        task.add_done_callback(lambda _: self._leave(scope))
        self._children[scope] = task
        return scope

    def cancel(self) -> None:
        self._is_cancelled = True
        for scope in self._children:
            scope.cancel()

    async def _execute(
        self, child: Callable[[], Coroutine[Any, Any, None]], scope: CancelledOnce
    ) -> None:
        with scope:
            if not (self._is_cancelled or scope.is_cancelled):
                await child()

    def _leave(self, scope: CancelledOnce) -> None:
        del self._children[scope]
        if not self._children:
            self._ended.set_result()


class TrioGroup:
    """A `Group` on trio."""

    _group: anyio.abc.TaskGroup

    async def __aenter__(self) -> TrioGroup:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._group.__aexit__(*raised)

    def start(self, child: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        scope = anyio.CancelScope()

        async def execute() -> None:
            with scope:
                await child()

        self._group.start_soon(execute)
        return scope

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()
