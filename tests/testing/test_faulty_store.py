"""`FaultyStore`, and what becomes of runs whose store fails, answers late or does things twice."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, get_args

import anyio
import pytest
from kinds import MakeStore, in_memory

from taskflow import (
    MemoryStore,
    RunNotFound,
    RunPaused,
    Runtime,
    SQLiteStore,
    Store,
    ThreadBusy,
    current,
    receive,
    task,
    workflow,
)
from taskflow.errors import LeaseLost, StoreError
from taskflow.events import RunCompleted
from taskflow.stores.pruning import Prune
from taskflow.testing import FaultyStore, VirtualClock, WrappedStore, chance, every, since
from taskflow.testing.doubles.faulty import Asked, InjectedFault, Operation
from taskflow.testing.rows import OWNER, begin, checkpoint, claim, recorded, release, write

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
NEVER = 3600.0  # seconds between looks: what happens in a test is not helped by one


@pytest.fixture
async def store(make_store: MakeStore, anyio_backend: object) -> AsyncIterator[Any]:
    """A faulty store without faults, open for the owner of the tests."""
    store = FaultyStore(make_store())
    await store.open(OWNER)
    yield store
    await store.inner.close(OWNER)


@pytest.fixture
async def faulty(make_store: MakeStore, anyio_backend: object) -> AsyncIterator[Any]:
    """A faulty store that is not open; what is left open in it is closed in the end."""
    store = FaultyStore(make_store())
    yield store
    await store.inner.close(OWNER)


bodies: list[str] = []  # the calls whose bodies have begun in this test


@pytest.fixture(autouse=True)
def _no_bodies() -> None:
    bodies.clear()


class Refused(Exception):
    """What the task `refuse` always raises."""


@task
async def charge(order: str) -> str:
    bodies.append(current().task_id or "")
    return f"receipt for {order}"


@task
async def pack(parcel: int) -> int:
    bodies.append(current().task_id or "")
    return parcel * 2


@task
async def refuse(order: str) -> str:
    bodies.append(current().task_id or "")
    raise Refused(order)


@task
async def ship(parcels: list[int]) -> int:
    bodies.append(current().task_id or "")
    return sum([await pack(parcel) for parcel in parcels])


@workflow
async def invoice(order: str) -> str:
    return await charge(f"the invoice of {order}")


@workflow
async def fulfil(order: str) -> list[Any]:
    """Some of everything: a map, nested calls, a handled failure, a signal, another workflow."""
    receipt = await charge(order)
    packed = await pack.map([1, 2, 3])
    try:
        refused = await refuse(order)
    except Refused:
        refused = "refused"
    weight = await ship([10, 11])
    approved = await receive("approve", bool)
    return [receipt, packed, refused, weight, approved, await invoice(order)]


FULFILLED = ["receipt for A1", [2, 4, 6], "refused", 42, True, "receipt for the invoice of A1"]


@workflow
async def buy(order: str) -> str:
    return await charge(order)


@workflow
async def await_approval(order: str) -> str:
    await receive("approve", bool)
    return await charge(order)


# What it does.


async def test_the_nth_operation_fails_and_is_not_done(store: FaultyStore) -> None:
    """Those before and after it are; the error names it."""
    run = await begin(store)
    store.fail("commit", 3)

    await write(store, checkpoints=[checkpoint(run.key, "charge:1")])
    with pytest.raises(InjectedFault, match="commit number 3 was not done") as caught:
        await write(store, checkpoints=[checkpoint(run.key, "charge:2")])
    await write(store, checkpoints=[checkpoint(run.key, "charge:3")])

    assert isinstance(caught.value, StoreError)
    assert (caught.value.operation, caught.value.number) == ("commit", 3)
    assert await recorded(store) == ["charge:1", "charge:3"]


async def test_an_operation_whose_answer_is_lost_was_done(store: FaultyStore) -> None:
    """The caller cannot tell it from one that was not."""
    run = await begin(store)
    store.fail("commit", 2, after=True)

    with pytest.raises(InjectedFault, match="commit number 2 was done") as caught:
        await write(store, checkpoints=[checkpoint(run.key)])

    assert caught.value.was_done
    assert await recorded(store) == ["charge:1"]


async def test_it_raises_the_error_that_it_was_given(store: FaultyStore) -> None:
    """As it is, or made of a class."""
    full = StoreError("the disk is full")
    store.fail("runs", 1, error=full).fail("runs", 2, error=OSError)

    for expected in (full, OSError):
        with pytest.raises(type(full) if expected is full else OSError) as caught:
            await store.runs(None, None, None, 10)
        assert expected in (caught.value, type(caught.value))


async def test_a_delayed_operation_waits_for_an_event(store: FaultyStore) -> None:
    """It has not begun until then, and others pass it."""
    run = await begin(store)
    event, order = anyio.Event(), list[str]()
    store.delay("commit", 2, until=event)

    async with anyio.create_task_group() as group:

        async def delayed() -> None:
            await write(store, checkpoints=[checkpoint(run.key)])
            order.append("delayed")

        group.start_soon(delayed)
        await store.asked("commit", 2)
        order += await recorded(store)
        order.append("passed")
        event.set()

    assert [*order, *await recorded(store)] == ["passed", "delayed", "charge:1"]


async def test_a_late_answer_is_given_to_what_was_done_at_once(store: FaultyStore) -> None:
    """``after`` delays the answer, not what is done."""
    run = await begin(store)
    event, order = anyio.Event(), list[str]()
    store.delay("commit", 2, until=event, after=True)

    async def answered() -> None:
        await write(store, checkpoints=[checkpoint(run.key)])
        order.append("answered")

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(answered)
            while not await recorded(store):  # noqa: ASYNC110 - nothing tells when it is done
                await anyio.sleep(0.001)
            assert order == []
            event.set()

    assert order == ["answered"]


@in_memory
async def test_a_delay_in_seconds_is_one_of_the_loops_clock(store: FaultyStore) -> None:
    """Under virtual time it takes none."""
    store.delay("runs", until=3600.0)

    with VirtualClock() as clock:
        began = clock.now()
        await store.runs(None, None, None, 10)
        assert clock.now() - began == pytest.approx(3600.0, abs=1.0)


async def test_a_duplicate_is_done_twice_and_the_first_answer_is_heard(store: FaultyStore) -> None:
    """The second claim moves the epoch on, and nobody hears of it."""
    store.duplicate("commit", 1)

    run = await begin(store)

    row = await store.run("thread", None)
    assert row is not None
    assert (run.epoch, row.epoch) == (1, 2)


async def test_what_a_duplicate_comes_to_is_told_to_nobody(store: FaultyStore) -> None:
    """The second commit of a row is at fault, and the first one stands."""
    run = await begin(store)
    store.duplicate("commit", 2)

    await write(store, checkpoints=[checkpoint(run.key)])

    assert await recorded(store) == ["charge:1"]


@pytest.mark.parametrize(
    ("which", "hit"),
    [
        (2, [2]),
        ({1, 5}, [1, 5]),
        (range(2, 4), [2, 3]),
        (every(2), [2, 4, 6]),
        (since(5), [5, 6]),
        (chance(0.0, seed=1), []),
        (chance(1.0, seed=1), [1, 2, 3, 4, 5, 6]),
    ],
)
async def test_numbers_say_which_are_meant(store: FaultyStore, which: Any, hit: list[int]) -> None:
    """One, or all that something contains; numbers are counted for each name apart."""
    store.fail("news", which)
    failed: list[int] = []
    for number in range(1, 7):
        await store.latest([])
        try:
            await store.news(None)
        except StoreError:
            failed.append(number)

    assert failed == hit


def test_chance_is_settled_by_its_seed() -> None:
    """The same numbers, in whatever order they are asked for; about as many as it says."""
    one, other = chance(0.25, seed=7), chance(0.25, seed=8)
    numbers = [number for number in range(1, 1001) if number in one]

    assert [each for each in reversed(range(1, 1001)) if each in one] == numbers[::-1]
    assert [each for each in range(1, 1001) if each in other] != numbers
    assert 200 < len(numbers) < 300


async def test_any_operation_is_counted_by_its_position(store: FaultyStore) -> None:
    """``"*"`` numbers all of them: opening was the first."""
    store.fail("*", 3)

    await store.news(None)
    with pytest.raises(InjectedFault, match="latest number 1"):
        await store.latest([])

    assert store.count() == 3
    assert store.count("news") == 1
    assert store.log == [
        Asked("open", 1, 1),
        Asked("news", 1, 2),
        Asked("latest", 1, 3, ("fail",)),
    ]


async def test_several_faults_befall_one_operation(store: FaultyStore) -> None:
    """Delayed, then done twice, then its answer is lost, in whatever order they were given."""
    event = anyio.Event()
    event.set()
    store.fail("commit", after=True).duplicate("commit").delay("commit", until=event)

    with pytest.raises(InjectedFault):
        await write(store, claims=[claim()])

    row = await store.run("thread", None)
    assert row is not None
    assert row.epoch == 2
    assert store.log[1].faults == ("delay", "duplicate", "fail")


async def test_a_healed_store_fails_no_more(store: FaultyStore) -> None:
    """And goes on counting."""
    store.fail("news", since(1))
    with pytest.raises(StoreError):
        await store.news(None)

    store.heal()

    assert await store.news(None) == []
    assert store.count("news") == 2


def test_a_fault_that_could_never_happen_is_an_error() -> None:
    """A name that no store has, a number below 1, a probability above 1."""
    store = FaultyStore(MemoryStore())
    for mistake in (
        lambda: store.fail("comit"),  # type: ignore[arg-type]
        lambda: store.delay("load", 0, until=0.0),
        lambda: every(0),
        lambda: chance(1.5, seed=1),
    ):
        with pytest.raises(ValueError, match=r"comit|from 1|at least 1|between 0 and 1"):
            mistake()


async def test_snapshots_and_prunes_fail_step_by_step(store: FaultyStore) -> None:
    """Each read of a snapshot is an operation, and so is each step of a prune."""
    run = await begin(store)
    await write(store, checkpoints=[checkpoint(run.key)], finishes=[release(run.key)])
    store.fail("snapshot.checkpoints", 2).fail("prune", 1)

    async with store.snapshot("thread") as snapshot:
        assert len(await snapshot.runs(0, 10)) == 1
        assert len(await snapshot.checkpoints("run", 0, 10)) == 1
        with pytest.raises(InjectedFault):
            await snapshot.checkpoints("run", 0, 10)
    with pytest.raises(InjectedFault):
        async for _ in store.prune(Prune(("success",), 0.0, 0, 0.0)):
            pass


def test_every_operation_of_a_store_can_fail() -> None:
    """What is added to the protocol is wrapped, and has a name to fail by."""
    protocol = {
        name
        for name, value in vars(Store).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }

    assert protocol <= vars(WrappedStore).keys()
    assert protocol | {"*", "snapshot.runs", "snapshot.checkpoints"} == {*get_args(Operation)}


# What becomes of a run.


def another(store: FaultyStore) -> Store:
    """The same records once more, without any faults, as another process has them."""
    inner = store.inner.inner if isinstance(store.inner, Register) else store.inner
    return inner if isinstance(inner, MemoryStore) else SQLiteStore(inner.where)


async def recorded_calls(store: FaultyStore) -> list[str]:
    """The calls that are recorded, whatever is wrong with the store."""
    peek = another(store)
    await peek.open(OWNER)
    rows = await peek.checkpoints("order-A1", None)
    await peek.close(OWNER)
    return [row.checkpoint.task_id for row in rows if row.checkpoint.kind in ("result", "error")]


class Register(WrappedStore):
    """Knows for whom it is open."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.owners: list[str] = []

    async def open(self, owner: str) -> None:
        await super().open(owner)
        self.owners.append(owner)

    async def close(self, owner: str) -> None:
        await super().close(owner)
        if owner in self.owners:
            self.owners.remove(owner)


class Customer:
    """Runs an order again and again until it is fulfilled, and looks at what executed."""

    def __init__(self, store: FaultyStore, *, stays: bool = True, **options: Any) -> None:
        self.store = store
        self.failures: list[Exception] = []
        self._stays = stays  # with one runtime for as long as it can be used
        self._options = options
        self._recorded: set[str] = set()

    async def order(self, patience: int = 5) -> list[object]:
        """What comes of it; it is given up after so many failures."""
        while len(self.failures) < patience:
            try:
                async with Runtime(self.store, poll_interval=NEVER, **self._options) as runtime:
                    while (result := await self._run(runtime)) is None and self._stays:
                        assert len(self.failures) < patience, self.failures
            except StoreError as error:  # when the runtime was opened or closed
                self.failures.append(error)
                result = None
            await self._end_process()
            if result is not None:
                return result
        raise AssertionError(self.failures)

    async def _end_process(self) -> None:
        """Whatever has failed, closing it maybe: its owner is gone then."""
        assert isinstance(self.store.inner, Register)
        while self.store.inner.owners:
            await self.store.inner.close(self.store.inner.owners[-1])

    async def _run(self, runtime: Runtime) -> list[object] | None:
        """One execution; nothing that was recorded before is executed by it."""
        result: list[object] | None = None
        bodies.clear()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(self._approve, runtime)
                try:
                    result = await runtime.run(fulfil("A1"), thread_id="order-A1", wait=True)
                except (StoreError, LeaseLost) as error:
                    self.failures.append(error)
                    group.cancel_scope.cancel()
        assert self._recorded.isdisjoint(bodies), self.failures
        calls = await recorded_calls(self.store)
        assert len(calls) == len(set(calls))
        self._recorded = set(calls)
        return result

    async def _approve(self, runtime: Runtime) -> None:
        while True:
            try:
                await runtime.send("order-A1", "approve", True, id="approval")
                return
            except (RunNotFound, StoreError):
                await anyio.sleep(0.001)


FAULTS: dict[str, Callable[[FaultyStore, int], object]] = {
    "fails": lambda store, n: store.fail("*", n),
    "loses the answer": lambda store, n: store.fail("*", n, after=True),
    "does it twice": lambda store, n: store.duplicate("*", n),
}


@pytest.mark.parametrize(
    ("durability", "stays"),
    [("sync", True), ("sync", False), ("async", True), ("exit", False)],
    ids=["sync-here", "sync-elsewhere", "async-here", "exit-elsewhere"],
)
@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_operation_fails_once_the_rerun_ends_in_the_same_result(
    make_store: MakeStore, fault: str, stays: bool, durability: str, tmp_path: Any
) -> None:
    """At every position of a workflow, from opening the store to closing it."""
    for position in itertools.count(1):
        store = FaultyStore(Register(_apart(make_store, tmp_path, position)))
        FAULTS[fault](store, position)
        customer = Customer(store, stays=stays, durability=durability)

        assert await customer.order() == FULFILLED
        if store.count() < position:
            break

    assert position > 5


def _apart(make_store: MakeStore, tmp_path: Any, number: int) -> Store:
    """A store of the same kind, with records of its own."""
    store = make_store()
    if isinstance(store, MemoryStore):
        return MemoryStore()
    return type(store)(tmp_path / f"{number}.db")  # type: ignore[call-arg]


async def test_a_storm_of_faults_changes_no_result(
    make_store: MakeStore, tmp_path: Any, is_long: bool, rng: random.Random
) -> None:
    """Operations fail, lose their answers and are done twice at random, until it is over."""
    for number in range(200 if is_long else 6):
        store = FaultyStore(Register(_apart(make_store, tmp_path, number)))
        seed = rng.getrandbits(32)
        store.fail("*", chance(0.08, seed=seed))
        store.fail("*", chance(0.08, seed=seed + 1), after=True)
        store.duplicate("*", chance(0.08, seed=seed + 2))
        customer = Customer(store, stays=rng.random() < 0.5)

        assert await customer.order(patience=100) == FULFILLED, f"seed {seed}"


async def test_a_failing_store_fails_the_waiting_task_at_once(faulty: FaultyStore) -> None:
    """Its caller hears of it, whatever else executes; nothing executes after it."""
    faulty.fail("commit", 2)
    heard: list[str] = []

    @task
    async def sleepy() -> None:
        await anyio.sleep_forever()

    @workflow
    async def pair() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sleepy)
            try:
                await charge("A1")
            except StoreError as error:
                heard.append(str(error))
                raise
            bodies.append("after it")

    with anyio.fail_after(PATIENCE):
        async with Runtime(faulty, poll_interval=NEVER) as runtime:
            with pytest.raises(StoreError, match="commit number 2"):
                await runtime.run(pair(), thread_id="order-A1")

    assert len(heard) == len(bodies) == 1
    assert await recorded_calls(faulty) == []


async def test_a_lost_answer_executes_nothing_twice(faulty: FaultyStore) -> None:
    """The rerun answers from the record, though nobody was told that it was written."""
    faulty.fail("commit", 2, after=True)

    async with Runtime(faulty, poll_interval=NEVER) as runtime:
        with pytest.raises(StoreError, match="its answer was lost"):
            await runtime.run(buy("A1"), thread_id="order-A1")
        assert await runtime.run(buy("A1"), thread_id="order-A1") == "receipt for A1"

    assert len(bodies) == len(await recorded_calls(faulty)) == 1


async def test_a_lost_end_of_a_run_is_answered_from_the_record(faulty: FaultyStore) -> None:
    """It has succeeded, and was told to have failed."""
    faulty.fail("commit", 3, after=True)

    async with Runtime(faulty, poll_interval=NEVER) as runtime:
        with pytest.raises(StoreError):
            await runtime.run(buy("A1"), thread_id="order-A1")
        assert (await runtime.get("order-A1")).status == "success"
        assert await runtime.run(buy("A1"), thread_id="order-A1") == "receipt for A1"
        assert len(await runtime.runs()) == 1

    assert len(bodies) == 1


async def test_commits_that_come_twice_write_once(faulty: FaultyStore) -> None:
    """Every one but the claim, which would have another one's epoch then."""
    faulty.duplicate("commit", since(2))

    async with Runtime(faulty, poll_interval=NEVER) as runtime:
        handle = await runtime.start(fulfil("A1"), thread_id="order-A1")
        await runtime.send("order-A1", "approve", True)
        assert await handle.result() == FULFILLED
        assert [run.status for run in await runtime.runs()] == ["success"]

    calls = await recorded_calls(faulty)
    assert sorted(calls) == sorted({*bodies, *(each for each in calls if each not in bodies)})
    assert len(bodies) == len(set(bodies)) == 9


async def test_a_slow_store_reorders_nothing(faulty: FaultyStore) -> None:
    """Nobody sees a result before it is recorded, and they are recorded as they came."""
    event, all_executed, seen = anyio.Event(), anyio.Event(), list[str]()
    faulty.delay("commit", 2, until=event)

    @task
    async def count_off(number: int) -> None:
        bodies.append(current().task_id or "")
        if len(bodies) == 5:
            all_executed.set()

    @workflow
    async def several() -> None:
        async def one(number: int) -> None:
            await count_off(number)
            seen.append(str(number))

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(one, number)

    async with Runtime(faulty, poll_interval=NEVER) as runtime, anyio.create_task_group() as group:
        group.start_soon(_run, runtime, several(), "order-A1")
        await faulty.asked("commit", 2)
        await all_executed.wait()
        assert (seen, await recorded_calls(faulty)) == ([], [])
        event.set()

    assert sorted(seen) == list("01234")
    assert await recorded_calls(faulty) == bodies


async def _run(runtime: Runtime, call: Any, thread_id: str) -> None:
    await runtime.run(call, thread_id=thread_id)


@pytest.mark.parametrize("after", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize(
    ("operation", "number"),
    [("open", 1), ("news", 1), ("commit", 1), ("commit", 2), ("commit", 3), ("load", 1)],
    ids=["open", "look", "claim", "record", "finish", "load"],
)
async def test_a_run_whose_store_has_failed_can_be_continued(
    faulty: FaultyStore, operation: Operation, number: int, after: bool
) -> None:
    """By another runtime, as soon as this one is closed, and at the first attempt."""
    if operation == "load":  # of a run that was begun before
        faulty.fail("commit", 3)
        with pytest.raises(StoreError):
            await _buy(faulty)
        faulty.heal()
    faulty.fail(operation, number, after=after)
    with pytest.raises(StoreError, match=f"{operation} number {number}"):
        await _buy(faulty)
    faulty.heal()
    calls = await recorded_calls(faulty)
    bodies.clear()

    assert await _buy(faulty) == "receipt for A1"

    assert len(bodies) == 1 - len(calls)


async def _buy(store: Store) -> str:
    async with Runtime(store, poll_interval=NEVER) as runtime:
        return await runtime.run(buy("A1"), thread_id="order-A1")


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
async def test_a_store_that_fails_to_close_is_told_to_who_closes(
    faulty: FaultyStore, after: bool
) -> None:
    """The run has its result, the runtime is closed, and the loop goes on."""
    faulty.fail("close", 1, after=after)
    runtime = await Runtime(faulty).open()
    assert await runtime.run(buy("A1"), thread_id="order-A1") == "receipt for A1"

    with pytest.raises(StoreError, match="close number 1"):
        await runtime.aclose()

    await runtime.aclose()
    with pytest.raises(RuntimeError, match="not open"):
        await runtime.runs()


async def test_a_store_that_was_opened_without_saying_so_is_closed(faulty: FaultyStore) -> None:
    """Nothing is left open by a runtime that could not be opened."""
    faulty.fail("open", 1, after=True)

    with pytest.raises(StoreError, match="open number 1"):
        await Runtime(faulty).open()

    assert [each.operation for each in faulty.log] == ["open", "close"]
    await faulty.open(OWNER)


async def test_signals_that_cannot_be_looked_up_are_looked_up_again(faulty: FaultyStore) -> None:
    """A look that fails is not the last; the run goes on as soon as one succeeds."""
    faulty.fail("signals", 1)
    with anyio.fail_after(PATIENCE):
        async with (
            Runtime(faulty, poll_interval=0.01) as runtime,
            Runtime(another(faulty)) as sender,
        ):
            handle = await runtime.start(await_approval("A1"), thread_id="order-A1")
            await sender.send("order-A1", "approve", True)
            assert await handle.result() == "receipt for A1"
    assert faulty.count("signals") >= 2


async def test_a_signal_that_is_sent_again_reaches_a_run_that_was_not_told(
    faulty: FaultyStore,
) -> None:
    """The first was recorded, and its answer lost: the second is not new, and tells the run."""
    with anyio.fail_after(PATIENCE):
        async with Runtime(faulty, poll_interval=NEVER) as runtime:
            handle = await runtime.start(await_approval("A1"), thread_id="order-A1")
            faulty.fail("commit", faulty.count("commit") + 1, after=True)
            with pytest.raises(StoreError):
                await runtime.send("order-A1", "approve", True, id="approval")

            await runtime.send("order-A1", "approve", True, id="approval")

            assert await handle.result() == "receipt for A1"
    assert faulty.count("signals") <= 1


def _lost(store: FaultyStore, number: int) -> None:
    store.fail("commit", number, after=True)


def _twice(store: FaultyStore, number: int) -> None:
    store.duplicate("commit", number)


@in_memory
@pytest.mark.parametrize("befall", [_lost, _twice])
async def test_a_claim_that_nobody_knows_of_is_given_up(
    faulty: FaultyStore, befall: Callable[[FaultyStore, int], None]
) -> None:
    """The store says that this runtime executes it, and it does not: others may continue it."""
    befall(faulty, 1)

    with anyio.fail_after(PATIENCE):
        async with Runtime(faulty) as runtime, Runtime(faulty.inner) as other:
            with pytest.raises((StoreError, LeaseLost)):
                await runtime.run(buy("A1"), thread_id="order-A1")
            result = await other.run(buy("A1"), thread_id="order-A1", wait=True)

    assert result == "receipt for A1"


@in_memory
@pytest.mark.parametrize("befall", [_lost, _twice])
async def test_a_block_that_nobody_knows_of_is_given_up(
    faulty: FaultyStore, befall: Callable[[FaultyStore, int], None]
) -> None:
    """The same for a thread that is a place for tasks."""
    befall(faulty, 1)

    async with Runtime(faulty) as runtime, Runtime(faulty.inner) as other:
        with pytest.raises((StoreError, LeaseLost)):
            async with runtime.thread("order-A1"):
                await charge("A1")
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    async with other.thread("order-A1"):
                        assert await charge("A1") == "receipt for A1"
                    break
                except ThreadBusy:
                    await anyio.sleep(0.01)


async def test_a_recovered_run_whose_claim_was_lost_is_recovered_again(
    faulty: FaultyStore,
) -> None:
    """Nobody is there to run it again, and its owner lives."""
    with anyio.fail_after(PATIENCE):
        async with Runtime(
            faulty, workflows=[await_approval], recover=True, poll_interval=0.05
        ) as runtime:
            with pytest.raises(RunPaused):
                await runtime.run(await_approval("A1"), thread_id="order-A1")
            faulty.fail("commit", faulty.count("commit") + 2, after=True)
            await runtime.send("order-A1", "approve", True)

            async for event in runtime.subscribe("order-A1"):
                ended = event
            assert isinstance(ended, RunCompleted)

    assert [each.faults for each in faulty.log if each.faults] == [("fail",)]
    assert len(bodies) == 1


@in_memory
async def test_who_was_taken_over_during_a_slow_commit_writes_nothing(faulty: FaultyStore) -> None:
    """Its commit arrives when another has the run: LeaseLost, and what is recorded stands."""
    event, ends = anyio.Event(), list[BaseException]()
    faulty.delay("commit", 2, until=event)

    async def first(runtime: Runtime) -> None:
        try:
            await runtime.run(buy("A1"), thread_id="order-A1")
        except LeaseLost as error:
            ends.append(error)

    async with Runtime(faulty, poll_interval=NEVER) as runtime, anyio.create_task_group() as group:
        group.start_soon(first, runtime)
        await faulty.asked("commit", 2)
        owner = (await runtime.get("order-A1")).owner
        assert owner is not None
        await faulty.inner.close(owner)  # as if its lease had run out
        async with Runtime(faulty.inner) as other:
            await other.run(buy("A1"), thread_id="order-A1")
        before = await faulty.inner.checkpoints("order-A1", None)
        event.set()

    assert len(ends) == 1
    assert await faulty.inner.checkpoints("order-A1", None) == before
    assert [bodies[0]] * 2 == bodies  # it was executing when it was taken over


async def test_a_waiter_who_gives_up_on_a_slow_store_leaves_the_run_continuable(
    faulty: FaultyStore,
) -> None:
    """Cancelled while its claim or its record is on the way: what was begun is written."""
    for number in (1, 2):
        event = anyio.Event()
        faulty.heal().delay("commit", faulty.count("commit") + number, until=event)
        async with Runtime(faulty, poll_interval=NEVER) as runtime:
            async with anyio.create_task_group() as group:
                group.start_soon(_run, runtime, buy("A1"), f"order-{number}")
                await faulty.asked("commit", faulty.count("commit") + 1)
                if number == 2:
                    await faulty.asked("commit", faulty.count("commit") + 1)
                group.cancel_scope.cancel()
                event.set()
            faulty.heal()
            assert await runtime.run(buy("A1"), thread_id=f"order-{number}") == "receipt for A1"

    assert len(bodies) == 2
