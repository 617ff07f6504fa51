"""What `SQLiteStore` does to recorded history: forget, replace, fork, adopt, prune.

Each function is called in a connection's own thread, in a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct, structs

from taskflow.errors import CheckpointCorrupt, RunNotFound, ThreadExists
from taskflow.records import Pruned, RunStatus
from taskflow.stores.checksums import checkpoint_checksum, covered_signal, run_checksum
from taskflow.stores.edits import checksum_on
from taskflow.stores.kinds import RESULT, wait_id
from taskflow.stores.pruning import Outline, Prune, prunable
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.rows import calls_up_from, drop_call, one_run, reopen, update_run
from taskflow.stores.transitions import cancelled, forked

__all__ = (
    "Pace",
    "adopt",
    "begin_snapshot",
    "checkpoint",
    "doomed",
    "drop",
    "drop_expired",
    "forget",
    "fork",
    "free_pages",
    "replace",
    "shrink",
    "threads_to_prune",
)


def forget(db: sqlite3.Connection, thread_id: str, task_id: str) -> bool:
    """Drop a recorded call and the calls that it was made by."""
    try:
        run_id, chain = calls_up_from(db, thread_id, task_id)
    except RunNotFound:
        return False

    for each in chain:
        drop_call(db, thread_id, each)
    reopen(db, thread_id, run_id)
    return True


def replace(db: sqlite3.Connection, thread_id: str, task_id: str, payload: bytes) -> bool:
    """Write another result of a recorded call."""
    try:
        run_id, (_, *callers) = calls_up_from(db, thread_id, task_id)
    except RunNotFound:
        return False

    seed = run_checksum(thread_id, run_id)
    former = db.execute(sql.SELECT_CHECKSUM, (thread_id, task_id)).fetchone()
    signal = covered_signal(*former) if former else None
    checksum = checkpoint_checksum(seed, task_id, RESULT, payload, signal)
    if not db.execute(sql.REPLACE_RESULT, (payload, checksum, thread_id, task_id)).rowcount:
        return False
    for each in callers:
        drop_call(db, thread_id, each)
    reopen(db, thread_id, run_id)
    return True


def fork(
    db: sqlite3.Connection, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
) -> RunRow:
    """Copy one run to a new thread."""
    if db.execute(sql.SELECT_HEAD, (to,)).fetchone():
        raise ThreadExists(to)
    row = (
        one_run(db, sql.SELECT_LATEST, (thread_id,))
        if run_id is None
        else one_run(db, sql.SELECT_RUN, (thread_id, run_id))
    )
    if row is None:
        raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")

    source = row.verified()
    left_out: set[str] = set()
    for task_id in without:
        recorded_by, chain = calls_up_from(db, thread_id, task_id)
        if recorded_by != source.run_id:
            raise RunNotFound(thread_id, f"call {task_id!r} recorded by run {source.run_id!r}")
        left_out.update(chain)
    left_out.update([wait_id(each) for each in left_out])
    earlier = one_run(db, sql.SELECT_PREVIOUS, (thread_id, source.sequence))
    if earlier is not None:
        _insert_run(db, forked(earlier.verified(), to, is_whole=True))
    made = _insert_run(db, forked(source, to, is_whole=not left_out))
    _copy_checkpoints(db, source, to, left_out)
    return made


def _copy_checkpoints(db: sqlite3.Connection, source: RunRow, to: str, left_out: set[str]) -> None:
    thread_id, run_id = source.thread_id, source.run_id
    damage: list[CheckpointCorrupt] = []

    def checksum(*columns: Any) -> int:
        try:
            return checksum_on(to, thread_id, CheckpointRow(0, run_id, Checkpoint(0, 0, *columns)))
        except CheckpointCorrupt as error:
            damage.append(error)  # SQLite passes on only that something was raised
            raise

    columns = len(Checkpoint.__struct_fields__) - 2
    db.create_function("checksum_on", columns, checksum)
    db.create_function("is_copied", 1, lambda task_id: task_id not in left_out)
    try:
        place = {"to": to, "thread_id": thread_id, "run_id": run_id}
        db.execute(sql.COPY_CHECKPOINTS, place)
    except sqlite3.OperationalError:
        if damage:
            raise damage[0] from None
        raise
    finally:
        db.create_function("checksum_on", columns, None)
        db.create_function("is_copied", 1, None)


def adopt(
    db: sqlite3.Connection, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]
) -> None:
    """Insert a thread that comes from elsewhere."""
    thread_id = runs[0].thread_id
    if db.execute(sql.SELECT_HEAD, (thread_id,)).fetchone():
        raise ThreadExists(thread_id)

    for row in runs:
        _insert_run(db, row)
    db.executemany(
        sql.INSERT_CHECKPOINT,
        ((thread_id, row.run_id, *structs.astuple(row.checkpoint)[2:]) for row in checkpoints),
    )


def _insert_run(db: sqlite3.Connection, row: RunRow) -> RunRow:
    number = db.execute(sql.INSERT_RUN, structs.astuple(row)[1:]).lastrowid
    return structs.replace(row, number=number or 0)


LONG: Final = 0.02  # seconds; whoever waits, waits for one of these and its own commit
FEWEST_ROWS: Final = 10
MOST_ROWS: Final = 300
INCREMENTAL: Final = 2  # of the modes of PRAGMA auto_vacuum


class PrunedRun(Struct):
    """A run that is being deleted, as it was when that was decided."""

    thread_id: str
    number: int
    run_id: str
    keeps_row: bool  # only its checkpoints are
    head: tuple[int, int, str]  # number, epoch and status of its thread's latest run


class Pace:
    """How many rows are deleted at once: as many as hold up nobody for long."""

    def __init__(self) -> None:
        self.rows = 100
        self.writes = 0

    def note(self, seconds: float) -> None:
        """So long took the last transaction."""
        self.writes += 1
        if seconds > LONG:
            self.rows = max(self.rows // 2, FEWEST_ROWS)
        elif seconds < LONG / 2:
            self.rows = min(self.rows * 2, MOST_ROWS)


def threads_to_prune(db: sqlite3.Connection, ask: Prune, after: str, limit: int) -> list[str]:
    """The next threads that may have something to delete, by id."""
    query = sql.SELECT_THREADS_TO_PRUNE.format(statuses=", ".join("?" * len(ask.statuses)))
    rows = db.execute(query, (after, ask.before, *ask.statuses, limit)).fetchall()
    return [row[0] for row in rows]


def doomed(db: sqlite3.Connection, ask: Prune, thread_ids: Sequence[str]) -> deque[PrunedRun]:
    """What is to be deleted of these threads, the oldest runs of each first."""
    found: deque[PrunedRun] = deque()
    for thread_id in thread_ids:
        runs = [Outline(*row) for row in db.execute(sql.SELECT_OUTLINES, (thread_id,))]
        for run, keeps_row in prunable(runs, ask):
            if run.has_rows or not keeps_row:
                head = runs[-1].number, runs[-1].epoch, runs[-1].status
                found.append(PrunedRun(thread_id, run.number, run.run_id, keeps_row, head))
    return found


def drop(db: sqlite3.Connection, runs: deque[PrunedRun], limit: int) -> Pruned:
    """Delete about ``limit`` rows of the first of these runs, and take off what is done."""
    pruned = Pruned()
    while runs and limit > 0:
        run = runs[0]
        if db.execute(sql.SELECT_HEAD, (run.thread_id,)).fetchone() != run.head:
            runs.popleft()  # the thread was gone on with, or deleted: another decision is due
            limit -= 1
            continue
        place = run.thread_id, run.run_id, limit
        deleted = db.execute(sql.DELETE_SOME_CHECKPOINTS, place).rowcount
        pruned += Pruned(checkpoints=deleted)
        limit -= deleted
        if limit > 0:
            if not run.keeps_row:
                pruned += Pruned(runs=db.execute(sql.DELETE_RUN, (run.number,)).rowcount)
            runs.popleft()
            limit -= 1
        elif not run.keeps_row:
            _give_up(db, run)
    return pruned


def _give_up(db: sqlite3.Connection, run: PrunedRun) -> None:
    """Nobody may continue what is half deleted."""
    row = one_run(db, sql.SELECT_RUN, (run.thread_id, run.run_id))
    if row is None or row.status == RunStatus.CANCELLED:
        return
    update_run(db, cancelled(row, row.finished or time.time()))
    if run.head[0] == run.number:
        run.head = (run.number, row.epoch + 1, RunStatus.CANCELLED.value)


def drop_expired(db: sqlite3.Connection, rows: Sequence[tuple[int]], now: float) -> Pruned:
    """Delete shared results that nobody is given any more."""
    return Pruned(
        cached=sum(db.execute(sql.DELETE_EXPIRED, (rowid, now)).rowcount for (rowid,) in rows)
    )


def free_pages(db: sqlite3.Connection) -> int:
    """How many pages the file can give back without being written anew."""
    (mode,) = db.execute("PRAGMA auto_vacuum").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return int(free) if mode == INCREMENTAL else 0


def shrink(db: sqlite3.Connection, pages: int) -> None:
    """Move pages from the end of the file into free ones, and cut it off; in no transaction."""
    # A step moves a page and gives a row without columns, of which execute() takes only one.
    db.executescript(f"PRAGMA incremental_vacuum({pages})")


def checkpoint(db: sqlite3.Connection, mode: str = "PASSIVE") -> None:
    """Copy the WAL into the file, as far as nobody who reads is in the way."""
    (patience,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")  # others wait for the lock meanwhile
    try:
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    except sqlite3.OperationalError:  # somebody else does it at this moment
        pass
    finally:
        db.execute(f"PRAGMA busy_timeout = {patience}")


def begin_snapshot(db: sqlite3.Connection) -> None:
    """Let this connection see the file as it is now, until it is closed."""
    db.execute("PRAGMA query_only = 1")
    db.execute("BEGIN")
    db.execute("SELECT number FROM run LIMIT 1").fetchone()
