"""Never run, only read by the type checkers: what waits give, and what they refuse."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from msgspec import Struct

from taskflow import (
    Call,
    RunHandle,
    RunPaused,
    Runtime,
    now,
    random,
    receive,
    sleep,
    sleep_until,
    task,
    uuid,
    workflow,
)
from taskflow.loops.clocks import Clock
from taskflow.records import RunRecord, Wait


class Decision(Struct):
    approved: bool


class SettableClock(Clock):
    def now(self) -> float:
        return 0.0


@task
async def confirm(order: str) -> bool:
    return (await receive(order, Decision, prompt={"order": order}, timeout=60)).approved


@workflow
async def approve(order: str) -> bool:
    await sleep(1)
    return await confirm(order)


@workflow
def approve_in_thread(order: str) -> bool:
    sleep(0.5).result()
    return receive(order, Decision).result().approved


async def what_is_inferred(runtime: Runtime, handle: RunHandle[bool], record: RunRecord) -> None:
    assert_type(receive("approval", Decision), Call[Decision])
    assert_type(await receive("approval", Decision), Decision)
    assert_type(await receive("number", int, timeout=timedelta(days=7)), int)
    assert_type(await receive("names", list[str], prompt="Whose?", timeout=0.5), list[str])
    assert_type(await receive("by name", dict[str, Decision]), dict[str, Decision])
    assert_type(receive("approval", Decision).result(), Decision)
    assert_type(receive("approval", Decision).id, str)
    # Without a type, and with what is no class, it is anything.
    assert_type(receive("anything"), Call[Any])
    assert_type(await receive("anything"), Any)
    assert_type(await receive("anything", prompt=None, timeout=None), Any)

    assert_type(sleep(1), Call[None])
    assert_type(sleep(timedelta(hours=1)), Call[None])
    assert_type(sleep_until(datetime.now(UTC)), Call[None])
    assert_type(await now(), datetime)
    assert_type(await random(), float)
    assert_type(await uuid(key="branch"), UUID)
    assert_type(await uuid.map(["a", "b"]), list[UUID])

    both = await asyncio.gather(receive("a", int), receive("b", Decision))
    assert_type(both, tuple[int, Decision])
    assert_type(await asyncio.wait_for(receive("a", int), 1), int)
    assert_type(await approve("A1"), bool)
    assert_type(await runtime.run(approve("A1"), thread_id="t", wait=True), bool)
    assert_type(await handle.result(), bool)
    assert_type(record.waits, list[Wait])
    try:
        await runtime.run(approve_in_thread("A1"), thread_id="t")
    except RunPaused as pause:
        assert_type(pause.waits, tuple[Wait, ...])
        assert_type(pause.waits[0].deadline, float | None)
        assert_type(pause.waits[0].schema, dict[str, Any] | None)

    await runtime.send("t", "approval", Decision(True))
    await runtime.send("t", "approval", {"approved": False}, id="m1")
    await runtime.send("t", "approval")
    Runtime("a.db", clock=SettableClock(), poll_interval=0.5, recover=True, workflows=[approve])


async def what_is_refused(runtime: Runtime) -> None:
    receive()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    receive(1, int)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    receive("a", int, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    receive("a", int, timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    receive("a", int, deadline=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    sleep("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sleep()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sleep_until(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sleep_until(timedelta(hours=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await uuid(key=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await now(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    await runtime.send("t")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await runtime.send("t", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.send("t", "a", 1, "m1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await runtime.send("t", "a", id=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.run(receive("a", int), thread_id="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Runtime("a.db", clock=lambda: 0.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    wrong: str = await receive("a", int)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    nothing: int = await sleep(5)  # type: ignore[assignment, func-returns-value]  # pyright: ignore[reportAssignmentType]
    del wrong, nothing
