"""`History`: the events and commits of one pass, over all its processes."""

from __future__ import annotations

from itertools import chain

from taskflow.events import Event, TaskCompleted, TaskFailed, TaskStarted
from taskflow.stores.batches import Batch
from taskflow.stores.kinds import OUTCOMES, RESULT
from taskflow.stores.rows import Checkpoint

__all__ = ("History",)


class History:
    """Which calls were executed and recorded, in which process, and beside which others."""

    def __init__(self) -> None:
        self.calls: dict[str, Checkpoint] = {}  # their rows, in the order of their commits
        self.executed: list[tuple[str, int]] = []  # task ids, and the process that executed them
        self.recorded_in: dict[str, int] = {}  # by task id: the process that recorded it first
        self.again: dict[str, None] = {}  # task ids, executed though a result was recorded
        self.beside: dict[str, set[str]] = {}  # for each call, those that executed meanwhile
        self.has_contests = False
        self.shown: dict[str, str] = {}  # calls as one would write them
        self._results: set[str] = set()  # task ids whose result is recorded
        self._executing: set[str] = set()

    def hear(self, event: Event, process: int) -> None:
        """Note an event of a process."""
        task_id = event.task_id or ""
        if isinstance(event, TaskStarted):
            self.executed.append((task_id, process))
            if task_id in self._results:
                self.again[task_id] = None
            for other in self._executing:
                self.beside.setdefault(task_id, set()).add(other)
                self.beside.setdefault(other, set()).add(task_id)
            self._executing.add(task_id)
        elif isinstance(event, TaskCompleted | TaskFailed):
            self._executing.discard(task_id)

    def commit(self, batch: Batch, process: int) -> None:
        """Note a batch, or a part of one, that is durable."""
        for checkpoint in batch.checkpoints:
            if checkpoint.kind in OUTCOMES:
                self.calls[checkpoint.task_id] = checkpoint
                self.recorded_in.setdefault(checkpoint.task_id, process)
            if checkpoint.kind == RESULT:
                self._results.add(checkpoint.task_id)
        unrecorded = [each.task_ids for each in batch.unrecords]
        unrecorded += [each.unrecord for each in batch.finishes]
        for task_id in chain.from_iterable(unrecorded):
            self.calls.pop(task_id, None)
