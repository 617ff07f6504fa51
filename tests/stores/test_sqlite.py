"""What only `SQLiteStore` has: a file, its neighbours, its locks, and other processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskflow import CachePolicy, Runtime, SQLiteStore, ThreadBusy
from taskflow import task as task_
from taskflow import workflow as workflow_
from taskflow.errors import CheckpointCorrupt, SchemaTooNew, StoreError
from taskflow.stores.sqlite.statements import SCHEMA
from taskflow.testing.rows import ask, begin, checkpoint, claim, recorded, release, success, write

pytestmark = pytest.mark.anyio

# Claims a run, records one row, says so; then records one more for each line that it is sent.
OWNER_PROGRAM = """
import asyncio, sys
from taskflow.testing.rows import begin, checkpoint, write
from taskflow import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1], lease_ttl=float(sys.argv[2]))
    await store.open("child")
    run = await begin(store, owner="child")
    await write(store, checkpoints=[checkpoint(run.key, "first")])
    print("ready", flush=True)
    for line in sys.stdin:
        committed = await write(store, checkpoints=[checkpoint(run.key, line.strip())])
        print("refused" if committed.refused else "written", flush=True)
    await store.close("child")

asyncio.run(main())
"""

UNCLOSED_PROGRAM = """
import asyncio, sys
from taskflow import Runtime

async def main():
    await Runtime(sys.argv[1]).open()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "taskflow.db"


@asynccontextmanager
async def opened(path: Path, owner: str = "owner", **options: object) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, **options)
    await store.open(owner)
    try:
        yield store
    finally:
        await store.close(owner)


@contextmanager
def owner_process(path: Path, lease_ttl: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            OWNER_PROGRAM,
            str(path),
            str(lease_ttl),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def content(path: Path) -> bytes:
    return path.read_bytes()


def edit(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


async def test_the_file_says_whose_it_is(path: Path) -> None:
    """application_id and user_version; WAL and FULL."""
    async with opened(path):
        pass

    with closing(sqlite3.connect(path)) as db:
        found = [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode")
        ]
    assert found == [0x7461736B, SCHEMA, "wal"]


def foreign(path: Path) -> None:
    edit(path, "CREATE TABLE theirs (a)")


def foreign_id(path: Path) -> None:
    edit(path, "PRAGMA application_id = 7")


def newer(path: Path) -> None:
    edit(path, "PRAGMA application_id = 1952543595")
    edit(path, "PRAGMA user_version = 99")


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be one" * 100)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (foreign, StoreError, "another application"),
        (foreign_id, StoreError, "another application"),
        (newer, SchemaTooNew, "schema 99"),
        (no_database, StoreError, "not a SQLite database"),
    ],
)
async def test_what_is_not_ours_is_refused_untouched(
    path: Path, make, error: type[Exception], text: str
) -> None:
    """Byte for byte, with an error that names the file."""
    make(path)
    before = content(path)

    with pytest.raises(error, match=text) as caught:
        async with opened(path):
            pass

    assert str(path) in str(caught.value)
    assert content(path) == before


async def test_a_folder_or_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """Each is its own error, and nothing is made."""
    with pytest.raises(StoreError, match="is a folder"):
        await SQLiteStore(tmp_path).open("owner")
    with pytest.raises(StoreError, match="there is no folder"):
        await SQLiteStore(tmp_path / "missing" / "taskflow.db").open("owner")

    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (b"taskflow.db", TypeError, "is a str or a Path, got b'taskflow.db'"),
        ("task\0flow.db", ValueError, "null character"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(
    path: Any, error: type[Exception], text: str
) -> None:
    """Where it is given, not when it is opened."""
    with pytest.raises(error, match=text):
        SQLiteStore(path)


async def test_a_name_that_ends_like_a_folder_makes_no_file(tmp_path: Path) -> None:
    """``new.db/`` is not ``new.db``."""
    with pytest.raises(StoreError, match="would be a folder"):
        await SQLiteStore(f"{tmp_path}/new.db/").open("owner")

    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", "-lock"])
async def test_what_is_no_regular_file_is_refused(path: Path, suffix: str) -> None:
    """By its name, and not as a disk that has failed."""
    os.mkfifo(f"{path}{suffix}")
    with pytest.raises(StoreError, match=f"{path}{suffix} is not a regular file"):
        await SQLiteStore(path).open("owner")

    assert [each.name for each in path.parent.iterdir()] == [f"{path.name}{suffix}"]


async def test_a_file_with_two_names_is_refused(path: Path) -> None:
    """Each would have a log of its own; it is opened again when one name is gone."""
    async with opened(path) as store:
        await begin(store)
    other = path.with_name("other.db")
    other.hardlink_to(path)
    before = content(path)
    for name in (path, other):
        with pytest.raises(StoreError, match=f"{name} has more than one name .* copy it"):
            await SQLiteStore(name).open("owner")
    assert content(path) == before

    os.unlink(path)
    async with opened(other) as store:
        assert (await store.run("thread", None)) is not None


def test_a_failed_opening_leaves_no_thread_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may be closed the moment after: a thread that told it more would fail."""
    failed: list[object] = []
    before = {*threading.enumerate()}
    monkeypatch.setattr(threading, "excepthook", failed.append)
    path.symlink_to(path)
    for _ in range(20):
        with pytest.raises(StoreError, match="cannot be opened"):
            asyncio.run(SQLiteStore(path).open("owner"))

    assert not failed
    begun = {*threading.enumerate()} - before  # those of other tests may live on
    assert not [each for each in begun if "_connection_" in each.name]


@pytest.mark.parametrize(
    "options", [{"synchronous": "OFF"}, {"busy_timeout": -1}, {"lease_ttl": 0}]
)
def test_an_option_that_makes_no_sense_is_refused(path: Path, options: dict) -> None:
    """Before any file is made."""
    with pytest.raises(ValueError):
        SQLiteStore(path, **options)
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLiteStore(":memory:")


async def test_a_locked_file_is_an_error_after_busy_timeout(path: Path) -> None:
    """It names the file and the option; when the lock is gone the store goes on."""
    async with opened(path, busy_timeout=0.05) as store:
        run = await begin(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="busy_timeout") as caught:
                await write(store, checkpoints=[checkpoint(run.key)])
            other.execute("ROLLBACK")

        assert str(path) in str(caught.value)
        assert not caught.value.row_at_fault
        assert await recorded(store) == []
        await write(store, checkpoints=[checkpoint(run.key)])
        assert await recorded(store) == ["charge:1"]


async def test_a_full_disk_is_an_error_that_writes_nothing(path: Path) -> None:
    """And when there is room again, the same run goes on."""
    async with opened(path) as store:
        run = await begin(store)
        large = [checkpoint(run.key, f"{n}", payload=b'"%b"' % (b"x" * 9000)) for n in range(50)]
        limit = "PRAGMA max_page_count"
        await store.session.writer.trip(lambda db: db.execute(f"{limit} = 40").fetchall())

        with pytest.raises(StoreError, match="no space left"):
            await write(store, checkpoints=large)

        assert await recorded(store) == []
        await store.session.writer.trip(lambda db: db.execute(f"{limit} = 1000000").fetchall())
        await write(store, checkpoints=large)
        assert len(await recorded(store)) == 50


async def test_a_store_serves_one_runtime(path: Path) -> None:
    """And says so; when it is closed, that it is not open."""
    async with opened(path) as store:
        with pytest.raises(StoreError, match="one runtime"):
            await store.open("second")

    with pytest.raises(StoreError, match="not open"):
        await store.run("thread", None)


@pytest.mark.parametrize("payload", ["'\"other\"'", "CAST('\"other\"' AS BLOB)", "5"])
async def test_a_damaged_checkpoint_names_thread_and_task(path: Path, payload: str) -> None:
    """Never a wrong value, whatever stands in the row now."""

    @task_(name="charge")
    async def charge(order: str) -> str:
        return order

    @workflow_(name="fulfil")
    async def fulfil() -> None:
        await charge("A1")
        raise ConnectionError

    async with Runtime(path) as runtime:
        with pytest.raises(ConnectionError):
            await runtime.run(fulfil(), thread_id="order-A1")
        edit(path, f"UPDATE checkpoint SET payload = {payload}")

        for use in (runtime.tasks("order-A1"), runtime.run(fulfil(), thread_id="order-A1")):
            with pytest.raises(CheckpointCorrupt) as caught:
                await use
            assert caught.value.thread_id == "order-A1"
            assert caught.value.task_id.startswith("charge:")


@pytest.mark.parametrize("column", ["input", "result", "status", "run_id", "saved"])
async def test_a_damaged_run_names_its_thread(path: Path, column: str) -> None:
    """It is neither continued, nor answered, nor cancelled, nor shown."""
    async with opened(path) as store:
        run = await begin(store)
        await write(store, finishes=[success(run.key)])
        edit(path, f"UPDATE run SET {column} = 'paused'")

        for use in (ask(store, claim()), store.run("thread", None), store.cancel("thread", 1.0)):
            if column not in ("status",) and use.__name__ == "cancel":
                use.close()  # it has ended: there is nothing to cancel
                continue
            with pytest.raises(CheckpointCorrupt) as caught:
                await use
            assert caught.value.thread_id == "thread"


async def test_a_damaged_earlier_run_hurts_only_who_needs_it(path: Path) -> None:
    """What previous() would give is read before anything is claimed."""
    async with opened(path) as store:
        for number in range(2):
            run = await begin(store, run_id=f"{number}")
            await write(store, finishes=[success(run.key) if number == 0 else release(run.key)])
        edit(path, "UPDATE run SET result = 'changed' WHERE run_id = '0'")

        committed = await write(store, claims=[claim(run_id="1"), claim("other")])

        assert isinstance(committed.claims[0], CheckpointCorrupt)
        assert not isinstance(committed.claims[1], Exception)
        row = await store.run("thread", "1")
        assert row is not None
        assert row.owner is None


async def test_lock_files_are_gone_after_a_clean_close(path: Path) -> None:
    """Only the write lock stays: others may hold it."""
    async with opened(path):
        assert list(path.parent.glob("*-owner-*"))

    assert not list(path.parent.glob("*-owner-*"))


async def test_the_run_of_a_killed_process_can_be_continued_at_once(path: Path) -> None:
    """Its lock can be taken, long before its lease has run out; its lock file is cleaned up."""
    async with opened(path) as store:
        with owner_process(path, lease_ttl=600) as process:
            with pytest.raises(ThreadBusy):
                await begin(store)
            process.kill()
            process.wait()

            assert (await begin(store)).epoch == 2
        assert await recorded(store) == ["first"]
        assert len(list(path.parent.glob("*-owner-*"))) == 1


@pytest.mark.parametrize("boot_id", ["", "another"])
async def test_an_owner_that_knows_another_boot_lives_while_it_holds_its_lock(
    path: Path, boot_id: str
) -> None:
    """As in a container without /proc, or beside another kernel; killed, it is gone at once."""
    async with opened(path) as store:
        with owner_process(path, lease_ttl=600) as process:
            edit(path, f"UPDATE lease SET boot_id = '{boot_id}' WHERE owner = 'child'")
            with pytest.raises(ThreadBusy):
                await begin(store)
            process.kill()
            process.wait()

            assert (await begin(store)).epoch == 2


async def test_an_owner_without_a_boot_that_is_stopped_is_taken_over(path: Path) -> None:
    """Its lock tells that it is on this machine: its lease runs out by the same clock."""
    async with opened(path) as store:
        with owner_process(path, lease_ttl=600) as process:
            process.send_signal(signal.SIGSTOP)
            edit(path, "UPDATE lease SET boot_id = '', expires = 0 WHERE owner = 'child'")

            assert (await begin(store)).epoch == 2


def open_to_group(path: Path) -> None:
    """Make it, as somebody else's if we may."""
    path.touch()
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    path.chmod(0o660)


def permissions(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid


@pytest.mark.skipif(not hasattr(os, "fchown"), reason="files have no owners here")
async def test_lock_files_are_made_like_the_database(path: Path) -> None:
    """Whoever may write that may use them, whatever the umask of the process that made them."""
    open_to_group(path)
    before = os.umask(0o077)
    try:
        async with opened(path):
            made = [permissions(each) for each in path.parent.iterdir()]
    finally:
        os.umask(before)

    assert len(made) >= 4  # it, its log, the index, its owner's lock, and that of older SQLites
    assert {*made} == {permissions(path)}
    assert permissions(path)[0] & 0o777 == 0o660


def test_the_lease_of_a_closed_loop_is_not_renewed(path: Path) -> None:
    """Nothing can be executed on it any more: others continue at once."""
    store = SQLiteStore(path, lease_ttl=0.6)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open("closed"))
    loop.run_until_complete(begin(store, owner="closed"))
    thread = store.session.lease.thread
    loop.close()
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()

    async def take_over() -> int:
        async with opened(path) as other:
            epoch = (await begin(other)).epoch
        await store.close("closed")
        return epoch

    assert asyncio.run(take_over()) == 2
    assert not list(path.parent.glob("*-owner-*"))


async def test_a_stopped_owner_is_taken_over_and_refused(path: Path) -> None:
    """Past its lease; its next commit writes nothing."""
    async with opened(path) as store:
        with owner_process(path, lease_ttl=0.6) as process:
            process.send_signal(signal.SIGSTOP)
            with anyio.fail_after(10):
                while True:
                    try:
                        run = await begin(store)
                        break
                    except ThreadBusy:
                        await anyio.sleep(0.05)
            process.send_signal(signal.SIGCONT)
            answer, _ = process.communicate("late\n", timeout=10)

        assert answer == "refused\n"
        assert run.epoch == 2
        assert await recorded(store) == ["first"]


def test_an_unclosed_runtime_does_not_keep_the_process(path: Path) -> None:
    """It ends within seconds, with a ResourceWarning."""
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", UNCLOSED_PROGRAM, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=10,
    )

    assert ended.returncode == 0
    assert "ResourceWarning" in ended.stderr
    assert "never closed" in ended.stderr


async def test_a_cancelled_trip_leaves_no_transaction_open(path: Path) -> None:
    """Nor a lock: another connection writes at once."""
    async with opened(path) as store:
        run = await begin(store)
        for number in range(20):
            with anyio.move_on_after(0):
                await write(
                    store, checkpoints=[checkpoint(run.key, f"{number}")], claims=[claim("x")]
                )
            await anyio.lowlevel.checkpoint()

        async with opened(path, "other", busy_timeout=0.05) as other:
            await begin(other, "elsewhere", owner="other")
        assert not await store.session.writer.trip(lambda db: db.in_transaction)


async def test_a_file_is_one_file_under_each_of_its_names(tmp_path: Path) -> None:
    """Through a link, the owner that is alive is found alive: the thread stays busy."""
    (tmp_path / "link.db").symlink_to(tmp_path / "taskflow.db")
    async with opened(tmp_path / "taskflow.db") as store:
        await begin(store, owner="owner")
        async with opened(tmp_path / "link.db", "other") as other:
            with pytest.raises(ThreadBusy):
                await begin(other, owner="other")


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_told_which_store_to_use(tmp_path: Path) -> None:
    """SQLite's connections live in asyncio; the error says so."""
    with pytest.raises(StoreError, match="needs asyncio; on trio there is MemoryStore"):
        await SQLiteStore(tmp_path / "taskflow.db").open("owner")


async def test_a_second_runtime_on_an_open_store_harms_nobody(tmp_path: Path) -> None:
    """It is refused, and the first one goes on."""
    store = SQLiteStore(tmp_path / "one.db")

    @workflow_
    async def working() -> str:
        return "done"

    async with Runtime(store) as first:
        with pytest.raises(StoreError, match="is open already"):
            await Runtime(store).open()
        assert await first.run(working(), thread_id="t") == "done"


async def test_a_shared_result_that_became_text_is_computed_anew(tmp_path: Path) -> None:
    """A column of the cache that holds what was not written is as good as none."""
    path = tmp_path / "cache.db"

    @task_(cache=CachePolicy())
    async def cost() -> int:
        return 7

    @workflow_
    async def costing() -> int:
        return await cost()

    async with Runtime(path) as runtime:
        await runtime.run(costing(), thread_id="first")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE cache SET payload = CAST(payload AS TEXT)")
    async with Runtime(path) as runtime:
        assert await runtime.run(costing(), thread_id="second") == 7
