"""`Feeds`: the listeners of each thread, and the bounded buffers from which they read events.

Only this module decides which event tells of what happens, and what a slow reader misses: a full
buffer counts what it drops, and never holds up the run.
"""

from __future__ import annotations

from collections import deque
from typing import Any

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
from taskflow.loops.clocks import Clock
from taskflow.loops.promises import Promise, keep, new_promise
from taskflow.records import Wait
from taskflow.stores.kinds import EMIT, ERROR, RESULT
from taskflow.stores.rows import Checkpoint, Recorded, RunKey, RunRow
from taskflow.wire import failures
from taskflow.wire.json import decode_plain, encode_plain

__all__ = ("Feed", "Feeds", "Listener", "event_of")

ENDS = (RunCompleted, RunFailed, RunCancelledEvent)
MAX_BYTES = 4 * 1024 * 1024  # of JSON that are kept for a reader: ten times as much as objects


class Listener:
    """The buffer of one reader: a `Dropped` stands for the events that did not fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._sizes: deque[int] = deque()  # of each of them, in bytes of JSON
        self._size = 0
        self._dropped = 0
        self._first_dropped: Event | None = None
        self._end: Event | None = None  # the latest end of a run that did not fit
        self._number = 0  # of the latest event that was kept
        self._wake: Promise | None = None

    def put(self, event: Event, size: int = 0) -> None:
        """Keep ``event`` for the reader, if there is room; of ends, at least the latest.

        ``size`` is that of its payload, in bytes of JSON.
        """
        if len(self._events) < self._limit and self._size < MAX_BYTES:
            if self._first_dropped is not None or self._end is not None:
                self._put_marker()
            self._number = event.number
            self._events.append(event)
            self._sizes.append(size)
            self._size += size
        elif isinstance(event, ENDS):
            if self._end is not None:
                self._drop(self._end)
            self._end = event
        else:
            self._drop(event)
        if self._wake is not None:
            self.wake()

    def wake(self) -> None:
        """Have the reader look for events."""
        keep(self._wake)
        self._wake = None

    def take(self) -> Event | None:
        """The next event, if there is one."""
        if not self._events:
            self._put_marker()
        if not self._events:
            return None
        self._size -= self._sizes.popleft()
        return self._events.popleft()

    def clear(self) -> int:
        """Drop all events but the ends of runs, which are read from the store now; how many."""
        ends = [event for event in self._events if isinstance(event, ENDS)]
        count = len(self._events) - len(ends) + self._dropped
        self._events = deque(ends)
        self._sizes = deque(0 for _ in ends)
        self._size = 0
        self._dropped = 0
        self._first_dropped = None
        return count

    async def wait(self) -> None:
        """Wait until there may be an event to take."""
        if self._events or self._dropped or self._end:
            return
        self._wake = new_promise()
        try:
            await self._wake
        finally:
            self._wake = None

    def _keep(self, event: Event) -> None:
        self._number = event.number
        self._events.append(event)
        self._sizes.append(0)

    def _drop(self, event: Event) -> None:
        self._dropped += 1
        self._first_dropped = self._first_dropped or event

    def _put_marker(self) -> None:
        """Put a `Dropped` for the events that did not fit, now that there is room for it."""
        first, self._first_dropped = self._first_dropped, None
        if first is not None:
            place = first.thread_id, first.run_id, None, None, ""
            self._events.append(Dropped(self._number, first.time, *place, self._dropped))
            self._sizes.append(0)
            self._dropped = 0
        end, self._end = self._end, None
        if end is not None:
            self._keep(end)


class Feed:
    """The listeners of one thread; events without a number of their own repeat the latest one."""

    __slots__ = ("clock", "listeners", "number", "thread_id")

    def __init__(self, thread_id: str, clock: Clock) -> None:
        self.thread_id = thread_id
        self.clock = clock
        self.listeners: list[Listener] = []
        self.number = 0

    def publish(self, event: Event, size: int = 0) -> None:
        """Give ``event`` to all listeners; ``size`` is that of its payload, in bytes of JSON."""
        for listener in self.listeners:
            listener.put(event, size)

    def run_started(self, row: RunRow) -> None:
        head = (self.number, row.started, self.thread_id, row.run_id, None, None, row.workflow)
        self.publish(RunStarted(*head))

    def task_started(
        self, run_id: str, task_id: str, parent_id: str | None, name: str, attempt: int
    ) -> None:
        now = self.clock.now()
        event = TaskStarted(
            self.number, now, self.thread_id, run_id, task_id, parent_id, name, attempt
        )
        for listener in self.listeners:
            listener.put(event)

    def task_retrying(
        self,
        run_id: str,
        task_id: str | None,
        parent_id: str | None,
        name: str,
        attempt: int,
        delay: float,
        error: BaseException,
    ) -> None:
        text = failures.describe(failures.record(error).encode())
        head = self._head(run_id, task_id, parent_id, name)
        self.publish(TaskRetrying(*head, attempt, delay, text), len(text))

    def replayed(self, run_id: str, row: Recorded) -> None:
        """Tell that a call was answered from its record."""
        if row.sequence < 2**62:  # else it was recorded in this execution, and told
            self.number = max(self.number, row.sequence)
        name = row.task_id.rpartition(":")[0]
        head = (
            self.number,
            self.clock.now(),
            self.thread_id,
            run_id,
            row.task_id,
            row.parent_id,
            name,
        )
        if row.kind == RESULT:
            self.publish(TaskCompleted(*head, True, 0, 0.0))
        elif row.kind == ERROR:
            text = failures.describe(row.payload)
            self.publish(TaskFailedEvent(*head, True, 0, 0.0, text), len(text))

    def committed(self, key: RunKey, checkpoint: Checkpoint, sequence: int) -> None:
        """Tell of a row of this thread, which is durable from now on."""
        event = event_of(self.thread_id, key.run_id, checkpoint, sequence, key.workflow)
        if event is not None:
            self.number = max(self.number, sequence)
            self.publish(event, 0 if checkpoint.kind == RESULT else len(checkpoint.payload))

    def item(
        self, run_id: str, task_id: str | None, parent_id: str | None, name: str, value: Any
    ) -> None:
        """Tell of ``value``, which an async generator has yielded."""
        try:
            payload = encode_plain(value)
            plain = decode_plain(payload)
        except Exception:  # the call fails at it when its items are recorded
            return
        head = self._head(run_id, task_id, parent_id, name)
        self.publish(Emitted(*head, plain, False), len(payload))

    def waiting(self, run_id: str, parent_id: str | None, name: str, wait: Wait) -> None:
        size = 0 if wait.prompt is None else len(encode_plain(wait.prompt))
        self.publish(Waiting(*self._head(run_id, wait.task_id, parent_id, name), wait), size)

    def run_completed(self, run_id: str, workflow: str, result: bytes) -> None:
        head = self._head(run_id, None, None, workflow)
        self.publish(RunCompleted(*head, decode_plain(result)))

    def run_failed(self, run_id: str, workflow: str, error: str) -> None:
        self.publish(RunFailed(*self._head(run_id, None, None, workflow), error))

    def run_paused(self, run_id: str, workflow: str, waits: list[Wait]) -> None:
        self.publish(RunPausedEvent(*self._head(run_id, None, None, workflow), waits))

    def run_cancelled(self, run_id: str, workflow: str, final: bool) -> None:
        self.publish(RunCancelledEvent(*self._head(run_id, None, None, workflow), final))

    def _head(
        self, run_id: str, task_id: str | None, parent_id: str | None, name: str
    ) -> tuple[int, float, str, str, str | None, str | None, str]:
        now = self.clock.now()
        return self.number, now, self.thread_id, run_id, task_id, parent_id, name


class Feeds:
    """The feeds of a runtime, for those threads that have listeners, by the thread's id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.threads: dict[str, Feed] = {}

    def listen(self, thread_id: str, limit: int) -> Listener:
        """A new listener to a thread, until `leave`."""
        listener = Listener(limit)
        self.join(thread_id, listener)
        return listener

    def join(self, thread_id: str, listener: Listener) -> None:
        """Give ``listener`` the events of a thread, until `leave`."""
        feed = self.threads.get(thread_id)
        if feed is None:
            feed = self.threads[thread_id] = Feed(thread_id, self._clock)
        feed.listeners.append(listener)

    def leave(self, thread_id: str, listener: Listener) -> None:
        """Give ``listener`` no more events of a thread."""
        feed = self.threads[thread_id]
        feed.listeners.remove(listener)
        if not feed.listeners:
            del self.threads[thread_id]

    def wake(self, thread_id: str) -> None:
        """Have the readers of a thread look for events."""
        if (feed := self.threads.get(thread_id)) is not None:
            for listener in feed.listeners:
                listener.wake()

    def wake_all(self) -> None:
        """Have every reader look: the runtime closes."""
        for thread_id in self.threads:
            self.wake(thread_id)


def event_of(
    thread_id: str, run_id: str, row: Checkpoint, sequence: int, workflow: str
) -> Event | None:
    """The durable event that a row stands for; ``None`` for deadlines and signals."""
    if row.kind == RESULT:  # as nearly all; without a tuple in between it takes half the time
        return TaskCompleted(
            sequence,
            row.finished,
            thread_id,
            run_id,
            row.task_id,
            row.parent_id,
            row.name,
            False,
            row.attempts,
            max(0.0, row.finished - row.started),
        )
    if row.kind == EMIT:
        parent_id = row.parent_id
        name = workflow if parent_id is None else parent_id.rpartition(":")[0]
        # Who made the call that emits it stands where others have their arguments.
        maker = None if row.arguments is None else decode_plain(row.arguments.encode())
        value = decode_plain(row.payload)
        return Emitted(sequence, row.finished, thread_id, run_id, parent_id, maker, name, value)
    if row.kind == ERROR:
        head = (sequence, row.finished, thread_id, run_id, row.task_id, row.parent_id, row.name)
        duration = max(0.0, row.finished - row.started)
        error = failures.describe(row.payload)
        return TaskFailedEvent(*head, False, row.attempts, duration, error)
    return None
