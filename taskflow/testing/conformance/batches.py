"""Batches: one commit is whole and in order, and writes of an older epoch are refused."""

from __future__ import annotations

import pytest

from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Unrecord
from taskflow.testing.conformance.fixtures import Fixtures
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    begin,
    cached,
    checkpoint,
    claim,
    failure,
    record,
    recorded,
    row_of,
    success,
    write,
)

__all__ = ("Batches",)


class Batches(Fixtures):
    """A batch is atomic, applied in order, and fenced by the epoch of each run."""

    async def test_what_was_committed_is_given_back_as_it_was(self, store: Store) -> None:
        """A store is given bytes and gives them back."""
        run = await begin(store)
        fields = {"kind": "error", "payload": b'{"a":"\\u0000"}', "attempts": 3}
        row = checkpoint(run.key, "charge:1", parent_id="order:7", **fields)

        await write(store, checkpoints=[row])

        (found,) = await store.checkpoints("thread", None)
        assert found.checkpoint == row
        assert found.run_id == run.run_id

    @pytest.mark.parametrize(
        "thread_id", ["'; DROP TABLE run --", "../../etc", '🧵\n\t"x"', "x" * 512, " ", "%s?:a"]
    )
    async def test_any_text_is_a_thread_and_a_run_id(self, store: Store, thread_id: str) -> None:
        """Ids come back exactly, whatever they mean elsewhere."""
        await record(store, await begin(store, thread_id, run_id=thread_id))

        found = await row_of(store, thread_id, thread_id)

        assert (found.thread_id, found.run_id) == (thread_id, thread_id)
        assert await recorded(store, thread_id) == ["charge:1"]

    async def test_an_empty_batch_is_no_error(self, store: Store) -> None:
        """Nothing to write is nothing to refuse."""
        committed = await write(store)

        assert (committed.refused, committed.claims) == ({}, [])

    async def test_a_batch_with_a_row_at_fault_writes_nothing(self, store: Store) -> None:
        """A row that breaks a constraint raises row_at_fault; no other row of its batch stays."""
        run, other = await begin(store), await begin(store, "other")
        await record(store, run, "charge:1")

        with pytest.raises(StoreError) as caught:
            await write(
                store,
                checkpoints=[checkpoint(other.key, "charge:2"), checkpoint(run.key, "charge:1")],
                cached=[cached()],
                finishes=[success(other.key)],
                claims=[claim("new")],
            )

        assert caught.value.row_at_fault
        assert await recorded(store, "other") == []
        assert await store.cached("charge", ["key"], 0.0) == []
        assert await row_of(store, "other") == other
        assert await store.run("new", None) is None

    async def test_one_task_id_twice_in_one_batch_is_a_row_at_fault(self, store: Store) -> None:
        """(thread_id, task_id) is unique, within a batch too."""
        run = await begin(store)

        with pytest.raises(StoreError) as caught:
            await record(store, run, "charge:1", "charge:1")

        assert caught.value.row_at_fault
        assert await recorded(store) == []

    async def test_two_threads_may_record_the_same_task_id(self, store: Store) -> None:
        """The thread's id is not part of a task id: (thread_id, task_id) is the key."""
        one, two = await begin(store, "one"), await begin(store, "two")

        await write(store, checkpoints=[checkpoint(one.key), checkpoint(two.key)])

        assert await recorded(store, "one") == await recorded(store, "two") == ["charge:1"]

    async def test_a_batch_is_applied_in_its_order(self, store: Store) -> None:
        """Checkpoints, then unrecords, then finishes, then claims."""
        run = await begin(store)

        committed = await write(
            store,
            checkpoints=[checkpoint(run.key, "charge:1"), checkpoint(run.key, "charge:2")],
            unrecords=[Unrecord(run.key, ("charge:1",))],
            finishes=[success(run.key)],
            claims=[claim(input=OTHER_INPUT, new_run_id="next")],
        )

        assert await recorded(store) == ["charge:2"]
        (answer,) = committed.claims
        assert isinstance(answer, Claimed)
        assert (answer.is_new, answer.previous, answer.row.sequence) == (True, b'"done"', 2)

    async def test_a_batch_of_many_rows_is_one_commit(self, store: Store) -> None:
        """No limit of a statement shows: rows come back in the order in which they were given."""
        ids = [f"charge:{number}" for number in range(2500)]

        await record(store, await begin(store), *ids)

        assert await recorded(store) == ids

    async def test_a_write_of_an_older_epoch_is_refused(self, store: Store) -> None:
        """Where the run's epoch has moved on, Committed.refused names the run and its status."""
        before = await begin(store)
        after = await begin(store)
        assert after.epoch > before.epoch

        committed = await record(store, before)

        assert committed.refused == {(before.number, before.epoch): RunStatus.RUNNING}
        assert await recorded(store) == []

    async def test_a_refusal_hurts_no_other_write_of_the_batch(self, store: Store) -> None:
        """That write, and only that: rows of other runs, and of the new epoch, are kept."""
        stale, other = await begin(store), await begin(store, "other")
        current = await begin(store)

        committed = await write(
            store,
            checkpoints=[
                checkpoint(other.key, "charge:1"),
                checkpoint(stale.key, "charge:2"),
                checkpoint(current.key, "charge:3"),
            ],
            finishes=[success(other.key), success(stale.key)],
        )

        assert set(committed.refused) == {(stale.number, stale.epoch)}
        assert await recorded(store) == ["charge:3"]
        assert await recorded(store, "other") == ["charge:1"]
        statuses = (await row_of(store)).status, (await row_of(store, "other")).status
        assert statuses == (RunStatus.RUNNING, RunStatus.SUCCESS)

    async def test_an_older_epoch_unrecords_and_finishes_nothing(self, store: Store) -> None:
        """Unrecords and finishes carry the fence too."""
        stale = await begin(store)
        current = await begin(store)
        await record(store, current)

        committed = await write(
            store,
            unrecords=[Unrecord(stale.key, ("charge:1",))],
            finishes=[failure(stale.key, unrecord=("charge:1",))],
        )

        assert set(committed.refused) == {(stale.number, stale.epoch)}
        assert await recorded(store) == ["charge:1"]
        assert await row_of(store) == current

    async def test_a_commit_tells_the_sequences_of_its_rows(self, store: Store) -> None:
        """Those under which they are read; 0 for one that was refused."""
        stale, other = await begin(store), await begin(store, "other")
        current = await begin(store)

        committed = await write(
            store,
            checkpoints=[
                checkpoint(current.key, "charge:1"),
                checkpoint(stale.key, "charge:2"),
                checkpoint(other.key, "charge:3"),
            ],
        )

        rows = [*await store.checkpoints("thread", None), *await store.checkpoints("other", None)]
        kept = [row.sequence for row in rows]
        assert list(committed.sequences) == [kept[0], 0, kept[1]]
        assert kept[0] < kept[1]

    async def test_a_write_to_a_run_that_is_gone_is_refused(self, store: Store) -> None:
        """A deleted run counts as cancelled."""
        run = await begin(store)
        await store.delete("thread", OWNER)

        committed = await record(store, run)

        assert committed.refused == {(run.number, run.epoch): RunStatus.CANCELLED}
        assert await store.checkpoints("thread", None) == []

    async def test_a_new_run_never_gets_the_number_of_a_deleted_one(self, store: Store) -> None:
        """So that no late write of the deleted run can reach it."""
        run = await begin(store)
        await store.delete("thread", OWNER)

        assert (await begin(store)).number > run.number
