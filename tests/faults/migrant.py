"""A program that opens a database, to be killed meanwhile; it prints how many statements it took.

``python migrant.py FILE [N]``: with N it kills itself before the N-th statement. Without, it waits
for a line before it opens the file.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import anyio

from taskflow import Runtime
from taskflow.stores.sqlite import connection

taken = 0
last = 0


class Counting(connection.WorkConnection):
    """A connection that counts what it executes, and dies before the last one."""

    def execute(self, work: Any, parameters: Any = ()) -> Any:
        global taken
        if isinstance(work, str):
            taken += 1
            if taken == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(work, parameters)


async def main(path: str) -> None:
    async with Runtime(path):
        sys.stdout.write(f"{taken}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    connection.WorkConnection = Counting  # type: ignore[misc]
    if len(sys.argv) > 2:
        last = int(sys.argv[2])
    else:
        sys.stdin.readline()
    anyio.run(main, sys.argv[1])
