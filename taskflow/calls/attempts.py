"""`attempt_all`: the attempts of one call, up to an outcome.

Only this module decides what is the outcome of a call, and not of its surroundings: a cancellation,
what ends the process, and what breaks the run off are no outcomes, and are raised.
"""

from __future__ import annotations

from contextvars import copy_context

from taskflow.calls.bodies import Attempted, execute_body
from taskflow.loops.cancellation import Uncancelled
from taskflow.retry import first_match, retry_after
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome
from taskflow.wire import failures

__all__ = ("Attempted", "attempt_all")

# Never recorded: they end the process, a generator, or the task; not the call.
UNRECORDED = (KeyboardInterrupt, SystemExit, GeneratorExit)


async def attempt_all(call: Attempted, parent: Frame[Run]) -> Outcome:
    """Execute a call as often as its policies say.

    Raises only what must not be recorded: a cancellation, what ends the process, and what breaks
    the run off.
    """
    definition = call.definition
    run = parent.run
    activity, scheduler = run.activity, run.scheduler
    codec = definition.codec  # an annotation that cannot be read is an error before the body
    is_task = not definition.is_workflow
    keeps = parent.keeps or bool(definition.policies)
    started = scheduler.clock.now()
    attempt = run.waiting.first_attempt(call.id) if run.waiting.attempts else 1
    while True:
        frame = call.body = Frame(
            run, call.digest, call.id, attempt, is_task, keeps, call.stake, parent.call_id
        )
        try:
            if is_task:
                if not scheduler.slots.try_take():
                    await activity.queue(call.id, scheduler.slots)
                frame.holds_slot = True
            if scheduler.is_draining and call.id is not None:
                await activity.hold(call, frame)
            _start(call, frame)
            try:
                if definition.is_bare:  # as most are: two coroutines less
                    context = copy_context()
                    context.run(FRAME.set, frame)
                    body = definition.fn(*call.args, **call.kwargs)
                    value = await scheduler.stepped(body, context)
                else:
                    value = await execute_body(call, frame)
            finally:
                frame.end()
                if frame.in_flight:
                    await activity.end_strays(frame)
                call.body = None  # or the frames of a fan-out live for as long as its calls
            if frame.is_cut_off or frame.interruption is not None:
                await _check_whole(call, frame, parent)
            payload, value = codec.round_trip(value)
            return Outcome(attempt, started, payload, value, interruption=frame.interruption)
        except UNRECORDED:
            raise
        except BaseException as error:
            if frame.is_cut_off or frame.interruption is not None:
                await _check_whole(call, frame, parent, has_failed=True)
            if run.broken is not None or run.unwinding or not isinstance(error, Exception):
                raise
            if isinstance(error, Uncancelled):
                error = error.original
            ended_by, given_up = _blamed(error, run.serial)
            delay = None if given_up else _delay_after(attempt, call, run, error)
            if delay is None:
                failure = failures.record(error, ended_by, given_up or bool(definition.policies))
                return Outcome.failed(attempt, started, failure, error)
            await _take_back(call, frame, delay, error, ended_by)
        await _back_off(call, run, delay)
        attempt += 1


def _start(call: Attempted, frame: Frame[Run]) -> None:
    """The body is about to execute."""
    run = frame.run
    if call.id is None:
        run.begin_attempt(frame.attempt)
    elif run.services.feeds.threads and (feed := run.feed) is not None:
        name = call.definition.name
        feed.task_started(run.run_id, call.id, frame.parent_id, name, frame.attempt)


async def _check_whole(
    call: Attempted, frame: Frame[Run], parent: Frame[Run], *, has_failed: bool = False
) -> None:
    """Raise the cancellation where the body was cancelled, and what it came to is no outcome.

    What it has returned is one, unless a call of its own was cut off.
    """
    if frame.interruption is not None and (has_failed or frame.is_cut_off or call.id is None):
        raise frame.interruption
    if frame.is_cut_off and call.id is not None:
        await parent.run.activity.check_open(parent)


def _blamed(error: BaseException, serial: int) -> tuple[tuple[str, ...], bool]:
    """The ids of the calls of that run whose failure led to ``error``; whether one gave up."""
    marks = list(failures.marks_in(error, serial))
    ids = dict.fromkeys(each for mark in marks for each in (mark.task_id, *mark.ended_by))
    return tuple(ids), any(mark.given_up for mark in marks)


def _delay_after(attempt: int, call: Attempted, run: Run, error: BaseException) -> float | None:
    """Seconds until the next attempt; None where there is none."""
    policies = call.definition.policies
    if not policies:
        return None
    policy = first_match(policies, error, f"{call.definition.name} on thread {run.thread_id!r}")
    if policy is None or attempt >= policy.max_attempts:
        return None
    return policy.drawn_delay_after(attempt, retry_after(error, run.scheduler.clock.now()))


async def _take_back(
    call: Attempted,
    frame: Frame[Run],
    delay: float,
    error: BaseException,
    ended_by: tuple[str, ...],
) -> None:
    """An attempt has failed, and another one follows: drop the failures that led to this one."""
    run = frame.run
    if (feed := run.feed) is not None:
        name, attempt = call.definition.name, frame.attempt
        feed.task_retrying(run.run_id, call.id, frame.parent_id, name, attempt, delay, error)
    if ended_by:
        await run.unrecord(ended_by)


async def _back_off(call: Attempted, run: Run, delay: float) -> None:
    run.activity.counts.retried += 1
    call.is_behind = True
    try:
        await run.activity.back_off(delay)
    finally:
        call.is_behind = False
