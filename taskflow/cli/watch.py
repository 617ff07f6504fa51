"""The events of a thread's run on stdout, until the run has ended or the reader has gone."""

from __future__ import annotations

from typing import Final

import anyio

from taskflow.cli.database import opened
from taskflow.cli.events import EventLines
from taskflow.cli.hints import how_to_answer
from taskflow.cli.progress import say
from taskflow.errors import RunNotFound, TaskflowError
from taskflow.events import (
    RunCancelled as RunCancelledEvent,
)
from taskflow.events import (
    RunFailed,
)
from taskflow.events import (
    RunPaused as RunPausedEvent,
)
from taskflow.runtime import Runtime

__all__ = ("follow",)

LOOK_INTERVAL: Final = 0.2  # seconds
BROKEN_PIPE: Final = 128 + 13  # as if SIGPIPE had ended the process, which Python ignores


async def follow(thread_id: str, after: int | None, db: str, as_json: bool) -> int:
    """Write the events of a thread's run, and return the exit code.

    Raises UsageError where the file is unusable, and StoreError.
    """
    lines = EventLines(as_json=as_json)
    error: TaskflowError | None = None
    code = BROKEN_PIPE
    runtime = Runtime(db, poll_interval=LOOK_INTERVAL)
    async with opened(runtime), anyio.create_task_group() as group:

        async def leave_with_the_reader() -> None:
            while not lines.is_broken:  # noqa: ASYNC110 - a closed pipe can only be polled for
                await anyio.sleep(LOOK_INTERVAL)
            group.cancel_scope.cancel()

        group.start_soon(leave_with_the_reader)
        try:
            code = await _write(runtime, thread_id, after, lines, None if as_json else db)
        except BrokenPipeError:
            lines.abandon()
        except TaskflowError as failure:
            error = failure
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    return code


async def _write(
    runtime: Runtime, thread_id: str, after: int | None, lines: EventLines, db: str | None
) -> int:
    """Write events to ``lines``; if ``db`` is given, write how to answer waits to stderr."""
    try:
        await runtime.get(thread_id)
    except RunNotFound:
        say(f"Thread {thread_id!r} has no run yet: waiting for one.")
    code = 0
    async with runtime.subscribe(thread_id, after=after) as events:
        async for event in events:
            lines.put(event)
            if isinstance(event, RunPausedEvent) and db is not None:
                for line in how_to_answer(thread_id, event.waits, db):
                    say(f"  {line}")
            if isinstance(event, RunFailed | RunCancelledEvent):
                code = 1
    return code
