"""Cancellation of user code: delivered once, and not inside a shield of its own.

In asyncio a cancellation is one CancelledError, after which cleanup may await anything; in anyio
and trio, cleanup protects itself with a shield. On asyncio this module honours both; on trio its
native scopes already behave as users expect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import anyio
import anyio.abc

from taskflow.loops.promises import Latch, uninterrupted

__all__ = (
    "AsyncioGroup",
    "Cancellable",
    "CancelledOnce",
    "Group",
    "Interruptible",
    "TrioGroup",
    "notice_cancellation",
)


class Interruptible(Protocol):
    """A block of code that can be cancelled from outside; its exit swallows that cancellation."""

    def __enter__(self) -> object: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> bool | None: ...
    def cancel(self) -> None: ...


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

    @property
    def _name(self) -> str:
        # The name that anyio gives a scope in the text of its CancelledErrors. If a later anyio
        # changes that text, each await of a cleanup is cancelled again: anyio's own behaviour.
        return f"{id(self._outer):x}"


SCOPE_NAME: Final = re.compile(r"\b[0-9a-f]{4,}\b")

# The scopes that were cancelled and have not been left, by name.
_cancelling: dict[str, CancelledOnce] = {}


def notice_cancellation(error: BaseException) -> None:
    """Tell the scope that caused ``error``, which was thrown into a body, that it was delivered."""
    if _cancelling and isinstance(error, asyncio.CancelledError) and error.args:
        for name in SCOPE_NAME.findall(str(error.args[0])):
            if (scope := _cancelling.get(name)) is not None:
                scope.delivered()


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
