"""What the databases in this folder have recorded; with each taskflow the same, and executed by it.

To record one with the taskflow that is on the path: ``python tests/schemas/shop.py FILE.sql``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio

from taskflow import CachePolicy, Runtime, previous, save, task, workflow

bodies: list[str] = []  # that were executed
outage: list[str] = []  # tasks that fail


@dataclass
class Receipt:
    order: str
    amount: int


@task
async def charge(order: str, amount: int) -> Receipt:
    bodies.append(f"charge {order}")
    if "charge" in outage:
        raise ConnectionError("the bank is down")
    if "die" in outage:
        os._exit(9)
    return Receipt(order, amount)


@task
async def stock(order: str) -> int:
    bodies.append(f"stock {order}")
    raise LookupError(f"nothing left for {order}")


@task(cache=CachePolicy(ttl=timedelta(days=365_000)))
async def rate(currency: str) -> float:
    bodies.append(f"rate {currency}")
    return 1.25


@task
async def pack(order: str) -> list[str]:
    bodies.append(f"pack {order}")
    label = await print_label(order)
    return [label, order]


@task
async def print_label(order: str) -> str:
    bodies.append(f"print_label {order}")
    return f"label of {order}"


@workflow
async def ship(order: str) -> str:
    return ", ".join(await pack(order))


@workflow
async def fulfil(order: str, amount: int) -> str:
    try:
        await stock(order)
    except LookupError:
        amount = int(amount * await rate("EUR"))
    shipped = await ship(order)
    receipt = await charge(order, amount)
    return f"{shipped}: {receipt.amount}"


@workflow
async def chat(message: str) -> int:
    turns = previous(int) or 0
    bodies.append(f"turn {turns} {message}")
    save(turns + 1)
    return len(message)


async def record(db: str) -> None:
    """Finished, failed and cancelled runs, turns of a conversation, and a block."""
    async with Runtime(db) as runtime:
        await runtime.run(fulfil("A1", 100), thread_id="finished")
        outage.append("charge")
        for thread_id in ("failed", "cancelled"):
            with contextlib.suppress(ConnectionError):
                await runtime.run(fulfil("B2", 100), thread_id=thread_id)
        outage.clear()
        await runtime.cancel("cancelled")
        for message in ("hello", "you"):
            await runtime.run(chat(message), thread_id="conversation", run_id=message)
        async with runtime.thread("block"):
            await charge("C3", 300)


async def die(db: str) -> None:
    """An unfinished run whose process has died."""
    outage.append("die")
    async with Runtime(db) as runtime:
        await runtime.run(fulfil("D4", 400), thread_id="unfinished")


def dump(db: str) -> str:
    """The whole file as SQL, with what says whose it is and which schema it has."""
    connection = sqlite3.connect(db)
    pragmas = [
        f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};"
        for name in ("application_id", "user_version")
    ]
    lines = [*pragmas, *connection.iterdump()]
    connection.close()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "--die":
        anyio.run(die, sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "shop.db")
        anyio.run(record, path)
        with contextlib.suppress(ImportError):  # the first schema has nothing that waits
            import questions

            anyio.run(questions.record, path)
        subprocess.run([sys.executable, __file__, "--die", path], check=False)
        Path(sys.argv[1]).write_text(dump(path))
