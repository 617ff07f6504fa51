"""A program to be killed while its runs wait.

``python waiting.py FOLDER BLOCK start THREAD WORKFLOW`` starts a run and prints its result;
``… send THREAD NAME VALUE ID`` sends a signal; ``… serve`` continues what is due, for ever.

It stands still, for ever, at the commit that BLOCK names: ``pause-before`` (the pause is not
durable yet), ``pause-after`` (it is, and nobody has been told), and so on.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import anyio

from taskflow import Runtime, SQLiteStore, receive, sleep, task, workflow
from taskflow.records import RunStatus
from taskflow.stores.batches import Batch, Committed

settings: dict[str, Any] = {}


def configure(folder: Path) -> None:
    """Where bodies write."""
    settings.update(folder=folder)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@task
async def effect(name: str) -> str:
    with settings["folder"].joinpath("log").open("a") as log:
        log.write(f"{name}\n")
    return name


@task
async def work() -> None:
    """A body that executes until there is a file ``go``."""
    while not settings["folder"].joinpath("go").exists():  # noqa: ASYNC110
        await anyio.sleep(0.02)


@workflow
async def approve() -> Any:
    await effect("before")
    value = await receive("go", timeout=7200)
    await effect(f"after {value}")
    return value


@workflow
async def approve_and_work() -> Any:
    async def first() -> Any:
        value = await receive("go")
        await effect(f"after {value}")
        return value

    await effect("before")
    value, _ = await asyncio.gather(first(), work())
    return value


@workflow
async def nap() -> str:
    await effect("before")
    await sleep(3600)
    await effect("after")
    return "awake"


@workflow
async def short_nap() -> str:
    await effect("before")
    await sleep(5)
    await effect("after")
    return "awake"


WORKFLOWS = {each.name: each for each in (approve, approve_and_work, nap, short_nap)}


class StandingStore(SQLiteStore):
    """Stands still before or after the commit that ``block`` names."""

    def __init__(self, path: Path, block: str) -> None:
        super().__init__(path)
        self._block = block
        self._claims = 0

    async def commit(self, batch: Batch) -> Committed:
        names = self._names(batch)
        await self._stand(names, "before")
        committed = await super().commit(batch)
        await self._stand(names, "after")
        return committed

    def _names(self, batch: Batch) -> set[str]:
        names = {each.kind for each in batch.checkpoints if each.kind == "wait"}
        names |= {"taken" for each in batch.checkpoints if each.signal is not None}
        names |= {"slept" for each in batch.checkpoints if each.name == "taskflow.sleep"} - (
            {"slept"} if "wait" in names else set()
        )
        names |= {"signal" for _ in batch.signals}
        names |= {"pause" for each in batch.finishes if each.status == RunStatus.PAUSED}
        for _ in batch.claims:
            self._claims += 1
            names.add(f"claim{self._claims}")
        return names

    async def _stand(self, names: set[str], when: str) -> None:
        if self._block in {f"{name}-{when}" for name in names}:
            say("standing")
            await anyio.sleep_forever()


async def main(folder: str, block: str, command: str, *arguments: str) -> None:
    configure(Path(folder))
    store = StandingStore(Path(folder, "taskflow.db"), block)
    async with Runtime(
        store, workflows=WORKFLOWS.values(), recover=command == "serve", poll_interval=0.1
    ) as runtime:
        if command == "serve":
            say("serving")
            await anyio.sleep_forever()
        if command == "send":
            thread_id, name, value, id = arguments
            await runtime.send(thread_id, name, value, id=id)
            say("sent")
        if command == "start":
            thread_id, name = arguments
            handle = await runtime.start(WORKFLOWS[name](), thread_id=thread_id, wait=True)
            if name == "approve_and_work":
                while "taskflow.receive" not in _executing(runtime, thread_id):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                say("live")
            else:
                while handle.status != RunStatus.PAUSED:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                say("asleep")
            say(str(await handle.result()))


def _executing(runtime: Runtime, thread_id: str) -> list[str]:
    progress = runtime._progress(thread_id)
    return [] if progress is None else progress.executing


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
