"""Reads recorded runs with their calls from a store, a file of one, or exported threads."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import chain
from typing import IO, Any, Final, TypeAlias, cast

import anyio
import anyio.to_thread
from msgspec import Struct

from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.runtime import Runtime
from taskflow.runtime.exports import read_exports
from taskflow.stores.base import Store
from taskflow.stores.rows import CheckpointRow, RunRow

__all__ = ("History", "Reader", "RecordedRun")

RUNS_AT_ONCE: Final = 500
ROWS_AT_ONCE: Final = 10_000
SQLITE: Final = b"SQLite format 3\0"

Path: TypeAlias = str | os.PathLike[str]
Lines: TypeAlias = Iterable[str | bytes] | AsyncIterable[str | bytes]
# What `replay` takes: an open runtime, a store, the path of a SQLite file or of an export, lines
# of exports, or several of these.
History: TypeAlias = (
    Runtime | Store | Path | Lines | Iterable[Path | IO[str] | IO[bytes]] | Iterable[Lines]
)
Load: TypeAlias = Callable[[RunRow], Awaitable[Sequence[CheckpointRow]]]


class RecordedRun(Struct, frozen=True):
    """A run with the calls that are recorded of it (none where it was cancelled)."""

    row: RunRow
    rows: Sequence[CheckpointRow]
    earlier: RunRow | None  # the successful one before it on its thread


class Reader:
    """Reads histories, and hands each run of the workflow that is asked for to ``take``.

    ``others`` counts runs of other workflows, by name.
    """

    def __init__(
        self,
        workflow: str,
        thread_id: str | None,
        statuses: frozenset[RunStatus] | None,
        take: Callable[[RecordedRun], Awaitable[None]],
    ) -> None:
        self.others: Counter[str] = Counter()
        self._workflow = workflow
        self._thread_id = thread_id
        self._statuses = statuses
        self._take = take

    async def read(self, history: History) -> None:
        """Read all of it, one run after another.

        Raises StoreError, ImportRefused where lines are not whole exports, and ValueError for a
        file that is neither a database nor an export; and what ``take`` raises.
        """
        if isinstance(history, str | os.PathLike):
            await self._read_path(history)
        elif isinstance(history, Runtime):
            history._open()
            await self._read_store(history._store)
        elif hasattr(history, "commit"):
            await self._read_closed_store(cast("Store", history))
        elif isinstance(history, AsyncIterable):
            await self._read_lines(history)
        elif isinstance(history, Iterable) and not isinstance(history, bytes):
            await self._read_several(iter(history))
        else:
            raise TypeError(
                "a history is a Runtime, a store, the path of a database or of an export, an open "
                f"export, or several of these, got {history!r:.80}"
            )

    async def _read_several(self, items: Iterator[Any]) -> None:
        for item in items:
            if _is_line(item):  # and so are those that follow
                await self._read_lines(chain([item], items))
            else:
                await self.read(item)

    async def _read_path(self, path: Path) -> None:
        beginning = _beginning(path)
        if beginning.startswith(SQLITE):
            await self._read_copy(path)
        elif beginning.lstrip().startswith(b"{"):
            await self._read_lines(_lines_of(path))
        else:
            raise ValueError(
                f"{os.fspath(path)} is neither a SQLite file nor an export of a thread"
            )

    async def _read_copy(self, path: Path) -> None:
        """Leave the database as it is: processes of an older version may use it."""
        from taskflow.stores.sqlite import SQLiteStore  # SQLite and asyncio, where they are used

        with tempfile.TemporaryDirectory(prefix="taskflow-") as folder:
            copy = os.path.join(folder, "copy.db")
            await anyio.to_thread.run_sync(_copy, os.fspath(path), copy)
            try:
                await self._read_closed_store(SQLiteStore(copy, synchronous="NORMAL"))
            except StoreError as error:
                error.args = (str(error).replace(copy, os.fspath(path)),)
                raise

    async def _read_lines(self, lines: Lines) -> None:
        async with aclosing(read_exports(lines)) as threads:
            async for runs, checkpoints in threads:
                by_run: dict[str, list[CheckpointRow]] = {}
                for each in checkpoints:
                    by_run.setdefault(each.run_id, []).append(each)

                async def load(
                    row: RunRow, by_run: dict[str, list[CheckpointRow]] = by_run
                ) -> Sequence[CheckpointRow]:
                    return by_run.get(row.run_id, [])

                await self._take_wanted(runs, load)

    async def _read_closed_store(self, store: Store) -> None:
        """Read a store that nobody else has opened here."""
        owner = os.urandom(8).hex()
        await store.open(owner)
        try:
            await self._read_store(store)
        finally:
            with anyio.CancelScope(shield=True):
                await store.close(owner)

    async def _read_store(self, store: Store) -> None:
        if self._thread_id is not None:
            await self._read_thread(store, self._thread_id)
            return

        async def load(row: RunRow) -> Sequence[CheckpointRow]:
            return await _pages(
                lambda after: store.checkpoints(row.thread_id, row.run_id, after, ROWS_AT_ONCE)
            )

        threads: set[str] = set()
        before: int | None = None
        while page := await store.runs(None, self._workflow, before, RUNS_AT_ONCE):
            for row in page:
                if row.thread_id in threads:
                    continue
                if row.sequence == 1:  # there is none before it: that takes no look at its thread
                    await self._take_wanted([row], load)
                else:
                    threads.add(row.thread_id)
                    await self._read_thread(store, row.thread_id)
            before = page[-1].number
        await self._count_others(store)

    async def _read_thread(self, store: Store, thread_id: str) -> None:
        async with store.snapshot(thread_id) as snapshot:

            async def load(row: RunRow) -> Sequence[CheckpointRow]:
                return await _pages(
                    lambda after: snapshot.checkpoints(row.run_id, after, ROWS_AT_ONCE)
                )

            last, earlier = 0, None
            while page := await snapshot.runs(last, RUNS_AT_ONCE):
                earlier = await self._take_wanted(page, load, earlier)
                last = page[-1].sequence

    async def _take_wanted(
        self, runs: Iterable[RunRow], load: Load, earlier: RunRow | None = None
    ) -> RunRow | None:
        """Hand over the wanted ones of a thread's runs; return the latest that has succeeded."""
        for row in runs:
            if self._wants(row):
                is_final = row.status == RunStatus.CANCELLED
                await self._take(RecordedRun(row, [] if is_final else await load(row), earlier))
            earlier = row if row.status == RunStatus.SUCCESS else earlier
        return earlier

    def _wants(self, row: RunRow) -> bool:
        if self._thread_id not in (None, row.thread_id):
            return False
        if row.workflow != self._workflow:
            self.others[row.workflow] += 1
            return False
        return self._statuses is None or row.status in self._statuses

    async def _count_others(self, store: Store) -> None:
        """Count the latest runs of the whole store, among them blocks, which have no workflow."""
        self.others.clear()
        for row in await store.runs(None, None, None, RUNS_AT_ONCE):
            if row.workflow != self._workflow:
                self.others[row.workflow] += 1


def _is_line(item: object) -> bool:
    if isinstance(item, str):
        return item.lstrip().startswith("{") or not item.strip()
    return isinstance(item, bytes)


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(100)


def _lines_of(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


async def _pages(
    page_after: Callable[[int], Awaitable[Sequence[CheckpointRow]]],
) -> Sequence[CheckpointRow]:
    rows = page = list(await page_after(0))
    while len(page) == ROWS_AT_ONCE:
        page = list(await page_after(page[-1].sequence))
        rows += page
    return rows


def _copy(path: str, copy: str) -> None:
    """Copy a database with what is in its log, and leave nothing beside it. Raises StoreError."""
    while True:
        has_log = os.path.exists(f"{path}-wal")
        # Where nobody has it open there is no log, and SQLite would make one to look at it.
        options = "mode=ro" if has_log else "mode=ro&immutable=1"
        address = f"file:{urllib.parse.quote(os.path.abspath(path))}?{options}"
        try:
            with (
                closing(sqlite3.connect(address, uri=True)) as original,
                closing(sqlite3.connect(copy)) as made,
            ):
                original.backup(made)
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if has_log or not os.path.exists(f"{path}-wal"):  # else somebody has begun to write
            return
