"""A program that holds a lock on a database: ``python holder.py PATH KIND``.

``exclusive`` is a transaction of SQLite, ``advisory`` the lock on the file beside the database. At
a line of its input it takes the lock and says ``held``, at the next it lets go and says ``free``.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def transaction(path: str) -> Iterator[None]:
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("BEGIN EXCLUSIVE")
    yield
    db.execute("ROLLBACK")
    db.close()


@contextlib.contextmanager
def advisory(path: str) -> Iterator[None]:
    import fcntl

    with open(f"{path}-lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(path: str, kind: str) -> None:
    for _ in sys.stdin:
        with advisory(path) if kind == "advisory" else transaction(path):
            print("held", flush=True)  # noqa: T201
            sys.stdin.readline()
        print("free", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
