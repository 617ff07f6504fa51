"""A program that fills a database with one of everything, and tells what it finds in a copy of it.

``python ledger.py build FOLDER`` leaves FOLDER/taskflow.db and its WAL as a process that was killed
would. ``python ledger.py observe`` reads a path on each line of its input, and prints all that
taskflow gives of the database there as one line of JSON. Copies are changed in between, so what is
given is to be what was recorded, or an error that says so.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from msgspec import structs, to_builtins

from taskflow import (
    CachePolicy,
    RunPaused,
    Runtime,
    SQLiteStore,
    TaskflowError,
    emit,
    previous,
    receive,
    save,
    sleep,
    task,
    workflow,
)
from taskflow.records import RunStatus
from taskflow.stores.sqlite import opening

bodies: list[str] = []  # that were executed
outage: set[str] = set()  # tasks that fail
held: list[anyio.Event] = []  # what `hold` waits for, while the database is built
LONG = 3e8  # seconds
STEP_LIMIT = 20.0  # seconds
RECOVERY_LIMIT = 2.0


@task
async def charge(order: str, cents: int) -> dict[str, Any]:
    bodies.append(f"charge {order}")
    if "charge" in outage:
        raise ConnectionError("the bank is down")
    return {"order": order, "cents": cents, "receipt": f"receipt for {order}"}


@task
async def stock(order: str) -> int:
    bodies.append(f"stock {order}")
    raise LookupError(f"nothing left for {order}")


@task(cache=CachePolicy(ttl=timedelta(days=36_500)))
async def rate(currency: str) -> float:
    bodies.append(f"rate {currency}")
    return 1.25


@task
async def label(order: str) -> str:
    bodies.append(f"label {order}")
    return f"label of {order}"


@task
async def pack(order: str) -> list[str]:
    bodies.append(f"pack {order}")
    await emit({"packed": order})
    return [await label(order), order]


@task
async def double(number: int) -> int:
    bodies.append(f"double {number}")
    return number * 2


@task
async def hold(order: str) -> str:
    bodies.append(f"hold {order}")
    for event in held:
        await event.wait()
    return f"held {order}"


@workflow
async def fulfil(order: str, cents: int) -> str:
    try:
        await stock(order)
    except LookupError:
        cents = int(cents * await rate("EUR"))
    packed = await pack(order)
    doubled = await double.map(range(12), concurrency=4)
    receipt = await charge(order, cents)
    return f"{packed[0]}, {sum(doubled)}, {receipt['receipt']}: {receipt['cents']}"


@workflow
async def chat(message: str) -> list[str]:
    history = previous(list[str]) or []
    save([*history, message])
    return [await label(message), *history]


@workflow
async def ask(what: str) -> list[str]:
    first = await receive("word", str, prompt={"what": what})
    await label(first)
    second = await receive("word", str, prompt={"after": first}, timeout=LONG)
    third = await receive("other", str)
    return [first, second, third]


@workflow
async def nap(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


@workflow
async def ship(order: str) -> str:
    made = await label(order)
    await emit(made)
    return f"{made}, {await hold(order)}"


async def build(folder: Path) -> None:
    """Record everything, and copy the files while the last run executes."""
    path = folder / "building.db"
    async with Runtime(path) as runtime:
        await runtime.run(fulfil("gone " * 5_000, 1), thread_id="gone")
        await runtime.run(fulfil("A1", 100), thread_id="finished")
        await runtime.delete("gone")  # leaves free pages
        outage.add("charge")
        try:
            await runtime.run(fulfil("B2", 200), thread_id="failed")
        except ConnectionError:
            outage.clear()
        for message in ("one", "two", "three"):
            await runtime.run(chat(message), thread_id="chat", run_id=message)
        await runtime.start(ask("words"), thread_id="asking")
        await runtime.send("asking", "word", "hello", id="1")
        await runtime.send("asking", "other", "there", id="2")
        await until_paused(runtime, "asking", 2)
        await runtime.start(nap(LONG), thread_id="napping")
        await until_paused(runtime, "napping", 1)
        async with runtime.thread("block"):
            await charge("C3", 300)
        held.append(anyio.Event())
        handle = await runtime.start(ship("D4"), thread_id="shipping")
        while "hold D4" not in bodies:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await runtime.run(chat("four"), thread_id="chat", run_id="four")  # a commit behind it
        for name in ("taskflow.db", "taskflow.db-wal"):
            shutil.copy(folder / name.replace("taskflow", "building"), folder / name)
        held.pop().set()
        await handle.cancel()


async def until_paused(runtime: Runtime, thread_id: str, waits: int) -> None:
    """Wait until the run waits for so much, and is unwound."""
    while True:
        record = await runtime.get(thread_id)
        if record.status == "paused" and len(record.waits) == 1:
            return
        await anyio.sleep(0.01)


class Observer:
    """Takes one step after another, and keeps what each came to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {}

    async def take(self, name: str, step: Callable[[], Awaitable[Any]]) -> None:
        """Note what ``step`` returns or raises, and which bodies it executes."""
        bodies.clear()
        try:
            with anyio.fail_after(STEP_LIMIT):
                came_to: Any = {"value": to_builtins(await step(), enc_hook=str)}
        except TaskflowError as error:
            came_to = {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            came_to = {"bare": f"{type(error).__qualname__}: {error}"}
        self.found[name] = {**came_to, "bodies": sorted(bodies)}


async def observe(path: Path) -> dict[str, Any]:
    """Everything that taskflow gives of the database at ``path``."""
    observer = Observer(path)
    take = observer.take
    runtime = Runtime(
        SQLiteStore(path), workflows=[fulfil, chat, ask, nap, ship], poll_interval=0.05
    )

    async def opened() -> None:
        await runtime.open()

    await take("open", opened)
    if "value" not in observer.found["open"]:
        return observer.found
    try:
        await look(runtime, take)
        await act(runtime, path, take)
    finally:
        await take("close", runtime.aclose)
    return observer.found


THREADS = ("finished", "failed", "chat", "asking", "napping", "block", "shipping")


async def look(runtime: Runtime, take: Any) -> None:
    """What is shown, without changing anything."""
    await take("runs", lambda: runs(runtime))
    await take("runs paused", lambda: runs(runtime, status="paused"))
    for thread_id in THREADS:

        async def got(thread_id: str = thread_id) -> Any:
            return structs.replace(await runtime.get(thread_id), owner=None)

        await take(f"get {thread_id}", got)
        await take(f"tasks {thread_id}", lambda thread_id=thread_id: runtime.tasks(thread_id))

        async def exported(thread_id: str = thread_id) -> list[str]:
            async with aclosing(runtime.export(thread_id)) as lines:
                return [line async for line in lines][1:-1]

        await take(f"export {thread_id}", exported)
    await take("get chat two", lambda: runtime.get("chat", "two"))

    async def events(thread_id: str) -> list[Any]:
        if (await runtime.get(thread_id)).status not in ("success", "error"):
            return []  # it would be waited for
        async with runtime.subscribe(thread_id) as subscription:
            return [event async for event in subscription]

    await take("events finished", lambda: events("finished"))
    await take("events failed", lambda: events("failed"))


async def runs(runtime: Runtime, **options: Any) -> list[Any]:
    """Without who owns them, which no checksum covers: who has lost a run cannot write to it."""
    return [structs.replace(each, owner=None) for each in await runtime.runs(**options)]


async def act(runtime: Runtime, path: Path, take: Any) -> None:
    """What is answered, continued, copied and deleted."""
    run = runtime.run
    await take("run finished", lambda: run(fulfil("A1", 100), thread_id="finished"))
    await take("resume finished", lambda: runtime.resume("finished"))
    await take("run failed", lambda: run(fulfil("B2", 200), thread_id="failed"))
    await take("run chat two", lambda: run(chat("two"), thread_id="chat", run_id="two"))
    await take("run chat five", lambda: run(chat("five"), thread_id="chat", run_id="five"))

    async def copied() -> Any:
        await runtime.fork("finished", to="copy")
        result = await run(fulfil("A1", 100), thread_id="copy")
        return result, [(each.task_id, each.value) for each in await runtime.tasks("copy")]

    await take("fork finished", copied)

    async def copied_and_asked() -> Any:
        await runtime.fork("asking", to="asked")
        return await until_paused_again(run(ask("words"), thread_id="asked"))

    await take("fork asking", copied_and_asked)

    async def asked() -> list[str]:
        # The first two were sent before, and count once.
        for number, (name, value) in enumerate([("word", "hello"), ("other", "there")], 1):
            await runtime.send("asking", name, value, id=f"{number}")
        await runtime.send("asking", "word", "world", id="3")
        return await run(ask("words"), thread_id="asking", wait=True)

    await take("send asking", asked)

    async def forgotten_and_replaced() -> list[str]:
        calls = {each.name: each.task_id for each in await runtime.tasks("finished")}
        await runtime.forget("finished", calls["label"])
        again = await run(fulfil("A1", 100), thread_id="finished")
        await runtime.replace("finished", calls["label"], "other label")
        return [again, await run(fulfil("A1", 100), thread_id="finished")]

    await take("forget finished", forgotten_and_replaced)

    async def napping() -> Any:
        handle = await runtime.start(nap(LONG), thread_id="napping")
        ended = asyncio.ensure_future(handle.result())
        while handle.status == RunStatus.RUNNING and not ended.done():  # noqa: ASYNC110
            await anyio.sleep(0.005)
        if ended.done():
            return await ended
        ended.cancel()
        waits = (await runtime.get("napping")).waits  # since when is not what it was
        return [to_builtins(structs.replace(each, since=0.0)) for each in waits]

    await take("run napping", napping)

    async def blocked() -> Any:
        async with runtime.thread("block"):
            return await charge("C3", 300)

    await take("enter block", blocked)

    async def recovered() -> Any:
        options: dict[str, Any] = {"workflows": [ship], "recover": True, "poll_interval": 0.05}
        async with Runtime(SQLiteStore(path), **options):
            with anyio.move_on_after(RECOVERY_LIMIT):  # recovery logs what it cannot continue
                while (await runtime.get("shipping")).status == "running":  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        return await runtime.resume("shipping")

    await take("recover shipping", recovered)
    await take("run new", lambda: run(fulfil("E5", 100), thread_id="new"))

    async def pruned() -> list[str]:
        await runtime.prune(finished_before=timedelta(0), status=["success", "cancelled", "error"])
        return sorted([each.thread_id for each in await runtime.runs()])

    await take("prune", pruned)


async def until_paused_again(call: Awaitable[Any]) -> Any:
    """What a run that pauses waits for; since when is not what it was."""
    try:
        return await call
    except RunPaused as paused:
        return [to_builtins(structs.replace(each, since=0.0)) for each in paused.waits]


def serve() -> None:
    """Observe what is asked for, until the input ends."""
    logging.disable(logging.CRITICAL)
    if "unchecked" in sys.argv:
        opening.CHECKED_PAGES = 0
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        found = asyncio.run(observe(Path(line.strip())))
        gc.collect()
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "build":
        anyio.run(build, Path(sys.argv[2]))
    else:
        serve()
