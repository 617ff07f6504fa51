"""Readers of events: `Stream` for who runs a call, `Subscription` for who only watches a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import anyio
from msgspec import structs

from taskflow import failures
from taskflow.codec import decode_plain, decode_waits
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCancelledEvent,
    RunCompleted,
    RunFailed,
    RunPausedEvent,
    RunStarted,
    TaskCompleted,
    TaskFailedEvent,
)
from taskflow.executions import Execution
from taskflow.feeds import ENDS, Listener, event_of
from taskflow.records import RunRow, RunStatus
from taskflow.services import Service

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
            if event is not None:
                return event
            if execution.is_over(patient=self._patient):
                raise StopAsyncIteration
            await listener.wait()

    async def result(self) -> T:
        """Wait for the result. Raises what `Runtime.run` raises."""
        return await self._execution.wait(patient=self._patient)  # type: ignore[no-any-return]


class Subscription:
    """The events of a thread's latest run: those that are recorded, then those that happen.

    An asynchronous iterator, and a context manager that ends it. It ends by itself when the run
    has; where the thread has none it waits for one. Durable events come once, in the order of
    their numbers, whoever executes the run. What a reader was too slow for is read again from the
    store; `Dropped` tells how much of the rest is lost.
    """

    def __init__(
        self, service: Service, thread_id: str, run_id: str | None, after: int | None, buffer: int
    ) -> None:
        self._service = service
        self._thread_id = thread_id
        self._run_id = run_id
        self._after = after
        self._buffer = buffer
        self._told_pause: int | None = None  # the epoch of the run that was told to be paused
        self._heard_pause = False  # from the run itself, since then
        self._listener: Listener | None = None
        self._events: AsyncGenerator[Event] | None = None

    async def __aenter__(self) -> Subscription:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._events is not None:
            await self._events.aclose()
        self._end()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises StoreError."""
        try:
            return await anext(self._begin())
        except BaseException:
            self._end()
            raise

    def _begin(self) -> AsyncGenerator[Event]:
        if self._events is None:
            self._listener = self._service.feeds.listen(self._thread_id, self._buffer)
            self._events = self._read(self._listener)
        return self._events

    def _end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._service.feeds.leave(self._thread_id, listener)

    async def _read(self, listener: Listener) -> AsyncGenerator[Event]:
        row = await self._first_run(listener)
        self._run_id = row.run_id
        last = self._after or 0
        if self._after is None:
            yield _of_run(RunStarted, row, 0, row.created)
        while True:
            # What is recorded by now: also what others record, and what did not fit the buffer.
            row = await self._latest_row(row)
            async for event in self._recorded(row, last):
                last = event.number
                yield event
            end = _end_of(row, last)
            if end is not None:
                yield end
                return
            if row.status == RunStatus.PAUSED and row.epoch != self._told_pause:
                if not self._heard_pause:
                    yield _paused(row, last)
                self._told_pause = row.epoch
                self._heard_pause = False
            async for event in self._live(listener, last):
                if isinstance(event, ENDS):
                    # Others may have had the run, and recorded more than was seen here.
                    async for recorded in self._recorded(row, last):
                        last = recorded.number
                        yield recorded
                    yield structs.replace(event, number=last)
                    return
                last = event.number
                yield event
            if self._service.is_closing:
                return

    async def _first_run(self, listener: Listener) -> RunRow:
        while True:
            row = await self._service.store.run(self._thread_id, self._run_id)
            if row is not None:
                return row
            with anyio.move_on_after(self._service.settings.poll_interval):
                await listener.wait()
            listener.clear()

    async def _latest_row(self, row: RunRow) -> RunRow:
        return await self._service.store.run(self._thread_id, self._run_id) or row

    async def _recorded(self, row: RunRow, after: int) -> AsyncIterator[Event]:
        store = self._service.store
        while True:
            rows = await store.checkpoints(row.thread_id, row.run_id, after, PAGE)
            for each in rows:
                after = each.sequence
                event = event_of(
                    row.thread_id, row.run_id, each.checkpoint, each.sequence, row.workflow
                )
                if event is not None:
                    yield event
            if len(rows) < PAGE:
                return

    async def _live(self, listener: Listener, last: int) -> AsyncIterator[Event]:
        """What happens from now on, up to where the store has to be asked again."""
        while not self._service.is_closing:
            event = listener.take()
            if event is None:
                if not await self._something_happens(listener):
                    return
                continue
            if event.run_id != self._run_id or _is_repeat(event, last):
                continue
            if event.number < last:
                event = structs.replace(event, number=last)
            if isinstance(event, RunStarted):
                # Whoever had the run before may have recorded more than was seen.
                yield structs.replace(event, number=last)
                return
            last = event.number
            self._heard_pause = self._heard_pause or isinstance(event, RunPausedEvent)
            yield event
            if isinstance(event, Dropped):
                return

    async def _something_happens(self, listener: Listener) -> bool:
        """Wait for an event here, or, where others execute the run, for the next look."""
        if self._thread_id in self._service.executions:
            await listener.wait()
            return True
        with anyio.move_on_after(self._service.settings.poll_interval):
            await listener.wait()
            return True
        return False


def _is_repeat(event: Event, last: int) -> bool:
    if isinstance(event, TaskCompleted | TaskFailedEvent):
        return event.replayed or event.number <= last
    return isinstance(event, Emitted) and event.durable and event.number <= last


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
