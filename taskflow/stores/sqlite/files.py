"""The files of an open database: whether their paths still lead to them.

Whoever has a file open goes on writing into it after somebody has deleted or replaced it, and what
is written there is gone with its last process. SQLite does not look, so we do: a result is handed
on only when the files that it was written to are those that the next process will find.
"""

from __future__ import annotations

import errno
import os
import time
from types import TracebackType
from typing import Final

from taskflow.errors import StoreError

__all__ = ("NO_SPACE", "READ_ONLY", "OpenFiles", "way_out", "why_not_opened")

NO_SPACE: Final = "there is no space left for it: make room, then run again"
READ_ONLY: Final = "it is read-only: make the file and its folder writable"
NO_DESCRIPTORS: Final = (
    "this process has used up its file descriptors: close some, or raise the limit (ulimit -n)"
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

# The log holds what is not in the database yet; by the index all processes read and write it.
SUFFIXES: Final = ("", "-wal", "-shm")
TRUSTED_FOR: Final = 1.0  # seconds after a look; three files take 6 µs, a commit 200 to 400


class OpenFiles:
    """The files of the database at ``path``, as this process has them open.

    ``asked`` is the path as it was given: links may lead elsewhere by it after a while.

    A context around work on them: StoreError is raised on entering it when they were gone before,
    and on leaving it when they are gone by then, so that what was written is not handed on.
    """

    def __init__(self, path: str, shown: str, asked: str) -> None:
        self._shown = shown
        self._paths = [path + suffix for suffix in SUFFIXES]
        if asked != path:
            self._paths.append(asked)
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


def why_not_opened(path: str) -> str:
    """What keeps this process from opening a file, and the way out."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return way_out(error) or str(error)
    folder = os.path.dirname(path)
    needed = [folder, path] if os.path.exists(path) else [folder]
    if not all(os.access(each, os.W_OK) for each in needed):
        return READ_ONLY
    return "it cannot be opened: check the path and its permissions"


def way_out(error: OSError) -> str:
    """What to do about it; empty where that is not known."""
    return WAYS_OUT.get(error.errno or 0, "")
