"""`MemoryTables`: the rows of a `MemoryStore` in dicts, with what a database has indexes for.

Nothing is ever rolled back: whatever may fail is checked before the first row of a batch is
written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from msgspec import structs

from taskflow.errors import StoreError
from taskflow.records import Pruned, RunStatus
from taskflow.stores.batches import Finish
from taskflow.stores.commits import is_current
from taskflow.stores.edits import replaced
from taskflow.stores.kinds import OUTCOMES, SIGNAL, wait_id
from taskflow.stores.pruning import Outline, Prune, prunable
from taskflow.stores.rows import CacheEntry, Checkpoint, CheckpointRow, RunKey, RunRow, SignalRow
from taskflow.stores.tables import Refused
from taskflow.stores.transitions import ended

__all__ = ("CheckpointTable", "MemoryTables", "RunTable")


class RunTable:
    """The run table: by number, and the numbers of each thread's runs."""

    def __init__(self) -> None:
        self.by_number: dict[int, RunRow] = {}
        self.threads: dict[str, list[int]] = {}  # oldest first
        self._open: dict[str, int] = {}  # the number of each thread's open run
        self._numbers = count(1)

    def standing(self, number: int) -> tuple[int, str] | None:
        row = self.by_number.get(number)
        return None if row is None else (row.epoch, row.status)

    def of(self, thread_id: str) -> list[RunRow]:
        """The runs of a thread, oldest first."""
        return [self.by_number[number] for number in self.threads.get(thread_id, ())]

    def run(self, thread_id: str, run_id: str) -> RunRow | None:
        return next((row for row in self.of(thread_id) if row.run_id == run_id), None)

    def latest(self, thread_id: str) -> RunRow | None:
        number = self._open.get(thread_id)
        if number is None:
            numbers = self.threads.get(thread_id)
            number = numbers[-1] if numbers else None
        return None if number is None else self.by_number[number]

    def last_sequence(self, thread_id: str) -> int:
        numbers = self.threads.get(thread_id)
        return self.by_number[numbers[-1]].sequence if numbers else 0

    def heads(self, thread_ids: Sequence[str]) -> dict[str, RunRow]:
        found = ((thread_id, self.latest(thread_id)) for thread_id in thread_ids)
        return {thread_id: row for thread_id, row in found if row is not None}

    def check_absent(self, thread_id: str) -> None:
        pass  # dicts lose nothing

    def previous(self, run: RunRow) -> RunRow | None:
        for row in reversed(self.of(run.thread_id)):
            if row.sequence < run.sequence and row.status == RunStatus.SUCCESS:
                return row
        return None

    def begin(self, runs: Sequence[RunRow]) -> Sequence[RunRow]:
        return [self.add(row) for row in runs]

    def add(self, run: RunRow) -> RunRow:
        """Insert a run; the same row with its number."""
        row = structs.replace(run, number=next(self._numbers))
        self.threads.setdefault(row.thread_id, []).append(row.number)
        self.update(row)
        return row

    def update(self, run: RunRow) -> None:
        self.by_number[run.number] = run
        if run.is_open:
            self._open[run.thread_id] = run.number
        elif self._open.get(run.thread_id) == run.number:
            del self._open[run.thread_id]

    def make_due(self, run: RunRow) -> None:
        self.update(structs.replace(run, due=0.0))

    def drop(self, thread_id: str, number: int) -> None:
        """Delete a run; the thread with its last one."""
        del self.by_number[number]
        if self._open.get(thread_id) == number:
            del self._open[thread_id]
        numbers = self.threads[thread_id]
        numbers.remove(number)
        if not numbers:
            del self.threads[thread_id]


class CheckpointTable:
    """The checkpoint table: by thread and task id, with the signals that were sent and taken."""

    def __init__(self, runs: RunTable) -> None:
        self.by_thread: dict[str, dict[str, CheckpointRow]] = {}  # in commit order
        self._runs = runs
        self._taken: set[tuple[str, str]] = set()  # signals, by thread id and id
        self._sent: list[tuple[int, str]] = []  # every signal's sequence and thread id
        self._sent_to: dict[tuple[str, str], dict[str, int]] = {}  # by thread and run
        self._sequences = count(1)

    def of(self, thread_id: str) -> dict[str, CheckpointRow]:
        """The rows of a thread by task id, in commit order."""
        return self.by_thread.get(thread_id, {})

    def recorded(self, run: RunRow) -> Iterator[CheckpointRow]:
        """The rows that a run itself has recorded: no signals."""
        for row in self.of(run.thread_id).values():
            if row.run_id == run.run_id and row.checkpoint.kind != SIGNAL:
                yield row

    def row(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        return self.of(thread_id).get(task_id)

    def place_of(self, thread_id: str, task_id: str) -> tuple[str, int] | None:
        row = self.row(thread_id, task_id)
        return None if row is None else (row.run_id, row.sequence)

    def latest_of(self, run: RunRow) -> int:
        return max((row.sequence for row in self.recorded(run)), default=0)

    def insert(self, checkpoints: Sequence[Checkpoint], refused: Refused) -> Sequence[int]:
        self._check_new(checkpoints)
        sequences: list[int] = []
        for checkpoint in checkpoints:
            run = self._runs.by_number.get(checkpoint.number)
            now = None if run is None else (run.epoch, run.status)
            if is_current(checkpoint.number, checkpoint.epoch, now, refused) and run is not None:
                sequences.append(self.add(run, checkpoint))
            else:
                sequences.append(0)
        return sequences

    def _check_new(self, checkpoints: Sequence[Checkpoint]) -> None:
        fresh: set[tuple[str, str]] = set()
        for checkpoint in checkpoints:
            run = self._runs.by_number.get(checkpoint.number)
            if run is None or run.epoch != checkpoint.epoch:
                continue
            key = run.thread_id, checkpoint.task_id
            taken = checkpoint.signal and (run.thread_id, checkpoint.signal)
            if (
                key in fresh
                or taken in fresh
                or taken in self._taken
                or key[1] in self.by_thread.get(key[0], {})
            ):
                error = StoreError(f"{checkpoint.task_id} is recorded on {run.thread_id!r} already")
                error.row_at_fault = True
                raise error
            fresh.add(key)
            if taken:
                fresh.add(taken)

    def add(self, run: RunRow, checkpoint: Checkpoint) -> int:
        """Insert a row into a run, without a check of its owner; its sequence."""
        row = CheckpointRow(next(self._sequences), run.run_id, checkpoint)
        self.by_thread.setdefault(run.thread_id, {})[checkpoint.task_id] = row
        if checkpoint.signal is not None:
            self._taken.add((run.thread_id, checkpoint.signal))
        if checkpoint.kind == SIGNAL:
            self._sent.append((row.sequence, run.thread_id))
            sent = self._sent_to.setdefault((run.thread_id, run.run_id), {})
            sent[checkpoint.task_id] = row.sequence
        return row.sequence

    def replace_result(self, thread_id: str, run_id: str, task_id: str, payload: bytes) -> bool:
        row = self.by_thread[thread_id][task_id]
        if row.checkpoint.kind not in OUTCOMES:
            return False
        checkpoint = replaced(row.checkpoint, thread_id, run_id, payload)
        self.by_thread[thread_id][task_id] = structs.replace(row, checkpoint=checkpoint)
        return True

    def unrecord(self, key: RunKey, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self.drop(key.thread_id, task_id)

    def drop(self, thread_id: str, task_id: str) -> None:
        rows = self.of(thread_id)
        rows.pop(wait_id(task_id), None)
        row = rows.pop(task_id, None)
        if row is not None and row.checkpoint.signal is not None:
            self._taken.discard((thread_id, row.checkpoint.signal))
        if row is not None and row.checkpoint.kind == SIGNAL:
            del self._sent_to[thread_id, row.run_id][task_id]

    def drop_run(self, thread_id: str, run_id: str, rows: Sequence[CheckpointRow]) -> None:
        """Delete a run's rows, which are these; its signals are no news any more."""
        sent = {*self._sent_to.get((thread_id, run_id), {}).values()}
        for row in rows:
            self.drop(thread_id, row.checkpoint.task_id)
        self._sent_to.pop((thread_id, run_id), None)
        if sent:
            self._sent = [each for each in self._sent if each[0] not in sent]

    def drop_thread(self, thread_id: str) -> None:
        """Delete a thread's rows."""
        self.by_thread.pop(thread_id, None)
        self._taken = {each for each in self._taken if each[0] != thread_id}
        self._sent = [each for each in self._sent if each[1] != thread_id]
        for key in [each for each in self._sent_to if each[0] == thread_id]:
            del self._sent_to[key]

    def add_signal(self, run: RunRow, row: Checkpoint) -> int:
        return self.add(run, row)

    def is_taken(self, thread_id: str, signal: str) -> bool:
        return (thread_id, signal) in self._taken

    def last_signal(self, run: RunRow) -> int:
        return next(reversed(self._sent_to.get((run.thread_id, run.run_id), {}).values()), 0)

    def waiting_signals(self, run: RunRow) -> Sequence[SignalRow]:
        return self.signals_after(run.thread_id, run.run_id, 0)

    def signals_after(self, thread_id: str, run_id: str, after: int) -> list[SignalRow]:
        """A run's signals with a sequence above ``after`` that no call has taken, in order."""
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
            for row in (self.by_thread[thread_id][task_id],)
        ]

    def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        """The sequence and thread of each signal above ``after``; without it the latest alone."""
        if after is None:
            return self._sent[-1:]
        return self._sent[bisect_right(self._sent, (after, chr(0x10FFFF))) :]


class MemoryTables:
    """The three tables of a `MemoryStore`."""

    def __init__(self, is_gone: Callable[[str], bool]) -> None:
        self._is_gone = is_gone
        self.runs = RunTable()
        self.checkpoints = CheckpointTable(self.runs)
        self.cache: dict[tuple[str, str], CacheEntry] = {}

    def is_gone(self, owner: str) -> bool:
        return self._is_gone(owner)

    def finish(self, finishes: Sequence[Finish], refused: Refused) -> None:
        for finish in finishes:
            number, epoch = finish.key.number, finish.key.epoch
            if is_current(number, epoch, self.runs.standing(number), refused):
                if finish.unrecord:
                    self.checkpoints.unrecord(finish.key, finish.unrecord)
                row = self.runs.by_number[number]
                self.runs.update(ended(row, finish, self.checkpoints.last_signal(row)))

    def put_cached(self, entries: Sequence[CacheEntry]) -> None:
        for entry in entries:
            self.cache[entry.task_name, entry.key] = entry

    def prune(self, thread_id: str, ask: Prune) -> Pruned:
        """Delete what `prunable` says of one thread."""
        by_run: dict[str, list[CheckpointRow]] = {}
        for row in self.checkpoints.of(thread_id).values():
            by_run.setdefault(row.run_id, []).append(row)
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
            for run in self.runs.of(thread_id)
        ]
        pruned = Pruned()
        for run, keeps_row in prunable(outlines, ask):
            rows = by_run.get(run.run_id, [])
            self.checkpoints.drop_run(thread_id, run.run_id, rows)
            pruned += Pruned(0 if keeps_row else 1, len(rows))
            if not keeps_row:
                self.runs.drop(thread_id, run.number)
        if thread_id not in self.runs.threads:
            self.checkpoints.by_thread.pop(thread_id, None)
        return pruned

    def delete(self, thread_id: str) -> bool:
        """Delete a thread; false where there is none."""
        rows = self.runs.of(thread_id)
        for row in rows:
            self.runs.drop(thread_id, row.number)
        self.checkpoints.drop_thread(thread_id)
        return bool(rows)
