"""Execution of a coroutine body: in its caller's task, step by step, in a context of its own."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol, TypeVar

from taskflow.loops.cancellation import notice_cancellation

__all__ = ("Stepped", "stepped")

T = TypeVar("T")


class Stepped(Protocol):
    """A function that executes a body's coroutine: awaiting what it returns gives the result."""

    def __call__(self, body: Coroutine[Any, Any, T], context: Context, /) -> Awaitable[T]: ...


@types.coroutine
def stepped(body: Coroutine[Any, Any, T], context: Context, /) -> Generator[Any, Any, T]:
    """Execute ``body`` in this task, step by step, each step in ``context``."""
    run = context.run
    step: Callable[..., Any] = body.send
    sent: Any = None
    while True:
        try:
            awaited = run(step, sent)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except BaseException:
            sent = None  # break the cycle: the traceback of an error thrown in holds this frame
            raise
        try:
            sent = yield awaited
            step = body.send
        except GeneratorExit:
            run(body.close)
            raise
        except BaseException as error:
            notice_cancellation(error)
            sent = error
            step = body.throw
