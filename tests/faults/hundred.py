"""A program to be killed: a hundred steps, each of which writes a line when it executes.

``python hundred.py FOLDER BLOCK_AT WAIT``: step BLOCK_AT waits for a file FOLDER/go.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from taskflow import Runtime, task, workflow

settings: dict[str, object] = {}


def configure(folder: Path, block_at: int) -> None:
    """Where bodies write, and which one waits."""
    settings.update(folder=folder, block_at=block_at)


@task
async def step(number: int) -> int:
    folder = settings["folder"]
    assert isinstance(folder, Path)
    with folder.joinpath("log").open("a") as log:
        log.write(f"{number}\n")
    if number == settings["block_at"]:
        while not folder.joinpath("go").exists():  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return number


@workflow
async def hundred(count: int) -> int:
    return sum([await step(number) for number in range(count)])


async def main(folder: str, block_at: str, wait: str) -> None:
    configure(Path(folder), int(block_at))
    async with Runtime(Path(folder, "taskflow.db")) as runtime:
        result = await runtime.run(hundred(100), thread_id="t", wait=wait == "1")
        sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
