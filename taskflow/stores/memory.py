"""`MemoryStore`: keeps everything in this process, for tests and for work that may be lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count

from msgspec import structs

from taskflow.errors import StoreError, TaskflowError, ThreadBusy
from taskflow.records import (
    Batch,
    CacheEntry,
    Checkpoint,
    CheckpointRow,
    Claim,
    Claimed,
    Committed,
    Finish,
    Recorded,
    RunKey,
    RunRow,
    RunStatus,
)
from taskflow.stores.base import decide

__all__ = ("MemoryStore",)


class MemoryStore:
    """A store that lives as long as this object; several runtimes may share it.

    An owner is gone when its runtime was closed.
    """

    where = "the memory store"

    def __init__(self) -> None:
        # Runtimes of several event loops, each in its own thread, may share it.
        self._lock = threading.Lock()
        self._owners: set[str] = set()
        self._runs: dict[int, RunRow] = {}
        self._threads: dict[str, list[int]] = {}  # run numbers, oldest first
        self._checkpoints: dict[str, dict[str, CheckpointRow]] = {}  # by thread id, by task id
        self._cache: dict[tuple[str, str], CacheEntry] = {}
        self._numbers = count(1)
        self._sequences = count(1)

    async def open(self, owner: str) -> None:
        self._owners.add(owner)

    async def close(self, owner: str) -> None:
        self._owners.discard(owner)

    async def commit(self, batch: Batch) -> Committed:
        with self._lock:
            refused: dict[tuple[int, int], str] = {}
            self._check_new(batch.checkpoints)
            for checkpoint in batch.checkpoints:
                if row := self._fenced(checkpoint.number, checkpoint.epoch, refused):
                    self._insert(row, checkpoint)
            for entry in batch.cached:
                self._cache[entry.task_name, entry.key] = entry
            for unrecord in batch.unrecords:
                self._unrecord(unrecord.key, unrecord.task_ids, refused)
            for finish in batch.finishes:
                self._finish(finish, refused)
            return Committed(refused, [self._claim(claim) for claim in batch.claims])

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        with self._lock:
            rows = [
                Recorded(
                    row.sequence,
                    row.checkpoint.task_id,
                    row.checkpoint.parent_id,
                    row.checkpoint.kind,
                    row.checkpoint.payload,
                    row.checkpoint.checksum,
                )
                for row in self._checkpoints.get(run.thread_id, {}).values()
                if row.run_id == run.run_id and row.sequence > after
            ]
            return rows[:limit]

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        with self._lock:
            return self._find(thread_id, run_id)

    async def runs(
        self, status: str | None, workflow: str | None, before: int | None, limit: int
    ) -> Sequence[RunRow]:
        with self._lock:
            found = [
                row
                for row in self._runs.values()
                if status in (None, row.status)
                and workflow in (None, row.workflow)
                and (before is None or row.number < before)
            ]
            return found[::-1][:limit]

    async def checkpoints(self, thread_id: str, run_id: str | None) -> Sequence[CheckpointRow]:
        with self._lock:
            rows = self._checkpoints.get(thread_id, {}).values()
            return [row for row in rows if run_id in (None, row.run_id)]

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        found = [self._cache.get((task_name, key)) for key in keys]
        return [
            entry for entry in found if entry and (entry.expires is None or entry.expires > now)
        ]

    async def clear_cache(self, task_name: str) -> int:
        with self._lock:
            keys = [key for key in self._cache if key[0] == task_name]
            for key in keys:
                del self._cache[key]
            return len(keys)

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        with self._lock:
            rows = self._checkpoints.get(thread_id, {})
            row = rows.get(task_id)
            if row is None:
                return False
            self._check_idle(thread_id, owner)
            run = self._find(thread_id, row.run_id)
            latest = self._find(thread_id, None)
            next_id: str | None = task_id
            while next_id is not None and (found := rows.pop(next_id, None)):
                next_id = found.checkpoint.parent_id
            if run and run is latest and run.status == RunStatus.SUCCESS:
                self._put(run, status=RunStatus.RUNNING, result=None, saved=None, finished=None)
            return True

    async def cancel(self, thread_id: str, now: float) -> RunRow | None:
        with self._lock:
            row = self._find(thread_id, None)
            if row is not None and not row.is_final:
                self._put(
                    row,
                    status=RunStatus.CANCELLED,
                    owner=None,
                    epoch=row.epoch + 1,
                    finished=now,
                )
            return row

    async def delete(self, thread_id: str, owner: str) -> bool:
        with self._lock:
            self._check_idle(thread_id, owner)
            numbers = self._threads.pop(thread_id, [])
            for number in numbers:
                del self._runs[number]
            self._checkpoints.pop(thread_id, None)
            return bool(numbers)

    def _find(self, thread_id: str, run_id: str | None) -> RunRow | None:
        rows = [self._runs[number] for number in self._threads.get(thread_id, [])]
        if run_id is not None:
            rows = [row for row in rows if row.run_id == run_id]
        return rows[-1] if rows else None

    def _put(self, row: RunRow, **changes: object) -> RunRow:
        changed = structs.replace(row, **changes).sealed()
        self._runs[row.number] = changed
        return changed

    def _is_gone(self, owner: str) -> bool:
        return owner not in self._owners

    def _check_idle(self, thread_id: str, owner: str) -> None:
        row = self._find(thread_id, None)
        if row and row.owner not in (None, owner) and not self._is_gone(str(row.owner)):
            raise ThreadBusy(thread_id, f"run {row.run_id!r} is executed by {row.owner}")

    def _fenced(
        self, number: int, epoch: int, refused: dict[tuple[int, int], str]
    ) -> RunRow | None:
        row = self._runs.get(number)
        if row is None or row.epoch != epoch or row.status != RunStatus.RUNNING:
            refused[number, epoch] = row.status if row else RunStatus.CANCELLED
            return None
        return row

    def _check_new(self, checkpoints: Sequence[Checkpoint]) -> None:
        fresh: set[tuple[str, str]] = set()
        for checkpoint in checkpoints:
            row = self._runs.get(checkpoint.number)
            if row is None or row.epoch != checkpoint.epoch:
                continue
            key = row.thread_id, checkpoint.task_id
            if key in fresh or key[1] in self._checkpoints.get(key[0], {}):
                error = StoreError(f"{checkpoint.task_id} is recorded on {row.thread_id!r} already")
                error.row_at_fault = True
                raise error
            fresh.add(key)

    def _insert(self, run: RunRow, checkpoint: Checkpoint) -> None:
        row = CheckpointRow(next(self._sequences), run.run_id, checkpoint)
        self._checkpoints.setdefault(run.thread_id, {})[checkpoint.task_id] = row

    def _unrecord(
        self, key: RunKey, task_ids: Sequence[str], refused: dict[tuple[int, int], str]
    ) -> RunRow | None:
        row = self._fenced(key.number, key.epoch, refused)
        if row is not None:
            for task_id in task_ids:
                self._checkpoints.get(key.thread_id, {}).pop(task_id, None)
        return row

    def _finish(self, finish: Finish, refused: dict[tuple[int, int], str]) -> None:
        row = self._unrecord(finish.key, finish.unrecord, refused)
        if row is not None:
            self._put(
                row,
                status=finish.status,
                result=finish.result,
                error=finish.error,
                saved=finish.saved,
                owner=None,
                finished=None if finish.status == RunStatus.RUNNING else finish.now,
            )

    def _claim(self, claim: Claim) -> Claimed | Exception:
        latest = self._find(claim.thread_id, None)
        known = None if claim.run_id is None else self._find(claim.thread_id, claim.run_id)
        try:
            decision = decide(claim, latest, known, self._is_gone)
        except TaskflowError as error:
            return error
        held = known or latest
        if decision == "answer" and held:
            return Claimed(held, None, is_answer=True)
        if decision == "continue" and held:
            row = self._put(
                held,
                status=RunStatus.RUNNING,
                error=None,
                saved=None,
                owner=claim.owner,
                epoch=held.epoch + 1,
                started=claim.now,
                finished=None,
            )
            return Claimed(row, self._previous(row))
        if decision == "supersede" and latest:
            self._put(
                latest,
                status=RunStatus.CANCELLED,
                owner=None,
                epoch=latest.epoch + 1,
                finished=claim.now,
            )
        row = claim.new_row(next(self._numbers), latest.sequence + 1 if latest else 1)
        self._runs[row.number] = row
        self._threads.setdefault(row.thread_id, []).append(row.number)
        return Claimed(row, self._previous(row), is_new=True)

    def _previous(self, row: RunRow) -> bytes | None:
        for number in reversed(self._threads[row.thread_id]):
            earlier = self._runs[number]
            if earlier.sequence < row.sequence and earlier.status == RunStatus.SUCCESS:
                return earlier.result if earlier.saved is None else earlier.saved
        return None
