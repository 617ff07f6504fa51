"""Readers of events: `Stream` for who runs a call, `Subscription` for who only watches a thread."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import anyio
from msgspec import structs

from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskRetrying,
    TaskStarted,
    Waiting,
)
from taskflow.events import (
    RunCancelled as RunCancelledEvent,
)
from taskflow.events import (
    RunPaused as RunPausedEvent,
)
from taskflow.events import (
    TaskFailed as TaskFailedEvent,
)
from taskflow.records import RunStatus, Wait
from taskflow.runs.feeds import Listener, event_of
from taskflow.runtime.executions import Execution
from taskflow.runtime.services import Service
from taskflow.stores.rows import RunRow
from taskflow.wire import failures
from taskflow.wire.codec import decode_plain, decode_waits

__all__ = ("Stream", "Subscription")

T = TypeVar("T")

PAGE: Final = 1000  # recorded rows in one look


class Stream(Generic[T]):
    """The events of a run that is executed for this reader, as they happen.

    An asynchronous iterator that ends when the run has ended, or, for one who is not to wait, has
    paused. Leaving the block earlier is a waiter that went away.
    """

    def __init__(
        self, service: Service, execution: Execution, listener: Listener, patient: bool
    ) -> None:
        self._service = service
        self._execution = execution
        self._listener = listener
        self._patient = patient

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> Event:
        """The next event."""
        listener, execution = self._listener, self._execution
        while True:
            event = listener.take()
            if event is None:
                if execution.is_over(patient=self._patient):
                    raise StopAsyncIteration
                await listener.wait()
            elif event.run_id == execution.run_id:
                return event

    async def result(self) -> T:
        """Wait for the result. Raises what `Runtime.run` raises."""
        return await self._execution.wait(patient=self._patient)  # type: ignore[no-any-return]


class Subscription:
    """The events of a thread's latest run: those that are recorded, then those that happen.

    An asynchronous iterator, and a context manager that ends it. It ends by itself when the run
    has; where the thread has none it waits for one. Durable events come once, in the order of
    their numbers, whoever executes the run. What a reader was too slow for is read again from the
    store; `Dropped` tells how many events did not wait for it.
    """

    def __init__(
        self, service: Service, thread_id: str, run_id: str | None, after: int | None, buffer: int
    ) -> None:
        self._service = service
        self._thread_id = thread_id
        self._run_id = run_id
        self._is_new = after is None  # and is told that the run has begun
        self._buffer = buffer
        self._listener: Listener | None = None
        self._since = 0.0  # when it began to listen
        self._row: RunRow | None = None
        self._last = self._read = after or 0  # the numbers that were told, and read
        self._pending: deque[Event] = deque()  # to be told before anything else
        self._looks = True  # at the store, before it listens on
        self._waited = 0  # how often in vain
        self._told: set[str] = set()  # calls that the latest looks have told to have ended
        self._end: Event | None = None  # that came from the run itself
        self._is_over = False
        self._told_pause: int | None = None  # the epoch of the run that was told to be paused
        self._heard_pause: list[Wait] | None = None  # from the run itself, since then

    async def __aenter__(self) -> Subscription:
        self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._leave()

    def __del__(self) -> None:
        self._leave()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises StoreError."""
        listener = self._listen()
        while not self._pending:
            if self._is_over or self._service.is_closing:
                self._is_over = True
                self._leave()
                raise StopAsyncIteration
            if self._looks:
                await self._look(listener)
            elif (event := listener.take()) is not None:
                self._hear(event, listener)
            else:
                self._told.clear()
                await self._wait(listener)
        event = self._pending.popleft()
        if event.number < self._last:
            event = structs.replace(event, number=self._last)
        self._last = event.number
        return event

    def _listen(self) -> Listener:
        if self._listener is None:
            listener = self._service.feeds.listen(self._thread_id, self._buffer)
            if self._is_over:
                self._service.feeds.leave(self._thread_id, listener)
                return listener
            self._listener = listener
            self._since = self._service.clock.now()
        return self._listener

    def _leave(self) -> None:
        listener, self._listener = getattr(self, "_listener", None), None
        if listener is not None:
            self._service.feeds.leave(self._thread_id, listener)

    async def _wait(self, listener: Listener) -> None:
        """Wait for an event here; others may execute the run, so look again after a while."""
        interval = self._service.settings.poll_interval
        with anyio.move_on_after(self._service.clock.pause(interval, self._waited + 1)):
            await listener.wait()
            self._waited = 0
            return
        self._waited += 1
        self._looks = True

    async def _look(self, listener: Listener) -> None:
        """Read what is recorded by now. A cancelled one has changed nothing."""
        store = self._service.store
        row = await store.run(self._thread_id, self._run_id)
        if row is None:
            if self._row is not None:  # it was deleted
                self._is_over = True
            else:
                await self._wait(listener)
                self._looks = True
            return
        rows = await store.checkpoints(row.thread_id, row.run_id, self._read, PAGE)
        if self._row is None and self._is_new:
            self._pending.append(_of_run(RunStarted, row, 0, row.created))
        self._row = row
        self._run_id = row.run_id
        for each in rows:
            each.verified(row.thread_id)
            self._read = each.sequence
            event = event_of(
                row.thread_id, row.run_id, each.checkpoint, each.sequence, row.workflow
            )
            if event is not None:
                self._pending.append(event)
                self._told.add(each.checkpoint.task_id)
        if len(rows) < PAGE:
            self._looks = False
            self._catch_up(row)

    def _catch_up(self, row: RunRow) -> None:
        """Tell how the run stands, after everything that is recorded of it."""
        number = self._pending[-1].number if self._pending else self._last
        end = _end_of(row, number) or self._end
        if end is not None:
            self._pending.append(end)
            self._is_over = True
        elif row.status == RunStatus.PAUSED and row.epoch != self._told_pause:
            if decode_waits(row.waits) != self._heard_pause:
                self._pending.append(_paused(row, number))
            self._told_pause = row.epoch
            self._heard_pause = None

    def _hear(self, event: Event, listener: Listener) -> None:
        """Pass on what has happened, unless it was told before."""
        if event.run_id != self._run_id or self._is_repeat(event):
            return
        if isinstance(event, Dropped):
            # What is left would be told after what is read now.
            event = structs.replace(event, count=event.count + listener.clear())
            self._looks = True
        elif isinstance(event, RunStarted):
            # Whoever had the run before may have recorded more than was seen.
            self._looks = True
        elif isinstance(event, RunCompleted | RunFailed) or (
            isinstance(event, RunCancelledEvent) and event.final
        ):
            self._end = event
            self._looks = True
            return
        elif isinstance(event, RunPausedEvent):
            self._heard_pause = event.waits
        elif _is_durable(event):
            self._read = event.number
        self._pending.append(event)

    def _is_repeat(self, event: Event) -> bool:
        if isinstance(event, TaskCompleted | TaskFailedEvent):
            return event.replayed or event.number <= self._read
        if isinstance(event, TaskStarted | TaskRetrying | Waiting):
            return event.task_id in self._told
        if isinstance(event, RunStarted):
            is_told = self._is_new or event.time < self._since
            return is_told and self._row is not None and event.time == self._row.started
        return isinstance(event, Emitted) and event.durable and event.number <= self._read


def _is_durable(event: Event) -> bool:
    return isinstance(event, TaskCompleted | TaskFailedEvent) or (
        isinstance(event, Emitted) and event.durable
    )


def _of_run(kind: type[Any], row: RunRow, number: int, time: float, *more: Any) -> Any:
    return kind(number, time, row.thread_id, row.run_id, None, None, row.workflow, *more)


def _paused(row: RunRow, number: int) -> Event:
    waits = decode_waits(row.waits)
    event: Event = _of_run(RunPausedEvent, row, number, row.finished or row.started, waits)
    return event


def _end_of(row: RunRow, number: int) -> Event | None:
    """The event that a run has ended with, if it has."""
    time = row.finished or row.started
    event: Event | None = None
    if row.status == RunStatus.SUCCESS:
        event = _of_run(RunCompleted, row, number, time, decode_plain(row.result or b"null"))
    elif row.status == RunStatus.ERROR:
        error = failures.describe(row.error or b"{}")
        event = _of_run(RunFailed, row, number, time, error)
    elif row.status == RunStatus.CANCELLED:
        event = _of_run(RunCancelledEvent, row, number, time, True)
    return event
