"""A run that the command line executes: watched while it does, and stopped by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from types import FrameType, TracebackType
from typing import Any, Final

import anyio
from msgspec import Struct

from taskflow.cli_inputs import UsageError
from taskflow.cli_progress import Display
from taskflow.errors import StoreError
from taskflow.records import Batch, Claimed, Committed, Progress, RunRecord
from taskflow.runtime import Runtime
from taskflow.stores.sqlite import SQLiteStore
from taskflow.workflows import Workflow, WorkflowCall

__all__ = ("DEFAULT_DB", "Job", "Outcome", "execute", "opened")

DEFAULT_DB: Final = "taskflow.db"
LOOK_INTERVAL: Final = 0.1  # seconds


class Job(Struct, frozen=True):
    """What is to be executed."""

    target: str  # module:workflow, as it was given
    workflow: Workflow[..., Any, Any]
    call: WorkflowCall[Any] | None  # None: what is recorded is continued
    thread_id: str
    db: str
    run_id: str | None = None
    supersede: bool = False
    wait: bool = False

    @property
    def title(self) -> str:
        """What names it in messages."""
        return f"{self.workflow.name} on thread {self.thread_id!r}"

    @property
    def how_to_go_on(self) -> str:
        """What is kept of it when it does not end, and the command line that continues it."""
        is_installed = os.path.basename(sys.argv[0]) != "cli.py"
        words = ["taskflow"] if is_installed else ["python", "-m", "taskflow.cli"]
        words += ["resume", self.target, "--thread", self.thread_id]
        if self.db != DEFAULT_DB or "TASKFLOW_DB" in os.environ:
            words += ["--db", self.db]
        return (
            f"What is done is kept in {self.db} and is not executed again. To execute the rest:\n"
            f"  {shlex.join(words)}"
        )


class Outcome(Struct):
    """What a job came to."""

    seconds: float
    began: bool  # it was executed here, or answered from its record; not turned down
    record: RunRecord | None = None
    progress: Progress | None = None  # None: nothing of it was executed here
    error: BaseException | None = None
    stopped_by: int | None = None  # the signal


async def execute(job: Job, display: Display) -> Outcome:
    """Execute a job until it ends or is stopped. Raises UsageError where its file is unusable."""
    store = _WatchedStore(job.db)
    runtime = Runtime(store, workflows=[job.workflow])
    begun = time.monotonic()
    outcome = Outcome(0.0, False)

    def look() -> Progress | None:
        outcome.progress = runtime.progress(job.thread_id) or outcome.progress
        return outcome.progress

    async def keep_looking() -> None:
        while True:
            display.update(look())
            await anyio.sleep(LOOK_INTERVAL)

    store.when_ending = look
    with _Stop(display, job.how_to_go_on) as stop, display:
        async with opened(runtime), anyio.create_task_group() as group:
            group.start_soon(keep_looking)
            with stop.scope:
                try:
                    await _run(job, runtime)
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    outcome.error = error
            if stop.scope.cancelled_caught or isinstance(outcome.error, KeyboardInterrupt):
                outcome.stopped_by = stop.signal or signal.SIGINT
                outcome.error = None
            if store.claimed is not None:
                outcome.began = True
                try:
                    outcome.record = await runtime.get(job.thread_id, store.claimed.row.run_id)
                except StoreError as error:
                    outcome.error = outcome.error or error
            group.cancel_scope.cancel()
    outcome.seconds = time.monotonic() - begun
    return outcome


@contextlib.asynccontextmanager
async def opened(runtime: Runtime) -> AsyncGenerator[Runtime]:
    """An open runtime. Raises UsageError where its file is unusable."""
    try:
        await runtime.open()
    except StoreError as error:
        raise UsageError(str(error)) from error
    try:
        yield runtime
    finally:
        await runtime.aclose()


async def _run(job: Job, runtime: Runtime) -> None:
    if job.call is None:
        await runtime.resume(job.thread_id, wait=job.wait)
        return
    await runtime.run(
        job.call,
        thread_id=job.thread_id,
        run_id=job.run_id,
        supersede=job.supersede,
        wait=job.wait,
    )


class _WatchedStore(SQLiteStore):
    """Tells what nobody is told who waits for a run: that it began, and when its end is written."""

    claimed: Claimed | None = None
    when_ending: Callable[[], object]

    async def commit(self, batch: Batch) -> Committed:
        if batch.finishes:
            self.when_ending()
        committed = await super().commit(batch)
        for answer in committed.claims:
            if isinstance(answer, Claimed):
                self.claimed = answer
        return committed


class _Stop:
    """Ctrl-C and SIGTERM: the first one cancels ``scope``, another one ends the process.

    Not asyncio's own handling of signals, which a body that blocks the event loop holds up.
    """

    def __init__(self, display: Display, farewell: str) -> None:
        self.scope = anyio.CancelScope()
        self.signal: int | None = None
        self._display = display
        self._farewell = farewell
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._display.abandon(self._farewell)
            os._exit(128 + number)  # every committed result is kept, as after kill -9
        self.signal = number
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._display.stop()
        self.scope.cancel()
