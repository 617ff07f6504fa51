"""How `SQLiteStore` prunes: in small transactions, between those of other work.

A run that is being deleted is cancelled with its first rows: no claim continues, or is answered by,
what is half there.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import anyio
from msgspec import Struct

from taskflow.records import Pruned, RunStatus
from taskflow.stores.pruning import Outline, Prune, prunable
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.rows import one_run, update_run
from taskflow.stores.sqlite.session import Session
from taskflow.stores.transitions import cancelled

__all__ = ("Pace", "prune")

T = TypeVar("T")

PRUNED_THREADS: Final = 100  # that are looked at together
PAUSE: Final = 0.012  # seconds; a process that waits for the lock tries it every 10 ms at most
CHECKPOINT_WRITES: Final = 8
LONG: Final = 0.02  # seconds; a commit waits for one of these at most
FEWEST_ROWS: Final = 10
MOST_ROWS: Final = 300
INCREMENTAL: Final = 2  # of the modes of PRAGMA auto_vacuum


async def prune(session: Session, ask: Prune) -> AsyncGenerator[Pruned]:
    """Delete what is to be deleted; what each transaction has deleted."""
    pace = Pace()
    look = partial(threads_to_prune, ask=ask, limit=PRUNED_THREADS)
    threads = await session.look(partial(look, after=""))
    while threads:
        runs = await session.look(partial(doomed, ask=ask, thread_ids=threads))
        while runs:
            yield await _paced(session, pace, partial(drop, runs=runs, limit=pace.rows))
        threads = await session.look(partial(look, after=threads[-1]))
    expired = await session.read(sql.SELECT_EXPIRED, (ask.now, 0, pace.rows), tuple)
    while expired:
        yield await _paced(session, pace, partial(drop_expired, rows=expired, now=ask.now))
        asked = ask.now, expired[-1][0], pace.rows
        expired = await session.read(sql.SELECT_EXPIRED, asked, tuple)
    await _give_back(session, Pace())


async def _give_back(session: Session, pace: Pace) -> None:
    """Cut free pages off the end of the file, if it was made for that, and empty the WAL."""
    free, before = await session.look(free_pages), math.inf
    while 0 < free < before:
        await _paced(session, pace, partial(shrink, pages=pace.rows), alone=True)
        free, before = await session.look(free_pages), free
    await session.write(partial(checkpoint, mode="TRUNCATE"), alone=True)


async def _paced(
    session: Session,
    pace: Pace,
    work: Callable[[sqlite3.Connection], T],
    *,
    alone: bool = False,
) -> T:
    """Do one small write, note how long it took, and let other writes go first."""

    def timed(db: sqlite3.Connection) -> T:
        begun = time.monotonic()
        with contextlib.nullcontext() if alone else session.transaction(db):
            done = work(db)
        pace.note(time.monotonic() - begun)
        return done

    done = await session.write(timed, alone=True)
    if pace.writes % CHECKPOINT_WRITES == 0:
        # Else some commit would checkpoint a WAL that has grown, for a long time.
        await session.write(checkpoint, alone=True)
    await anyio.sleep(PAUSE)
    return done


class PrunedRun(Struct):
    """A run that is being deleted, as it was when that was decided."""

    thread_id: str
    number: int
    run_id: str
    standing: tuple[int, str]  # its epoch and status
    keeps_row: bool  # only its checkpoints are
    head: tuple[int, int, str]  # number, epoch and status of its thread's latest run


class Pace:
    """How many rows are deleted at once: as many as hold up other writes for a few milliseconds."""

    def __init__(self) -> None:
        self.rows = 100
        self.writes = 0

    def note(self, seconds: float) -> None:
        """Note that the last transaction took so long."""
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
                standing = run.epoch, run.status
                found.append(
                    PrunedRun(thread_id, run.number, run.run_id, standing, keeps_row, head)
                )
    return found


def drop(db: sqlite3.Connection, runs: deque[PrunedRun], limit: int) -> Pruned:
    """Delete about ``limit`` rows of the first of these runs, and take off what is done."""
    pruned = Pruned()
    while runs and limit > 0:
        run = runs[0]
        if not _is_as_it_was(db, run):
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


def _is_as_it_was(db: sqlite3.Connection, run: PrunedRun) -> bool:
    """Whether neither the run, if it had failed, nor its thread was continued meanwhile."""
    head = db.execute(sql.SELECT_HEAD, (run.thread_id,)).fetchone()
    standing = db.execute(sql.SELECT_EPOCH, (run.number,)).fetchone()
    return (head, standing) == (run.head, run.standing)


def _give_up(db: sqlite3.Connection, run: PrunedRun) -> None:
    """Cancel a run that is half deleted."""
    row = one_run(db, sql.SELECT_RUN, (run.thread_id, run.run_id))
    if row is None or row.status == RunStatus.CANCELLED:
        return
    update_run(db, cancelled(row, row.finished or time.time()))
    run.standing = row.epoch + 1, RunStatus.CANCELLED.value
    if run.head[0] == run.number:
        run.head = run.number, *run.standing


def drop_expired(db: sqlite3.Connection, rows: Sequence[tuple[int]], now: float) -> Pruned:
    """Delete shared results that have expired."""
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
    """Copy the WAL into the file, as far as no reader is in the way."""
    (patience,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")  # other writes wait for the lock meanwhile
    try:
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    except sqlite3.OperationalError:  # another connection does it at this moment
        pass
    finally:
        db.execute(f"PRAGMA busy_timeout = {patience}")
