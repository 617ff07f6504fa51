"""A program to be stopped in the middle of its work, and to go on after another one has taken over.

``python stopped.py FOLDER TTL DURABILITY WHEN WORK…`` has a run of each WORK on a thread of that
name. Where it stands still it writes a line to FOLDER/standing, until there is a file FOLDER/go;
with WHEN, ``before`` or ``after``, its third commit does. It says what each run has ended with, and
then what another one does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from taskflow import Runtime, SQLiteStore, receive, task, workflow
from taskflow.errors import LeaseLost
from taskflow.stores.batches import Batch, Committed

settings: dict[str, Any] = {}


def configure(folder: Path, *, holds: bool) -> None:
    """Where effects are written, and whether this process stands still."""
    settings.update(folder=folder, holds=holds)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(file: str, words: str) -> None:
    """Append one line, which no other process can break into."""
    fd = os.open(settings["folder"] / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, f"{words}\n".encode())
    os.close(fd)


def is_held() -> bool:
    return settings["holds"] and not settings["folder"].joinpath("go").exists()


async def stand() -> None:
    """Stand still here."""
    note("standing", "here")
    while is_held():  # noqa: ASYNC110 - another process ends it
        await anyio.sleep(0.01)


@task
async def quick(number: int) -> int:
    note("effects", f"quick {number}")
    return number


@task
async def standing(number: int) -> int:
    note("effects", f"standing {number}")
    await stand()
    return number


@task
def blocked(number: int) -> int:
    note("effects", f"blocked {number}")
    note("standing", "here")
    while is_held():
        time.sleep(0.01)
    return number


@task
async def item(number: int) -> int:
    """Three go through, and three stand still."""
    return await standing(number) if number >= 3 else await quick(number)


@task
async def parent(number: int) -> int:
    return sum(await asyncio.gather(*[standing(number + each) for each in range(3)]))


@workflow
async def child(number: int) -> int:
    return await quick(-number) + await parent(number)


@workflow
async def body() -> int:
    return await quick(1) + await standing(2) + await quick(3)


@workflow
async def thread() -> int:
    return await quick(1) + await blocked(2) + await quick(3)


@workflow
async def maps() -> int:
    return await quick(1) + sum(await item.map(range(6)))


@workflow
async def children() -> int:
    return await child(10) + await quick(3)


@workflow
async def commits() -> int:
    return await quick(1) + await quick(2) + await quick(3)


@workflow
async def waits() -> int:
    """For a signal, beside a body that executes."""
    answer, number = await asyncio.gather(receive("answer", int), standing(2))
    return answer + number + await quick(3)


@workflow
async def fresh() -> str:
    return f"fresh {await quick(100)}"


async def block(runtime: Runtime) -> int:
    """The same in a block, without a workflow."""
    async with runtime.thread("block"):
        return await quick(1) + await standing(2) + await quick(3)


WORKFLOWS = {each.name: each for each in (body, thread, maps, children, commits, waits, fresh)}


class StandingStore(SQLiteStore):
    """Stands still before or after the third commit: the claim and the first result come first."""

    def __init__(self, path: Path, ttl: float, when: str) -> None:
        super().__init__(path, lease_ttl=ttl)
        self._when = when
        self._commits = 0

    async def commit(self, batch: Batch) -> Committed:
        self._commits += 1
        if self._commits == 3 and self._when == "before":
            await stand()
        committed = await super().commit(batch)
        if self._commits == 3 and self._when == "after":
            await stand()
        return committed


async def work(runtime: Runtime, name: str) -> None:
    """Have one run, and say what it has ended with."""
    try:
        if name == "block":
            await block(runtime)
        else:
            await runtime.run(WORKFLOWS[name](), thread_id=name, wait=True)
    except LeaseLost as error:
        say(f"LeaseLost {error.thread_id}")
    else:
        say(f"success {name}")


async def main(folder: str, ttl: str, durability: Any, when: str, *names: str) -> None:
    configure(Path(folder), holds=True)
    store = StandingStore(Path(folder, "taskflow.db"), float(ttl), when)
    async with Runtime(store, durability=durability, poll_interval=0.1) as runtime:
        await asyncio.gather(*[work(runtime, name) for name in names])
        say(await runtime.run(fresh(), thread_id="fresh"))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
