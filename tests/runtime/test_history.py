"""Replace, fork, prune, export and import: what is recorded, changed, copied and given back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from processes import ENVIRONMENT

from taskflow import (
    MemoryStore,
    RunNotFound,
    RunPaused,
    Runtime,
    SQLiteStore,
    ThreadBusy,
    emit,
    previous,
    receive,
    save,
    task,
    workflow,
)
from taskflow.calls import definitions
from taskflow.errors import CheckpointCorrupt, ImportRefused, SerializationError, ThreadExists
from taskflow.records import Pruned, RunStatus, TaskRecord

pytestmark = pytest.mark.anyio


bodies: list[str] = []


@task
async def price(order: str) -> int:
    bodies.append(f"price {order}")
    return 100


@task
async def discount(amount: int) -> int:
    bodies.append(f"discount {amount}")
    return amount - 10


@task
async def weigh(order: str) -> float:
    bodies.append(f"weigh {order}")
    return 2.5


@task
async def quote(order: str) -> int:
    bodies.append(f"quote {order}")
    return await discount(await price(order))


@task
async def reserve(order: str) -> str:
    bodies.append(f"reserve {order}")
    raise LookupError(f"no {order} left")


@workflow
async def offer(order: str) -> str:
    try:
        reserved = await reserve(order)
    except LookupError:
        reserved = "backorder"
    return f"{reserved}: {await quote(order)} for {await weigh(order)} kg"


@workflow
async def turn(message: str) -> list[str]:
    said = [*(previous(list[str]) or []), message]
    await weigh(message)
    save(said)
    return said


@workflow
async def approve(order: str) -> str:
    await emit({"asked": order})
    answer = await receive("answer", str, timeout=timedelta(days=1))
    await weigh(order)
    return answer


@pytest.fixture(autouse=True)
def _fresh() -> None:
    bodies.clear()


@pytest.fixture
async def other(tmp_path: Path, anyio_backend: tuple[str, Any]) -> AsyncIterator[Runtime]:
    """A runtime on another store of the other kind, where the event loop has one."""
    is_sqlite = anyio_backend[0] == "asyncio"
    async with Runtime(SQLiteStore(tmp_path / "other.db") if is_sqlite else MemoryStore()) as other:
        yield other


async def calls(runtime: Runtime, thread_id: str) -> dict[str, TaskRecord]:
    """The recorded calls of a thread, by name."""
    return {each.name: each for each in await runtime.tasks(thread_id)}


async def rerun(runtime: Runtime, thread_id: str) -> tuple[str, list[str]]:
    """What the same call answers, and what that executes."""
    bodies.clear()
    return await runtime.run(offer("A1"), thread_id=thread_id), bodies


async def paused(runtime: Runtime, thread_id: str) -> None:
    """A run that waits for a signal."""
    with pytest.raises(RunPaused):
        await runtime.run(approve("A1"), thread_id=thread_id)


# Replace.


async def test_a_replaced_result_is_what_a_rerun_sees(runtime: Runtime) -> None:
    """Only what depends on it executes: the calls it was made by, and those that use it."""
    await runtime.run(offer("A1"), thread_id="thread")
    found = await calls(runtime, "thread")

    await runtime.replace("thread", found["price"].task_id, 50)

    assert (await runtime.get("thread")).status == RunStatus.RUNNING
    assert await rerun(runtime, "thread") == (
        "backorder: 40 for 2.5 kg",
        ["quote A1", "discount 50"],
    )


async def test_a_recorded_failure_can_be_replaced_by_a_result(runtime: Runtime) -> None:
    """What the workflow had caught before is a value now."""
    await runtime.run(offer("A1"), thread_id="thread")

    await runtime.replace("thread", (await calls(runtime, "thread"))["reserve"].task_id, "shelf 7")

    assert await rerun(runtime, "thread") == ("shelf 7: 90 for 2.5 kg", [])
    assert (await calls(runtime, "thread"))["reserve"].status == "success"


async def test_a_result_that_does_not_fit_its_annotation_changes_nothing(runtime: Runtime) -> None:
    """The task is known in this process, and says -> int."""
    await runtime.run(offer("A1"), thread_id="thread")
    found = await calls(runtime, "thread")

    with pytest.raises(SerializationError, match=r"price\(\)"):
        await runtime.replace("thread", found["price"].task_id, "much")

    assert await calls(runtime, "thread") == found
    assert (await runtime.get("thread")).status == RunStatus.SUCCESS


async def test_a_result_of_an_unknown_task_is_one_that_json_carries(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an annotation to go by, nothing that would come back otherwise is taken."""
    await runtime.run(turn("one"), thread_id="thread")
    (weighed,) = await runtime.tasks("thread")
    monkeypatch.setattr(definitions, "_DEFINED", {})  # as in a process that has not imported it

    for value in ((1, 2), {1: 2}, float("nan"), object(), {"a": {3}}, datetime.now(UTC)):
        with pytest.raises(SerializationError):
            await runtime.replace("thread", weighed.task_id, value)
    await runtime.replace("thread", weighed.task_id, {"any": ["json", 1.5, None]})

    assert (await runtime.tasks("thread"))[0].value == {"any": ["json", 1.5, None]}


async def test_only_calls_can_be_replaced(runtime: Runtime, make_store: Any) -> None:
    """An emitted value, a deadline and a signal are told from calls; the received value is one."""
    await paused(runtime, "thread")
    await runtime.send("thread", "answer", "yes", id="1")
    await runtime.run(approve("A1"), thread_id="thread")
    store = runtime._store
    rows = {row.checkpoint.kind: row.checkpoint for row in await store.checkpoints("thread", None)}

    for kind in ("emit", "wait", "signal"):
        with pytest.raises(ValueError, match="only the result of a call"):
            await runtime.replace("thread", rows[kind].task_id, "no")
    (received,) = [each for each in await runtime.tasks("thread") if "receive" in each.name]
    await runtime.replace("thread", received.task_id, "no")

    assert await runtime.run(approve("A1"), thread_id="thread") == "no"


async def test_what_is_not_recorded_cannot_be_replaced(runtime: Runtime) -> None:
    """Neither on a thread that is there nor on another one."""
    await runtime.run(offer("A1"), thread_id="thread")

    for thread_id in ("thread", "elsewhere"):
        with pytest.raises(RunNotFound):
            await runtime.replace(thread_id, "price:0", 1)


async def test_a_run_that_executes_is_not_changed(runtime: Runtime) -> None:
    """Its results may have been used already."""

    @workflow
    async def busy() -> None:
        await weigh("A1")
        (record,) = await runtime.tasks("thread")
        with pytest.raises(ThreadBusy):
            await runtime.replace("thread", record.task_id, 1.0)

    await runtime.run(busy(), thread_id="thread")


async def test_a_damaged_result_can_be_replaced(tmp_path: Path) -> None:
    """That repairs the record."""
    async with Runtime(tmp_path / "taskflow.db") as runtime:
        await runtime.run(offer("A1"), thread_id="thread")
        price_id = (await calls(runtime, "thread"))["price"].task_id
        await runtime._store.session.write(  # type: ignore[attr-defined]
            lambda db: db.execute("UPDATE checkpoint SET payload = '7' WHERE name = 'price'")
        )
        with pytest.raises(CheckpointCorrupt):
            await runtime.tasks("thread")

        await runtime.replace("thread", price_id, 70)

        assert (await rerun(runtime, "thread"))[0] == "backorder: 60 for 2.5 kg"


# Fork.


async def test_a_fork_answers_like_the_thread_it_was_made_of(runtime: Runtime) -> None:
    """A run that had succeeded is copied with its result and its calls, under the same ids."""
    result = await runtime.run(offer("A1"), thread_id="thread")

    record = await runtime.fork("thread", to="copy")

    assert (record.thread_id, record.status, record.owner) == ("copy", RunStatus.SUCCESS, None)
    assert record.run_id == (await runtime.get("thread")).run_id
    assert await rerun(runtime, "copy") == (result, [])
    assert list(await calls(runtime, "copy")) == list(await calls(runtime, "thread"))


async def test_a_fork_without_a_call_executes_what_depends_on_it(runtime: Runtime) -> None:
    """The thread itself stays as it was."""
    result = await runtime.run(offer("A1"), thread_id="thread")
    before = await runtime.tasks("thread")

    record = await runtime.fork("thread", to="copy", without=[before[1].task_id])

    assert (before[1].name, record.status, record.result) == ("price", RunStatus.RUNNING, None)
    assert await rerun(runtime, "copy") == (result, ["quote A1", "price A1"])
    assert await runtime.tasks("thread") == before
    assert (await runtime.get("thread")).status == RunStatus.SUCCESS


async def test_a_fork_of_a_cancelled_run_can_be_run(runtime: Runtime) -> None:
    """Cancelled is final for a thread, not for a copy."""
    await paused(runtime, "thread")
    await runtime.cancel("thread")

    record = await runtime.fork("thread", to="copy")
    await runtime.send("copy", "answer", "late", id="1")

    assert record.status == RunStatus.RUNNING
    assert await runtime.run(approve("A1"), thread_id="copy") == "late"
    assert (await runtime.get("thread")).status == RunStatus.CANCELLED


async def test_a_fork_has_the_deadline_of_what_waits(runtime: Runtime) -> None:
    """And does not begin by itself, though what it was made of would be due."""
    await paused(runtime, "thread")
    record = await runtime.fork("thread", to="copy")
    assert (record.status, record.waits) == (RunStatus.RUNNING, [])

    await paused(runtime, "copy")

    (wait,) = (await runtime.get("copy")).waits
    assert wait.deadline == (await runtime.get("thread")).waits[0].deadline


async def test_a_signal_is_free_again_where_its_call_was_left_out(runtime: Runtime) -> None:
    """The call that is executed again takes it again."""
    await paused(runtime, "thread")
    await runtime.send("thread", "answer", "yes", id="1")
    await runtime.run(approve("A1"), thread_id="thread")
    (received,) = [each for each in await runtime.tasks("thread") if "receive" in each.name]

    await runtime.fork("thread", to="copy", without=[received.task_id])
    kinds = [row.checkpoint.kind for row in await runtime._store.checkpoints("copy", None)]

    assert sorted(kinds) == ["emit", "result", "signal"]  # the deadline was dropped with its call
    assert await runtime.run(approve("A1"), thread_id="copy") == "yes"
    assert bodies == ["weigh A1"]


async def test_previous_gives_the_same_on_a_fork(runtime: Runtime) -> None:
    """In the run that is copied, and in the next one."""
    for message in ("one", "two", "three"):
        await runtime.run(turn(message), thread_id="thread", run_id=message)
    called = await runtime.tasks("thread", "two")

    await runtime.fork("thread", to="copy", run_id="two", without=[called[0].task_id])
    assert await runtime.run(turn("two"), thread_id="copy") == ["one", "two"]
    assert await runtime.run(turn("other"), thread_id="copy") == ["one", "two", "other"]

    await runtime.fork("thread", to="whole", run_id="two")
    assert await runtime.run(turn("other"), thread_id="whole") == ["one", "two", "other"]


async def test_a_fork_needs_a_free_id(runtime: Runtime) -> None:
    """Nothing is added to a thread that is there, not even to itself."""
    for thread_id in ("thread", "taken"):
        await runtime.run(offer("A1"), thread_id=thread_id)

    for to in ("thread", "taken"):
        with pytest.raises(ThreadExists):
            await runtime.fork("thread", to=to)
    assert len(await runtime.tasks("taken")) == 5


async def test_a_fork_of_what_is_not_there_makes_nothing(runtime: Runtime) -> None:
    """No thread, no run, no call: and no call of another run."""
    for message in ("one", "two"):
        await runtime.run(turn(message), thread_id="thread", run_id=message)
    (called,) = await runtime.tasks("thread", "one")

    with pytest.raises(RunNotFound):
        await runtime.fork("elsewhere", to="copy")
    with pytest.raises(RunNotFound):
        await runtime.fork("thread", to="copy", run_id="three")
    for unknown in ("weigh:0", called.task_id):
        with pytest.raises(RunNotFound):
            await runtime.fork("thread", to="copy", without=[unknown])
    with pytest.raises(TypeError):
        await runtime.fork("thread", to="copy", without=called.task_id)
    with pytest.raises(RunNotFound):
        await runtime.get("copy")


async def test_a_fork_of_an_executing_run_has_what_is_committed(runtime: Runtime) -> None:
    """It can be run beside the one that it was made of."""
    reached, gate = anyio.Event(), anyio.Event()

    @workflow
    async def halting() -> float:
        weight = await weigh("A1")
        if not gate.is_set():
            reached.set()
            await gate.wait()
        return weight

    handle = await runtime.start(halting(), thread_id="thread")
    await reached.wait()
    await runtime.fork("thread", to="copy")
    gate.set()

    assert await runtime.run(halting(), thread_id="copy") == await handle.result() == 2.5
    assert bodies == ["weigh A1"]


async def test_a_thread_of_blocks_can_be_forked(runtime: Runtime) -> None:
    """The next block on the copy is answered."""
    async with runtime.thread("thread"):
        await weigh("A1")

    await runtime.fork("thread", to="copy")
    async with runtime.thread("copy"):
        await weigh("A1")

    assert bodies == ["weigh A1"]


@pytest.mark.parametrize("table", ["run", "checkpoint"])
async def test_a_damaged_row_is_not_copied(table: str, tmp_path: Path) -> None:
    """Nothing is forked, and nothing exported: the error names the thread."""
    async with Runtime(tmp_path / "taskflow.db") as runtime:
        await runtime.run(offer("A1"), thread_id="thread")
        column = {"run": "input", "checkpoint": "payload"}[table]
        await runtime._store.session.write(  # type: ignore[attr-defined]
            lambda db: db.execute(f"UPDATE {table} SET {column} = '7'")
        )

        with pytest.raises(CheckpointCorrupt, match="thread 'thread'"):
            await runtime.fork("thread", to="copy")
        with pytest.raises(CheckpointCorrupt):
            _ = [line async for line in runtime.export("thread")]
        with pytest.raises(RunNotFound):
            await runtime.get("copy")


# Prune.


async def test_what_has_ended_is_pruned(runtime: Runtime) -> None:
    """A thread of which nothing stays is gone, and begins anew; the counts are told."""
    await runtime.run(offer("A1"), thread_id="thread")
    reports: list[Pruned] = []

    pruned = await runtime.prune(finished_before=timedelta(0), report=reports.append)

    assert pruned == reports[-1] == Pruned(1, 5)
    with pytest.raises(RunNotFound):
        await runtime.get("thread")
    assert len((await rerun(runtime, "thread"))[1]) == 5


async def test_what_is_younger_is_not_pruned(runtime: Runtime) -> None:
    """A time or an age: with a time zone, and not negative."""
    await runtime.run(offer("A1"), thread_id="thread")
    long_ago = datetime.now(UTC) - timedelta(hours=1)

    for before in (timedelta(hours=1), long_ago):
        assert await runtime.prune(finished_before=before) == Pruned()
    for wrong in (datetime.now(), timedelta(-1)):
        with pytest.raises(ValueError):
            await runtime.prune(finished_before=wrong)
    for options in ({}, {"keep_last": -1}, {"keep_last": 1, "status": "running"}):
        with pytest.raises(ValueError):
            await runtime.prune(**options)
    assert await runtime.prune(finished_before=datetime.now(UTC) + timedelta(1)) == Pruned(1, 5)


async def test_unfinished_runs_are_pruned_only_where_that_is_asked(runtime: Runtime) -> None:
    """Failed and paused ones; a running one never."""

    @workflow
    async def fails() -> None:
        await weigh("A1")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await runtime.run(fails(), thread_id="failed")
    await paused(runtime, "paused")
    async with runtime.thread("open"):
        await weigh("A1")

    assert await runtime.prune(keep_last=0) == Pruned()
    assert (await runtime.prune(keep_last=0, status="error")).runs == 1
    assert (await runtime.prune(keep_last=0, status=["paused", "error"])).runs == 1
    assert [each.thread_id for each in await runtime.runs()] == ["open"]


async def test_the_last_runs_of_a_thread_are_kept(runtime: Runtime) -> None:
    """As many as are asked for, with their calls; `previous` goes on."""
    for message in ("one", "two", "three", "four"):
        await runtime.run(turn(message), thread_id="thread", run_id=message)

    pruned = await runtime.prune(keep_last=2)

    assert pruned == Pruned(1, 2)  # of "two" only the calls: "three" was given what it saved
    assert [each.run_id for each in await runtime.runs()] == ["four", "three", "two"]
    assert [each.run_id for each in await runtime.tasks("thread")] == ["three", "four"]
    assert await runtime.prune(keep_last=2) == Pruned()


async def test_what_previous_needs_is_kept(runtime: Runtime) -> None:
    """What was saved for a later run, and what a run that stays was given."""
    await runtime.run(turn("one"), thread_id="saved")
    await runtime.run(offer("A1"), thread_id="result")
    await runtime.run(offer("A1"), thread_id="given")
    gate = anyio.Event()

    @workflow
    async def halting() -> str | None:
        await gate.wait()
        return previous(str)

    handle = await runtime.start(halting(), thread_id="given")
    assert await runtime.prune(keep_last=0) == Pruned(1, 11)  # the thread "result", and calls
    gate.set()

    assert await handle.result() == "backorder: 90 for 2.5 kg"
    assert await runtime.run(turn("two"), thread_id="saved") == ["one", "two"]


async def test_a_run_that_waits_here_is_told_that_it_was_pruned(runtime: Runtime) -> None:
    """Nobody waits for what is gone."""
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            with pytest.raises(RunNotFound):
                await runtime.run(approve("A1"), thread_id="thread", wait=True)

        group.start_soon(wait)
        while not await runtime.runs(status="paused"):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)
        await runtime.prune(keep_last=0, status="paused")


async def test_pruning_goes_on_beside_a_run_of_the_same_thread(runtime: Runtime) -> None:
    """The run keeps what it has recorded, and ends as if nothing had happened."""
    for message in ("one", "two", "three"):
        await runtime.run(turn(message), thread_id="thread", run_id=message)

    @workflow
    async def long() -> list[float]:
        weights = [await weigh(f"a{n}") for n in range(10)]
        await runtime.prune(keep_last=1)
        return weights + [await weigh(f"b{n}") for n in range(10)]

    assert len(await runtime.run(long(), thread_id="thread")) == 20
    assert len(await runtime.tasks("thread")) == 20


async def test_a_pruned_file_shrinks(tmp_path: Path) -> None:
    """Its pages are given back, and so is the WAL's room."""
    path = tmp_path / "taskflow.db"

    @task
    async def fill(n: int) -> str:
        return "x" * 10_000

    @workflow
    async def filled() -> int:
        return len(await fill.map(range(500)))

    async with Runtime(path) as runtime:
        await runtime.run(filled(), thread_id="thread")
        await runtime.prune(finished_before=timedelta(0))

        assert path.stat().st_size < 200_000
        assert Path(f"{path}-wal").stat().st_size == 0  # noqa: ASYNC240


# Export and import.


async def lines_of(runtime: Runtime, thread_id: str) -> list[str]:
    """An export."""
    return [line async for line in runtime.export(thread_id)]


async def test_an_imported_thread_answers_like_the_exported_one(
    runtime: Runtime, other: Runtime
) -> None:
    """Runs, calls, their order and their values, from one kind of store into another."""
    for message in ("one", "two"):
        await runtime.run(turn(message), thread_id="thread", run_id=message)
    await runtime.run(offer("A1"), thread_id="thread")

    assert await other.import_thread(await lines_of(runtime, "thread")) == "thread"

    def shown(records: list[TaskRecord]) -> list[dict[str, Any]]:
        return [{**_fields(each), "sequence": None} for each in records]

    assert shown(await other.tasks("thread")) == shown(await runtime.tasks("thread"))
    assert [each.result for each in await other.runs()] == [
        each.result for each in await runtime.runs()
    ]
    assert (await lines_of(other, "thread"))[1:-1] == (await lines_of(runtime, "thread"))[1:-1]
    assert await rerun(other, "thread") == ("backorder: 90 for 2.5 kg", [])
    assert await other.run(turn("one"), thread_id="thread", run_id="one") == ["one"]


def _fields(record: TaskRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def test_an_imported_run_goes_on(runtime: Runtime, other: Runtime) -> None:
    """One that waits still waits, for as long as was left; nobody owns it."""
    await paused(runtime, "thread")
    waits = (await runtime.get("thread")).waits

    await other.import_thread(await lines_of(runtime, "thread"), to="copy")

    record = await other.get("copy")
    assert (record.status, record.owner, record.waits) == (RunStatus.PAUSED, None, waits)
    await other.send("copy", "answer", "yes", id="1")
    assert await other.run(approve("A1"), thread_id="copy") == "yes"


async def test_an_export_is_one_moment(runtime: Runtime, other: Runtime) -> None:
    """What is changed while it is read is not in it."""
    await runtime.run(offer("A1"), thread_id="thread")

    async with aclosing(runtime.export("thread")) as reading:
        lines = [await anext(reading)]
        await runtime.forget("thread", (await calls(runtime, "thread"))["price"].task_id)
        await runtime.run(offer("A1"), thread_id="thread")
        await runtime.delete("thread")
        lines += [line async for line in reading]

    await other.import_thread(lines)
    assert await rerun(other, "thread") == ("backorder: 90 for 2.5 kg", [])


async def test_any_lines_can_be_imported(runtime: Runtime, other: Runtime) -> None:
    """Text or bytes, with or without line breaks, from any iterable: but lines, not one text."""
    await runtime.run(offer("A1"), thread_id="thread")
    lines = await lines_of(runtime, "thread")

    async def asynchronous() -> AsyncIterator[bytes]:
        for line in lines:
            yield line.replace("\n", "\r\n").encode()

    await other.import_thread((line.rstrip() for line in lines), to="one")
    await other.import_thread(asynchronous(), to="two")
    await other.import_thread("".join(lines).encode().split(b"\n"), to="three")
    with pytest.raises(TypeError, match="lines"):
        await other.import_thread("".join(lines))

    assert {len(await other.tasks(each)) for each in ("one", "two", "three")} == {5}


async def test_an_import_needs_a_free_id(runtime: Runtime) -> None:
    """A thread that is there stays as it is; under another id it is a copy."""
    await runtime.run(offer("A1"), thread_id="thread")
    lines = await lines_of(runtime, "thread")

    with pytest.raises(ThreadExists):
        await runtime.import_thread(lines)
    await runtime.import_thread(lines, to="copy")

    assert await rerun(runtime, "copy") == ("backorder: 90 for 2.5 kg", [])


async def test_an_export_that_is_not_whole_is_refused(runtime: Runtime, other: Runtime) -> None:
    """Truncated, reordered, doubled, with a line of another one: nothing is written."""
    for thread_id, order in (("thread", "A1"), ("another", "B2")):
        await runtime.run(offer(order), thread_id=thread_id)
    lines = await lines_of(runtime, "thread")
    foreign = await lines_of(runtime, "another")
    header, run, *records, end = lines

    damaged: list[list[str]] = [
        [],
        *(lines[:count] for count in range(1, len(lines))),
        *(lines[:index] + lines[index + 1 :] for index in range(len(lines))),
        [header, run, *records[::-1], end],
        [header, records[0], run, *records[1:], end],
        [header, run, records[0], *records, end],
        [header, run, *records[:-1], foreign[-2], end],
        [*lines, records[0]],
        [*lines, *lines],
        ["{}", *lines],
        [foreign[0], *lines[1:]],
    ]
    for each in damaged:
        with pytest.raises(ImportRefused):
            await other.import_thread(each)
    assert await other.runs() == []


async def test_an_export_with_any_damaged_byte_is_refused(runtime: Runtime) -> None:
    """Wherever it is, and whatever it becomes."""
    await runtime.run(turn("one"), thread_id="thread")
    content = "".join(await lines_of(runtime, "thread")).encode()

    for index in range(len(content) - 1):  # the last line break means nothing
        damaged = bytearray(content)
        damaged[index] ^= 1 << (index % 8)
        with pytest.raises(ImportRefused):
            await runtime.import_thread(bytes(damaged).split(b"\n"), to="copy")
    assert len(await runtime.runs()) == 1


async def test_an_export_of_a_newer_version_is_refused(runtime: Runtime) -> None:
    """The error says what to do, whatever else has changed in the lines."""
    await runtime.run(offer("A1"), thread_id="thread")
    lines = await lines_of(runtime, "thread")
    header = {**json.loads(lines[0]), "version": 3, "more": 1}

    with pytest.raises(ImportRefused, match="upgrade taskflow"):
        await runtime.import_thread([json.dumps(header), *lines[1:]], to="copy")


async def test_an_unknown_thread_is_not_exported(runtime: Runtime) -> None:
    """Not a line of it."""
    with pytest.raises(RunNotFound):
        await anext(runtime.export("elsewhere"))


def test_a_thread_moves_from_trio_to_asyncio(tmp_path: Path) -> None:
    """What was recorded in memory on one event loop goes on in a file on the other."""

    async def leave() -> list[str]:
        async with Runtime(MemoryStore()) as runtime:
            await paused(runtime, "thread")
            return await lines_of(runtime, "thread")

    async def arrive(lines: list[str]) -> str:
        async with Runtime(tmp_path / "taskflow.db") as runtime:
            await runtime.import_thread(lines)
            await runtime.send("thread", "answer", "yes", id="1")
            return await runtime.run(approve("A1"), thread_id="thread")

    lines = anyio.run(leave, backend="trio")
    assert anyio.run(arrive, lines, backend="asyncio") == "yes"


# Several processes.

AT_ONCE = """
import sys, anyio
from taskflow import Runtime
from taskflow.errors import ThreadExists
async def main():
    path, what, file = sys.argv[1:]
    async with Runtime(path) as runtime:
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            if what == "fork":
                await runtime.fork("thread", to="copy")
            else:
                with open(file, "rb") as lines:
                    await runtime.import_thread(lines, to="copy")
            print("made")
        except ThreadExists:
            print("exists")
anyio.run(main)
"""


@pytest.mark.parametrize("what", ["fork", "import"])
async def test_of_two_processes_that_make_one_thread_one_does(what: str, tmp_path: Path) -> None:
    """The other is told, and the thread is whole."""
    path, file = tmp_path / "taskflow.db", tmp_path / "export"
    async with Runtime(path) as runtime:
        await runtime.run(offer("A1"), thread_id="thread")
        file.write_text("".join(await lines_of(runtime, "thread")))
        processes = [
            subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-c", AT_ONCE, str(path), what, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=ENVIRONMENT,
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

        answers = sorted(process.communicate(timeout=60)[0] for process in processes)

        assert answers == ["exists\n"] * 3 + ["made\n"]
        assert await rerun(runtime, "copy") == ("backorder: 90 for 2.5 kg", [])
