"""`MemoryStore`: keeps everything in this process, for tests and for work that may be lost."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import anyio.lowlevel
from msgspec import structs

from taskflow.errors import RunNotFound, ThreadExists
from taskflow.records import Pruned
from taskflow.stores import edits
from taskflow.stores.base import Snapshot
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.claims import check_idle, is_recoverable, unknown_workflows
from taskflow.stores.commits import apply
from taskflow.stores.dicts import MemoryTables
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import CacheEntry, Checkpoint, CheckpointRow, Recorded, RunRow, SignalRow
from taskflow.stores.transitions import cancelled, forked

__all__ = ("MemoryStore",)

Row = TypeVar("Row", RunRow, CheckpointRow)


class MemoryStore:
    """A store that lives as long as this object; several runtimes may share it.

    An owner is gone when its runtime was closed.
    """

    where = "the memory store"

    def __init__(self) -> None:
        # Runtimes of several event loops, each in its own thread, may share it.
        self._lock = threading.Lock()
        self._owners: set[str] = set()
        self._tables = MemoryTables(self._is_gone)

    def _is_gone(self, owner: str) -> bool:
        return owner not in self._owners

    async def open(self, owner: str) -> None:
        self._owners.add(owner)

    async def close(self, owner: str) -> None:
        self._owners.discard(owner)

    async def commit(self, batch: Batch) -> Committed:
        with self._lock:
            return apply(batch, self._tables)

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        with self._lock:
            rows = (row for row in self._tables.checkpoints.recorded(run) if row.sequence > after)
            return [
                Recorded(
                    row.sequence,
                    row.checkpoint.task_id,
                    row.checkpoint.parent_id,
                    row.checkpoint.kind,
                    row.checkpoint.payload,
                    row.checkpoint.checksum,
                    row.checkpoint.signal,
                )
                for row in islice(rows, limit)
            ]

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        with self._lock:
            return self._tables.checkpoints.signals_after(thread_id, run_id, after)

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        with self._lock:
            return self._tables.checkpoints.news(after)

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        with self._lock:
            rows = [row for row in self._recoverable(now) if row.workflow in workflows]
            return sorted(rows, key=lambda row: row.due or 0)[:limit]

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        with self._lock:
            return unknown_workflows([row.workflow for row in self._recoverable(now)], workflows)

    def _recoverable(self, now: float) -> list[RunRow]:
        rows = self._tables.runs.by_number.values()
        return [row for row in rows if is_recoverable(row, now, self._is_gone)]

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        with self._lock:
            return self._find(thread_id, run_id)

    def _find(self, thread_id: str, run_id: str | None) -> RunRow | None:
        if run_id is None:
            return self._tables.runs.latest(thread_id)
        return self._tables.runs.run(thread_id, run_id)

    async def runs(
        self,
        status: str | None,
        workflow: str | None,
        before: int | None,
        limit: int,
        thread_id: str | None = None,
    ) -> Sequence[RunRow]:
        with self._lock:
            runs = self._tables.runs
            found = [
                row
                for row in (runs.by_number.values() if thread_id is None else runs.of(thread_id))
                if status in (None, row.status)
                and workflow in (None, row.workflow)
                and (before is None or row.number < before)
            ]
            return found[::-1][:limit]

    async def epochs(self, numbers: Sequence[int]) -> Mapping[int, int]:
        with self._lock:
            rows = self._tables.runs.by_number
            return {number: rows[number].epoch for number in numbers if number in rows}

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        with self._lock:
            rows = [self._tables.runs.latest(thread_id) for thread_id in thread_ids]
            return [row for row in rows if row is not None]

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        with self._lock:
            rows = self._tables.checkpoints.of(thread_id).values()
            found = (row for row in rows if run_id in (None, row.run_id) and row.sequence > after)
            return list(islice(found, limit))

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        with self._lock:
            return self._tables.checkpoints.row(thread_id, task_id)

    @contextlib.asynccontextmanager
    async def snapshot(self, thread_id: str) -> AsyncGenerator[Snapshot]:
        with self._lock:
            runs = self._tables.runs.of(thread_id)
            rows = list(self._tables.checkpoints.of(thread_id).values())
        yield _Snapshot(runs, rows)

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        found = [self._tables.cache.get((task_name, key)) for key in keys]
        return [
            entry for entry in found if entry and (entry.expires is None or entry.expires > now)
        ]

    async def clear_cache(self, task_name: str) -> int:
        with self._lock:
            keys = [key for key in self._tables.cache if key[0] == task_name]
            for key in keys:
                del self._tables.cache[key]
            return len(keys)

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        with self._lock:
            check_idle(self._tables.runs.latest(thread_id), owner, self._is_gone)
            return edits.forget(self._tables, thread_id, task_id)

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        with self._lock:
            check_idle(self._tables.runs.latest(thread_id), None, self._is_gone)
            return edits.replace(self._tables, thread_id, task_id, payload)

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        with self._lock:
            self._check_free(to)
            source = self._find(thread_id, run_id)
            if source is None:
                raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")
            left_out = edits.left_out(self._tables, source, without)
            earlier = self._tables.runs.previous(source)
            kept = [
                row
                for task_id, row in self._tables.checkpoints.of(thread_id).items()
                if row.run_id == source.run_id and task_id not in left_out
            ]
        copies: list[Checkpoint] = []
        for row in kept:
            checksum = edits.checksum_on(to, thread_id, row)
            copies.append(structs.replace(row.checkpoint, checksum=checksum))
            if len(copies) % 1000 == 0:
                await anyio.lowlevel.checkpoint()
        with self._lock:
            self._check_free(to)
            if earlier is not None:
                self._tables.runs.add(forked(earlier, to, is_whole=True))
            made = self._tables.runs.add(forked(source, to, is_whole=not left_out))
            for each in copies:
                self._tables.checkpoints.add(made, each)
            return made

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        with self._lock:
            self._check_free(runs[0].thread_id)
            made = {row.run_id: self._tables.runs.add(row) for row in runs}
            for row in checkpoints:
                self._tables.checkpoints.add(made[row.run_id], row.checkpoint)

    def _check_free(self, thread_id: str) -> None:
        if thread_id in self._tables.runs.threads:
            raise ThreadExists(thread_id)

    async def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        with self._lock:
            threads = list(self._tables.runs.threads)
        for thread_id in threads:
            with self._lock:
                pruned = self._tables.prune(thread_id, ask)
            if pruned != Pruned():
                yield pruned
            await anyio.lowlevel.checkpoint()
        with self._lock:
            expired = [
                key
                for key, entry in self._tables.cache.items()
                if entry.expires is not None and entry.expires <= ask.now
            ]
            for key in expired:
                del self._tables.cache[key]
        yield Pruned(cached=len(expired))

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        with self._lock:
            row = self._find(thread_id, run_id)
            if row is not None and not row.is_final:
                self._tables.runs.update(cancelled(row, now))
            return row

    async def delete(self, thread_id: str, owner: str) -> bool:
        with self._lock:
            check_idle(self._tables.runs.latest(thread_id), owner, self._is_gone)
            return self._tables.delete(thread_id)


class _Snapshot:
    """The rows of one thread as they were when it was taken."""

    def __init__(self, runs: Sequence[RunRow], rows: Sequence[CheckpointRow]) -> None:
        self._runs = runs
        self._rows: dict[str, list[CheckpointRow]] = {}
        for row in rows:
            self._rows.setdefault(row.run_id, []).append(row)

    async def runs(self, after: int, limit: int) -> Sequence[RunRow]:
        return _page(self._runs, after, limit)

    async def checkpoints(self, run_id: str, after: int, limit: int) -> Sequence[CheckpointRow]:
        return _page(self._rows.get(run_id, []), after, limit)


def _page(rows: Sequence[Row], after: int, limit: int) -> Sequence[Row]:
    start = bisect_right(rows, after, key=lambda row: row.sequence)
    return rows[start : start + limit]
