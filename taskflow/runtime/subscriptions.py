"""Readers of events: `Stream` for the caller of a run, `Subscription` to watch a thread."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Generic, TypeVar

import anyio
from msgspec import structs

from taskflow.events import Dropped, Event
from taskflow.runs.feeds import Listener
from taskflow.runtime.executions import Execution
from taskflow.runtime.services import Service
from taskflow.runtime.transcripts import Transcript

__all__ = ("Stream", "Subscription")

T = TypeVar("T")

PAGE: Final = 1000  # recorded rows in one look


class Stream(Generic[T]):
    """The events of a run that is executed for this reader, as they happen.

    An asynchronous iterator that ends when the run has ended or, without ``wait``, has paused.
    Leaving the block earlier cancels the run if nobody else waits for it.
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
                if execution.waiters.is_over(patient=self._patient):
                    raise StopAsyncIteration
                await listener.wait()
            elif event.run_id == execution.run_id:
                return event

    async def result(self) -> T:
        """Wait for the result. Raises what `Runtime.run` raises."""
        return await self._execution.waiters.wait(patient=self._patient)  # type: ignore[no-any-return]


class Subscription:
    """The events of a thread's latest run: those that are recorded, then those that happen.

    An asynchronous iterator, and a context manager that ends it. It ends by itself when the run
    has; where the thread has none it waits for one. Durable events come once, in the order of
    their numbers, whichever process executes the run. Durable events that a slow reader has missed
    are read again from the store; `Dropped` tells how many events were not kept.
    """

    def __init__(
        self, service: Service, thread_id: str, run_id: str | None, after: int | None, buffer: int
    ) -> None:
        self._service = service
        self._thread_id = thread_id
        self._buffer = buffer
        self._listener: Listener | None = None
        self._transcript = Transcript(run_id, after)
        self._looks = True  # at the store, before it takes the next event
        self._waited = 0  # times in vain
        self._is_over = False

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
        listener = self._listener or self._listen()
        transcript = self._transcript
        while not transcript.pending:
            if self._is_over or transcript.is_over or self._service.is_closing:
                self._is_over = True
                self._leave()
                raise StopAsyncIteration
            if self._looks:
                await self._look(listener)
            elif (event := listener.take()) is not None:
                self._hear(event, listener)
            else:
                transcript.heard_all()
                await self._wait(listener)
        return transcript.pending.popleft()

    def _listen(self) -> Listener:
        if self._listener is None:
            listener = self._service.feeds.listen(self._thread_id, self._buffer)
            if self._is_over:
                self._service.feeds.leave(self._thread_id, listener)
                return listener
            self._listener = listener
            self._transcript.listen(self._service.clock.now())
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
        """Read what is recorded by now. A cancelled look has changed nothing."""
        store, transcript = self._service.store, self._transcript
        run = await store.run(self._thread_id, transcript.run_id)
        if run is None:
            if transcript.has_begun:  # it was deleted
                self._is_over = True
            else:
                await self._wait(listener)
                self._looks = True
            return
        rows = await store.checkpoints(run.thread_id, run.run_id, transcript.read, PAGE)
        transcript.add_rows(run, rows)
        if len(rows) < PAGE:
            self._looks = False
            transcript.catch_up(run)

    def _hear(self, event: Event, listener: Listener) -> None:
        if not self._transcript.is_news(event):
            return
        if isinstance(event, Dropped):
            # The events that are left would come after the rows that are read now.
            event = structs.replace(event, count=event.count + listener.clear())
        self._looks = self._transcript.hear(event)
