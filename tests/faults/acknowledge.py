"""A program that notes each result as soon as it sees it, for a loss of power at any moment.

``python acknowledge.py FOLDER MODE``: MODE is ``FULL`` or ``NORMAL``, as the store has it; or what
the promise does not cover: ``OFF``, where SQLite syncs nothing, and ``async``, where a result is
seen before it is committed. Each line of FOLDER/seen is one write.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import anyio

from taskflow import Runtime, SQLiteStore, receive, task, workflow

STEPS = 12
LASTING = 5  # threads that stay; as many runs of another one are pruned
PAGES = 40  # in the WAL, before it is copied into the file

bodies: list[str] = []  # that were executed
note: Callable[[str], None] = bodies.append  # where results are noted that were seen


@task
async def step(thread: int, number: int, padding: str) -> str:
    bodies.append(f"step {thread} {number}")
    return f"{thread}:{number}:{padding}"


@task
async def total(thread: int, parts: list[str]) -> int:
    bodies.append(f"total {thread}")
    return sum(map(len, parts)) + sum([len(await step(thread, 100 + each, "-")) for each in (0, 1)])


@workflow
async def climb(thread: int) -> int:
    parts: list[str] = []
    for number in range(STEPS):
        parts.append(await step(thread, number, "x" * (400 * (number % 4))))
        note(f"step {thread} {number}")
    parts += [await receive("word", str)]
    note(f"word {thread}")
    result = await total(thread, parts)
    note(f"total {thread}")
    return result


def expected(thread: int) -> int:
    """The result of `climb`."""
    parts = [f"{thread}:{each}:{'x' * (400 * (each % 4))}" for each in range(STEPS)]
    inner = [f"{thread}:{100 + each}:-" for each in (0, 1)]
    return sum(map(len, [*parts, f"word {thread}", *inner]))


async def climbed(runtime: Runtime, thread: int) -> None:
    """Run one to its end; those from LASTING on share a thread, on which the last run stays."""
    thread_id = f"t{thread}" if thread < LASTING else "pruned"
    handle = await runtime.start(climb(thread), thread_id=thread_id, run_id=f"r{thread}")
    await runtime.send(thread_id, "word", f"word {thread}", id=f"{thread}")
    note(f"sent {thread}")
    await handle.result()
    note(f"run {thread}")


async def main(folder: Path, mode: str) -> None:
    global note
    seen = os.open(folder / "seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(line: str) -> None:
        os.write(seen, f"{line}\n".encode())

    note = write
    synchronous: Literal["FULL", "NORMAL"] = "NORMAL" if mode == "NORMAL" else "FULL"
    store = SQLiteStore(folder / "taskflow.db", synchronous=synchronous)
    durability: Any = "async" if mode == "async" else "sync"
    async with Runtime(store, durability=durability) as runtime:

        def prepare(db: sqlite3.Connection) -> None:
            db.execute(f"PRAGMA wal_autocheckpoint = {PAGES}")
            if mode == "OFF":
                db.execute("PRAGMA synchronous = OFF")

        await store.session.writer.trip(prepare)
        note("ready")
        async with anyio.create_task_group() as group:
            for thread in range(LASTING):
                group.start_soon(climbed, runtime, thread)
            for thread in range(LASTING, 2 * LASTING):
                await climbed(runtime, thread)
                await runtime.prune(finished_before=timedelta(0), keep_last=1)
        note("end")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
