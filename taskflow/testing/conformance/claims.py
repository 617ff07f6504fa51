"""Claims: which owner is given a thread's run, and what it is told of the run before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from taskflow.errors import HistoryMismatch, RunCancelled, RunUnfinished, ThreadBusy
from taskflow.records import RunStatus
from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.stores.batches import Claimed, Finish
from taskflow.testing.conformance.fixtures import OTHER_OWNER, Fixtures, Opens
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    ask,
    begin,
    checkpoint,
    claim,
    end,
    failure,
    recorded,
    release,
    row_of,
    success,
    write,
)

__all__ = ("Claims",)

BLOCK: Final[dict[str, Any]] = {"run_id": BLOCK_RUN_ID, "workflow": "", "input": b"{}"}


class Claims(Fixtures):
    """Each row of the table of runs, each use of a run's id, blocks, and ``previous``."""

    async def test_a_claim_of_an_unknown_thread_begins_a_run(self, store: Store) -> None:
        """none → new run: sequence 1, epoch 1, owned, nothing before it."""
        claimed = await ask(store, claim(new_run_id="first"))

        row = claimed.row
        assert (claimed.is_new, claimed.is_answer, claimed.previous) == (True, False, None)
        assert (row.run_id, row.sequence, row.epoch, row.owner) == ("first", 1, 1, OWNER)
        assert await row_of(store) == row

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.ERROR])
    async def test_an_unfinished_run_of_the_same_input_is_continued(
        self, store: Store, status: RunStatus
    ) -> None:
        """unfinished, same input → continues it, under a new epoch."""
        first = await begin(store)
        await end(store, first, release, status=status, error=b"{}")

        claimed = await ask(store, claim(new_run_id="not needed", now=9.0))

        row = claimed.row
        assert (claimed.is_new, claimed.is_answer) == (False, False)
        assert (row.run_id, row.number, row.epoch) == (first.run_id, first.number, first.epoch + 1)
        assert (row.status, row.error, row.finished) == (RunStatus.RUNNING, None, None)
        assert (row.created, row.started) == (1.0, 9.0)

    async def test_an_unfinished_run_of_another_input_is_in_the_way(self, store: Store) -> None:
        """unfinished, other input → RunUnfinished, which names the run; nothing changes."""
        released = await end(store, await begin(store), release)

        with pytest.raises(RunUnfinished) as caught:
            await ask(store, claim(input=OTHER_INPUT))

        assert (caught.value.thread_id, caught.value.run_id) == ("thread", released.run_id)
        assert await row_of(store) == released

    async def test_an_unfinished_run_can_be_superseded(self, store: Store) -> None:
        """unfinished, other input, supersede=True → that one is cancelled and a new run starts."""
        first = await begin(store)
        await end(store, first, release)

        claimed = await ask(store, claim(input=OTHER_INPUT, supersede=True, new_run_id="second"))

        old = await row_of(store, "thread", first.run_id)
        assert (old.status, old.epoch) == (RunStatus.CANCELLED, first.epoch + 1)
        assert (claimed.row.run_id, claimed.row.sequence) == ("second", 2)

    async def test_supersede_of_the_same_input_continues(self, store: Store) -> None:
        """supersede is for another input; the same one is continued all the same."""
        released = await end(store, await begin(store), release)

        assert (await ask(store, claim(supersede=True))).row.run_id == released.run_id

    async def test_a_run_that_has_succeeded_answers_the_same_input(self, store: Store) -> None:
        """finished with success, same input → the recorded result; nothing is claimed."""
        ended = await end(store, await begin(store), result=b'"result"')

        claimed = await ask(store, claim())

        assert claimed.is_answer
        assert claimed.row.result == b'"result"'
        assert await row_of(store) == ended == claimed.row

    async def test_a_run_that_has_succeeded_makes_room_for_another_input(
        self, store: Store
    ) -> None:
        """finished with success, other input → new run."""
        await end(store, await begin(store))

        claimed = await ask(store, claim(input=OTHER_INPUT, new_run_id="second"))

        assert (claimed.is_new, claimed.row.sequence) == (True, 2)

    @pytest.mark.parametrize("input", [b'{"order":1}', OTHER_INPUT])
    async def test_a_cancelled_run_makes_room_for_any_input(
        self, store: Store, input: bytes
    ) -> None:
        """cancelled → new run, also for the same input."""
        await begin(store)
        await store.cancel("thread", 5.0)

        claimed = await ask(store, claim(input=input, new_run_id="second"))

        assert (claimed.is_new, claimed.row.run_id, claimed.row.sequence) == (True, "second", 2)

    @pytest.mark.parametrize(("input", "same_run"), [(b'{"order":1}', True), (OTHER_INPUT, False)])
    async def test_a_run_that_executes_elsewhere_is_busy(
        self, store: Store, other: Store, input: bytes, same_run: bool
    ) -> None:
        """executing now, elsewhere → ThreadBusy, which says whether it is an equal run."""
        run = await begin(store)

        with pytest.raises(ThreadBusy) as caught:
            await ask(other, claim(owner=OTHER_OWNER, input=input, supersede=True))

        assert caught.value.same_run is same_run
        assert await row_of(store) == run

    async def test_the_run_of_a_closed_owner_can_be_taken_over(self, opened: Opens) -> None:
        """An owner is gone when it was closed: the next one continues, under a new epoch."""
        async with opened("first") as store:
            run = await begin(store, owner="first")

        async with opened("second") as store:
            taken = await begin(store, owner="second")

        assert (taken.owner, taken.epoch) == ("second", run.epoch + 1)

    async def test_an_unknown_run_id_begins_that_run(self, store: Store) -> None:
        """new if unknown: also with the same input as the run before, which has succeeded."""
        await end(store, await begin(store, run_id="message-1"))

        claimed = await ask(store, claim(run_id="message-2"))

        assert (claimed.is_new, claimed.row.run_id, claimed.row.sequence) == (True, "message-2", 2)

    async def test_an_unknown_run_id_waits_for_an_open_run(self, store: Store) -> None:
        """RunUnfinished if another one is open, even of the same input."""
        await end(store, await begin(store, run_id="message-1"), release)

        with pytest.raises(RunUnfinished):
            await ask(store, claim(run_id="message-2"))

    async def test_a_known_run_id_is_continued(self, store: Store) -> None:
        """continued if known."""
        await end(store, await begin(store, run_id="message-1"), failure)

        claimed = await ask(store, claim(run_id="message-1"))

        assert (claimed.is_new, claimed.row.epoch) == (False, 2)

    async def test_a_known_run_id_is_answered_however_old_it_is(self, store: Store) -> None:
        """answered if known: a repeated request never runs twice, whatever came after it."""
        for run_id, result in (("message-0", b'"one"'), ("message-1", b'"two"')):
            await end(store, await begin(store, run_id=run_id), result=result)

        claimed = await ask(store, claim(run_id="message-0"))

        assert (claimed.is_answer, claimed.row.result) == (True, b'"one"')

    @pytest.mark.parametrize("finish", [success, release])
    async def test_a_known_run_id_with_another_input_is_a_mismatch(
        self, store: Store, finish: Callable[..., Finish]
    ) -> None:
        """HistoryMismatch if known with another input, which shows both."""
        await end(store, await begin(store, run_id="message-1"), finish)

        with pytest.raises(HistoryMismatch, match=r'"order":1.*"order":2'):
            await ask(store, claim(run_id="message-1", input=OTHER_INPUT))

    async def test_a_known_run_id_that_was_cancelled_stays_cancelled(self, store: Store) -> None:
        """RunCancelled if it was cancelled."""
        await begin(store, run_id="message-1")
        await store.cancel("thread", 5.0)

        with pytest.raises(RunCancelled) as caught:
            await ask(store, claim(run_id="message-1"))

        assert caught.value.run_id == "message-1"

    async def test_a_block_continues_its_run(self, store: Store) -> None:
        """A run with the id "" never finishes, and re-entry continues it."""
        first = await end(store, await begin(store, **BLOCK), release)

        claimed = await ask(store, claim(**BLOCK))

        assert (claimed.is_new, claimed.row.number, claimed.row.run_id) == (False, first.number, "")

    async def test_one_thread_is_used_by_blocks_or_by_workflows(self, store: Store) -> None:
        """Not both, in whatever order."""
        await end(store, await begin(store, "block", **BLOCK), release)
        await end(store, await begin(store, "workflow"), release)

        with pytest.raises(RunUnfinished, match="blocks"):
            await ask(store, claim("block", supersede=True))
        with pytest.raises(HistoryMismatch, match="workflows"):
            await ask(store, claim("workflow", **BLOCK))

    async def test_a_claim_that_is_turned_down_hurts_no_other_part_of_the_batch(
        self, store: Store
    ) -> None:
        """It is answered by the exception, in its place among the answers."""
        await end(store, await begin(store), release)
        other = await begin(store, "other")

        committed = await write(
            store,
            checkpoints=[checkpoint(other.key)],
            claims=[claim("new"), claim(input=OTHER_INPUT), claim("newer")],
        )

        new, refused, newer = committed.claims
        assert isinstance(new, Claimed)
        assert isinstance(refused, RunUnfinished)
        assert isinstance(newer, Claimed)
        asked = [new.row.thread_id, refused.thread_id, newer.row.thread_id]
        assert asked == ["new", "thread", "newer"]
        assert await recorded(store, "other") == ["charge:1"]

    @pytest.mark.usefixtures("other")
    async def test_of_two_claims_in_one_batch_one_has_the_thread(self, store: Store) -> None:
        """At most one run of a thread is unfinished, however close the claims are."""
        committed = await write(store, claims=[claim(), claim(owner=OTHER_OWNER)])

        assert isinstance(committed.claims[0], Claimed)
        assert isinstance(committed.claims[1], ThreadBusy)
        assert len(await store.runs(None, None, None, 10)) == 1

    async def test_previous_is_the_result_of_the_latest_successful_run(self, store: Store) -> None:
        """Failed and cancelled runs in between are passed over."""
        await end(store, await begin(store), result=b'"result"')
        await begin(store, input=OTHER_INPUT, new_run_id="second")
        await store.cancel("thread", 5.0)

        claimed = await ask(store, claim(new_run_id="third"))

        assert claimed.previous == b'"result"'

    async def test_previous_is_what_was_saved_in_place_of_the_result(self, store: Store) -> None:
        """Also where that is null."""
        await end(store, await begin(store), result=b'"result"', saved=b"null")

        claimed = await ask(store, claim(input=OTHER_INPUT, new_run_id="second"))

        assert claimed.previous == b"null"

    async def test_a_continued_run_has_the_same_previous(self, store: Store) -> None:
        """It is what was saved when this run was created, at every take-over."""
        await end(store, await begin(store), result=b'"first"')
        second = await begin(store, input=OTHER_INPUT, new_run_id="second")
        await end(store, second, failure)

        claimed = await ask(store, claim(input=OTHER_INPUT))

        assert (claimed.row.run_id, claimed.previous) == ("second", b'"first"')
