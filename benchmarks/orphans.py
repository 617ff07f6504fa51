"""The owner of runs, to be killed: ``python -m benchmarks.orphans FILE COUNT TASKS RECORDED``.

It begins COUNT runs, records RECORDED tasks of each, prints ``held``, and waits to be killed.
"""

import asyncio
import sys

from benchmarks.contenders.taskflow_runtime import Plan, squares
from taskflow import Runtime


async def main(path: str, count: int, tasks: int, recorded: int) -> None:
    """Hold ``count`` runs of ``tasks`` tasks each, after ``recorded`` tasks."""
    Plan.holds_at, Plan.held = recorded, asyncio.Semaphore(0)
    async with Runtime(path) as runtime:
        for number in range(count):
            await runtime.start(squares(tasks), thread_id=f"orphan-{number}")
        for _ in range(count):
            await Plan.held.acquire()
        print("held", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
