"""A program that never closes its runtime, whatever that does at the time.

``python unclosed.py FOLDER WAY WORK``: the runtime does WORK, the program says ``leaves``, and
then it leaves in the way of that name.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from taskflow import (
    MemoryStore,
    RetryPolicy,
    Runtime,
    SQLiteStore,
    Store,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.sqlite.locks import FileLock

FOREVER = 20.0  # seconds: longer than anybody waits
kept: list[Any] = []  # what is alive until the interpreter ends
settings: dict[str, Any] = {}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note() -> None:
    """A body has begun."""
    settings["folder"].joinpath("begun").touch()


@task
async def body() -> None:
    note()
    await anyio.sleep_forever()


@task
def blocked() -> None:
    note()
    time.sleep(FOREVER)


@task(executor="process")
def remote(folder: str) -> None:
    Path(folder, "begun").touch()
    time.sleep(FOREVER)


@task(retry=RetryPolicy(max_attempts=2, initial_interval=FOREVER))
async def failing() -> None:
    note()
    raise ValueError("not yet")


@task
async def quick(number: int) -> int:
    return number


@task
async def hit(number: int) -> int:
    """The seventh is where the signal comes that ends the process."""
    await anyio.lowlevel.checkpoint()
    if number == 7:
        signal.raise_signal(signal.SIGTERM)
    return number


@workflow
async def bodies() -> None:
    await body()


@workflow
async def threads() -> None:
    await blocked()


@workflow
async def processes() -> None:
    await remote(str(settings["folder"]))


@workflow
async def backs_off() -> None:
    await failing()


@workflow
async def busy() -> None:
    note()
    for start in range(0, 1_000_000, 20):
        await quick.map(range(start, start + 20))


@workflow
async def locked() -> None:
    """Somebody else has locked the database when the process leaves."""
    await body()


@workflow
async def asks() -> None:
    note()
    await receive("answer")


@workflow
async def naps() -> None:
    note()
    await sleep(FOREVER)


@workflow
async def hits() -> None:
    await hit(7)


@workflow
async def hits_map() -> None:
    await hit.map(range(20))


@workflow
async def hits_commit() -> None:
    await asyncio.gather(*map(quick, range(20)))


WORKFLOWS = {
    each.name: each
    for each in (
        bodies, threads, processes, backs_off, busy, locked, asks, naps, hits, hits_map, hits_commit
    )
}  # fmt: skip


class HitStore(SQLiteStore):
    """The signal comes in the middle of the second commit."""

    commits = 0

    async def commit(self, batch: Batch) -> Committed:
        self.commits += 1
        if self.commits == 2:
            signal.raise_signal(signal.SIGTERM)
        return await super().commit(batch)


def lock(path: Path) -> None:
    """Keep everybody from writing, as long as the process lives."""
    guard = FileLock(f"{path}-lock", timeout=FOREVER)
    guard.__enter__()
    db = sqlite3.connect(path, isolation_level=None, timeout=FOREVER)
    db.execute("BEGIN IMMEDIATE")
    kept.append((guard, db))


async def begin(name: str, way: str) -> None:
    """Have a runtime do what ``name`` says."""
    path = settings["folder"] / "taskflow.db"
    store: Store = MemoryStore() if way == "trio" else SQLiteStore(path)
    if name == "hits_commit":
        store = HitStore(path)
    runtime = Runtime(store, workflows=WORKFLOWS.values(), recover=name == "recovers")
    kept.append(runtime)
    if name == "opens":
        kept.append(asyncio.create_task(runtime.open()))
        await anyio.lowlevel.checkpoint()
        return
    await runtime.open()
    if name in WORKFLOWS:
        if name.startswith("hits"):
            say("leaves")
        kept.append(await runtime.start(WORKFLOWS[name](), thread_id="t"))
        while not settings["folder"].joinpath("begun").exists():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        if name == "locked":
            lock(path)
        while name in ("asks", "naps") and (await runtime.get("t")).status != "paused":  # noqa: ASYNC110
            await anyio.sleep(0.01)
    elif name == "block":
        kept.append(block := runtime.thread("t"))
        await block.__aenter__()
    elif name == "watches":
        kept.append(asyncio.create_task(watch(runtime)))
        await anyio.lowlevel.checkpoint()


async def watch(runtime: Runtime) -> None:
    async with runtime.subscribe("t") as events:
        async for _ in events:
            pass


async def main(name: str, way: str) -> None:
    await begin(name, way)
    say("leaves")
    if way == "raise":
        raise ValueError("main has failed")
    if way == "exit":
        sys.exit(7)
    if way == "interrupt":
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()


def leave(way: str, name: str) -> None:
    """Run the loop to its end, in every way that closes nothing."""
    if way == "trio":
        anyio.run(main, name, way, backend="trio")
    elif way == "thread":
        kept.append(threading.Thread(target=lambda: asyncio.run(main(name, way))))
        kept[0].start()
    elif way == "daemon":
        thread = threading.Thread(target=stop, args=(way, name), daemon=True)
        thread.start()
        thread.join()
    elif way in ("stop", "close", "drop"):
        stop(way, name)
    else:
        asyncio.run(main(name, way))


def stop(way: str, name: str) -> None:
    """The same without the cleanup that `asyncio.run` does."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main(name, way))
    if way in ("close", "drop"):
        loop.close()
    if way == "drop":
        kept.clear()
    else:
        kept.append(loop)


def terminate(*_: object) -> None:
    sys.exit(5)


if __name__ == "__main__":
    settings["folder"] = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, terminate)
    leave(*sys.argv[2:])
