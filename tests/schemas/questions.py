"""What the databases of schema 2 and later have recorded beside the shop: runs that wait."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio

from taskflow import Runtime, emit, receive, sleep_until, task, workflow

bodies: list[str] = []  # that were executed
LONG = 3e9  # seconds
MORNING = datetime(2125, 1, 1, tzinfo=UTC)


@task
async def note(word: str) -> str:
    bodies.append(f"note {word}")
    await emit({"noted": word})
    return word.upper()


@workflow
async def ask(what: str) -> list[str]:
    first = await note(await receive("word", str, prompt={"what": what}))
    second = await receive("word", str, timeout=LONG)
    third = await receive("other", str)
    return [first, second, third]


@workflow
async def nap() -> str:
    await sleep_until(MORNING)
    return "awake"


async def record(db: str) -> None:
    """A run that has taken a signal, has another, and waits for a third; and one that sleeps."""
    async with Runtime(db) as runtime:
        await runtime.start(ask("words"), thread_id="asking")
        await runtime.send("asking", "word", "hello", id="1")
        await runtime.send("asking", "other", "there", id="2")
        await runtime.start(nap(), thread_id="napping")
        while [each.status for each in await runtime.runs(limit=2)] != ["paused"] * 2:  # noqa: ASYNC110
            await anyio.sleep(0.01)
