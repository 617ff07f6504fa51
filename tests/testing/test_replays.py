"""Recorded runs against changed code: what a deploy would do, while no body of a task executes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from kinds import KINDS, MakeStore

from taskflow import (
    CachePolicy,
    MemoryStore,
    RetryPolicy,
    RunPaused,
    Runtime,
    SQLiteStore,
    Workflow,
    as_completed,
    current,
    emit,
    now,
    previous,
    race,
    random,
    receive,
    save,
    sleep,
    task,
    uuid,
    workflow,
)
from taskflow.testing import NothingToReplay, RunReplay, Verdict, replay, replays

pytestmark = pytest.mark.anyio

bodies: list[str] = []  # the tasks whose bodies have executed, in this process


@pytest.fixture
def kind() -> str:
    """What is replayed is in memory, wherever it comes from: that is asked in `TestHistories`."""
    return "memory-asyncio"


@pytest.fixture(autouse=True)
def no_bodies() -> Iterator[None]:
    """Each test counts its own."""
    bodies.clear()
    yield
    bodies.clear()


class Declined(Exception):
    """The provider has said no."""


@task
async def charge(order: str, currency: str = "EUR") -> str:
    bodies.append(f"charge {order}")
    if order == "declined":
        raise Declined(order)
    return f"receipt for {order}"


@task
async def ship(order: str) -> str:
    bodies.append(f"ship {order}")
    return f"parcel {order}"


@task
async def notify(text: str) -> None:
    bodies.append(f"notify {text}")


@task
def stamp(text: str) -> str:
    bodies.append(f"stamp {text}")
    return text.upper()


@task(executor="process")
def weigh(text: str) -> int:
    Path(text).write_text("weighed")
    return 1


@task
async def pages(order: str) -> AsyncIterator[int]:
    for number in range(3):
        bodies.append(f"page {number} of {order}")
        yield number


@task
async def square(n: int) -> int:
    bodies.append(f"square {n}")
    return n * n


@workflow(name="fulfil")
async def fulfil(order: str) -> str:
    receipt = await charge(order)
    return f"{receipt}, {await ship(order)}"


async def replayed(history: Any, workflow: Workflow[..., Any, Any], **options: Any) -> RunReplay:
    """The entry of the only run; no body was executed for it."""
    before = list(bodies)
    report = await replay(history, workflow, **options)
    assert bodies == before
    assert msgspec.json.decode(msgspec.json.encode(report))["workflow"] == workflow.name
    assert str(report)
    (entry,) = report.runs
    return entry


def names(calls: Any) -> list[str]:
    """The names of the calls of an entry."""
    return [each.name for each in calls]


async def crashed(runtime: Runtime, call: Any, at: str, thread_id: str = "a") -> None:
    """Run ``call`` until the first body of the task ``at`` executes, and cut it off there."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await runtime.run(call, thread_id=thread_id)

        group.start_soon(run)
        with anyio.fail_after(30):
            while not any(each.startswith(at) for each in bodies):  # noqa: ASYNC110 - a list
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()


@task
async def hang(order: str) -> None:
    bodies.append(f"hang {order}")
    await anyio.sleep_forever()


class TestFinished:
    """A run that had succeeded."""

    async def test_unchanged_code_changes_nothing(self, runtime: Runtime) -> None:
        """The same calls and the same result."""
        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, fulfil)

        assert (entry.thread_id, entry.status, entry.verdict) == ("a", "success", "unchanged")
        assert not any([entry.executes, entry.ignores, entry.result, entry.error])

    async def test_other_arguments_are_shown_beside_the_recorded_ones(
        self, runtime: Runtime
    ) -> None:
        """The new call is held, so what follows it is not asked for."""

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return f"{await charge(order, currency='USD')}, {await ship(order)}"

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.verdict is Verdict.CHANGED
        (new,) = entry.executes
        assert new.arguments == {"order": "A1", "currency": "USD"}
        assert new.instead_of is not None
        assert new.instead_of.arguments == {"order": "A1"}
        assert new.instead_of.outcome == '"receipt for A1"'
        assert names(entry.ignores) == ["charge", "ship"]

    async def test_a_call_that_is_left_out_is_an_ignored_result(self, runtime: Runtime) -> None:
        """And the result differs by it."""

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return await ship(order)

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert (entry.executes, names(entry.ignores)) == ([], ["charge"])
        assert entry.result is not None
        assert entry.result.recorded == "receipt for A1, parcel A1"
        assert entry.result.now == "parcel A1"

    async def test_reordered_calls_and_new_defaults_change_nothing(self, runtime: Runtime) -> None:
        """Identity is by content."""

        @workflow(name="fulfil")
        async def changed(order: str, hurry: bool = False) -> str:
            parcel = await ship(order=order)
            return f"{await charge(order)}, {parcel}"

        await runtime.run(fulfil("A1"), thread_id="a")

        assert (await replayed(runtime, changed)).verdict == "unchanged"

    async def test_a_new_version_of_a_task_executes_anew(self, runtime: Runtime) -> None:
        """The report says that its arguments are the same."""

        @task(name="charge", version=2)
        async def charge_again(order: str) -> str:
            return await charge.fn(order)

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return f"{await charge_again(order)}, {await ship(order)}"

        await runtime.run(fulfil("A1"), thread_id="a")
        report = await replay(runtime, changed)

        assert names(report.changed[0].executes) == ["charge"]
        assert "put its version= or key= back" in str(report)

    async def test_a_renamed_task_is_told(self) -> None:
        """With the name that keeps its results."""
        store = MemoryStore()

        async def record() -> None:
            @task(name="dispatch of old")
            async def dispatch(order: str) -> str:
                return await ship.fn(order)

            @workflow(name="fulfil")
            async def old(order: str) -> str:
                return await dispatch(order)

            async with Runtime(store) as runtime:
                await runtime.run(old("A1"), thread_id="a")

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return await ship(order)

        await anyio.to_thread.run_sync(anyio.run, record)
        gc.collect()  # the old code is gone

        assert 'name="dispatch of old"' in str(await replay(store, changed))

    async def test_a_passed_new_parameter_is_told(self, runtime: Runtime) -> None:
        """A default that is not passed would change nothing."""

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return await charge(order, currency="USD") + await ship(order)

        await runtime.run(fulfil("A1"), thread_id="a")

        assert "charge is passed currency now" in str(await replay(runtime, changed))

    @pytest.mark.parametrize("value", [now, random, uuid])
    async def test_recorded_values_answer_and_new_ones_are_new_calls(
        self, runtime: Runtime, value: Any
    ) -> None:
        """now(), random() and uuid() are tasks like others."""

        @workflow(name="told")
        async def told(order: str) -> str:
            return f"{await value()}"

        @workflow(name="told")
        async def changed(order: str) -> str:
            return f"{await value()}" + f"{await value('again')}"

        await runtime.run(told("A1"), thread_id="a")

        assert (await replayed(runtime, told)).verdict == "unchanged"
        assert names((await replayed(runtime, changed)).executes) == [value.name]

    async def test_a_result_from_the_time_of_day_is_found(self, runtime: Runtime) -> None:
        """No call differs: the workflow itself is to blame, and is told so."""
        ticks = iter(range(100))

        @workflow(name="dated")
        async def dated(order: str) -> str:
            return f"{await ship(order)} at {next(ticks)}"

        await runtime.run(dated("A1"), thread_id="a")
        report = await replay(runtime, dated)

        assert report.changed[0].result is not None
        assert "belongs into a task" in str(report)

    async def test_sets_and_fields_in_another_order_are_the_same(self, runtime: Runtime) -> None:
        """What is compared is the value, not its bytes."""
        order = ["a", "b"]

        @workflow(name="fields")
        async def fields(name: str) -> dict[str, int]:
            return dict.fromkeys(order, 1)

        await runtime.run(fields("A1"), thread_id="a")
        order.reverse()

        assert (await replayed(runtime, fields)).verdict == "unchanged"

    async def test_what_raises_where_it_had_not_is_an_error(self, runtime: Runtime) -> None:
        """Type and message are told."""

        @workflow(name="fulfil")
        async def broken(order: str) -> str:
            await charge(order)
            raise LookupError("no such column")

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, broken)

        assert entry.error == "LookupError: no such column"
        assert names(entry.ignores) == ["ship"]

    async def test_a_recorded_result_of_another_type_is_an_error(self, runtime: Runtime) -> None:
        """The task's annotation has changed, and its records do not fit it."""

        @task(name="ship")
        async def ship_numbers(order: str) -> int:
            return 1

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return f"{await charge(order)}, {await ship_numbers(order)}"

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.error is not None
        assert "SerializationError" in entry.error

    async def test_an_input_that_is_not_read_any_more_is_an_error(self, runtime: Runtime) -> None:
        """A parameter has another type now."""

        @workflow(name="fulfil")
        async def changed(order: int) -> str:
            return ""

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.error is not None
        assert "SerializationError" in entry.error

    async def test_a_recorded_result_that_is_not_read_any_more_is_an_error(
        self, runtime: Runtime
    ) -> None:
        """Who asks again is answered from the record, and would get that error."""

        @workflow(name="fulfil")
        async def old(order: str) -> Any:
            return [1]

        @workflow(name="fulfil")
        async def changed(order: str) -> int:
            return 1

        await runtime.run(old("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.error is not None
        assert "SerializationError" in entry.error

    @pytest.mark.parametrize("what", ["version", "parameter"])
    async def test_a_call_that_means_another_run_now_is_an_error(
        self, runtime: Runtime, what: str
    ) -> None:
        """The same request would begin a new run, though every call fits."""

        @workflow(name="fulfil", version="2" if what == "version" else "")
        async def version(order: str) -> str:
            return f"{await charge(order)}, {await ship(order)}"

        @workflow(name="fulfil")
        async def parameter(number: str = "A1") -> str:
            return f"{await charge(number)}, {await ship(number)}"

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, {"version": version, "parameter": parameter}[what])

        assert entry.error is not None
        assert ("HistoryMismatch" in entry.error) or ("SerializationError" in entry.error)

    async def test_a_task_name_with_two_meanings_is_an_error(self, runtime: Runtime) -> None:
        """As it is at the call."""

        @task(name="ship")
        async def other(order: str) -> str:
            return ""

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            return f"{await charge(order)}, {await ship(order)}{await other(order)}"

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.error is not None
        assert entry.error.startswith("TaskNameConflict")

    async def test_previous_and_save_see_what_they_saw(self, runtime: Runtime) -> None:
        """Each run of a thread is given what was saved before it, not what was saved last."""

        @workflow(name="chat")
        async def chat(text: str) -> int:
            told = [*(previous(list[str]) or []), await stamp(text)]
            save(told)
            return len(told)

        @workflow(name="chat")
        async def changed(text: str) -> int:
            told = [*(previous(list[str]) or []), await stamp(text)]
            save([each.lower() for each in told])
            return len(told)

        for number in range(5):
            await runtime.run(chat(f"line {number}"), thread_id="a")
        report = await replay(runtime, chat)
        assert [each.verdict for each in report.runs] == ["unchanged"] * 5

        report = await replay(runtime, changed)
        assert len(report.changed) == 5
        assert report.changed[4].saved is not None
        assert report.changed[1].saved.now == ["line 0", "line 1"]  # type: ignore[union-attr]

    async def test_a_run_knows_its_thread_and_its_key(self, runtime: Runtime) -> None:
        """What ``current()`` gives may be an argument."""

        @workflow(name="placed")
        async def placed(order: str) -> str:
            return await ship(f"{current().thread_id} {current().idempotency_key}")

        await runtime.run(placed("A1"), thread_id="a", run_id="message-1")

        assert (await replayed(runtime, placed)).verdict == "unchanged"

    async def test_emitted_values_are_neither_executed_nor_ignored(self, runtime: Runtime) -> None:
        """More or fewer of them change nothing that is recorded."""

        @workflow(name="telling")
        async def telling(order: str) -> str:
            await emit("begun")
            return await ship(order)

        @workflow(name="telling")
        async def changed(order: str) -> str:
            await emit("another")
            await emit("and another")
            return await ship(order)

        await runtime.run(telling("A1"), thread_id="a")

        assert (await replayed(runtime, telling)).verdict == "unchanged"
        assert (await replayed(runtime, changed)).verdict == "unchanged"

    async def test_no_kind_of_body_executes(self, runtime: Runtime, tmp_path: Path) -> None:
        """Neither def, process, nor generator tasks, nor those with a cache or a policy."""

        @task(cache=CachePolicy(), retry=RetryPolicy(max_attempts=5))
        async def shared(order: str) -> str:
            bodies.append("shared")
            return order

        @workflow(name="nothing")
        async def nothing(order: str) -> list[Any]:
            return []

        @workflow(name="nothing")
        async def everything(order: str) -> list[Any]:
            calls = weigh(order), stamp("a"), pages("a"), shared("a")
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(_awaited, call)
            return []

        @workflow(name="nothing")
        async def recorded(order: str) -> list[Any]:
            await ship(order)
            return []

        file = tmp_path / "weighed"
        await runtime.run(recorded(str(file)), thread_id="a")

        entry = await replayed(runtime, everything)

        assert sorted(names(entry.executes)) == ["pages", "shared", "stamp", "weigh"]
        assert not file.exists()


async def _awaited(call: Any) -> None:
    await call


class TestUnfinished:
    """A run that was cut off, has failed, or waits."""

    @pytest.fixture(params=["memory-asyncio", "memory-trio"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        """On both loops."""
        return str(request.param)

    async def test_what_follows_all_that_is_recorded_is_what_it_would_do_next(
        self, runtime: Runtime
    ) -> None:
        """That is no change, whatever it is."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> str:
            await charge(order)
            await hang(order)
            return ""

        await crashed(runtime, hanging("A1"), "hang")

        same = await replayed(runtime, hanging)
        other = await replayed(runtime, fulfil)

        assert (same.verdict, names(same.goes_on_with)) == ("unchanged", ["hang"])
        assert (other.verdict, names(other.goes_on_with)) == ("unchanged", ["ship"])
        assert not any([other.executes, other.ignores])
        assert "would go on with ship" in str(other)

    async def test_an_inserted_step_before_what_is_recorded_is_told(self, runtime: Runtime) -> None:
        """It would execute before the recorded ones are asked for."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> None:
            await charge(order)
            await ship(order)
            await hang(order)

        @workflow(name="fulfil")
        async def changed(order: str) -> None:
            await charge(order)
            await notify(order)
            await ship(order)
            await hang(order)

        await crashed(runtime, hanging("A1"), "hang")

        entry = await replayed(runtime, changed)

        assert (entry.verdict, names(entry.executes)) == ("changed", ["notify"])
        assert names(entry.ignores) == ["ship"]

    async def test_other_arguments_of_a_recorded_call_are_told(self, runtime: Runtime) -> None:
        """The charge of an order that is under way would be made again."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> None:
            await charge(order)
            await hang(order)

        @workflow(name="fulfil")
        async def changed(order: str) -> None:
            await charge(order, currency="USD")
            await hang(order)

        await crashed(runtime, hanging("A1"), "hang")

        entry = await replayed(runtime, changed)

        assert entry.verdict == "changed"
        assert entry.executes[0].instead_of is not None
        assert entry.executes[0].instead_of.arguments == {"order": "A1"}

    async def test_a_failed_run_executes_again_what_has_ended_it(self, runtime: Runtime) -> None:
        """And only that: this is no drift, also where something was recorded after the failure."""

        @workflow(name="fulfil")
        async def failing(order: str) -> None:
            await ship(order)
            try:
                await charge("declined")
            except Declined as error:
                await notify("declined")
                raise LookupError(order) from error

        with pytest.raises(LookupError):
            await runtime.run(failing("A1"), thread_id="a")

        entry = await replayed(runtime, failing)

        assert (entry.status, entry.verdict) == ("error", "unchanged")
        assert names(entry.goes_on_with) == ["charge"]
        assert not entry.ignores

    async def test_a_handled_failure_is_met_again(self, runtime: Runtime) -> None:
        """A workflow that raises an error of its own fails again; one that was mended does not."""

        @workflow(name="fulfil")
        async def failing(order: str) -> str:
            try:
                return await charge("declined")
            except Declined:
                await notify("declined")
                raise LookupError(order)  # noqa: B904 - it has handled it

        @workflow(name="fulfil")
        async def mended(order: str) -> str:
            try:
                return await charge("declined")
            except Declined:
                await notify("declined")
                return "declined"

        @workflow(name="fulfil")
        async def careless(order: str) -> str:
            return await charge("declined")

        with pytest.raises(LookupError):
            await runtime.run(failing("A1"), thread_id="a")

        again, well, worse = [await replayed(runtime, each) for each in (failing, mended, careless)]
        assert (again.verdict, well.verdict) == ("unchanged", "unchanged")
        assert (again.note, well.note) == ("would fail again with LookupError", "would succeed")
        assert (worse.verdict, worse.error) == ("changed", "Declined: declined")

    async def test_what_raises_now_before_it_goes_on_is_an_error(self, runtime: Runtime) -> None:
        """In-flight runs would fail on the next deploy."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> None:
            await charge(order)
            await hang(order)

        @workflow(name="fulfil")
        async def broken(order: str) -> None:
            await charge(order)
            raise KeyError(order)

        await crashed(runtime, hanging("A1"), "hang")

        entry = await replayed(runtime, broken)

        assert (entry.verdict, entry.error) == ("changed", "KeyError: 'A1'")

    async def test_a_run_waits_where_it_waited(self, runtime: Runtime) -> None:
        """For a signal and a time: nothing changes."""

        @workflow(name="ask")
        async def ask(person: str) -> str:
            await notify(person)
            answer, _ = await asyncio_free_gather(receive("answer", str), sleep(3600))
            return str(answer)

        with pytest.raises(RunPaused):
            await runtime.run(ask("Ann"), thread_id="a")

        entry = await replayed(runtime, ask)

        assert (entry.status, entry.verdict) == ("paused", "unchanged")
        assert sorted(names(entry.waits)) == ["taskflow.receive", "taskflow.sleep"]
        assert entry.in_short == "would wait for a timer, the signal 'answer'"

    @pytest.mark.parametrize("change", ["prompt", "name", "gone", "later"])
    async def test_a_wait_that_is_asked_anew_is_told(self, runtime: Runtime, change: str) -> None:
        """Somebody was asked already."""

        @workflow(name="ask")
        async def ask(person: str) -> str:
            return await receive("answer", str, prompt={"to": person})

        @workflow(name="ask")
        async def changed(person: str) -> str:
            if change == "gone":
                return person
            if change == "later":
                await notify(person)
            name = "reply" if change == "name" else "answer"
            return await receive(name, str, prompt={"to": person, "new": change == "prompt"})

        with pytest.raises(RunPaused):
            await runtime.run(ask("Ann"), thread_id="a")

        entry = await replayed(runtime, changed)

        assert entry.verdict == "changed"
        assert names(entry.ignores) == ["taskflow.receive"]
        if change in ("prompt", "name"):
            assert entry.executes[0].instead_of is not None
            assert entry.executes[0].instead_of.arguments["prompt"] == {"to": "Ann"}

    async def test_a_wait_inside_a_task_is_not_missed(self, runtime: Runtime) -> None:
        """The task is held before it can ask; another one in its place is told."""

        @task(name="consult")
        async def consult(person: str) -> str:
            return await receive("answer", str, prompt=person)

        @workflow(name="ask")
        async def ask(person: str) -> str:
            return await consult(person)

        @workflow(name="ask")
        async def changed(person: str) -> str:
            return await consult(f"{person} and Bob")

        with pytest.raises(RunPaused):
            await runtime.run(ask("Ann"), thread_id="a")

        same, other = await replayed(runtime, ask), await replayed(runtime, changed)

        assert (same.verdict, names(same.goes_on_with)) == ("unchanged", ["consult"])
        assert (other.verdict, names(other.executes)) == ("changed", ["consult"])

    async def test_an_answered_wait_is_history(self, runtime: Runtime) -> None:
        """A run that has gone on is replayed past its waits."""

        @workflow(name="ask")
        async def ask(person: str) -> str:
            await sleep(0.001)
            answer = await receive("answer", str)
            return await stamp(answer)

        with pytest.raises(RunPaused):
            await runtime.run(ask("Ann"), thread_id="a")
        await runtime.send("a", "answer", "yes")
        assert await runtime.run(ask("Ann"), thread_id="a") == "YES"

        assert (await replayed(runtime, ask)).verdict == "unchanged"

    async def test_a_run_that_nobody_has_begun_to_execute_goes_on_from_its_first_call(
        self, runtime: Runtime
    ) -> None:
        """Nothing is recorded of it."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> None:
            await hang(order)

        await crashed(runtime, hanging("A1"), "hang")

        assert names((await replayed(runtime, fulfil)).goes_on_with) == ["charge"]

    async def test_cancelled_and_superseded_runs_are_skipped(self, runtime: Runtime) -> None:
        """They are never continued."""

        @workflow(name="fulfil")
        async def hanging(order: str) -> None:
            await charge(order)
            await hang(order)

        await crashed(runtime, hanging("A1"), "hang")
        await runtime.run(fulfil("A2"), thread_id="a", supersede=True)

        first, second = (await replay(runtime, fulfil)).runs

        assert (first.verdict, first.status) == ("skipped", "cancelled")
        assert (second.verdict, second.status) == ("unchanged", "success")


async def asyncio_free_gather(*calls: Any) -> list[Any]:
    """What asyncio.gather does, on trio too."""
    results: list[Any] = [None] * len(calls)

    async def keep(index: int, call: Any) -> None:
        results[index] = await call

    async with anyio.create_task_group() as group:
        for index, call in enumerate(calls):
            group.start_soon(keep, index, call)
    return results


class TestForms:
    """Calls that are made otherwise than one after another."""

    @pytest.fixture(params=["memory-asyncio", "memory-trio"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        """On both loops."""
        return str(request.param)

    async def test_a_map_asks_for_every_recorded_item(self, runtime: Runtime) -> None:
        """Also where more new ones come before it than may execute at a time."""

        @workflow(name="squares")
        async def squares(count: int) -> list[int]:
            return await square.map(range(count), concurrency=3)

        @workflow(name="squares")
        async def changed(count: int) -> list[int]:
            return await square.map(range(-40, count), concurrency=2)

        await runtime.run(squares(100), thread_id="a")

        assert (await replayed(runtime, squares)).verdict == "unchanged"
        entry = await replayed(runtime, changed)
        assert len(entry.executes) == 40
        assert not entry.ignores

    async def test_an_unfinished_map_goes_on(self, runtime: Runtime) -> None:
        """With fewer at a time, too."""

        @task(name="cube")
        async def cube(n: int) -> int:
            if n % 10 == 9:
                bodies.append("stuck")
                await anyio.sleep_forever()
            return n

        def cubes(concurrency: int) -> Workflow[..., Any, Any]:
            @workflow(name="cubes")
            async def of(count: int) -> list[int]:
                return await cube.map(range(count), concurrency=concurrency)

            return of

        async with anyio.create_task_group() as group:
            call = cubes(8)(65)

            async def run() -> None:
                await runtime.run(call, thread_id="a")

            group.start_soon(run)
            with anyio.fail_after(30):
                while len(await runtime.tasks("a") if bodies else []) < 59:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
            group.cancel_scope.cancel()

        for concurrency in (8, 2, 1):
            entry = await replayed(runtime, cubes(concurrency))
            assert entry.verdict == "unchanged", str(entry)
            assert set(names(entry.goes_on_with)) == {"cube"}

    async def test_the_winner_of_a_race_wins_again(self, runtime: Runtime) -> None:
        """The others are neither new nor ignored, whatever they had begun."""

        @workflow(name="either")
        async def either(order: str) -> str:
            winner = await race(slow_child(order), ship(order))
            return f"{winner} {await stamp('x')}"

        await runtime.run(either("A1"), thread_id="a")

        assert (await replayed(runtime, either)).verdict == "unchanged"

    async def test_an_undecided_race_is_held(self, runtime: Runtime) -> None:
        """All of its arms are what it goes on with; a wait in it is waited for."""

        @workflow(name="either")
        async def either(order: str) -> Any:
            return await race(hang(order), charge("declined"), receive("answer"))

        await crashed(runtime, either("A1"), "hang")

        entry = await replayed(runtime, either)

        assert entry.verdict == "unchanged"
        assert "hang" in names(entry.goes_on_with)
        assert names(entry.waits) == ["taskflow.receive"]

    async def test_results_as_they_came(self, runtime: Runtime) -> None:
        """A block that was left early asks for no more than it did."""

        @workflow(name="first")
        async def first(count: int) -> list[int]:
            found: list[int] = []
            async with as_completed(*[square(n) for n in range(count)], hang("x")) as results:
                async for result in results:
                    found.append(result or 0)
                    if len(found) == count:
                        break
            return [*found, len(await stamp("x"))]

        await runtime.run(first(5), thread_id="a")

        assert (await replayed(runtime, first)).verdict == "unchanged"

    async def test_a_child_workflow_is_executed_as_far_as_it_is_recorded(
        self, runtime: Runtime
    ) -> None:
        """Its body is none of a task: its recorded calls answer, and new ones are held."""

        @workflow(name="outer")
        async def outer(order: str) -> None:
            await charge(order)
            await slow_child(order)

        @workflow(name="outer")
        async def changed(order: str) -> None:
            await charge(order)
            await slow_child(order.lower())

        await crashed(runtime, outer("A1"), "hang")

        same, other = await replayed(runtime, outer), await replayed(runtime, changed)

        assert (same.verdict, names(same.goes_on_with)) == ("unchanged", ["hang"])
        assert other.verdict == "changed"
        assert names(other.ignores) == ["stamp"]
        assert other.executes[0].arguments == {"text": "a1"}
        assert other.executes[0].instead_of is not None

    async def test_what_an_unrecorded_task_has_recorded_is_its_own(self, runtime: Runtime) -> None:
        """Its body does not execute, so nobody knows what it would ask for."""

        @task(name="handle")
        async def handle(order: str) -> None:
            await stamp(order)
            await hang(order)

        @workflow(name="outer")
        async def outer(order: str) -> None:
            await handle(order)

        await crashed(runtime, outer("A1"), "hang")

        entry = await replayed(runtime, outer)

        assert (entry.verdict, names(entry.goes_on_with)) == ("unchanged", ["handle"])

    async def test_calls_of_recorded_calls_are_not_asked_for(self, runtime: Runtime) -> None:
        """Neither those of a task nor those of a workflow."""

        @task(name="handle")
        async def handle(order: str) -> str:
            return await stamp(order)

        @workflow(name="inner")
        async def inner(order: str) -> str:
            return await stamp(order)

        @workflow(name="outer")
        async def outer(order: str) -> str:
            return await handle(order) + await inner(order)

        await runtime.run(outer("A1"), thread_id="a")

        assert (await replayed(runtime, outer)).verdict == "unchanged"

    async def test_a_cancelled_sibling_is_no_new_call(self, runtime: Runtime) -> None:
        """It was begun and cancelled as the other one failed, then and now."""

        @workflow(name="pair")
        async def pair(order: str) -> str:
            try:
                await asyncio_free_gather(hang(order), charge("declined"))
            except* Declined:
                pass
            return await ship(order)

        await runtime.run(pair("A1"), thread_id="a")

        assert (await replayed(runtime, pair)).verdict == "unchanged"

    async def test_a_call_that_a_time_limit_had_cut_off_is_cut_off_again(
        self, runtime: Runtime
    ) -> None:
        """Before it is taken for one that holds everything up."""

        @workflow(name="limited")
        async def limited(order: str) -> str:
            with anyio.move_on_after(0.2):
                await hang(order)
            return await ship(order)

        await runtime.run(limited("A1"), thread_id="a")

        assert (await replayed(runtime, limited)).verdict == "unchanged"

    async def test_a_retried_workflow_is_attempted_again_at_once(self, runtime: Runtime) -> None:
        """No back-off is waited for; what its last attempt did is what is recorded."""
        failing = [True, True]

        @workflow(name="stubborn", retry=RetryPolicy(max_attempts=9, initial_interval=0.001))
        async def stubborn(order: str) -> str:
            receipt = await charge(order)
            if failing and failing.pop():
                raise ConnectionError(order)
            return receipt

        @workflow(name="stubborn", retry=RetryPolicy(max_attempts=9, initial_interval=3600))
        async def broken(order: str) -> str:
            await charge(order)
            raise ConnectionError(order)

        await runtime.run(stubborn("A1"), thread_id="a")

        assert (await replayed(runtime, stubborn)).verdict == "unchanged"
        assert (await replayed(runtime, broken)).error == "ConnectionError: A1"

    async def test_a_workflow_that_never_gives_up_is_cut_off(self, runtime: Runtime) -> None:
        """After a hundred attempts nobody learns more."""

        @workflow(name="fulfil", retry=RetryPolicy(max_attempts=10**9, max_interval=0))
        async def broken(order: str) -> str:
            raise ConnectionError(order)

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, broken)

        assert entry.error is not None
        assert "again and again" in entry.error

    async def test_def_workflows_are_replayed_in_worker_threads(self, runtime: Runtime) -> None:
        """Also while one computes for longer than a run is idle."""

        @workflow(name="plain")
        def plain(order: str) -> str:
            receipt = charge(order).result()
            time.sleep(0.3)
            return receipt + ship(order).result()

        @workflow(name="plain")
        def changed(order: str) -> str:
            charge(order).result()
            return stamp(order).result() + ship(order).result()

        await runtime.run(plain("A1"), thread_id="a")

        assert (await replayed(runtime, plain)).verdict == "unchanged"
        entry = await replayed(runtime, changed)
        assert (names(entry.executes), names(entry.ignores)) == (["stamp"], ["ship"])

    async def test_plain_awaits_are_waited_for(self, runtime: Runtime) -> None:
        """Though they belong into tasks."""

        @workflow(name="plain")
        async def plain(order: str) -> str:
            await charge(order)
            await anyio.sleep(0.4)
            return await ship(order)

        await runtime.run(plain("A1"), thread_id="a")

        assert (await replayed(runtime, plain)).verdict == "unchanged"

    async def test_a_child_that_awaits_plain_things_is_waited_for(self, runtime: Runtime) -> None:
        """Also beside a call that is held."""

        @workflow(name="lagging")
        async def lagging(order: str) -> None:
            await anyio.sleep(0.8)
            await ship(order)
            await hang("later")

        @workflow(name="outer")
        async def outer(order: str) -> None:
            await asyncio_free_gather(hang(order), lagging(order))

        await crashed(runtime, outer("A1"), "hang later")

        entry = await replayed(runtime, outer)

        assert entry.verdict == "unchanged", str(entry)
        assert names(entry.goes_on_with) == ["hang", "hang"]

    async def test_patience_with_plain_awaits_ends(self, runtime: Runtime) -> None:
        """The report says in which line the workflow hangs."""

        @workflow(name="fulfil")
        async def stuck(order: str) -> str:
            await charge(order)
            await anyio.sleep_forever()
            return await ship(order)

        await runtime.run(fulfil("A1"), thread_id="a")

        entry = await replayed(runtime, stuck, patience=0.2)

        assert entry.verdict == "changed"
        assert entry.error is not None
        assert f"{Path(__file__).name}, line" in entry.error
        assert names(entry.ignores) == ["ship"]

    async def test_calls_that_were_cut_off_do_not_warn(self, runtime: Runtime) -> None:
        """Those that were made and not awaited yet: warnings are errors here."""

        @workflow(name="fulfil")
        async def listed(order: str) -> str:
            calls = [stamp("a"), stamp("b"), stamp("c")]
            return "".join([await each for each in calls])

        await runtime.run(fulfil("A1"), thread_id="a")

        assert names((await replayed(runtime, listed)).executes) == ["stamp"]

    @pytest.mark.parametrize("how", ["cut off", "cancelled"])
    async def test_calls_behind_shields_are_cut_off_too(self, runtime: Runtime, how: str) -> None:
        """Neither a verdict nor the cancellation of the whole replay waits for them."""

        @workflow(name="fulfil")
        async def shielded(order: str) -> str:
            calls = [stamp(order), notify(order)]
            with anyio.CancelScope(shield=True):
                return f"{await calls[0]}{await calls[1]}"

        await runtime.run(fulfil("A1"), thread_id="a")

        with anyio.fail_after(30), anyio.move_on_after(0.2 if how == "cancelled" else 20) as scope:
            assert names((await replayed(runtime, shielded)).executes) == ["stamp"]
        assert scope.cancelled_caught == (how == "cancelled")

    async def test_a_workflow_that_handles_everything_is_cut_off_too(
        self, runtime: Runtime
    ) -> None:
        """What it does when it is cancelled is not part of the report."""

        @workflow(name="fulfil")
        async def careful(order: str) -> str:
            try:
                return await stamp(order)
            finally:
                await notify(order)

        await runtime.run(fulfil("A1"), thread_id="a")

        assert names((await replayed(runtime, careful)).executes) == ["stamp"]


@workflow(name="child")
async def slow_child(order: str) -> str:
    await stamp(order)
    await hang(order)
    return order


class TestHistories:
    """Where recorded runs come from."""

    @pytest.fixture(params=list(KINDS))
    def kind(self, request: pytest.FixtureRequest) -> str:
        """From every kind of store."""
        return str(request.param)

    @pytest.fixture
    async def lines(self, runtime: Runtime) -> list[str]:
        """Two exported threads, one after the other."""
        lines: list[str] = []
        for thread_id in ("a", "b"):
            await runtime.run(fulfil(thread_id), thread_id=thread_id)
            lines += [line async for line in runtime.export(thread_id)]
        return lines

    async def test_lines_and_files_and_several_of_them(
        self, lines: list[str], tmp_path: Path
    ) -> None:
        """An open file, its path, a list of either; concatenated exports."""
        file = tmp_path / "runs.jsonl"
        file.write_text("".join(lines))

        def opened() -> Any:
            return open(file, "rb")

        files = [opened(), opened(), opened()]
        histories: list[Any] = [lines, iter(lines), file, str(file), [file, str(file)], files[0]]
        histories += [[files[1], files[2]], ["\n", *lines], _one_by_one(lines)]
        for history in histories:
            report = await replay(history, fulfil)
            several = 2 if isinstance(history, list) and len(history) == 2 else 1
            assert [each.thread_id for each in report.runs] == ["a", "b"] * several
            assert report.is_unchanged
        for each in files:
            each.close()

    async def test_a_damaged_export_is_refused(self, lines: list[str]) -> None:
        """Nothing is said of what may be half of the truth."""
        for cut in (lines[:-1], lines[1:], [*lines, "{}"]):
            with pytest.raises(ValueError, match="line"):
                await replay(cut, fulfil)

    async def test_one_thread_or_status_may_be_asked_for(self, runtime: Runtime) -> None:
        """Others are left out."""
        await runtime.run(fulfil("A1"), thread_id="a")
        await runtime.run(fulfil("A2"), thread_id="b")
        with pytest.raises(Declined):
            await runtime.run(fulfil("declined"), thread_id="c")

        for options, threads in (
            ({"thread_id": "b"}, ["b"]),
            ({"status": "error"}, ["c"]),
            ({"status": ["error", "success"]}, ["a", "b", "c"]),
            ({"status": "success", "thread_id": "a"}, ["a"]),
        ):
            report = await replay(runtime, fulfil, **options)  # type: ignore[arg-type]
            assert sorted(each.thread_id for each in report.runs) == threads

    async def test_nothing_to_replay_is_an_error(self, runtime: Runtime) -> None:
        """A workflow that was renamed would pass every check; blocks have no workflow."""

        @workflow(name="renamed")
        async def renamed(order: str) -> str:
            return await fulfil.fn(order)

        await runtime.run(fulfil("A1"), thread_id="a")
        async with runtime.thread("block"):
            await stamp("x")

        with pytest.raises(NothingToReplay, match="'fulfil'"):
            await replay(runtime, renamed)
        with pytest.raises(NothingToReplay):
            await replay(runtime, fulfil, thread_id="nowhere")
        report = await replay(runtime, fulfil)
        assert report.others == {"": 1}
        assert "blocks, which have no workflow" in str(report)

    async def test_a_pruned_run_is_skipped(self, runtime: Runtime) -> None:
        """Its result is kept for ``previous``, and its calls are not."""
        for order in ("A1", "A2"):
            await runtime.run(fulfil(order), thread_id="a")
        await runtime.prune(keep_last=1)

        report = await replay(runtime, fulfil)

        assert [each.verdict for each in report.runs] == ["skipped", "unchanged"]
        assert report.is_unchanged

    async def test_nothing_is_written_to_the_history(
        self, runtime: Runtime, make_store: MakeStore
    ) -> None:
        """Neither to an open runtime's nor to a store's that is opened for it."""

        @workflow(name="fulfil")
        async def changed(order: str) -> str:
            await emit("told")
            return await stamp(order)

        await runtime.run(fulfil("A1"), thread_id="a")
        before = [line async for line in runtime.export("a")][1:-1]

        for history in (runtime, make_store()):
            assert (await replayed(history, changed)).verdict == "changed"

        assert [line async for line in runtime.export("a")][1:-1] == before

    async def test_a_run_that_executes_now_is_left_alone(self, runtime: Runtime) -> None:
        """Its owner goes on, and does not notice."""

        @workflow(name="fulfil")
        async def waiting(order: str) -> str:
            await charge(order)
            return await receive("answer", str)

        handle = await runtime.start(waiting("A1"), thread_id="a")
        async with runtime.subscribe("a") as events:
            async for event in events:
                if type(event).__name__ == "Waiting":
                    break

        assert (await replayed(runtime, waiting)).verdict == "unchanged"
        await runtime.send("a", "answer", "yes")
        assert await handle.result() == "yes"

    async def test_a_damaged_row_is_told(self) -> None:
        """With thread and task, and the other runs are replayed."""
        store = MemoryStore()
        async with Runtime(store) as runtime:
            for thread_id in ("a", "b"):
                await runtime.run(fulfil("A1"), thread_id=thread_id)
        rows = store._tables.checkpoints.by_thread["a"]
        (first, *_) = rows
        bad = msgspec.structs.replace(rows[first].checkpoint, payload=b'"forged"')
        rows[first] = msgspec.structs.replace(rows[first], checkpoint=bad)

        entries = {each.thread_id: each for each in (await replay(store, fulfil)).runs}

        assert entries["b"].verdict == "unchanged"
        assert entries["a"].error is not None
        assert entries["a"].error.startswith("CheckpointCorrupt")

    async def test_wrong_use_is_told(self, tmp_path: Path) -> None:
        """Before anything is read."""
        (tmp_path / "text").write_text("hello")
        with pytest.raises(TypeError, match="a history and a workflow"):
            await replay([], charge)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a history is"):
            await replay(7, fulfil)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="neither a SQLite file nor"):
            await replay(tmp_path / "text", fulfil)
        with pytest.raises(FileNotFoundError):
            await replay(tmp_path / "nowhere", fulfil)
        with pytest.raises(ValueError, match="sideways"):
            await replay([], fulfil, status="sideways")

    async def test_what_the_report_callback_raises_is_raised(self, runtime: Runtime) -> None:
        """As it is, in no group."""
        await runtime.run(fulfil("A1"), thread_id="a")

        def report(entry: RunReplay) -> None:
            raise BrokenPipeError(entry.thread_id)

        with pytest.raises(BrokenPipeError):
            await replay(runtime, fulfil, report=report)


async def _one_by_one(lines: list[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line


async def test_a_database_is_read_by_its_path(tmp_path: Path) -> None:
    """On asyncio, where SQLite is."""
    async with Runtime(tmp_path / "runs.db") as runtime:
        await runtime.run(fulfil("A1"), thread_id="a")

    assert (await replayed(tmp_path / "runs.db", fulfil)).verdict == "unchanged"
    assert (await replayed(os.fspath(tmp_path / "runs.db"), fulfil)).verdict == "unchanged"
    assert (await replayed(SQLiteStore(tmp_path / "runs.db"), fulfil)).verdict == "unchanged"


def test_the_program_in_the_docstring_is_a_program() -> None:
    """As it stands there."""
    assert replays.__doc__ is not None
    lines = [line for line in replays.__doc__.splitlines() if line.startswith("    ") or not line]
    exec(compile(textwrap.dedent("\n".join(lines)), "docstring", "exec"), {"__name__": "program"})


async def test_thousands_of_runs_take_seconds() -> None:
    """Each in its own place in the report, whether it ends, halts or changes."""
    store = MemoryStore()

    @workflow(name="fulfil")
    async def changed(order: str) -> str:
        if order.endswith("7"):
            return await stamp(order)
        return f"{await charge(order)}, {await ship(order)}"

    async with Runtime(store, durability="exit") as runtime:
        for number in range(1000):
            await runtime.run(fulfil(f"A{number}"), thread_id=f"order-{number}")
    executed = len(bodies)
    begun = time.monotonic()

    report = await replay(store, changed)

    assert len(bodies) == executed
    assert [each.thread_id for each in report.runs] == [f"order-{n}" for n in range(999, -1, -1)]
    assert {each.thread_id for each in report.changed} == {
        f"order-{number}" for number in range(7, 1000, 10)
    }
    assert len(str(report).splitlines()) < 40  # what is alike is said once
    assert time.monotonic() - begun < 30


async def test_native_groups_and_gather_of_asyncio() -> None:
    """Held calls are hosted by tasks of asyncio, and are cut off with them."""
    store = MemoryStore()

    @workflow(name="fulfil")
    async def changed(order: str) -> str:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(charge(order))
            group.create_task(notify(order))
        return first.result() + "".join(await asyncio.gather(ship(order), stamp(order)))

    async with Runtime(store) as runtime:
        await runtime.run(fulfil("A1"), thread_id="a")

    entry = await replayed(store, changed)

    assert (names(entry.executes), names(entry.ignores)) == (["notify"], ["ship"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, but for the index of a log that is in use."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix != ".db-shm"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("schema", [2, 3])
async def test_a_file_is_left_as_it_is(tmp_path: Path, schema: int, anyio_backend: str) -> None:
    """Not a byte changes, nothing comes beside it, and an older version may go on using it."""
    path = tmp_path / "files" / "some.db"
    path.parent.mkdir()

    @workflow
    async def working() -> str:
        return "done"

    async with Runtime(path) as runtime:
        await runtime.run(working(), thread_id="t")
    if schema == 2:
        path.unlink()
        script = Path(__file__).parents[1] / "schemas" / "2.sql"
        with closing(sqlite3.connect(path)) as db:
            db.executescript(script.read_text())
    before = contents(path.parent)

    with contextlib.suppress(NothingToReplay):
        assert (await replay(path, working)).is_unchanged
    assert contents(path.parent) == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_that_is_in_use_is_read_with_its_log(
    tmp_path: Path, anyio_backend: str
) -> None:
    """What was committed a moment ago is among what is replayed."""

    @workflow
    async def working() -> str:
        return "done"

    async with Runtime(tmp_path / "some.db") as runtime:
        await runtime.run(working(), thread_id="t")
        before = contents(tmp_path)
        assert (await replay(tmp_path / "some.db", working)).is_unchanged
        assert contents(tmp_path) == before
