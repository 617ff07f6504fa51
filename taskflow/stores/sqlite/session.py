"""`Session`: what a store has open between `open` and `close`, and the trips that are made in it.

Every write is made under the write lock, by the one connection that writes; every result is handed
on only when the files are still those that were opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread

from taskflow.errors import SchemaTooNew, StoreError
from taskflow.stores.sqlite.connection import Connection, Transaction, Trips
from taskflow.stores.sqlite.failures import explained, not_open
from taskflow.stores.sqlite.files import DatabaseFile, OpenFiles
from taskflow.stores.sqlite.lease import Lease, Renewal
from taskflow.stores.sqlite.locks import NoLock, WriteLock
from taskflow.stores.sqlite.opening import (
    Synchronous,
    check_apart,
    check_ours,
    check_schema,
    prepare_reader,
    prepare_writer,
)
from taskflow.stores.sqlite.statements import SCHEMA
from taskflow.stores.sqlite.tables import SQLiteTables

__all__ = ("Session",)

T = TypeVar("T")


class Session:
    """A connection that writes, one that reads, the write lock and the lease of one owner."""

    def __init__(self, file: DatabaseFile, lease: Lease, synchronous: Synchronous) -> None:
        self.lease = lease
        self.trips = Trips(file)
        self.newer = 0  # the schema that a newer taskflow has given the file meanwhile
        self.tables: SQLiteTables  # of the connection that writes, once it is open
        self._file = file
        self._synchronous: Synchronous = synchronous
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._write_lock: WriteLock = NoLock()
        self._files: OpenFiles | contextlib.nullcontext[None] = contextlib.nullcontext()

    @property
    def writer(self) -> Connection:
        """The connection that writes. Raises StoreError where it is closed."""
        if self._writer is None:
            raise self._not_open()
        return self._writer

    @property
    def reader(self) -> Connection:
        """The connection that reads. Raises StoreError where it is closed."""
        if self._reader is None:
            raise self._not_open()
        return self._reader

    async def open(self) -> None:
        """Open the file, and begin the lease. Raises StoreError or SchemaTooNew."""
        file, lease = self._file, self.lease
        file.use()
        try:
            writer = self._writer = await self._connect("rwc")
            await writer.trip(lambda _: check_apart(file))
            await writer.trip(partial(check_ours, file))
            lock = self._write_lock = await writer.trip(lambda _: file.new_lock())
            self.tables = await writer.trip(lambda db: self._prepared(db, lock))
            await writer.trip(lambda _: lease.lock_owner())
            await writer.trip(lambda db: lease.take(db, lock))
            self._files = OpenFiles(file)
            reader = self._reader = await self._connect()
            await reader.trip(prepare_reader)
            renewal = await writer.trip(lambda _: Renewal(file))
        except BaseException as error:
            await self.close()
            if isinstance(error, OSError):
                raise explained(error, file) from error
            raise
        lease.keep(renewal, asyncio.get_running_loop())

    def _prepared(self, db: sqlite3.Connection, lock: WriteLock) -> SQLiteTables:
        prepare_writer(self._file, db, lock, self._synchronous)
        return SQLiteTables(db, self.lease, partial(self._check, db))

    async def end_lease(self) -> None:
        """Give up the lease: the owner's runs are free."""
        self.lease.end()
        lock = self._write_lock

        def drop(db: sqlite3.Connection) -> None:
            with lock:
                self._check(db)
                self.lease.drop(db)

        # The file may be full, gone or of a newer schema: the released owner's lock has the same
        # effect.
        with contextlib.suppress(StoreError):
            await self.writer.trip(drop)

    async def close(self) -> None:
        """Close what is open, whatever of it that is."""
        thread = self.lease.thread
        # It wakes at once, but may be in the middle of a write.
        while thread is not None and thread.is_alive() and not self.trips.is_leaving:
            await anyio.to_thread.run_sync(thread.join, 0.1)
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        lock, self._write_lock = self._write_lock, NoLock()
        self._files = contextlib.nullcontext()
        for connection in (reader, writer):
            if connection is not None:
                await self._close(connection, lock)
        self._file.release()
        lock.close()
        if self.lease.holds_lock:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.lease.release)

    async def _close(self, connection: Connection, lock: WriteLock) -> None:
        def close(db: sqlite3.Connection) -> None:
            with lock:  # the last connection to close checkpoints
                db.close()

        with contextlib.suppress(StoreError):
            await connection.trip(close)
        if not self.trips.is_leaving:  # else its thread, which is a daemon, may wait for long
            await connection.end()

    async def write(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        """Call ``work`` in a transaction, or ``alone``: it is a transaction by itself.

        Raises SchemaTooNew where the schema is a newer one by now; what is ``alone`` has to look.
        """

        def locked(db: sqlite3.Connection) -> T:
            with self._files, self._write_lock:
                if alone:
                    with self._explaining(db):
                        return work(db)
                with self.transaction(db):
                    return work(db)

        if self._writer is None:
            raise self._not_open()
        return await self._trip(self._writer, locked)

    def _check(self, db: sqlite3.Connection) -> None:
        try:
            check_schema(self._file, db)
        except SchemaTooNew as error:
            self.newer = error.found
            raise

    @contextlib.contextmanager
    def transaction(self, db: sqlite3.Connection) -> Generator[None]:
        """A transaction that writes. Raises SchemaTooNew."""
        with Transaction(db):
            self._check(db)
            yield

    @contextlib.contextmanager
    def _explaining(self, db: sqlite3.Connection) -> Generator[None]:
        """Raise SchemaTooNew in place of the errors that a newer schema causes."""
        try:
            yield
        except (sqlite3.Error, StoreError):
            with contextlib.suppress(sqlite3.Error):
                self._check(db)
            raise

    async def _trip(self, connection: Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        """Make a trip; what is under way while a newer schema ends everything is told so."""
        try:
            return await connection.trip(work)
        except Exception as error:
            if self.newer and not isinstance(error, SchemaTooNew):
                raise self._not_open() from error
            raise

    def _not_open(self) -> StoreError:
        if self.newer:
            return SchemaTooNew(self._file.shown, self.newer, SCHEMA, was_open=True)
        return not_open(self._file.shown)

    async def read(self, query: str, parameters: Any, make: Callable[[Any], T]) -> list[T]:
        """What ``make`` makes of each row, in the connection's thread: there may be very many."""
        return await self.look(
            lambda db: [make(row) for row in db.execute(query, parameters).fetchall()]
        )

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work``, which only reads. Raises SchemaTooNew for rows that may be newer."""

        def checked(db: sqlite3.Connection) -> T:
            with self._files:
                with self._explaining(db):
                    found = work(db)
                self._check(db)
                return found

        return await self._trip(self.reader, checked)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Connection]:
        """A connection of its own, in one transaction for as long as the context is open."""
        if self._reader is None:
            raise self._not_open()

        connection = await self._connect()
        try:
            await connection.trip(self._begin_snapshot)
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(StoreError):
                    await connection.trip(self._end_snapshot)
                await connection.end()

    def _begin_snapshot(self, db: sqlite3.Connection) -> None:
        with self._files:
            db.execute("PRAGMA query_only = 1")
            db.execute("BEGIN")
            self._check(db)

    def _end_snapshot(self, db: sqlite3.Connection) -> None:
        with contextlib.closing(self._file.new_lock()) as lock, lock:
            db.close()  # the last connection to close checkpoints

    async def _connect(self, mode: Literal["rw", "rwc"] = "rw") -> Connection:
        try:
            return await self.trips.connect(mode)
        except sqlite3.Error as error:
            with self._files:  # that a file is gone says more
                raise explained(error, self._file) from error
