"""A program that forks while it holds locks: ``python forker.py PATH WHAT``.

``orphan``: it dies by SIGKILL and leaves a child. ``runtime``: the same in the middle of a run.
``closing``: its child closes every lock that it was given, and the program goes on. ``opening``:
its child opens what is open here. A child, and the program, live until their input ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings

import anyio

from taskflow import Runtime, task, workflow
from taskflow.errors import StoreError
from taskflow.stores.sqlite.locks import FileLock, OwnerLock

THREAD = "held"


@task
async def part(number: int) -> int:
    if number == 2 and __name__ == "__main__":
        leave_a_child()
    return number


@workflow
async def parts() -> int:
    return sum([await part(number) for number in range(5)])


def leave_a_child() -> None:
    """Die; only the child goes on, after the parent's death."""
    parent = os.getpid()
    if os.fork():
        signal.pause()
    os.kill(parent, signal.SIGKILL)
    say("orphan")
    os._exit(0)


def say(word: str) -> None:
    print(word, flush=True)  # noqa: T201
    sys.stdin.read()


def close_in_a_child(write: FileLock, owner: OwnerLock) -> None:
    """Let go of both there; what was opened under the same numbers stays open."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        say("kept" if status == 0 else "lost")
        return
    try:
        opened = [fd for _ in range(8) for fd in os.pipe()]
        write.__exit__(None, None, None)
        write.close()
        owner.release()
        for fd in opened:
            os.fstat(fd)
    except BaseException:
        os._exit(1)
    os._exit(0)


def open_in_a_child(path: str) -> None:
    """Let it open the same database, which has to be refused for that reason."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        say("refused" if status == 0 else "opened")
        return
    try:
        asyncio.run(run(path))
    except StoreError as error:
        os._exit("this one was forked from" not in str(error))
    finally:
        os._exit(1)


async def hold(path: str) -> None:
    async with Runtime(path):
        open_in_a_child(path)


async def run(path: str) -> None:
    async with Runtime(path) as runtime:
        await runtime.run(parts(), thread_id=THREAD)


def main(path: str, what: str) -> None:
    # From 3.12 on Python warns of forks where there are threads; from them alone comes our harm.
    warnings.simplefilter("ignore", DeprecationWarning)
    if what in ("runtime", "opening"):
        anyio.run(run if what == "runtime" else hold, path)
        return
    write, owner = FileLock(f"{path}-lock", 0), OwnerLock(f"{path}-owner")
    with write:
        if what == "orphan":
            leave_a_child()
        close_in_a_child(write, owner)


if __name__ == "__main__":
    main(*sys.argv[1:])
