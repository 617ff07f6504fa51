"""Files that commands read and write: a reader finds the previous content or all of the new one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from taskflow.cli.inputs import UsageError

__all__ = ("check_writable", "content_of", "writing")


def check_writable(file: str) -> None:
    """Raise UsageError where ``file`` cannot be a file's name."""
    if os.path.isdir(file or "."):
        raise UsageError(f"cannot write {file or 'a file without a name'}: that is a folder")
    folder = os.path.dirname(file) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"cannot write {file}: there is no folder {folder}")


def content_of(file: str) -> bytes:
    """The content of a file, or of stdin for ``-``. Raises UsageError."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(file: str) -> Generator[BinaryIO]:
    """A stream into ``file``. Raises UsageError.

    A regular file is replaced when the block ends, and stays as it was if the block raises.
    """
    path = os.path.realpath(file)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, or a terminal
        with _explained(file), open(path, "wb") as stream:
            yield stream
        return
    draft = f"{path}.{os.getpid()}.part"
    try:
        with _explained(file):
            with open(draft, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


@contextlib.contextmanager
def _explained(file: str) -> Generator[None]:
    """Raise the operating system's errors as UsageErrors that name ``file``."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error
