"""What every store promises: `taskflow.stores.base`, sentence by sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec import structs
from rows import OWNER, ask, begin, checkpoint, claim, recorded, release, success, write

from taskflow import (
    HistoryMismatch,
    Pruned,
    RunCancelled,
    RunNotFound,
    RunStatus,
    RunUnfinished,
    Store,
    StoreError,
    ThreadBusy,
    ThreadExists,
)
from taskflow.records import (
    Batch,
    CacheEntry,
    Checkpoint,
    Outline,
    Prune,
    RunKey,
    RunRow,
    Sent,
    Signal,
    Unrecord,
    checkpoint_checksum,
    run_checksum,
)
from taskflow.stores.base import BLOCK_RUN_ID, prunable

pytestmark = pytest.mark.anyio

OTHER_INPUT = b'{"order":2}'


@pytest.fixture
async def store(make_store: Callable[[], Store], anyio_backend: object) -> AsyncIterator[Store]:
    """A store that is open for the owner of the tests."""
    store = make_store()
    await store.open(OWNER)
    yield store
    await store.close(OWNER)


@pytest.fixture
def neighbour(make_store: Callable[[], Store]) -> Callable[[str], object]:
    """Opens the same records once more, as another runtime does."""

    @asynccontextmanager
    async def open_store(owner: str) -> AsyncIterator[Store]:
        store = make_store()
        await store.open(owner)
        try:
            yield store
        finally:
            await store.close(owner)

    return open_store


def cached(key: str = "key", *, name: str = "charge", expires: float | None = None) -> CacheEntry:
    return CacheEntry(name, key, b'"shared"', expires, 7)


# A batch is atomic, and applied in order.


async def test_what_was_committed_is_given_back_as_it_was(store: Store) -> None:
    """A store is given bytes and gives them back."""
    run = await begin(store)
    row = checkpoint(
        run.key,
        "charge:1",
        parent_id="order:7",
        kind="error",
        payload=b'{"a":"\\u0000"}',
        attempts=3,
    )

    await write(store, checkpoints=[row])

    (found,) = await store.checkpoints("thread", None)
    assert found.checkpoint == row
    assert found.run_id == run.run_id


@pytest.mark.parametrize(
    "thread_id", ["'; DROP TABLE run --", "../../etc", '🧵\n\t"x"', "x" * 512, " ", "%s?:a"]
)
async def test_any_text_is_a_thread_and_a_run_id(store: Store, thread_id: str) -> None:
    """Ids come back exactly, whatever they mean elsewhere."""
    run = await begin(store, thread_id, run_id=thread_id)
    await write(store, checkpoints=[checkpoint(run.key)])

    found = await store.run(thread_id, thread_id)

    assert found is not None
    assert (found.thread_id, found.run_id) == (thread_id, thread_id)
    assert await recorded(store, thread_id) == ["charge:1"]


async def test_an_empty_batch_is_no_error(store: Store) -> None:
    """Nothing to write is nothing to refuse."""
    committed = await write(store)

    assert (committed.refused, committed.claims) == ({}, [])


async def test_a_batch_with_a_row_at_fault_writes_nothing(store: Store) -> None:
    """A row that breaks a constraint raises row_at_fault, and no other row of its batch stays."""
    run, other = await begin(store), await begin(store, "other")
    await write(store, checkpoints=[checkpoint(run.key, "charge:1")])

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
    assert (await store.run("other", None)) == other
    assert await store.run("new", None) is None


async def test_one_task_id_twice_in_one_batch_is_a_row_at_fault(store: Store) -> None:
    """(thread_id, task_id) is unique, within a batch too."""
    run = await begin(store)

    with pytest.raises(StoreError) as caught:
        await write(store, checkpoints=[checkpoint(run.key), checkpoint(run.key)])

    assert caught.value.row_at_fault
    assert await recorded(store) == []


async def test_two_threads_may_record_the_same_task_id(store: Store) -> None:
    """The thread's id is not part of a task id: (thread_id, task_id) is the key."""
    one, two = await begin(store, "one"), await begin(store, "two")

    await write(store, checkpoints=[checkpoint(one.key), checkpoint(two.key)])

    assert await recorded(store, "one") == await recorded(store, "two") == ["charge:1"]


async def test_a_batch_is_applied_in_its_order(store: Store) -> None:
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
    assert not isinstance(answer, Exception)
    assert (answer.is_new, answer.previous, answer.row.sequence) == (True, b'"done"', 2)


async def test_a_batch_of_many_rows_is_one_commit(store: Store) -> None:
    """No limit of a statement shows: rows come back in the order in which they were given."""
    run = await begin(store)
    ids = [f"charge:{number}" for number in range(2500)]

    await write(store, checkpoints=[checkpoint(run.key, task_id) for task_id in ids])

    assert await recorded(store) == ids


# The fence.


async def test_a_write_of_an_older_epoch_is_refused(store: Store) -> None:
    """Where the run's epoch has moved on, Committed.refused names the run and its status."""
    before = await begin(store)
    after = await begin(store)
    assert after.epoch > before.epoch

    committed = await write(store, checkpoints=[checkpoint(before.key)])

    assert committed.refused == {(before.number, before.epoch): RunStatus.RUNNING}
    assert await recorded(store) == []


async def test_a_refusal_hurts_no_other_write_of_the_batch(store: Store) -> None:
    """That write, and only that, is refused; rows of other runs, and of the new epoch, are kept."""
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
    run, ended = await store.run("thread", None), await store.run("other", None)
    assert run is not None
    assert ended is not None
    assert (run.status, ended.status) == (RunStatus.RUNNING, RunStatus.SUCCESS)


@pytest.mark.parametrize("kind", ["memory-asyncio", "sqlite-asyncio"], indirect=True)
async def test_an_older_epoch_unrecords_and_finishes_nothing(store: Store) -> None:
    """Unrecords and finishes carry the fence too."""
    stale = await begin(store)
    current = await begin(store)
    await write(store, checkpoints=[checkpoint(current.key)])

    committed = await write(
        store,
        unrecords=[Unrecord(stale.key, ("charge:1",))],
        finishes=[release(stale.key, RunStatus.ERROR, unrecord=("charge:1",), error=b"{}")],
    )

    assert set(committed.refused) == {(stale.number, stale.epoch)}
    assert await recorded(store) == ["charge:1"]
    assert await store.run("thread", None) == current


async def test_a_write_to_a_run_that_is_gone_is_refused(store: Store) -> None:
    """A deleted run counts as cancelled."""
    run = await begin(store)
    await store.delete("thread", OWNER)

    committed = await write(store, checkpoints=[checkpoint(run.key)])

    assert committed.refused == {(run.number, run.epoch): RunStatus.CANCELLED}
    assert await store.checkpoints("thread", None) == []


async def test_a_new_run_never_gets_the_number_of_a_deleted_one(store: Store) -> None:
    """So that no late write of the deleted run can reach it."""
    run = await begin(store)
    await store.delete("thread", OWNER)

    again = await begin(store)

    assert again.number > run.number


# Who may have what: every row of the table of runs.


async def test_a_claim_of_an_unknown_thread_begins_a_run(store: Store) -> None:
    """none → new run: sequence 1, epoch 1, owned, nothing before it."""
    claimed = await ask(store, claim(new_run_id="first"))

    row = claimed.row
    assert (claimed.is_new, claimed.is_answer, claimed.previous) == (True, False, None)
    assert (row.run_id, row.sequence, row.epoch, row.owner) == ("first", 1, 1, OWNER)
    assert await store.run("thread", None) == row


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.ERROR])
async def test_an_unfinished_run_of_the_same_input_is_continued(
    store: Store, status: RunStatus
) -> None:
    """unfinished, same input → continues it, under a new epoch."""
    first = await begin(store)
    await write(store, finishes=[release(first.key, status, error=b"{}")])

    claimed = await ask(store, claim(new_run_id="not needed", now=9.0))

    row = claimed.row
    assert (claimed.is_new, claimed.is_answer) == (False, False)
    assert (row.run_id, row.number, row.epoch) == (first.run_id, first.number, first.epoch + 1)
    assert (row.status, row.error, row.finished) == (RunStatus.RUNNING, None, None)
    assert (row.created, row.started) == (1.0, 9.0)


async def test_an_unfinished_run_of_another_input_is_in_the_way(store: Store) -> None:
    """unfinished, other input → RunUnfinished, which names the run; nothing changes."""
    first = await begin(store)
    await write(store, finishes=[release(first.key)])
    before = await store.run("thread", None)

    with pytest.raises(RunUnfinished) as caught:
        await ask(store, claim(input=OTHER_INPUT))

    assert (caught.value.thread_id, caught.value.run_id) == ("thread", first.run_id)
    assert await store.run("thread", None) == before


async def test_an_unfinished_run_can_be_superseded(store: Store) -> None:
    """unfinished, other input, supersede=True → that one is cancelled and a new run starts."""
    first = await begin(store)
    await write(store, finishes=[release(first.key)])

    claimed = await ask(store, claim(input=OTHER_INPUT, supersede=True, new_run_id="second"))

    old = await store.run("thread", first.run_id)
    assert old is not None
    assert (old.status, old.epoch) == (RunStatus.CANCELLED, first.epoch + 1)
    assert (claimed.row.run_id, claimed.row.sequence) == ("second", 2)


async def test_supersede_of_the_same_input_continues(store: Store) -> None:
    """supersede is for another input; the same one is continued all the same."""
    first = await begin(store)
    await write(store, finishes=[release(first.key)])

    assert (await ask(store, claim(supersede=True))).row.run_id == first.run_id


async def test_a_run_that_has_succeeded_answers_the_same_input(store: Store) -> None:
    """finished with success, same input → the recorded result; nothing is claimed."""
    first = await begin(store)
    await write(store, finishes=[success(first.key, b'"result"')])
    before = await store.run("thread", None)

    claimed = await ask(store, claim())

    assert claimed.is_answer
    assert claimed.row.result == b'"result"'
    assert await store.run("thread", None) == before == claimed.row


async def test_a_run_that_has_succeeded_makes_room_for_another_input(store: Store) -> None:
    """finished with success, other input → new run."""
    first = await begin(store)
    await write(store, finishes=[success(first.key)])

    claimed = await ask(store, claim(input=OTHER_INPUT, new_run_id="second"))

    assert (claimed.is_new, claimed.row.sequence) == (True, 2)


@pytest.mark.parametrize("input", [b'{"order":1}', OTHER_INPUT])
async def test_a_cancelled_run_makes_room_for_any_input(store: Store, input: bytes) -> None:
    """cancelled → new run, also for the same input."""
    await begin(store)
    await store.cancel("thread", 5.0)

    claimed = await ask(store, claim(input=input, new_run_id="second"))

    assert (claimed.is_new, claimed.row.run_id, claimed.row.sequence) == (True, "second", 2)


@pytest.mark.parametrize(("input", "same_run"), [(b'{"order":1}', True), (OTHER_INPUT, False)])
async def test_a_run_that_executes_elsewhere_is_busy(
    store: Store, neighbour: Callable, input: bytes, same_run: bool
) -> None:
    """executing now, elsewhere → ThreadBusy, which says whether it is an equal run."""
    run = await begin(store)

    async with neighbour("neighbour") as other:
        with pytest.raises(ThreadBusy) as caught:
            await ask(other, claim(owner="neighbour", input=input, supersede=True))

    assert caught.value.same_run is same_run
    assert await store.run("thread", None) == run


async def test_the_run_of_a_closed_owner_can_be_taken_over(
    make_store: Callable[[], Store], anyio_backend: object
) -> None:
    """An owner is gone when it was closed: the next one continues, under a new epoch."""
    first = make_store()
    await first.open("first")
    run = await begin(first, owner="first")
    await first.close("first")
    second = make_store()
    await second.open("second")

    taken = await begin(second, owner="second")

    assert (taken.owner, taken.epoch) == ("second", run.epoch + 1)
    await second.close("second")


async def test_an_unknown_run_id_begins_that_run(store: Store) -> None:
    """new if unknown: also with the same input as the run before, which has succeeded."""
    first = await begin(store, run_id="message-1")
    await write(store, finishes=[success(first.key)])

    claimed = await ask(store, claim(run_id="message-2"))

    assert (claimed.is_new, claimed.row.run_id, claimed.row.sequence) == (True, "message-2", 2)


async def test_an_unknown_run_id_waits_for_an_open_run(store: Store) -> None:
    """RunUnfinished if another one is open, even of the same input."""
    first = await begin(store, run_id="message-1")
    await write(store, finishes=[release(first.key)])

    with pytest.raises(RunUnfinished):
        await ask(store, claim(run_id="message-2"))


async def test_a_known_run_id_is_continued(store: Store) -> None:
    """continued if known."""
    first = await begin(store, run_id="message-1")
    await write(store, finishes=[release(first.key, RunStatus.ERROR, error=b"{}")])

    claimed = await ask(store, claim(run_id="message-1"))

    assert (claimed.is_new, claimed.row.epoch) == (False, 2)


async def test_a_known_run_id_is_answered_however_old_it_is(store: Store) -> None:
    """answered if known: a repeated request never runs twice, though other runs came after it."""
    for number, result in enumerate((b'"one"', b'"two"')):
        run = await begin(store, run_id=f"message-{number}")
        await write(store, finishes=[success(run.key, result)])

    claimed = await ask(store, claim(run_id="message-0"))

    assert (claimed.is_answer, claimed.row.result) == (True, b'"one"')


@pytest.mark.parametrize("end", [success, release])
async def test_a_known_run_id_with_another_input_is_a_mismatch(
    store: Store, end: Callable[[RunKey], object]
) -> None:
    """HistoryMismatch if known with another input, which shows both."""
    run = await begin(store, run_id="message-1")
    await write(store, finishes=[end(run.key)])

    with pytest.raises(HistoryMismatch, match=r'"order":1.*"order":2'):
        await ask(store, claim(run_id="message-1", input=OTHER_INPUT))


async def test_a_known_run_id_that_was_cancelled_stays_cancelled(store: Store) -> None:
    """RunCancelled if it was cancelled."""
    await begin(store, run_id="message-1")
    await store.cancel("thread", 5.0)

    with pytest.raises(RunCancelled) as caught:
        await ask(store, claim(run_id="message-1"))

    assert caught.value.run_id == "message-1"


async def test_a_block_continues_its_run(store: Store) -> None:
    """A run with the id "" never finishes, and re-entry continues it."""
    block = {"run_id": BLOCK_RUN_ID, "workflow": "", "input": b"{}"}
    first = await begin(store, **block)
    await write(store, finishes=[release(first.key)])

    claimed = await ask(store, claim(**block))

    assert (claimed.is_new, claimed.row.number, claimed.row.run_id) == (False, first.number, "")


async def test_one_thread_is_used_by_blocks_or_by_workflows(store: Store) -> None:
    """Not both, in whatever order."""
    block = {"run_id": BLOCK_RUN_ID, "workflow": "", "input": b"{}"}
    for thread_id, changes in (("block", block), ("workflow", {})):
        run = await begin(store, thread_id, **changes)
        await write(store, finishes=[release(run.key)])

    with pytest.raises(RunUnfinished, match="blocks"):
        await ask(store, claim("block", supersede=True))
    with pytest.raises(HistoryMismatch, match="workflows"):
        await ask(store, claim("workflow", **block))


async def test_a_claim_that_is_turned_down_hurts_no_other_part_of_the_batch(store: Store) -> None:
    """It is answered by the exception, in its place among the answers."""
    run, other = await begin(store), await begin(store, "other")
    await write(store, finishes=[release(run.key)])

    committed = await write(
        store,
        checkpoints=[checkpoint(other.key)],
        claims=[claim("new"), claim(input=OTHER_INPUT), claim("newer")],
    )

    kinds = [getattr(answer, "row", answer).thread_id for answer in committed.claims]
    assert kinds == ["new", "thread", "newer"]
    assert isinstance(committed.claims[1], RunUnfinished)
    assert await recorded(store, "other") == ["charge:1"]


async def test_of_two_claims_in_one_batch_one_has_the_thread(
    store: Store, neighbour: Callable
) -> None:
    """At most one run of a thread is unfinished, however close the claims are."""
    async with neighbour("neighbour"):
        committed = await write(store, claims=[claim(), claim(owner="neighbour")])

    assert not isinstance(committed.claims[0], Exception)
    assert isinstance(committed.claims[1], ThreadBusy)
    assert len(await store.runs(None, None, None, 10)) == 1


# What the latest successful run has saved.


async def test_previous_is_the_result_of_the_latest_successful_run(store: Store) -> None:
    """Failed and cancelled runs in between are passed over."""
    run = await begin(store)
    await write(store, finishes=[success(run.key, b'"result"')])
    await begin(store, input=OTHER_INPUT, new_run_id="second")
    await store.cancel("thread", 5.0)

    claimed = await ask(store, claim(new_run_id="third"))

    assert claimed.previous == b'"result"'


async def test_previous_is_what_was_saved_in_place_of_the_result(store: Store) -> None:
    """Also where that is null."""
    run = await begin(store)
    await write(store, finishes=[success(run.key, b'"result"', saved=b"null")])

    claimed = await ask(store, claim(input=OTHER_INPUT, new_run_id="second"))

    assert claimed.previous == b"null"


async def test_a_continued_run_has_the_same_previous(store: Store) -> None:
    """It is what was saved when this run was created, at every take-over."""
    first = await begin(store)
    await write(store, finishes=[success(first.key, b'"first"')])
    second = await begin(store, input=OTHER_INPUT, new_run_id="second")
    await write(store, finishes=[release(second.key, RunStatus.ERROR, error=b"{}")])

    claimed = await ask(store, claim(input=OTHER_INPUT))

    assert (claimed.row.run_id, claimed.previous) == ("second", b'"first"')


# The end of a run.


async def test_a_finish_records_the_outcome_and_lets_go(store: Store) -> None:
    """Status, result, saved value and time; nobody owns the run any more."""
    run = await begin(store)

    await write(store, finishes=[success(run.key, b'"result"', saved=b'"saved"')])

    ended = await store.run("thread", None)
    assert ended is not None
    assert (ended.status, ended.result, ended.saved) == ("success", b'"result"', b'"saved"')
    assert (ended.owner, ended.finished, ended.epoch) == (None, 3.0, run.epoch)


async def test_a_released_run_is_running_without_an_owner(store: Store) -> None:
    """Anybody may continue it: it has not ended."""
    run = await begin(store)

    await write(store, finishes=[release(run.key)])

    row = await store.run("thread", None)
    assert row is not None
    assert (row.status, row.owner, row.finished) == (RunStatus.RUNNING, None, None)


async def test_a_failed_run_keeps_what_did_not_end_it(store: Store) -> None:
    """The failures that ended it are un-recorded in the transaction that marks it failed."""
    run = await begin(store)
    await write(store, checkpoints=[checkpoint(run.key, f"charge:{n}") for n in range(3)])

    end = release(run.key, RunStatus.ERROR, error=b"{}", unrecord=("charge:1", "never recorded"))
    await write(store, finishes=[end])

    assert await recorded(store) == ["charge:0", "charge:2"]


async def test_unrecord_reaches_only_its_own_thread(store: Store) -> None:
    """The same task id on another thread stays."""
    one, two = await begin(store, "one"), await begin(store, "two")
    await write(store, checkpoints=[checkpoint(one.key), checkpoint(two.key)])

    await write(store, unrecords=[Unrecord(one.key, ("charge:1",))])

    assert (await recorded(store, "one"), await recorded(store, "two")) == ([], ["charge:1"])


# Cancel, forget, delete.


async def test_cancel_ends_a_run_whoever_executes_it(store: Store, neighbour: Callable) -> None:
    """Its row as it was is returned; its epoch has moved on, so its owner's writes are refused."""
    run = await begin(store)

    async with neighbour("neighbour") as other:
        assert await other.cancel("thread", 5.0) == run

    row = await store.run("thread", None)
    assert row is not None
    assert (row.status, row.owner, row.finished) == (RunStatus.CANCELLED, None, 5.0)
    committed = await write(store, finishes=[success(run.key)])
    assert committed.refused == {(run.number, run.epoch): RunStatus.CANCELLED}


async def test_cancel_leaves_a_final_run_alone(store: Store) -> None:
    """A run that has succeeded is not cancelled, and a thread without runs has none to cancel."""
    run = await begin(store)
    await write(store, finishes=[success(run.key)])
    ended = await store.run("thread", None)

    assert await store.cancel("thread", 5.0) == ended
    assert await store.run("thread", None) == ended
    assert await store.cancel("unknown", 5.0) is None


async def family(store: Store) -> RunKey:
    """Three generations of calls, and a stranger, in a run that has succeeded."""
    run = await begin(store)
    parents = {"child": "parent", "parent": "grandparent", "grandparent": None, "stranger": None}
    rows = [checkpoint(run.key, name, parent_id=parent) for name, parent in parents.items()]
    await write(store, checkpoints=rows, finishes=[success(run.key, b'"result"', saved=b'"saved"')])
    return run.key


async def test_forget_drops_a_call_and_those_it_was_made_by(store: Store) -> None:
    """Its ancestors rest on it; its children and others do not."""
    await family(store)

    assert await store.forget("thread", "parent", OWNER)

    assert await recorded(store) == ["child", "stranger"]


async def test_forget_reopens_the_latest_run(store: Store) -> None:
    """Its result is un-recorded with the call, and running it again continues that run."""
    key = await family(store)

    await store.forget("thread", "child", OWNER)

    run = await store.run("thread", None)
    assert run is not None
    assert (run.status, run.result, run.saved, run.finished) == ("running", None, None, None)
    assert (await ask(store, claim())).row.run_id == key.run_id


async def test_forget_reopens_no_older_run(store: Store) -> None:
    """A run that others came after keeps its result."""
    key = await family(store)
    second = await begin(store, input=OTHER_INPUT, new_run_id="second")
    await write(store, finishes=[success(second.key)])

    await store.forget("thread", "stranger", OWNER)

    older = await store.run("thread", key.run_id)
    assert older is not None
    assert (older.status, older.result) == ("success", b'"result"')
    assert "stranger" not in await recorded(store)


async def test_forget_knows_what_is_not_recorded(store: Store) -> None:
    """False where there is none, and nothing is reopened."""
    await family(store)

    assert not await store.forget("thread", "unknown", OWNER)
    assert not await store.forget("unknown", "child", OWNER)

    run = await store.run("thread", None)
    assert run is not None
    assert run.status == "success"


async def test_forget_and_delete_keep_off_a_run_that_executes_elsewhere(
    store: Store, neighbour: Callable
) -> None:
    """ThreadBusy, and nothing is dropped."""
    run = await begin(store)
    await write(store, checkpoints=[checkpoint(run.key)])

    async with neighbour("neighbour") as other:
        with pytest.raises(ThreadBusy):
            await other.forget("thread", "charge:1", "neighbour")
        with pytest.raises(ThreadBusy):
            await other.delete("thread", "neighbour")

    assert await recorded(store) == ["charge:1"]


async def test_delete_drops_a_thread_with_everything_on_it(store: Store) -> None:
    """Its runs and its calls, and nothing of another thread."""
    for thread_id in ("thread", "thread 2"):
        run = await begin(store, thread_id)
        await write(store, checkpoints=[checkpoint(run.key)], finishes=[success(run.key)])

    assert await store.delete("thread", OWNER)

    assert await store.run("thread", None) is None
    assert await recorded(store) == []
    assert await recorded(store, "thread 2") == ["charge:1"]
    assert not await store.delete("thread", OWNER)


async def test_a_deleted_thread_begins_anew(store: Store) -> None:
    """With sequence 1, and nothing before it."""
    await family(store)
    await store.delete("thread", OWNER)

    claimed = await ask(store, claim())

    assert (claimed.is_new, claimed.row.sequence, claimed.previous) == (True, 1, None)


# Reading.


async def test_load_gives_a_run_in_pages(store: Store) -> None:
    """At most ``limit`` checkpoints above ``after``, in commit order, of that run alone."""
    other = await begin(store, "other")
    run = await begin(store)
    for number in range(5):
        await write(
            store,
            checkpoints=[
                checkpoint(run.key, f"charge:{number}"),
                checkpoint(other.key, f"charge:{number}"),
            ],
        )

    pages: list[list[str]] = []
    after = 0
    while rows := await store.load(run, after, 2):
        pages.append([row.task_id for row in rows])
        after = rows[-1].sequence

    assert pages == [["charge:0", "charge:1"], ["charge:2", "charge:3"], ["charge:4"]]


async def test_load_leaves_out_other_runs_of_the_thread(store: Store) -> None:
    """What an earlier run recorded belongs to it."""
    first = await begin(store)
    await write(store, checkpoints=[checkpoint(first.key, "old")], finishes=[success(first.key)])
    second = await begin(store, input=OTHER_INPUT, new_run_id="second")
    await write(store, checkpoints=[checkpoint(second.key, "new")])

    assert [row.task_id for row in await store.load(second, 0, 10)] == ["new"]
    assert await recorded(store) == ["old", "new"]
    (only,) = await store.checkpoints("thread", "second")
    assert only.checkpoint.task_id == "new"


async def test_a_run_is_found_by_thread_and_by_id(store: Store) -> None:
    """The latest where no id is given; None where there is none."""
    first = await begin(store, new_run_id="first")
    await write(store, finishes=[success(first.key)])
    await begin(store, input=OTHER_INPUT, new_run_id="second")

    rows = [await store.run("thread", run_id) for run_id in (None, "first", "second")]

    assert [row and row.run_id for row in rows] == ["second", "first", "second"]
    assert await store.run("thread", "unknown") is None
    assert await store.run("unknown", None) is None


async def test_runs_are_listed_newest_first_in_pages(store: Store) -> None:
    """``before`` continues a page; runs that begin meanwhile do not shift it."""
    for number in range(5):
        await begin(store, f"thread {number}")

    first = await store.runs(None, None, None, 2)
    await begin(store, "late")
    second = await store.runs(None, None, first[-1].number, 2)

    assert [run.thread_id for run in first] == ["thread 4", "thread 3"]
    assert [run.thread_id for run in second] == ["thread 2", "thread 1"]


async def test_runs_are_filtered_by_status_and_by_workflow(store: Store) -> None:
    """Both filters, and either alone."""
    for thread_id, workflow in (("a", "fulfil"), ("b", "refund"), ("c", "fulfil")):
        run = await begin(store, thread_id, workflow=workflow)
        if thread_id != "c":
            await write(store, finishes=[success(run.key)])

    async def threads(status: str | None, workflow: str | None) -> list[str]:
        return [run.thread_id for run in await store.runs(status, workflow, None, 10)]

    assert await threads("success", None) == ["b", "a"]
    assert await threads(None, "fulfil") == ["c", "a"]
    assert await threads("success", "fulfil") == ["a"]
    assert await threads("paused", None) == []


# Shared results.


async def test_a_shared_result_is_found_by_task_and_key(store: Store) -> None:
    """And by nothing else."""
    await write(store, cached=[cached("a"), cached("b"), cached("a", name="refund")])

    found = await store.cached("charge", ["a", "c"], 0.0)

    assert list(found) == [cached("a")]


async def test_a_shared_result_expires(store: Store) -> None:
    """At its time it is gone; without one it stays."""
    await write(store, cached=[cached("short", expires=10.0), cached("long")])

    async def found(now: float) -> list[str]:
        return sorted(entry.key for entry in await store.cached("charge", ["short", "long"], now))

    assert await found(9.0) == ["long", "short"]
    assert await found(10.0) == ["long"]


async def test_a_shared_result_is_replaced_by_a_newer_one(store: Store) -> None:
    """One for each key: the last that was computed."""
    await write(store, cached=[cached("a", expires=1.0)])
    await write(store, cached=[cached("a", expires=99.0)])

    assert list(await store.cached("charge", ["a"], 50.0)) == [cached("a", expires=99.0)]


async def test_clear_cache_drops_the_results_of_one_task(store: Store) -> None:
    """And says how many there were."""
    await write(store, cached=[cached("a"), cached("b"), cached("a", name="refund")])

    assert await store.clear_cache("charge") == 2
    assert await store.cached("charge", ["a", "b"], 0.0) == []
    assert len(await store.cached("refund", ["a"], 0.0)) == 1
    assert await store.clear_cache("charge") == 0


# Cancellation, and more than one runtime.


async def test_a_cancelled_commit_is_whole_or_was_never_begun(store: Store) -> None:
    """Cancelling may cancel the wait, never half of a write; the store goes on."""
    run = await begin(store)
    ids = [f"charge:{number}" for number in range(500)]

    with anyio.move_on_after(0):
        await write(store, checkpoints=[checkpoint(run.key, task_id) for task_id in ids])

    assert await recorded(store) in ([], ids)
    await write(store, checkpoints=[checkpoint(run.key, "after")])
    assert (await recorded(store))[-1] == "after"


@pytest.mark.parametrize("first_to_close", ["one", "two"])
async def test_the_owners_of_a_store_are_gone_one_by_one(
    make_store: Callable[[], Store], anyio_backend: object, first_to_close: str
) -> None:
    """Closing one runtime gives up its own runs, and no one else's."""
    stores = {owner: make_store() for owner in ("one", "two", "watcher")}
    for owner, store in stores.items():
        await store.open(owner)
        if owner != "watcher":
            await begin(store, owner, owner=owner)
    watcher = stores.pop("watcher")

    await stores.pop(first_to_close).close(first_to_close)

    assert (await begin(watcher, first_to_close, owner="watcher")).epoch == 2
    (left,) = stores
    with pytest.raises(ThreadBusy):
        await begin(watcher, left, owner="watcher")
    await stores[left].close(left)
    await watcher.close("watcher")


# History: what is recorded is replaced, copied and deleted.


def sealed(row: RunRow, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's checksum is the one of its thread and run."""
    seed = run_checksum(row.thread_id, row.run_id)
    expected = checkpoint_checksum(seed, checkpoint.task_id, checkpoint.kind, checkpoint.payload)
    return checkpoint.checksum == expected


async def nested(store: Store, thread_id: str = "thread") -> RunRow:
    """A run that has succeeded: ``inner`` was called by ``outer``; ``alone`` took a signal."""
    run = await begin(store, thread_id)
    rows = [
        checkpoint(run.key, "inner:1", parent_id="outer:1"),
        checkpoint(run.key, "inner:1@", parent_id="outer:1", kind="wait", payload=b"1"),
        checkpoint(run.key, "outer:1", kind="error", payload=b'"why"'),
        checkpoint(run.key, "alone:1", signal="approve:1"),
    ]
    signal = Signal(thread_id, "approve:1", "approve", b"true", 1.0)
    await store.commit(Batch([], [], [], [], [], [signal]))
    await write(store, checkpoints=rows, finishes=[success(run.key)])
    return run


async def test_replace_makes_a_result_and_drops_who_called(store: Store) -> None:
    """Of an error too; its run is open again, and the row fits its checksum."""
    await nested(store)

    assert await store.replace("thread", "outer:1", b'"other"')
    assert await store.replace("thread", "inner:1", b"2")

    row = await store.checkpoint("thread", "inner:1")
    run = await store.run("thread", None)
    assert row is not None
    assert run is not None
    assert (row.checkpoint.kind, row.checkpoint.payload) == ("result", b"2")
    assert sealed(run, row.checkpoint)
    assert (run.status, run.result) == (RunStatus.RUNNING, None)
    assert await recorded(store) == ["approve:1", "inner:1", "inner:1@", "alone:1"]


async def test_replace_knows_what_is_no_call(store: Store) -> None:
    """Deadlines, signals, and what is not recorded."""
    await nested(store)

    for task_id in ("inner:1@", "approve:1", "charge:9"):
        assert not await store.replace("thread", task_id, b"2")
    assert (await begin(store)).status == RunStatus.SUCCESS


async def test_replace_keeps_off_a_run_that_executes_here_or_elsewhere(
    store: Store, neighbour: Callable
) -> None:
    """Whoever executes it may have used the result already."""
    run = await begin(store)
    await write(store, checkpoints=[checkpoint(run.key)])

    with pytest.raises(ThreadBusy):
        await store.replace("thread", "charge:1", b"2")
    async with neighbour("other") as other:
        with pytest.raises(ThreadBusy):
            await other.replace("thread", "charge:1", b"2")


async def test_a_fork_has_all_rows_of_a_run_with_their_own_checksums(store: Store) -> None:
    """In their order, under their ids; a run that had succeeded is copied as it is."""
    run = await nested(store)

    made = await store.fork("thread", None, "copy", [])

    rows = await store.checkpoints("copy", None)
    assert [row.checkpoint.task_id for row in rows] == await recorded(store)
    assert all(sealed(made, row.checkpoint) for row in rows)
    assert await store.run("copy", None) == made.verified()
    assert (made.run_id, made.status, made.result) == (run.run_id, RunStatus.SUCCESS, b'"done"')
    assert made.number != run.number


async def test_a_fork_without_a_call_is_unfinished_and_nobodys(store: Store) -> None:
    """The calls that it was made by, its deadline and its hold on a signal are gone with it."""
    await nested(store)

    made = await store.fork("thread", "run", "copy", ["inner:1", "alone:1"])

    assert (made.status, made.owner, made.result) == (RunStatus.RUNNING, None, None)
    assert await recorded(store, "copy") == ["approve:1"]
    assert [each.task_id for each in await store.signals("copy", "run", 0)] == ["approve:1"]
    assert await store.signals("thread", "run", 0) == []
    assert (await begin(store, "copy")).epoch == 2


async def test_a_fork_of_a_paused_run_is_not_due(store: Store) -> None:
    """It begins when it is run, not by itself."""
    run = await begin(store)
    await write(store, finishes=[release(run.key, RunStatus.PAUSED, waits=b"[]", due=1.0)])

    made = await store.fork("thread", None, "copy", [])

    assert (made.status, made.waits, made.due) == (RunStatus.RUNNING, None, None)
    assert [row.thread_id for row in await store.recoverable(9.0, ["fulfil"], 9)] == ["thread"]


async def test_a_fork_or_an_import_never_adds_to_a_thread(store: Store) -> None:
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


async def test_a_snapshot_is_one_moment(store: Store) -> None:
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


async def pruned(store: Store, keep_last: int = 0, status: str = "success") -> Pruned:
    """What is pruned of everything that has ended."""
    total = Pruned()
    async for each in store.prune(Prune((status,), 100.0, keep_last, 100.0)):
        total += each
    return total


async def test_prune_deletes_runs_with_their_rows(store: Store) -> None:
    """Of every thread, whatever the number of rows; others are left alone."""
    for thread_id in ("one", "two"):
        run = await begin(store, thread_id)
        rows = [checkpoint(run.key, f"charge:{number}") for number in range(700)]
        await write(store, checkpoints=rows, finishes=[success(run.key)])
    await write(store, checkpoints=[checkpoint((await begin(store)).key)])

    assert await pruned(store) == Pruned(2, 1400)

    assert [row.thread_id for row in await store.runs(None, None, None, 9)] == ["thread"]
    assert await recorded(store, "one") == []
    assert await recorded(store) == ["charge:1"]


async def test_prune_deletes_signals_and_what_took_them(store: Store) -> None:
    """A new run of the thread begins without them, and may be sent the same."""
    await nested(store)
    assert await pruned(store) == Pruned(1, 5)

    await begin(store)
    signal = Signal("thread", "approve:1", "approve", b"true", 1.0)
    (sent,) = (await store.commit(Batch([], [], [], [], [], [signal]))).signals

    assert isinstance(sent, Sent)
    assert sent.is_new


async def test_prune_deletes_shared_results_that_have_expired(store: Store) -> None:
    """Those that nobody would be given any more."""
    entries = [cached(str(number), expires=float(number * 100)) for number in range(3)]
    await write(store, cached=[*entries, cached("always")])

    assert await pruned(store) == Pruned(cached=2)

    left = await store.cached("charge", ["0", "1", "2", "always"], 0.0)
    assert sorted(each.key for each in left) == ["2", "always"]


async def test_prune_leaves_a_thread_that_was_gone_on_with(store: Store) -> None:
    """A run that begins between two steps is given what the run before it had saved."""
    for thread_id in ("one", "two"):
        run = await begin(store, thread_id)
        rows = [checkpoint(run.key, f"charge:{number}") for number in range(700)]
        await write(store, checkpoints=rows, finishes=[success(run.key)])

    later: RunRow | None = None
    async for _ in store.prune(Prune(("success",), 100.0, 0, 100.0)):
        if later is None:
            later = await begin(store, "two", input=OTHER_INPUT, new_run_id="later")

    assert later is not None
    await write(store, finishes=[release(later.key)])
    again = await ask(store, claim("two", input=OTHER_INPUT))
    assert (again.row.run_id, again.previous) == ("later", b'"done"')


# Which runs may be pruned.


def outline(number: int, status: str = "success", **changes: Any) -> Outline:
    """The outline of a run that has ended at the time of its number."""
    fields: dict[str, Any] = {"owner": None, "has_saved": False, "has_rows": True}
    finished = None if status == "running" else float(number)
    return Outline(number, f"run {number}", 1, status, finished, **{**fields, **changes})


@pytest.mark.parametrize(
    ("runs", "keep_last", "deleted"),
    [
        ([outline(1), outline(2)], 0, {1: False, 2: False}),  # nothing stays
        ([outline(1), outline(2)], 1, {1: True}),  # 2 was given what 1 had saved
        ([outline(1), outline(2), outline(3)], 1, {1: False, 2: True}),
        ([outline(1), outline(2, "running")], 0, {1: True}),
        ([outline(1), outline(2, "cancelled"), outline(3, "error")], 0, {1: True, 2: False}),
        ([outline(1), outline(9)], 0, {1: True}),  # 9 is younger
        ([outline(1), outline(2, has_saved=True)], 0, {1: False, 2: True}),
        ([outline(1, has_saved=True), outline(2)], 0, {1: False, 2: False}),
        ([outline(1), outline(2), outline(3, owner="x")], 0, {1: False, 2: True}),
    ],
)
def test_what_previous_needs_is_not_deleted(
    runs: list[Outline], keep_last: int, deleted: dict[int, bool]
) -> None:
    """True: its row stays, without its calls."""
    found = prunable(runs, Prune(("success", "cancelled"), 5.0, keep_last, 0.0))

    assert {run.number: keeps_row for run, keeps_row in found} == deleted


# Signals.


async def post(store: Store, name: str = "x", thread_id: str = "thread", **changes: Any) -> Sent:
    """A signal that is sent now. Raises what it is turned down with."""
    fields = {"task_id": f"{name}:{changes.pop('number', 1)}", "payload": b"1", "now": 5.0}
    signal = Signal(thread_id, name=name, **{**fields, **changes})
    (answer,) = (await store.commit(Batch([], [], [], [], [], [signal]))).signals
    if isinstance(answer, Exception):
        raise answer
    return answer


def taking(key: RunKey, signal: str, task_id: str = "receive:1") -> Checkpoint:
    """The row of a call that has taken a signal."""
    return checkpoint(key, task_id, name="receive", signal=signal)


def pause(key: RunKey, due: float | None = None, last_signal: int = 0) -> Any:
    """The pause of a run that waits for something."""
    return release(key, RunStatus.PAUSED, waits=b"[]", due=due, last_signal=last_signal)


async def due(store: Store, now: float = 1e9) -> list[str]:
    """The threads whose runs are to be continued, in the order of their urgency."""
    return [row.thread_id for row in await store.recoverable(now, ["fulfil"], 100)]


async def test_a_signal_goes_to_the_unfinished_run(store: Store) -> None:
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
    assert one.checksum == checkpoint_checksum(seed, "x:1", "signal", one.payload)
    assert two.name == "y"
    assert list(await store.signals("thread", run.run_id, first.sequence)) == [two]
    assert await store.signals("thread", "other run", 0) == []


async def test_a_signal_without_an_unfinished_run_is_not_found(store: Store) -> None:
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
async def test_every_unfinished_run_takes_signals(store: Store, status: str) -> None:
    """Owned, released, paused or failed."""
    run = await begin(store)
    assert (await post(store, number=1)).is_new
    await write(store, finishes=[release(run.key, RunStatus(status))])
    assert (await post(store, number=2)).is_new
    assert len(await store.signals("thread", run.run_id, 0)) == 2


async def test_a_signal_that_is_refused_hurts_no_other_part_of_its_batch(store: Store) -> None:
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


async def test_a_signal_reaches_a_run_that_begins_in_its_batch(store: Store) -> None:
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


async def test_a_signal_that_was_sent_before_is_not_written_again(store: Store) -> None:
    """Once for an id, in one batch, in the next one, when it was taken, when its run has ended."""
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


async def test_a_signal_is_taken_by_one_call(store: Store) -> None:
    """(thread_id, signal) is unique: a second one is a row at fault, in one batch and later."""
    run = await begin(store)
    await post(store)
    with pytest.raises(StoreError) as caught:
        await write(store, checkpoints=[taking(run.key, "x:1", "a"), taking(run.key, "x:1", "b")])
    assert caught.value.row_at_fault
    await write(store, checkpoints=[taking(run.key, "x:1", "a")])
    with pytest.raises(StoreError) as caught:
        await write(store, checkpoints=[taking(run.key, "x:1", "b")])

    assert caught.value.row_at_fault
    assert await recorded(store) == ["x:1", "a"]
    assert await store.signals("thread", run.run_id, 0) == []


@pytest.mark.parametrize("how", ["forget", "unrecord", "finish"])
async def test_a_signal_is_free_when_its_call_is_dropped(store: Store, how: str) -> None:
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


async def test_a_claim_is_given_the_signals_that_wait(store: Store) -> None:
    """Those that nobody has taken, in order; and the sequence of the latest, taken or not."""
    run = await begin(store)
    for number in range(4):
        last = await post(store, number=number)
    await write(store, checkpoints=[taking(run.key, "x:3", "a"), taking(run.key, "x:0", "b")])
    await write(store, finishes=[pause(run.key, last_signal=last.sequence)])

    claimed = await ask(store, claim())

    assert [each.task_id for each in claimed.signals] == ["x:1", "x:2"]
    assert claimed.last_signal == last.sequence
    assert list(claimed.signals) == list(await store.signals("thread", run.run_id, 0))
    assert [row.kind for row in await store.load(claimed.row, 0, 10)] == ["result", "result"]


async def test_news_are_the_signals_of_all_threads(store: Store) -> None:
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


async def test_delete_drops_signals_too(store: Store) -> None:
    """A thread that begins anew has none, and takes those that repeat an id."""
    run = await begin(store)
    await post(store)
    await write(store, finishes=[release(run.key)])
    await store.delete("thread", OWNER)
    run = await begin(store)

    assert await store.signals("thread", run.run_id, 0) == []
    assert (await post(store)).is_new


# Pauses, and what is due.


async def test_a_paused_run_is_nobodys_and_keeps_what_it_waits_for(store: Store) -> None:
    """Its waits and the time at which the first is over; a claim ends both."""
    run = await begin(store)
    finish = release(run.key, RunStatus.PAUSED, waits=b'[{"name":"x"}]', due=77.5)
    await write(store, checkpoints=[checkpoint(run.key)], finishes=[finish])

    row = await store.run("thread", None)
    assert row is not None
    assert (row.status, row.owner, row.waits, row.due) == ("paused", None, b'[{"name":"x"}]', 77.5)
    assert [each.number for each in await store.runs("paused", None, None, 10)] == [run.number]
    claimed = await ask(store, claim())
    assert (claimed.waits, claimed.is_new) == (b'[{"name":"x"}]', False)
    assert claimed.row.epoch > run.epoch
    assert (claimed.row.status, claimed.row.waits, claimed.row.due) == ("running", None, None)
    assert await store.run("thread", None) == claimed.row


async def test_who_has_paused_a_run_writes_nothing_more(store: Store) -> None:
    """Its epoch is the same, but nothing executes: checkpoints and finishes are refused."""
    run = await begin(store)
    await write(store, finishes=[pause(run.key)])

    for late in (
        await write(store, checkpoints=[checkpoint(run.key)]),
        await write(store, finishes=[success(run.key)]),
        await write(store, finishes=[pause(run.key)]),
        await write(store, unrecords=[Unrecord(run.key, ("charge:1",))]),
    ):
        assert late.refused == {(run.number, run.epoch): "paused"}
    row = await store.run("thread", None)
    assert row is not None
    assert row.status == "paused"
    assert await recorded(store) == []


async def test_a_paused_run_is_due_at_its_time(store: Store) -> None:
    """The most urgent first; without a time it never is."""
    for thread_id, at in (("late", 30.0), ("never", None), ("early", 10.0), ("soon", 20.0)):
        run = await begin(store, thread_id)
        await write(store, finishes=[pause(run.key, at)])

    assert await due(store, 9.9) == []
    assert await due(store, 10.0) == ["early"]
    assert await due(store) == ["early", "soon", "late"]
    assert [row.thread_id for row in await store.recoverable(1e9, ["fulfil"], 2)] == [
        "early",
        "soon",
    ]


async def test_a_paused_run_that_gets_a_signal_is_due_at_once(store: Store) -> None:
    """Before those whose time has come."""
    for thread_id in ("timer", "signal", "none"):
        run = await begin(store, thread_id)
        await write(store, finishes=[pause(run.key, 3.0 if thread_id == "timer" else None)])
    await post(store, thread_id="signal")

    assert await due(store, 0.0) == ["signal"]
    assert await due(store) == ["signal", "timer"]


async def test_a_run_that_pauses_without_knowing_its_latest_signal_is_due(store: Store) -> None:
    """Sent before the pause, in its batch, or known: only the last is not due."""
    for thread_id in ("unknown", "same batch", "known", "taken"):
        run = await begin(store, thread_id)
        if thread_id == "same batch":
            signal = Signal(thread_id, "x:1", "x", b"1", 5.0)
            await store.commit(Batch([], [], [], [pause(run.key)], [], [signal]))
            continue
        sent = await post(store, thread_id=thread_id)
        if thread_id == "taken":
            await write(store, checkpoints=[taking(run.key, "x:1")])
        last = 0 if thread_id == "unknown" else sent.sequence
        await write(store, finishes=[pause(run.key, last_signal=last)])

    assert sorted(await due(store)) == ["same batch", "unknown"]


async def test_a_signal_for_a_run_that_executes_or_has_failed_makes_nothing_due(
    store: Store,
) -> None:
    """The one hears of it, the other is continued by whoever runs it again."""
    await begin(store, "executes")
    failed = await begin(store, "failed")
    await write(store, finishes=[release(failed.key, RunStatus.ERROR, error=b"{}")])
    for thread_id in ("executes", "failed"):
        await post(store, thread_id=thread_id)

    assert await due(store) == []


@pytest.mark.parametrize("how", ["claim", "cancel", "delete", "supersede"])
async def test_a_run_that_was_due_is_so_no_more(store: Store, how: str) -> None:
    """When it was claimed, cancelled, superseded or deleted."""
    run = await begin(store)
    await write(store, finishes=[pause(run.key, 1.0)])
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


async def test_only_known_workflows_are_recovered_and_others_are_named(store: Store) -> None:
    """Blocks are nobody's to recover."""
    for workflow in ("fulfil", "refund", "restock"):
        run = await begin(store, workflow, workflow=workflow)
        await write(store, finishes=[pause(run.key, 1.0)])
    block = await begin(store, "block", run_id=BLOCK_RUN_ID, workflow="")
    await write(store, finishes=[release(block.key, due=0.0)])

    rows = await store.recoverable(9.0, ["refund", "unheard"], 10)
    assert [row.thread_id for row in rows] == ["refund"]
    assert list(await store.unknown_workflows(9.0, ["refund"])) == ["fulfil", "restock"]
    assert list(await store.unknown_workflows(0.5, [])) == []
    assert await store.recoverable(9.0, [], 10) == []


async def test_what_a_gone_owner_executed_is_recovered(
    store: Store, neighbour: Callable[[str], Any]
) -> None:
    """From the moment at which it is gone; that of a living one is not."""
    async with neighbour("other") as other:
        await begin(other, "orphan", owner="other")
        released = await begin(other, "released", owner="other")
        await write(other, finishes=[release(released.key)])
        await begin(store, "mine")
        assert await due(store) == []
        assert list(await store.unknown_workflows(1e9, [])) == []

    assert await due(store) == ["orphan"]
    assert list(await store.unknown_workflows(1e9, [])) == ["fulfil"]


# Taking over.


async def test_a_take_over_is_counted_as_long_as_nothing_is_recorded(store: Store) -> None:
    """A row of its own is progress; a signal that somebody has sent is none."""
    run = await begin(store)
    counts: list[int] = []
    for progress in (None, None, "signal", "row", None, "wait", None):
        if progress == "signal":
            await post(store)
        elif progress is not None:
            kind = "result" if progress == "row" else "wait"
            await write(store, checkpoints=[checkpoint(run.key, progress, kind=kind)])
        run = await begin(store, takes_over=True, epoch=run.epoch)
        counts.append(run.takeovers)

    assert counts == [1, 2, 3, 1, 2, 1, 2]


@pytest.mark.parametrize("end", ["release", "pause", "error"])
async def test_whoever_ends_or_asks_for_a_run_begins_the_count_anew(store: Store, end: str) -> None:
    """Take-overs are counted from owners that died."""
    run = await begin(store)
    for _ in range(3):
        run = await begin(store, takes_over=True, epoch=run.epoch)
    assert run.takeovers == 3
    status = {"release": RunStatus.RUNNING, "pause": RunStatus.PAUSED}.get(end, RunStatus.ERROR)
    await write(store, finishes=[release(run.key, status)])
    run = await begin(store, takes_over=True)
    assert run.takeovers == 1
    assert (await begin(store)).takeovers == 0


async def test_two_that_take_over_one_run_are_one(store: Store) -> None:
    """A claim that names the epoch is turned down where somebody was faster."""
    run = await begin(store)
    await begin(store, takes_over=True, epoch=run.epoch)
    with pytest.raises(ThreadBusy):
        await ask(store, claim(run_id=run.run_id, takes_over=True, epoch=run.epoch))

    run = await begin(store)
    first, second = (
        await write(
            store,
            claims=[
                claim(run_id=run.run_id, epoch=run.epoch, takes_over=True),
                claim(run_id=run.run_id, epoch=run.epoch, takes_over=True),
            ],
        )
    ).claims
    assert not isinstance(first, Exception)
    assert isinstance(second, ThreadBusy)


async def test_a_deadline_goes_with_its_call(store: Store) -> None:
    """Whatever drops the call drops its deadline; a deadline is loaded, and is no call."""
    run = await begin(store)
    rows = [
        checkpoint(run.key, f"{name}{suffix}", kind="wait" if suffix else "result")
        for name in ("a:1", "b:1")
        for suffix in ("", "@")
    ]
    await write(store, checkpoints=rows)
    assert [row.kind for row in await store.load(run, 0, 10)].count("wait") == 2
    await write(store, unrecords=[Unrecord(run.key, ("a:1",))])
    assert await recorded(store) == ["b:1", "b:1@"]
    await write(store, finishes=[release(run.key)])
    await store.forget("thread", "b:1", OWNER)

    assert await recorded(store) == []
