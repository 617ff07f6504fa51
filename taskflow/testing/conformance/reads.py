"""Reads: runs and checkpoints in pages and by filters, and the results that threads share."""

from __future__ import annotations

from taskflow.stores.base import Store
from taskflow.testing.conformance.fixtures import Fixtures
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    begin,
    cached,
    end,
    failure,
    record,
    recorded,
    write,
)

__all__ = ("Reads",)


class Reads(Fixtures):
    """``load``, ``run``, ``latest``, ``runs``, ``cached`` and ``clear_cache``."""

    async def test_load_gives_a_run_in_pages(self, store: Store) -> None:
        """At most ``limit`` checkpoints above ``after``, in commit order, of that run alone."""
        other = await begin(store, "other")
        run = await begin(store)
        for number in range(5):
            await record(store, run, f"charge:{number}")
            await record(store, other, f"charge:{number}")

        pages: list[list[str]] = []
        after = 0
        while rows := await store.load(run, after, 2):
            pages.append([row.task_id for row in rows])
            after = rows[-1].sequence

        assert pages == [["charge:0", "charge:1"], ["charge:2", "charge:3"], ["charge:4"]]

    async def test_load_leaves_out_other_runs_of_the_thread(self, store: Store) -> None:
        """What an earlier run recorded belongs to it."""
        first = await begin(store)
        await record(store, first, "old")
        await end(store, first)
        second = await begin(store, input=OTHER_INPUT, new_run_id="second")
        await record(store, second, "new")

        assert [row.task_id for row in await store.load(second, 0, 10)] == ["new"]
        assert await recorded(store) == ["old", "new"]
        (only,) = await store.checkpoints("thread", "second")
        assert only.checkpoint.task_id == "new"

    async def test_a_run_is_found_by_thread_and_by_id(self, store: Store) -> None:
        """The latest where no id is given; None where there is none."""
        await end(store, await begin(store, new_run_id="first"))
        await begin(store, input=OTHER_INPUT, new_run_id="second")

        rows = [await store.run("thread", run_id) for run_id in (None, "first", "second")]

        assert [row and row.run_id for row in rows] == ["second", "first", "second"]
        assert await store.run("thread", "unknown") is None
        assert await store.run("unknown", None) is None

    async def test_the_latest_runs_of_many_threads_are_read_at_once(self, store: Store) -> None:
        """One row for each thread that has a run, as it is now; none for the others."""
        await end(store, await begin(store, "a", new_run_id="first"))
        await begin(store, "a", input=OTHER_INPUT, new_run_id="second")
        await end(store, await begin(store, "b", new_run_id="only"))
        await begin(store, "c")

        rows = {row.thread_id: row for row in await store.latest(["a", "b", "unknown"])}

        assert {each: row.run_id for each, row in rows.items()} == {"a": "second", "b": "only"}
        assert (rows["a"].status, rows["b"].status) == ("running", "success")
        assert list(await store.latest([])) == []

    async def test_runs_are_listed_newest_first_in_pages(self, store: Store) -> None:
        """``before`` continues a page; runs that begin meanwhile do not shift it."""
        for number in range(5):
            await begin(store, f"thread {number}")

        first = await store.runs(None, None, None, 2)
        await begin(store, "late")
        second = await store.runs(None, None, first[-1].number, 2)

        assert [run.thread_id for run in first] == ["thread 4", "thread 3"]
        assert [run.thread_id for run in second] == ["thread 2", "thread 1"]

    async def test_runs_are_filtered_by_status_and_by_workflow(self, store: Store) -> None:
        """Both filters, and either alone."""
        for thread_id, workflow in (("a", "fulfil"), ("b", "refund"), ("c", "fulfil")):
            run = await begin(store, thread_id, workflow=workflow)
            if thread_id != "c":
                await end(store, run)

        async def threads(status: str | None, workflow: str | None) -> list[str]:
            return [run.thread_id for run in await store.runs(status, workflow, None, 10)]

        assert await threads("success", None) == ["b", "a"]
        assert await threads(None, "fulfil") == ["c", "a"]
        assert await threads("success", "fulfil") == ["a"]
        assert await threads("paused", None) == []

    async def test_epochs_show_which_runs_have_moved_on(self, store: Store) -> None:
        """A run that was cancelled or taken over has another one, a deleted run none."""
        runs = [await begin(store, name) for name in ("kept", "cancelled", "deleted")]
        await store.cancel("cancelled", 5.0)
        await store.delete("deleted", OWNER)

        kept, cancelled, deleted = [run.number for run in runs]

        assert await store.epochs([kept, cancelled, deleted]) == {kept: 1, cancelled: 2}
        assert await store.epochs([]) == {}

    async def test_the_runs_of_one_thread_are_listed(self, store: Store) -> None:
        """Newest first, in pages, and by status; none of another thread."""
        for number in range(5):
            await end(store, await begin(store, run_id=f"message-{number}"))
        await end(store, await begin(store, run_id="failed"), failure)
        await begin(store, "other")

        first = await store.runs(None, None, None, 4, "thread")
        second = await store.runs("success", None, first[-1].number, 4, "thread")

        assert [row.run_id for row in first] == ["failed", "message-4", "message-3", "message-2"]
        assert [row.run_id for row in second] == ["message-1", "message-0"]
        assert await store.runs(None, None, None, 4, "unknown") == []

    async def test_a_shared_result_is_found_by_task_and_key(self, store: Store) -> None:
        """And by nothing else."""
        await write(store, cached=[cached("a"), cached("b"), cached("a", name="refund")])

        found = await store.cached("charge", ["a", "c"], 0.0)

        assert list(found) == [cached("a")]

    async def test_a_shared_result_expires(self, store: Store) -> None:
        """At its time it is gone; without one it stays."""
        await write(store, cached=[cached("short", expires=10.0), cached("long")])

        async def found(now: float) -> list[str]:
            return sorted(
                entry.key for entry in await store.cached("charge", ["short", "long"], now)
            )

        assert await found(9.0) == ["long", "short"]
        assert await found(10.0) == ["long"]

    async def test_a_shared_result_is_replaced_by_a_newer_one(self, store: Store) -> None:
        """One for each key: the last that was computed."""
        await write(store, cached=[cached("a", expires=1.0)])
        await write(store, cached=[cached("a", expires=99.0)])

        assert list(await store.cached("charge", ["a"], 50.0)) == [cached("a", expires=99.0)]

    async def test_clear_cache_drops_the_results_of_one_task(self, store: Store) -> None:
        """And says how many there were."""
        await write(store, cached=[cached("a"), cached("b"), cached("a", name="refund")])

        assert await store.clear_cache("charge") == 2
        assert await store.cached("charge", ["a", "b"], 0.0) == []
        assert len(await store.cached("refund", ["a"], 0.0)) == 1
        assert await store.clear_cache("charge") == 0
