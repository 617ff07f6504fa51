"""`SQLiteStore`: one file, written by one connection of this process, in one trip a commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from taskflow.errors import CheckpointCorrupt, SchemaTooNew, StoreError
from taskflow.records import Pruned
from taskflow.stores import edits
from taskflow.stores.base import Snapshot
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.claims import check_idle, unknown_workflows
from taskflow.stores.commits import apply
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import CacheEntry, CheckpointRow, Recorded, RunRow, SignalRow
from taskflow.stores.sqlite import history, pruning
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.connection import Connection
from taskflow.stores.sqlite.failures import not_open
from taskflow.stores.sqlite.files import DatabaseFile
from taskflow.stores.sqlite.lease import Lease
from taskflow.stores.sqlite.opening import Synchronous, check_path
from taskflow.stores.sqlite.rows import (
    check_unknown,
    checkpoint_row,
    one_checkpoint,
    one_run,
    run_row,
    update_run,
)
from taskflow.stores.sqlite.session import Session
from taskflow.stores.sqlite.tables import SQLiteTables
from taskflow.stores.transitions import cancelled

__all__ = ("SQLiteStore",)

T = TypeVar("T")


class SQLiteStore:
    """Runs and checkpoints in one SQLite file, in WAL mode; any number of processes may share it.

    ``synchronous``: with ``"FULL"`` what was committed survives loss of power; with ``"NORMAL"`` it
    survives the death of the process, and a loss of power may take the latest commits (never the
    file's consistency). ``busy_timeout``: how many seconds to wait for a lock that another process
    holds. ``lease_ttl``: after how many seconds without a sign of life a runtime's runs may be
    taken over, where the operating system does not tell earlier that it has died. asyncio only.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
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
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._lease_ttl = lease_ttl
        self._session: Session | None = None
        self._newer = 0  # the schema that the file was given while it was open

    @property
    def where(self) -> str:
        return self.path

    @property
    def session(self) -> Session:
        """What is open. Raises StoreError where nothing is."""
        if self._session is None:
            raise self._outdated() if self._newer else not_open(self.path)
        return self._session

    def _outdated(self) -> SchemaTooNew:
        return SchemaTooNew(self.path, self._newer, sql.SCHEMA, was_open=True)

    async def open(self, owner: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise StoreError(
                f"{self.path}: SQLiteStore needs asyncio; on trio there is MemoryStore"
            ) from None
        if self._session is not None:
            raise StoreError(f"{self.path} is open already: a SQLiteStore serves one runtime")
        if sqlite3.sqlite_version_info < sql.OLDEST_VERSION:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")

        file = DatabaseFile(self.path, self._busy_timeout)
        check_path(file)
        self._newer = 0
        self._session = Session(file, Lease(file, owner, self._lease_ttl), self._synchronous)
        try:
            await self._session.open()
        except BaseException:
            self._session = None
            raise

    async def close(self, owner: str) -> None:
        session = self._session
        if session is None or owner != session.lease.owner:
            return
        if session.newer:  # calls from now on are told why
            self._newer, self._session = session.newer, None
        await session.end_lease()
        await session.close()
        self._session = None

    def leave(self) -> None:
        """End all waits for a lock in a StoreError, as the process ends.

        What is under way may be done all the same, or not, as in a process that is killed.
        """
        if self._session is not None:
            self._session.trips.leave()

    async def abandon(self, *, holds_lock: bool = False) -> None:
        """Close everything but leave the lease, as the death of this process would.

        For tests. With ``holds_lock`` as if the process stood still: its owner is gone when its
        lease, which was renewed just now, has run out.
        """
        session = self._session
        if session is None:
            return
        session.lease.end()
        if holds_lock:
            await session.write(session.lease.renew)
            session.lease.stand_still()
        await session.close()
        self._session = None

    async def commit(self, batch: Batch) -> Committed:
        # One statement is a transaction by itself, and each statement hands the interpreter lock
        # to the event loop's thread and back.
        alone = len(batch.checkpoints) <= sql.MAX_ROWS and not (
            batch.cached or batch.unrecords or batch.finishes or batch.claims or batch.signals
        )
        session = self.session
        return await session.write(lambda _: apply(batch, session.tables), alone=alone)

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        asked = run.thread_id, run.run_id, after, limit
        return await self.session.read(sql.LOAD, asked, lambda row: Recorded(*row))

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

        row = await self.session.look(work)
        return row and row.verified()

    async def runs(
        self,
        status: str | None,
        workflow: str | None,
        before: int | None,
        limit: int,
        thread_id: str | None = None,
    ) -> Sequence[RunRow]:
        asked = {"status": status, "workflow": workflow, "before": before, "limit": limit}
        if thread_id is None:
            return await self.session.read(sql.SELECT_RUNS, asked, run_row)
        asked["thread_id"] = thread_id
        return await self.session.read(sql.SELECT_RUNS_ON, asked, run_row)

    async def epochs(self, numbers: Sequence[int]) -> Mapping[int, int]:
        found: dict[int, int] = {}
        for start in range(0, len(numbers), sql.MAX_ROWS):
            asked = tuple(numbers[start : start + sql.MAX_ROWS])
            query = sql.SELECT_EPOCHS.format(rows=", ".join("?" * len(asked)))
            found.update(await self.session.read(query, asked, tuple))
        return found

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        rows: list[RunRow] = []
        for start in range(0, len(thread_ids), sql.MAX_ROWS):
            asked = thread_ids[start : start + sql.MAX_ROWS]
            query = sql.SELECT_HEADS.format(rows=sql.values("(?)", len(asked)))
            rows += await self.session.read(query, tuple(asked), lambda row: RunRow(*row))
        return rows

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        asked = thread_id, run_id, after
        return await self.session.read(sql.SELECT_SIGNALS, asked, lambda row: SignalRow(*row))

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        if after is None:
            return await self.session.read(sql.SELECT_LATEST_NEWS, (), tuple)
        return await self.session.read(sql.SELECT_NEWS, (after,), tuple)

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        session = self.session
        marks = ", ".join("?" * len(workflows))

        def work(db: sqlite3.Connection) -> list[Any]:
            query = sql.SELECT_DUE.format(names=marks)
            rows = db.execute(query, (now, *workflows, limit)).fetchall()
            query = sql.SELECT_OWNED.format(names=marks)
            for owner in session.lease.gone_owners(db):
                if len(rows) < limit:
                    rows += db.execute(query, (owner, *workflows, limit - len(rows))).fetchall()
            return rows

        return [RunRow(*row) for row in await session.look(work)]

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        session = self.session

        def work(db: sqlite3.Connection) -> list[str]:
            rows = db.execute(sql.SELECT_DUE_NAMES, (now,)).fetchall()
            for owner in session.lease.gone_owners(db):
                rows += db.execute(sql.SELECT_OWNED_NAMES, (owner,)).fetchall()
            return [row[0] for row in rows]

        return unknown_workflows(await session.look(work), workflows)

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        most = -1 if limit is None else limit
        if run_id is None:
            asked: tuple[object, ...] = thread_id, after, most
            return await self.session.read(sql.SELECT_CHECKPOINTS, asked, checkpoint_row)
        asked = thread_id, run_id, after, most
        return await self.session.read(sql.SELECT_PAGE, asked, checkpoint_row)

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        return await self.session.look(lambda db: one_checkpoint(db, thread_id, task_id))

    @contextlib.asynccontextmanager
    async def snapshot(self, thread_id: str) -> AsyncGenerator[Snapshot]:
        async with self.session.snapshot() as connection:
            yield _Snapshot(thread_id, connection)

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        query = sql.SELECT_CACHED.format(rows=", ".join("?" * len(keys)))
        asked = task_name, now, *keys
        return await self.session.read(query, asked, lambda row: CacheEntry(*row))

    async def clear_cache(self, task_name: str) -> int:
        return await self.session.write(
            lambda db: int(db.execute(sql.CLEAR_CACHE, (task_name,)).rowcount)
        )

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        def work(tables: SQLiteTables) -> bool:
            check_idle(tables.runs.latest(thread_id), owner, tables.is_gone)
            return edits.forget(tables, thread_id, task_id)

        return await self._edit(work)

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        def work(tables: SQLiteTables) -> bool:
            check_idle(tables.runs.latest(thread_id), None, tables.is_gone)
            return edits.replace(tables, thread_id, task_id, payload)

        return await self._edit(work)

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        return await self._edit(lambda tables: history.fork(tables, thread_id, run_id, to, without))

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        await self.session.write(lambda db: history.adopt(db, runs, checkpoints))

    def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        return pruning.prune(self.session, ask)

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        def work(db: sqlite3.Connection) -> RunRow | None:
            if run_id is None:
                row = one_run(db, sql.SELECT_LATEST, (thread_id,))
            else:
                row = one_run(db, sql.SELECT_RUN, (thread_id, run_id))
            if row is not None and not row.is_final:
                update_run(db, cancelled(row.verified(), now))
            return row

        return await self.session.write(work)

    async def delete(self, thread_id: str, owner: str) -> bool:
        def work(tables: SQLiteTables) -> bool:
            check_idle(tables.runs.latest(thread_id), owner, tables.is_gone)
            tables.db.execute(sql.DELETE_CHECKPOINTS, (thread_id,))
            return bool(tables.db.execute(sql.DELETE_RUNS, (thread_id,)).rowcount)

        return await self._edit(work)

    async def _edit(self, work: Callable[[SQLiteTables], T]) -> T:
        session = self.session
        return await session.write(lambda _: work(session.tables))


class _Snapshot:
    """One thread, read in the transaction of a connection of its own."""

    def __init__(self, thread_id: str, connection: Connection) -> None:
        self._thread_id = thread_id
        self._connection = connection

    async def runs(self, after: int, limit: int) -> Sequence[RunRow]:
        asked = self._thread_id, after, limit
        return [run_row(row) for row in await self._rows(sql.SELECT_RUNS_OF_THREAD, asked)]

    async def checkpoints(self, run_id: str, after: int, limit: int) -> Sequence[CheckpointRow]:
        asked = self._thread_id, run_id, after, limit
        return [checkpoint_row(row) for row in await self._rows(sql.SELECT_PAGE, asked)]

    async def _rows(self, query: str, asked: tuple[object, ...]) -> list[Any]:
        return await self._connection.trip(lambda db: db.execute(query, asked).fetchall())
