"""Signals: each is sent to a run once, and taken by one call."""

from __future__ import annotations

import pytest

from taskflow.errors import RunNotFound, StoreError
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Sent, Unrecord
from taskflow.stores.checksums import run_checksum
from taskflow.testing.conformance.fixtures import Fixtures
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
    post,
    recorded,
    release,
    signal,
    success,
    taking,
    write,
)

__all__ = ("Signals",)


class Signals(Fixtures):
    """Sending, taking, dropping and listing signals."""

    async def test_a_signal_goes_to_the_unfinished_run(self, store: Store) -> None:
        """It is given back as it was sent, with its sequence and that of the one before it."""
        run = await begin(store)
        first = await post(store, payload=b'{"a":"\\u0000"}', now=7.5)
        second = await post(store, name="y", number=2)

        assert (first.run_id, first.workflow, first.is_new) == (run.run_id, "fulfil", True)
        assert (first.previous, second.previous) == (0, first.sequence)
        one, two = await store.signals("thread", run.run_id, 0)
        assert (one.sequence, one.task_id, one.name) == (first.sequence, "x:1", "x")
        assert (one.payload, one.sent) == (b'{"a":"\\u0000"}', 7.5)
        assert one.is_sound(run_checksum("thread", run.run_id))
        assert two.name == "y"
        assert list(await store.signals("thread", run.run_id, first.sequence)) == [two]
        assert await store.signals("thread", "other run", 0) == []

    async def test_a_signal_without_an_unfinished_run_is_not_found(self, store: Store) -> None:
        """No thread, a finished run, a cancelled one: RunNotFound, and nothing is written."""
        with pytest.raises(RunNotFound):
            await post(store)
        await end(store, await begin(store))
        with pytest.raises(RunNotFound):
            await post(store)
        await begin(store, input=OTHER_INPUT, new_run_id="second")
        await store.cancel("thread", 4.0)
        with pytest.raises(RunNotFound):
            await post(store)

        assert await recorded(store) == []
        assert await store.news(None) == []

    @pytest.mark.parametrize("status", ["running", "paused", "error"])
    async def test_every_unfinished_run_takes_signals(self, store: Store, status: str) -> None:
        """Owned, released, paused or failed."""
        run = await begin(store)
        assert (await post(store, number=1)).is_new
        await end(store, run, release, status=RunStatus(status))
        assert (await post(store, number=2)).is_new
        assert len(await store.signals("thread", run.run_id, 0)) == 2

    async def test_a_failed_run_gets_no_signal_once_another_has_begun(self, store: Store) -> None:
        """It goes to the thread's latest run."""
        await end(store, await begin(store), failure)
        second = await begin(store, input=OTHER_INPUT, new_run_id="second")

        assert (await post(store)).run_id == second.run_id

    async def test_a_signal_that_is_refused_hurts_no_other_part_of_its_batch(
        self, store: Store
    ) -> None:
        """It is answered by the exception, as a claim is."""
        run = await begin(store)

        committed = await write(
            store,
            checkpoints=[checkpoint(run.key)],
            claims=[claim("new")],
            signals=[signal("unknown"), signal(number=2)],
        )

        assert [type(each) for each in committed.signals] == [RunNotFound, Sent]
        assert isinstance(committed.claims[0], Claimed)
        assert await recorded(store) == ["charge:1", "x:2"]

    async def test_a_signal_reaches_a_run_that_begins_in_its_batch(self, store: Store) -> None:
        """Signals are applied last: after the end of one run and the beginning of the next."""
        run = await begin(store)

        committed = await write(
            store,
            finishes=[success(run.key)],
            claims=[claim(input=OTHER_INPUT, new_run_id="next")],
            signals=[signal()],
        )

        (sent,) = committed.signals
        assert isinstance(sent, Sent)
        assert sent.run_id == "next"

    async def test_a_signal_that_was_sent_before_is_not_written_again(self, store: Store) -> None:
        """Once for an id: in one batch, in the next, when it was taken, when its run has ended."""
        run = await begin(store)
        first, again = (await write(store, signals=[signal(), signal(payload=b"2")])).signals
        assert isinstance(first, Sent)
        assert isinstance(again, Sent)
        assert (first.is_new, again.is_new, again.run_id) == (True, False, run.run_id)
        await write(store, checkpoints=[taking(run.key, "x:1")])
        assert not (await post(store, payload=b"3")).is_new
        await end(store, run)
        assert not (await post(store)).is_new
        await begin(store, input=OTHER_INPUT, new_run_id="next")
        assert not (await post(store)).is_new

        assert await store.signals("thread", "next", 0) == []
        assert await recorded(store) == ["x:1", "receive:1"]
        await begin(store, "other thread")
        assert (await post(store, "other thread")).is_new

    async def test_a_signal_is_taken_by_one_call(self, store: Store) -> None:
        """(thread_id, signal) is unique: a second one is a row at fault, in one batch and later."""
        run = await begin(store)
        await post(store)
        one, other = taking(run.key, "x:1", "a"), taking(run.key, "x:1", "b")
        with pytest.raises(StoreError) as caught:
            await write(store, checkpoints=[one, other])
        assert caught.value.row_at_fault
        await write(store, checkpoints=[one])
        with pytest.raises(StoreError) as caught:
            await write(store, checkpoints=[other])

        assert caught.value.row_at_fault
        assert await recorded(store) == ["x:1", "a"]
        assert await store.signals("thread", run.run_id, 0) == []

    @pytest.mark.parametrize("how", ["forget", "unrecord", "finish"])
    async def test_a_signal_is_free_when_its_call_is_dropped(self, store: Store, how: str) -> None:
        """It is the next one's again."""
        run = await begin(store)
        await post(store)
        await write(store, checkpoints=[taking(run.key, "x:1")])
        if how == "forget":
            await end(store, run, release)
            assert await store.forget("thread", "receive:1", OWNER)
        elif how == "unrecord":
            await write(store, unrecords=[Unrecord(run.key, ("receive:1",))])
        else:
            await end(store, run, failure, unrecord=("receive:1",))

        assert [each.task_id for each in await store.signals("thread", run.run_id, 0)] == ["x:1"]
        again = await ask(store, claim())
        assert [each.task_id for each in again.signals] == ["x:1"]
        await write(store, checkpoints=[taking(again.row.key, "x:1")])

    async def test_a_claim_is_given_the_signals_that_wait(self, store: Store) -> None:
        """Those that nobody has taken, in order; and the sequence of the latest, taken or not."""
        run = await begin(store)
        *_, last = [await post(store, number=number) for number in range(4)]
        await write(store, checkpoints=[taking(run.key, "x:3", "a"), taking(run.key, "x:0", "b")])
        await end(store, run, pause, last_signal=last.sequence)

        claimed = await ask(store, claim())

        assert [each.task_id for each in claimed.signals] == ["x:1", "x:2"]
        assert claimed.last_signal == last.sequence
        assert list(claimed.signals) == list(await store.signals("thread", run.run_id, 0))
        assert [row.kind for row in await store.load(claimed.row, 0, 10)] == ["result", "result"]

    async def test_news_are_the_signals_of_all_threads(self, store: Store) -> None:
        """In the order of their commits, from a sequence on; the latest alone without one."""

        async def news(after: int | None) -> list[tuple[int, str]]:
            return [(sequence, thread_id) for sequence, thread_id in await store.news(after)]

        assert await news(None) == await news(0) == []
        for thread_id in ("a", "b"):
            await begin(store, thread_id)
        sent = [await post(store, "aba"[number], number) for number in range(3)]
        first, second, third = (each.sequence for each in sent)

        assert first < second < third
        assert await news(None) == [(third, "a")]
        assert await news(first) == [(second, "b"), (third, "a")]
        assert await news(third) == []
        await store.delete("a", OWNER)
        assert await news(0) == [(second, "b")]

    async def test_delete_drops_signals_too(self, store: Store) -> None:
        """A thread that begins anew has none, and takes those that repeat an id."""
        run = await begin(store)
        await post(store)
        await end(store, run, release)
        await store.delete("thread", OWNER)
        run = await begin(store)

        assert await store.signals("thread", run.run_id, 0) == []
        assert (await post(store)).is_new
