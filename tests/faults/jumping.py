"""A program on a machine whose wall clock is set while it executes.

``python jumping.py FOLDER COMMAND …``. Where FOLDER/offset says so, its wall clock is that many
seconds ahead: `shift` puts itself in the place of what Python asks for the time. Under libfaketime
(JUMPING_IS_FAKED) nothing is put anywhere, as the operating system itself seems to lie.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any


def shift(file: Path) -> None:
    """Have ``time`` tell so many seconds more (``datetime`` asks past it, and taskflow asks it)."""
    real = time.time

    def shifted() -> float:
        return real() + float(file.read_text())

    time.time = shifted
    time.time_ns = lambda: int(shifted() * 1e9)


if __name__ == "__main__" and "JUMPING_IS_FAKED" in os.environ:
    # Under it clock_nanosleep() refuses every moment of a clock that is not faked (0.9.10).
    time.sleep = lambda seconds: threading.Event().wait(seconds) and None
elif __name__ == "__main__":
    shift(Path(sys.argv[1], f"offset-{sys.argv[2]}"))

import anyio  # noqa: E402 - whoever is imported from here on finds the other clock

from taskflow import (  # noqa: E402
    CachePolicy,
    RetryPolicy,
    RunPaused,
    Runtime,
    SQLiteStore,
    TaskTimeout,
    ThreadBusy,
    now,
    receive,
    sleep,
    sleep_until,
    task,
    workflow,
)  # fmt: skip
from taskflow.errors import LeaseLost  # noqa: E402
from taskflow.records import RunStatus  # noqa: E402

LENGTH = 0.8  # seconds of each wait
LEASE = 1.0  # seconds; long enough for a machine that is busy
WAITS = {
    "awake": ("sleep", "until", "receive", "retry", "timeout"),
    "asleep": ("sleep", "until", "receive"),
}
settings: dict[str, Path] = {}
begun: dict[str, float] = {}  # by what is waited for; on a clock that nobody sets
lasted: dict[str, float] = {}
executed: Counter[str] = Counter()


def configure(folder: Path) -> None:
    """Where bodies write."""
    settings.update(folder=folder)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(name: str) -> None:
    with settings["folder"].joinpath("log").open("a") as log:
        log.write(f"{name}\n")


@task
async def effect(name: str) -> str:
    note(name)
    return name


@task
async def ended(name: str) -> None:
    lasted[name] = time.monotonic() - begun[name]
    executed[name] += 1


@task(retry=RetryPolicy(max_attempts=2, initial_interval=LENGTH, jitter=False))
async def flaky() -> None:
    executed["attempt"] += 1
    if executed["attempt"] == 1:
        begun["retry"] = time.monotonic()
        raise ConnectionError


@task(timeout=LENGTH)
async def endless() -> None:
    begun["timeout"] = time.monotonic()
    await anyio.sleep_forever()


@task(cache=CachePolicy(ttl=3600))
async def shared() -> str:
    executed["shared"] += 1
    return "shared"


async def wait_for(name: str) -> None:
    begun.setdefault(name, time.monotonic())
    if name == "sleep":
        await sleep(LENGTH)
    elif name == "until":
        await sleep_until(await now() + timedelta(seconds=LENGTH))
    elif name == "receive":
        try:
            await receive("never", timeout=LENGTH)
        except TimeoutError:
            await ended(name)
        return
    elif name == "retry":
        await flaky()
    else:
        try:
            await endless()
        except TaskTimeout:
            await ended(name)
        return
    await ended(name)


@workflow
async def awake() -> None:
    """Waits beside bodies that execute: the run does not pause."""
    await shared()
    await asyncio.gather(*map(wait_for, WAITS["awake"]))
    await shared()


@workflow
async def asleep() -> None:
    """Nothing but waits: the run pauses."""
    await asyncio.gather(*map(wait_for, WAITS["asleep"]))


@workflow
async def nap(seconds: float) -> str:
    await effect("before")
    await sleep(seconds)
    await effect("after")
    return "awake"


@workflow
async def approve() -> Any:
    await effect("before")
    value = await receive("go", timeout=60)
    await effect("after")
    return value


@task
async def hold(file: str) -> None:
    """A body that executes until there is such a file."""
    note(f"hold {file}")
    while not settings["folder"].joinpath(file).exists():  # noqa: ASYNC110
        await anyio.sleep(0.01)


@workflow
async def held(file: str, *, fails: bool = False) -> str:
    await hold(file)
    if fails:
        raise ConnectionError("it was down")
    return "done"


WORKFLOWS = [awake, asleep, nap, approve, held]


async def waits(runtime: Runtime, kind: str, name: str) -> Any:
    """Run one, and tell how long each of its waits has lasted, and what is recorded of it."""
    times: list[float] = []

    async def listen() -> None:
        async with runtime.subscribe(name) as events:
            times.extend([event.time async for event in events])

    call = {"awake": awake, "asleep": asleep}[kind]
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        running = asyncio.create_task(runtime.run(call(), thread_id=name, wait=True))
        while len(begun) < len(WAITS[kind]):  # noqa: ASYNC110
            await anyio.sleep(0.001)
        say("waiting")
        await running
    tasks = await runtime.tasks(name)
    record = await runtime.get(name)
    return {
        "lasted": lasted,
        "executed": executed,
        "durations": [each.duration for each in tasks],
        "run": (record.finished or 0) - record.started,
        "times": times,
        "numbers": [each.sequence for each in tasks],
    }


async def serve(runtime: Runtime) -> Any:
    """Continue what is due, until there is a file ``stop``."""
    say("serving")
    while not settings["folder"].joinpath("stop").exists():  # noqa: ASYNC110
        await anyio.sleep(0.01)
    return None


async def begin(runtime: Runtime, name: str, argument: str, thread_id: str = "") -> Any:
    """Run one to its end, its pause or its error; a nap to its pause, through which run() waits."""
    call = {"nap": lambda: nap(float(argument)), "held": lambda: held(argument)}
    call |= {"failing": lambda: held(argument, fails=True), "approve": approve}
    try:
        if name == "nap":
            handle = await runtime.start(nap(float(argument)), thread_id=thread_id or name)
            while handle.status == RunStatus.RUNNING:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            return "RunPaused"
        return await runtime.run(call[name](), thread_id=thread_id or name)
    except (ConnectionError, LeaseLost, RunPaused, ThreadBusy) as error:
        return type(error).__name__


async def send(runtime: Runtime, thread_id: str) -> Any:
    await runtime.send(thread_id, "go", "now")
    return "sent"


COMMANDS: dict[str, Any] = {"waits": waits, "serve": serve, "begin": begin, "send": send}


async def main(folder: str, _: str, command: str, *arguments: str) -> None:
    configure(Path(folder))
    async with Runtime(
        SQLiteStore(Path(folder, "taskflow.db"), lease_ttl=LEASE),
        workflows=WORKFLOWS,
        recover=command == "serve",
        poll_interval=0.05,
    ) as runtime:
        say(json.dumps(await COMMANDS[command](runtime, *arguments)))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
