"""The lease of an owner on a file: its row, the lock on the owner's file, and which are gone.

An owner is gone when its lease is not there; when the lock on its file is free, which the operating
system releases as its process dies; or when its lease has run out, though its process
stands still and holds the lock. Leases run on the clock of the boot: they say nothing to another
kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import threading
from collections.abc import Callable
from functools import cache
from typing import Final

from taskflow.loops.clocks import boot_time, present
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.connection import Transaction
from taskflow.stores.sqlite.files import DatabaseFile
from taskflow.stores.sqlite.locks import OwnerLock, WriteLock
from taskflow.stores.sqlite.opening import open_log

__all__ = ("Lease", "Renewal")

# The owners whose leases are kept in this process, and the locks of those that stand still.
_serving: Final[set[str]] = set()
_standing_still: Final[list[OwnerLock]] = []


class Lease:
    """The lease of one owner, renewed by a thread of its own until `end`."""

    def __init__(self, file: DatabaseFile, owner: str, ttl: float) -> None:
        self.owner = owner
        self.thread: threading.Thread | None = None  # that renews it
        self._file = file
        self._ttl = ttl
        self._time: Callable[[], float] = (
            boot_time if present.clock is None else present.clock.elapsed
        )
        self._owner_lock: OwnerLock | None = None
        self._ended = threading.Event()

    @property
    def holds_lock(self) -> bool:
        """Whether the owner's lock is held."""
        return self._owner_lock is not None

    def lock_owner(self) -> None:
        """Take the lock that shows other processes that this one lives."""
        self._owner_lock = OwnerLock(self._file.owner_path(self.owner), like=self._file.path)

    def take(self, db: sqlite3.Connection, lock: WriteLock) -> None:
        """Begin it, and delete those of owners that are gone."""
        with lock, Transaction(db):
            for (owner,) in db.execute(sql.SELECT_LEASES).fetchall():
                if owner != self.owner and self.is_gone(db, owner):
                    db.execute(sql.DROP_LEASE, (owner,))
            self.renew(db)

    def renew(self, db: sqlite3.Connection) -> None:
        """Let it run for its whole time from now on."""
        db.execute(sql.RENEW_LEASE, (self.owner, _boot_id(), self._time() + self._ttl))

    def drop(self, db: sqlite3.Connection) -> None:
        """Delete its row: the owner is gone."""
        db.execute(sql.DROP_LEASE, (self.owner,))

    def keep(self, renewal: Renewal, loop: asyncio.AbstractEventLoop) -> None:
        """Renew it from now on, in a thread that no busy loop can hold up."""
        _serving.add(self.owner)
        self.thread = threading.Thread(
            target=self._keep, args=(renewal, loop), name="taskflow lease", daemon=True
        )
        self.thread.start()

    def _keep(self, renewal: Renewal, loop: asyncio.AbstractEventLoop) -> None:
        owner_lock = self._owner_lock
        assert owner_lock is not None
        while not self._ended.wait(self._ttl / 6):
            if loop.is_closed():  # the store was not, but nothing can be executed any more
                _serving.discard(self.owner)
                renewal.write(self.drop)
                owner_lock.release()
                break
            # A failure is tried again after the next interval; four of five may be missed.
            with contextlib.suppress(OSError):
                owner_lock.keep()
            renewal.write(self.renew)
        renewal.close()

    def end(self) -> None:
        """Renew it no more; its thread ends soon."""
        self._ended.set()
        _serving.discard(self.owner)

    def release(self) -> None:
        """Let go of the owner's lock, and remove its file."""
        owner_lock, self._owner_lock = self._owner_lock, None
        if owner_lock is not None:
            owner_lock.release()

    def stand_still(self) -> None:
        """Keep the owner's lock for as long as this process lives: only the lease runs out."""
        owner_lock, self._owner_lock = self._owner_lock, None
        if owner_lock is not None:
            _standing_still.append(owner_lock)

    # Which owners are gone.

    def gone_owners(self, db: sqlite3.Connection) -> list[str]:
        """The owners of runs that are gone."""
        owners = (row[0] for row in db.execute(sql.SELECT_OWNERS).fetchall())
        return [owner for owner in owners if owner != self.owner and self.is_gone(db, owner)]

    def is_gone(self, db: sqlite3.Connection, owner: str) -> bool:
        """Whether an owner's runs may be taken over."""
        lease = db.execute(sql.SELECT_LEASE, (owner,)).fetchone()
        if lease is None or OwnerLock.is_free(self._file.owner_path(owner)):
            return True
        if lease[0] != _boot_id() and "" not in (lease[0], _boot_id()):
            return False  # it lives beside another kernel, whose clock says nothing here
        # Where a process has no /proc, the lock that is held shows that this is one machine.
        return lease[1] < self._time() and not self._is_kept_here(owner)

    def _is_kept_here(self, owner: str) -> bool:
        """Whether a lease that has run out is kept: virtual time was skipped, and no thread ran."""
        return self._time != boot_time and owner in _serving


class Renewal:
    """What a lease is renewed with: opened early, while there are file descriptors."""

    def __init__(self, file: DatabaseFile) -> None:
        self._lock = file.new_lock()
        try:
            self._db = file.connect("mode=rw", check_same_thread=False)
            open_log(self._db)
        except BaseException:
            self._lock.close()
            raise

    def write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do a write of one statement, or leave it: the file may be full, locked or gone."""
        with contextlib.suppress(sqlite3.Error, OSError), self._lock:
            work(self._db)

    def close(self) -> None:
        """Close both."""
        self._db.close()
        self._lock.close()


@cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # another answer than before would make every lease void
        return ""
