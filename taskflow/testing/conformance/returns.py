"""Returns: runs that have ended, and those that begin beside them or continue them later."""

from __future__ import annotations

from typing import Any

import pytest

from taskflow.errors import RunUnfinished
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.testing.conformance.fixtures import Fixtures
from taskflow.testing.rows import OTHER_INPUT, ask, begin, claim, end, failure, release, row_of

__all__ = ("Returns",)


class Returns(Fixtures):
    """Failed runs, which others may come after, and ``fresh`` runs."""

    @pytest.mark.parametrize(
        "changes",
        [{"input": OTHER_INPUT}, {"fresh": True}, {"run_id": "second"}],
        ids=["other input", "fresh", "unknown run_id"],
    )
    async def test_a_failed_run_stays_as_it_is_beside_another(
        self, store: Store, changes: dict[str, Any]
    ) -> None:
        """failed, other input, fresh=True or another run_id → new run; no column of it changes."""
        failed = await end(store, await begin(store), failure)

        claimed = await ask(store, claim(**{"new_run_id": "second", **changes}))

        assert (claimed.is_new, claimed.row.run_id, claimed.row.sequence) == (True, "second", 2)
        assert await row_of(store, "thread", failed.run_id) == failed

    async def test_fresh_makes_a_new_run_after_a_success(self, store: Store) -> None:
        """finished with success, same input, fresh=True → new run, which is given what is saved."""
        await end(store, await begin(store), result=b'"result"')

        claimed = await ask(store, claim(fresh=True, new_run_id="second"))

        assert (claimed.is_new, claimed.row.sequence, claimed.previous) == (True, 2, b'"result"')

    async def test_fresh_continues_what_has_not_ended(self, store: Store) -> None:
        """unfinished, same input → continued: two open runs there cannot be."""
        released = await end(store, await begin(store), release)

        assert (await ask(store, claim(fresh=True))).row.run_id == released.run_id

    async def test_fresh_with_supersede_ends_an_equal_run(self, store: Store) -> None:
        """unfinished, same input, both → that one is cancelled and a new run starts."""
        first = await end(store, await begin(store), release)

        claimed = await ask(store, claim(fresh=True, supersede=True, new_run_id="second"))

        assert (claimed.is_new, claimed.superseded) == (True, first.run_id)
        assert (await row_of(store, "thread", first.run_id)).status == RunStatus.CANCELLED

    async def test_a_failed_run_is_continued_after_others(self, store: Store) -> None:
        """By its run_id, with what was saved before it; it is the latest while it is open."""
        await end(store, await begin(store, run_id="message-0"), result=b'"zero"')
        failed = await end(store, await begin(store, run_id="message-1"), failure)
        await end(store, await begin(store, run_id="message-2"), result=b'"two"')

        claimed = await ask(store, claim(run_id="message-1"))

        assert (claimed.row.number, claimed.previous) == (failed.number, b'"zero"')
        assert await row_of(store) == claimed.row
        assert await store.latest(["thread"]) == [claimed.row]
        await end(store, claimed.row)
        assert (await row_of(store)).run_id == "message-2"

    async def test_a_failed_run_waits_for_an_open_one(self, store: Store) -> None:
        """RunUnfinished, which names the open one; with supersede=True that one is cancelled."""
        failed = await end(store, await begin(store, run_id="message-1"), failure)
        second = await end(store, await begin(store, run_id="message-2"), release)

        with pytest.raises(RunUnfinished, match="message-2"):
            await ask(store, claim(run_id="message-1"))
        claimed = await ask(store, claim(run_id="message-1", supersede=True))

        assert (claimed.row.number, claimed.superseded) == (failed.number, second.run_id)
        assert (await row_of(store, "thread", "message-2")).status == RunStatus.CANCELLED

    async def test_what_supersedes_an_older_run_is_the_newest(self, store: Store) -> None:
        """Its sequence is above those of all runs, not only of the one that it ends."""
        await end(store, await begin(store, run_id="message-1"), failure)
        await end(store, await begin(store, run_id="message-2"))
        await end(store, await begin(store, run_id="message-1"), release)

        claimed = await ask(store, claim(input=OTHER_INPUT, supersede=True))

        assert (claimed.superseded, claimed.row.sequence) == ("message-1", 3)
