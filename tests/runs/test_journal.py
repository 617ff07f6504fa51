"""Group commit: what goes into one batch, and who is hurt when a write fails."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from taskflow import MemoryStore, RunCancelled, RunUnfinished
from taskflow.errors import LeaseLost, StoreError
from taskflow.loops.loop import current_loop
from taskflow.runs.journal import Journal
from taskflow.stores.batches import Batch, Claim, Claimed, Committed
from taskflow.testing.rows import OWNER, begin, checkpoint, claim, recorded, release, success

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops."""
    return str(request.param)


class RecordingStore(MemoryStore):
    """Notes the size of each batch, holds commits at a gate, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.gate: anyio.Event | None = None
        self.failure: Exception | None = None

    async def commit(self, batch: Batch) -> Committed:
        self.sizes.append(len(batch.checkpoints) + len(batch.finishes) + len(batch.claims))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await super().commit(batch)


@asynccontextmanager
async def journal_on(store: RecordingStore) -> AsyncIterator[Journal]:
    await store.open(OWNER)
    journal = Journal(store, current_loop())
    async with anyio.create_task_group() as group:
        group.start_soon(journal.run)
        try:
            yield journal
        finally:
            await journal.close()


async def claimed(journal: Journal, wish: Claim) -> Claimed:
    """What a claim came to."""
    latch, answer = journal.claim(wish)
    await latch
    return answer[0]


async def test_what_is_recorded_is_committed_when_the_caller_goes_on() -> None:
    """What you saw is recorded."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = (await claimed(journal, claim())).row

        await journal.record(checkpoint(run.key), run.key)

        assert await recorded(store) == ["charge:1"]


async def test_what_comes_while_a_commit_is_under_way_goes_into_one_batch() -> None:
    """Group commit: one trip for all of them."""
    store = RecordingStore()
    async with journal_on(store) as journal, anyio.create_task_group() as group:
        run = await begin(store)
        store.sizes.clear()
        store.gate = anyio.Event()
        for number in range(10):
            row = checkpoint(run.key, f"charge:{number}")
            group.start_soon(journal.record, row, run.key)
            await anyio.wait_all_tasks_blocked()
        store.gate.set()

    assert store.sizes == [1, 9]
    assert await recorded(store) == [f"charge:{number}" for number in range(10)]


async def test_a_batch_is_bounded() -> None:
    """Many rows take several commits, in their order."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        store.sizes.clear()
        for number in range(2500):
            journal.put(checkpoint(run.key, f"{number}"), run.key, current_loop().promise())
        await journal.finish(success(run.key))

    assert max(store.sizes) <= 1001
    assert await recorded(store) == [f"{number}" for number in range(2500)]


async def test_one_bad_row_hurts_one_caller() -> None:
    """A batch that fails because of a row is retried row by row."""
    store = RecordingStore()
    outcomes: dict[str, str] = {}

    async with journal_on(store) as journal, anyio.create_task_group() as group:
        bad, good = await begin(store, "bad"), await begin(store, "good")
        await journal.record(checkpoint(bad.key, "twice"), bad.key)
        store.gate = anyio.Event()

        async def put(name: str, run, task_id: str) -> None:
            try:
                await journal.record(checkpoint(run.key, task_id), run.key)
                outcomes[name] = "kept"
            except StoreError:
                outcomes[name] = "refused"

        for name, run, task_id in (
            ("first", good, "0"),
            ("bad", bad, "twice"),
            ("good", good, "1"),
        ):
            group.start_soon(put, name, run, task_id)
            await anyio.wait_all_tasks_blocked()
        store.gate.set()

    assert outcomes == {"first": "kept", "bad": "refused", "good": "kept"}
    assert await recorded(store, "good") == ["0", "1"]


async def test_after_a_failed_write_a_run_can_only_be_released() -> None:
    """What came after the write rests on it; another run goes on."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run, other = await begin(store), await begin(store, "other")
        store.failure = StoreError("the disk is full")
        with pytest.raises(StoreError, match="the disk is full"):
            await journal.record(checkpoint(run.key), run.key)
        store.failure = None

        with pytest.raises(StoreError, match="earlier write"):
            await journal.record(checkpoint(run.key, "later"), run.key)
        with pytest.raises(StoreError, match="earlier write"):
            await journal.finish(success(run.key))
        await journal.record(checkpoint(other.key), other.key)
        await journal.finish(release(run.key))

    assert (await recorded(store), await recorded(store, "other")) == ([], ["charge:1"])


async def test_an_error_of_no_known_kind_is_a_store_error() -> None:
    """It names the store, and has the original as its cause."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        store.failure = KeyError("surprise")
        with pytest.raises(StoreError, match="memory store") as caught:
            await journal.record(checkpoint(run.key), run.key)
        store.failure = None

    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_run_that_was_taken_over_is_told() -> None:
    """LeaseLost for a newer owner, RunCancelled where it was cancelled; nothing is written."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        stale = await begin(store)
        current = await begin(store)
        with pytest.raises(LeaseLost):
            await journal.record(checkpoint(stale.key), stale.key)
        await store.cancel("thread", 5.0)
        with pytest.raises(RunCancelled):
            await journal.record(checkpoint(current.key), current.key)

    assert await recorded(store) == []


async def test_a_claim_that_is_turned_down_raises_why() -> None:
    """As the store answered it."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        await begin(store)
        with pytest.raises(RunUnfinished):
            await claimed(journal, claim(input=b"{}"))


async def test_no_cancellation_of_a_caller_reaches_a_commit() -> None:
    """The journal belongs to the runtime: what was put is committed, whoever still waits."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        store.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(journal.record, checkpoint(run.key, "cancelled"), run.key)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        store.gate.set()
        await journal.record(checkpoint(run.key, "next"), run.key)

    assert await recorded(store) == ["cancelled", "next"]


async def test_a_finish_is_waited_for_though_its_caller_is_cancelled() -> None:
    """However often: the run has ended when the caller goes on."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        async with anyio.create_task_group() as group:
            group.cancel_scope.cancel()
            await journal.finish(success(run.key))
        row = await store.run("thread", None)

    assert row is not None
    assert row.status == "success"


async def test_close_commits_what_is_left() -> None:
    """Also what nobody waits for."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        journal.put(checkpoint(run.key), run.key, current_loop().promise())

    assert await recorded(store) == ["charge:1"]


async def test_the_backlog_says_when_it_is_crowded() -> None:
    """So that those who do not wait for their commits begin to."""
    store = RecordingStore()
    async with journal_on(store) as journal:
        run = await begin(store)
        store.gate = anyio.Event()
        assert not journal.is_crowded
        for number in range(12_500):
            journal.put(checkpoint(run.key, f"{number}"), run.key, current_loop().promise())
        assert journal.is_crowded
        store.gate.set()
        await journal.finish(success(run.key))
        assert not journal.is_crowded


async def test_a_write_at_the_end_of_the_stack_leaves_the_others_alone() -> None:
    """It is refused, or committed; and the writer wakes for the next one in either case."""
    store = RecordingStore()
    refused = 0

    def deep_down(levels: int, write: Claim) -> object:
        return deep_down(levels - 1, write) if levels else journal.claim(write)

    async with journal_on(store) as journal:
        limit = sys.getrecursionlimit()
        for levels in range(limit - 150, limit):
            await anyio.wait_all_tasks_blocked()  # the writer naps, and has to be woken
            try:
                deep_down(levels, claim(f"deep {levels}"))
            except RecursionError:
                refused += 1
            with anyio.fail_after(30):
                await claimed(journal, claim(f"other {levels}"))

    assert 0 < refused < 150
