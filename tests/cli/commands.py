"""The command line as tests call it, and a module of jobs for it to run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 20.0  # seconds for something that takes a fraction of one

JOBS = """
import time
from dataclasses import dataclass
from pathlib import Path

import anyio

from taskflow import RetryPolicy, task, workflow

HERE = Path(__file__).parent


def note(text):
    with open(HERE / "bodies", "a") as file:
        file.write(text + "\\n")


@dataclass
class Order:
    id: str
    amount: int


@task
async def square(n: int) -> int:
    note(f"square {n}")
    return n * n


@workflow
async def squares(count: int, offset: int = 0) -> list[int]:
    print("a line of the workflow's own")
    return [await square(n) for n in range(offset, offset + count)]


@workflow
async def total(orders: list[Order], *, note: str = "") -> int:
    return sum(order.amount for order in orders)


@workflow
async def shout(text: str) -> str:
    return text.upper()


@task
async def check() -> None:
    note("check")
    if not (HERE / "go").exists():
        raise ConnectionError("the line is down")


@task(retry=RetryPolicy(max_attempts=3, initial_interval=0.001))
async def attempt() -> None:
    if not (HERE / "tried").exists():
        (HERE / "tried").touch()
        raise ConnectionError("once more")


@task
async def outer() -> int:
    await attempt()
    return await square(7)


@workflow
async def breaks() -> int:
    await outer()
    try:
        await check()
    except ConnectionError as error:
        raise RuntimeError("it cannot [bold]go on[/]") from error
    return 7


@workflow
async def handles() -> None:
    try:
        await check()
    except ConnectionError:
        await square(1)


@task
async def hold() -> None:
    note("hold")
    while not (HERE / "go").exists():
        await anyio.sleep(0.01)


@workflow
async def holds() -> list[int]:
    squared = [await square(n) for n in range(3)]
    await hold()
    return squared


@workflow
async def holds_twice() -> int:
    await hold()
    return await square(1)


@task
def block() -> None:
    note("hold")
    time.sleep(60)


@workflow
async def blocks() -> None:
    await block()
"""


class Invoked:
    """What a command came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


# The fixtures of these names.
Invoke = Callable[..., Invoked]
Spawn = Callable[..., "subprocess.Popen[str]"]


def bodies(folder: Path) -> list[str]:
    """The bodies that were executed, one after another."""
    file = folder / "bodies"
    return file.read_text().splitlines() if file.exists() else []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
