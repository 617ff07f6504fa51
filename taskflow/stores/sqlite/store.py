"""`SQLiteStore`: one file, written by one connection of this process, in one trip a commit.

The only module that imports ``aiosqlite``. Each trip hands one function to the connection's own
thread (`_Connection.execute` accepts one in place of SQL), so that a commit of several statements
is one trip and one transaction that no cancelled caller can leave open.

SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint at the same instant.
With such a version every write is made under an exclusive advisory lock on a file beside the
database. Beside it there is also one small file for each open runtime, which that runtime keeps
locked for as long as it lives: who can take the lock knows that the runtime is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import aiosqlite
import anyio
import anyio.to_thread
from msgspec import structs

from taskflow.errors import (
    CheckpointCorrupt,
    RunNotFound,
    SchemaTooNew,
    StoreError,
    TaskflowError,
    ThreadBusy,
)
from taskflow.loops.clocks import boot_time, present
from taskflow.loops.loop import outside
from taskflow.records import Pruned, RunStatus
from taskflow.stores.base import Snapshot
from taskflow.stores.batches import Batch, Claim, Claimed, Committed, Finish, Sent, Signal
from taskflow.stores.claims import decide
from taskflow.stores.kinds import wait_id
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import (
    CacheEntry,
    Checkpoint,
    CheckpointRow,
    Recorded,
    RunKey,
    RunRow,
    SignalRow,
)
from taskflow.stores.signals import signal_row
from taskflow.stores.sqlite import history
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.files import NO_SPACE, READ_ONLY, OpenFiles, way_out, why_not_opened
from taskflow.stores.sqlite.locks import FileLock, OwnerLock
from taskflow.stores.sqlite.rows import (
    check_unknown,
    checkpoint_row,
    drop_call,
    one_checkpoint,
    one_run,
    update_run,
)
from taskflow.stores.transitions import cancelled, continued

__all__ = ("SQLiteStore",)

T = TypeVar("T")

PRUNED_THREADS: Final = 100  # that are looked at together
PAUSE: Final = 0.012  # seconds; others look every 10 ms at most whether the lock is free
CHECKPOINT_WRITES: Final = 8
DAMAGED: Final = "it is damaged: restore it from a backup"
# A file of so many is looked at as a whole when it is opened (2 MiB: 10 ms): in a damaged index a
# record may be missing, and would be executed again.
CHECKED_PAGES: Final = 500


# The owners whose stores are open in this process, and the locks of those that stand still.
_serving: Final[set[str]] = set()
_standing_still: Final[list[OwnerLock | None]] = []

# What this process has open, and what was open in the one that it was forked from. There SQLite
# takes its parent's locks for its own, and keeps none: others would delete the log under it.
_in_use: Final[weakref.WeakSet[SQLiteStore]] = weakref.WeakSet()
_inherited: Final[set[str]] = set()


def _inherit() -> None:
    _inherited.update(store._file for store in _in_use)
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)


class _Answer:
    """What a trip brings back through ``execute_fetchall``."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def fetchall(self) -> Any:
        return self.value


class _Connection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a function, to be called in this thread."""

    def execute(self, work: Any, parameters: Any = ()) -> Any:
        if callable(work):
            return _Answer(work(self))
        return super().execute(work, parameters)


class SQLiteStore:
    """Runs and checkpoints in one SQLite file, in WAL mode; any number of processes may share it.

    ``synchronous``: with ``"FULL"`` what was committed survives loss of power; with ``"NORMAL"`` it
    survives the death of the process, and a loss of power may take the latest commits (never the
    file's consistency). ``busy_timeout``: how many seconds to wait for others who hold the file.
    ``lease_ttl``: after how many seconds without a sign of life a runtime's runs may be taken over,
    where the operating system does not tell earlier that it has died. asyncio only.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        busy_timeout: float = 5.0,
        lease_ttl: float = 30.0,
    ) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"the path of a database is a str or a Path, got {path!r}")
        if "\0" in self.path:
            raise ValueError(f"no file can have a null character in its name: {self.path!r}")
        if self.path in ("", ":memory:"):
            raise ValueError("SQLiteStore keeps a file; use MemoryStore() to keep nothing")
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f'synchronous is "FULL" or "NORMAL", got {synchronous!r}')
        if busy_timeout < 0 or lease_ttl <= 0:
            raise ValueError("busy_timeout is not negative and lease_ttl is positive (seconds)")
        # Owners and locks go by this: links and the current folder must not make it two files.
        self._file = self.path
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._options: dict[str, Any] = {
            "uri": True,
            "isolation_level": None,
            "timeout": busy_timeout,
        }
        self._lease_ttl = lease_ttl
        self._owner = ""
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._write_lock: FileLock | contextlib.nullcontext[None] = contextlib.nullcontext()
        self._files: OpenFiles | contextlib.nullcontext[None] = contextlib.nullcontext()
        self._lease_time: Callable[[], float] = boot_time
        self._lease_end = threading.Event()
        self._lease_thread: threading.Thread | None = None
        self._is_leaving = False
        self._trips: set[asyncio.Task[Any]] = set()  # those that wait for a connection's thread

    @property
    def where(self) -> str:
        return self.path

    async def open(self, owner: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise StoreError(
                f"{self.path}: SQLiteStore needs asyncio; on trio there is MemoryStore"
            ) from None
        if self._writer is not None:
            raise StoreError(f"{self.path} is open already: a SQLiteStore serves one runtime")
        if sqlite3.sqlite_version_info < sql.OLDEST_VERSION:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
        self._check_path()

        self._file = os.path.realpath(self.path)  # noqa: ASYNC240 - a local disk, once
        asked = self.path if os.path.isabs(self.path) else os.path.join(os.getcwd(), self.path)
        if self._file in _inherited:
            raise StoreError(
                f"{self.path} was open in the process that this one was forked from, and cannot be "
                "opened here: start the process by spawn or forkserver, or before it is opened"
            )
        self._owner = owner
        self._is_leaving = False
        _in_use.add(self)
        self._lease_time = boot_time if present.clock is None else present.clock.elapsed
        try:
            self._writer = await self._connect("rwc")
            await self._trip(self._writer, self._check_apart)
            await self._trip(self._writer, self._check_ours)
            self._write_lock = await self._trip(self._writer, lambda db: self._new_lock())
            await self._trip(self._writer, self._prepare)
            self._owner_lock = await self._trip(
                self._writer, lambda db: OwnerLock(self._owner_path(owner), like=self._file)
            )
            await self._trip(self._writer, self._take_lease)
            self._files = OpenFiles(self._file, self.path, asked)
            self._reader = await self._connect()
            await self._trip(self._reader, self._prepare_reader)
            lease = await self._trip(self._writer, lambda db: self._open_lease())
        except BaseException as error:
            await self._close_all()
            if isinstance(error, OSError):
                raise self._explained(error) from error
            raise
        self._lease_end.clear()
        _serving.add(owner)
        self._lease_thread = threading.Thread(
            target=self._keep_lease,
            args=(*lease, self._owner_lock, asyncio.get_running_loop()),
            name="taskflow lease",
            daemon=True,
        )
        self._lease_thread.start()

    async def close(self, owner: str) -> None:
        if self._writer is None or owner != self._owner:
            return
        self._lease_end.set()
        _serving.discard(owner)
        # The file may be full or gone: the lock tells as much.
        with contextlib.suppress(StoreError):
            await self._trip(self._writer, self._drop_lease)
        await self._close_all()

    def leave(self) -> None:
        """The process ends: whoever waits for a lock waits no longer, and gets a StoreError.

        What is under way may be done all the same, or not, as in a process that is killed.
        """
        self._is_leaving = True
        for trip in self._trips:
            trip.cancel()

    async def abandon(self, *, holds_lock: bool = False) -> None:
        """Let go of everything without a word to others, as the death of this process would.

        For tests. With ``holds_lock`` as if it stood still: only its lease, which was renewed just
        now and is not any more, tells others that it is gone.
        """
        self._lease_end.set()
        _serving.discard(self._owner)
        if holds_lock:
            await self._write(self._renew)
            _standing_still.append(self.__dict__.pop("_owner_lock", None))
        await self._close_all()

    async def commit(self, batch: Batch) -> Committed:
        # One statement is a transaction by itself, and each statement hands the interpreter lock
        # to the event loop's thread and back.
        alone = len(batch.checkpoints) <= sql.MAX_ROWS and not (
            batch.cached or batch.unrecords or batch.finishes or batch.claims or batch.signals
        )
        return await self._write(lambda db: self._apply(db, batch), alone=alone)

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        asked = run.thread_id, run.run_id, after, limit
        return await self._read(sql.LOAD, asked, lambda row: Recorded(*row))

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        def work(db: sqlite3.Connection) -> RunRow | None:
            if run_id is not None:
                return one_run(db, sql.SELECT_RUN, (thread_id, run_id))
            row = one_run(db, sql.SELECT_LATEST, (thread_id,))
            if row is None:
                try:
                    check_unknown(db, thread_id)
                except CheckpointCorrupt:
                    row = one_run(db, sql.SELECT_LATEST, (thread_id,))
                    if row is None:  # else a run has begun between the two looks
                        raise
            return row

        row = await self._look(work)
        return row and row.verified()

    async def runs(
        self, status: str | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[RunRow]:
        asked = {"status": status, "workflow": workflow, "before": before, "limit": limit}
        return await self._read(sql.SELECT_RUNS, asked, _run_row)

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        asked = thread_id, run_id, after
        return await self._read(sql.SELECT_SIGNALS, asked, lambda row: SignalRow(*row))

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        if after is None:
            return await self._read(sql.SELECT_LATEST_NEWS, (), tuple)
        return await self._read(sql.SELECT_NEWS, (after,), tuple)

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        marks = ", ".join("?" * len(workflows))

        def work(db: sqlite3.Connection) -> list[Any]:
            query = sql.SELECT_DUE.format(names=marks)
            rows = db.execute(query, (now, *workflows, limit)).fetchall()
            query = sql.SELECT_OWNED.format(names=marks)
            for owner in self._gone_owners(db):
                if len(rows) < limit:
                    rows += db.execute(query, (owner, *workflows, limit - len(rows))).fetchall()
            return rows

        return [RunRow(*row) for row in await self._look(work)]

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        def work(db: sqlite3.Connection) -> set[str]:
            rows = db.execute(sql.SELECT_DUE_NAMES, (now,)).fetchall()
            for owner in self._gone_owners(db):
                rows += db.execute(sql.SELECT_OWNED_NAMES, (owner,)).fetchall()
            return {row[0] for row in rows}

        return sorted(await self._look(work) - {*workflows, ""})

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        most = -1 if limit is None else limit
        if run_id is None:
            return await self._read(
                sql.SELECT_CHECKPOINTS, (thread_id, after, most), checkpoint_row
            )
        return await self._read(sql.SELECT_PAGE, (thread_id, run_id, after, most), checkpoint_row)

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        return await self._look(lambda db: one_checkpoint(db, thread_id, task_id))

    @contextlib.asynccontextmanager
    async def snapshot(self, thread_id: str) -> AsyncGenerator[Snapshot]:
        self._opened(self._reader)
        connection = await self._connect()  # its own: one transaction for as long as it is open
        try:
            await self._trip(connection, self._begin_snapshot)
            yield _Snapshot(thread_id, lambda work: self._trip(connection, work))
        finally:
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(StoreError):
                    await self._trip(connection, self._close_apart)
                with outside():
                    await connection.close()

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        query = sql.SELECT_CACHED.format(rows=", ".join("?" * len(keys)))
        return await self._read(query, (task_name, now, *keys), lambda row: CacheEntry(*row))

    async def clear_cache(self, task_name: str) -> int:
        return await self._write(lambda db: int(db.execute(sql.CLEAR_CACHE, (task_name,)).rowcount))

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._check_idle(db, thread_id, owner)
            return history.forget(db, thread_id, task_id)

        return await self._write(work)

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._check_idle(db, thread_id, None)
            return history.replace(db, thread_id, task_id, payload)

        return await self._write(work)

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        return await self._write(lambda db: history.fork(db, thread_id, run_id, to, without))

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        await self._write(lambda db: history.adopt(db, runs, checkpoints))

    async def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        pace = history.Pace()
        look = partial(history.threads_to_prune, ask=ask, limit=PRUNED_THREADS)
        threads = await self._look(partial(look, after=""))
        while threads:
            runs = await self._look(partial(history.doomed, ask=ask, thread_ids=threads))
            while runs:
                yield await self._paced(pace, partial(history.drop, runs=runs, limit=pace.rows))
            threads = await self._look(partial(look, after=threads[-1]))
        expired = await self._read(sql.SELECT_EXPIRED, (ask.now, 0, pace.rows), tuple)
        while expired:
            yield await self._paced(pace, partial(history.drop_expired, rows=expired, now=ask.now))
            asked = ask.now, expired[-1][0], pace.rows
            expired = await self._read(sql.SELECT_EXPIRED, asked, tuple)
        await self._give_back(history.Pace())

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        rows: list[RunRow] = []
        for start in range(0, len(thread_ids), sql.MAX_ROWS):
            asked = thread_ids[start : start + sql.MAX_ROWS]
            query = sql.SELECT_HEADS.format(rows=_rows("(?)", len(asked)))
            rows += await self._read(query, tuple(asked), lambda row: RunRow(*row))
        return rows

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        def work(db: sqlite3.Connection) -> RunRow | None:
            row = one_run(db, sql.SELECT_LATEST, (thread_id,))
            if row is not None and not row.is_final and run_id in (None, row.run_id):
                update_run(db, cancelled(row.verified(), now))
            return row

        return await self._write(work)

    async def delete(self, thread_id: str, owner: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._check_idle(db, thread_id, owner)
            db.execute(sql.DELETE_CHECKPOINTS, (thread_id,))
            return bool(db.execute(sql.DELETE_RUNS, (thread_id,)).rowcount)

        return await self._write(work)

    # What follows runs in a connection's thread, inside the transaction of a trip.

    def _apply(self, db: sqlite3.Connection, batch: Batch) -> Committed:
        refused: dict[tuple[int, int], str] = {}
        checkpoints = batch.checkpoints
        sequences: Sequence[int] = ()
        for start in range(0, len(checkpoints), sql.MAX_ROWS):
            chunk = self._insert(db, checkpoints[start : start + sql.MAX_ROWS], refused)
            sequences = [*sequences, *chunk] if start else chunk
        if batch.cached:
            db.executemany(sql.PUT_CACHED, map(structs.astuple, batch.cached))
        for unrecord in batch.unrecords:
            key = unrecord.key
            if _is_current(db, key.number, key.epoch, refused):
                _unrecord(db, key, unrecord.task_ids)
        if batch.finishes:
            self._finish(db, batch.finishes, refused)
        claims = self._claim(db, batch.claims) if batch.claims else []
        signals = [self._sent(db, signal) for signal in batch.signals]
        return Committed(refused, claims, signals, sequences)

    def _insert(
        self,
        db: sqlite3.Connection,
        checkpoints: Sequence[Checkpoint],
        refused: dict[tuple[int, int], str],
    ) -> Sequence[int]:
        """Insert the rows of current owners; the sequence of each, 0 where it was refused."""
        parameters: list[Any] = []
        for checkpoint in checkpoints:
            parameters += structs.astuple(checkpoint)
        statement = sql.INSERT_CHECKPOINTS.format(rows=_rows(sql.CHECKPOINT_ROW, len(checkpoints)))
        cursor = db.execute(statement, parameters)
        # Rows of one statement are numbered one by one, in the order of its values.
        end = (cursor.lastrowid or 0) + 1
        first = end - cursor.rowcount
        if cursor.rowcount == len(checkpoints):
            return range(first, end)
        for number, epoch in {(each.number, each.epoch) for each in checkpoints}:
            _is_current(db, number, epoch, refused)
        numbers = count(first)
        return [
            0 if (each.number, each.epoch) in refused else next(numbers) for each in checkpoints
        ]

    def _sent(self, db: sqlite3.Connection, signal: Signal) -> Sent | Exception:
        try:
            return self._send(db, signal)
        except CheckpointCorrupt as error:
            return error

    def _send(self, db: sqlite3.Connection, signal: Signal) -> Sent | Exception:
        thread_id = signal.thread_id
        known = db.execute(sql.SELECT_RUN_OF_CALL, (thread_id, signal.task_id)).fetchone()
        run = one_run(db, sql.SELECT_UNFINISHED, (thread_id,))
        latest = run or one_run(db, sql.SELECT_LATEST, (thread_id,))
        if latest is None:
            check_unknown(db, thread_id)
        elif latest.verified() and run is None and not latest.is_final:
            reason = "an index of the file has lost it"
            raise CheckpointCorrupt(thread_id, latest.run_id, None, reason)
        if known is not None:
            is_taken = db.execute(sql.SELECT_TAKER, (thread_id, signal.task_id)).fetchone()
            if is_taken or (run is not None and run.run_id == known[0]):
                held = one_run(db, sql.SELECT_RUN, (thread_id, known[0]))
                return Sent(known[0], held.workflow if held else "", known[2], 0, False)
        if run is None:
            return RunNotFound(thread_id, "unfinished run")
        if known is not None:  # nobody took it before its run ended
            drop_call(db, thread_id, signal.task_id)
        previous = db.execute(sql.SELECT_LAST_SIGNAL, (thread_id, run.run_id)).fetchone()
        row = structs.astuple(signal_row(signal, run))[2:]
        sequence = db.execute(sql.INSERT_CHECKPOINT, (thread_id, run.run_id, *row)).lastrowid or 0
        db.execute(sql.SET_DUE, (run.number,))
        return Sent(run.run_id, run.workflow, sequence, previous[0] if previous else 0, True)

    def _finish(
        self,
        db: sqlite3.Connection,
        finishes: Sequence[Finish],
        refused: dict[tuple[int, int], str],
    ) -> None:
        parameters: list[Any] = []
        ends: list[Finish] = []
        for finish in finishes:
            key = finish.key
            if finish.unrecord:
                _unrecord(db, key, finish.unrecord)
            if finish.status == RunStatus.PAUSED:
                self._pause(db, finish, refused)
                continue
            ended = None if finish.status == RunStatus.RUNNING else finish.now
            parameters += (key.number, key.epoch, finish.status, finish.result, finish.error)
            parameters += (finish.saved, ended, finish.checksum, finish.due, finish.takeovers)
            ends.append(finish)
        if not ends:
            return
        statement = sql.FINISH_RUNS.format(rows=_rows(sql.FINISH_ROW, len(ends)))
        finished = db.execute(statement, parameters).fetchall()
        if len(finished) < len(ends):
            for finish in ends:
                if (finish.key.number, finish.key.epoch) not in finished:
                    _is_current(db, finish.key.number, finish.key.epoch, refused)

    def _pause(
        self, db: sqlite3.Connection, finish: Finish, refused: dict[tuple[int, int], str]
    ) -> None:
        key = finish.key
        parameters = {
            "number": key.number,
            "epoch": key.epoch,
            "thread_id": key.thread_id,
            "run_id": key.run_id,
            "now": finish.now,
            "result": finish.result,
            "error": finish.error,
            "saved": finish.saved,
            "checksum": finish.checksum,
            "waits": finish.waits,
            "due": finish.due,
            "last_signal": finish.last_signal,
        }
        if not db.execute(sql.PAUSE_RUN, parameters).rowcount:
            _is_current(db, key.number, key.epoch, refused)

    def _claim(self, db: sqlite3.Connection, claims: Sequence[Claim]) -> list[Claimed | Exception]:
        threads = list({claim.thread_id for claim in claims})
        query = sql.SELECT_HEADS.format(rows=_rows("(?)", len(threads)))
        latest: dict[str, RunRow] = {}
        answers: dict[int, Claimed | Exception] = {}
        beginning: dict[str, tuple[int, Claimed]] = {}
        for row in db.execute(query, threads).fetchall():
            latest[row[1]] = RunRow(*row)
        for index, claim in enumerate(claims):
            thread_id = claim.thread_id
            try:
                if thread_id in beginning:
                    raise ThreadBusy(thread_id, "a run begins on it at this moment")
                head = latest.get(thread_id)
                if head is None:
                    check_unknown(db, thread_id)
                known = self._known(db, claim, head)
                decision = decide(
                    claim,
                    head and head.verified(),
                    known and known.verified(),
                    lambda owner: self._is_gone(db, owner),
                )
                held = known or head
                if decision == "answer" and held:
                    answers[index] = Claimed(held, None, is_answer=True)
                elif decision == "continue" and held:
                    previous = _previous(db, held)  # before anything is written: it may be damaged
                    row, answers[index] = _continue(db, held, claim, previous)
                    latest[thread_id] = row
                else:
                    sequence = head.sequence + 1 if head else 1
                    row = claim.new_row(0, sequence)
                    previous = _previous(db, row) if head else None
                    superseded = None
                    if decision == "supersede" and head:
                        update_run(db, cancelled(head, claim.now))
                        superseded = head.run_id
                    claimed = Claimed(row, previous, is_new=True, superseded=superseded)
                    beginning[thread_id] = index, claimed
            except TaskflowError as error:
                answers[index] = error
        self._begin(db, beginning, answers)
        return [answers[index] for index in range(len(claims))]

    def _known(self, db: sqlite3.Connection, claim: Claim, head: RunRow | None) -> RunRow | None:
        if claim.run_id is None or head is None:
            return None
        if head.run_id == claim.run_id:
            return head
        return one_run(db, sql.SELECT_RUN, (claim.thread_id, claim.run_id))

    def _begin(
        self,
        db: sqlite3.Connection,
        beginning: dict[str, tuple[int, Claimed]],
        answers: dict[int, Claimed | Exception],
    ) -> None:
        if not beginning:
            return
        parameters: list[Any] = []
        for _, claimed in beginning.values():
            parameters += structs.astuple(claimed.row)[1:]
        statement = sql.INSERT_RUNS.format(rows=_rows(sql.RUN_ROW, len(beginning)))
        for number, thread_id in db.execute(statement, parameters).fetchall():
            index, claimed = beginning[thread_id]
            row = structs.replace(claimed.row, number=number)
            answers[index] = structs.replace(claimed, row=row)

    def _check_idle(self, db: sqlite3.Connection, thread_id: str, owner: str | None) -> None:
        row = one_run(db, sql.SELECT_LATEST, (thread_id,))
        if row and row.owner not in (None, owner) and not self._is_gone(db, str(row.owner)):
            raise ThreadBusy(thread_id, f"run {row.run_id!r} is executed by {row.owner}")

    def _gone_owners(self, db: sqlite3.Connection) -> list[str]:
        owners = (row[0] for row in db.execute(sql.SELECT_OWNERS).fetchall())
        return [owner for owner in owners if owner != self._owner and self._is_gone(db, owner)]

    def _is_gone(self, db: sqlite3.Connection, owner: str) -> bool:
        lease = db.execute(sql.SELECT_LEASE, (owner,)).fetchone()
        if lease is None or OwnerLock.is_free(self._owner_path(owner)):
            return True
        if lease[0] != _boot_id() and "" not in (lease[0], _boot_id()):
            return False  # it lives beside another kernel, whose clock says nothing here
        # Where one of us has no /proc, a lock that is held tells that this is one machine.
        return lease[1] < self._lease_time() and not self._is_renewed(owner)

    def _is_renewed(self, owner: str) -> bool:
        """Whether a lease is kept that has run out: time was skipped, and nobody could renew it."""
        return self._lease_time != boot_time and owner in _serving

    def _uri(self, mode: Literal["rw", "rwc"]) -> str:
        """The file's name for SQLite; only ``rwc`` makes a file where there is none."""
        return f"{Path(self._file).as_uri()}?mode={mode}"

    def _owner_path(self, owner: str) -> str:
        return f"{self._file}-owner-{owner}"

    def _check_path(self) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise StoreError(f"{self.path} cannot be opened: there is no folder {folder}")
        if os.path.isdir(self.path):
            raise StoreError(f"{self.path} is a folder, not a database file")
        if not os.path.basename(self.path):
            raise StoreError(f"{self.path} would be a folder: name the file without {os.sep!r}")
        self._check_kinds()
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            # Before SQLite makes a WAL and an index beside it that are read-only as well.
            raise StoreError(f"{self.path}: {READ_ONLY}")
        log, size = f"{os.path.realpath(self.path)}-wal", _size_of(self.path)
        if size and size < sql.SMALLEST_PAGE:  # SQLite would take it for an empty one
            raise StoreError(f"{self.path}: {DAMAGED}")
        if size == 0 and _size_of(log):
            # SQLite would delete the WAL, as if it were a stranger's.
            raise StoreError(f"{self.path} is empty, and {log} is not: restore both from a backup")

    def _check_kinds(self) -> None:
        """Refuse what is no file of its own, before SQLite says that a disk has failed."""
        real = os.path.realpath(self.path)
        for path in (real, *(f"{real}-{each}" for each in ("wal", "shm", "journal", "lock"))):
            try:
                found = os.stat(path)
            except OSError:
                continue  # there is none, or opening it will tell more
            if not stat.S_ISREG(found.st_mode):
                if path == real:
                    raise StoreError(f"{self.path} is not a regular file, as a database has to be")
                raise StoreError(
                    f"{self.path} cannot be opened: {path} is not a regular file; remove it, or "
                    "give the database another name"
                )
            if path == real and found.st_nlink > 1:
                raise StoreError(
                    f"{self.path} has more than one name (hard links): each would have a log of "
                    "its own, and they would destroy the file: copy it, or remove the other names"
                )

    def _check_apart(self, _: sqlite3.Connection) -> None:
        """Refuse what is not ours, or is damaged, by connections that cannot write.

        The last one to close a file that it has looked at would copy the WAL into it.
        """
        if not _size_of(f"{self._file}-wal"):
            self._look_apart("immutable=1", self._check_ours)  # leaves no other file behind
        self._look_apart("mode=ro", self._check_sound)

    def _look_apart(self, mode: str, look: Callable[[sqlite3.Connection], object]) -> None:
        uri = f"{Path(self._file).as_uri()}?{mode}"
        # Who may write can open more than who may not, and says what is wrong with the rest.
        with contextlib.suppress(sqlite3.OperationalError), contextlib.ExitStack() as stack:
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=self._busy_timeout)
            stack.callback(db.close)
            look(db)

    def _check_sound(self, db: sqlite3.Connection) -> None:
        self._check_ours(db)
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        if pages > CHECKED_PAGES:
            return
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            error = StoreError(f"{self.path}: {DAMAGED}")
            error.add_note(f"SQLite says: {found}")
            raise error

    def _check_ours(self, db: sqlite3.Connection) -> int:
        """Refuse what is not ours, untouched; the schema that it has, or 0."""
        # One snapshot: another process may make the schema between two looks at it.
        with contextlib.nullcontext() if db.in_transaction else _Transaction(db, "DEFERRED"):
            application_id = db.execute("PRAGMA application_id").fetchone()[0]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id != sql.APPLICATION_ID and (tables or application_id):
            raise StoreError(
                f"{self.path} is a database of another application: give taskflow a file of its own"
            )
        if application_id == sql.APPLICATION_ID and schema > sql.SCHEMA:
            raise SchemaTooNew(self.path, schema, sql.SCHEMA)
        return int(schema) if application_id else 0

    def _prepare(self, db: sqlite3.Connection) -> None:
        with self._write_lock:
            # Takes effect in a file that is empty: pruning can give pages back then.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreError(f"{self.path} cannot be put into WAL mode (it stays in {mode!r})")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            # A checkpoint syncs twice and rewrites every page that a batch of random keys touched:
            # rare ones are cheaper (100,000 recorded results: 23 -> 13 µs a row, with the cache).
            db.execute("PRAGMA wal_autocheckpoint = 10000")
            db.execute("PRAGMA cache_size = -16000")
            if self._check_ours(db) != sql.SCHEMA:
                self._create(db)

    def _create(self, db: sqlite3.Connection) -> None:
        """Make the schema, or make it of an older one, in one transaction."""
        with _Transaction(db):
            # Another process may have made it while we waited.
            while (schema := self._check_ours(db)) != sql.SCHEMA:
                script = sql.MIGRATIONS[schema] if schema else sql.CREATE_SCHEMA
                for statement in script.split(";\n"):
                    db.execute(statement)

    def _prepare_reader(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA query_only = 1")
        db.execute(sql.SELECT_LEASE, (self._owner,)).fetchone()  # opens the log

    def _take_lease(self, db: sqlite3.Connection) -> None:
        with self._write_lock, _Transaction(db):
            for (owner,) in db.execute(sql.SELECT_LEASES).fetchall():
                if owner != self._owner and self._is_gone(db, owner):
                    db.execute(sql.DROP_LEASE, (owner,))
            self._renew(db)

    def _renew(self, db: sqlite3.Connection) -> None:
        db.execute(sql.RENEW_LEASE, (self._owner, _boot_id(), self._lease_time() + self._lease_ttl))

    def _drop_lease(self, db: sqlite3.Connection) -> None:
        with self._write_lock:
            db.execute(sql.DROP_LEASE, (self._owner,))

    def _open_lease(self) -> tuple[sqlite3.Connection, FileLock | contextlib.nullcontext[None]]:
        """What a lease is renewed with: opened early, while there are file descriptors."""
        lock = self._new_lock()
        try:
            db = sqlite3.connect(self._uri("rw"), **self._options, check_same_thread=False)
            db.execute(sql.SELECT_LEASE, (self._owner,)).fetchone()  # opens the log
        except BaseException:
            if isinstance(lock, FileLock):
                lock.close()
            raise
        return db, lock

    def _keep_lease(
        self,
        db: sqlite3.Connection,
        lock: FileLock | contextlib.nullcontext[None],
        owner_lock: OwnerLock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Renew the lease until the store is closed, in a thread that no busy loop can hold up."""
        owner = self._owner
        while not self._lease_end.wait(self._lease_ttl / 6):
            if loop.is_closed():  # the store was not, but nothing can be executed any more
                _serving.discard(owner)
                with contextlib.suppress(sqlite3.Error, OSError), lock:
                    db.execute(sql.DROP_LEASE, (owner,))
                owner_lock.release()
                break
            # A failure is tried again after the next interval; four of five may be missed.
            with contextlib.suppress(OSError):
                owner_lock.keep()
            with contextlib.suppress(sqlite3.Error, OSError), lock:
                self._renew(db)
        db.close()
        if isinstance(lock, FileLock):
            lock.close()

    def _new_lock(self) -> FileLock | contextlib.nullcontext[None]:
        """A write lock. One open file cannot tell two threads of a process apart: each has one."""
        if sqlite3.sqlite_version_info >= sql.SAFE_WAL_VERSION:
            return contextlib.nullcontext()
        return FileLock(f"{self._file}-lock", self._busy_timeout, like=self._file)

    @contextlib.contextmanager
    def _lock_apart(self) -> Generator[None]:
        """The write lock, in another thread than the writer's."""
        lock = self._new_lock()
        try:
            with lock:
                yield
        finally:
            if isinstance(lock, FileLock):
                lock.close()

    def _begin_snapshot(self, db: sqlite3.Connection) -> None:
        with self._files:
            history.begin_snapshot(db)

    def _close_apart(self, db: sqlite3.Connection) -> None:
        with self._lock_apart():  # whoever closes last checkpoints
            db.close()

    # Small writes, made in the middle of other work.

    async def _paced(
        self, pace: history.Pace, work: Callable[[sqlite3.Connection], T], *, alone: bool = False
    ) -> T:
        def timed(db: sqlite3.Connection) -> T:
            with self._files, self._write_lock:
                begun = time.monotonic()
                with contextlib.nullcontext() if alone else _Transaction(db):
                    done = work(db)
                pace.note(time.monotonic() - begun)
                return done

        done = await self._trip(self._opened(self._writer), timed)
        if pace.writes % CHECKPOINT_WRITES == 0:
            # A WAL that has grown would be checkpointed by somebody's commit, for a long time.
            await self._write(history.checkpoint, alone=True)
        await anyio.sleep(PAUSE)
        return done

    async def _give_back(self, pace: history.Pace) -> None:
        """Cut free pages off the end of the file, if it was made for that, and empty the WAL."""
        free, before = await self._look(history.free_pages), math.inf
        while 0 < free < before:
            await self._paced(pace, partial(history.shrink, pages=pace.rows), alone=True)
            free, before = await self._look(history.free_pages), free
        await self._write(partial(history.checkpoint, mode="TRUNCATE"), alone=True)

    # Trips to a connection's thread.

    async def _connect(self, mode: Literal["rw", "rwc"] = "rw") -> aiosqlite.Connection:
        threads: list[threading.Thread] = []

        def connected(*args: Any, **options: Any) -> _Connection:
            threads.append(threading.current_thread())
            return _Connection(*args, **options)

        connection = _made_in_daemon(
            lambda: aiosqlite.connect(self._uri(mode), **self._options, factory=connected)
        )
        try:
            with outside():
                return await connection
        except sqlite3.Error as error:
            # It still has to tell this loop that it ends, which may be closed a moment later.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(threads[0].join)
            with self._files:  # that it is gone says more
                raise self._explained(error) from error

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        def locked(db: sqlite3.Connection) -> T:
            transaction = contextlib.nullcontext() if alone else _Transaction(db)
            with self._files, self._write_lock, transaction:
                return work(db)

        return await self._trip(self._opened(self._writer), locked)

    async def _read(self, query: str, parameters: Any, make: Callable[[Any], T]) -> list[T]:
        """What ``make`` makes of each row, in the connection's thread: there may be very many."""
        return await self._look(
            lambda db: [make(row) for row in db.execute(query, parameters).fetchall()]
        )

    async def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def checked(db: sqlite3.Connection) -> T:
            with self._files:
                return work(db)

        return await self._trip(self._opened(self._reader), checked)

    async def _trip(
        self, connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]
    ) -> T:
        """Call ``work`` in the connection's thread; a cancelled wait goes on until it has ended."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def kept(db: sqlite3.Connection) -> None:
            try:
                outcome.append(work(db))
            except BaseException as error:
                failure.append(error)

        task = asyncio.current_task()
        assert task is not None
        if self._is_leaving:
            raise self._left()
        self._trips.add(task)
        try:
            await _send(connection, kept)
        except asyncio.CancelledError as cancelled:
            # What is under way cannot be called back: wait behind it, then pass the cancellation
            # on at the caller's next await. anyio repeats itself until it meets a shield.
            with anyio.CancelScope(shield=True):
                while not (outcome or failure):
                    if self._is_leaving:
                        raise self._left() from None
                    with contextlib.suppress(asyncio.CancelledError):
                        await _send(connection, _nothing)
            # A cancelled scope repeats itself; a repetition of ours would outlive the scope.
            if anyio.current_effective_deadline() != -math.inf:
                task.uncancel()
                task.cancel(*cancelled.args)
        finally:
            self._trips.discard(task)
        if not failure:
            return outcome[0]
        error = failure[0]
        if isinstance(error, sqlite3.Error | TimeoutError | OSError | UnicodeDecodeError):
            raise self._explained(error) from error
        raise error

    def _left(self) -> StoreError:
        return StoreError(f"{self.path} was locked by somebody else while the process ended")

    def _opened(self, connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
        if connection is None:
            raise StoreError(f"{self.path} is not open: the runtime was closed, or never opened")
        return connection

    async def _close_all(self) -> None:
        if self._lease_thread is not None:
            thread, self._lease_thread = self._lease_thread, None
            # It wakes at once, but may be in the middle of a write.
            while thread.is_alive() and not self._is_leaving:
                await anyio.to_thread.run_sync(thread.join, 0.1)
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        lock, self._write_lock = self._write_lock, contextlib.nullcontext()
        self._files = contextlib.nullcontext()

        def close(db: sqlite3.Connection) -> None:
            with lock:  # whoever closes last checkpoints
                db.close()

        for connection in (reader, writer):
            if connection is not None:
                with contextlib.suppress(StoreError):
                    await self._trip(connection, close)
                if self._is_leaving:
                    continue  # its thread is a daemon
                with outside():
                    await connection.close()
        _in_use.discard(self)
        if isinstance(lock, FileLock):
            lock.close()
        owner_lock: OwnerLock | None = self.__dict__.pop("_owner_lock", None)
        if owner_lock is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(owner_lock.release)

    def _explained(self, error: BaseException) -> StoreError:
        """What SQLite says, as an error that names the file and the way out."""
        if isinstance(error, TimeoutError):
            return StoreError(self._busy_text())
        if isinstance(error, UnicodeDecodeError):  # what sqlite3 makes of text in a damaged file
            return StoreError(f"{self.path}: {DAMAGED}")
        if isinstance(error, OSError):
            advice = way_out(error)
            return StoreError(f"{self.path} cannot be used: {error}{advice and f': {advice}'}")
        code = getattr(error, "sqlite_errorcode", 0) or 0
        text = {
            sqlite3.SQLITE_FULL: NO_SPACE,
            sqlite3.SQLITE_BUSY: self._busy_text(),
            sqlite3.SQLITE_PROTOCOL: self._busy_text(),
            sqlite3.SQLITE_READONLY: READ_ONLY,
            sqlite3.SQLITE_CANTOPEN: why_not_opened(self._file),
            sqlite3.SQLITE_NOTADB: "it is not a SQLite database: give taskflow a file of its own",
            sqlite3.SQLITE_CORRUPT: DAMAGED,
            sqlite3.SQLITE_IOERR: (
                "the disk failed to read or write: it may be broken, or have reached a limit of "
                "this process (ulimit -f) or user; mend that, then run again"
            ),
        }.get(code & 0xFF, f"SQLite refused: {error}")
        explained = StoreError(text if text.startswith(self.path) else f"{self.path}: {text}")
        explained.add_note(f"SQLite says: {error} ({getattr(error, 'sqlite_errorname', '?')})")
        constraint = code & 0xFF in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG)
        if constraint or isinstance(error, sqlite3.DataError | sqlite3.InterfaceError):
            explained.row_at_fault = True
            explained.args = (f"{self.path}: a row was refused: {error}",)
        return explained

    def _busy_text(self) -> str:
        return (
            f"{self.path} was locked by somebody else for longer than busy_timeout "
            f"({self._busy_timeout:g} s): end the other program, or raise busy_timeout"
        )


class _Transaction:
    """BEGIN … COMMIT, or ROLLBACK, in the connection's own thread."""

    def __init__(
        self, db: sqlite3.Connection, mode: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
    ) -> None:
        self._db = db
        self._mode = mode

    def __enter__(self) -> None:
        self._db.execute(f"BEGIN {self._mode}")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
                return
            except BaseException:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # a full disk may have rolled it back already
            self._db.execute("ROLLBACK")


async def _send(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], None]
) -> None:
    asked: Any = work  # what `_Connection.execute` takes in place of SQL
    with outside():
        await connection.execute_fetchall(asked)


def _made_in_daemon(make: Callable[[], T]) -> T:
    """What ``make`` gives. Threads that it makes are daemons, as the one is that they are made in.

    Those of aiosqlite would keep a process from ending that never closed its runtime.
    """
    made: list[T] = []
    thread = threading.Thread(target=lambda: made.append(make()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


def _nothing(db: sqlite3.Connection) -> None:
    pass


def _rows(row: str, count: int) -> str:
    return ", ".join([row] * count)


def _size_of(path: str) -> int | None:
    """In bytes; ``None`` where there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _run_row(row: Sequence[Any]) -> RunRow:
    return RunRow(*row).verified()


class _Snapshot:
    """One thread, read in one transaction of a connection of its own."""

    def __init__(
        self, thread_id: str, trip: Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]
    ) -> None:
        self._thread_id = thread_id
        self._trip = trip

    async def runs(self, after: int, limit: int) -> Sequence[RunRow]:
        asked = self._thread_id, after, limit
        query = sql.SELECT_RUNS_OF_THREAD
        return [
            _run_row(row)
            for row in await self._trip(lambda db: db.execute(query, asked).fetchall())
        ]

    async def checkpoints(self, run_id: str, after: int, limit: int) -> Sequence[CheckpointRow]:
        asked = self._thread_id, run_id, after, limit
        query = sql.SELECT_PAGE
        return [
            checkpoint_row(row)
            for row in await self._trip(lambda db: db.execute(query, asked).fetchall())
        ]


def _continue(
    db: sqlite3.Connection, held: RunRow, claim: Claim, previous: bytes | None
) -> tuple[RunRow, Claimed]:
    place = held.thread_id, held.run_id

    def latest_checkpoint() -> int:
        row = db.execute(sql.SELECT_LATEST_CHECKPOINT, place).fetchone()
        return row[0] if row else 0

    row = update_run(db, continued(held, claim, latest_checkpoint))
    last = db.execute(sql.SELECT_LAST_SIGNAL, place).fetchone()
    if last is None:
        return row, Claimed(row, previous, waits=held.waits)
    signals = [SignalRow(*each) for each in db.execute(sql.SELECT_SIGNALS, (*place, 0))]
    return row, Claimed(row, previous, signals=signals, last_signal=last[0], waits=held.waits)


def _previous(db: sqlite3.Connection, row: RunRow) -> bytes | None:
    earlier = one_run(db, sql.SELECT_PREVIOUS, (row.thread_id, row.sequence))
    if earlier is None:
        return None
    earlier.verified()
    return earlier.result if earlier.saved is None else earlier.saved


def _unrecord(db: sqlite3.Connection, key: RunKey, task_ids: Iterable[str]) -> None:
    for task_id in task_ids:
        db.execute(
            sql.UNRECORD,
            {
                "thread_id": key.thread_id,
                "task_id": task_id,
                "wait_id": wait_id(task_id),
                "number": key.number,
                "epoch": key.epoch,
            },
        )


def _is_current(
    db: sqlite3.Connection, number: int, epoch: int, refused: dict[tuple[int, int], str]
) -> bool:
    row = db.execute(sql.SELECT_EPOCH, (number,)).fetchone()
    if row is None or row[0] != epoch or row[1] != RunStatus.RUNNING:
        refused[number, epoch] = row[1] if row else RunStatus.CANCELLED
        return False
    return True


@cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # another answer than before would make every lease void
        return ""
