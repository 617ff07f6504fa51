"""The attempts of one call: a body, a timeout, and the policy that decides about the next one."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

import anyio

from taskflow.calls.definitions import BodyKind, Definition
from taskflow.errors import TaskTimeout
from taskflow.loops.loop import Loop
from taskflow.loops.workers import TimedOut, call_in_process
from taskflow.records import CurrentCall
from taskflow.retry import first_match
from taskflow.runs.contests import Stake
from taskflow.runs.frame import FRAME, REMOTE, Frame, current
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome
from taskflow.wire import failures

__all__ = ("Attempted", "attempt_all")

T = TypeVar("T")

# Never recorded: they end the process, a generator, or the task; not the call.
UNRECORDED = (KeyboardInterrupt, SystemExit, GeneratorExit)


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


async def attempt_all(call: Attempted, parent: Frame[Run]) -> Outcome:
    """Execute a call as often as its policies say.

    Raises only what must not be recorded: a cancellation, what ends the process, and what breaks
    the run.
    """
    definition = call.definition
    run = parent.run
    codec = definition.codec
    policies = definition.policies
    slots = None if definition.is_workflow else run.scheduler.slots
    keeps = parent.keeps or bool(policies)
    loop = run.scheduler.loop
    baseline = loop.cancel_requests()
    clock = run.scheduler.clock
    started = clock.now()
    attempt = cut_off.pop(call.id or "", 1) if (cut_off := run.waiting.attempts) else 1
    while True:
        frame = Frame(
            run,
            call.digest,
            call.id,
            attempt,
            slots is not None,
            keeps,
            call.stake,
            parent.call_id,
        )
        call.body = frame
        if call.id is None:
            run.saved = None
            run.attempt = attempt
        try:
            if slots is not None:
                if not slots.try_take():
                    await run.activity.queue(call.id, slots)
                frame.holds_slot = True
            if run.scheduler.is_draining and call.id is not None:
                await _hold(call, frame)
            if call.id is not None and (feed := run.feed) is not None:
                feed.task_started(run.run_id, call.id, parent.call_id, definition.name, attempt)
            try:
                if definition.is_bare:  # as most are: two coroutines less
                    context = copy_context()
                    context.run(FRAME.set, frame)
                    body = definition.fn(*call.args, **call.kwargs)
                    value = await run.scheduler.stepped(body, context)
                elif definition.kind is BodyKind.PROCESS:
                    # Waiting for a process is not part of the attempt.
                    async with run.scheduler.processes:
                        if run.scheduler.is_draining:
                            await _hold(call, frame)
                        value = await _process_body(call, frame)
                elif definition.timeout is None:
                    value = await _body(call, frame)
                else:
                    value = await _timed_body(call, frame, definition.timeout)
            finally:
                frame.end()
                if frame.in_flight:
                    await run.activity.end_strays(frame)
                call.body = None  # or the frames of a fan-out live for as long as its calls
            if frame.is_cut_off and call.id is not None:
                await run.activity.check_open(parent)  # what it made of that is no outcome
            payload, value = codec.round_trip(value)
            return Outcome(attempt, started, payload, value)
        except UNRECORDED:
            raise
        except BaseException as error:
            if frame.is_cut_off and run.unwinding and call.id is not None:
                await run.activity.check_open(parent)
            if run.broken is not None or run.unwinding or _is_cancellation(error, loop, baseline):
                raise
            if loop.cancel_requests() > baseline:
                raise  # it failed at cleaning up after a cancellation, which is no outcome
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            marks = list(failures.marks_in(error, run.serial))
            ended_by = tuple(
                dict.fromkeys(each for mark in marks for each in (mark.task_id, *mark.ended_by))
            )
            given_up = any(mark.given_up for mark in marks)
            policy = None if given_up else first_match(policies, error)
            if policy is None or attempt >= policy.max_attempts:
                failure = failures.record(error, ended_by, given_up or bool(policies))
                return Outcome.failed(attempt, started, failure, error)
            delay = policy.drawn_delay_after(attempt)
            if (feed := run.feed) is not None:
                feed.task_retrying(
                    run.run_id, call.id, parent.call_id, definition.name, attempt, delay, error
                )
            if ended_by:
                await run.unrecord(ended_by)
        run.activity.counts.retried += 1
        call.is_behind = True
        try:
            await run.activity.back_off(delay)
        finally:
            call.is_behind = False
        attempt += 1


async def _hold(call: Attempted, frame: Frame[Run]) -> None:
    """Nothing starts while the runtime is drained: wait to be cut off."""
    if frame.holds_slot:
        frame.holds_slot = False
        frame.run.scheduler.slots.give_back()
    await frame.run.activity.hold(call)


def _is_cancellation(error: BaseException, loop: Loop, baseline: int) -> bool:
    """Whether ``error`` comes from a cancellation of this task since ``baseline`` was taken."""
    if isinstance(error, asyncio.CancelledError):
        return loop.cancel_requests() > baseline
    if isinstance(error, BaseExceptionGroup):
        return not isinstance(error, Exception)
    return isinstance(error, anyio.get_cancelled_exc_class())


async def _process_body(call: Attempted, frame: Frame[Run]) -> Any:
    limit = call.definition.timeout
    try:
        if limit is None:
            return await _body(call, frame)
        return await _timed_body(call, frame, limit)
    except anyio.BrokenWorkerProcess as error:
        raise anyio.BrokenWorkerProcess(
            f"the worker process that executed {call.definition.name} died: it was killed (by the "
            "system, where memory ran out), or its code crashed"
        ) from error


async def _timed_body(call: Attempted, frame: Frame[Run], limit: float) -> Any:
    begun = anyio.current_time()
    if call.definition.kind is BodyKind.THREAD:
        try:
            return await _body(call, frame)
        except TimedOut:
            pass
    else:
        with frame.run.scheduler.loop.time_limit(limit):
            return await _body(call, frame)
    raise TaskTimeout(call.definition.name, limit, anyio.current_time() - begun)


async def _body(call: Attempted, frame: Frame[Run]) -> Any:
    definition, args, kwargs = call.definition, call.args, call.kwargs
    context = copy_context()
    context.run(FRAME.set, frame)
    kind = definition.kind
    fn = definition.fn
    if kind is BodyKind.COROUTINE:
        return await frame.run.scheduler.stepped(fn(*args, **kwargs), context)
    if kind is BodyKind.GENERATOR:
        items = _collect(fn(*args, **kwargs), call, frame)
        return await frame.run.scheduler.stepped(items, context)
    if kind is BodyKind.THREAD:
        return await frame.run.scheduler.threads.call(
            context, functools.partial(fn, *args, **kwargs), definition.timeout, frame.cancel
        )
    return await _in_process(definition, args, kwargs, context.run(current))


async def _collect(items: AsyncIterator[T], call: Attempted, frame: Frame[Run]) -> list[T]:
    """All items; who listens is told of each as it comes."""
    collected: list[T] = []
    run = frame.run
    async for item in items:
        collected.append(item)
        if (feed := run.feed) is not None:
            feed.item(run.run_id, call.id, frame.parent_id, call.definition.name, item)
    return collected


async def _in_process(
    definition: Definition[..., Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    position: CurrentCall,
) -> Any:
    module, qualname = definition.fn.__module__, definition.fn.__qualname__
    succeeded, payload, trace = await call_in_process(
        _execute_remotely, module, qualname, args, kwargs, position
    )
    if succeeded is None:
        raise SystemExit(trace)
    if succeeded:
        return definition.codec.decode(payload)
    error = failures.rebuild(failures.Failure.parse(payload))
    error.add_note(f"In the worker process:\n{trace}")
    raise error


def _execute_remotely(
    found: Any, args: tuple[Any, ...], kwargs: dict[str, Any], position: CurrentCall
) -> tuple[bool | None, bytes, str]:
    """What a worker process does: the body, and the encoding of what it came to."""
    definition = found if isinstance(found, Definition) else Definition(found)
    REMOTE.set(position)
    try:
        return True, definition.codec.round_trip(definition.fn(*args, **kwargs))[0], ""
    except SystemExit as error:
        # It is raised where the task was awaited: here it would end a process that others use.
        return None, b"", str(error)
    except Exception as error:
        return False, failures.record(error).encode(), traceback.format_exc()
