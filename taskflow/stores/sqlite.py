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
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeVar

import aiosqlite
import anyio
import anyio.to_thread
from msgspec import structs

from taskflow.errors import (
    SchemaTooNew,
    StoreError,
    TaskflowError,
    ThreadBusy,
)
from taskflow.records import (
    Batch,
    CacheEntry,
    Checkpoint,
    CheckpointRow,
    Claim,
    Claimed,
    Committed,
    Finish,
    Recorded,
    RunRow,
    RunStatus,
)
from taskflow.stores.base import decide
from taskflow.stores.locks import FileLock, OwnerLock

__all__ = ("SQLiteStore",)

T = TypeVar("T")

APPLICATION_ID: Final = 0x7461_736B  # "task"
SCHEMA: Final = 1
SAFE_WAL_VERSION: Final = (3, 51, 3)
OLDEST_VERSION: Final = (3, 35, 0)  # RETURNING, UPDATE … FROM

CREATE_SCHEMA: Final = f"""
CREATE TABLE run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    input BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL,
    result BLOB,
    error BLOB,
    saved BLOB,
    owner TEXT,
    epoch INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    checksum INTEGER NOT NULL,
    UNIQUE (thread_id, run_id),
    UNIQUE (thread_id, sequence)
);
CREATE UNIQUE INDEX run_unfinished ON run (thread_id) WHERE status NOT IN ('success', 'cancelled');
CREATE INDEX run_status ON run (status, number);
CREATE TABLE checkpoint (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    parent_id TEXT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    arguments TEXT,
    attempts INTEGER NOT NULL,
    started REAL NOT NULL,
    finished REAL NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (thread_id, task_id)
);
CREATE INDEX checkpoint_run ON checkpoint (thread_id, run_id);
CREATE TABLE cache (
    task_name TEXT NOT NULL,
    key TEXT NOT NULL,
    payload BLOB NOT NULL,
    expires REAL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (task_name, key)
);
CREATE TABLE lease (
    owner TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    expires REAL NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA};
"""

# The join is the fence: a row whose run has another epoch by now, or has ended, is not inserted,
# and is missing in the row count. CROSS JOIN keeps the values outside and the look-up by primary
# key inside.
INSERT_CHECKPOINTS: Final = """
INSERT INTO checkpoint (thread_id, run_id, task_id, parent_id, name, kind, payload, arguments,
    attempts, started, finished, checksum)
SELECT run.thread_id, run.run_id, new.column3, new.column4, new.column5, new.column6, new.column7,
    new.column8, new.column9, new.column10, new.column11, new.column12
FROM (VALUES {rows}) AS new
CROSS JOIN run ON run.number = new.column1 AND run.epoch = new.column2
    AND run.status = 'running'
"""
CHECKPOINT_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
MAX_ROWS: Final = 1000  # of 12 parameters each: SQLite takes 32,766 a statement

FINISH_RUNS: Final = """
UPDATE run SET status = done.column3, result = done.column4, error = done.column5,
    saved = done.column6, finished = done.column7, checksum = done.column8, owner = NULL
FROM (VALUES {rows}) AS done
WHERE run.number = done.column1 AND run.epoch = done.column2 AND run.status = 'running'
RETURNING run.number, run.epoch
"""
FINISH_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"

SELECT_EPOCH: Final = "SELECT epoch, status FROM run WHERE number = ?"
UNRECORD: Final = """
DELETE FROM checkpoint WHERE thread_id = :thread_id AND task_id = :task_id AND EXISTS (
    SELECT 1 FROM run WHERE number = :number AND epoch = :epoch)
"""
PUT_CACHED: Final = "INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?, ?)"
SELECT_CACHED: Final = """
SELECT task_name, key, payload, expires, checksum FROM cache
WHERE task_name = ? AND (expires IS NULL OR expires > ?) AND key IN ({rows})
"""
CLEAR_CACHE: Final = "DELETE FROM cache WHERE task_name = ?"

RUN_COLUMNS: Final = ", ".join(RunRow.__struct_fields__)
SELECT_LATEST: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? ORDER BY sequence DESC LIMIT 1
"""
SELECT_RUN: Final = f"SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? AND run_id = ?"
SELECT_RUNS: Final = f"""
SELECT {RUN_COLUMNS} FROM run
WHERE (:status IS NULL OR status = :status) AND (:workflow IS NULL OR workflow = :workflow)
    AND (:before IS NULL OR number < :before)
ORDER BY number DESC LIMIT :limit
"""
# The latest run of each of several threads.
SELECT_HEADS: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE number IN (
    SELECT (SELECT number FROM run WHERE thread_id = asked.column1 ORDER BY sequence DESC LIMIT 1)
    FROM (VALUES {{rows}}) AS asked)
"""
INSERT_RUNS: Final = f"""
INSERT INTO run ({RUN_COLUMNS.removeprefix("number, ")}) VALUES {{rows}} RETURNING number, thread_id
"""
RUN_ROW: Final = f"({', '.join('?' * (len(RunRow.__struct_fields__) - 1))})"
UPDATE_RUN: Final = """
UPDATE run SET status = :status, result = :result, error = :error, saved = :saved, owner = :owner,
    epoch = :epoch, started = :started, finished = :finished, checksum = :checksum
WHERE number = :number
"""
SELECT_PREVIOUS: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? AND sequence < ? AND status = 'success'
ORDER BY sequence DESC LIMIT 1
"""
# A payload that somebody has edited is text, and its checksum is that of bytes.
LOAD: Final = """
SELECT sequence, task_id, parent_id, kind, CAST(payload AS BLOB), checksum FROM checkpoint
WHERE thread_id = ? AND run_id = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""
CHECKPOINT_COLUMNS: Final = ", ".join(
    "CAST(checkpoint.payload AS BLOB)" if name == "payload" else f"checkpoint.{name}"
    for name in Checkpoint.__struct_fields__
    if name not in ("number", "epoch")
)
SELECT_CHECKPOINTS: Final = f"""
SELECT checkpoint.sequence, checkpoint.run_id, run.number, run.epoch, {CHECKPOINT_COLUMNS}
FROM checkpoint JOIN run USING (thread_id, run_id)
WHERE checkpoint.thread_id = :thread_id AND (:run_id IS NULL OR checkpoint.run_id = :run_id)
ORDER BY checkpoint.sequence
"""
SELECT_RUN_OF_CALL: Final = """
SELECT run_id, parent_id FROM checkpoint WHERE thread_id = ? AND task_id = ?
"""
DELETE_CALL: Final = "DELETE FROM checkpoint WHERE thread_id = ? AND task_id = ?"
DELETE_CHECKPOINTS: Final = "DELETE FROM checkpoint WHERE thread_id = ?"
DELETE_RUNS: Final = "DELETE FROM run WHERE thread_id = ?"

RENEW_LEASE: Final = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)"
SELECT_LEASE: Final = "SELECT boot_id, expires FROM lease WHERE owner = ?"
DROP_LEASE: Final = "DELETE FROM lease WHERE owner = ?"
SELECT_LEASES: Final = "SELECT owner FROM lease"


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
        self._lease_ttl = lease_ttl
        self._owner = ""
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._write_lock: FileLock | contextlib.nullcontext[None] = contextlib.nullcontext()
        self._lease_end = threading.Event()
        self._lease_thread: threading.Thread | None = None

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
        if sqlite3.sqlite_version_info < OLDEST_VERSION:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
        self._check_path()

        self._file = os.path.realpath(self.path)  # noqa: ASYNC240 - a local disk, once
        self._owner = owner
        try:
            self._writer = await self._connect()
            await self._trip(self._writer, self._check_ours)
            if sqlite3.sqlite_version_info < SAFE_WAL_VERSION:
                self._write_lock = FileLock(f"{self._file}-lock", self._busy_timeout)
            await self._trip(self._writer, self._prepare)
            self._owner_lock = OwnerLock(self._owner_path(owner))
            await self._trip(self._writer, self._take_lease)
            self._reader = await self._connect()
            await self._trip(self._reader, lambda db: db.execute("PRAGMA query_only = 1"))
        except BaseException as error:
            await self._close_all()
            if isinstance(error, OSError):
                raise StoreError(f"{self.path} cannot be opened: {error}") from error
            raise
        self._lease_end.clear()
        self._lease_thread = threading.Thread(
            target=self._keep_lease, name="taskflow lease", daemon=True
        )
        self._lease_thread.start()

    async def close(self, owner: str) -> None:
        if self._writer is None:
            return
        self._lease_end.set()
        with contextlib.suppress(
            StoreError
        ):  # the file may be full or gone: the lock tells as much
            await self._trip(self._writer, self._drop_lease)
        await self._close_all()

    async def commit(self, batch: Batch) -> Committed:
        # One statement is a transaction by itself, and each statement hands the interpreter lock
        # to the event loop's thread and back.
        alone = len(batch.checkpoints) <= MAX_ROWS and not (
            batch.cached or batch.unrecords or batch.finishes or batch.claims
        )
        return await self._write(lambda db: self._apply(db, batch), alone=alone)

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        rows = await self._read(LOAD, (run.thread_id, run.run_id, after, limit))
        return [Recorded(*row) for row in rows]

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        if run_id is None:
            rows = await self._read(SELECT_LATEST, (thread_id,))
        else:
            rows = await self._read(SELECT_RUN, (thread_id, run_id))
        return _run_row(rows[0]) if rows else None

    async def runs(
        self, status: str | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[RunRow]:
        asked = {"status": status, "workflow": workflow, "before": before, "limit": limit}
        return [_run_row(row) for row in await self._read(SELECT_RUNS, asked)]

    async def checkpoints(self, thread_id: str, run_id: str | None) -> Sequence[CheckpointRow]:
        rows = await self._read(SELECT_CHECKPOINTS, {"thread_id": thread_id, "run_id": run_id})
        return [CheckpointRow(row[0], row[1], Checkpoint(*row[2:])) for row in rows]

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        query = SELECT_CACHED.format(rows=", ".join("?" * len(keys)))
        rows = await self._read(query, (task_name, now, *keys))
        return [CacheEntry(*row) for row in rows]

    async def clear_cache(self, task_name: str) -> int:
        return await self._write(lambda db: int(db.execute(CLEAR_CACHE, (task_name,)).rowcount))

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            found = db.execute(SELECT_RUN_OF_CALL, (thread_id, task_id)).fetchone()
            if found is None:
                return False
            self._check_idle(db, thread_id, owner)
            run_id = found[0]
            next_id: str | None = task_id
            while next_id is not None:
                db.execute(DELETE_CALL, (thread_id, next_id))
                next_id = found[1]
                found = db.execute(SELECT_RUN_OF_CALL, (thread_id, next_id)).fetchone()
                if found is None:
                    break
            latest = _one_run(db, SELECT_LATEST, (thread_id,))
            if latest and latest.run_id == run_id and latest.status == RunStatus.SUCCESS:
                _update(
                    db,
                    latest.verified(),
                    status=RunStatus.RUNNING,
                    result=None,
                    saved=None,
                    finished=None,
                )
            return True

        return await self._write(work)

    async def cancel(self, thread_id: str, now: float) -> RunRow | None:
        def work(db: sqlite3.Connection) -> RunRow | None:
            row = _one_run(db, SELECT_LATEST, (thread_id,))
            if row is not None and not row.is_final:
                _cancel(db, row.verified(), now)
            return row

        return await self._write(work)

    async def delete(self, thread_id: str, owner: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._check_idle(db, thread_id, owner)
            db.execute(DELETE_CHECKPOINTS, (thread_id,))
            return bool(db.execute(DELETE_RUNS, (thread_id,)).rowcount)

        return await self._write(work)

    # What follows runs in a connection's thread, inside the transaction of a trip.

    def _apply(self, db: sqlite3.Connection, batch: Batch) -> Committed:
        refused: dict[tuple[int, int], str] = {}
        checkpoints = batch.checkpoints
        for start in range(0, len(checkpoints), MAX_ROWS):
            self._insert(db, checkpoints[start : start + MAX_ROWS], refused)
        if batch.cached:
            db.executemany(PUT_CACHED, map(structs.astuple, batch.cached))
        for unrecord in batch.unrecords:
            key = unrecord.key
            if _is_current(db, key.number, key.epoch, refused):
                _unrecord(db, key.number, key.epoch, key.thread_id, unrecord.task_ids)
        if batch.finishes:
            self._finish(db, batch.finishes, refused)
        claims = self._claim(db, batch.claims) if batch.claims else []
        return Committed(refused, claims)

    def _insert(
        self,
        db: sqlite3.Connection,
        checkpoints: Sequence[Checkpoint],
        refused: dict[tuple[int, int], str],
    ) -> None:
        parameters: list[Any] = []
        for checkpoint in checkpoints:
            parameters += structs.astuple(checkpoint)
        statement = INSERT_CHECKPOINTS.format(rows=_rows(CHECKPOINT_ROW, len(checkpoints)))
        if db.execute(statement, parameters).rowcount < len(checkpoints):
            for number, epoch in {(each.number, each.epoch) for each in checkpoints}:
                _is_current(db, number, epoch, refused)

    def _finish(
        self,
        db: sqlite3.Connection,
        finishes: Sequence[Finish],
        refused: dict[tuple[int, int], str],
    ) -> None:
        parameters: list[Any] = []
        for finish in finishes:
            key = finish.key
            if finish.unrecord:
                _unrecord(db, key.number, key.epoch, key.thread_id, finish.unrecord)
            ended = None if finish.status == RunStatus.RUNNING else finish.now
            parameters += (key.number, key.epoch, finish.status, finish.result, finish.error)
            parameters += (finish.saved, ended, finish.checksum)
        statement = FINISH_RUNS.format(rows=_rows(FINISH_ROW, len(finishes)))
        finished = db.execute(statement, parameters).fetchall()
        if len(finished) < len(finishes):
            for finish in finishes:
                if (finish.key.number, finish.key.epoch) not in finished:
                    _is_current(db, finish.key.number, finish.key.epoch, refused)

    def _claim(self, db: sqlite3.Connection, claims: Sequence[Claim]) -> list[Claimed | Exception]:
        threads = list({claim.thread_id for claim in claims})
        query = SELECT_HEADS.format(rows=_rows("(?)", len(threads)))
        latest: dict[str, RunRow] = {}
        answers: dict[int, Claimed | Exception] = {}
        beginning: dict[str, tuple[int, RunRow, bytes | None]] = {}
        for row in db.execute(query, threads).fetchall():
            latest[row[1]] = RunRow(*row)
        for index, claim in enumerate(claims):
            thread_id = claim.thread_id
            try:
                if thread_id in beginning:
                    raise ThreadBusy(thread_id, "a run begins on it at this moment")
                head = latest.get(thread_id)
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
                    row = _continue(db, held, claim)
                    latest[thread_id] = row
                    answers[index] = Claimed(row, previous)
                else:
                    sequence = head.sequence + 1 if head else 1
                    row = claim.new_row(0, sequence)
                    previous = _previous(db, row) if head else None
                    if decision == "supersede" and head:
                        _cancel(db, head, claim.now)
                    beginning[thread_id] = (index, row, previous)
            except TaskflowError as error:
                answers[index] = error
        self._begin(db, beginning, answers)
        return [answers[index] for index in range(len(claims))]

    def _known(self, db: sqlite3.Connection, claim: Claim, head: RunRow | None) -> RunRow | None:
        if claim.run_id is None or head is None:
            return None
        if head.run_id == claim.run_id:
            return head
        return _one_run(db, SELECT_RUN, (claim.thread_id, claim.run_id))

    def _begin(
        self,
        db: sqlite3.Connection,
        beginning: dict[str, tuple[int, RunRow, bytes | None]],
        answers: dict[int, Claimed | Exception],
    ) -> None:
        if not beginning:
            return
        parameters: list[Any] = []
        for _, row, _ in beginning.values():
            parameters += structs.astuple(row)[1:]
        statement = INSERT_RUNS.format(rows=_rows(RUN_ROW, len(beginning)))
        for number, thread_id in db.execute(statement, parameters).fetchall():
            index, row, previous = beginning[thread_id]
            answers[index] = Claimed(structs.replace(row, number=number), previous, is_new=True)

    def _check_idle(self, db: sqlite3.Connection, thread_id: str, owner: str) -> None:
        row = _one_run(db, SELECT_LATEST, (thread_id,))
        if row and row.owner not in (None, owner) and not self._is_gone(db, str(row.owner)):
            raise ThreadBusy(thread_id, f"run {row.run_id!r} is executed by {row.owner}")

    def _is_gone(self, db: sqlite3.Connection, owner: str) -> bool:
        lease = db.execute(SELECT_LEASE, (owner,)).fetchone()
        return (
            lease is None
            or lease[0] != _boot_id()
            or lease[1] < _boot_time()
            or OwnerLock.is_free(self._owner_path(owner))
        )

    def _owner_path(self, owner: str) -> str:
        return f"{self._file}-owner-{owner}"

    def _check_path(self) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise StoreError(f"{self.path} cannot be opened: there is no folder {folder}")
        if os.path.isdir(self.path):
            raise StoreError(f"{self.path} is a folder, not a database file")

    def _check_ours(self, db: sqlite3.Connection) -> bool:
        """Refuse what is not ours, untouched; whether there is a schema already."""
        # One snapshot: another process may make the schema between two looks at it.
        with contextlib.nullcontext() if db.in_transaction else _Transaction(db, "DEFERRED"):
            application_id = db.execute("PRAGMA application_id").fetchone()[0]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id != APPLICATION_ID and (tables or application_id):
            raise StoreError(
                f"{self.path} is a database of another application: give taskflow a file of its own"
            )
        if application_id == APPLICATION_ID and schema > SCHEMA:
            raise SchemaTooNew(self.path, schema, SCHEMA)
        return bool(application_id)

    def _prepare(self, db: sqlite3.Connection) -> None:
        with self._write_lock:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreError(f"{self.path} cannot be put into WAL mode (it stays in {mode!r})")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            # A checkpoint syncs twice and rewrites every page that a batch of random keys touched:
            # rare ones are cheaper (100,000 recorded results: 23 -> 13 µs a row, with the cache).
            db.execute("PRAGMA wal_autocheckpoint = 10000")
            db.execute("PRAGMA cache_size = -32000")
            if not self._check_ours(db):
                self._create(db)

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have made it while we waited.
            if not self._check_ours(db):
                for statement in CREATE_SCHEMA.split(";\n"):
                    db.execute(statement)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _take_lease(self, db: sqlite3.Connection) -> None:
        with self._write_lock, _Transaction(db):
            for (owner,) in db.execute(SELECT_LEASES).fetchall():
                if owner != self._owner and self._is_gone(db, owner):
                    db.execute(DROP_LEASE, (owner,))
            self._renew(db)

    def _renew(self, db: sqlite3.Connection) -> None:
        db.execute(RENEW_LEASE, (self._owner, _boot_id(), _boot_time() + self._lease_ttl))

    def _drop_lease(self, db: sqlite3.Connection) -> None:
        with self._write_lock:
            db.execute(DROP_LEASE, (self._owner,))

    def _keep_lease(self) -> None:
        """Renew the lease until the store is closed, in a thread that no busy loop can hold up."""
        while not self._lease_end.wait(self._lease_ttl / 6):
            # A failure is tried again after the next interval; four of five may be missed.
            with contextlib.suppress(sqlite3.Error, OSError), contextlib.ExitStack() as stack:
                db = sqlite3.connect(self._file, isolation_level=None, timeout=self._busy_timeout)
                stack.callback(db.close)
                if isinstance(self._write_lock, FileLock):
                    # One open file cannot tell two threads of its process apart: open another.
                    lock = FileLock(f"{self._file}-lock", self._busy_timeout)
                    stack.callback(lock.close)
                    stack.enter_context(lock)
                self._renew(db)

    # Trips to a connection's thread.

    async def _connect(self) -> aiosqlite.Connection:
        connection = aiosqlite.connect(
            self._file, isolation_level=None, timeout=self._busy_timeout, factory=_Connection
        )
        try:
            return await connection
        except sqlite3.Error as error:
            raise self._explained(error) from error

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        def locked(db: sqlite3.Connection) -> T:
            with self._write_lock, contextlib.nullcontext() if alone else _Transaction(db):
                return work(db)

        return await self._trip(self._opened(self._writer), locked)

    async def _read(self, query: str, parameters: Any) -> list[Any]:
        def work(db: sqlite3.Connection) -> list[Any]:
            return db.execute(query, parameters).fetchall()

        return await self._trip(self._opened(self._reader), work)

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

        try:
            await _send(connection, kept)
        except asyncio.CancelledError as cancelled:
            # What is under way cannot be called back: wait behind it, then pass the cancellation
            # on at the caller's next await. anyio repeats itself until it meets a shield.
            with anyio.CancelScope(shield=True):
                while not (outcome or failure):
                    with contextlib.suppress(asyncio.CancelledError):
                        await _send(connection, _nothing)
            # A cancelled scope repeats itself; a repetition of ours would outlive the scope.
            task = asyncio.current_task()
            if task is not None and anyio.current_effective_deadline() != -math.inf:
                task.uncancel()
                task.cancel(*cancelled.args)
        if not failure:
            return outcome[0]
        error = failure[0]
        if isinstance(error, sqlite3.Error | TimeoutError | OSError):
            raise self._explained(error) from error
        raise error

    def _opened(self, connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
        if connection is None:
            raise StoreError(f"{self.path} is not open: the runtime was closed, or never opened")
        return connection

    async def _close_all(self) -> None:
        if self._lease_thread is not None:
            thread, self._lease_thread = self._lease_thread, None
            # It wakes at once, but may be in the middle of a write.
            await anyio.to_thread.run_sync(thread.join)
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        lock, self._write_lock = self._write_lock, contextlib.nullcontext()

        def close(db: sqlite3.Connection) -> None:
            with lock:  # whoever closes last checkpoints
                db.close()

        for connection in (reader, writer):
            if connection is not None:
                with contextlib.suppress(StoreError):
                    await self._trip(connection, close)
                await connection.close()
        if isinstance(lock, FileLock):
            lock.close()
        owner_lock: OwnerLock | None = self.__dict__.pop("_owner_lock", None)
        if owner_lock is not None:
            owner_lock.release()

    def _explained(self, error: BaseException) -> StoreError:
        """What SQLite says, as an error that names the file and the way out."""
        if isinstance(error, TimeoutError):
            return StoreError(self._busy_text())
        if not isinstance(error, sqlite3.Error):
            return StoreError(f"{self.path} cannot be used: {error}")
        code = getattr(error, "sqlite_errorcode", 0) or 0
        text = {
            sqlite3.SQLITE_FULL: "there is no space left for it: make room, then run again",
            sqlite3.SQLITE_BUSY: self._busy_text(),
            sqlite3.SQLITE_READONLY: "it is read-only: make the file and its folder writable",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the path and its permissions",
            sqlite3.SQLITE_NOTADB: "it is not a SQLite database: give taskflow a file of its own",
            sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup",
            sqlite3.SQLITE_IOERR: "the disk failed to read or write",
        }.get(code & 0xFF, "SQLite refused")
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
    await connection.execute_fetchall(asked)


def _nothing(db: sqlite3.Connection) -> None:
    pass


def _rows(row: str, count: int) -> str:
    return ", ".join([row] * count)


def _run_row(row: Sequence[Any]) -> RunRow:
    return RunRow(*row).verified()


def _one_run(db: sqlite3.Connection, query: str, parameters: Iterable[Any]) -> RunRow | None:
    row = db.execute(query, tuple(parameters)).fetchone()
    return RunRow(*row) if row else None


def _update(db: sqlite3.Connection, row: RunRow, **changes: Any) -> RunRow:
    changed = structs.replace(row, **changes).sealed()
    db.execute(UPDATE_RUN, structs.asdict(changed))
    return changed


def _continue(db: sqlite3.Connection, row: RunRow, claim: Claim) -> RunRow:
    return _update(
        db,
        row,
        status=RunStatus.RUNNING,
        error=None,
        saved=None,
        owner=claim.owner,
        epoch=row.epoch + 1,
        started=claim.now,
        finished=None,
    )


def _cancel(db: sqlite3.Connection, row: RunRow, now: float) -> None:
    _update(db, row, status=RunStatus.CANCELLED, owner=None, epoch=row.epoch + 1, finished=now)


def _previous(db: sqlite3.Connection, row: RunRow) -> bytes | None:
    earlier = _one_run(db, SELECT_PREVIOUS, (row.thread_id, row.sequence))
    if earlier is None:
        return None
    earlier.verified()
    return earlier.result if earlier.saved is None else earlier.saved


def _unrecord(
    db: sqlite3.Connection, number: int, epoch: int, thread_id: str, task_ids: Iterable[str]
) -> None:
    for task_id in task_ids:
        db.execute(
            UNRECORD,
            {"thread_id": thread_id, "task_id": task_id, "number": number, "epoch": epoch},
        )


def _is_current(
    db: sqlite3.Connection, number: int, epoch: int, refused: dict[tuple[int, int], str]
) -> bool:
    row = db.execute(SELECT_EPOCH, (number,)).fetchone()
    if row is None or row[0] != epoch or row[1] != RunStatus.RUNNING:
        refused[number, epoch] = row[1] if row else RunStatus.CANCELLED
        return False
    return True


def _boot_time() -> float:
    """Seconds since this machine was started, also those it slept; no wall clock moves them."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
