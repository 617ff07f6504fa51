"""What every store promises: `taskflow.stores.base`, sentence by sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from rows import OWNER, ask, begin, checkpoint, claim, recorded, release, success, write

from taskflow import (
    HistoryMismatch,
    RunCancelled,
    RunStatus,
    RunUnfinished,
    Store,
    StoreError,
    ThreadBusy,
)
from taskflow.records import CacheEntry, RunKey, Unrecord
from taskflow.stores.base import BLOCK_RUN_ID

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
