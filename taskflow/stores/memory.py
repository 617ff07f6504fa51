"""`MemoryStore`: keeps everything in this process, for tests and for work that may be lost."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import count, islice

from msgspec import structs

from taskflow.errors import RunNotFound, StoreError, TaskflowError, ThreadBusy
from taskflow.records import (
    SIGNAL,
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
    Sent,
    Signal,
    SignalRow,
)
from taskflow.stores.base import cancelled, continued, decide, reopened, signal_row, wait_id

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
        self._taken: set[tuple[str, str]] = set()  # signals, by thread id and id
        self._sent: list[tuple[int, str]] = []  # every signal's sequence and thread id
        self._sent_to: dict[tuple[str, str], dict[str, int]] = {}  # by thread and run
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
            sequences: list[int] = []
            for checkpoint in batch.checkpoints:
                row = self._fenced(checkpoint.number, checkpoint.epoch, refused)
                sequences.append(0 if row is None else self._insert(row, checkpoint))
            for entry in batch.cached:
                self._cache[entry.task_name, entry.key] = entry
            for unrecord in batch.unrecords:
                self._unrecord(unrecord.key, unrecord.task_ids, refused)
            for finish in batch.finishes:
                self._finish(finish, refused)
            return Committed(
                refused,
                [self._claim(claim) for claim in batch.claims],
                [self._send(signal) for signal in batch.signals],
                sequences,
            )

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
                if row.run_id == run.run_id
                and row.sequence > after
                and row.checkpoint.kind != SIGNAL
            ]
            return rows[:limit]

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        with self._lock:
            return self._signals(thread_id, run_id, after)

    async def news(self, after: int | None) -> tuple[int, Sequence[str]]:
        with self._lock:
            latest = self._sent[-1][0] if self._sent else 0
            if after is None:
                return latest, []
            fresh = self._sent[bisect_right(self._sent, (after, chr(0x10FFFF))) :]
            return max(latest, after), list(dict.fromkeys(thread_id for _, thread_id in fresh))

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        with self._lock:
            rows = [row for row in self._recoverable(now) if row.workflow in workflows]
            return sorted(rows, key=lambda row: row.due or 0)[:limit]

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        with self._lock:
            names = {row.workflow for row in self._recoverable(now)}
            return sorted(names - set(workflows) - {""})

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

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        with self._lock:
            rows = self._checkpoints.get(thread_id, {}).values()
            found = (row for row in rows if run_id in (None, row.run_id) and row.sequence > after)
            return list(islice(found, limit))

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
            while next_id is not None and (found := self._drop(thread_id, next_id)):
                next_id = found.checkpoint.parent_id
            if run and run is latest and run.status == RunStatus.SUCCESS:
                self._keep(reopened(run))
            return True

    async def cancel(self, thread_id: str, now: float) -> RunRow | None:
        with self._lock:
            row = self._find(thread_id, None)
            if row is not None and not row.is_final:
                self._keep(cancelled(row, now))
            return row

    async def delete(self, thread_id: str, owner: str) -> bool:
        with self._lock:
            self._check_idle(thread_id, owner)
            numbers = self._threads.pop(thread_id, [])
            for number in numbers:
                del self._runs[number]
            self._checkpoints.pop(thread_id, None)
            self._taken = {each for each in self._taken if each[0] != thread_id}
            self._sent = [each for each in self._sent if each[1] != thread_id]
            for key in [each for each in self._sent_to if each[0] == thread_id]:
                del self._sent_to[key]
            return bool(numbers)

    def _find(self, thread_id: str, run_id: str | None) -> RunRow | None:
        rows = [self._runs[number] for number in self._threads.get(thread_id, [])]
        if run_id is not None:
            rows = [row for row in rows if row.run_id == run_id]
        return rows[-1] if rows else None

    def _keep(self, row: RunRow) -> RunRow:
        self._runs[row.number] = row
        return row

    def _drop(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        rows = self._checkpoints.get(thread_id, {})
        rows.pop(wait_id(task_id), None)
        row = rows.pop(task_id, None)
        if row is not None and row.checkpoint.signal is not None:
            self._taken.discard((thread_id, row.checkpoint.signal))
        if row is not None and row.checkpoint.kind == SIGNAL:
            del self._sent_to[thread_id, row.run_id][task_id]
        return row

    def _signals(self, thread_id: str, run_id: str, after: int) -> list[SignalRow]:
        return [
            SignalRow(
                sequence,
                task_id,
                row.checkpoint.name,
                row.checkpoint.payload,
                row.checkpoint.finished,
                row.checkpoint.checksum,
            )
            for task_id, sequence in self._sent_to.get((thread_id, run_id), {}).items()
            if sequence > after and (thread_id, task_id) not in self._taken
            for row in (self._checkpoints[thread_id][task_id],)
        ]

    def _latest_signal(self, thread_id: str, run_id: str) -> int:
        sequences = self._sent_to.get((thread_id, run_id), {})
        return next(reversed(sequences.values()), 0)

    def _recoverable(self, now: float) -> list[RunRow]:
        return [
            row
            for row in self._runs.values()
            if not row.is_final
            and (
                (row.due is not None and row.due <= now and row.owner is None)
                or (row.owner is not None and self._is_gone(row.owner))
            )
        ]

    def _send(self, signal: Signal) -> Sent | Exception:
        thread_id = signal.thread_id
        known = self._checkpoints.get(thread_id, {}).get(signal.task_id)
        run = self._find(thread_id, known.run_id if known else None)
        if run is None or (run.is_final and known is None):
            return RunNotFound(thread_id, "unfinished run")
        if known is not None:
            return Sent(run.run_id, run.workflow, known.sequence, 0, False)
        previous = self._latest_signal(thread_id, run.run_id)
        sequence = self._insert(run, signal_row(signal, run))
        self._sent.append((sequence, thread_id))
        self._sent_to.setdefault((thread_id, run.run_id), {})[signal.task_id] = sequence
        if run.status == RunStatus.PAUSED:
            self._keep(structs.replace(run, due=0.0))
        return Sent(run.run_id, run.workflow, sequence, previous, True)

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
            taken = checkpoint.signal and (row.thread_id, checkpoint.signal)
            if (
                key in fresh
                or taken in fresh
                or taken in self._taken
                or key[1] in self._checkpoints.get(key[0], {})
            ):
                error = StoreError(f"{checkpoint.task_id} is recorded on {row.thread_id!r} already")
                error.row_at_fault = True
                raise error
            fresh.add(key)
            if taken:
                fresh.add(taken)

    def _insert(self, run: RunRow, checkpoint: Checkpoint) -> int:
        row = CheckpointRow(next(self._sequences), run.run_id, checkpoint)
        self._checkpoints.setdefault(run.thread_id, {})[checkpoint.task_id] = row
        if checkpoint.signal is not None:
            self._taken.add((run.thread_id, checkpoint.signal))
        return row.sequence

    def _unrecord(
        self, key: RunKey, task_ids: Sequence[str], refused: dict[tuple[int, int], str]
    ) -> RunRow | None:
        row = self._fenced(key.number, key.epoch, refused)
        if row is not None:
            for task_id in task_ids:
                self._drop(key.thread_id, task_id)
        return row

    def _finish(self, finish: Finish, refused: dict[tuple[int, int], str]) -> None:
        row = self._unrecord(finish.key, finish.unrecord, refused)
        if row is None:
            return
        due = finish.due
        is_paused = finish.status == RunStatus.PAUSED
        if is_paused and self._latest_signal(row.thread_id, row.run_id) > finish.last_signal:
            due = 0.0
        self._keep(
            structs.replace(
                row,
                status=finish.status,
                result=finish.result,
                error=finish.error,
                saved=finish.saved,
                owner=None,
                finished=None if finish.status == RunStatus.RUNNING else finish.now,
                waits=finish.waits,
                due=due,
                takeovers=0,
            ).sealed()
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
            row = self._keep(continued(held, claim, lambda: self._latest_checkpoint(held)))
            return Claimed(
                row,
                self._previous(row),
                signals=self._signals(row.thread_id, row.run_id, 0),
                last_signal=self._latest_signal(row.thread_id, row.run_id),
            )
        if decision == "supersede" and latest:
            self._keep(cancelled(latest, claim.now))
        row = claim.new_row(next(self._numbers), latest.sequence + 1 if latest else 1)
        self._runs[row.number] = row
        self._threads.setdefault(row.thread_id, []).append(row.number)
        return Claimed(row, self._previous(row), is_new=True)

    def _latest_checkpoint(self, run: RunRow) -> int:
        rows = self._checkpoints.get(run.thread_id, {}).values()
        own = (row for row in rows if row.run_id == run.run_id and row.checkpoint.kind != SIGNAL)
        return max((row.sequence for row in own), default=0)

    def _previous(self, row: RunRow) -> bytes | None:
        for number in reversed(self._threads[row.thread_id]):
            earlier = self._runs[number]
            if earlier.sequence < row.sequence and earlier.status == RunStatus.SUCCESS:
                return earlier.result if earlier.saved is None else earlier.saved
        return None
