"""A program to be killed, stopped, and started again; each effect is a line in a file.

``python orphans.py FOLDER MODE [NAME=VALUE …]``: MODE is the name of a workflow, of which ``count``
runs are started; or ``recover``, to continue what others left until FOLDER/stop exists; or
``block``, to hold a ``Runtime.thread()`` block open.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from taskflow import Runtime, SQLiteStore, receive, sleep, task, workflow
from taskflow.errors import LeaseLost

settings: dict[str, Any] = {}


def configure(folder: Path, **options: str) -> None:
    """Where effects are written, and what was asked for."""
    settings.clear()
    settings.update(folder=folder, **options)


def note(file: str, *words: object) -> None:
    """Append one line, which no other process can break into."""
    line = " ".join(map(str, words)) + "\n"
    fd = os.open(settings["folder"] / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, line.encode())
    os.close(fd)


@task
async def effect(number: int, part: int) -> int:
    if part == 1 and settings.get("hold") == "1":
        note("held", number)
        while not settings["folder"].joinpath("go").exists():  # noqa: ASYNC110
            await anyio.sleep(0.02)
    note("effects", number, part, os.getpid())
    return part


@workflow
async def steps(number: int) -> int:
    total = sum([await effect(number, part) for part in range(5)])
    note("ended", number)
    return total


@workflow
async def naps(number: int, seconds: float) -> int:
    await effect(number, 0)
    await sleep(seconds)
    await effect(number, 2)
    return number


@workflow
async def asks(number: int) -> int:
    answer = await receive("answer", int)
    await effect(number, 0)
    return answer


@task
async def deadly(number: int) -> int:
    """End the process, unless FOLDER/mended exists."""
    if not settings["folder"].joinpath("mended").exists():
        note("deaths", number, os.getpid())
        if settings.get("slow") == "1":
            await anyio.sleep(0.5)
        os._exit(9)
    return number


@workflow
async def poison(number: int) -> int:
    return await deadly(number)


@workflow
async def staircase(count: int) -> int:
    """Record one more step in each process, and end it."""
    for part in range(count):
        await effect(0, part)
        if not settings["folder"].joinpath(f"climbed-{part}").exists():
            settings["folder"].joinpath(f"climbed-{part}").touch()
            os._exit(9)
    return count


@task
async def slow_effect(number: int) -> int:
    await anyio.sleep(0.2)
    note("effects", number, 0, os.getpid())
    return number


@workflow
async def innocent(number: int) -> int:
    return await slow_effect(number)


WORKFLOWS = (steps, naps, asks, poison, staircase, innocent)


def open_runtime(**options: Any) -> Runtime:
    ttl = float(settings.get("ttl", 30))
    return Runtime(
        SQLiteStore(settings["folder"] / "taskflow.db", lease_ttl=ttl),
        poll_interval=float(settings.get("poll", 0.1)),
        **options,
    )


async def begin(name: str) -> None:
    """Start runs, say so, and wait to be killed."""
    count = int(settings.get("count", 1))
    async with open_runtime() as runtime:
        handles = []
        for number in range(count):
            call: Any
            if name == "naps":
                call = naps(number, float(settings["seconds"]))
            else:
                call = {each.name: each for each in WORKFLOWS}[name](
                    int(settings.get("argument", number))
                )
            handles.append(await runtime.start(call, thread_id=f"{name}-{number}"))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            for handle in handles:
                await handle.result()
        except LeaseLost as error:
            sys.stdout.write(f"{type(error).__name__}\n")
            sys.stdout.flush()
        if settings.get("stay") == "1":
            await anyio.sleep_forever()


async def recover() -> None:
    """Continue what others have left, until there is a file FOLDER/stop."""
    limits = {
        name: int(settings[name])
        for name in ("max_concurrent_runs", "max_takeovers")
        if name in settings
    }
    async with open_runtime(workflows=WORKFLOWS, recover=True, **limits):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not settings["folder"].joinpath("stop").exists():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def block() -> None:
    """Record in a block, say so, and wait to be killed."""
    async with open_runtime() as runtime, runtime.thread("block"):
        await effect(0, 0)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        with suppress(LeaseLost):
            await anyio.sleep_forever()


async def main(folder: str, mode: str, *options: str) -> None:
    configure(Path(folder), **dict(option.split("=", 1) for option in options))
    if mode == "recover":
        await recover()
    elif mode == "block":
        await block()
    else:
        await begin(mode)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
