"""Workflows that do what a script says, so that a model of them can be made to do the same.

``python scripts.py ORDER`` runs one until a body executes that ORDER names, which stands still, to
be killed; it says which bodies execute. ORDER is a JSON object with the keys that `main` reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import anyio

from taskflow import RetryPolicy, Runtime, current, previous, receive, save, sleep, task, workflow
from taskflow.loops.clocks import Clock, present

Key = tuple[str, str, str]  # thread id, name, arguments as JSON
TYPES: dict[str, Any] = {"int": int, "str": str}


class Broken(Exception):
    """What a task raises whose switch is on."""


class Board:
    """Says which bodies execute, and which stand still; and which switches are on."""

    def __init__(self) -> None:
        self.tell: Callable[[Key], object] = lambda _: None
        self.closed: dict[Key, anyio.Event] = {}
        self.broken: set[str] = set()

    async def enter(self, name: str, *arguments: Any) -> None:
        """A body executes."""
        key = current().thread_id, name, json.dumps(arguments)
        self.tell(key)
        if (event := self.closed.get(key)) is not None:
            await event.wait()

    def check(self, switch: str) -> None:
        """Raise Broken where that switch is on."""
        if switch in self.broken:
            raise Broken(switch)


board = Board()


@task
async def add(acc: int, number: int) -> int:
    await board.enter("add", acc, number)
    return acc + number


@task
async def note(text: str) -> str:
    await board.enter("note", text)
    return text


@task
async def double(number: int) -> int:
    await board.enter("double", number)
    return 2 * number


@task
async def flaky(switch: str, acc: int) -> int:
    await board.enter("flaky", switch, acc)
    board.check(switch)
    return acc + 1


@task(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
async def stubborn(switch: str, acc: int) -> int:
    await board.enter("stubborn", switch, acc)
    board.check(switch)
    return acc + 1


FAILING: dict[str, Any] = {"flaky": flaky, "stubborn": stubborn}


async def perform(script: list[Any], acc: int) -> int:
    """Do what a script says, one step after another, and count."""
    for step in script:
        match step:
            case ["add", number]:
                acc = await add(acc, number)
            case ["note", text]:
                await note(text)
            case ["fan", numbers]:
                acc += sum(await double.map(numbers))
            case ["flaky" | "stubborn" as name, switch, handled]:
                acc = await _attempt(FAILING[name](switch, acc), acc + 100, handled)
            case ["inner", handled, nested]:
                acc = await _attempt(inner(nested, acc), acc + 10_000, handled)
            case ["both", *scripts]:
                acc = sum(await _together(scripts, acc))
            case ["receive", name, kind, timeout]:
                try:
                    value = await receive(name, TYPES[kind], timeout=timeout)
                    acc += value if isinstance(value, int) else len(value)
                except TimeoutError:
                    acc += 1000
            case ["sleep", seconds]:
                await sleep(seconds)
            case ["save"]:
                save(acc)
            case ["previous"]:
                acc += previous(int) or 0
            case _:
                raise AssertionError(step)
    return acc


async def _attempt(call: Any, otherwise: int, handled: bool) -> int:
    try:
        return int(await call)
    except Broken:
        if not handled:
            raise
        return otherwise


async def _together(scripts: list[Any], acc: int) -> list[int]:
    values: dict[int, int] = {}

    async def arm(number: int, call: Any) -> None:
        values[number] = await call

    async with anyio.create_task_group() as group:
        for number, script in enumerate(scripts):
            group.start_soon(arm, number, inner(script, acc))
    return [values[number] for number in range(len(scripts))]


@workflow
async def inner(script: list[Any], acc: int) -> int:
    return await perform(script, acc)


@workflow
async def play(script: list[Any]) -> int:
    return await perform(script, 0)


@workflow
async def encore(script: list[Any]) -> int:
    return await perform(script, 0)


WORKFLOWS: dict[str, Any] = {each.name: each for each in (play, encore)}


class GivenClock(Clock):
    """The clock of a process that was started where time is virtual; its leases never run out."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self._began = super().elapsed()
        self._given = now

    def now(self) -> float:
        return self._given + self.elapsed()

    def elapsed(self) -> float:
        return super().elapsed() - self._began


async def main(order: str) -> None:
    """Run a workflow until one of its bodies executes, and stand still there."""
    asked = json.loads(order)
    board.closed[asked["thread_id"], *asked["body"]] = anyio.Event()
    board.broken = set(asked["broken"])

    def tell(key: Key) -> None:
        sys.stdout.write(json.dumps(key) + "\n")
        sys.stdout.flush()

    board.tell = tell
    present.clock = GivenClock(asked["now"])
    async with Runtime(asked["db"]) as runtime:
        call = WORKFLOWS[asked["workflow"]](asked["script"])
        await runtime.run(call, thread_id=asked["thread_id"])


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
