"""Execution of a coroutine body: in its caller's task, step by step, in a context of its own."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol, TypeVar

from taskflow.loops.cancellation import (
    Thrown,
    cancel_requests,
    check_cancelled,
    note_thrown,
)

__all__ = ("Stepped", "stepped")

T = TypeVar("T")


class Stepped(Protocol):
    """A function that executes a body's coroutine: awaiting what it returns gives the result."""

    def __call__(self, body: Coroutine[Any, Any, T], context: Context, /) -> Awaitable[T]: ...


@types.coroutine
def stepped(body: Coroutine[Any, Any, T], context: Context, /) -> Generator[Any, Any, T]:
    """Execute ``body`` in this task, step by step, each step in ``context``.

    Raises `Uncancelled` where it ends in a CancelledError without having been cancelled.
    """
    run = context.run
    step: Callable[..., Any] = body.send
    sent: Any = None
    requests = cancel_requests()
    thrown: Thrown | None = None
    while True:
        try:
            awaited = run(step, sent)
        except StopIteration as stop:
            if thrown is not None:
                thrown.end()
            return stop.value  # type: ignore[no-any-return]
        except BaseException as error:
            sent = None  # break the cycle: the traceback of an error thrown in holds this frame
            if thrown is not None or not isinstance(error, Exception):
                check_cancelled(error, thrown)
            raise
        if thrown is not None:
            thrown.wait()
        try:
            sent = yield awaited
            step = body.send
        except GeneratorExit:
            run(body.close)
            raise
        except BaseException as error:
            thrown = note_thrown(error, thrown, requests)
            sent = error
            step = body.throw
