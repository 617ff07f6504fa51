"""Owners: several runtimes on the same records, commits at once, and take-overs."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from taskflow.errors import ThreadBusy
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Finish, Unrecord
from taskflow.stores.rows import RunRow
from taskflow.testing.conformance.fixtures import OTHER_OWNER, Fixtures, Opens
from taskflow.testing.rows import (
    OWNER,
    ask,
    begin,
    cached,
    checkpoint,
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

__all__ = ("Owners",)


class Owners(Fixtures):
    """Opening and closing, commits and claims of two owners at once, and counted take-overs."""

    async def test_a_cancelled_commit_is_whole_or_was_never_begun(self, store: Store) -> None:
        """Cancelling may cancel the wait, never half of a write; the store goes on."""
        run = await begin(store)
        ids = [f"charge:{number}" for number in range(500)]

        with anyio.move_on_after(0):
            await record(store, run, *ids)

        assert await recorded(store) in ([], ids)
        await record(store, run, "after")
        assert (await recorded(store))[-1] == "after"

    @pytest.mark.parametrize("first_to_close", ["one", "two"])
    async def test_the_owners_of_a_store_are_gone_one_by_one(
        self, make_store: Callable[[], Store], opened: Opens, first_to_close: str
    ) -> None:
        """Closing one runtime gives up its own runs, and no one else's."""
        stores = {owner: make_store() for owner in ("one", "two")}
        for owner, store in stores.items():
            await store.open(owner)
            await begin(store, owner, owner=owner)

        async with opened("watcher") as watcher:
            await stores.pop(first_to_close).close(first_to_close)

            assert (await begin(watcher, first_to_close, owner="watcher")).epoch == 2
            ((left, store),) = stores.items()
            with pytest.raises(ThreadBusy):
                await begin(watcher, left, owner="watcher")
            await store.close(left)

    async def test_the_next_process_finds_what_was_committed(self, opened: Opens) -> None:
        """Everything: runs, calls, signals, shared results."""
        async with opened("first") as store:
            run = await begin(store, owner="first")
            await write(store, checkpoints=[checkpoint(run.key)], cached=[cached()])
            await post(store)
            row = await row_of(store)

        async with opened("second") as store:
            assert await row_of(store) == row
            assert await recorded(store) == ["charge:1", "x:1"]
            assert [each.name for each in await store.signals("thread", run.run_id, 0)] == ["x"]
            assert list(await store.cached("charge", ["key"], 0.0)) == [cached()]

    async def test_only_the_owner_that_has_opened_it_closes_it(self, store: Store) -> None:
        """Somebody who was refused, and tidies up, takes it from nobody."""
        await begin(store)

        await store.close("somebody else")

        assert await store.run("thread", None) is not None
        await begin(store, thread_id="other")

    async def test_closing_what_is_not_open_does_nothing(
        self, make_store: Callable[[], Store]
    ) -> None:
        """A runtime closes a store that has failed to open, too."""
        store = make_store()

        await store.close("never opened")

        await store.open(OWNER)
        await begin(store)
        await store.close(OWNER)
        await store.close(OWNER)

    async def test_of_two_claims_at_once_one_has_the_thread(
        self, store: Store, other: Store
    ) -> None:
        """Made by two runtimes in the same moment, for twenty threads."""
        threads = [f"thread {number}" for number in range(20)]
        answers: list[Claimed | Exception] = []

        async def ask_for_all(asking: Store, owner: str) -> None:
            for thread_id in threads:
                committed = await write(asking, claims=[claim(thread_id, owner=owner)])
                answers.extend(committed.claims)

        async with anyio.create_task_group() as group:
            group.start_soon(ask_for_all, store, OWNER)
            group.start_soon(ask_for_all, other, OTHER_OWNER)

        granted = [each.row.thread_id for each in answers if isinstance(each, Claimed)]
        assert sorted(granted) == sorted(threads)
        assert len([each for each in answers if isinstance(each, ThreadBusy)]) == len(threads)

    async def test_what_two_runtimes_commit_at_once_is_all_there(
        self, store: Store, other: Store
    ) -> None:
        """Each row once, under a sequence of its own, in the order of its runtime."""
        expected = [f"charge:{number}" for number in range(50)]

        async def record_all(recording: Store, run: RunRow) -> None:
            for task_id in expected:
                await record(recording, run, task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(record_all, store, await begin(store, "one"))
            group.start_soon(record_all, other, await begin(other, "two", owner=OTHER_OWNER))

        rows = [*await store.checkpoints("one", None), *await store.checkpoints("two", None)]
        assert await recorded(store, "one") == await recorded(store, "two") == expected
        assert len({row.sequence for row in rows}) == 100

    async def test_a_take_over_is_counted_as_long_as_nothing_is_recorded(
        self, store: Store
    ) -> None:
        """A row of its own is progress; a signal that somebody has sent is none."""
        run = await begin(store)
        counts: list[int] = []
        for progress in (None, None, "signal", "row", None, "wait", None):
            if progress == "signal":
                await post(store)
            elif progress is not None:
                await record(store, run, progress, kind="result" if progress == "row" else "wait")
            run = await begin(store, takes_over=True, epoch=run.epoch)
            counts.append(run.takeovers)

        assert counts == [1, 2, 3, 1, 2, 1, 2]

    @pytest.mark.parametrize("finish", [release, pause, failure])
    async def test_whoever_ends_or_asks_for_a_run_begins_the_count_anew(
        self, store: Store, finish: Callable[..., Finish]
    ) -> None:
        """Take-overs are counted from owners that died."""
        run = await begin(store)
        for _ in range(3):
            run = await begin(store, takes_over=True, epoch=run.epoch)
        assert run.takeovers == 3
        await end(store, run, finish)
        assert (await begin(store, takes_over=True)).takeovers == 1
        assert (await begin(store)).takeovers == 0

    async def test_two_that_take_over_one_run_are_one(self, store: Store) -> None:
        """A claim that names the epoch is turned down where somebody was faster."""
        run = await begin(store)
        await begin(store, takes_over=True, epoch=run.epoch)
        with pytest.raises(ThreadBusy):
            await ask(store, claim(run_id=run.run_id, takes_over=True, epoch=run.epoch))

        run = await begin(store)
        taking_over = claim(run_id=run.run_id, epoch=run.epoch, takes_over=True)
        first, second = (await write(store, claims=[taking_over, taking_over])).claims
        assert isinstance(first, Claimed)
        assert isinstance(second, ThreadBusy)

    async def test_a_deadline_goes_with_its_call(self, store: Store) -> None:
        """Whatever drops the call drops its deadline; a deadline is loaded, and is no call."""
        run = await begin(store)
        await record(store, run, "a:1", "b:1")
        await record(store, run, "a:1@", "b:1@", kind="wait")
        assert [row.kind for row in await store.load(run, 0, 10)].count("wait") == 2
        await write(store, unrecords=[Unrecord(run.key, ("a:1",))])
        assert await recorded(store) == ["b:1", "b:1@"]
        await end(store, run, release)
        await store.forget("thread", "b:1", OWNER)

        assert await recorded(store) == []
