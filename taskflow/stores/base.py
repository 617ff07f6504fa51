"""The contract of a store, in prose and as a protocol, and the one rule that all stores share.

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
- A claim never waits. Who may have what is decided by `decide` alone; a claim that is turned down
  is answered by the exception, and hurts no other part of the batch.
- ``(thread_id, run_id)``, ``(thread_id, sequence)``, ``(thread_id, task_id)`` and, where a call has
  taken one, ``(thread_id, signal)`` are unique, and at most one run of a thread is unfinished.
- A signal goes to its thread's unfinished run, and is RunNotFound where there is none. One whose id
  is on the thread already is not written again; but it moves to that run where nobody took it
  before its own run ended. A run that gets one while it is paused or released is due at once; so
  is one that pauses without knowing its latest signal.
- Whatever drops a call drops the deadline that was recorded for it (`wait_id`) too.
- A thread that is made by ``fork`` or ``adopt`` is there as a whole or not at all, and of two that
  are made under one id at once one is ThreadExists. What is copied is verified first, and gets
  checksums of its own: these are seeded with the thread's id.
- ``prune`` holds up other writes for some ten milliseconds at a time. What it has not finished when
  its process dies is a run that nobody continues, or is answered by.
- An owner is *gone* when its lease has run out, when it was closed, or when the store can tell that
  its process has died. From ``open`` to ``close`` the store renews its lease by itself, from
  outside the event loop.
- Failures are StoreError and say what happened to which file, and the way out. Rows that are not
  what was written are CheckpointCorrupt, never a wrong value.

The methods are called from one event loop. Cancelling one of them may cancel the wait, never half
of a write.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from msgspec import structs

from taskflow.errors import (
    HistoryMismatch,
    RunCancelled,
    RunNotFound,
    RunUnfinished,
    ThreadBusy,
)
from taskflow.records import Pruned, RunStatus
from taskflow.stores.rows import (
    COVERED,
    SIGNAL,
    Batch,
    CacheEntry,
    Checkpoint,
    CheckpointRow,
    Claim,
    Committed,
    Outline,
    Prune,
    Recorded,
    RunRow,
    Signal,
    SignalRow,
    checkpoint_checksum,
    covered_signal,
    details_checksum,
    run_checksum,
)

__all__ = (
    "BLOCK_RUN_ID",
    "Snapshot",
    "Store",
    "cancelled",
    "checksum_on",
    "continued",
    "decide",
    "forked",
    "prunable",
    "reopened",
    "signal_row",
    "wait_id",
)

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

        Does nothing where it is not open for ``owner``: who has failed to open it closes it, too.
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

        The rows are not verified: one that is damaged hurts nobody else.
        """
        ...

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        """The names of other workflows that have such runs (not the one of blocks)."""
        ...

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        """A thread's run, the latest where ``run_id`` is None."""
        ...

    async def runs(
        self, status: str | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[RunRow]:
        """Runs with a number below ``before``, newest first."""
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
        ThreadBusy while somebody executes it.
        """
        ...

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        """Make ``payload`` the recorded result of a call; false where there is no such call.

        Drops the calls that it was made by, and opens its run again, as ``forget`` does. Raises
        ThreadBusy while anybody executes the thread's run.
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

        Gives its space back where it can. Runs that somebody continues meanwhile are left alone.
        """
        ...

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        """End a thread's unfinished run for good, whoever executes it; its row as it was.

        With ``run_id`` only that one. Where there is nothing to end: the thread's latest run.
        """
        ...

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        """The latest run of each of these threads; the rows are not verified."""
        ...

    async def delete(self, thread_id: str, owner: str) -> bool:
        """Drop a thread with all that is recorded on it; false where there is none.

        Raises ThreadBusy while somebody executes its run.
        """
        ...


Decision = Literal["new", "continue", "answer", "supersede"]


def decide(
    claim: Claim, latest: RunRow | None, known: RunRow | None, is_gone: Callable[[str], bool]
) -> Decision:
    """What becomes of a claim, given the thread's latest run and the run that it names.

    Raises ThreadBusy, RunUnfinished, RunCancelled, RunNotFound or HistoryMismatch where it is
    turned down.
    """
    thread_id = claim.thread_id
    if known is not None:
        if claim.epoch not in (None, known.epoch) and known.status != RunStatus.SUCCESS:
            raise ThreadBusy(
                thread_id,
                f"run {known.run_id!r} was claimed by somebody else meanwhile",
                same_run=True,
                run_id=known.run_id,
            )
        if known.status == RunStatus.CANCELLED:
            raise RunCancelled(thread_id, known.run_id)
        if known.fingerprint != claim.fingerprint:
            raise HistoryMismatch(
                thread_id,
                f"run {known.run_id!r} was begun by {known.workflow} with the input "
                f"{known.input.decode()[:500]}, not by {claim.workflow} with "
                f"{claim.input.decode()[:500]}: give another input another run_id",
            )
        if known.status == RunStatus.SUCCESS:
            return "answer"
        _check_free(claim, known, is_gone, same_run=True)
        if claim.awaits and known.status == RunStatus.ERROR:
            raise ThreadBusy(
                thread_id,
                f"run {known.run_id!r} has failed elsewhere since it was looked at",
                same_run=True,
                run_id=known.run_id,
            )
        return "continue"

    if claim.continues:
        raise RunNotFound(thread_id, f"run {claim.run_id!r}")
    if latest is None:
        return "new"
    if claim.run_id == BLOCK_RUN_ID:
        raise HistoryMismatch(
            thread_id,
            "it holds runs of workflows; give Runtime.thread() blocks a thread of their own",
        )
    same = claim.run_id is None and latest.fingerprint == claim.fingerprint
    if latest.is_final:
        return "answer" if same and latest.status == RunStatus.SUCCESS else "new"
    if latest.run_id == BLOCK_RUN_ID:
        raise RunUnfinished(
            thread_id,
            latest.run_id,
            "it is used by Runtime.thread() blocks; give workflows a thread of their own",
        )
    _check_free(claim, latest, is_gone, same_run=same)
    if same:
        return "continue"
    if claim.supersede:
        return "supersede"
    raise RunUnfinished(
        thread_id,
        latest.run_id,
        f"{latest.workflow} with the input {latest.input.decode()[:500]}; run it again to finish "
        "it, or pass supersede=True to cancel it and begin a new run",
    )


def _check_free(
    claim: Claim, row: RunRow, is_gone: Callable[[str], bool], *, same_run: bool
) -> None:
    if row.owner is not None and row.owner != claim.owner and not is_gone(row.owner):
        raise ThreadBusy(
            row.thread_id,
            f"run {row.run_id!r} of {row.workflow or 'a thread block'} is being executed by the "
            f"runtime {row.owner}",
            same_run=same_run,
            run_id=row.run_id if same_run else None,
        )


def continued(row: RunRow, claim: Claim, latest_checkpoint: Callable[[], int]) -> RunRow:
    """A run that ``claim`` continues.

    ``latest_checkpoint`` tells the sequence of the last row that the run itself has recorded: a
    take-over that finds it where the one before did has found no progress.
    """
    takeovers, mark = 0, row.mark
    if claim.takes_over:
        mark = latest_checkpoint()
        takeovers = row.takeovers + 1 if row.takeovers and mark == row.mark else 1
    return structs.replace(
        row,
        status=RunStatus.RUNNING,
        error=None,
        saved=None,
        owner=claim.owner,
        epoch=row.epoch + 1,
        started=claim.now,
        finished=None,
        waits=None,
        due=None,
        takeovers=takeovers,
        mark=mark,
    ).sealed()


def cancelled(row: RunRow, now: float) -> RunRow:
    """A run that is ended for good."""
    return structs.replace(
        row,
        status=RunStatus.CANCELLED,
        owner=None,
        epoch=row.epoch + 1,
        finished=now,
        waits=None,
        due=None,
    ).sealed()


def reopened(row: RunRow) -> RunRow:
    """A run that had succeeded, and of which something was forgotten or replaced."""
    return structs.replace(
        row, status=RunStatus.RUNNING, result=None, saved=None, finished=None
    ).sealed()


def forked(row: RunRow, to: str, *, is_whole: bool) -> RunRow:
    """A run as it begins on the thread ``to``: as it was if it had succeeded, else unfinished.

    It never begins by itself: nobody owns it, and it is not due.
    """
    copy = structs.replace(
        row, thread_id=to, owner=None, epoch=1, waits=None, due=None, takeovers=0, mark=0
    )
    if row.status != RunStatus.SUCCESS or not is_whole:
        copy = structs.replace(
            copy, status=RunStatus.RUNNING, result=None, error=None, saved=None, finished=None
        )
    return copy.sealed()


def checksum_on(to: str, thread_id: str, row: CheckpointRow) -> int:
    """The checksum of a row when it stands on the thread ``to``. Raises CheckpointCorrupt."""
    each = row.verified(thread_id).checkpoint
    seed = run_checksum(to, row.run_id)
    signal = covered_signal(each.checksum, each.signal)
    moved = checkpoint_checksum(seed, each.task_id, each.kind, each.payload, signal)
    return each.checksum & ~COVERED | moved


def prunable(runs: Sequence[Outline], ask: Prune) -> list[tuple[Outline, bool]]:
    """Which of a thread's runs (oldest first) are to be deleted.

    True beside those whose row stays, without its calls, because `previous` needs it: a successful
    run before one that stays; and the latest successful one, if any run of the thread stays, or if
    it was given a value to save for a later one.
    """
    last = len(runs) - ask.keep_last
    doomed = [
        index < last
        and run.status in ask.statuses
        and run.owner is None
        and run.finished is not None
        and run.finished < ask.before
        for index, run in enumerate(runs)
    ]
    needed: set[int] = set()
    success: int | None = None
    for index, run in enumerate(runs):
        if success is not None and not doomed[index]:
            needed.add(success)
        if run.status == RunStatus.SUCCESS:
            success = index
    if success is not None and (runs[success].has_saved or not all(doomed)):
        needed.add(success)
    return [(run, index in needed) for index, run in enumerate(runs) if doomed[index]]


def signal_row(signal: Signal, run: RunRow) -> Checkpoint:
    """The row of a signal in the run that it goes to."""
    return Checkpoint(
        run.number,
        run.epoch,
        signal.task_id,
        None,
        signal.name,
        SIGNAL,
        signal.payload,
        None,
        0,
        signal.now,
        signal.now,
        checkpoint_checksum(
            run_checksum(run.thread_id, run.run_id), signal.task_id, SIGNAL, signal.payload
        )
        | details_checksum(None, signal.name, None, 0, signal.now, signal.now, None),
    )


def wait_id(task_id: str) -> str:
    """The id of the row that holds a call's deadline; no call can have it."""
    return f"{task_id}@"
