"""The database file that a command works on, and one question to a `Runtime` on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import anyio

from taskflow.cli.inputs import UsageError
from taskflow.errors import StoreError
from taskflow.runtime import Runtime

__all__ = ("ask", "check_exists", "opened", "recorded_id")

T = TypeVar("T")


def ask(db: str, question: Callable[[Runtime], Awaitable[T]], *, may_create: bool = False) -> T:
    """The answer of a runtime on the file ``db``, which is created only if it ``may_create``."""

    async def main() -> T:
        async with opened(Runtime(db)) as runtime:
            return await question(runtime)

    if not may_create:
        check_exists(db)
    return anyio.run(main)


def check_exists(db: str) -> None:
    """Raise UsageError where there is no such database."""
    if not os.path.exists(db):
        raise UsageError(f"there is no file {db}: name the database with --db, or in TASKFLOW_DB")


@contextlib.asynccontextmanager
async def opened(runtime: Runtime) -> AsyncGenerator[Runtime]:
    """An open runtime. Raises UsageError where its file is unusable."""
    try:
        await runtime.open()
    except StoreError as error:
        raise UsageError(str(error)) from error
    try:
        yield runtime
    finally:
        await runtime.aclose()


async def recorded_id(
    runtime: Runtime, thread_id: str, beginning: str, run_id: str | None = None
) -> str:
    """The id of the recorded call that starts with ``beginning``. Raises UsageError for several.

    ``beginning`` itself where no id starts with it: its use is then a RunNotFound that names it.
    """
    known = [each.task_id for each in await runtime.tasks(thread_id, run_id)]
    found = [each for each in known if each.startswith(beginning)]
    if len(found) > 1 and beginning not in found:
        raise UsageError(f"{beginning} begins {len(found)} task ids: " + ", ".join(found[:5]))
    return found[0] if len(found) == 1 else beginning
