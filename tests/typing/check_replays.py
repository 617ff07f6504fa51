"""Never run, only read by the type checkers: replays of any history and any workflow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, assert_type

from taskflow import MemoryStore, Runtime, SQLiteStore, task, workflow
from taskflow.testing import Difference, IgnoredCall, NewCall, ReplayReport, RunReplay, replay


@task
async def charge(order: str) -> int:
    return len(order)


@workflow
async def plain(order: str, *rest: int, hurry: bool = False, **more: float) -> int:
    return await charge(order)


@workflow
def threaded() -> list[str]:
    return []


@workflow(name="other", version=2)
async def nothing(order: str | None) -> None: ...


def see(entry: RunReplay) -> None:
    assert_type(entry.thread_id, str)


async def workflows_of_any_signature(runtime: Runtime) -> None:
    assert_type(await replay(runtime, plain), ReplayReport)
    assert_type(await replay(runtime, threaded), ReplayReport)
    assert_type(await replay(runtime, nothing), ReplayReport)
    await replay(runtime, charge)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await replay(runtime, charge.fn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def histories_of_any_kind(
    runtime: Runtime, text: IO[str], raw: IO[bytes], lines: list[str], later: AsyncIterator[str]
) -> None:
    await replay(MemoryStore(), plain)
    await replay(SQLiteStore("runs.db"), plain)
    await replay("runs.db", plain)
    await replay(Path("runs.jsonl"), plain)
    await replay(text, plain)
    await replay(raw, plain)
    await replay(lines, plain)
    await replay(later, plain)
    await replay(runtime.export("a"), plain)
    await replay([Path("a.jsonl"), Path("b.jsonl")], plain)
    await replay([text, text], plain)
    await replay([raw], plain)
    await replay(7, plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_a_report_holds(runtime: Runtime) -> None:
    report = await replay(
        runtime, plain, thread_id="a", status=["paused", "error"], patience=1, report=see
    )
    assert_type(report.is_unchanged, bool)
    assert_type(report.changed, list[RunReplay])
    for entry in report.runs:
        assert_type(entry.error, str | None)
        assert_type(entry.result, Difference | None)
        for new in entry.executes:
            assert_type(new, NewCall)
            assert_type(new.instead_of, IgnoredCall | None)
