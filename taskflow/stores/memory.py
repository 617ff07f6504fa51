"""`MemoryStore`: keeps everything in this process, for tests and for work that may be lost."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from itertools import count, islice
from typing import TypeVar

import anyio.lowlevel
from msgspec import structs

from taskflow.errors import RunNotFound, StoreError, TaskflowError, ThreadBusy, ThreadExists
from taskflow.records import Pruned, RunStatus
from taskflow.stores.base import Snapshot
from taskflow.stores.batches import Batch, Claim, Claimed, Committed, Finish, Sent, Signal
from taskflow.stores.checksums import COVERED, checkpoint_checksum, covered_signal, run_checksum
from taskflow.stores.claims import decide
from taskflow.stores.edits import checksum_on
from taskflow.stores.kinds import OUTCOMES, RESULT, SIGNAL, WAIT, wait_id
from taskflow.stores.pruning import Outline, Prune, prunable
from taskflow.stores.rows import (
    CacheEntry,
    Checkpoint,
    CheckpointRow,
    Recorded,
    RunKey,
    RunRow,
    SignalRow,
)
from taskflow.stores.signals import signal_row
from taskflow.stores.transitions import cancelled, continued, forked, reopened

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
                    row.checkpoint.signal,
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

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        with self._lock:
            if after is None:
                return self._sent[-1:]
            return self._sent[bisect_right(self._sent, (after, chr(0x10FFFF))) :]

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

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        with self._lock:
            return self._checkpoints.get(thread_id, {}).get(task_id)

    @contextlib.asynccontextmanager
    async def snapshot(self, thread_id: str) -> AsyncGenerator[Snapshot]:
        with self._lock:
            runs = [self._runs[number] for number in self._threads.get(thread_id, [])]
            rows = list(self._checkpoints.get(thread_id, {}).values())
        yield _Snapshot(runs, rows)

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
            self._check_idle(thread_id, owner)
            if row is None or row.checkpoint.kind in (SIGNAL, WAIT):
                return False
            for each in self._calls_up_from(thread_id, task_id):
                self._drop(thread_id, each)
            self._reopen(thread_id, row.run_id)
            return True

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        with self._lock:
            self._check_idle(thread_id, None)
            rows = self._checkpoints.get(thread_id, {})
            row = rows.get(task_id)
            if row is None or row.checkpoint.kind not in OUTCOMES:
                return False
            seed = run_checksum(thread_id, row.run_id)
            signal = covered_signal(row.checkpoint.checksum, row.checkpoint.signal)
            checkpoint = structs.replace(
                row.checkpoint,
                kind=RESULT,
                payload=payload,
                checksum=row.checkpoint.checksum & ~COVERED
                | checkpoint_checksum(seed, task_id, RESULT, payload, signal),
            )
            rows[task_id] = structs.replace(row, checkpoint=checkpoint)
            _, *callers = self._calls_up_from(thread_id, task_id)
            for each in callers:
                self._drop(thread_id, each)
            self._reopen(thread_id, row.run_id)
            return True

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        with self._lock:
            if to in self._threads:
                raise ThreadExists(to)
            source = self._find(thread_id, run_id)
            if source is None:
                raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")
            rows = self._checkpoints.get(thread_id, {})
            left_out: set[str] = set()
            for task_id in without:
                row = rows.get(task_id)
                is_call = row is not None and row.checkpoint.kind not in (SIGNAL, WAIT)
                if row is None or not is_call or row.run_id != source.run_id:
                    what = f"call {task_id!r} recorded by run {source.run_id!r}"
                    raise RunNotFound(thread_id, what)
                left_out.update(self._calls_up_from(thread_id, task_id))
            left_out.update([wait_id(each) for each in left_out])
            earlier = self._earlier_success(source)
            kept = [
                row.checkpoint
                for task_id, row in rows.items()
                if row.run_id == source.run_id and task_id not in left_out
            ]
        run = source.run_id
        copies: list[Checkpoint] = []
        for each in kept:
            checksum = checksum_on(to, thread_id, CheckpointRow(0, run, each))
            copies.append(structs.replace(each, checksum=checksum))
            if len(copies) % 1000 == 0:
                await anyio.lowlevel.checkpoint()
        with self._lock:
            if to in self._threads:
                raise ThreadExists(to)
            if earlier is not None:
                self._begin(forked(earlier, to, is_whole=True))
            made = self._begin(forked(source, to, is_whole=not left_out))
            for each in copies:
                self._insert(made, each)
            return made

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        with self._lock:
            if runs[0].thread_id in self._threads:
                raise ThreadExists(runs[0].thread_id)
            made = {row.run_id: self._begin(row) for row in runs}
            for row in checkpoints:
                self._insert(made[row.run_id], row.checkpoint)

    async def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        with self._lock:
            threads = list(self._threads)
        for thread_id in threads:
            with self._lock:
                pruned = self._prune(thread_id, ask)
            if pruned != Pruned():
                yield pruned
            await anyio.lowlevel.checkpoint()
        with self._lock:
            expired = [
                key
                for key, entry in self._cache.items()
                if entry.expires is not None and entry.expires <= ask.now
            ]
            for key in expired:
                del self._cache[key]
        yield Pruned(cached=len(expired))

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        with self._lock:
            rows = (self._find(thread_id, None) for thread_id in thread_ids)
            return [row for row in rows if row is not None]

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        with self._lock:
            row = self._find(thread_id, None)
            if row is not None and not row.is_final and run_id in (None, row.run_id):
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

    def _calls_up_from(self, thread_id: str, task_id: str) -> list[str]:
        """A recorded call, and the recorded calls that it was made by, up to the run itself."""
        rows = self._checkpoints.get(thread_id, {})
        chain: list[str] = []
        next_id: str | None = task_id
        while next_id in rows and next_id not in chain:
            chain.append(next_id)
            next_id = rows[next_id].checkpoint.parent_id
        return chain

    def _reopen(self, thread_id: str, run_id: str) -> None:
        latest = self._find(thread_id, None)
        if latest and latest.run_id == run_id and latest.status == RunStatus.SUCCESS:
            self._keep(reopened(latest))

    def _begin(self, row: RunRow) -> RunRow:
        row = self._keep(structs.replace(row, number=next(self._numbers)))
        self._threads.setdefault(row.thread_id, []).append(row.number)
        return row

    def _prune(self, thread_id: str, ask: Prune) -> Pruned:
        rows = self._checkpoints.get(thread_id, {})
        by_run: dict[str, list[str]] = {}
        for task_id, row in rows.items():
            by_run.setdefault(row.run_id, []).append(task_id)
        runs = [self._runs[number] for number in self._threads.get(thread_id, [])]
        outlines = [
            Outline(
                run.number,
                run.run_id,
                run.epoch,
                run.status,
                run.finished,
                run.owner,
                run.saved is not None,
                run.run_id in by_run,
            )
            for run in runs
        ]
        pruned = Pruned()
        gone: set[int] = set()
        for run, keeps_row in prunable(outlines, ask):
            doomed = by_run.get(run.run_id, [])
            gone.update(rows[task_id].sequence for task_id in doomed)
            for task_id in doomed:
                self._drop(thread_id, task_id)
            pruned += Pruned(0 if keeps_row else 1, len(doomed))
            if not keeps_row:
                self._threads[thread_id].remove(run.number)
                del self._runs[run.number]
                self._sent_to.pop((thread_id, run.run_id), None)
        if gone:
            self._sent = [each for each in self._sent if each[0] not in gone]
        if not self._threads.get(thread_id, True):
            del self._threads[thread_id]
            self._checkpoints.pop(thread_id, None)
        return pruned

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
        run = self._find(thread_id, None)
        is_open = run is not None and not run.is_final
        if known is not None:
            is_taken = (thread_id, signal.task_id) in self._taken
            if is_taken or (is_open and run is not None and run.run_id == known.run_id):
                held = self._find(thread_id, known.run_id)
                workflow = "" if held is None else held.workflow
                return Sent(known.run_id, workflow, known.sequence, 0, False)
        if run is None or not is_open:
            return RunNotFound(thread_id, "unfinished run")
        if known is not None:  # nobody took it before its run ended
            self._drop(thread_id, signal.task_id)
        previous = self._latest_signal(thread_id, run.run_id)
        sequence = self._insert(run, signal_row(signal, run))
        if run.status in (RunStatus.PAUSED, RunStatus.RUNNING) and run.owner is None:
            self._keep(structs.replace(run, due=0.0))
        return Sent(run.run_id, run.workflow, sequence, previous, True)

    def _is_gone(self, owner: str) -> bool:
        return owner not in self._owners

    def _check_idle(self, thread_id: str, owner: str | None) -> None:
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
        if checkpoint.kind == SIGNAL:
            self._sent.append((row.sequence, run.thread_id))
            sent = self._sent_to.setdefault((run.thread_id, run.run_id), {})
            sent[checkpoint.task_id] = row.sequence
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
                takeovers=finish.takeovers,
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
                waits=held.waits,
            )
        superseded = None
        if decision == "supersede" and latest:
            self._keep(cancelled(latest, claim.now))
            superseded = latest.run_id
        row = self._begin(claim.new_row(0, latest.sequence + 1 if latest else 1))
        return Claimed(row, self._previous(row), is_new=True, superseded=superseded)

    def _latest_checkpoint(self, run: RunRow) -> int:
        rows = self._checkpoints.get(run.thread_id, {}).values()
        own = (row for row in rows if row.run_id == run.run_id and row.checkpoint.kind != SIGNAL)
        return max((row.sequence for row in own), default=0)

    def _previous(self, row: RunRow) -> bytes | None:
        earlier = self._earlier_success(row)
        if earlier is None:
            return None
        return earlier.result if earlier.saved is None else earlier.saved

    def _earlier_success(self, row: RunRow) -> RunRow | None:
        for number in reversed(self._threads[row.thread_id]):
            earlier = self._runs[number]
            if earlier.sequence < row.sequence and earlier.status == RunStatus.SUCCESS:
                return earlier
        return None


class _Snapshot:
    """The rows of one thread, which nobody changes."""

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
