"""The contract of a store, in prose and as a protocol.

A store keeps *runs* and *checkpoints* (and the results that `CachePolicy` shares). It knows nothing
of tasks, values or schedulers: it is given bytes and gives them back.

What a store promises:

- ``commit`` is atomic and durable: when it returns, everything in the batch that was not refused
  would survive what the store's documentation says it survives; when it raises, nothing of the
  batch was written.
- The batch is applied in the order checkpoints and cache entries, unrecords, finishes, claims,
  signals.
- Every checkpoint, unrecord and finish carries its run's number and epoch. Where the run's epoch
  has moved on, or it is not running any more, that write, and only that, is refused:
  ``Committed.refused`` names the run.
- A claim never waits. Whether it gets its run is decided by `claims.decide` alone; a claim that is
  turned down is answered by the exception, and hurts no other part of the batch.
- ``(thread_id, run_id)``, ``(thread_id, sequence)``, ``(thread_id, task_id)`` and, where a call has
  taken one, ``(thread_id, signal)`` are unique, and at most one run of a thread is *open*: running
  or paused. A thread's *latest* run is its open one, which may be a failed one that was continued
  after others had ended; else the one with the highest sequence.
- A signal goes to its thread's latest run, if that is open or has failed, and is RunNotFound where
  it does not. One whose id is on the thread already is not written again; but it moves to that run
  where no call took it before its own run ended. A run that gets one while it is paused or released
  is due at once; so is one that pauses without knowing its latest signal.
- With a call the deadline that was recorded for it (`kinds.wait_id`) is dropped, too.
- A thread that is made by ``fork`` or ``adopt`` is there as a whole or not at all, and of two that
  are made under one id at once one is ThreadExists. What is copied is verified first, and gets
  checksums of its own: these are seeded with the thread's id.
- ``prune`` holds up other writes for some ten milliseconds at a time. What it has not finished when
  its process dies is a cancelled run.
- An owner is *gone* when its lease has run out, when it was closed, or when the store can tell that
  its process has died. From ``open`` to ``close`` the store renews its lease by itself, from
  outside the event loop.
- Failures are StoreError and say what happened to which file, and the way out. Rows that are not
  what was written are CheckpointCorrupt, never a wrong value.

The methods are called from one event loop. Cancelling one of them may cancel the wait, never half
of a write.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from taskflow.records import Pruned
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import CacheEntry, CheckpointRow, Recorded, RunRow, SignalRow

__all__ = ("BLOCK_RUN_ID", "Snapshot", "Store")

# The run that ``Runtime.thread()`` blocks record into: no caller can choose this id.
BLOCK_RUN_ID = ""


class Snapshot(Protocol):
    """One thread as it was at one moment, whatever is written since."""

    async def runs(self, after: int, limit: int) -> Sequence[RunRow]:
        """At most ``limit`` runs with a sequence above ``after``, oldest first."""
        ...

    async def checkpoints(self, run_id: str, after: int, limit: int) -> Sequence[CheckpointRow]:
        """At most ``limit`` rows of a run with a sequence above ``after``, in that order."""
        ...


class Store(Protocol):
    """Where runs and checkpoints are kept. A runtime opens it, uses it and closes it."""

    @property
    def where(self) -> str:
        """What names this store in errors: a file's path, say."""
        ...

    async def open(self, owner: str) -> None:
        """Make it ready for the runtime ``owner``, whose lease begins.

        Raises StoreError or SchemaTooNew.
        """
        ...

    async def close(self, owner: str) -> None:
        """Give up the lease of ``owner``, and what is held open for it.

        Does nothing where it is not open for ``owner``: after a failed open it is closed, too.
        """
        ...

    async def commit(self, batch: Batch) -> Committed:
        """Write ``batch`` in one transaction. Raises StoreError."""
        ...

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        """At most ``limit`` checkpoints of a run with a sequence above ``after``, in that order.

        Signals are not among them.
        """
        ...

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        """A run's signals with a sequence above ``after`` that no call has taken, in that order."""
        ...

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        """The signals above ``after``: the sequence and thread of each, in order.

        Without ``after``: the latest one alone.
        """
        ...

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        """Runs of these workflows that are due, or whose owner is gone: the most urgent first.

        The rows are not verified: a damaged one does not hide the others.
        """
        ...

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        """The names of other workflows that have such runs (not the one of blocks)."""
        ...

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        """A thread's run, the latest where ``run_id`` is None."""
        ...

    async def runs(
        self,
        status: str | None,
        workflow: str | None,
        before: int | None,
        limit: int,
        thread_id: str | None = None,
    ) -> Sequence[RunRow]:
        """Runs with a number below ``before``, newest first; of one thread, if it is named."""
        ...

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        """Rows of every kind on a thread, or in one of its runs, in commit order.

        Those with a sequence above ``after``, and at most ``limit`` of them.
        """
        ...

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        """One row of any kind."""
        ...

    def snapshot(self, thread_id: str) -> AbstractAsyncContextManager[Snapshot]:
        """A thread as it is now, for as long as the context is open."""
        ...

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        """The shared results of a task under ``keys`` that have not expired at ``now``."""
        ...

    async def clear_cache(self, task_name: str) -> int:
        """Drop a task's shared results; how many there were."""
        ...

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        """Drop a recorded call and the calls that it was made by; false where there is none.

        If its run is the thread's latest and has succeeded, that run is open again. Raises
        ThreadBusy while another owner executes it.
        """
        ...

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        """Make ``payload`` the recorded result of a call; false where there is no such call.

        Drops the calls that it was made by, and opens its run again, as ``forget`` does. Raises
        ThreadBusy while any owner executes the thread's run.
        """
        ...

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        """Make the thread ``to`` of one run (None: the latest) with what is recorded of it.

        But for the calls ``without``, and those that they were made by. `forked` says what becomes
        of the run; the row of the successful run before it is copied for `previous`. Raises
        RunNotFound for a run or a call that is not there, ThreadExists and CheckpointCorrupt.
        """
        ...

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        """Make a thread of these rows, which are all of one: numbers and sequences are given anew.

        Raises ThreadExists.
        """
        ...

    def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        """Delete what `prunable` says, a few hundred rows a transaction: what each has deleted.

        Gives its space back where it can. Runs that are continued meanwhile are left alone.
        """
        ...

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        """End a thread's latest run, or the run ``run_id``, for good; its row as it was.

        Also one that an owner executes, and one that has failed; a final run stays as it is.
        """
        ...

    async def epochs(self, numbers: Sequence[int]) -> Mapping[int, int]:
        """The epochs of runs, by their numbers; those that are not there are left out."""
        ...

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        """The latest run of each of these threads; the rows are not verified."""
        ...

    async def delete(self, thread_id: str, owner: str) -> bool:
        """Drop a thread with all that is recorded on it; false where there is none.

        Raises ThreadBusy while another owner executes its run.
        """
        ...
