"""`Transcript`: the events of one run for one reader, each durable one once and in order.

Recorded rows and events that are heard while the run executes overlap: what is recorded may have
been heard before it is read, and the other way round. Only this module decides what is a repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunStarted,
    TaskCompleted,
    TaskFailed,
    TaskRetrying,
    TaskStarted,
    Waiting,
)
from taskflow.records import RunStatus, Wait
from taskflow.runs.feeds import event_of
from taskflow.stores.rows import CheckpointRow, RunRow
from taskflow.wire import failures
from taskflow.wire.json import decode_plain
from taskflow.wire.pauses import decode_waits

__all__ = ("Transcript",)


class Transcript:
    """Merges the recorded rows of a run with its events into `pending`, what is to be told next.

    ``run_id``: None until the run is known. ``after``: the number of the latest event that the
    reader has; None for a new reader, which is told that the run has begun.
    """

    def __init__(self, run_id: str | None, after: int | None) -> None:
        self.run_id = run_id
        self.pending: deque[Event] = deque()
        self.read = after or 0  # the number of the latest durable row or event
        self.is_over = False
        self._number = after or 0  # of the latest event in `pending`: they never decrease
        self._is_new = after is None
        self._since = 0.0  # when the reader began to listen
        self._row: RunRow | None = None
        self._ended_calls: set[str] = set()  # that the latest rows have told
        self._end: Event | None = None  # of the run, as it was heard
        self._paused_epoch: int | None = None  # of the run when the reader was told of its pause
        self._heard_waits: list[Wait] | None = None  # of a pause that was heard since then

    @property
    def has_begun(self) -> bool:
        """Whether the run was found in the store."""
        return self._row is not None

    def listen(self, now: float) -> None:
        """The reader hears events from now on."""
        self._since = now

    def add_rows(self, run: RunRow, rows: Sequence[CheckpointRow]) -> None:
        """Tell the recorded rows after `read`."""
        if self._row is None and self._is_new:
            self._tell(_of_run(RunStarted, run, 0, run.created))
        self._row = run
        self.run_id = run.run_id
        for each in rows:
            each.verified(run.thread_id)
            self.read = each.sequence
            event = event_of(
                run.thread_id, run.run_id, each.checkpoint, each.sequence, run.workflow
            )
            if event is not None:
                self._tell(event)
                self._ended_calls.add(each.checkpoint.task_id)

    def catch_up(self, run: RunRow) -> None:
        """Tell the status of the run, after every row that is recorded of it."""
        end = _end_of(run, self._number) or self._end
        if end is not None:
            self._tell(end)
            self.is_over = True
        elif run.status == RunStatus.PAUSED and run.epoch != self._paused_epoch:
            waits = decode_waits(run.waits)
            if waits != self._heard_waits:
                time = run.finished or run.started
                self._tell(_of_run(RunPaused, run, self._number, time, waits))
            self._paused_epoch = run.epoch
            self._heard_waits = None

    def is_news(self, event: Event) -> bool:
        """Whether an event that was heard is of this run, and was not told before."""
        return event.run_id == self.run_id and not self._is_repeat(event)

    def hear(self, event: Event) -> bool:
        """Tell an event that is news, or keep it; whether rows have to be read before the next."""
        is_end = isinstance(event, RunCompleted | RunFailed) or (
            isinstance(event, RunCancelled) and event.final
        )
        if is_end:
            self._end = event
            return True
        if isinstance(event, RunPaused):
            self._heard_waits = event.waits
        elif _is_durable(event):
            self.read = event.number
        self._tell(event)
        # The owner before this one may have recorded more than was heard, as well.
        return isinstance(event, Dropped | RunStarted)

    def heard_all(self) -> None:
        """No event is left that was heard before the latest rows were read."""
        self._ended_calls.clear()

    def _tell(self, event: Event) -> None:
        if event.number < self._number:
            event = structs.replace(event, number=self._number)
        self._number = event.number
        self.pending.append(event)

    def _is_repeat(self, event: Event) -> bool:
        if isinstance(event, TaskCompleted | TaskFailed):
            return event.replayed or event.number <= self.read
        if isinstance(event, TaskStarted | TaskRetrying | Waiting):
            return event.task_id in self._ended_calls
        if isinstance(event, RunStarted):
            is_told = self._is_new or event.time < self._since
            return is_told and self._row is not None and event.time == self._row.started
        return isinstance(event, Emitted) and event.durable and event.number <= self.read


def _is_durable(event: Event) -> bool:
    return isinstance(event, TaskCompleted | TaskFailed) or (
        isinstance(event, Emitted) and event.durable
    )


def _of_run(kind: type[Any], run: RunRow, number: int, time: float, *more: Any) -> Any:
    return kind(number, time, run.thread_id, run.run_id, None, None, run.workflow, *more)


def _end_of(run: RunRow, number: int) -> Event | None:
    """The event that the run has ended with; None for one that has not ended."""
    time = run.finished or run.started
    event: Event | None = None
    if run.status == RunStatus.SUCCESS:
        event = _of_run(RunCompleted, run, number, time, decode_plain(run.result or b"null"))
    elif run.status == RunStatus.ERROR:
        error = failures.describe(run.error or b"{}")
        event = _of_run(RunFailed, run, number, time, error)
    elif run.status == RunStatus.CANCELLED:
        event = _of_run(RunCancelled, run, number, time, True)
    return event
