"""What you saw is recorded; and a store that fails stops the run at that task."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import every_durability
from reruns import Crash, CrashOnce

from taskflow import MemoryStore, Runtime, SQLiteStore, task, workflow
from taskflow.errors import SerializationError, StoreError

pytestmark = pytest.mark.anyio


class FailingStore(MemoryStore):
    """A store that can be full, or slow."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.gate: anyio.Event | None = None
        self.commits = 0

    async def commit(self, batch: Any) -> Any:
        if batch.checkpoints:
            if self.gate is not None:
                await self.gate.wait()
            if self.is_full:
                raise StoreError("the disk is full")
            self.commits += 1
        return await super().commit(batch)


def names_in(path: Path) -> list[str]:
    """The recorded calls, as another process would see them now."""
    db = sqlite3.connect(path)
    try:
        return [name for (name,) in db.execute("SELECT name FROM checkpoint ORDER BY sequence")]
    finally:
        db.close()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The tests here make their own stores; those on SQLite name asyncio themselves."""
    return str(request.param)


on_sqlite = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@task
async def first() -> str:
    return "first"


@task
async def second() -> str:
    return "second"


@task(durability="async")
async def cheap() -> str:
    return "cheap"


@on_sqlite
async def test_a_result_is_in_the_file_before_the_caller_sees_it(tmp_path: Path) -> None:
    """``sync``: a second connection finds the row as soon as the workflow has the result."""
    path = tmp_path / "taskflow.db"

    @workflow
    async def look() -> list[list[str]]:
        seen = []
        await first()
        seen.append(names_in(path))
        await second()
        seen.append(names_in(path))
        return seen

    async with Runtime(path) as runtime:
        assert await runtime.run(look(), thread_id="t") == [["first"], ["first", "second"]]


@on_sqlite
async def test_the_results_of_a_map_are_in_the_file_before_the_list_is_seen(
    tmp_path: Path,
) -> None:
    """A map waits for all of its commits."""
    path = tmp_path / "taskflow.db"

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def look() -> int:
        await step.map(range(500))
        return len(names_in(path))

    async with Runtime(path) as runtime:
        assert await runtime.run(look(), thread_id="t") == 500


@on_sqlite
async def test_a_failure_is_in_the_file_before_it_is_caught(tmp_path: Path) -> None:
    """A failure that a workflow may decide on is recorded like a result."""
    path = tmp_path / "taskflow.db"

    @task
    async def fail() -> None:
        raise Crash

    @workflow
    async def look() -> list[str]:
        try:
            await fail()
        except Crash:
            return names_in(path)
        return []

    async with Runtime(path) as runtime:
        assert await runtime.run(look(), thread_id="t") == ["fail"]


@on_sqlite
@every_durability
async def test_everything_is_in_the_file_when_run_returns(tmp_path: Path, durability: Any) -> None:
    """In any mode a run's own result is handed out when all it rests on is durable."""
    path = tmp_path / "taskflow.db"

    @workflow
    async def both() -> list[str]:
        return [await first(), await second()]

    async with Runtime(path, durability=durability) as runtime:
        await runtime.run(both(), thread_id="t")
        assert names_in(path) == ["first", "second"]


@on_sqlite
@every_durability
async def test_a_failed_run_leaves_its_results_in_the_file(tmp_path: Path, durability: Any) -> None:
    """A run that fails has committed what it has done."""
    path = tmp_path / "taskflow.db"

    @workflow
    async def crash() -> None:
        await first()
        raise Crash

    async with Runtime(path, durability=durability) as runtime:
        with pytest.raises(Crash):
            await runtime.run(crash(), thread_id="t")
        assert names_in(path) == ["first"]


async def test_async_hands_a_result_on_at_once() -> None:
    """``async``: the caller goes on while the store is still busy."""
    store = FailingStore()
    seen: list[str] = []

    @workflow
    async def both() -> str:
        seen.append(await first())
        seen.append(await second())
        assert store.commits == 0
        store.gate.set()
        return "done"

    async with Runtime(store, durability="async") as runtime:
        store.gate = anyio.Event()
        assert await runtime.run(both(), thread_id="t") == "done"
        assert seen == ["first", "second"]
        assert len(await runtime.tasks("t")) == 2


async def test_sync_waits_for_the_store() -> None:
    """``sync``: nobody sees the result before the store has answered."""
    store = FailingStore()
    seen: list[str] = []

    @workflow
    async def one() -> None:
        seen.append(await first())

    async with Runtime(store) as runtime:
        store.gate = anyio.Event()
        handle = await runtime.start(one(), thread_id="t")
        for _ in range(20):
            await checkpoint()
        assert seen == []
        store.gate.set()
        await handle.result()
    assert seen == ["first"]


async def test_exit_commits_when_the_run_ends() -> None:
    """``exit``: one commit for everything that the run has done."""
    store = FailingStore()
    before: list[int] = []

    @workflow
    async def both() -> None:
        await first()
        await second()
        for _ in range(20):
            await checkpoint()
        before.append(store.commits)

    async with Runtime(store, durability="exit") as runtime:
        await runtime.run(both(), thread_id="t")
        assert len(await runtime.tasks("t")) == 2
    assert (before, store.commits) == ([0], 1)


async def test_a_task_overrides_the_durability_of_its_run() -> None:
    """A cheap computation needs no barrier, and is carried by the next ``sync`` outcome."""
    store = FailingStore()
    commits: list[int] = []

    @workflow
    async def both() -> None:
        store.gate = anyio.Event()
        await cheap()
        commits.append(store.commits)
        store.gate.set()
        await first()
        commits.append(len(await runtime.tasks("t")))

    async with Runtime(store) as runtime:
        await runtime.run(both(), thread_id="t")
    assert commits == [0, 2]


async def test_a_sync_task_in_an_exit_run_carries_the_earlier_ones() -> None:
    """What a ``sync`` outcome rests on is committed with it."""

    @task(durability="sync")
    async def charge() -> None: ...

    @workflow
    async def order() -> list[str]:
        await first()
        before = len(await runtime.tasks("t"))
        await charge()
        return [str(before), *[each.name for each in await runtime.tasks("t")]]

    async with Runtime(MemoryStore(), durability="exit") as runtime:
        assert await runtime.run(order(), thread_id="t") == ["0", "first", "charge"]


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_results_that_were_not_committed_are_executed_again(durability: Any) -> None:
    """What a late commit lost executes again; it was never a success for anybody."""
    store = FailingStore()
    bodies: list[str] = []

    @task
    async def step() -> str:
        bodies.append("step")
        return "step"

    @workflow
    async def one() -> str:
        return await step()

    async with Runtime(store, durability=durability) as runtime:
        store.is_full = True
        with pytest.raises(StoreError, match="full"):
            await runtime.run(one(), thread_id="t")
        store.is_full = False
        assert await runtime.run(one(), thread_id="t") == "step"
    assert bodies == ["step", "step"]


async def test_a_late_failure_fails_the_next_call() -> None:
    """A commit that fails behind the caller's back is met at the run's next call."""
    store = FailingStore()
    bodies: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        return name

    @workflow
    async def chain() -> None:
        await step("a")
        while store.is_full and not met:
            for _ in range(10):
                await checkpoint()
            met.append("waited")
        await step("b")

    met: list[str] = []
    async with Runtime(store, durability="async") as runtime:
        store.is_full = True
        with pytest.raises(StoreError, match="full"):
            await runtime.run(chain(), thread_id="t")
    assert bodies == ["a"]


async def test_a_failing_store_stops_the_run_at_that_task() -> None:
    """The waiting task meets the error; later tasks have not started; then the thread goes on."""
    store = FailingStore()
    bodies: list[str] = []
    caught: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "b" and bodies.count("b") == 1:
            store.is_full = True
        return name

    @workflow
    async def chain() -> list[str]:
        results = []
        for name in ("a", "b", "c"):
            try:
                results.append(await step(name))
            except StoreError as error:
                caught.append(str(error))
        return results

    async with Runtime(store) as runtime:
        with pytest.raises(StoreError, match="full"):
            await runtime.run(chain(), thread_id="t")
        assert bodies == ["a", "b"]
        assert "full" in caught[0]
        assert (await runtime.get("t")).status == "running"
        store.is_full = False
        assert await runtime.run(chain(), thread_id="t") == ["a", "b", "c"]
    assert bodies == ["a", "b", "b", "c"]


async def test_a_failing_store_stops_a_map() -> None:
    """The bodies that execute end, no other one begins, and the same thread continues."""
    store = FailingStore()
    bodies: list[int] = []
    disasters = [True]

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 3 and disasters:
            store.is_full = disasters.pop()
        await checkpoint()
        return number

    @workflow
    async def many() -> list[int]:
        return await step.map(range(5000), concurrency=2)

    async with Runtime(store) as runtime:
        with pytest.raises(StoreError, match="full"):
            await runtime.run(many(), thread_id="t")
        begun = len(bodies)
        for _ in range(20):
            await checkpoint()
        assert len(bodies) == begun
        assert begun < 5000
        recorded = len(await runtime.tasks("t"))
        store.is_full = False
        bodies.clear()
        assert await runtime.run(many(), thread_id="t") == list(range(5000))
    assert len(bodies) == 5000 - recorded


async def test_a_failing_store_stops_the_branches_of_a_run() -> None:
    """No call of any branch starts after a commit has failed."""
    store = FailingStore()
    bodies: list[str] = []
    failed = anyio.Event()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        return name

    @workflow
    async def branches() -> None:
        async def bad() -> None:
            store.is_full = True
            try:
                await step("bad")
            except StoreError:
                failed.set()

        async def other() -> None:
            await failed.wait()
            with pytest.raises(StoreError):
                await step("other")

        async with anyio.create_task_group() as group:
            group.start_soon(bad)
            group.start_soon(other)

    async with Runtime(store) as runtime:
        with pytest.raises(StoreError, match="full"):
            await runtime.run(branches(), thread_id="t")
    assert bodies == ["bad"]


async def test_a_failing_store_hurts_no_other_run_for_good() -> None:
    """A run that had nothing to write while the store failed goes on."""
    store = FailingStore()
    begun, go_on = anyio.Event(), anyio.Event()

    @task
    async def wait() -> str:
        begun.set()
        await go_on.wait()
        return "waited"

    @workflow
    async def patient() -> str:
        return await wait()

    @workflow
    async def unlucky() -> str:
        return await first()

    async with Runtime(store) as runtime:
        handle = await runtime.start(patient(), thread_id="patient")
        await begun.wait()
        store.is_full = True
        with pytest.raises(StoreError, match="full"):
            await runtime.run(unlucky(), thread_id="unlucky")
        store.is_full = False
        go_on.set()
        assert await handle.result() == "waited"
        assert await runtime.run(unlucky(), thread_id="unlucky") == "first"


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: "a"},
        float("nan"),
        float("inf"),
        "\ud800",
        object(),
        b"bytes",
        {1, 2},
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_result_that_cannot_be_recorded_stops_the_run_at_that_task(value: Any) -> None:
    """The error names the task; what was to follow has not started."""
    bodies: list[str] = []

    @task
    async def odd():
        return value

    @task
    async def later() -> None:
        bodies.append("later")

    @workflow
    async def chain() -> None:
        await odd()
        await later()

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(SerializationError, match="odd"):
            await runtime.run(chain(), thread_id="t")
        assert bodies == []
        assert await runtime.tasks("t") == []


async def test_a_result_that_holds_itself_cannot_be_recorded() -> None:
    """Cycles, and nesting beyond what every supported Python reads back."""
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]

    for value in (cycle, deep):

        @task
        async def odd(value: list[Any] = value) -> Any:
            return value

        @workflow
        async def one() -> None:
            await odd()

        async with Runtime(MemoryStore()) as runtime:
            with pytest.raises(SerializationError, match="odd"):
                await runtime.run(one(), thread_id="t")


async def test_the_error_shows_the_annotation_to_write() -> None:
    """A tuple without an annotation that says so, and how to say so."""

    @task
    async def pair():
        return (1, "a")

    @task
    async def annotated() -> tuple[int, str]:
        return (1, "a")

    @workflow
    async def one() -> list[str]:
        with pytest.raises(SerializationError, match=r"tuple\[int, str\]"):
            await pair()
        return [type(await annotated()).__name__]

    async with Runtime(MemoryStore()) as runtime:
        assert await runtime.run(one(), thread_id="t") == ["tuple"]


@on_sqlite
async def test_a_run_after_a_locked_file_continues(tmp_path: Path) -> None:
    """A file that somebody else holds longer than the timeout fails that task, and no other."""
    path = tmp_path / "taskflow.db"
    bodies: list[str] = []
    holders: list[sqlite3.Connection] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "b" and bodies.count("b") == 1:
            holder = sqlite3.connect(path, isolation_level=None)
            holder.execute("BEGIN EXCLUSIVE")
            holders.append(holder)
        return name

    @workflow
    async def chain() -> list[str]:
        return [await step(name) for name in ("a", "b", "c")]

    async with Runtime(SQLiteStore(path, busy_timeout=0.05)) as runtime:
        with pytest.raises(StoreError, match=r"taskflow\.db"):
            await runtime.run(chain(), thread_id="t")
        assert bodies == ["a", "b"]
        holders.pop().close()
        assert await runtime.run(chain(), thread_id="t") == ["a", "b", "c"]
    assert bodies == ["a", "b", "b", "c"]


@on_sqlite
async def test_a_row_that_is_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A damaged result is never given to the workflow, and can be forgotten."""
    path = tmp_path / "taskflow.db"
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task
    async def step() -> str:
        bodies.append("step")
        return "good"

    @workflow
    async def one() -> str:
        value = await step()
        crash_once()
        return value

    async with Runtime(path) as runtime:
        with pytest.raises(Crash):
            await runtime.run(one(), thread_id="t")
        (record,) = await runtime.tasks("t")
        with sqlite3.connect(path) as db:
            db.execute("UPDATE checkpoint SET payload = ?", (b'"evil"',))
        db.close()
        with pytest.raises(StoreError, match=record.task_id) as caught:
            await runtime.run(one(), thread_id="t")
        assert "'t'" in str(caught.value)
        await runtime.forget("t", record.task_id)
        assert await runtime.run(one(), thread_id="t") == "good"
    assert bodies == ["step", "step"]
