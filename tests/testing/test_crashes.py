"""`crash_everywhere`: what is right passes everywhere, and what is wrong is found and explained."""

from __future__ import annotations

import asyncio
import cProfile
import datetime
import functools
import gc
import importlib
import logging
import os
import random
import secrets
import sqlite3
import sys
import time
import unittest.mock
import uuid
import zoneinfo
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import structs
from processes import ENVIRONMENT

import taskflow
from taskflow import (
    CachePolicy,
    MemoryStore,
    RetryPolicy,
    Runtime,
    SQLiteStore,
    Store,
    current,
    race,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.stores.batches import Batch, Committed
from taskflow.testing import CrashTestFailed, WrappedStore, crash_everywhere

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*equal calls:RuntimeWarning")]

DAY = 86400.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """On both event loops."""
    return str(request.param)


@pytest.fixture(params=["asyncio"])
def on_asyncio(anyio_backend: str) -> None:
    """For what there is on asyncio alone."""
    if anyio_backend != "asyncio":
        pytest.skip("asyncio only")


@task
async def fetch(name: str) -> str:
    """Takes longer for a longer name."""
    await anyio.sleep(len(name))
    return f"<{name}>"


@task(retry=RetryPolicy(max_attempts=3))
async def flaky(name: str) -> str:
    """Fails twice."""
    if current().attempt < 3:
        raise ConnectionError("not yet")
    return name


@task
def count_of(text: str) -> int:
    """Executes in a worker thread."""
    return len(text)


@task
async def pair(name: str) -> list[str]:
    """Calls other tasks."""
    return [await fetch(name), await fetch(name + name)]


class Refused(Exception):
    """A failure that is handled."""


@task
async def refuse(name: str) -> str:
    """Fails for good."""
    raise Refused(name)


@workflow
async def child(name: str) -> str:
    """A workflow in a workflow."""
    return await fetch(name) + await flaky(name)


async def both(one: str, other: str) -> list[str]:
    """A plain coroutine that only calls tasks."""
    return [await fetch(one), await fetch(other)]


@workflow
async def sound(order: str) -> str:
    """Everything at once, and nothing wrong with it."""
    parts = [await fetch(order), *await fetch.map(["a", "bbb", "cc"]), await child("kid")]
    parts += [str(await count_of("three")), *await pair("z"), *await both("x", "y")]
    await sleep(3 * DAY)
    try:
        await refuse("no")
    except Refused as error:
        parts.append(str(error))
    parts.append(await receive("answer", str))
    parts.append(await race(fetch("the longer one"), fetch("short")))
    return " ".join(sorted({*parts}))


@workflow
async def small(order: str) -> str:
    """Two calls, one after the other."""
    return await fetch(order) + await fetch("more")


# What is right.


async def test_a_sound_workflow_is_cut_off_everywhere(anyio_backend: str) -> None:
    """At every commit and await, in every way, and every time its result is the same."""
    crashes = await crash_everywhere(lambda: sound("A1"), signals=[("answer", "yes")])

    modes = 3 if anyio_backend == "asyncio" else 2
    assert crashes.points > 30
    assert crashes.passes > modes * (crashes.points - 1)
    assert (crashes.left_out, crashes.notes) == (0, ())
    if anyio_backend == "asyncio":  # trio draws the order of what is concurrent
        assert crashes.unreached == 0
    assert "the result is the same" in str(crashes)


async def test_every_moment_is_one_at_which_it_was_cut_off(anyio_backend: str) -> None:
    """Two calls in a row: begin, two awaits and two commits of calls, and the end, twice."""
    with pytest.raises(ValueError, match="there is no pass") as refused:
        await crash_everywhere(lambda: small("A1"), modes=["drop"], only="?")
    for moment in (
        "'drop commit begin'", "'drop commit fetch:", "'drop await 1 fetch:", "'drop await 1'",
        "'drop commit last'", "'drop commit end'",
    ):  # fmt: skip
        assert moment in str(refused.value)


async def test_a_workflow_on_a_file_is_cut_off_everywhere(on_asyncio: None, tmp_path: Path) -> None:
    """Each process opens the file anew, and what the former held is let go of."""
    folders: set[Path] = set()

    def open_store(folder: Path) -> Store:
        folders.add(folder)
        return SQLiteStore(folder / "orders.db")

    crashes = await crash_everywhere(lambda: small("A1"), store=open_store)

    assert crashes.unreached == 0
    assert len(folders) == crashes.passes


async def test_shared_results_are_found_wherever_it_is_cut_off(on_asyncio: None) -> None:
    """A body that waits for the store when its process is dropped holds up nobody."""

    @task(cache=CachePolicy(ttl=60))
    async def shared(number: int) -> int:
        return number

    @workflow
    async def sharing() -> int:
        return await shared(1) + await shared(2)

    crashes = await crash_everywhere(
        sharing, store=lambda folder: SQLiteStore(folder / "shared.db"), modes=["drop"]
    )
    assert crashes.unreached == 0


async def test_every_pair_of_moments_is_tried(anyio_backend: str) -> None:
    """Whoever continues a run is cut off in its turn."""
    once = await crash_everywhere(lambda: small("A1"), modes=["drop"])
    twice = await crash_everywhere(lambda: small("A1"), modes=["drop"], pairs=True)

    assert twice.passes - once.passes == once.points**2


async def test_what_fails_fails_everywhere_with_the_same(anyio_backend: str) -> None:
    """A workflow may end with an exception; every pass has to, with the same one."""

    @workflow
    async def refused() -> str:
        return await fetch("a") + await refuse("always")

    crashes = await crash_everywhere(refused, raises=Refused)
    assert crashes.points > 4
    with pytest.raises(CrashTestFailed, match="raised Refused: always: mend that, or"):
        await crash_everywhere(refused)


async def test_days_and_back_off_take_no_time(anyio_backend: str) -> None:
    """Time is virtual, unless it is asked to pass."""

    @workflow
    async def patient() -> str:
        await sleep(365 * DAY)
        return await flaky("a")

    began = time.monotonic()
    await crash_everywhere(patient)
    assert time.monotonic() - began < 60


async def test_passes_are_drawn_by_the_seed(anyio_backend: str) -> None:
    """More than there may be are left out, said so, and the same seed draws the same."""
    first = await crash_everywhere(lambda: small("A1"), max_passes=10, seed=7)
    again = await crash_everywhere(lambda: small("A1"), max_passes=10, seed=7)

    assert first == again
    assert first.passes == 10
    assert first.left_out > 5
    assert "seed 7" in str(first)


async def test_nothing_is_left_behind(
    anyio_backend: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Processes that were dropped end quietly: no warning, nothing logged, nothing executing."""
    caplog.set_level(logging.WARNING)
    before = anyio.get_running_tasks()
    await crash_everywhere(lambda: sound("A1"), signals=[("answer", "yes")], max_passes=60)
    gc.collect()

    for _ in range(3):  # virtual time ends with the next steps of its own child
        await anyio.lowlevel.checkpoint()
    assert {*anyio.get_running_tasks()} == {*before}
    assert [each for each in recwarn if "equal calls" not in str(each.message)] == []
    assert caplog.records == []


async def test_helpers_that_call_tasks_are_right(anyio_backend: str) -> None:
    """However they come by them: as an argument, from a table, by a method, several steps down."""
    table: dict[str, Any] = {"fetch": fetch}

    async def with_retry(ask: Callable[[], Any]) -> str:
        return str(await ask())

    async def by_name(name: str) -> str:
        return str(await table[name]("a"))

    class Steps:
        """Has a task as an attribute, and a method behind a method."""

        def __init__(self) -> None:
            self.ask = fetch

        async def one(self) -> str:
            return await self.ask("b")

        async def all(self) -> list[str]:
            return [await self.one(), await self.one()]

    @workflow
    async def helped() -> list[str]:
        return [await with_retry(lambda: fetch("c")), await by_name("fetch"), *await Steps().all()]

    crashes = await crash_everywhere(helped)
    assert crashes.notes == ()


async def test_a_call_that_a_handled_failure_cut_off_may_begin_again(on_asyncio: None) -> None:
    """What a failing sibling has cancelled has no record: that a rerun executes it is right."""

    @workflow
    async def careful() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(both("slow one", "slow two"))
                group.create_task(_refused())
        except* Refused:
            pass
        return await fetch("a")

    async def _refused() -> None:
        await refuse("no")

    await crash_everywhere(careful)


# What is wrong with a workflow.


async def failure(make_call: Callable[[], Any], **options: Any) -> str:
    """What is said of it; the pass that is named fails alone in the same way."""
    with pytest.raises(CrashTestFailed) as failed:
        await crash_everywhere(make_call, **options)
    text = str(failed.value)
    if failed.value.only is not None:
        assert f"only={failed.value.only!r}" in text
        with pytest.raises(CrashTestFailed):
            await crash_everywhere(make_call, only=failed.value.only, **options)
    return text


async def test_a_function_that_is_no_task_is_found(anyio_backend: str) -> None:
    """Somebody forgot the decorator: what it does is done again by every rerun."""
    charged: list[str] = []

    async def charge(order: str) -> str:
        charged.append(order)
        return f"receipt for {order}"

    @workflow
    async def pay(order: str) -> str:
        return await charge(order) + await fetch(order)

    text = await failure(lambda: pay("A1"))
    assert "charge (" in text
    assert "is no task" in text
    assert "@task" in text


async def test_a_task_that_is_called_as_its_function_is_found(anyio_backend: str) -> None:
    """``.fn`` is a plain function."""

    @workflow
    async def pay(order: str) -> str:
        return await fetch.fn(order) + await fetch("more")

    text = await failure(lambda: pay("A1"))
    assert "plain function of the task 'fetch'" in text


async def test_a_plain_function_with_an_effect_is_found(anyio_backend: str) -> None:
    """It changes what outlives the run, and a rerun changes it again."""
    ledger: list[str] = []

    def book(order: str) -> None:
        ledger.append(order)

    @workflow
    async def pay(order: str) -> str:
        book(order)
        return await fetch(order)

    text = await failure(lambda: pay("A1"))
    assert "book (" in text
    assert "changes ledger" in text


async def test_an_effect_of_the_workflow_itself_is_noted(anyio_backend: str) -> None:
    """It may be what a test counts by: it is told, and fails nothing."""
    ledger: list[str] = []

    @workflow
    async def pay(order: str) -> str:
        ledger.append(order)
        return await fetch(order)

    crashes = await crash_everywhere(lambda: pay("A1"))
    assert "changes ledger with .append()" in str(crashes)


async def test_a_def_workflow_is_cut_off_too(anyio_backend: str) -> None:
    """Its thread waits for its calls in virtual time."""

    @workflow
    def plain(order: str) -> str:
        return fetch(order * 100).result() + fetch("more").result()

    began = time.monotonic()
    await crash_everywhere(lambda: plain("A1"))
    assert time.monotonic() - began < 60


async def test_what_is_allowed_is_not_found(anyio_backend: str) -> None:
    """The author says that it is all right."""
    ledger: list[str] = []

    def book(order: str) -> None:
        ledger.append(order)

    async def double(order: str) -> str:
        return order + order

    @workflow
    async def pay(order: str) -> str:
        book(order)
        return await fetch(await double(order))

    await crash_everywhere(lambda: pay("A1"), allow=[book, double])


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda: datetime.datetime.now().isoformat(), "datetime.now()"),
        (lambda: str(datetime.date.today()), "date.today()"),
        (lambda: str(time.time()), "time.time()"),
        (lambda: str(time.monotonic_ns()), "time.monotonic_ns()"),
        (lambda: str(random.random()), "random.random()"),
        (lambda: random.choice("abc"), "random.choice()"),
        (lambda: str(uuid.uuid4()), "uuid.uuid4()"),
        (lambda: secrets.token_hex(), "secrets.token_hex()"),
        (lambda: os.urandom(4).hex(), "os.urandom()"),
        (lambda: str(random.Random().random()), "random.Random()"),
        (lambda: str(anyio.current_time()), "the event loop's time()"),
    ],
)
async def test_what_differs_from_run_to_run_is_found(
    anyio_backend: str, read: Callable[[], str], named: str
) -> None:
    """The time of day, and what is drawn: the error says what was called, where."""

    @workflow
    async def greet() -> str:
        return await fetch("morning" if read() < "2" else "evening")

    text = await failure(greet)
    assert f"calls {named}" in text
    assert "test_crashes.py:" in text
    assert "taskflow." in text


@pytest.mark.parametrize(
    ("look", "named"),
    [
        (lambda: open(os.devnull).close() or "", "does open()"),
        (lambda: Path(os.devnull).read_text(), "does open()"),
        (lambda: str(sqlite3.connect(":memory:").close()), "does sqlite3.connect"),
        (lambda: str(os.listdir("/")), "does os.listdir"),
        (lambda: str(os.getpid()), "does os.getpid"),
        (lambda: str(os.path.exists("/")), "does os.stat"),
    ],
)
async def test_what_is_found_outside_is_no_argument(
    anyio_backend: str, look: Callable[[], str], named: str
) -> None:
    """A file and the process are not recorded."""

    @workflow
    async def looking() -> str:
        return await fetch(look())

    assert named in await failure(looking)


async def test_a_workflow_may_be_allowed_to_do_what_it_does(anyio_backend: str) -> None:
    """A template that is read from a file, say."""

    @workflow
    async def rendered() -> str:
        return await fetch(template())

    assert "pass allow=[template]" in await failure(rendered)
    await crash_everywhere(rendered, allow=[template])
    await crash_everywhere(rendered, allow=[rendered])


async def test_recorded_values_and_a_seeded_generator_are_right(anyio_backend: str) -> None:
    """`now`, `random` and `uuid` are recorded, and a generator with a seed draws the same."""

    @workflow
    async def drawn() -> str:
        seeded = random.Random(5).random()
        when, number, name = await taskflow.now(), await taskflow.random(), await taskflow.uuid()
        return await fetch(f"{seeded} {when.year > 2000} {number < 1} {len(str(name))}")

    await crash_everywhere(drawn)


def template() -> str:
    return Path(os.devnull).read_text()


class Listing:
    """Has the order of a set in a method."""

    def of(self, names: set[str]) -> list[str]:
        return list(names)


LISTINGS = {"of": lambda names: list(names)}


@pytest.mark.parametrize("how", [
    "for", "comprehension", "list", "star", "map", "pop", "helper", "method", "lambda", "text",
    "tie", "hash", "in a list", "alias",
])  # fmt: skip
async def test_the_order_of_a_set_is_found(anyio_backend: str, how: str) -> None:
    """Another process may have another one: the error says where it was iterated over."""

    def listed(names: set[str]) -> list[str]:
        return list(names)

    @workflow
    async def ordered(names: list[str]) -> list[str]:
        unordered = set(names)
        if how == "for":
            found: list[str] = []
            for name in unordered:
                found += [await fetch(name)]
            return found
        if how == "comprehension":
            return [await fetch(name) for name in unordered]
        if how == "list":
            return await fetch.map(list(unordered))
        if how == "star":
            return await fetch.map([*unordered])
        if how == "pop":
            return [await fetch(unordered.pop())]
        if how == "method":
            return await fetch.map(Listing().of(unordered))
        if how == "lambda":
            return await fetch.map(LISTINGS["of"](unordered))
        if how == "text":
            return [await fetch(f"{unordered}")]
        if how == "in a list":
            return [await fetch(str([{"of": unordered}]))]
        if how == "alias":
            make = list
            return await fetch.map(make(unordered))
        if how == "tie":
            return await fetch.map(sorted(unordered, key=lambda name: name > ""))
        if how == "hash":
            return [await fetch(str(hash(names[0])))]
        if how == "helper":
            return await fetch.map(listed(unordered))
        return await fetch.map(unordered)

    text = await failure(lambda: ordered(["a", "bb", "ccc"]))
    assert "the order of a set" in text
    assert "test_crashes.py:" in text
    assert "sorted(…)" in text


async def test_a_set_whose_order_does_not_matter_is_right(anyio_backend: str) -> None:
    """Sorted in the end, or asked whether something is in it; and small numbers have one order."""

    @workflow
    async def ordered(names: list[str]) -> list[str]:
        unordered = set(names)
        found = await fetch.map(unordered)
        found += [await fetch(str(number)) for number in {3, 1, 2}]
        return sorted(found) if "a" in unordered else []

    await crash_everywhere(lambda: ordered(["a", "bb", "ccc"]))


async def test_a_list_that_branches_append_to_is_found(anyio_backend: str) -> None:
    """It is in the order in which they end, and a rerun is answered in another one."""

    @workflow
    async def collected() -> list[str]:
        found: list[str] = []

        async def branch(name: str) -> None:
            found.append(await fetch(name))

        async with anyio.create_task_group() as group:
            for name in ("b", "aaaa"):
                group.start_soon(branch, name)
        return found

    text = await failure(collected)
    assert "which branch ends first" in text
    assert "fetch(name='b')" in text
    assert "race()" in text


async def test_taking_whichever_ends_first_is_found(on_asyncio: None) -> None:
    """`asyncio.wait` records nothing of its choice."""

    @workflow
    async def quickest() -> str:
        async def ask(name: str) -> str:
            return await fetch(name)

        asked = [asyncio.ensure_future(ask(name)) for name in ("slow one", "fast")]
        done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        await asyncio.wait(asked)
        return done.pop().result()

    assert "which branch ends first" in await failure(quickest)


async def test_what_a_workflow_keeps_in_its_process_is_found(anyio_backend: str) -> None:
    """A number that counts on from run to run: other arguments, shown side by side."""
    state = {"runs": 0}

    @workflow
    async def numbered() -> str:
        state["runs"] += 1
        return await fetch(f"run {state['runs']}")

    text = await failure(numbered)
    assert "recorded was: fetch(name='run" in text
    assert "executed fetch(name='run" in text


SETTINGS: dict[str, int] = {}


async def test_what_a_task_leaves_in_the_process_is_found(anyio_backend: str) -> None:
    """Another process does not have it: the error names the variable."""
    SETTINGS.clear()

    @task
    async def configure(limit: int) -> None:
        SETTINGS["limit"] = limit

    @workflow
    async def configured() -> str:
        await configure(50)
        return await fetch(f"at most {SETTINGS.get('limit', 0)}")

    text = await failure(lambda: (SETTINGS.clear(), configured())[1])
    assert "depends on what was left in the process" in text
    assert "changed meanwhile: SETTINGS" in text
    assert "executed fetch(name='at most 0')" in text
    assert SETTINGS == {"limit": 50}


class Ledger:
    """Keeps in memory what would be a service's."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}

    def book(self, name: str) -> int:
        self.sums[name] = self.sums.get(name, 0) + 1
        return self.sums[name]


async def test_what_only_tasks_look_at_may_be_left_in_the_process(anyio_backend: str) -> None:
    """A ledger in memory stands for a service; the workflow only knows what tasks return."""
    ledger = Ledger()

    @task
    async def book(name: str) -> bool:
        return ledger.book(name) > 0

    @workflow
    async def booked() -> list[bool]:
        assert isinstance(ledger, Ledger)
        return [await book(name) for name in ("a", "b")]

    assert (await crash_everywhere(booked)).notes == ()


@pytest.mark.parametrize(("how", "named"), [
    ("in a thread", "charged does anyio.to_thread.run_sync()"),
    ("in an executor", "charged does asyncio.run_in_executor()"),
    ("with others", "a workflow does asyncio.to_thread()"),
])  # fmt: skip
async def test_a_function_that_is_sent_to_a_thread_is_found(
    on_asyncio: None, how: str, named: str
) -> None:
    """A rerun sends it there again."""

    def charge() -> int:
        return 1

    @workflow
    async def charged() -> int:
        await fetch("a")
        if how == "in a thread":
            return await anyio.to_thread.run_sync(charge)
        if how == "in an executor":
            return await asyncio.get_running_loop().run_in_executor(None, charge)
        return sum(await asyncio.gather(asyncio.to_thread(charge), asyncio.to_thread(charge)))

    assert named in await failure(charged)


async def test_a_def_workflow_is_looked_at(anyio_backend: str) -> None:
    """It executes in a worker thread."""

    @workflow
    def dated() -> str:
        return fetch(str(time.time() > 0)).result()

    text = await failure(dated)
    assert "dated calls time.time()" in text
    assert "test_crashes.py:" in text


async def test_what_the_first_run_caches_is_found(anyio_backend: str) -> None:
    """A cache hides the clock from every later pass."""

    @functools.cache
    def today() -> str:
        return datetime.date.today().isoformat()

    @workflow
    async def dated() -> str:
        return await fetch(today())

    with pytest.raises(CrashTestFailed, match=r"today calls date\.today\(\)"):
        await crash_everywhere(dated)


async def test_a_generator_that_is_no_task_is_found(anyio_backend: str) -> None:
    """What it gives is not recorded, unlike what a helper gives that asks tasks."""

    async def pages() -> AsyncIterator[str]:
        for page in ("a", "b"):
            await anyio.lowlevel.checkpoint()
            yield page

    async def fetched() -> AsyncIterator[str]:
        for page in ("a", "b"):
            yield await fetch(page)

    @workflow
    async def read(made: bool) -> list[str]:
        return [page async for page in (pages() if made else fetched())]

    assert "pages" in await failure(lambda: read(True))
    assert (await crash_everywhere(lambda: read(False))).notes == ()


@pytest.mark.parametrize(("look", "noted"), [
    (lambda: os.environ.get("HOME", ""), "reads os.environ"),
    (lambda: os.getenv("HOME", ""), "reads os.environ"),
])  # fmt: skip
async def test_what_a_deploy_may_change_is_noted(
    anyio_backend: str, look: Callable[[], str], noted: str
) -> None:
    """It is the same for every pass, and need not be for the next version."""

    @workflow
    async def configured() -> str:
        return await fetch(look())

    (note,) = (await crash_everywhere(configured)).notes
    assert noted in note
    assert "test_crashes.py:" in note


async def test_a_time_limit_of_the_workflows_own_is_named(anyio_backend: str) -> None:
    """What it cuts off is not recorded, and the rerun executes it again."""

    @workflow
    async def impatient() -> str:
        with anyio.move_on_after(1):
            return await fetch("x" * 500)  # takes five seconds
        return await fetch("instead")

    text = await failure(impatient)
    assert "sets a time limit, anyio.move_on_after()" in text
    assert "@task(timeout=…)" in text


async def test_a_sleep_that_is_not_recorded_is_noted(anyio_backend: str) -> None:
    """A rerun sleeps again, from the start."""

    @workflow
    async def slow() -> str:
        await anyio.sleep(60)
        return await fetch("a")

    (note,) = (await crash_everywhere(slow)).notes
    assert "taskflow.sleep()" in note


async def test_a_counter_that_the_workflow_makes_is_right(anyio_backend: str) -> None:
    """Its variable begins anew in every run, though a function of the module's holds it."""

    @workflow
    async def counted() -> list[str]:
        number = counter()
        return [await fetch(str(number())) for _ in range(2)]

    assert (await crash_everywhere(counted)).notes == ()


def counter() -> Callable[[], int]:
    last = 0

    def number() -> int:
        nonlocal last
        last += 1
        return last

    return number


async def test_a_task_that_gives_something_else_each_time_is_told_apart(
    anyio_backend: str,
) -> None:
    """That is not the workflow's fault: the error names the task, and what to do."""
    drawn: list[int] = []

    @task
    async def draw() -> int:
        drawn.append(1)
        return len(drawn)

    @workflow
    async def lottery() -> int:
        return await draw()

    text = await failure(lottery)
    assert "draw() itself gave" in text
    assert "make_call" in text
    await crash_everywhere(lambda: (drawn.clear(), lottery())[1], modes=["cancel"])
    await crash_everywhere(lottery, same=lambda one, other: type(one) is type(other))


async def test_what_only_the_dead_process_could_give_is_found(anyio_backend: str) -> None:
    """A workflow that waits for an event which only its first process sets never ends."""
    opened: list[anyio.Event] = []

    @workflow
    async def waiting() -> str:
        if not opened:
            opened.append(anyio.Event())
            opened[0].set()
        elif len(opened) == 1:
            opened.append(anyio.Event())
        found = await fetch("a")
        await opened[-1].wait()
        return found

    def make_call() -> Any:
        opened.clear()
        return waiting()

    with pytest.raises(CrashTestFailed, match=r"did not end within 0\.5 s"):
        await crash_everywhere(make_call, patience=0.5)


WITHOUT_SUSPECTS = """
import sys
import anyio
from taskflow import task, workflow
from taskflow.testing import CrashTestFailed, crash_everywhere

runs = []

@task
async def fetch(name: str) -> str:
    return name

@workflow
async def sound() -> str:
    return await fetch("a") + await fetch("b")

@workflow
async def numbered() -> str:
    runs.append(1)
    return await fetch(f"run {len(runs)}")

async def main() -> None:
    crashes = await crash_everywhere(sound, suspects=False)
    assert (crashes.points, crashes.unreached, crashes.notes) == (7, 0, ()), crashes
    try:
        await crash_everywhere(numbered, suspects=False)
    except CrashTestFailed as failed:
        assert "ended with 'run 1', and this one with 'run 2'" in str(failed), failed
        assert sys.getprofile() is None
    else:
        raise AssertionError("nothing was found")

anyio.run(main)
loaded = [name for name in sys.modules if name.startswith("taskflow.testing.suspects")]
assert loaded == [], loaded
"""


async def test_a_fault_is_found_without_looking_at_the_code(
    anyio_backend: str, tmp_path: Path
) -> None:
    """Where what looks at the user's code is not even loaded, the passes are the same."""
    program = tmp_path / "program.py"
    program.write_text(
        WITHOUT_SUSPECTS.replace("run(main)", f"run(main, backend={anyio_backend!r})")
    )
    await anyio.run_process([sys.executable, str(program)], env=ENVIRONMENT)


async def test_what_only_a_look_at_the_code_finds_is_told_by_no_pass_without(
    anyio_backend: str,
) -> None:
    """The clock, a plain function, the order of a set: no pass differs by these."""

    async def helper(name: str) -> str:
        return name

    @workflow
    async def careless(names: list[str]) -> list[str]:
        found = [await helper(name) for name in set(names)]
        return await fetch.map(found) if time.time() > 0 else found

    crashes = await crash_everywhere(lambda: careless(["a", "bb"]), suspects=False)
    assert crashes.notes == ()
    with pytest.raises(CrashTestFailed):
        await crash_everywhere(lambda: careless(["a", "bb"]))


# What is wrong with a store, or with the call.


class Forgetful(WrappedStore):
    """Loses one result, of the task that it was told."""

    async def commit(self, batch: Batch) -> Committed:
        kept = [each for each in batch.checkpoints if each.name != "fetch"]
        committed = await super().commit(structs.replace(batch, checkpoints=kept))
        committed.sequences = range(1, len(batch.checkpoints) + 1)
        return committed


async def test_a_result_that_was_lost_is_found(anyio_backend: str) -> None:
    """A store that says that it has kept what it has not."""
    stores: dict[Path, Store] = {}

    def open_store(folder: Path) -> Store:
        return Forgetful(stores.setdefault(folder, MemoryStore()))

    assert "executed" in await failure(lambda: small("A1"), store=open_store)


async def test_wrong_use_is_told(anyio_backend: str) -> None:
    """What is missing or misspelled."""

    @workflow
    async def asking() -> str:
        return await receive("answer", str)

    with pytest.raises(ValueError, match=r"signals=\[…\]\) what is to be sent as answer"):
        await crash_everywhere(asking)
    with pytest.raises(ValueError, match="modes are some of"):
        await crash_everywhere(asking, modes=["kill"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="make_call makes the call of a workflow"):
        await crash_everywhere(lambda: "asking")  # type: ignore[arg-type, return-value]


async def test_a_runtime_of_ones_own_is_used(anyio_backend: str) -> None:
    """With its own concurrency and durability."""
    made: list[Runtime] = []

    def make_runtime(store: Store) -> Runtime:
        made.append(Runtime(store, max_concurrency=1, durability="async"))
        return made[-1]

    crashes = await crash_everywhere(lambda: small("A1"), make_runtime=make_runtime)
    assert len(made) > crashes.passes


# What is right, and looks like what is wrong.

LIMITER = asyncio.Semaphore(1)


async def test_what_a_dropped_process_held_is_free(on_asyncio: None) -> None:
    """A lock in memory is nobody's in a new process."""

    @task
    async def limited(name: str) -> str:
        async with LIMITER:
            await anyio.lowlevel.checkpoint()
            return name

    @workflow
    async def careful() -> list[str]:
        async with LIMITER:
            found = [await fetch("a")]
        return found + await limited.map(["b", "c"])

    for _ in range(2):
        assert (await crash_everywhere(careful, pairs=True, max_passes=60)).notes == ()
    assert not LIMITER.locked()


async def test_a_deadline_beside_other_calls_is_right(anyio_backend: str) -> None:
    """A call that is held up may meet it: that says nothing of the workflow."""

    @task(timeout=12)
    async def both(name: str) -> list[str]:
        return await fetch.map([name, name * 2])

    @workflow
    async def timed() -> list[list[str]]:
        with anyio.fail_after(60):
            return await both.map(["a", "bb"])

    await crash_everywhere(timed)


async def test_which_of_two_failures_comes_first_may_differ(on_asyncio: None) -> None:
    """What a failure has cut off is executed again, and may fail, too."""

    @task
    async def fail(name: str) -> None:
        raise ValueError(name)

    async def branch(name: str) -> None:
        await fetch(name)
        await fail(name)

    @workflow
    async def failing() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(branch, "a")
            group.start_soon(branch, "b")

    await crash_everywhere(failing, raises=ExceptionGroup)


async def test_helpers_that_only_wait_for_others_are_right(on_asyncio: None) -> None:
    """A queue between branches holds nothing that a rerun would not put there again."""

    @workflow
    async def piped() -> list[str]:
        queue: asyncio.Queue[str | None] = asyncio.Queue(1)

        async def put(name: str | None) -> None:
            await queue.put(name)

        async def produce() -> None:
            for name in ("a", "b"):
                await put(await fetch(name))
            await put(None)

        found: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            while (name := await queue.get()) is not None:
                found.append(name)
        return found

    assert (await crash_everywhere(piped)).notes == ()


async def test_what_is_imported_meanwhile_is_no_part_of_the_workflow(
    anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module looks at the clock once, when it is first imported."""
    (tmp_path / "imported_late.py").write_text("import time\nBEGAN = time.time()\nFEE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_late", raising=False)

    @workflow
    async def priced() -> str:
        late = importlib.import_module("imported_late")
        return await fetch("x" * late.FEE)

    assert (await crash_everywhere(priced)).notes == ()


async def test_a_time_that_was_recorded_may_be_formatted(anyio_backend: str) -> None:
    """And a zone be read; only without a time do these functions read the clock."""

    @workflow
    async def dated(zone: str) -> str:
        now = (await taskflow.now()).timestamp()
        local = datetime.datetime.fromtimestamp(now, zoneinfo.ZoneInfo(zone))
        return await fetch(time.strftime("%Y", time.gmtime(now)) + str(local.tzinfo))

    assert (await crash_everywhere(lambda: dated("UTC"))).notes == ()


async def test_a_class_inside_of_a_workflow_is_right(anyio_backend: str) -> None:
    """What its instances hold begins anew with every run."""

    @workflow
    async def summed() -> int:
        class Sum:
            total = 0

            def add(self, number: int) -> None:
                self.total += number

        total = Sum()
        for name in ("a", "bb"):
            total.add(len(await fetch(name)))
        return total.total

    assert (await crash_everywhere(summed)).notes == ()


class Frozen(dict[str, int]):
    """Refuses to change."""

    def clear(self) -> None:
        raise TypeError("frozen")


FROZEN = Frozen(fee=3)


class Money:
    """Has a format of its own."""

    def __format__(self, spec: str) -> str:
        return f"3 {spec}"


async def test_calls_and_containers_of_other_kinds_are_left_as_they_are(
    anyio_backend: str,
) -> None:
    """Keywords, formats, sets that are kept in dictionaries, containers that cannot be changed."""

    @workflow
    async def various() -> list[str]:
        tags = {"of": set("abc")}
        tags["again"] = set("abc")
        tags["again"].add("d")
        parts = {"x": str(b"x", encoding="utf-8")}
        text = f"{Money():EUR} {FROZEN['fee']} {parts.pop('x')} {sorted({(0, 1), (1, 0)})}"
        return [await fetch(text), *[str(each) for each in {(0, 1), (1, 0)}]]

    assert (await crash_everywhere(various)).notes == ()


async def test_another_profiler_goes_on(anyio_backend: str) -> None:
    """cProfile's is in place again afterwards."""
    with cProfile.Profile() as profiler:
        await crash_everywhere(lambda: small("A1"), modes=["drop"], only="watch drop commit last")
        await anyio.lowlevel.checkpoint()
        Money().__format__("EUR")
    assert any(entry.code is Money.__format__.__code__ for entry in profiler.getstats())


# What is wrong in ways of its own.


async def test_a_mock_that_is_awaited_outside_of_tasks_is_found(anyio_backend: str) -> None:
    """It stands for a service, which every rerun would ask again."""
    charge = unittest.mock.AsyncMock(return_value="receipt")

    @workflow
    async def paid() -> str:
        return await fetch(await charge("A1"))

    assert "awaits a mock outside of tasks" in await failure(paid)


async def test_a_rerun_that_leaves_out_a_recorded_call_is_found(anyio_backend: str) -> None:
    """In a new process nobody has looked, and so nobody is asked."""
    DONE.clear()

    @task
    async def look(name: str) -> None:
        DONE.add(name)

    @workflow
    async def looked() -> None:
        await look("a")
        if "a" in DONE:
            await fetch("a")

    text = await failure(lambda: (DONE.clear(), looked())[1])
    assert "did not ask for fetch(name='a')" in text
    assert "changed meanwhile: DONE" in text


DONE: set[str] = set()
MANY = {number: {"a": number} for number in range(200_000)}


async def test_what_holds_too_much_is_not_looked_at_and_told(anyio_backend: str) -> None:
    """A table in memory: copies of it would take longer than the passes."""

    @workflow
    async def counted() -> str:
        return await fetch(str(len(MANY)))

    assert (await crash_everywhere(counted)).notes == (
        "MANY holds too much to look whether a rerun depends on it",
    )


async def test_a_run_that_does_not_end_says_where_it_is(anyio_backend: str) -> None:
    """And what it asks for again and again."""

    @workflow
    async def polling() -> None:
        number = 0
        while await fetch(str(number)):
            number += 1

    with pytest.raises(CrashTestFailed, match="did not end within 3 s") as failed:
        await crash_everywhere(polling, patience=3)
    assert "it has asked for fetch" in str(failed.value)
    assert "it was at " in str(failed.value)
    assert "test_crashes.py:" in str(failed.value)
