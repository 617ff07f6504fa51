"""Pauses: runs that wait, and which of them are due."""

from __future__ import annotations

import pytest

from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.stores.batches import Unrecord
from taskflow.testing.conformance.fixtures import Fixtures, Opens
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    ask,
    begin,
    checkpoint,
    claim,
    due,
    end,
    failure,
    pause,
    post,
    record,
    recorded,
    release,
    row_of,
    signal,
    success,
    taking,
    write,
)

__all__ = ("Pauses",)


class Pauses(Fixtures):
    """Pausing, and what `Store.recoverable` and `Store.unknown_workflows` list."""

    async def test_a_paused_run_is_nobodys_and_keeps_what_it_waits_for(self, store: Store) -> None:
        """Its waits and the time at which the first is over; a claim ends both."""
        run = await begin(store)
        await record(store, run)

        row = await end(store, run, pause, waits=b'[{"name":"x"}]', due=77.5)

        assert (row.status, row.owner) == ("paused", None)
        assert (row.waits, row.due) == (b'[{"name":"x"}]', 77.5)
        assert [each.number for each in await store.runs("paused", None, None, 10)] == [run.number]
        claimed = await ask(store, claim())
        assert (claimed.waits, claimed.is_new) == (b'[{"name":"x"}]', False)
        assert claimed.row.epoch > run.epoch
        assert (claimed.row.status, claimed.row.waits, claimed.row.due) == ("running", None, None)
        assert await row_of(store) == claimed.row

    async def test_who_has_paused_a_run_writes_nothing_more(self, store: Store) -> None:
        """Its epoch is the same, but nothing executes: checkpoints and finishes are refused."""
        run = await begin(store)
        await end(store, run, pause)

        for late in (
            await write(store, checkpoints=[checkpoint(run.key)]),
            await write(store, finishes=[success(run.key)]),
            await write(store, finishes=[pause(run.key)]),
            await write(store, unrecords=[Unrecord(run.key, ("charge:1",))]),
        ):
            assert late.refused == {(run.number, run.epoch): "paused"}
        assert (await row_of(store)).status == "paused"
        assert await recorded(store) == []

    async def test_a_paused_run_is_due_at_its_time(self, store: Store) -> None:
        """The most urgent first; without a time it never is."""
        for thread_id, at in (("late", 30.0), ("never", None), ("early", 10.0), ("soon", 20.0)):
            await end(store, await begin(store, thread_id), pause, due=at)

        assert await due(store, 9.9) == []
        assert await due(store, 10.0) == ["early"]
        assert await due(store) == ["early", "soon", "late"]
        first_two = await store.recoverable(1e9, ["fulfil"], 2)
        assert [row.thread_id for row in first_two] == ["early", "soon"]

    async def test_a_paused_run_that_gets_a_signal_is_due_at_once(self, store: Store) -> None:
        """Before those whose time has come."""
        for thread_id, at in (("timer", 3.0), ("signal", None), ("none", None)):
            await end(store, await begin(store, thread_id), pause, due=at)
        await post(store, "signal")

        assert await due(store, 0.0) == ["signal"]
        assert await due(store) == ["signal", "timer"]

    async def test_a_run_that_pauses_without_knowing_its_latest_signal_is_due(
        self, store: Store
    ) -> None:
        """Sent before the pause, in its batch, or known: only the last is not due."""
        run = await begin(store, "same batch")
        await write(store, finishes=[pause(run.key)], signals=[signal("same batch")])
        for thread_id in ("unknown", "known", "taken"):
            run = await begin(store, thread_id)
            sent = await post(store, thread_id)
            if thread_id == "taken":
                await write(store, checkpoints=[taking(run.key, "x:1")])
            known = 0 if thread_id == "unknown" else sent.sequence
            await end(store, run, pause, last_signal=known)

        assert sorted(await due(store)) == ["same batch", "unknown"]

    async def test_a_signal_for_a_run_that_executes_or_has_failed_makes_nothing_due(
        self, store: Store
    ) -> None:
        """The one hears of it, the other is continued by whoever runs it again."""
        await begin(store, "executes")
        await end(store, await begin(store, "failed"), failure)
        for thread_id in ("executes", "failed"):
            await post(store, thread_id)

        assert await due(store) == []

    @pytest.mark.parametrize("how", ["claim", "cancel", "delete", "supersede"])
    async def test_a_run_that_was_due_is_so_no_more(self, store: Store, how: str) -> None:
        """When it was claimed, cancelled, superseded or deleted."""
        run = await begin(store)
        await end(store, run, pause, due=1.0)
        assert await due(store) == ["thread"]
        if how == "claim":
            await begin(store)
        elif how == "cancel":
            await store.cancel("thread", 5.0)
        elif how == "delete":
            await store.delete("thread", OWNER)
        else:
            await begin(store, input=OTHER_INPUT, supersede=True, new_run_id="next")

        assert await due(store) == []
        row = await store.run("thread", run.run_id)
        assert row is None or (row.due, row.waits) == (None, None)

    async def test_only_known_workflows_are_recovered_and_others_are_named(
        self, store: Store
    ) -> None:
        """Blocks are nobody's to recover."""
        for workflow in ("fulfil", "refund", "restock"):
            await end(store, await begin(store, workflow, workflow=workflow), pause, due=1.0)
        block = await begin(store, "block", run_id=BLOCK_RUN_ID, workflow="")
        await end(store, block, release, due=0.0)

        rows = await store.recoverable(9.0, ["refund", "unheard"], 10)
        assert [row.thread_id for row in rows] == ["refund"]
        assert list(await store.unknown_workflows(9.0, ["refund"])) == ["fulfil", "restock"]
        assert list(await store.unknown_workflows(0.5, [])) == []
        assert await store.recoverable(9.0, [], 10) == []

    async def test_what_a_gone_owner_executed_is_recovered(
        self, store: Store, opened: Opens
    ) -> None:
        """From the moment at which it is gone; that of a living one is not."""
        async with opened("other") as other:
            await begin(other, "orphan", owner="other")
            await end(other, await begin(other, "released", owner="other"), release)
            await begin(store, "mine")
            assert await due(store) == []
            assert list(await store.unknown_workflows(1e9, [])) == []

        assert await due(store) == ["orphan"]
        assert list(await store.unknown_workflows(1e9, [])) == ["fulfil"]
