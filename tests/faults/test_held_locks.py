"""A lock that another process holds, for shorter and for longer than ``busy_timeout``.

Shorter: whoever writes waits, and whoever reads does not. Longer: StoreError, and the same run goes
on when the lock is free. In neither does the store hold up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from pulse import Pulse
from steps import COUNT, STRUCK, TOTAL, Steps, check, has_transaction

from taskflow import Runtime, SQLiteStore, task, workflow
from taskflow.errors import StoreError
from taskflow.stores.sqlite.statements import SAFE_WAL_VERSION

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
BEATS = 40  # of the loop, while something waits: two tenths of a second
SHORT = 0.3  # seconds of patience of a store whose lock is held for longer
LOCKS = ["exclusive", "advisory"]


class Holder:
    """A process that holds a lock."""

    def __init__(self, path: Path, kind: str) -> None:
        if kind == "advisory" and sqlite3.sqlite_version_info >= SAFE_WAL_VERSION:
            pytest.skip("SQLite from 3.51.3 on needs no lock beside its own")
        self.has_lock = anyio.Event()
        program = Path(__file__).with_name("holder.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), str(path), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def hold(self) -> None:
        """Have it take the lock."""
        assert await anyio.to_thread.run_sync(self._ask) == "held"
        self.has_lock.set()

    async def free(self) -> None:
        """Have it let go."""
        assert await anyio.to_thread.run_sync(self._ask) == "free"

    def _ask(self) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "taskflow.db"


@pytest.fixture(params=LOCKS)
def holder(path: Path, request: pytest.FixtureRequest) -> Iterator[Holder]:
    """A process that holds a lock when it is asked to, of one kind and of the other."""
    holder = Holder(path, request.param)
    yield holder
    holder.kill()


@pytest.fixture
async def pulse() -> AsyncIterator[Pulse]:
    """The beat of the test's loop, which no store may hold up."""
    async with Pulse() as pulse:
        yield pulse
    assert not pulse.stalls, pulse.stalls[0]


async def test_a_commit_waits_for_a_lock(path: Path, holder: Holder, pulse: Pulse) -> None:
    """Shorter than busy_timeout: nobody notices but by the time that it took."""
    steps = Steps()
    async with Runtime(path) as runtime, anyio.create_task_group() as group:
        freed: list[int] = []

        async def let_go() -> None:
            await pulse.count(BEATS)
            freed.append(len(steps.seen))
            await holder.free()

        async def begin() -> None:
            await holder.hold()
            group.start_soon(let_go)

        steps.faults[STRUCK] = begin
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(steps.workflow(), thread_id="t") == TOTAL
    assert freed == [STRUCK]
    assert steps.executed == list(range(COUNT))


async def test_a_lock_is_held_for_too_long(path: Path, holder: Holder, pulse: Pulse) -> None:
    """The caller is told, and the same runtime goes on with the run when it is free."""
    steps = Steps(holder.hold)
    async with Runtime(SQLiteStore(path, busy_timeout=SHORT)) as runtime:
        report = await steps.fail(runtime)
        assert (
            f"locked by another connection for longer than busy_timeout ({SHORT} s)" in report.error
        )
        assert len(report.seen) == STRUCK
        await holder.free()
        check(await steps.go_on(runtime, report), path)


async def test_opening_waits_for_a_lock(path: Path, holder: Holder, pulse: Pulse) -> None:
    """And is refused when it takes too long, after which the same object can be opened."""
    async with Runtime(path):
        pass
    await holder.hold()
    impatient = Runtime(SQLiteStore(path, busy_timeout=SHORT))
    with anyio.fail_after(PATIENCE), pytest.raises(StoreError, match="longer than busy_timeout"):
        await impatient.open()
    async with anyio.create_task_group() as group:
        opening = Runtime(path)
        group.start_soon(opening.open)
        await pulse.count(BEATS)
        await holder.free()
    for runtime in (opening, await impatient.open()):
        assert await runtime.run(Steps().workflow(), thread_id="t") == TOTAL
        await runtime.aclose()
    assert not list(path.parent.glob("*-owner-*"))


async def test_closing_ends_while_a_lock_is_held(path: Path, holder: Holder, pulse: Pulse) -> None:
    """What it could not tell others they find out; the run that it cut off is continued."""
    steps = Steps()
    executing = anyio.Event()

    async def stay() -> None:
        executing.set()
        await anyio.sleep_forever()

    steps.faults[STRUCK] = stay
    runtime = await Runtime(SQLiteStore(path, busy_timeout=SHORT)).open()
    await runtime.start(steps.workflow(), thread_id="t")
    await executing.wait()
    await holder.hold()
    with anyio.fail_after(PATIENCE):
        await runtime.aclose()
    await holder.free()
    async with Runtime(path) as runtime:
        assert await runtime.run(steps.workflow(), thread_id="t") == TOTAL
    assert steps.executed == [*range(STRUCK + 1), *range(STRUCK, COUNT)]


@task
async def part(number: int) -> int:
    return number


@workflow
async def parts(count: int) -> int:
    return len(await part.map(range(count)))


@workflow
async def half(count: int) -> int:
    await part.map(range(count))
    raise ConnectionError


async def test_readers_do_not_wait(path: Path, holder: Holder, pulse: Pulse) -> None:
    """Ten thousand rows are read while others write, however long they do."""
    count = 10_000
    async with Runtime(SQLiteStore(path, busy_timeout=0.0)) as runtime:
        assert await runtime.run(parts(count), thread_id="t") == count
        await holder.hold()
        with anyio.fail_after(PATIENCE):
            assert (await runtime.get("t")).result == count
            assert len(await runtime.tasks("t")) == count
            assert len(await runtime.runs()) == 1
            assert len([line async for line in runtime.export("t")]) > count
        await holder.free()


async def test_a_rerun_of_many_rows_holds_nobody_up(path: Path, pulse: Pulse) -> None:
    """What a run has recorded is loaded, compared and handed out in turns with others."""
    count = 10_000
    async with Runtime(path) as runtime:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await runtime.run(half(count), thread_id="t")
        assert len(await runtime.tasks("t")) == count


async def test_a_fan_out_waits_for_a_lock(path: Path, holder: Holder, pulse: Pulse) -> None:
    """Ten thousand tasks meet it in the middle: each is executed and recorded once."""
    count = 10_000
    executed: list[int] = []

    @task
    async def one(number: int) -> int:
        executed.append(number)
        if number == count // 2:
            await holder.hold()
        return number

    @workflow
    async def all_of_them() -> int:
        return len(await one.map(range(count), concurrency=100))

    async with Runtime(path) as runtime:
        running = asyncio.create_task(runtime.run(all_of_them(), thread_id="t"))
        with anyio.fail_after(PATIENCE):
            await holder.has_lock.wait()
            await pulse.count(BEATS)
            assert not running.done()
            await holder.free()
            assert await running == count
        assert len(await runtime.tasks("t")) == count
    assert sorted(executed) == list(range(count))


async def collected(runtime: Runtime) -> list[str]:
    return [line async for line in runtime.export("t")]


# In an order in which each finds something to do.
OPERATIONS: dict[str, Callable[[Runtime, str, list[str]], Awaitable[object]]] = {
    "send": lambda runtime, *_: runtime.send("failed", "go"),
    "run": lambda runtime, *_: runtime.run(parts(3), thread_id="new"),
    "fork": lambda runtime, *_: runtime.fork("t", to="fork"),
    "import": lambda runtime, _, lines: runtime.import_thread(lines, to="imported"),
    "replace": lambda runtime, task_id, _: runtime.replace("t", task_id, 7),
    "forget": lambda runtime, task_id, _: runtime.forget("t", task_id),
    "cancel": lambda runtime, *_: runtime.cancel("failed"),
    "prune": lambda runtime, *_: runtime.prune(finished_before=timedelta(0)),
    "delete": lambda runtime, *_: runtime.delete("t"),
}


async def test_every_writer_waits_for_a_lock(path: Path, holder: Holder, pulse: Pulse) -> None:
    """Each operation that writes: refused after busy_timeout, having done nothing; else done."""
    patient = Runtime(path)
    async with Runtime(SQLiteStore(path, busy_timeout=0.05)) as runtime, patient:
        await runtime.run(parts(10), thread_id="t")
        with pytest.raises(ConnectionError):
            await runtime.run(half(10), thread_id="failed")
        lines = await collected(runtime)
        task_id = (await runtime.tasks("t"))[0].task_id
        for name, operation in OPERATIONS.items():
            before = dump(path)
            await holder.hold()
            with anyio.fail_after(PATIENCE), pytest.raises(StoreError, match="busy_timeout"):
                await operation(runtime, task_id, lines)
            assert not await has_transaction(runtime), name
            assert dump(path) == before, name
            waiting = asyncio.create_task(operation(patient, task_id, lines))
            await pulse.count(5)
            assert not waiting.done(), name
            await holder.free()
            with anyio.fail_after(PATIENCE):
                await waiting
            assert not await has_transaction(patient), name
            assert dump(path) != before, name


def dump(path: Path) -> list[str]:
    """All that is recorded, as statements."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [line for line in db.iterdump() if '"lease"' not in line]


# Callers that are cancelled while they wait for the lock.


class Cancellable:
    """Some work in a task of its own, to be cancelled natively or by a scope."""

    def __init__(self, work: Callable[[], Awaitable[object]], how: str) -> None:
        self._work = work
        self._how = how
        self._scope = anyio.CancelScope()
        self._task = asyncio.create_task(self._do())

    async def _do(self) -> None:
        with self._scope:
            await self._work()

    async def cancel(self, pulse: Pulse) -> None:
        """Cancel it, natively again and again; it goes on waiting all the same."""
        for _ in range(3):
            if self._how == "natively":
                self._task.cancel()
            else:
                self._scope.cancel()
            await pulse.count(5)

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    async def end(self) -> None:
        """Wait for it; what had been done by then may be returned all the same."""
        with anyio.fail_after(PATIENCE), contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.mark.parametrize("how", ["natively", "by a scope"])
@pytest.mark.parametrize("length", ["short", "long"])
async def test_a_cancelled_run_loses_nothing(
    path: Path, holder: Holder, pulse: Pulse, how: str, length: str
) -> None:
    """It waits for its commit, and its caller until it is known what has become of that."""
    steps = Steps(holder.hold)
    patience = SHORT if length == "long" else 5.0
    async with Runtime(SQLiteStore(path, busy_timeout=patience)) as runtime:
        running = Cancellable(lambda: runtime.run(steps.workflow(), thread_id="t"), how)
        await holder.has_lock.wait()
        await pulse.count(5)
        await running.cancel(pulse)
        if length == "short":
            assert not running.has_ended
            await holder.free()
            await running.end()
        else:
            await running.end()
            await holder.free()
        assert not await has_transaction(runtime)
        report = await steps.fail(runtime)
        assert report.kind == "NoneType"
        # The step whose commit was waited for is recorded if the lock was free in time.
        again = STRUCK + 1 if length == "short" else STRUCK
        assert steps.executed == [*range(STRUCK + 1), *range(again, COUNT)]
        assert len(await runtime.tasks("t")) == COUNT


@pytest.mark.parametrize("how", ["natively", "by a scope"])
async def test_a_cancelled_writer_leaves_no_transaction(
    path: Path, holder: Holder, pulse: Pulse, how: str
) -> None:
    """It waits for the lock, does what it was asked, and then the cancellation goes on."""
    async with Runtime(path) as runtime:
        await runtime.run(parts(3), thread_id="t")
        with pytest.raises(ConnectionError):
            await runtime.run(half(3), thread_id="failed")
        lines = await collected(runtime)
        task_id = (await runtime.tasks("t"))[0].task_id
        for name, operation in OPERATIONS.items():
            before = dump(path)
            await holder.hold()
            writing = Cancellable(partial(operation, runtime, task_id, lines), how)
            await pulse.count(5)
            await writing.cancel(pulse)
            assert not writing.has_ended, name
            await holder.free()
            await writing.end()
            assert not await has_transaction(runtime), name
            assert dump(path) != before, name


@pytest.mark.parametrize("how", ["natively", "by a scope"])
async def test_a_cancelled_opening_leaves_nothing(
    path: Path, holder: Holder, pulse: Pulse, how: str
) -> None:
    """Neither a lock, nor a lease, nor a thread; it can be opened after that."""
    async with Runtime(path):
        pass
    await holder.hold()
    runtime = Runtime(path)
    opening = Cancellable(runtime.open, how)
    await pulse.count(5)
    await opening.cancel(pulse)
    await holder.free()
    await opening.end()
    assert not list(path.parent.glob("*-owner-*"))
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM lease").fetchone() == (0,)
    async with runtime:
        assert await runtime.run(parts(3), thread_id="t") == 3


# Slow for other reasons.


def big_log(path: Path, size: int) -> None:
    """Leave a log of so many bytes behind, as a process that was killed does."""
    program = f"""
import os, sqlite3
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint = 0")
db.execute("UPDATE checkpoint SET arguments = ''")
while os.stat({str(path) + "-wal"!r}).st_size < {size}:
    db.execute("UPDATE checkpoint SET arguments = hex(randomblob(1000000))")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_opening_a_big_log_holds_nobody_up(path: Path, pulse: Pulse, is_long: bool) -> None:
    """SQLite reads all of it and makes an index, and at the end copies it into the database."""
    async with Runtime(path) as runtime:
        await runtime.run(parts(3), thread_id="t")
    size = (1024 if is_long else 64) * 1024 * 1024
    await anyio.to_thread.run_sync(big_log, path, size)
    async with Runtime(path) as runtime:
        assert os.stat(f"{path}-wal").st_size >= size
        assert await runtime.run(parts(4), thread_id="u") == 4
