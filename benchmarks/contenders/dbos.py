"""DBOS on SQLite, as it comes or on a file that is in WAL mode.

The library is loaded by name: it is not a dependency of anything else here, and type checkers
need not find it.
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.form import Form, awaited
from benchmarks.page import Page
from benchmarks.page import page as page_of
from benchmarks.session import OpenSession, Session
from benchmarks.session import square as square_of

__all__ = ("opener",)

library: Any = import_module("dbos")
DBOS: Any = library.DBOS

MARK_CRASHED = """
UPDATE workflow_status SET status = 'PENDING', output = NULL, error = NULL WHERE workflow_uuid = ?
"""


class Plan:
    """The behaviour of the next execution; not a workflow's input, so that a rerun may differ."""

    form: Form = "chain"
    fails: bool = False
    finished = threading.Event()
    answered: asyncio.Future[None]


class LeftUnfinishedError(Exception):
    """Ends a run with everything recorded but its result."""


async def read(number: int) -> Page:
    return page_of(number)


async def sum_of_squares(size: int) -> int:
    total: int = sum(await awaited(Plan.form, square, range(size), width=0))
    Plan.finished.set()
    if Plan.fails:
        raise LeftUnfinishedError
    return total


async def sum_of_paragraphs(size: int) -> int:
    found: list[Page] = await awaited(Plan.form, page, range(size), width=0)
    return sum(len(one["paragraphs"]) for one in found)


async def wait_for_number() -> int:
    result: int = await square(await DBOS.recv_async("number"))
    Plan.answered.get_loop().call_soon_threadsafe(Plan.answered.set_result, None)
    return result


square = DBOS.step()(square_of)
page = DBOS.step()(read)
squares_workflow = DBOS.workflow()(sum_of_squares)
pages_workflow = DBOS.workflow()(sum_of_paragraphs)
answer_workflow = DBOS.workflow()(wait_for_number)


class DBOSSession(Session):
    def __init__(self, path: Path, instance: Any) -> None:
        self.path = path
        self.instance = instance

    async def pragmas(self) -> str:
        with self.instance._sys_db.engine.connect() as connection:
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        return f"{journal}, synchronous {synchronous}"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        Plan.form, Plan.fails = form, False
        with library.SetWorkflowID(thread_id):
            total: int = await squares_workflow(size)
        return total

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        Plan.form = form
        with library.SetWorkflowID(thread_id):
            total: int = await pages_workflow(size)
        return total

    async def fill(self, thread_id: str, size: int) -> None:
        Plan.form, Plan.fails = "chain", True
        try:
            with library.SetWorkflowID(thread_id):
                await squares_workflow(size)
        except LeftUnfinishedError:
            return
        raise AssertionError("the run was to end without a result")

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        if asleep:
            raise NotImplementedError
        latencies: list[float] = []
        for number in range(size):
            name = f"resumed-{number}"
            # The time is taken at the workflow's last line: its handle polls once a second.
            Plan.answered = asyncio.get_running_loop().create_future()
            with library.SetWorkflowID(name):
                handle = await DBOS.start_workflow_async(answer_workflow)
            await asyncio.sleep(0.05)
            started = perf_counter()
            await DBOS.send_async(name, number, topic="number")
            await Plan.answered
            latencies.append(perf_counter() - started)
            assert await handle.get_result() == number * number
        return latencies

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        # A workflow that raised is finished; one that crashed is recovered. The time is taken at
        # the workflow's last line, in its favour: its handle polls once a second.
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(MARK_CRASHED, (thread_id,))
        Plan.form, Plan.fails = form, False
        Plan.finished.clear()
        started = perf_counter()
        (handle,) = await asyncio.to_thread(DBOS._recover_pending_workflows)
        await asyncio.to_thread(Plan.finished.wait)
        seconds = perf_counter() - started
        total = await asyncio.to_thread(handle.get_result)
        assert total == sum(number * number for number in range(size))
        return seconds


def opener(journal: str) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
        instance = DBOS(
            config={
                "name": "benchmarks",
                "system_database_url": f"sqlite:///{path}",
                "log_level": "CRITICAL",
            }
        )
        DBOS.launch()
        try:
            yield DBOSSession(path, instance)
        finally:
            await asyncio.to_thread(DBOS.destroy)

    return open_session
