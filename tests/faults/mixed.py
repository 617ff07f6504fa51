"""A program to be killed at any moment: runs that do everything that a run can do, and log it.

``python mixed.py FOLDER OWNER PACE TTL alone ROUND COUNT`` executes a round of COUNT threads after
another, until there is a file FOLDER/stop. ``… many ROUND COUNT SEED`` starts one round in an order
of its own, continues what others have left, and ends when all of it has. A body takes up to PACE
seconds.

Each line of FOLDER/log begins with the time at which it was written. ``begin`` and ``end`` tell of
bodies; ``saw`` of a result that the workflow has been given, and ``ended`` of a run's.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from taskflow import (
    RetryPolicy,
    RunHandle,
    RunNotFound,
    Runtime,
    SQLiteStore,
    ThreadBusy,
    current,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.errors import LeaseLost

settings: dict[str, Any] = {}
RETRY = RetryPolicy(max_attempts=60, initial_interval=0.001, backoff_factor=1.0)


class Made(Struct):
    """What a body makes: it tells by whom, and no other execution makes the same."""

    task_id: str
    nonce: str
    value: int


class Refused(Exception):
    """A failure that the workflow handles."""


def log(*words: object) -> None:
    """Append one line, which no other process can break into."""
    line = " ".join(map(str, (time.monotonic_ns(), settings["owner"], *words))) + "\n"
    os.write(settings["log"], line.encode())


def saw(made: Made) -> Made:
    """The workflow was given this result."""
    log("saw", current().thread_id, made.task_id, made.nonce)
    return made


class Body:
    """A body that executes: it logs when it begins and ends, whatever it ends with."""

    def __enter__(self) -> Body:
        position = current()
        self.thread_id, self.task_id = position.thread_id, position.task_id
        log("begin", self.thread_id, self.task_id, position.attempt)
        return self

    def __exit__(self, *_: object) -> None:
        log("end", self.thread_id, self.task_id)

    def made(self, value: int) -> Made:
        assert self.task_id is not None
        return Made(self.task_id, os.urandom(8).hex(), value)


@task
async def fanned(number: int) -> Made:
    with Body() as body:
        await anyio.sleep(random.random() * settings["pace"])
        return body.made(number)


@task
def threaded(number: int) -> Made:
    with Body() as body:
        time.sleep(random.random() * settings["pace"])
        return body.made(number)


@task(retry=RETRY)
async def retried(number: int) -> Made:
    with Body() as body:
        if random.random() < 0.3:
            raise Refused
        return body.made(number)


@task
async def shaky(number: int) -> Made:
    with Body() as body:
        if random.random() < 0.2:
            raise Refused
        return body.made(number)


@task(retry=RETRY)
async def outer(number: int) -> Made:
    """Calls tasks that may fail; then it is attempted again, and those that did not are not."""
    with Body() as body:
        parts = [saw(await shaky(number + each)) for each in range(3)]
        return body.made(sum(each.value for each in parts))


@task
async def doomed(number: int) -> Made:
    with Body():
        raise Refused(f"{number}")


@workflow
async def branch(number: int) -> int:
    first = saw(await fanned(number))
    await sleep(0.02)
    parts = [saw(each) for each in await fanned.map(range(number + 1, number + 4))]
    return first.value + sum(each.value for each in parts)


@workflow
async def mixed(round_: int, number: int) -> int:
    total = sum(saw(each).value for each in await fanned.map(range(5), concurrency=3))
    parts = await asyncio.gather(
        outer(number), retried(number), threaded(number), threaded(number + 1)
    )
    total += sum(saw(each).value for each in parts)
    try:
        await doomed(number)
    except Refused:
        log("handled", current().thread_id, current().run_id)
        total += 1000
    total += await branch(number)
    await sleep(1.3 if number % 10 == 0 else 0.03)  # some pause
    total += await receive("go", int)
    return total + saw(await fanned(-round_)).value


def expected(round_: int, number: int) -> int:
    """The result of a run, by another way."""
    outer_ = 3 * number + 3
    return 10 + outer_ + number + 2 * number + 1 + 1000 + 4 * number + 6 + number - round_


async def send(runtime: Runtime, round_: int, number: int) -> None:
    """Send its signal to a run, which is taken once however often it is sent."""
    await runtime.send(f"t{number}", "go", number, id=f"{round_}")


async def ended(handle: RunHandle[int], round_: int) -> None:
    try:
        log("ended", handle.thread_id, round_, await handle.result())
    except LeaseLost:
        log("lost", handle.thread_id, round_)


async def start(runtime: Runtime, round_: int, number: int) -> RunHandle[int]:
    call = mixed(round_, number)
    return await runtime.start(call, thread_id=f"t{number}", run_id=str(round_))


async def alone(round_: int, threads: int) -> None:
    """One round after another."""
    async with open_runtime() as runtime:
        say("ready")
        for each in count(round_):

            async def complete(number: int, round_: int = each) -> None:
                handle = await start(runtime, round_, number)
                if handle.status != "success":
                    await send(runtime, round_, number)
                await ended(handle, round_)

            await asyncio.gather(*map(complete, range(threads)))
            log("round", each)
            if settings["folder"].joinpath("stop").exists():
                return


async def many(round_: int, threads: int, seed: str) -> None:
    """One round beside others who execute it, too."""
    order = list(range(threads))
    random.Random(seed).shuffle(order)
    async with open_runtime() as runtime, asyncio.TaskGroup() as group:
        say("ready")
        for number in order:
            await anyio.sleep(random.random() * settings["pace"] / 4)  # leave others some
            try:
                handle = await start(runtime, round_, number)
            except ThreadBusy:
                continue
            group.create_task(ended(handle, round_))
            with suppress(RunNotFound):  # it has ended meanwhile
                await send(runtime, round_, number)
        while len(await runtime.runs(limit=threads, status="success")) < threads:  # noqa: ASYNC110
            await anyio.sleep(0.2)


def open_runtime() -> Runtime:
    store = SQLiteStore(settings["folder"] / "taskflow.db", lease_ttl=settings["ttl"])
    return Runtime(store, workflows=[mixed, branch], recover=True, poll_interval=0.2)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


MODES: dict[str, Callable[..., Awaitable[None]]] = {"alone": alone, "many": many}


async def main(folder: str, owner: str, pace: str, ttl: str, mode: str, *words: str) -> None:
    settings.update(folder=Path(folder), owner=owner, pace=float(pace), ttl=float(ttl))
    settings["log"] = os.open(Path(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    round_, threads, *rest = words
    await MODES[mode](int(round_), int(threads), *rest)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
