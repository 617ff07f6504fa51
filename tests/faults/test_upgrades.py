"""A newer taskflow migrates a file that is open: the older process stops, and loses nothing."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from processes import ENVIRONMENT
from waits import NEVER, PATIENCE, until

from taskflow import Runtime, SQLiteStore, ThreadBusy, receive, sleep, task, workflow
from taskflow.errors import SchemaTooNew
from taskflow.stores.sqlite.statements import SCHEMA
from taskflow.testing.rows import ask, begin, checkpoint, claim, end, pause, post, record, write

pytestmark = pytest.mark.anyio

NEWER = SCHEMA + 1
# The next version, as far as it matters here: with a schema of its own.
NEXT_VERSION = f"""
import sys
import anyio
from taskflow.stores.sqlite import statements as sql

sql.SCHEMA = {NEWER}
sql.MIGRATIONS[{SCHEMA}] = "PRAGMA user_version = {NEWER};\\n"
sql.INSERT_CHECKPOINTS = sql.INSERT_CHECKPOINTS.replace("<= {SCHEMA}", "<= {NEWER}")

from taskflow import Runtime, task, workflow

@task
async def charge(order: str) -> str:
    print("charge", flush=True)
    return order

@task
async def stand(order: str) -> str:
    print("stand", flush=True)
    return "delivered"

@workflow
async def fulfil(order: str) -> str:
    return await stand(await charge(order))

async def main():
    async with Runtime(sys.argv[1], workflows=[fulfil], recover=True, poll_interval=0.05) as it:
        while (await it.get("t")).status != "success":
            await anyio.sleep(0.01)
        print((await it.get("t")).result)

anyio.run(main)
"""

bodies: list[str] = []


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    bodies.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@task
async def charge(order: str) -> str:
    bodies.append("charge")
    return order


@task
async def stand(order: str) -> str:
    bodies.append("stand")
    try:
        await anyio.sleep(PATIENCE)
    finally:
        bodies.append("end")
    return order


@workflow
async def fulfil(order: str) -> str:
    return await stand(await charge(order))


@workflow
async def wait_for(name: str) -> Any:
    return await receive(name)


@workflow
async def nap() -> None:
    await sleep(3600)


def migrate(path: Path, schema: int = NEWER) -> None:
    """What a newer taskflow does to the file when it opens it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {schema}")
        db.commit()


def content(path: Path) -> list[Any]:
    """All rows but those of leases."""
    with closing(sqlite3.connect(path)) as db:
        return [
            row
            for table in ("run", "checkpoint", "cache")
            for row in db.execute(f"SELECT * FROM {table}").fetchall()
        ]


async def test_the_next_version_continues_what_the_older_process_executes(path: Path) -> None:
    """That one is told to be stopped, and no body executes in both at once."""
    async with Runtime(path, poll_interval=0.05) as runtime:
        handle = await runtime.start(fulfil("A1"), thread_id="t")
        await until(lambda: bodies == ["charge", "stand"])
        said: list[bytes] = []

        async def execute_next_version() -> None:
            command = [sys.executable, "-c", NEXT_VERSION, str(path)]
            said.append((await anyio.run_process(command, env=ENVIRONMENT)).stdout)

        async with anyio.create_task_group() as group:
            group.start_soon(execute_next_version)
            with pytest.raises(SchemaTooNew, match="stop the old processes"):
                await handle.result()
            assert bodies == ["charge", "stand", "end"]

        assert said[0].split() == [b"stand", b"delivered"]


async def test_what_is_waited_for_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Runs that sleep and those that execute; and once in the log."""
    async with Runtime(path, poll_interval=0.05) as runtime:
        calls = {"a": fulfil("A1"), "b": wait_for("x"), "c": nap()}
        handles = [await runtime.start(call, thread_id=each) for each, call in calls.items()]
        await until(lambda: [each.status for each in handles] == ["running", "paused", "paused"])

        with caplog.at_level(logging.ERROR, "taskflow"):
            migrate(path)
            for handle in handles:
                with anyio.fail_after(PATIENCE), pytest.raises(SchemaTooNew):
                    await handle.result()

        assert len(caplog.records) == 1
        with pytest.raises(SchemaTooNew) as refused:
            await runtime.run(fulfil("B2"), thread_id="d")
        assert (refused.value.found, refused.value.supported) == (NEWER, SCHEMA)


async def test_the_runs_are_free_before_the_older_process_ends(path: Path) -> None:
    """Its lease is given up as soon as nothing executes there."""
    async with Runtime(path, poll_interval=0.05) as runtime:
        handle = await runtime.start(fulfil("A1"), thread_id="t")
        await until(lambda: bodies == ["charge", "stand"])
        migrate(path)
        with pytest.raises(SchemaTooNew):
            await handle.result()
        migrate(path, SCHEMA)  # as the newer version sees it

        async with Runtime(path) as newer:

            async def is_free() -> bool:
                with suppress(ThreadBusy):
                    await newer.start(fulfil("A1"), thread_id="t")
                    return True
                return False

            await until(is_free)
            await until(lambda: bodies == ["charge", "stand", "end", "stand"])


OPERATIONS: dict[str, Callable[[Runtime], Awaitable[Any]]] = {
    "run": lambda it: it.run(charge_once("A1"), thread_id="new"),
    "send": lambda it: it.send("paused", "x", 1),
    "cancel": lambda it: it.cancel("paused"),
    "delete": lambda it: it.delete("paused"),
    "fork": lambda it: it.fork("paused", to="copy"),
    "prune": lambda it: it.prune(keep_last=0),
    "clear_cache": lambda it: it.clear_cache("charge"),
    "get": lambda it: it.get("paused"),
    "runs": lambda it: it.runs(),
    "tasks": lambda it: it.tasks("paused"),
    "export": lambda it: anext(it.export("paused")),
}


@workflow
async def charge_once(order: str) -> str:
    return await charge(order)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_nothing_is_read_or_written_any_more(name: str, path: Path) -> None:
    """Whatever is asked for first: SchemaTooNew, and no row has changed."""
    async with Runtime(path, poll_interval=NEVER) as runtime:
        handle = await runtime.start(wait_for("x"), thread_id="paused")
        await until(lambda: handle.status == "paused")
        migrate(path)
        before = content(path)

        with pytest.raises(SchemaTooNew, match="stop the old processes"):
            await OPERATIONS[name](runtime)

    assert content(path) == before


async def test_a_body_that_ends_later_is_not_recorded(path: Path) -> None:
    """Its commit is refused in the same statement, and so is the end of its run."""
    async with Runtime(path, poll_interval=NEVER) as runtime:
        migrate_in_the_body: list[Path] = [path]

        @task
        async def last() -> None:
            migrate(migrate_in_the_body.pop())

        @workflow
        async def once() -> None:
            await last()

        with pytest.raises(SchemaTooNew):
            await runtime.run(once(), thread_id="t")

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM checkpoint").fetchone() == (0,)
        assert db.execute("SELECT status FROM run").fetchone() == ("running",)


@pytest.mark.parametrize("how", ["rows", "batch"])
async def test_a_store_refuses_whole_batches(how: str, path: Path) -> None:
    """Of one row, of many, and with other writes beside them."""
    store = SQLiteStore(path)
    await store.open("owner")
    run = await begin(store, owner="owner")
    await record(store, run)
    migrate(path)
    before = content(path)
    rows = [checkpoint(run.key, f"charge:{number}") for number in range(2, 2000)]
    batches: dict[str, dict[str, Any]] = {
        "rows": {"checkpoints": rows[:1]},
        "batch": {"checkpoints": rows, "claims": [claim("other")]},
    }

    with pytest.raises(SchemaTooNew):
        await write(store, **batches[how])

    await store.close("owner")
    assert content(path) == before
    with pytest.raises(SchemaTooNew):
        await store.run("thread", None)


async def test_a_row_that_only_a_newer_version_reads_is_not_called_damaged(path: Path) -> None:
    """Its checksum does not fit here: the file is not to be restored from any backup."""
    store = SQLiteStore(path)
    await store.open("owner")
    await end(store, await begin(store, owner="owner"), pause)
    migrate(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE run SET checksum = 7, waits = 'not what was'")
        db.commit()

    for operation in (
        lambda: store.run("thread", None),
        lambda: store.runs(None, None, None, 10),
        lambda: ask(store, claim()),
        lambda: post(store),
    ):
        with pytest.raises(SchemaTooNew):
            await operation()  # type: ignore[no-untyped-call]
    await store.close("owner")
