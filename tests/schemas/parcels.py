"""What ``parcels.0.3`` was recorded with: calls whose arguments hold typed values, cut off.

``python -m schemas.parcels FILE`` in ``tests``, under the taskflow whose ids the file is to hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import sys
from datetime import date

from taskflow import Runtime, task, workflow

bodies: list[str] = []
is_to_die = False


@dataclasses.dataclass
class Parcel:
    """What is sent."""

    number: int
    day: date


PARCELS = [Parcel(1, date(2024, 5, 17)), Parcel(2, date(2024, 5, 18))]


@task
async def weigh(number: int) -> int:
    """One parcel's weight."""
    bodies.append("weigh")
    return number


@task
async def charge(parcels: list[Parcel]) -> int:
    """What costs money."""
    bodies.append("charge")
    return len(parcels)


@task
async def load(parcels: list[Parcel]) -> int:
    """A task that calls tasks, and dies after the first one."""
    bodies.append("load")
    weight = await weigh(parcels[0].number)
    if is_to_die:
        dump(sys.argv[1])
        os._exit(0)
    return weight


@workflow
async def send() -> list[int]:
    """Two equal calls, and one that is cut off."""
    return [await charge(PARCELS), await charge(PARCELS), await load(PARCELS)]


def dump(path: str) -> None:
    """Write the database as SQL, beside it."""
    with sqlite3.connect(path) as db, open(f"{path}.sql", "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in db.iterdump())
        for name in ("application_id", "user_version"):
            file.write(f"PRAGMA {name} = {db.execute(f'PRAGMA {name}').fetchone()[0]};\n")


async def main() -> None:
    """Leave a block, and die in a run."""
    async with Runtime(sys.argv[1]) as runtime:
        async with runtime.thread("block"):
            await charge(PARCELS)
        await runtime.run(send(), thread_id="sent")


if __name__ == "__main__":
    is_to_die = True
    asyncio.run(main())
