"""Where recorded runs are read from: a store, a file of one, or what was exported, run by run."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import urllib.parse
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, closing
from itertools import chain
from typing import IO, Any, Final, TypeAlias, cast

import anyio
import anyio.to_thread
from msgspec import Struct

from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.runtime import Runtime
from taskflow.runtime.exports import read_exports
from taskflow.stores.base import Snapshot, Store
from taskflow.stores.rows import CheckpointRow, RunRow

__all__ = ("History", "RecordedRun", "Wanted", "recorded_runs")

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
Load: TypeAlias = Callable[[RunRow], Coroutine[Any, Any, Sequence[CheckpointRow]]]


class RecordedRun(Struct, frozen=True):
    """A run with all that is recorded of it."""

    row: RunRow
    rows: Sequence[CheckpointRow]
    earlier: RunRow | None  # the successful one before it on its thread


class Wanted(Struct):
    """Which runs are asked for; how many of other workflows were met."""

    workflow: str
    thread_id: str | None
    statuses: frozenset[RunStatus] | None
    others: Counter[str]  # by the name of the workflow

    def takes(self, row: RunRow) -> bool:
        """Whether this one is asked for."""
        if self.thread_id not in (None, row.thread_id):
            return False
        if row.workflow != self.workflow:
            self.others[row.workflow] += 1
            return False
        return self.statuses is None or row.status in self.statuses


async def recorded_runs(history: History, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    """The runs that are wanted, one after another; those that can never go on without their calls.

    Raises StoreError, ImportRefused where lines are not whole exports, and ValueError for a file
    that is neither a database nor an export.
    """
    if isinstance(history, str | os.PathLike):
        source = _of_path(history, wanted)
    elif isinstance(history, Runtime):
        history._open()
        source = _of_store(history._store, wanted)
    elif hasattr(history, "commit"):
        source = _of_own_store(cast("Store", history), wanted)
    elif isinstance(history, AsyncIterable):
        source = _of_lines(history, wanted)
    elif isinstance(history, Iterable) and not isinstance(history, bytes):
        source = _of_several(iter(history), wanted)
    else:
        raise TypeError(
            "a history is a Runtime, a store, the path of a database or of an export, an open "
            f"export, or several of these, got {history!r:.80}"
        )
    async with aclosing(source):
        async for run in source:
            yield run


async def _of_several(items: Iterator[Any], wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    for item in items:
        if _is_line(item):  # and so are those that follow
            source = _of_lines(chain([item], items), wanted)
        else:
            source = recorded_runs(item, wanted)
        async with aclosing(source):
            async for run in source:
                yield run


def _is_line(item: object) -> bool:
    if isinstance(item, str):
        return item.lstrip().startswith("{") or not item.strip()
    return isinstance(item, bytes)


async def _of_path(path: Path, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    beginning = _beginning(path)
    if beginning.startswith(SQLITE):
        source = _of_copy(path, wanted)
    elif beginning.lstrip().startswith(b"{"):
        source = _of_lines(_lines_of(path), wanted)
    else:
        raise ValueError(f"{os.fspath(path)} is neither a SQLite file nor an export of a thread")
    async with aclosing(source):
        async for run in source:
            yield run


async def _of_copy(path: Path, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    """The runs of a database that is left as it is: processes of an older version may use it."""
    from taskflow.stores.sqlite import SQLiteStore  # SQLite and asyncio, where they are used

    with tempfile.TemporaryDirectory(prefix="taskflow-") as folder:
        copy = os.path.join(folder, "copy.db")
        await anyio.to_thread.run_sync(_copy, os.fspath(path), copy)
        try:
            store = SQLiteStore(copy, synchronous="NORMAL")
            async with aclosing(_of_own_store(store, wanted)) as runs:
                async for run in runs:
                    yield run
        except StoreError as error:
            error.args = (str(error).replace(copy, os.fspath(path)),)
            raise


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


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(100)


def _lines_of(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


async def _of_lines(lines: Lines, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    async with aclosing(read_exports(lines)) as threads:
        async for runs, checkpoints in threads:
            by_run: dict[str, list[CheckpointRow]] = {}
            for each in checkpoints:
                by_run.setdefault(each.run_id, []).append(each)
            earlier: RunRow | None = None
            for row in runs:
                if wanted.takes(row):
                    yield RecordedRun(row, by_run.get(row.run_id, []), earlier)
                earlier = row if row.status == RunStatus.SUCCESS else earlier


async def _of_own_store(store: Store, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    """The same of a store that nobody else has opened here."""
    async with _opened(store), aclosing(_of_store(store, wanted)) as runs:
        async for run in runs:
            yield run


@asynccontextmanager
async def _opened(store: Store) -> AsyncGenerator[None]:
    owner = os.urandom(8).hex()
    await store.open(owner)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await store.close(owner)


async def _of_store(store: Store, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    if wanted.thread_id is not None:
        async with aclosing(_of_thread(store, wanted.thread_id, wanted)) as runs:
            async for run in runs:
                yield run
        return

    async def load(row: RunRow) -> Sequence[CheckpointRow]:
        return await _pages(
            lambda after: store.checkpoints(row.thread_id, row.run_id, after, ROWS_AT_ONCE)
        )

    threads: set[str] = set()
    before: int | None = None
    while page := await store.runs(None, wanted.workflow, before, RUNS_AT_ONCE):
        for row in page:
            if row.thread_id in threads:
                continue
            if row.sequence == 1:  # there is none before it: that takes no look at its thread
                if wanted.takes(row):
                    yield RecordedRun(row, await _needed(row, load), None)
                continue
            threads.add(row.thread_id)
            async with aclosing(_of_thread(store, row.thread_id, wanted)) as runs:
                async for run in runs:
                    yield run
        before = page[-1].number
    await _count_others(store, wanted)


async def _of_thread(store: Store, thread_id: str, wanted: Wanted) -> AsyncGenerator[RecordedRun]:
    async with store.snapshot(thread_id) as snapshot:

        async def load(row: RunRow) -> Sequence[CheckpointRow]:
            return await _pages(lambda after: snapshot.checkpoints(row.run_id, after, ROWS_AT_ONCE))

        earlier: RunRow | None = None
        async with aclosing(_runs_of(snapshot)) as runs:
            async for row in runs:
                if wanted.takes(row):
                    yield RecordedRun(row, await _needed(row, load), earlier)
                earlier = row if row.status == RunStatus.SUCCESS else earlier


async def _runs_of(snapshot: Snapshot) -> AsyncGenerator[RunRow]:
    last = 0
    while page := await snapshot.runs(last, RUNS_AT_ONCE):
        for row in page:
            yield row
        last = page[-1].sequence


async def _needed(row: RunRow, load: Load) -> Sequence[CheckpointRow]:
    """The calls of a run, if they matter: one that was cancelled is never continued."""
    return [] if row.status == RunStatus.CANCELLED else await load(row)


async def _pages(
    page_after: Callable[[int], Coroutine[Any, Any, Sequence[CheckpointRow]]],
) -> Sequence[CheckpointRow]:
    rows = page = list(await page_after(0))
    while len(page) == ROWS_AT_ONCE:
        page = list(await page_after(page[-1].sequence))
        rows += page
    return rows


async def _count_others(store: Store, wanted: Wanted) -> None:
    """Runs that nobody asked for are told of: blocks, which have no workflow, and latest ones."""
    wanted.others.clear()
    for row in await store.runs(None, None, None, RUNS_AT_ONCE):
        if row.workflow != wanted.workflow:
            wanted.others[row.workflow] += 1
