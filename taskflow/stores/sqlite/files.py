"""The files of a database: their names, and whether the paths still lead to those that are open.

A process goes on writing into a file that was deleted or replaced while it has it open, and what is
written there is gone with its last process. SQLite does not look. So a result is handed on only
when the files that it was written to are those that the next process will find.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from taskflow.errors import StoreError
from taskflow.stores.sqlite.locks import FileLock, NoLock, WriteLock
from taskflow.stores.sqlite.statements import SAFE_WAL_VERSION

__all__ = ("DatabaseFile", "OpenFiles")

# The log holds what is not in the database yet; by the index all processes read and write it.
SUFFIXES: Final = ("", "-wal", "-shm")
TRUSTED_FOR: Final = 1.0  # seconds after a look; three files take 6 µs, a commit 200 to 400


# The databases that this process has open, and those that were open in the one that it was forked
# from. In the child SQLite takes its parent's locks for its own, and holds none: other processes
# would delete the log under it.
_in_use: Final[weakref.WeakSet[DatabaseFile]] = weakref.WeakSet()
_inherited: Final[set[str]] = set()


def _inherit() -> None:
    _inherited.update(file.path for file in _in_use)
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)


class DatabaseFile:
    """The names of a database and the files beside it, and how it is connected to."""

    def __init__(self, shown: str, busy_timeout: float) -> None:
        self.shown = shown  # the path as it was given: errors name it
        self.asked = shown if os.path.isabs(shown) else os.path.join(os.getcwd(), shown)
        # Owners and locks go by this: links and the current folder must not make it two files.
        self.path = os.path.realpath(shown)
        self.busy_timeout = busy_timeout

    @property
    def log(self) -> str:
        """The path of its write-ahead log."""
        return f"{self.path}-wal"

    @property
    def options(self) -> dict[str, Any]:
        """The options of every connection."""
        return {"uri": True, "isolation_level": None, "timeout": self.busy_timeout}

    def uri(self, query: str) -> str:
        """Its name for SQLite; only ``mode=rwc`` makes a file where there is none."""
        return f"{Path(self.path).as_uri()}?{query}"

    def connect(self, query: str, **options: Any) -> sqlite3.Connection:
        """A connection for this thread."""
        db: sqlite3.Connection = sqlite3.connect(self.uri(query), **self.options, **options)
        return db

    def owner_path(self, owner: str) -> str:
        """The path of the file that an owner keeps locked for as long as it lives."""
        return f"{self.path}-owner-{owner}"

    def new_lock(self) -> WriteLock:
        """A write lock. One open file cannot tell two threads of a process apart: each has one."""
        if sqlite3.sqlite_version_info >= SAFE_WAL_VERSION:
            return NoLock()
        return FileLock(f"{self.path}-lock", self.busy_timeout, like=self.path)

    def use(self) -> None:
        """Note that this process has it open. Raises StoreError in the child of one that had."""
        if self.path in _inherited:
            raise StoreError(
                f"{self.shown} was open in the process that this one was forked from, and cannot "
                "be opened here: start the process by spawn or forkserver, or before it is opened"
            )
        _in_use.add(self)

    def release(self) -> None:
        """Note that this process has it open no longer."""
        _in_use.discard(self)


class OpenFiles:
    """The files of a database, as this process has them open.

    A context around work on them: StoreError is raised on entering it when they were gone before,
    and on leaving it when they are gone by then, so that what was written is not handed on.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self._shown = file.shown
        self._paths = [file.path + suffix for suffix in SUFFIXES]
        if file.asked != file.path:  # links may lead elsewhere by it after a while
            self._paths.append(file.asked)
        self._opened = [os.stat(each) for each in self._paths]
        self._trusted_until = 0.0

    def __enter__(self) -> None:
        if time.monotonic() > self._trusted_until:
            self.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.check()  # also after an error: what is gone fails in ways that do not tell so

    def check(self) -> None:
        """Raise StoreError unless every path leads to the file that was opened."""
        self._trusted_until = 0.0
        for path, opened in zip(self._paths, self._opened, strict=True):
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                raise self._lost(path, "deleted") from None
            if not os.path.samestat(found, opened):
                raise self._lost(path, "replaced by another file")
            if found.st_size == 0 and path == self._paths[0]:
                raise self._lost(path, "emptied")
        self._trusted_until = time.monotonic() + TRUSTED_FOR

    def _lost(self, path: str, how: str) -> StoreError:
        which = path if path in self._paths[1 : len(SUFFIXES)] else "it"
        return StoreError(
            f"{self._shown}: {which} was {how} while it was open, and what is written now may be "
            "lost: put it back; or close every runtime that has it open, and open them again"
        )
