"""Advisory locks on files: who writes now, and whose process is still alive.

The operating system lets go of a lock when the process that holds it dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType

__all__ = ("FileLock", "OwnerLock")

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
else:
    import fcntl

    def _try_lock(fd: int, mode: int = fcntl.LOCK_EX) -> bool:
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_unlocked(fd: int) -> bool:
        # Shared: two who ask at the same moment do not take each other for the owner.
        return _try_lock(fd, fcntl.LOCK_SH)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class FileLock:
    """A lock that is held around every write, from the one thread that writes.

    Entering waits up to ``timeout`` seconds and raises TimeoutError after that.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._timeout = timeout

    def __enter__(self) -> None:
        self._acquire()
        try:
            while not _is_file_at(self._fd, self._path):
                # It was deleted, and whoever comes now locks another one.
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                os.close(self._fd)
                self._fd = fd
                self._acquire()
        except BaseException:
            with contextlib.suppress(OSError):  # it may be somebody else's by now
                _unlock(self._fd)
            raise

    def _acquire(self) -> None:
        if _try_lock(self._fd):
            return
        deadline = time.monotonic() + self._timeout
        pause = 0.0005
        while not _try_lock(self._fd):
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
        _unlock(self._fd)

    def close(self) -> None:
        """Close the file; the lock is not held any more."""
        os.close(self._fd)


class OwnerLock:
    """The lock that a runtime holds on a file of its own for as long as it lives."""

    def __init__(self, path: str) -> None:
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            # Between the two calls somebody may have taken us for dead and removed the file.
            if _try_lock(self._fd) and _is_file_at(self._fd, path):
                return
            os.close(self._fd)

    def keep(self) -> None:
        """Make the file again if somebody has deleted it: without it we are taken for dead."""
        if not _is_file_at(self._fd, self._path):
            successor = OwnerLock(self._path)
            os.close(self._fd)
            self._fd = successor._fd

    def release(self) -> None:
        """Remove the file and let go of the lock."""
        _remove(self._path)
        os.close(self._fd)

    @staticmethod
    def is_free(path: str) -> bool:
        """Whether nobody holds the lock at ``path``; a file that was left behind is removed."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            if not _is_unlocked(fd):
                return False
            if _is_file_at(fd, path):
                _remove(path)
            return True
        finally:
            os.close(fd)


def _is_file_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    # Windows keeps a file that somebody has open; it is found free the next time.
    with contextlib.suppress(OSError):
        os.unlink(path)
