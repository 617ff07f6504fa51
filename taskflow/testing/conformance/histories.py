"""Histories: what is recorded is replaced, copied, read as a snapshot, and pruned."""

from __future__ import annotations

import pytest
from msgspec import structs

from taskflow.errors import RunNotFound, ThreadBusy, ThreadExists
from taskflow.records import Pruned, RunStatus
from taskflow.stores.base import Store
from taskflow.stores.checksums import run_checksum
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import Checkpoint, RunRow
from taskflow.testing.conformance.fixtures import Fixtures
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    ask,
    begin,
    cached,
    claim,
    end,
    failure,
    pause,
    post,
    record,
    recorded,
    release,
    row_of,
    write,
)

__all__ = ("Histories",)


def sealed(row: RunRow, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's checksum is the one of its thread and run."""
    return checkpoint.is_sound(run_checksum(row.thread_id, row.run_id))


async def nested(store: Store, thread_id: str = "thread") -> RunRow:
    """A run that has succeeded: ``inner`` was called by ``outer``; ``alone`` took a signal."""
    run = await begin(store, thread_id)
    await post(store, thread_id, name="approve")
    await record(store, run, "inner:1", parent_id="outer:1")
    await record(store, run, "inner:1@", parent_id="outer:1", kind="wait", payload=b"1")
    await record(store, run, "outer:1", kind="error", payload=b'"why"')
    await record(store, run, "alone:1", signal="approve:1")
    return await end(store, run)


async def large(store: Store, thread_id: str) -> RunRow:
    """A run that has succeeded, of more calls than one step of a prune deletes."""
    run = await begin(store, thread_id)
    await record(store, run, *(f"charge:{number}" for number in range(700)))
    return await end(store, run)


async def pruned(store: Store, keep_last: int = 0, status: str = "success") -> Pruned:
    """What is pruned of everything that has ended."""
    total = Pruned()
    async for each in store.prune(Prune((status,), 100.0, keep_last, 100.0)):
        total += each
    return total


class Histories(Fixtures):
    """``replace``, ``fork``, ``adopt``, ``snapshot`` and ``prune``."""

    async def test_replace_makes_a_result_and_drops_who_called(self, store: Store) -> None:
        """Of an error too; its run is open again, and the row fits its checksum."""
        await nested(store)

        assert await store.replace("thread", "outer:1", b'"other"')
        assert await store.replace("thread", "inner:1", b"2")

        row = await store.checkpoint("thread", "inner:1")
        run = await row_of(store)
        assert row is not None
        assert (row.checkpoint.kind, row.checkpoint.payload) == ("result", b"2")
        assert sealed(run, row.checkpoint)
        assert (run.status, run.result) == (RunStatus.RUNNING, None)
        assert await recorded(store) == ["approve:1", "inner:1", "inner:1@", "alone:1"]

    async def test_replace_knows_what_is_no_call(self, store: Store) -> None:
        """Deadlines, signals, and what is not recorded."""
        await nested(store)

        for task_id in ("inner:1@", "approve:1", "charge:9"):
            assert not await store.replace("thread", task_id, b"2")
        assert (await begin(store)).status == RunStatus.SUCCESS

    async def test_replace_keeps_off_a_run_that_executes_here_or_elsewhere(
        self, store: Store, other: Store
    ) -> None:
        """Whoever executes it may have used the result already."""
        await record(store, await begin(store))

        for each in (store, other):
            with pytest.raises(ThreadBusy):
                await each.replace("thread", "charge:1", b"2")

    async def test_a_fork_has_all_rows_of_a_run_with_their_own_checksums(
        self, store: Store
    ) -> None:
        """In their order, under their ids; a run that had succeeded is copied as it is."""
        run = await nested(store)

        made = await store.fork("thread", None, "copy", [])

        rows = await store.checkpoints("copy", None)
        assert [row.checkpoint.task_id for row in rows] == await recorded(store)
        assert all(sealed(made, row.checkpoint) for row in rows)
        assert await store.run("copy", None) == made.verified()
        assert (made.run_id, made.status, made.result) == (run.run_id, RunStatus.SUCCESS, b'"done"')
        assert made.number != run.number

    async def test_a_fork_without_a_call_is_unfinished_and_nobodys(self, store: Store) -> None:
        """The calls that it was made by, its deadline and its hold on a signal are gone with it."""
        await nested(store)

        made = await store.fork("thread", "run", "copy", ["inner:1", "alone:1"])

        assert (made.status, made.owner, made.result) == (RunStatus.RUNNING, None, None)
        assert await recorded(store, "copy") == ["approve:1"]
        assert [each.task_id for each in await store.signals("copy", "run", 0)] == ["approve:1"]
        assert await store.signals("thread", "run", 0) == []
        assert (await begin(store, "copy")).epoch == 2

    async def test_a_fork_of_a_paused_run_is_not_due(self, store: Store) -> None:
        """It begins when it is run, not by itself."""
        await end(store, await begin(store), pause, due=1.0)

        made = await store.fork("thread", None, "copy", [])

        assert (made.status, made.waits, made.due) == (RunStatus.RUNNING, None, None)
        assert [row.thread_id for row in await store.recoverable(9.0, ["fulfil"], 9)] == ["thread"]

    async def test_a_fork_or_an_import_never_adds_to_a_thread(self, store: Store) -> None:
        """It is a new thread or an error, and then nothing was written."""
        run = await nested(store)
        await begin(store, "taken")

        with pytest.raises(ThreadExists):
            await store.fork("thread", None, "taken", [])
        with pytest.raises(ThreadExists):
            await store.adopt([run], [])
        for task_ids in (["charge:9"], ["inner:1", "charge:9"], ["approve:1"], ["inner:1@"]):
            with pytest.raises(RunNotFound):
                await store.fork("thread", None, "copy", task_ids)

        assert await recorded(store, "taken") == []
        assert await store.run("copy", None) is None

    async def test_a_snapshot_is_one_moment(self, store: Store) -> None:
        """Pages of runs and rows, whatever is written meanwhile; then it can be made a thread."""
        run = await nested(store)

        async with store.snapshot("thread") as snapshot:
            await store.forget("thread", "outer:1", OWNER)
            (found,) = await snapshot.runs(0, 10)
            first = await snapshot.checkpoints("run", 0, 3)
            rest = await snapshot.checkpoints("run", first[-1].sequence, 3)
            assert await snapshot.runs(found.sequence, 10) == []

        ids = [row.checkpoint.task_id for row in [*first, *rest]]
        assert ids == ["approve:1", "inner:1", "inner:1@", "outer:1", "alone:1"]
        assert (found.run_id, found.status) == (run.run_id, RunStatus.SUCCESS)
        moved = structs.replace(found, thread_id="copy", owner=None).sealed()
        await store.adopt([moved], [*first, *rest])
        assert await recorded(store, "copy") == ids
        assert await store.signals("copy", "run", 0) == []

    async def test_prune_deletes_runs_with_their_rows(self, store: Store) -> None:
        """Of every thread, whatever the number of rows; others are left alone."""
        for thread_id in ("one", "two"):
            await large(store, thread_id)
        await record(store, await begin(store))

        assert await pruned(store) == Pruned(2, 1400)

        assert [row.thread_id for row in await store.runs(None, None, None, 9)] == ["thread"]
        assert await recorded(store, "one") == []
        assert await recorded(store) == ["charge:1"]

    async def test_prune_deletes_signals_and_what_took_them(self, store: Store) -> None:
        """A new run of the thread begins without them, and may be sent the same."""
        await nested(store)
        assert await pruned(store) == Pruned(1, 5)

        await begin(store)
        assert (await post(store, name="approve")).is_new

    async def test_prune_deletes_shared_results_that_have_expired(self, store: Store) -> None:
        """Those that nobody would be given any more."""
        entries = [cached(str(number), expires=float(number * 100)) for number in range(3)]
        await write(store, cached=[*entries, cached("always")])

        assert await pruned(store) == Pruned(cached=2)

        left = await store.cached("charge", ["0", "1", "2", "always"], 0.0)
        assert sorted(each.key for each in left) == ["2", "always"]

    async def test_prune_leaves_a_failed_run_that_is_continued_meanwhile(
        self, store: Store
    ) -> None:
        """Between the steps of a prune, though later runs of its thread stay as they are."""
        for run_id, rows in (("first", 700), ("second", 5)):
            run = await begin(store, run_id=run_id)
            await record(store, run, *(f"{run_id}:{number}" for number in range(rows)))
            await end(store, run, failure)
        await end(store, await begin(store, run_id="third"))

        steps = store.prune(Prune((RunStatus.ERROR,), 100.0, 0, 100.0))
        await anext(steps)
        continued = await begin(store, run_id="second")
        async for _ in steps:
            pass

        assert await row_of(store, "thread", "second") == continued
        assert (await row_of(store)).run_id == "second"

    async def test_prune_leaves_a_thread_that_was_gone_on_with(self, store: Store) -> None:
        """A run that begins between two steps is given what the run before it had saved."""
        for thread_id in ("one", "two"):
            await large(store, thread_id)

        later: RunRow | None = None
        async for _ in store.prune(Prune(("success",), 100.0, 0, 100.0)):
            if later is None:
                later = await begin(store, "two", input=OTHER_INPUT, new_run_id="later")

        assert later is not None
        await end(store, later, release)
        again = await ask(store, claim("two", input=OTHER_INPUT))
        assert (again.row.run_id, again.previous) == ("later", b'"done"')
