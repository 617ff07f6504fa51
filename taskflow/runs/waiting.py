"""`Waiting`: the open waits of a run, their deadlines, and when the run is idle.

Only this module decides that a run is to be paused: some call waits for a signal or a time, no body
executes, none of the run's calls has started, executed or ended for `IDLE_AFTER`, and no deadline
is so near that unwinding the run would take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from taskflow.loops.clocks import Alarm
from taskflow.loops.scheduler import Scheduler
from taskflow.records import Wait
from taskflow.runs.activity import Activity
from taskflow.runs.feeds import Feeds
from taskflow.runs.signals import Signals
from taskflow.runs.writes import Writes
from taskflow.stores.kinds import WAIT, wait_id
from taskflow.stores.rows import Recorded
from taskflow.wire.json import decode_plain, encode_plain
from taskflow.wire.pauses import decode_attempts, decode_waits

__all__ = ("Waiting",)

IDLE_AFTER: Final = 0.1  # seconds in which no call has started, executed or ended
SHORT_WAIT: Final = 1.0  # seconds: what ends so soon is not worth unwinding the run


class Deadline(Struct, frozen=True):
    """What is recorded of a wait before it is over."""

    deadline: float  # seconds since 1970


class Waiting:
    """The waits of one run: those that are open, and those that it was paused with."""

    __slots__ = (
        "_activity",
        "_clock",
        "_deadlines",
        "_feeds",
        "_idle_check",
        "_last_look",
        "_signals",
        "_timers",
        "_writes",
        "attempts",
        "pause",
        "pause_before",
        "since",
        "waits",
    )

    def __init__(
        self,
        pause_before: bytes | None,
        activity: Activity,
        signals: Signals,
        writes: Writes,
        feeds: Feeds,
        scheduler: Scheduler,
    ) -> None:
        self.waits: dict[str, Wait] = {}  # that are open, by the id of their call
        self.pause: Callable[[], None] | None = None  # None: the run waits where it is
        self.pause_before = pause_before  # what the run was paused with until now
        self.attempts: dict[str, int] = {}  # that the pause has cut off
        self.since: dict[str, float] = {}  # when waits began that were open as the run was paused
        if pause_before is not None:
            self.attempts = decode_attempts(pause_before)
            self.since = {each.task_id: each.since for each in decode_waits(pause_before)}
        self._deadlines: dict[str, Recorded] = {}  # by the id of their row
        self._activity = activity
        self._signals = signals
        self._writes = writes
        self._feeds = feeds
        self._clock = scheduler.clock
        self._timers = scheduler.timers
        self._idle_check: Alarm | None = None
        self._last_look: tuple[int, ...] = ()

    def first_attempt(self, call_id: str | None) -> int:
        """The number of the attempt with which a call goes on; None stands for the run's body."""
        return self.attempts.pop(call_id or "", 1)

    def open(self, wait: Wait) -> None:
        """A call waits for a signal or a time from now on."""
        self.waits[wait.task_id] = wait
        row = self._activity.row
        if (feed := self._feeds.threads.get(row.thread_id)) is not None:
            feed.waiting(row.run_id, wait.parent_id, wait.task_id.rpartition(":")[0], wait)
        self.watch()

    def close(self, task_id: str) -> None:
        """The call does not wait any more."""
        self.waits.pop(task_id, None)

    def load(self, deadlines: dict[str, Recorded]) -> None:
        """Take the rows of the deadlines that are recorded."""
        self._deadlines.update(deadlines)

    def deadline(self, call_id: str) -> float | None:
        """The recorded deadline of a call, if there is one (seconds since 1970)."""
        row = self._deadlines.get(wait_id(call_id))
        return None if row is None else float(decode_plain(row.payload)["deadline"])

    async def record_deadline(self, call_id: str, parent_id: str | None, deadline: float) -> float:
        """Have the deadline of a call committed, so that a rerun waits only for what is left."""
        payload = encode_plain(Deadline(deadline))
        row = self._writes.deadline_row(call_id, parent_id, payload)
        recorded = Recorded(0, row.task_id, parent_id, WAIT, payload, row.checksum)
        self._deadlines[row.task_id] = recorded
        await self._writes.commit(row)
        return deadline

    def drop_deadline(self, call_id: str) -> None:
        """Forget the deadline of a call: it has an outcome, or is to be executed again."""
        self._deadlines.pop(wait_id(call_id), None)

    def watch(self) -> None:
        """Look soon whether the run is idle."""
        if self._idle_check is None and self.pause is not None and self._activity.is_open:
            self._last_look = self._moves()
            now = self._timers.clock.now()
            self._idle_check = self._timers.set(now + IDLE_AFTER, self._check)

    def _check(self) -> None:
        """Pause the run where nothing has happened since the last look, and nothing will soon."""
        self._idle_check = None
        if not self.waits or not self._activity.is_open:
            return
        if self._last_look != self._moves() or self._signals.is_looking:
            self.watch()
            return
        # Whatever ends looks again.
        if self._activity.is_quiet and not self._ends_soon() and self.pause is not None:
            self.pause()

    def _ends_soon(self) -> bool:
        deadlines = (each.deadline for each in self.waits.values() if each.deadline is not None)
        return min(deadlines, default=float("inf")) - self._clock.now() <= SHORT_WAIT

    def _moves(self) -> tuple[int, int, int]:
        counts = self._activity.counts
        return counts.begun, counts.executed, counts.replayed
