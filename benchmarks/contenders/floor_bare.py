"""Floor a: the bodies awaited, nothing recorded."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.form import Form, awaited
from benchmarks.page import Page, page
from benchmarks.session import OpenSession, Session, square

__all__ = ("opener",)

POOL_WIDTH = 16


async def read(number: int) -> Page:
    return page(number)


class BareSession(Session):
    async def pragmas(self) -> str:
        return "no database"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        return sum(await awaited(form, square, range(size), width=POOL_WIDTH))

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        pages = await awaited(form, read, range(size), width=POOL_WIDTH)
        return sum(len(found["paragraphs"]) for found in pages)


def opener() -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        yield BareSession()

    return open_session
