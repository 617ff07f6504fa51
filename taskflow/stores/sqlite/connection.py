"""Connections to a SQLite file: each has a thread, and a trip calls one function there.

The only module that imports ``aiosqlite``. A commit of several statements is one trip, and so one
transaction that no cancelled caller can leave open.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import aiosqlite
import anyio
import anyio.to_thread

from taskflow.errors import StoreError
from taskflow.loops.loop import outside
from taskflow.stores.sqlite.failures import EXPLAINED, explained
from taskflow.stores.sqlite.files import DatabaseFile

__all__ = ("Connection", "Transaction", "Trips", "WorkConnection")

T = TypeVar("T")


class _Answer:
    """The value that a trip brings back through ``execute_fetchall``."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def fetchall(self) -> Any:
        return self.value


class WorkConnection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a function, to be called in this thread."""

    def execute(self, work: Any, parameters: Any = ()) -> Any:
        if callable(work):
            return _Answer(work(self))
        return super().execute(work, parameters)


class Transaction:
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


class Trips:
    """The trips of one store that are under way, which `leave` cuts short as the process ends."""

    def __init__(self, file: DatabaseFile) -> None:
        self.file = file
        self.is_leaving = False
        self.tasks: set[asyncio.Task[Any]] = set()  # those that wait for a connection's thread

    def leave(self) -> None:
        """Have every wait end in a StoreError; what a thread does meanwhile may be done or not."""
        self.is_leaving = True
        for task in self.tasks:
            task.cancel()

    def left(self) -> StoreError:
        """The error of a wait that was cut short."""
        reason = "was locked by another connection while the process ended"
        return StoreError(f"{self.file.shown} {reason}")

    async def connect(self, mode: Literal["rw", "rwc"] = "rw") -> Connection:
        """A connection in a thread of its own. Raises sqlite3.Error."""
        threads: list[threading.Thread] = []

        def connected(*args: Any, **options: Any) -> WorkConnection:
            threads.append(threading.current_thread())
            return WorkConnection(*args, **options)

        inner = _made_in_daemon(
            lambda: aiosqlite.connect(
                self.file.uri(f"mode={mode}"), **self.file.options, factory=connected
            )
        )
        try:
            with outside():
                return Connection(await inner, self)
        except sqlite3.Error:
            # It still has to tell this loop that it ends, which may be closed a moment later.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(threads[0].join)
            raise


class Connection:
    """One connection, with the thread in which its work is done."""

    def __init__(self, inner: aiosqlite.Connection, trips: Trips) -> None:
        self._inner = inner
        self._trips = trips

    async def trip(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work`` in the connection's thread; a cancelled wait goes on until it has ended.

        Raises StoreError where SQLite or the operating system refuses.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def kept(db: sqlite3.Connection) -> None:
            try:
                outcome.append(work(db))
            except BaseException as error:
                failure.append(error)

        trips = self._trips
        task = asyncio.current_task()
        assert task is not None
        if trips.is_leaving:
            raise trips.left()
        trips.tasks.add(task)
        try:
            await self._send(kept)
        except asyncio.CancelledError as cancelled:
            # What is under way cannot be called back: wait behind it, then pass the cancellation
            # on at the caller's next await. anyio repeats itself until it meets a shield.
            with anyio.CancelScope(shield=True):
                while not (outcome or failure):
                    if trips.is_leaving:
                        raise trips.left() from None
                    with contextlib.suppress(asyncio.CancelledError):
                        await self._send(_nothing)
            # A cancelled scope repeats itself; a repetition of ours would outlive the scope.
            if anyio.current_effective_deadline() != -math.inf:
                task.uncancel()
                task.cancel(*cancelled.args)
        finally:
            trips.tasks.discard(task)
        if not failure:
            return outcome[0]
        error = failure[0]
        if isinstance(error, EXPLAINED):
            raise explained(error, trips.file) from error
        raise error

    async def end(self) -> None:
        """End its thread; what was connected is closed, by a trip or now."""
        with outside():
            await self._inner.close()

    async def _send(self, work: Callable[[sqlite3.Connection], None]) -> None:
        asked: Any = work  # what `WorkConnection.execute` takes in place of SQL
        with outside():
            await self._inner.execute_fetchall(asked)


def _made_in_daemon(make: Callable[[], T]) -> T:
    """The result of ``make``. The threads that it makes are daemons, since its own thread is one.

    Those of aiosqlite would keep a process from ending that never closed its runtime.
    """
    made: list[T] = []
    thread = threading.Thread(target=lambda: made.append(make()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


def _nothing(db: sqlite3.Connection) -> None:
    pass
