"""What is sent to a run, once, and taken by one call."""

from __future__ import annotations

import pytest
from msgspec import structs

from taskflow.errors import RunNotFound, StoreError
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.batches import Batch, Sent, Signal, Unrecord
from taskflow.stores.checksums import run_checksum
from taskflow.testing.conformance.fixtures import Fixtures
from taskflow.testing.rows import (
    OTHER_INPUT,
    OWNER,
    ask,
    begin,
    checkpoint,
    claim,
    pause,
    post,
    recorded,
    release,
    success,
    taking,
    write,
)

__all__ = ("Signals",)


class Signals(Fixtures):
    """What is sent to a run, once, and taken by one call."""

    async def test_a_signal_goes_to_the_unfinished_run(self, store: Store) -> None:
        """It is given back as it was sent, with its sequence and that of the one before it."""
        run = await begin(store)
        first = await post(store, number=1, payload=b'{"a":"\\u0000"}', now=7.5)
        second = await post(store, "y", number=2)

        assert (first.run_id, first.workflow, first.is_new) == (run.run_id, "fulfil", True)
        assert (first.previous, second.previous) == (0, first.sequence)
        one, two = await store.signals("thread", run.run_id, 0)
        assert (one.sequence, one.task_id, one.name) == (first.sequence, "x:1", "x")
        assert (one.payload, one.sent) == (b'{"a":"\\u0000"}', 7.5)
        seed = run_checksum("thread", run.run_id)
        assert one.is_sound(seed)
        assert two.name == "y"
        assert list(await store.signals("thread", run.run_id, first.sequence)) == [two]
        assert await store.signals("thread", "other run", 0) == []

    async def test_a_signal_without_an_unfinished_run_is_not_found(self, store: Store) -> None:
        """No thread, a finished run, a cancelled one: RunNotFound, and nothing is written."""
        with pytest.raises(RunNotFound):
            await post(store)
        run = await begin(store)
        await write(store, finishes=[success(run.key)])
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
        await write(store, finishes=[release(run.key, RunStatus(status))])
        assert (await post(store, number=2)).is_new
        assert len(await store.signals("thread", run.run_id, 0)) == 2

    async def test_a_signal_that_is_refused_hurts_no_other_part_of_its_batch(
        self, store: Store
    ) -> None:
        """It is answered by the exception, as a claim is."""
        run = await begin(store)
        lost = Signal("unknown", "x:1", "x", b"1", 5.0)
        kept = Signal("thread", "x:2", "x", b"2", 5.0)

        committed = await store.commit(
            Batch([checkpoint(run.key)], [], [], [], [claim("new")], [lost, kept])
        )

        assert [type(each) for each in committed.signals] == [RunNotFound, Sent]
        assert not isinstance(committed.claims[0], Exception)
        assert await recorded(store) == ["charge:1", "x:2"]

    async def test_a_signal_reaches_a_run_that_begins_in_its_batch(self, store: Store) -> None:
        """Signals are applied last: after the end of one run and the beginning of the next."""
        run = await begin(store)

        committed = await store.commit(
            Batch(
                [],
                [],
                [],
                [success(run.key)],
                [claim(input=OTHER_INPUT, new_run_id="next")],
                [Signal("thread", "x:1", "x", b"1", 5.0)],
            )
        )

        (sent,) = committed.signals
        assert not isinstance(sent, Exception)
        assert sent.run_id == "next"

    async def test_a_signal_that_was_sent_before_is_not_written_again(self, store: Store) -> None:
        """Once for an id: in one batch, in the next, when it was taken, when its run has ended."""
        run = await begin(store)
        signal = Signal("thread", "x:1", "x", b"1", 5.0)
        committed = await store.commit(
            Batch([], [], [], [], [], [signal, structs.replace(signal, payload=b"2")])
        )
        first, again = committed.signals
        assert not isinstance(first, Exception)
        assert not isinstance(again, Exception)
        assert (first.is_new, again.is_new, again.run_id) == (True, False, run.run_id)
        await write(store, checkpoints=[taking(run.key, "x:1")])
        assert not (await post(store, payload=b"3")).is_new
        await write(store, finishes=[success(run.key)])
        assert not (await post(store)).is_new
        await begin(store, input=OTHER_INPUT, new_run_id="next")
        assert not (await post(store)).is_new

        assert await store.signals("thread", "next", 0) == []
        assert await recorded(store) == ["x:1", "receive:1"]
        await begin(store, "other thread")
        assert (await post(store, thread_id="other thread")).is_new

    async def test_a_signal_is_taken_by_one_call(self, store: Store) -> None:
        """(thread_id, signal) is unique: a second one is a row at fault, in one batch and later."""
        run = await begin(store)
        await post(store)
        with pytest.raises(StoreError) as caught:
            await write(
                store, checkpoints=[taking(run.key, "x:1", "a"), taking(run.key, "x:1", "b")]
            )
        assert caught.value.row_at_fault
        await write(store, checkpoints=[taking(run.key, "x:1", "a")])
        with pytest.raises(StoreError) as caught:
            await write(store, checkpoints=[taking(run.key, "x:1", "b")])

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
            await write(store, finishes=[release(run.key)])
            assert await store.forget("thread", "receive:1", OWNER)
        elif how == "unrecord":
            await write(store, unrecords=[Unrecord(run.key, ("receive:1",))])
        else:
            failed = release(run.key, RunStatus.ERROR, unrecord=("receive:1",))
            await write(store, finishes=[failed])

        assert [each.task_id for each in await store.signals("thread", run.run_id, 0)] == ["x:1"]
        again = await ask(store, claim())
        assert [each.task_id for each in again.signals] == ["x:1"]
        await write(store, checkpoints=[taking(again.row.key, "x:1")])

    async def test_a_claim_is_given_the_signals_that_wait(self, store: Store) -> None:
        """Those that nobody has taken, in order; and the sequence of the latest, taken or not."""
        run = await begin(store)
        *_, last = [await post(store, number=number) for number in range(4)]
        await write(store, checkpoints=[taking(run.key, "x:3", "a"), taking(run.key, "x:0", "b")])
        await write(store, finishes=[pause(run.key, last_signal=last.sequence)])

        claimed = await ask(store, claim())

        assert [each.task_id for each in claimed.signals] == ["x:1", "x:2"]
        assert claimed.last_signal == last.sequence
        assert list(claimed.signals) == list(await store.signals("thread", run.run_id, 0))
        assert [row.kind for row in await store.load(claimed.row, 0, 10)] == ["result", "result"]

    async def test_news_are_the_signals_of_all_threads(self, store: Store) -> None:
        """In the order of their commits, from a sequence on; the latest alone without one."""
        assert await store.news(None) == []
        assert await store.news(0) == []
        for thread_id in ("a", "b"):
            await begin(store, thread_id)
        sent = [await post(store, number=n, thread_id="ab"[n % 2]) for n in range(3)]
        sequences = [each.sequence for each in sent]

        assert sequences == sorted(set(sequences))
        assert [*map(tuple, await store.news(None))] == [(sequences[2], "a")]
        assert [*map(tuple, await store.news(sequences[0]))] == [
            (sequences[1], "b"),
            (sequences[2], "a"),
        ]
        assert await store.news(sequences[2]) == []
        await store.delete("a", OWNER)
        assert [*map(tuple, await store.news(0))] == [(sequences[1], "b")]

    async def test_delete_drops_signals_too(self, store: Store) -> None:
        """A thread that begins anew has none, and takes those that repeat an id."""
        run = await begin(store)
        await post(store)
        await write(store, finishes=[release(run.key)])
        await store.delete("thread", OWNER)
        run = await begin(store)

        assert await store.signals("thread", run.run_id, 0) == []
        assert (await post(store)).is_new
