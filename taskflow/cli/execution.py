"""A run that the command line executes, shows while it executes, and stops at a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import anyio
from msgspec import Struct, structs

from taskflow.calls.workflows import Workflow, WorkflowCall
from taskflow.cli.database import opened
from taskflow.cli.hints import command_line, how_to_answer, in_short
from taskflow.cli.progress import Display
from taskflow.cli.stop import Stop
from taskflow.errors import RunPaused, RunUnfinished, StoreError
from taskflow.records import RunRecord, RunStatus, Wait
from taskflow.runs.progress import Progress
from taskflow.runtime import Runtime
from taskflow.stores.batches import Batch, Claimed, Committed
from taskflow.stores.sqlite import SQLiteStore
from taskflow.wire.pauses import decode_waits

__all__ = ("LOOK_INTERVAL", "Job", "Outcome", "WatchedStore", "execute")

LOOK_INTERVAL: Final = 0.1  # seconds


class Job(Struct, frozen=True):
    """One run to execute, as the command line asked for it."""

    target: str  # module:workflow, as it was given
    workflow: Workflow[..., Any, Any]
    call: WorkflowCall[Any] | None  # None: continue the recorded run
    thread_id: str
    db: str
    run_id: str | None = None
    fresh: bool = False
    supersede: bool = False
    wait: bool = False

    @property
    def title(self) -> str:
        """The job's name in messages."""
        return f"{self.workflow.name} on thread {self.thread_id!r}"

    @property
    def command(self) -> str:
        """The command line that continues the run."""
        return command_line("resume", [self.target], self.db, "--thread", self.thread_id)

    @property
    def how_to_go_on(self) -> str:
        """The advice for a run that has not ended: its results are kept, and how to continue it."""
        return (
            f"Completed calls are kept in {self.db} and are not executed again. To execute the "
            f"rest:\n  {self.command}"
        )


class Outcome(Struct):
    """The outcome of a job."""

    seconds: float
    began: bool  # the run was executed here, or answered from its record; it was not refused
    record: RunRecord | None = None
    progress: Progress | None = None  # None: no call of it was executed here
    error: BaseException | None = None
    waits: Sequence[Wait] | None = None  # the open waits, if it is paused
    stopped_by: int | None = None  # the signal's number


async def execute(job: Job, display: Display) -> Outcome:
    """Execute a job until it ends, pauses or is stopped.

    Raises UsageError where its file is unusable.
    """
    outcome = Outcome(0.0, False)
    rounds = _Rounds(job, outcome)
    runtime = rounds.runtime
    begun = time.monotonic()

    async def keep_looking() -> None:
        shown: set[str] = set()
        while True:
            # Without --wait, a run that waits for an answer is reported at the end.
            is_timed = all(each.kind == "timer" for each in rounds.waits)
            waits = rounds.waits if job.wait or is_timed else []
            news = [each for each in waits if each.task_id not in shown]
            shown.update(each.task_id for each in news)
            for line in how_to_answer(job.thread_id, news, job.db):
                display.say(line)
            note = f"paused, waits for {in_short(waits)}" if waits else ""
            display.update(rounds.look(), note)
            await anyio.sleep(LOOK_INTERVAL)

    with Stop(display, job.how_to_go_on) as stop, display:
        async with opened(runtime), anyio.create_task_group() as group:
            group.start_soon(keep_looking)
            group.start_soon(stop.drain, runtime)
            with stop.scope:
                try:
                    await _run(job, runtime)
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    outcome.error = error
            if rounds.claimed is not None:
                outcome.began = True
                try:
                    outcome.record = await runtime.get(job.thread_id, rounds.claimed.row.run_id)
                except StoreError as error:
                    outcome.error = outcome.error or error
            _settle(outcome, stop)
            group.cancel_scope.cancel()
    outcome.seconds = time.monotonic() - begun
    return outcome


def _settle(outcome: Outcome, stop: Stop) -> None:
    """Turn the errors of a stopped or paused run into ``stopped_by`` and ``waits``."""
    error, record = outcome.error, outcome.record
    has_ended = record is not None and record.status == RunStatus.SUCCESS
    was_drained = stop.signal is not None and isinstance(error, RunUnfinished | RunPaused)
    if isinstance(error, KeyboardInterrupt) or was_drained or stop.scope.cancelled_caught:
        outcome.error = None
        outcome.stopped_by = None if has_ended else stop.signal or signal.SIGINT
    elif isinstance(error, RunPaused):
        outcome.error = None
        outcome.waits = error.waits
    if outcome.stopped_by is not None and record is not None and record.waits:
        outcome.waits = record.waits


async def _run(job: Job, runtime: Runtime) -> None:
    if job.call is None:
        await runtime.resume(job.thread_id, run_id=job.run_id, wait=job.wait)
        return
    await runtime.run(
        job.call,
        thread_id=job.thread_id,
        run_id=job.run_id,
        fresh=job.fresh,
        supersede=job.supersede,
        wait=job.wait,
    )


class Watcher(Protocol):
    """Receives the commits of a `WatchedStore`."""

    def ending(self, batch: Batch) -> None:
        """Called before runs are recorded as ended, paused or released."""

    def committed(self, batch: Batch, committed: Committed) -> None:
        """Called when ``batch`` is written, but for its refused rows."""


class WatchedStore(SQLiteStore):
    """A store that reports its commits: when a run is claimed, and when its end is written."""

    def __init__(self, path: str, watcher: Watcher) -> None:
        super().__init__(path)
        self._watcher = watcher

    async def commit(self, batch: Batch) -> Committed:
        if batch.finishes:
            self._watcher.ending(batch)
        committed = await super().commit(batch)
        self._watcher.committed(batch, committed)
        return committed


class _Rounds:
    """The executions of a job, one after each pause, and the sum of their progress."""

    def __init__(self, job: Job, outcome: Outcome) -> None:
        self.runtime = Runtime(WatchedStore(job.db, self), workflows=[job.workflow])
        self.claimed: Claimed | None = None
        self.waits: list[Wait] = []  # while it is paused
        self._thread_id = job.thread_id
        self._outcome = outcome
        self._earlier: Progress | None = None

    def look(self) -> Progress | None:
        """The progress until now."""
        progress = self.runtime._progress(self._thread_id)
        outcome, earlier = self._outcome, self._earlier
        if progress is None:
            if outcome.progress is not None:
                outcome.progress = structs.replace(outcome.progress, executing=[])
        elif earlier is None:
            outcome.progress = progress
        else:
            outcome.progress = Progress(
                progress.executing,
                earlier.executed + progress.executed,
                earlier.replayed,  # later replays include the calls executed before the pause
                earlier.failed + progress.failed,
                earlier.retried + progress.retried,
            )
        return outcome.progress

    def ending(self, batch: Batch) -> None:
        self.look()

    def committed(self, batch: Batch, committed: Committed) -> None:
        for answer in committed.claims:
            if isinstance(answer, Claimed):
                self.claimed = answer
                self.waits = []
                self._earlier = self._outcome.progress
        for finish in batch.finishes:
            if finish.status == RunStatus.PAUSED:
                self.waits = decode_waits(finish.waits)
