"""LangGraph's functional API on its asynchronous SQLite saver.

The library is loaded by name: it is not a dependency of anything else here, and type checkers
need not find it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
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

functional: Any = import_module("langgraph.func")
sqlite: Any = import_module("langgraph.checkpoint.sqlite.aio")
types: Any = import_module("langgraph.types")


async def read(number: int) -> Page:
    return page_of(number)


square = functional.task(square_of)
page = functional.task(read)


class LeftUnfinishedError(Exception):
    """Ends a run with everything recorded but its result."""


class LangGraphSession(Session):
    def __init__(self, saver: Any, durability: str) -> None:
        self.saver = saver
        self.durability = durability
        self.form: Form = "chain"
        self.fails = False
        entrypoint = functional.entrypoint(checkpointer=saver)
        self.squares_graph = entrypoint(self.sum_of_squares)
        self.pages_graph = entrypoint(self.sum_of_paragraphs)
        self.answer_graph = entrypoint(self.answer)

    async def sum_of_squares(self, size: int) -> int:
        total: int = sum(await awaited(self.form, square, range(size), width=0))
        if self.fails:
            raise LeftUnfinishedError
        return total

    async def sum_of_paragraphs(self, size: int) -> int:
        found: list[Page] = await awaited(self.form, page, range(size), width=0)
        return sum(len(one["paragraphs"]) for one in found)

    async def answer(self, question: str) -> int:
        number: int = types.interrupt(question)
        result: int = await square(number)
        return result

    async def pragmas(self) -> str:
        await self.saver.setup()
        ((journal,),) = await self.saver.conn.execute_fetchall("PRAGMA journal_mode")
        ((synchronous,),) = await self.saver.conn.execute_fetchall("PRAGMA synchronous")
        return f"{journal}, synchronous {synchronous}"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        self.form, self.fails = form, False
        return await self.invoke(self.squares_graph, thread_id, size)

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        self.form = form
        return await self.invoke(self.pages_graph, thread_id, size)

    async def fill(self, thread_id: str, size: int) -> None:
        self.form, self.fails = "chain", True
        try:
            await self.invoke(self.squares_graph, thread_id, size)
        except LeftUnfinishedError:
            return
        raise AssertionError("the run was to end without a result")

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        self.form, self.fails = form, False
        started = perf_counter()
        # An input of None continues what the thread holds.
        total = await self.invoke(self.squares_graph, thread_id, None)
        seconds = perf_counter() - started
        assert total == sum(number * number for number in range(size))
        return seconds

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        if not asleep:
            raise NotImplementedError
        names = [f"resumed-{number}" for number in range(size)]
        for name in names:
            await self.invoke(self.answer_graph, name, "number")
        latencies: list[float] = []
        for number, name in enumerate(names):
            await asyncio.sleep(0.01)
            started = perf_counter()
            result = await self.invoke(self.answer_graph, name, types.Command(resume=number))
            latencies.append(perf_counter() - started)
            assert result == number * number
        return latencies

    async def invoke(self, graph: Any, thread_id: str, given: Any) -> int:
        config = {"configurable": {"thread_id": thread_id}}
        answer: int = await graph.ainvoke(given, config, durability=self.durability)
        return answer


def opener(durability: str) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        async with sqlite.AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await saver.setup()
            yield LangGraphSession(saver, durability)
            await asyncio.sleep(0)

    return open_session
