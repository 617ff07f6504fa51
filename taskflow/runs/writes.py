"""`Writes`: what a run hands to the journal, and when.

Only this module decides when an outcome is handed in: with durability "sync" at once, and the call
waits for the commit; with "async" at once, and nobody waits; with "exit" at the end of the run, or
when much is held back. What is held back goes before whatever is handed in after it: a rerun goes
by the order of the commits.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec import Struct

from taskflow.errors import LeaseLost, RunCancelled, StoreError
from taskflow.loops.promises import Promise
from taskflow.loops.scheduler import Scheduler
from taskflow.runs.activity import Activity
from taskflow.runs.journal import Journal
from taskflow.stores.batches import Durability
from taskflow.stores.checksums import checkpoint_checksum, details_checksum
from taskflow.stores.kinds import EMIT, ERROR, RESULT, WAIT, wait_id
from taskflow.stores.rows import CacheEntry, Checkpoint
from taskflow.wire.failures import Failure

__all__ = ("Outcome", "Tally", "Writes")

MAX_HELD_ROWS: Final = 10_000
MAX_HELD_BYTES: Final = 8 * 1024 * 1024


class Outcome(Struct):
    """What the attempts of a call came to."""

    attempts: int
    started: float  # wall clock, seconds since the epoch
    payload: bytes
    value: Any = None
    failure: Failure | None = None
    error: BaseException | None = None  # as the body raised it
    kind: str = RESULT
    signal: str | None = None  # the id of the one that it has taken
    interruption: BaseException | None = None  # to be raised once the outcome is recorded

    @classmethod
    def failed(
        cls, attempts: int, started: float, failure: Failure, error: BaseException
    ) -> Outcome:
        """The outcome of a call whose last attempt raised ``error``, recorded as ``failure``."""
        return cls(attempts, started, failure.encode(), None, failure, error, ERROR)


class Tally(Promise, Protocol):
    """A promise that stands for many commits: it is kept once for each that it is owed."""

    owed: int
    failed: list[str]  # the ids of the calls whose failure is recorded


class Writes:
    """The rows that a run hands to the journal, and those that it holds back."""

    __slots__ = (
        "_activity",
        "_clock",
        "_durability",
        "_held",
        "_held_bytes",
        "_journal",
        "_loop",
        "_seed",
        "key",
    )

    def __init__(
        self, activity: Activity, scheduler: Scheduler, journal: Journal, durability: Durability
    ) -> None:
        self.key = (
            activity.row.key
        )  # the run's identity and epoch, which every commit is checked against
        self._seed = activity.seed
        self._activity = activity
        self._clock = scheduler.clock
        self._loop = scheduler.loop
        self._journal = journal
        self._durability = durability
        self._held: list[tuple[Checkpoint, CacheEntry | None]] = []
        self._held_bytes = 0

    def checkpoint(
        self,
        call_id: str,
        parent_id: str | None,
        name: str,
        arguments: str | None,
        outcome: Outcome,
    ) -> Checkpoint:
        """The row for the outcome of a call, which has just ended."""
        kind, payload, attempts = outcome.kind, outcome.payload, outcome.attempts
        started, signal = outcome.started, outcome.signal
        counts = self._activity.counts
        counts.executed += kind != EMIT
        counts.failed += kind == ERROR
        finished = self._clock.now()
        key = self.key
        return Checkpoint(
            key.number,
            key.epoch,
            call_id,
            parent_id,
            name,
            kind,
            payload,
            arguments,
            attempts,
            started,
            finished,
            checkpoint_checksum(self._seed, call_id, kind, payload, signal)
            | details_checksum(parent_id, name, arguments, attempts, started, finished, signal),
            signal,
        )

    def put(
        self,
        checkpoint: Checkpoint,
        durability: Durability | None,
        cached: CacheEntry | None = None,
        tally: Tally | None = None,
    ) -> Promise | None:
        """Hand ``checkpoint`` in to be committed; the promise to await, if it is to be awaited.

        Else ``tally`` or the end of the run waits for the commit. ``durability`` stands in place of
        the run's.
        """
        mode = self._durability if durability is None else durability
        journal = self._journal
        if mode == "sync" or journal.is_crowded:
            if self._held:
                self.flush()
            promise: Promise
            if tally is None:
                promise = self._loop.promise()
            else:
                tally.owed += 1
                promise = tally
            journal.put(checkpoint, self.key, promise, cached)
            return promise if tally is None else None
        if mode == "async":
            if self._held:
                self.flush()
            journal.put(checkpoint, self.key, _Later(self._activity), cached)
        else:
            self._held.append((checkpoint, cached))
            self._held_bytes += len(checkpoint.payload)
            if len(self._held) > MAX_HELD_ROWS or self._held_bytes > MAX_HELD_BYTES:
                self.flush()
        return None

    def flush(self) -> None:
        """Hand in everything that was held back until now."""
        held, self._held = self._held, []
        self._held_bytes = 0
        for checkpoint, cached in held:
            self._journal.put(checkpoint, self.key, _Later(self._activity), cached)

    def deadline_row(self, call_id: str, parent_id: str | None, payload: bytes) -> Checkpoint:
        """The row for the deadline of a call that begins to wait."""
        now = self._clock.now()
        row_id = wait_id(call_id)
        name = call_id.rpartition(":")[0]
        checksum = checkpoint_checksum(self._seed, row_id, WAIT, payload)
        checksum |= details_checksum(parent_id, name, None, 0, now, now, None)
        place = self.key.number, self.key.epoch, row_id, parent_id, name
        return Checkpoint(*place, WAIT, payload, None, 0, now, now, checksum)

    async def commit(self, checkpoint: Checkpoint) -> None:
        """Commit ``checkpoint``. Raises LeaseLost, RunCancelled or StoreError."""
        if self._held:
            self.flush()
        await self._journal.record(checkpoint, self.key)

    async def unrecord(self, task_ids: tuple[str, ...]) -> None:
        """Drop recorded failures from the store. Raises LeaseLost, RunCancelled or StoreError."""
        if self._held:
            self.flush()
        try:
            await self._journal.unrecord(self.key, task_ids)
        except (StoreError, LeaseLost, RunCancelled) as error:
            self._activity.break_off(error)
            raise


class _Later:
    """The promise of a commit that nobody waits for: if it is broken, the run's next call fails."""

    __slots__ = ("_activity",)

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def set_result(self, result: None, /) -> None:
        pass

    def set_exception(self, exception: BaseException, /) -> None:
        self._activity.break_off(exception)

    def done(self) -> bool:
        return False

    def __await__(self) -> Any:
        raise NotImplementedError
