"""Opening a file: whether it is ours and sound, its schema, and the settings of its connections.

A file that is refused is left as it was found. Each function is called in a connection's own
thread, but `check_path`, which comes before there is one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from taskflow.errors import SchemaTooNew, StoreError
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.connection import Transaction
from taskflow.stores.sqlite.failures import DAMAGED, READ_ONLY
from taskflow.stores.sqlite.files import DatabaseFile
from taskflow.stores.sqlite.locks import WriteLock

__all__ = (
    "CHECKED_PAGES",
    "Synchronous",
    "check_apart",
    "check_ours",
    "check_path",
    "check_schema",
    "open_log",
    "prepare_reader",
    "prepare_writer",
)

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

# A file of so many is looked at as a whole when it is opened (2 MiB: 10 ms): in a damaged index a
# record may be missing, and would be executed again.
CHECKED_PAGES: Final = 500


def check_path(file: DatabaseFile) -> None:
    """Raise StoreError where no database can be, or what is there would be destroyed."""
    shown = file.shown
    folder = os.path.dirname(os.path.abspath(shown))
    if not os.path.isdir(folder):
        raise StoreError(f"{shown} cannot be opened: there is no folder {folder}")
    if os.path.isdir(shown):
        raise StoreError(f"{shown} is a folder, not a database file")
    if not os.path.basename(shown):
        raise StoreError(f"{shown} would be a folder: name the file without {os.sep!r}")
    _check_kinds(file)
    if os.path.exists(shown) and not os.access(shown, os.W_OK):
        # Before SQLite makes a WAL and an index beside it that are read-only as well.
        raise StoreError(f"{shown}: {READ_ONLY}")
    size = _size_of(shown)
    if size and size < sql.SMALLEST_PAGE:  # SQLite would take it for an empty one
        raise StoreError(f"{shown}: {DAMAGED}")
    if size == 0 and _size_of(file.log):
        # SQLite would delete the WAL, as if it were a stranger's.
        raise StoreError(f"{shown} is empty, and {file.log} is not: restore both from a backup")


def _check_kinds(file: DatabaseFile) -> None:
    """Refuse what is no file of its own, before SQLite says that a disk has failed."""
    beside = (f"{file.path}-{each}" for each in ("wal", "shm", "journal", "lock"))
    for path in (file.path, *beside):
        try:
            found = os.stat(path)
        except OSError:
            continue  # there is none, or opening it will tell more
        if not stat.S_ISREG(found.st_mode):
            if path == file.path:
                raise StoreError(f"{file.shown} is not a regular file, as a database has to be")
            raise StoreError(
                f"{file.shown} cannot be opened: {path} is not a regular file; remove it, or "
                "give the database another name"
            )
        if path == file.path and found.st_nlink > 1:
            raise StoreError(
                f"{file.shown} has more than one name (hard links): each would have a log of its "
                "own, and they would destroy the file: copy it, or remove the other names"
            )


def check_apart(file: DatabaseFile) -> None:
    """Refuse what is not ours, or is damaged, by connections that cannot write.

    A connection that can write would copy the WAL into the file as it closes.
    """
    if not _size_of(file.log):
        _look_apart(file, "immutable=1", check_ours)  # leaves no other file behind
    _look_apart(file, "mode=ro", _check_sound)


def _look_apart(
    file: DatabaseFile, query: str, look: Callable[[DatabaseFile, sqlite3.Connection], object]
) -> None:
    # What only a connection that writes can open, that connection reports on.
    with contextlib.suppress(sqlite3.OperationalError), contextlib.ExitStack() as stack:
        db = file.connect(query)
        stack.callback(db.close)
        look(file, db)


def _check_sound(file: DatabaseFile, db: sqlite3.Connection) -> None:
    check_ours(file, db)
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if pages > CHECKED_PAGES:
        return
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        error = StoreError(f"{file.shown}: {DAMAGED}")
        error.add_note(f"SQLite says: {found}")
        raise error


def check_ours(file: DatabaseFile, db: sqlite3.Connection) -> int:
    """Raise if it is another application's, or newer; the schema that it has, or 0."""
    # One snapshot: another process may make the schema between two looks at it.
    with contextlib.nullcontext() if db.in_transaction else Transaction(db, "DEFERRED"):
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id != sql.APPLICATION_ID and (tables or application_id):
        raise StoreError(
            f"{file.shown} is a database of another application: give taskflow a file of its own"
        )
    if application_id == sql.APPLICATION_ID and schema > sql.SCHEMA:
        raise SchemaTooNew(file.shown, schema, sql.SCHEMA)
    return int(schema) if application_id else 0


def check_schema(file: DatabaseFile, db: sqlite3.Connection) -> None:
    """Raise SchemaTooNew where a newer taskflow has migrated the file since it was opened."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > sql.SCHEMA:
        raise SchemaTooNew(file.shown, found, sql.SCHEMA, was_open=True)


def prepare_writer(
    file: DatabaseFile, db: sqlite3.Connection, lock: WriteLock, synchronous: Synchronous
) -> None:
    """Put the file into WAL mode, make or migrate its schema, and set what this connection does."""
    with lock:
        # Takes effect in a file that is empty: pruning can give pages back then.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"{file.shown} cannot be put into WAL mode (it stays in {mode!r})")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        # A checkpoint syncs twice and rewrites every page that a batch of random keys touched:
        # rare ones are cheaper (100,000 recorded results: 23 -> 13 µs a row, with the cache).
        db.execute("PRAGMA wal_autocheckpoint = 10000")
        db.execute("PRAGMA cache_size = -16000")
        if check_ours(file, db) != sql.SCHEMA:
            _create(file, db)


def _create(file: DatabaseFile, db: sqlite3.Connection) -> None:
    """Make the schema, or make it of an older one, in one transaction."""
    with Transaction(db):
        # Another process may have made it while we waited.
        while (schema := check_ours(file, db)) != sql.SCHEMA:
            script = sql.MIGRATIONS[schema] if schema else sql.CREATE_SCHEMA
            for statement in script.split(";\n"):
                db.execute(statement)


def prepare_reader(db: sqlite3.Connection) -> None:
    """Have this connection refuse to write."""
    db.execute("PRAGMA query_only = 1")
    open_log(db)


def open_log(db: sqlite3.Connection) -> None:
    """Open the log and its index, while there are file descriptors for them."""
    db.execute(sql.SELECT_LEASE, ("",)).fetchone()


def _size_of(path: str) -> int | None:
    """In bytes; None where there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
