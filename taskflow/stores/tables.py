"""A store's rows as the rules that all stores share read and write them.

`commits`, `claims`, `signals` and `edits` hold the rules. They are given `Tables` inside a
transaction, and know no database. A store implements these protocols over what it keeps; one whose
database answers asynchronously reads what a rule asks for first, and writes what it put afterwards.

Rows are given unverified, but by methods that say that they raise CheckpointCorrupt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from taskflow.stores.batches import Finish
from taskflow.stores.rows import CacheEntry, Checkpoint, CheckpointRow, RunKey, RunRow, SignalRow

__all__ = ("Checkpoints", "Refused", "Runs", "Tables")

Refused: TypeAlias = dict[tuple[int, int], str]  # by a run's number and epoch: its status now


class Runs(Protocol):
    """The run table."""

    def standing(self, number: int) -> tuple[int, str] | None:
        """A run's epoch and status."""
        ...

    def run(self, thread_id: str, run_id: str) -> RunRow | None:
        """A run of the thread."""
        ...

    def latest(self, thread_id: str) -> RunRow | None:
        """The thread's open run, or the one with the highest sequence where none is open."""
        ...

    def last_sequence(self, thread_id: str) -> int:
        """The highest sequence of the thread's runs; 0 where it has none."""
        ...

    def heads(self, thread_ids: Sequence[str]) -> dict[str, RunRow]:
        """The latest run of each of these threads."""
        ...

    def check_absent(self, thread_id: str) -> None:
        """Raise CheckpointCorrupt if a thread of which `heads` found nothing has runs after all."""
        ...

    def previous(self, run: RunRow) -> RunRow | None:
        """The latest successful run before this one."""
        ...

    def begin(self, runs: Sequence[RunRow]) -> Sequence[RunRow]:
        """Insert new runs, each of another thread; the same rows with their numbers."""
        ...

    def update(self, run: RunRow) -> None:
        """Write what may change of a run."""
        ...

    def make_due(self, run: RunRow) -> None:
        """Have recovery continue a run at once."""
        ...


class Checkpoints(Protocol):
    """The checkpoint table."""

    def row(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        """The row under this id, of any kind."""
        ...

    def place_of(self, thread_id: str, task_id: str) -> tuple[str, int] | None:
        """The run id and sequence of the row under this id."""
        ...

    def latest_of(self, run: RunRow) -> int:
        """The sequence of the last row that the run itself has recorded: not of a signal."""
        ...

    def insert(self, checkpoints: Sequence[Checkpoint], refused: Refused) -> Sequence[int]:
        """Insert the rows of current owners; the sequence of each, 0 where it was refused."""
        ...

    def replace_result(self, thread_id: str, run_id: str, task_id: str, payload: bytes) -> bool:
        """Make ``payload`` the result of a call; false where the row holds no outcome."""
        ...

    def drop(self, thread_id: str, task_id: str) -> None:
        """Delete a call's row, and that of its deadline."""
        ...

    def unrecord(self, key: RunKey, task_ids: Sequence[str]) -> None:
        """Delete calls of a run, and their deadlines, if its owner may still write."""
        ...

    def add_signal(self, run: RunRow, row: Checkpoint) -> int:
        """Insert the row of a signal; its sequence."""
        ...

    def is_taken(self, thread_id: str, signal: str) -> bool:
        """Whether a call of the thread has taken the signal."""
        ...

    def last_signal(self, run: RunRow) -> int:
        """The sequence of the latest signal in a run, taken or not; 0 where there is none."""
        ...

    def waiting_signals(self, run: RunRow) -> Sequence[SignalRow]:
        """The signals in a run that no call has taken, in order."""
        ...


class Tables(Protocol):
    """Both, with what concerns neither or both."""

    @property
    def runs(self) -> Runs:
        """The run table."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoint table."""
        ...

    def is_gone(self, owner: str) -> bool:
        """Whether an owner is gone: its runs may be taken over."""
        ...

    def finish(self, finishes: Sequence[Finish], refused: Refused) -> None:
        """Delete what each unrecords, then write what `transitions.ended` makes of its run."""
        ...

    def put_cached(self, entries: Sequence[CacheEntry]) -> None:
        """Write shared results, over those under the same keys."""
        ...
