"""Recovery of runs whose process has died, or whose signal or time has come."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import anyio
from msgspec import Struct

from taskflow.calls.workflows import Workflow
from taskflow.cli.database import opened
from taskflow.cli.execution import LOOK_INTERVAL, WatchedStore
from taskflow.cli.hints import command_line
from taskflow.cli.progress import Display, counts, duration
from taskflow.cli.stop import Stop
from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.runs.progress import Progress
from taskflow.runtime import Runtime
from taskflow.stores.batches import Batch, Claimed, Committed, Finish
from taskflow.wire import failures

__all__ = ("Order", "recover_runs")

FAREWELL: Final = (
    "Completed calls are kept and are not executed again: the same command continues the rest."
)
UNKNOWN_INTERVAL: Final = 1.0  # seconds between looks for runs of other workflows
# Topics of the library's log records that `_Recovery` reports in its own words.
REPORTED_HERE: Final = ("failed run", "unknown workflow")
NOTHING: Final = Progress([], 0, 0, 0, 0)
WORDS: Final = {
    RunStatus.SUCCESS: "done",
    RunStatus.ERROR: "failed",
    RunStatus.PAUSED: "paused",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.RUNNING: "not ended",
}


class Order(Struct, frozen=True):
    """The runs to recover, and the limits."""

    workflows: Mapping[str, Workflow[..., Any, Any]]  # by module:workflow, as it was given
    db: str
    forever: bool
    max_concurrent_runs: int
    max_takeovers: int

    def how_to_resume(self, thread_id: str, workflow: str) -> str:
        """The command line that continues one run."""
        target = next(each for each, found in self.workflows.items() if found.name == workflow)
        return command_line("resume", [target], self.db, "--thread", thread_id)


async def recover_runs(order: Order, display: Display) -> int:
    """Continue runs until none is left, or without end if ``order.forever``.

    Returns the exit code. Raises UsageError where the file is unusable, and StoreError.
    """
    recovery = _Recovery(order, display)
    runtime = recovery.runtime
    error: StoreError | None = None
    with Stop(display, FAREWELL) as stop, display, _Log(display):
        async with opened(runtime), anyio.create_task_group() as group:
            group.start_soon(stop.drain, runtime)
            with stop.scope:
                try:
                    await recovery.look_until_done()
                except StoreError as failure:
                    error = failure
            group.cancel_scope.cancel()
    if error is not None:
        raise error
    recovery.report()
    if stop.signal is not None:
        return 128 + stop.signal
    return 1 if recovery.has_failures else 0


class _Recovery:
    """The runs that are continued here, and their outcomes."""

    def __init__(self, order: Order, display: Display) -> None:
        self._order = order
        self._display = display
        self._begun = time.monotonic()
        self._store = WatchedStore(order.db, self)
        self._names = sorted(each.name for each in order.workflows.values())
        self.runtime = Runtime(
            self._store,
            workflows=order.workflows.values(),
            recover=True,
            max_concurrent_runs=order.max_concurrent_runs,
            max_takeovers=order.max_takeovers,
        )
        self._executing: dict[int, Claimed] = {}  # by the run's number
        self._left: dict[int, str] = {}  # the status of runs that can still go on, by number
        self._over: Counter[str] = Counter()  # how many runs ended in each final status
        self._refused: set[str] = set()  # threads whose runs cannot be claimed
        self._last: dict[int, Progress] = {}  # of runs whose end is being written, by number
        self._ended = NOTHING  # the calls of runs that have ended or paused
        self._news: list[str] = []  # messages that are not printed yet
        self._unknown: set[str] = set()  # names of workflows that were not given
        self._next_look = 0.0

    @property
    def has_failures(self) -> bool:
        """Whether a run has failed, or could not be continued."""
        return self._over[RunStatus.ERROR] > 0 or bool(self._refused)

    async def look_until_done(self) -> None:
        """Show the progress until no run is left. Raises StoreError."""
        idle = 0
        while idle < 2:  # a second look sees what was committed during the first
            await anyio.sleep(LOOK_INTERVAL)
            await self._look_for_unknown()
            self._tell()
            is_idle = not self._order.forever and await self._is_idle()
            idle = idle + 1 if is_idle else 0
        self._tell()

    def report(self) -> None:
        """Print the summary."""
        self._tell()
        statuses = self._over + Counter(self._left.values())
        if not statuses:
            if not self._refused:
                self._display.say(
                    "Nothing to recover: no run is due, and no process has left one unfinished."
                )
            return
        parts = [f"{statuses[each]:,} {word}" for each, word in WORDS.items() if statuses[each]]
        took = duration(time.monotonic() - self._begun)
        self._display.say(
            f"Recovered: {_runs(statuses.total())} ({', '.join(parts)}), {counts(self._ended)}, "
            f"in {took}"
        )

    def ending(self, batch: Batch) -> None:
        for finish in batch.finishes:
            progress = self.runtime._progress(finish.key.thread_id)
            if finish.key.number in self._executing and progress is not None:
                self._last[finish.key.number] = progress

    def committed(self, batch: Batch, committed: Committed) -> None:
        for finish in batch.finishes:
            claimed = self._executing.pop(finish.key.number, None)
            if claimed is not None:
                progress = self._last.pop(finish.key.number, NOTHING)
                self._ended = _sum([self._ended, progress], executing=[])
                is_lost = (finish.key.number, finish.key.epoch) in committed.refused
                status = RunStatus.RUNNING if is_lost else finish.status
                if status in (RunStatus.PAUSED, RunStatus.RUNNING):
                    self._left[finish.key.number] = status
                else:
                    self._over[status] += 1
                if status == RunStatus.ERROR:
                    self._tell_failure(claimed, finish)
        for claim, answer in zip(batch.claims, committed.claims, strict=True):
            if isinstance(answer, Claimed):
                self._executing[answer.row.number] = answer
                self._left.pop(answer.row.number, None)
            elif isinstance(answer, StoreError) and claim.thread_id not in self._refused:
                self._refused.add(claim.thread_id)
                self._news.append(f"Cannot be continued: {answer}")

    def _tell_failure(self, claimed: Claimed, finish: Finish) -> None:
        row = claimed.row
        error = failures.describe(finish.error or b"{}")
        how = self._order.how_to_resume(row.thread_id, row.workflow)
        self._news.append(f"Failed: {row.workflow} on thread {row.thread_id!r}: {error}\n  {how}")

    async def _is_idle(self) -> bool:
        limit = len(self._refused) + 1
        rows = await self._store.recoverable(time.time(), self._names, limit)
        return not self._executing and {row.thread_id for row in rows} <= self._refused

    async def _look_for_unknown(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + UNKNOWN_INTERVAL
        for name in await self._store.unknown_workflows(time.time(), self._names):
            if name not in self._unknown:
                self._unknown.add(name)
                self._news.append(
                    f"Left alone: runs of {name!r}, a workflow that this command was not given"
                )

    def _tell(self) -> None:
        news, self._news = self._news, []
        for each in news:
            self._display.say(each)
        threads = [each.row.thread_id for each in self._executing.values()]
        now = [each for each in map(self.runtime._progress, threads) if each is not None]
        executing = [name for each in now for name in each.executing]
        progress = _sum([self._ended, *now], executing=executing)
        over = self._over.total() + len(self._left)
        note = f"{_runs(len(self._executing))} being continued, {over:,} ended or paused"
        self._display.update(progress, note)


class _Log:
    """Shows the library's warnings as messages, where the program has not set up logging.

    Warnings that `_Recovery` reports in its own words are left out.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._logger = logging.getLogger("taskflow")
        self._handler = logging.Handler(logging.WARNING)
        self._handler.emit = self._emit  # type: ignore[method-assign]

    def __enter__(self) -> _Log:
        if not self._logger.hasHandlers():
            self._logger.addHandler(self._handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._logger.removeHandler(self._handler)

    def _emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "topic", None) not in REPORTED_HERE:
            self._display.say(f"taskflow: {record.getMessage()}")


def _runs(count: int) -> str:
    return f"{count:,} {'run' if count == 1 else 'runs'}"


def _sum(parts: Sequence[Progress], *, executing: list[str]) -> Progress:
    return Progress(
        executing,
        sum(each.executed for each in parts),
        sum(each.replayed for each in parts),
        sum(each.failed for each in parts),
        sum(each.retried for each in parts),
    )
