"""Advisory locks on files: one that is held around every write, one for as long as an owner lives.

SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint at the same instant.
With such a version every write is made under a `FileLock` beside the database; else `NoLock` does.
An `OwnerLock` is on a small file for each open runtime: if it can be taken, that runtime is dead.

The operating system lets go of a lock when the process that holds it dies, however it dies. But a
lock belongs to the open file, and a fork shares that: the child would hold it for as long as it
lives, whatever becomes of its parent. So a child closes what it was given before it does anything
else, and never unlocks it: that would be its parent's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeAlias

__all__ = ("FileLock", "NoLock", "OwnerLock", "WriteLock")

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _is_unlocked(fd: int) -> bool:
        return _try_lock(fd)

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

    def _open(path: str, like: str | None = None) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def _open_to_look(path: str) -> int:
        return os.open(path, os.O_RDWR)
else:
    import fcntl

    def _try_lock(fd: int, mode: int = fcntl.LOCK_EX) -> bool:
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_unlocked(fd: int) -> bool:
        # Shared: two processes that ask at once do not take each other for the owner.
        return _try_lock(fd, fcntl.LOCK_SH)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    def _open(path: str, like: str | None = None) -> int:
        """Open it, or make it with the mode and owner of ``like``."""
        try:
            return os.open(path, os.O_RDWR)  # O_CREAT is refused for another's in a sticky folder
        except PermissionError:
            return _open_to_look(path)  # enough for a lock
        except FileNotFoundError:
            pass
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:  # made meanwhile, or it is a link that leads nowhere
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if like is not None:
            _make_like(fd, like)
        return fd

    def _open_to_look(path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not held up by a pipe

    def _make_like(fd: int, like: str) -> None:
        """As SQLite does with its log: a user who may write the database may use the lock."""
        with contextlib.suppress(OSError):
            model = os.stat(like)
            for owner in (model.st_uid, -1):  # only root may give a file away
                with contextlib.suppress(OSError):
                    os.fchown(fd, owner, model.st_gid)
                    break
            os.fchmod(fd, stat.S_IMODE(model.st_mode) & 0o666 | 0o600)


# No fork happens while a file is opened or closed: the child would not know of it.
_forking: Final = threading.RLock()
_open_files: Final[set[_LockFile]] = set()


class _LockFile:
    """An open file that is to be locked by this process alone."""

    def __init__(self, open_: Callable[[], int]) -> None:
        with _forking:
            self._fd = open_()
            _open_files.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is; in the child of a fork none is."""
        return self in _open_files

    @property
    def fd(self) -> int:
        """Its descriptor; OSError once it was closed, as the number may be another file's."""
        if not self.is_open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fd

    def is_at(self, path: str) -> bool:
        """Whether ``path`` leads to it."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close it; it is not locked any more."""
        with _forking:
            if self.is_open:
                _open_files.discard(self)
                os.close(self._fd)


def _let_go_in_child() -> None:
    for file in [*_open_files]:
        with contextlib.suppress(OSError):
            file.close()
    _forking.release()


if sys.platform != "win32":
    os.register_at_fork(
        before=_forking.acquire,
        after_in_parent=_forking.release,
        after_in_child=_let_go_in_child,
    )


class FileLock:
    """A lock that is held around every write, from the one thread that writes.

    Entering waits up to ``timeout`` seconds and raises TimeoutError after that. A file that is made
    for it gets the mode and owner of the file ``like``.
    """

    def __init__(self, path: str, timeout: float, *, like: str | None = None) -> None:
        self._path = path
        self._like = like
        self._file = self._opened()
        self._timeout = timeout

    def _opened(self) -> _LockFile:
        return _LockFile(lambda: _open(self._path, self._like))

    def __enter__(self) -> None:
        self._acquire()
        try:
            while not self._file.is_at(self._path):
                # It was deleted, and the next process locks another one.
                file = self._opened()
                self._file.close()
                self._file = file
                self._acquire()
        except BaseException:
            with contextlib.suppress(OSError):  # its descriptor may be another file's by now
                _unlock(self._file.fd)
            raise

    def _acquire(self) -> None:
        if _try_lock(self._file.fd):
            return
        deadline = time.monotonic() + self._timeout
        pause = 0.0005
        while not _try_lock(self._file.fd):
            if time.monotonic() >= deadline:
                raise TimeoutError
            time.sleep(pause)
            pause = min(pause * 2, 0.01)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file.is_open:
            _unlock(self._file.fd)

    def close(self) -> None:
        """Close the file; the lock is not held any more."""
        self._file.close()


class NoLock(contextlib.nullcontext[None]):
    """In place of a `FileLock`, with versions of SQLite that need none."""

    def close(self) -> None:
        """Nothing is open."""


WriteLock: TypeAlias = FileLock | NoLock


class OwnerLock:
    """The lock that a runtime holds on a file of its own for as long as it lives.

    The file gets the mode and owner of the file ``like``: users who may write that have to see
    whether the runtime lives.
    """

    def __init__(self, path: str, *, like: str | None = None) -> None:
        self._path = path
        self._like = like
        while True:
            self._file = _LockFile(lambda: _open(path, like))
            # Between the two calls another process may have found it free and removed the file.
            if _try_lock(self._file.fd) and self._file.is_at(path):
                return
            self._file.close()

    def keep(self) -> None:
        """Make the file again if it was deleted: without it the runtime is taken for dead."""
        if not self._file.is_at(self._path):
            successor = OwnerLock(self._path, like=self._like)
            self._file.close()
            self._file = successor._file

    def release(self) -> None:
        """Remove the file and let go of the lock; nothing happens if that was done before."""
        if self._file.is_open:
            _remove(self._path)
            self._file.close()

    @staticmethod
    def is_free(path: str) -> bool:
        """Whether the lock at ``path`` is not held; a file that was left behind is removed."""
        try:
            file = _LockFile(lambda: _open_to_look(path))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            if not _is_unlocked(file.fd):
                return False
            if file.is_at(path):
                _remove(path)
            return True
        finally:
            file.close()


def _remove(path: str) -> None:
    # Windows keeps a file that is open; it is found free the next time.
    with contextlib.suppress(OSError):
        os.unlink(path)
