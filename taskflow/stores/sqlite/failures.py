"""What SQLite and the operating system refuse, as StoreErrors that name file and way out."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import Final

from taskflow.errors import StoreError
from taskflow.stores.sqlite.files import DatabaseFile

__all__ = ("DAMAGED", "EXPLAINED", "READ_ONLY", "explained", "not_open")

DAMAGED: Final = "it is damaged: restore it from a backup"
NO_SPACE: Final = "there is no space left for it: make room, then run again"
READ_ONLY: Final = "it is read-only: make the file and its folder writable"
NO_DESCRIPTORS: Final = (
    "this process has used up its file descriptors: close some, or raise the limit (ulimit -n)"
)
NOT_A_DATABASE: Final = "it is not a SQLite database: give taskflow a file of its own"
BROKEN_DISK: Final = (
    "the disk failed to read or write: it may be broken, or have reached a limit of this process "
    "(ulimit -f) or user; mend that, then run again"
)
WAYS_OUT: Final = {
    errno.EMFILE: NO_DESCRIPTORS,
    errno.ENFILE: NO_DESCRIPTORS,
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EROFS: READ_ONLY,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
}
BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
ADVICE: Final = {
    sqlite3.SQLITE_FULL: NO_SPACE,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_NOTADB: NOT_A_DATABASE,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_IOERR: BROKEN_DISK,
}
ROW_AT_FAULT: Final = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG)

# sqlite3 raises UnicodeDecodeError for text in a damaged file; FileLock raises TimeoutError.
EXPLAINED: Final = (sqlite3.Error, TimeoutError, OSError, UnicodeDecodeError)


def explained(error: BaseException, file: DatabaseFile) -> StoreError:
    """The error of one of the kinds EXPLAINED in terms of the file."""
    if isinstance(error, TimeoutError):
        return _busy(file)
    if isinstance(error, UnicodeDecodeError):
        return StoreError(f"{file.shown}: {DAMAGED}")
    if isinstance(error, OSError):
        advice = _way_out(error)
        return StoreError(f"{file.shown} cannot be used: {error}{advice and f': {advice}'}")
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    refused = _refused(error, code, file)
    refused.add_note(f"SQLite says: {error} ({getattr(error, 'sqlite_errorname', '?')})")
    return refused


def not_open(path: str) -> StoreError:
    """The error of a call on a store that is not open."""
    return StoreError(f"{path} is not open: the runtime was closed, or never opened")


def _refused(error: BaseException, code: int, file: DatabaseFile) -> StoreError:
    if code in ROW_AT_FAULT or isinstance(error, sqlite3.DataError | sqlite3.InterfaceError):
        refused = StoreError(f"{file.shown}: a row was refused: {error}")
        refused.row_at_fault = True
        return refused
    if code in BUSY:
        return _busy(file)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{file.shown}: {_why_not_opened(file.path)}")
    return StoreError(f"{file.shown}: {ADVICE.get(code, f'SQLite refused: {error}')}")


def _busy(file: DatabaseFile) -> StoreError:
    return StoreError(
        f"{file.shown} was locked by another connection for longer than busy_timeout "
        f"({file.busy_timeout:g} s): end the program that holds it, or raise busy_timeout"
    )


def _why_not_opened(path: str) -> str:
    """What keeps this process from opening a file, and the way out."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return _way_out(error) or str(error)
    folder = os.path.dirname(path)
    needed = [folder, path] if os.path.exists(path) else [folder]
    if not all(os.access(each, os.W_OK) for each in needed):
        return READ_ONLY
    return "it cannot be opened: check the path and its permissions"


def _way_out(error: OSError) -> str:
    """What to do about it; empty where that is not known."""
    return WAYS_OUT.get(error.errno or 0, "")
