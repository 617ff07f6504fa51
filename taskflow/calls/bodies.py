"""How a body executes once: on the event loop, in a worker thread, or in a worker process.

Each body executes in a context of its own, a copy of its caller's in which `FRAME` is its frame.
Only this module decides where a body executes, and what its time limit covers.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

import anyio

from taskflow.calls.definitions import BodyKind, Definition
from taskflow.calls.remote import execute_in_process
from taskflow.errors import TaskTimeout
from taskflow.loops.cancellation import Uncancelled, cancel_requests
from taskflow.loops.workers import TimedOut
from taskflow.runs.contests import Stake
from taskflow.runs.frame import FRAME, Frame, current
from taskflow.runs.run import Run

__all__ = ("Attempted", "execute_body")

T = TypeVar("T")


class Attempted(Protocol):
    """What is attempted: a call, or the run itself (which has no id)."""

    @property
    def id(self) -> str | None: ...
    @property
    def definition(self) -> Definition[..., Any, Any]: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> dict[str, Any]: ...
    @property
    def stake(self) -> Stake | None: ...

    body: Frame[Run] | None  # of the present attempt
    is_held: bool  # nothing of it executes, nor will
    is_behind: bool  # it waits for a time or another call, and then executes


def execute_body(call: Attempted, frame: Frame[Run]) -> Awaitable[Any]:
    """Execute the body of ``call`` once; what is returned is awaited for the result."""
    definition = call.definition
    if definition.kind is BodyKind.PROCESS:
        return _in_free_process(call, frame)
    if definition.timeout is not None:
        return _timed(call, frame, definition.timeout)
    return _untimed(call, frame)


async def _in_free_process(call: Attempted, frame: Frame[Run]) -> Any:
    limit = call.definition.timeout
    # Waiting for a process is not part of the attempt.
    async with frame.run.scheduler.processes:
        if frame.run.scheduler.is_draining:
            await frame.run.activity.hold(call, frame)
        try:
            if limit is None:
                return await _untimed(call, frame)
            return await _timed(call, frame, limit)
        except anyio.BrokenWorkerProcess as error:
            raise anyio.BrokenWorkerProcess(
                f"the worker process that executed {call.definition.name} died: it was killed (by "
                "the system, where memory ran out), or its code crashed"
            ) from error


async def _timed(call: Attempted, frame: Frame[Run], limit: float) -> Any:
    begun = anyio.current_time()
    if call.definition.kind is BodyKind.THREAD:
        try:
            return await _untimed(call, frame)
        except TimedOut:
            pass
    else:
        with frame.run.scheduler.loop.time_limit(limit) as time_limit:
            value = await time_limit.watch(_untimed(call, frame))
            if not time_limit.was_delivered:
                return value
            # It has swallowed its cancellation: what it returns after that is no result.
    raise TaskTimeout(call.definition.name, limit, anyio.current_time() - begun)


async def _untimed(call: Attempted, frame: Frame[Run]) -> Any:
    definition, args, kwargs = call.definition, call.args, call.kwargs
    scheduler = frame.run.scheduler
    context = copy_context()
    context.run(FRAME.set, frame)
    kind = definition.kind
    fn = definition.fn
    if kind is BodyKind.COROUTINE:
        return await scheduler.stepped(fn(*args, **kwargs), context)
    if kind is BodyKind.GENERATOR:
        items = _collect(fn(*args, **kwargs), call, frame)
        return await scheduler.stepped(items, context)
    requests = cancel_requests()
    try:
        if kind is BodyKind.THREAD:
            return await scheduler.threads.call(
                context, functools.partial(fn, *args, **kwargs), definition.timeout, frame.interrupt
            )
        return await execute_in_process(definition, args, kwargs, context.run(current))
    except asyncio.CancelledError as error:
        if cancel_requests() <= requests:
            raise Uncancelled(error) from None
        raise


async def _collect(items: AsyncIterator[T], call: Attempted, frame: Frame[Run]) -> list[T]:
    """All items; listeners are told of each as it comes."""
    collected: list[T] = []
    run = frame.run
    async for item in items:
        collected.append(item)
        if (feed := run.feed) is not None:
            feed.item(run.run_id, call.id, frame.parent_id, call.definition.name, item)
    return collected
