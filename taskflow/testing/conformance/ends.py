"""Ends: what a run's end writes, and what cancelling, forgetting and deleting drop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskflow.errors import ThreadBusy
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.batches import Finish, Unrecord
from taskflow.stores.rows import RunRow
from taskflow.testing.conformance.fixtures import OTHER_OWNER, Fixtures
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    ask,
    begin,
    checkpoint,
    claim,
    end,
    failure,
    pause,
    record,
    recorded,
    release,
    row_of,
    success,
    write,
)

__all__ = ("Ends",)


async def family(store: Store) -> RunRow:
    """A run that has succeeded, of three generations of calls and an unrelated one."""
    run = await begin(store)
    parents = {"child": "parent", "parent": "grandparent", "grandparent": None, "stranger": None}
    rows = [checkpoint(run.key, name, parent_id=parent) for name, parent in parents.items()]
    await write(store, checkpoints=rows)
    return await end(store, run, result=b'"result"', saved=b'"saved"')


class Ends(Fixtures):
    """Finishes, ``cancel``, ``forget`` and ``delete``."""

    async def test_a_finish_records_the_outcome_and_lets_go(self, store: Store) -> None:
        """Status, result, saved value and time; nobody owns the run any more."""
        run = await begin(store)

        ended = await end(store, run, result=b'"result"', saved=b'"saved"')

        assert (ended.status, ended.result, ended.saved) == ("success", b'"result"', b'"saved"')
        assert (ended.owner, ended.finished, ended.epoch) == (None, 3.0, run.epoch)

    async def test_a_released_run_is_running_without_an_owner(self, store: Store) -> None:
        """Anybody may continue it: it has not ended."""
        row = await end(store, await begin(store), release)

        assert (row.status, row.owner, row.finished) == (RunStatus.RUNNING, None, None)

    async def test_a_failed_run_keeps_what_did_not_end_it(self, store: Store) -> None:
        """The failures that ended it are un-recorded in the transaction that marks it failed."""
        run = await begin(store)
        await record(store, run, "charge:0", "charge:1", "charge:2")

        await end(store, run, failure, unrecord=("charge:1", "never recorded"))

        assert await recorded(store) == ["charge:0", "charge:2"]

    @pytest.mark.parametrize("finish", [success, failure, pause])
    async def test_a_refused_finish_unrecords_nothing(
        self, store: Store, finish: Callable[..., Finish]
    ) -> None:
        """The run has ended under the same epoch: what it has recorded stays."""
        run = await begin(store)
        await record(store, run)
        ended = await end(store, run)

        committed = await write(store, finishes=[finish(run.key, unrecord=("charge:1",))])

        assert committed.refused == {(run.number, run.epoch): RunStatus.SUCCESS}
        assert await recorded(store) == ["charge:1"]
        assert await row_of(store) == ended

    async def test_unrecord_reaches_only_its_own_thread(self, store: Store) -> None:
        """The same task id on another thread stays."""
        one, two = await begin(store, "one"), await begin(store, "two")
        await write(store, checkpoints=[checkpoint(one.key), checkpoint(two.key)])

        await write(store, unrecords=[Unrecord(one.key, ("charge:1",))])

        assert (await recorded(store, "one"), await recorded(store, "two")) == ([], ["charge:1"])

    async def test_cancel_ends_a_run_whoever_executes_it(self, store: Store, other: Store) -> None:
        """Its row as it was is returned; its epoch has moved on: its owner's writes are refused."""
        run = await begin(store)

        assert await other.cancel("thread", 5.0) == run

        row = await row_of(store)
        assert (row.status, row.owner, row.finished) == (RunStatus.CANCELLED, None, 5.0)
        committed = await write(store, finishes=[success(run.key)])
        assert committed.refused == {(run.number, run.epoch): RunStatus.CANCELLED}

    async def test_cancel_leaves_a_final_run_alone(self, store: Store) -> None:
        """A run that has succeeded is not cancelled; a thread without runs has none to cancel."""
        ended = await end(store, await begin(store))

        assert await store.cancel("thread", 5.0) == ended
        assert await row_of(store) == ended
        assert await store.cancel("unknown", 5.0) is None

    async def test_cancel_ends_the_run_that_is_named(self, store: Store) -> None:
        """Also a failed one that others came after: it is not continued any more."""
        failed = await end(store, await begin(store, run_id="first"), failure)
        latest = await end(store, await begin(store, run_id="second"), release)

        assert await store.cancel("thread", 5.0, "first") == failed
        assert await store.cancel("thread", 5.0, "unknown") is None

        assert (await row_of(store, "thread", "first")).status == RunStatus.CANCELLED
        assert await row_of(store) == latest

    async def test_forget_drops_a_call_and_those_it_was_made_by(self, store: Store) -> None:
        """Its ancestors rest on it; its children and others do not."""
        await family(store)

        assert await store.forget("thread", "parent", OWNER)

        assert await recorded(store) == ["child", "stranger"]

    async def test_forget_reopens_the_latest_run(self, store: Store) -> None:
        """Its result is un-recorded with the call, and running it again continues that run."""
        ended = await family(store)

        await store.forget("thread", "child", OWNER)

        run = await row_of(store)
        assert (run.status, run.result, run.saved, run.finished) == ("running", None, None, None)
        assert (await ask(store, claim())).row.run_id == ended.run_id

    async def test_forget_reopens_no_older_run(self, store: Store) -> None:
        """A run that others came after keeps its result."""
        ended = await family(store)
        await end(store, await begin(store, input=OTHER_INPUT, new_run_id="second"))

        await store.forget("thread", "stranger", OWNER)

        older = await row_of(store, "thread", ended.run_id)
        assert (older.status, older.result) == ("success", b'"result"')
        assert "stranger" not in await recorded(store)

    async def test_forget_knows_what_is_not_recorded(self, store: Store) -> None:
        """False where there is none, and nothing is reopened."""
        await family(store)

        assert not await store.forget("thread", "unknown", OWNER)
        assert not await store.forget("unknown", "child", OWNER)

        assert (await row_of(store)).status == "success"

    async def test_forget_and_delete_keep_off_a_run_that_executes_elsewhere(
        self, store: Store, other: Store
    ) -> None:
        """ThreadBusy, and nothing is dropped."""
        await record(store, await begin(store))

        with pytest.raises(ThreadBusy):
            await other.forget("thread", "charge:1", OTHER_OWNER)
        with pytest.raises(ThreadBusy):
            await other.delete("thread", OTHER_OWNER)

        assert await recorded(store) == ["charge:1"]

    async def test_delete_drops_a_thread_with_everything_on_it(self, store: Store) -> None:
        """Its runs and its calls, and nothing of another thread."""
        for thread_id in ("thread", "thread 2"):
            run = await begin(store, thread_id)
            await record(store, run)
            await end(store, run)

        assert await store.delete("thread", OWNER)

        assert await store.run("thread", None) is None
        assert await recorded(store) == []
        assert await recorded(store, "thread 2") == ["charge:1"]
        assert not await store.delete("thread", OWNER)

    async def test_a_deleted_thread_begins_anew(self, store: Store) -> None:
        """With sequence 1, and nothing before it."""
        await family(store)
        await store.delete("thread", OWNER)

        claimed = await ask(store, claim())

        assert (claimed.is_new, claimed.row.sequence, claimed.previous) == (True, 1, None)
