"""Files that earlier versions have written: they are migrated when they are opened, and go on.

Each ``schemas/N.sql`` was recorded by the taskflow that had schema N, with ``schemas/shop.py``.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from processes import ENVIRONMENT
from schemas import parcels, questions, shop
from schemas.shop import chat, fulfil
from waits import waits_of

from taskflow import RunCancelled, Runtime
from taskflow.errors import SchemaTooNew
from taskflow.records import RunStatus
from taskflow.stores.sqlite.statements import SCHEMA

pytestmark = pytest.mark.anyio

SCHEMAS = sorted(Path(shop.__file__).parent.glob("*.sql"))
OPEN = """
import sys, anyio
from taskflow import Runtime
async def main():
    sys.stdin.readline()
    async with Runtime(sys.argv[1]) as runtime:
        print(sum([len(await runtime.tasks(each)) for each in ("finished", "failed")]))
anyio.run(main)
"""


@pytest.fixture(params=SCHEMAS, ids=lambda path: f"schema {path.stem}")
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file as an earlier version has left it."""
    path = str(tmp_path / "shop.db")
    connection = sqlite3.connect(path)
    connection.executescript(request.param.read_text())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return path


@pytest.fixture
async def runtime(db: str, anyio_backend: object) -> AsyncIterator[Runtime]:
    """A runtime of this version on that file."""
    shop.bodies.clear()
    shop.outage.clear()
    questions.bodies.clear()
    async with Runtime(db) as runtime:
        yield runtime


def shape(path: str) -> dict[str, list[str]]:
    """The columns and indexes of each table."""
    connection = sqlite3.connect(path)
    names = "SELECT name, tbl_name FROM sqlite_master WHERE type IN ('table', 'index') ORDER BY 1"
    found: dict[str, list[str]] = {}
    for name, table in connection.execute(names).fetchall():
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        found[name] = [f"{row[1]} {row[2]} {row[3]} {row[5]}" for row in columns]
    found["schema"] = [str(connection.execute("PRAGMA user_version").fetchone()[0])]
    connection.close()
    return found


async def test_an_older_file_becomes_like_a_new_one(db: str, tmp_path: Path) -> None:
    """After it was opened it has the tables, columns and indexes of this version."""
    for path in (db, tmp_path / "new.db"):
        async with Runtime(path):
            pass

    assert shape(db) == shape(str(tmp_path / "new.db"))
    assert shape(db)["schema"] == [str(SCHEMA)]


async def test_every_record_of_an_older_file_reads_back(runtime: Runtime) -> None:
    """Runs and calls are shown as they were recorded, and none is damaged."""
    shops = [each for each in await runtime.runs() if each.workflow not in ("ask", "nap")]
    statuses = {each.thread_id: each.status for each in shops}
    assert statuses == {
        "finished": "success", "failed": "error", "cancelled": "cancelled",
        "unfinished": "running", "conversation": "success", "block": "running",
    }  # fmt: skip

    calls = {each.name: each for each in await runtime.tasks("finished")}
    assert list(calls) == ["stock", "rate", "print_label", "pack", "ship", "charge"]
    assert calls["charge"].value == {"order": "A1", "amount": 125}
    assert calls["stock"].error == "LookupError: nothing left for A1"
    assert calls["print_label"].parent_id == calls["pack"].task_id
    assert calls["pack"].parent_id == calls["ship"].task_id


async def test_a_finished_run_of_an_older_file_is_answered(runtime: Runtime) -> None:
    """Its identity and its result are what they were."""
    result = await runtime.run(fulfil("A1", 100), thread_id="finished")

    assert (result, shop.bodies) == ("label of A1, A1: 125", [])


@pytest.mark.parametrize(("thread_id", "order", "amount"), [("failed", "B2", 100),
                                                            ("unfinished", "D4", 400)])  # fmt: skip
async def test_a_run_of_an_older_file_executes_what_is_missing(
    thread_id: str, order: str, amount: int, runtime: Runtime
) -> None:
    """One that had failed, and one whose process had died, go on where they were."""
    await runtime.run(fulfil(order, amount), thread_id=thread_id)

    assert shop.bodies == [f"charge {order}"]
    assert (await runtime.get(thread_id)).status == RunStatus.SUCCESS


async def test_a_failed_run_of_an_older_file_is_final_for_others(runtime: Runtime) -> None:
    """Another input makes a new run, and the failed one stays as it is, error and all."""
    failed = await runtime.get("failed")

    await runtime.run(fulfil("F6", 100), thread_id="failed")

    assert await runtime.get("failed", failed.run_id) == failed
    assert [each.status for each in await runtime.runs(thread_id="failed")] == ["success", "error"]


async def test_a_cancelled_run_of_an_older_file_stays_cancelled(runtime: Runtime) -> None:
    """That is final."""
    cancelled = await runtime.get("cancelled")

    with pytest.raises(RunCancelled):
        await runtime.run(fulfil("B2", 100), thread_id="cancelled", run_id=cancelled.run_id)


async def test_a_conversation_of_an_older_file_goes_on(runtime: Runtime) -> None:
    """The next run is given what the latest one had saved; a known message is not said twice."""
    assert await runtime.run(chat("hello"), thread_id="conversation", run_id="hello") == 5
    await runtime.run(chat("there"), thread_id="conversation", run_id="there")

    assert shop.bodies == ["turn 2 there"]


async def test_a_block_of_an_older_file_answers(runtime: Runtime) -> None:
    """What was recorded without a workflow is not executed again."""
    async with runtime.thread("block"):
        assert await shop.charge("C3", 300) == shop.Receipt("C3", 300)

    assert shop.bodies == []


async def test_shared_results_of_an_older_file_are_shared(runtime: Runtime) -> None:
    """A new thread is given what the old ones have put into the cache."""
    await runtime.run(fulfil("E5", 100), thread_id="new")

    assert "rate EUR" not in shop.bodies
    assert "charge E5" in shop.bodies


async def test_a_wait_of_an_older_file_goes_on(runtime: Runtime) -> None:
    """With the signal that it had taken, the one that it was sent, and the next; nothing twice."""
    if "ask" not in [each.workflow for each in await runtime.runs()]:
        pytest.skip("the first schema has nothing that waits")
    (wait,) = (await runtime.get("asking")).waits
    assert (wait.name, wait.deadline) == ("word", pytest.approx(wait.since + questions.LONG, abs=1))

    await runtime.send("asking", "word", "again", id="1")  # it was taken: it counts once
    await runtime.send("asking", "word", "world", id="3")
    result = await runtime.run(questions.ask("words"), thread_id="asking", wait=True)

    assert (result, questions.bodies) == (["HELLO", "world", "there"], [])


async def test_a_timer_of_an_older_file_is_the_same(runtime: Runtime) -> None:
    """It waits until the time that was recorded."""
    if "nap" not in [each.workflow for each in await runtime.runs()]:
        pytest.skip("the first schema has nothing that waits")
    (wait,) = await waits_of(runtime, questions.nap(), "napping")

    assert wait.deadline == questions.MORNING.timestamp()


def test_two_processes_may_open_an_older_file_at_once(db: str) -> None:
    """One migrates it, the other finds it migrated."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, db],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    answers = [process.communicate(timeout=60) for process in processes]

    assert answers == [("11\n", "")] * 3


@pytest.mark.parametrize("action", ["continue", "copy"])
async def test_a_run_that_was_begun_by_0_3_keeps_its_ids(tmp_path: Path, action: str) -> None:
    """Its ids tell no types inside of arguments: an upgrade executes nothing a second time."""
    path = str(tmp_path / "parcels.db")
    connection = sqlite3.connect(path)
    connection.executescript(Path(parcels.__file__).with_name("parcels.0.3").read_text())
    connection.close()
    parcels.bodies.clear()

    async with Runtime(path) as runtime:
        thread_id = "sent"
        if action == "copy":
            await runtime.fork("sent", to="copy")
            thread_id = "copy"
        assert await runtime.run(parcels.send(), thread_id=thread_id) == [2, 2, 1]
        async with runtime.thread("block"):
            assert await parcels.charge(parcels.PARCELS) == 2

    assert parcels.bodies == ["load"]  # whose own task was recorded


async def test_a_file_of_a_newer_schema_is_refused_untouched(db: str) -> None:
    """Not a byte of it is changed, and the error names both schemas."""
    connection = sqlite3.connect(db)
    connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.commit()
    connection.close()
    content = Path(db).read_bytes()  # noqa: ASYNC240 - nobody waits

    with pytest.raises(SchemaTooNew) as refused:
        await Runtime(db).open()

    assert (refused.value.found, refused.value.supported) == (SCHEMA + 1, SCHEMA)
    assert Path(db).read_bytes() == content  # noqa: ASYNC240
