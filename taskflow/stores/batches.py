"""What a commit carries, and what it came to.

A `Batch` holds checkpoints, shared results, `Unrecord`, `Finish`, `Claim` and `Signal`; a
`Committed` holds the runs whose writes were refused, and the answers to claims and signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from taskflow.records import RunStatus
from taskflow.stores.checksums import outcome_checksum
from taskflow.stores.rows import CacheEntry, Checkpoint, RunKey, RunRow, SignalRow

__all__ = (
    "Batch",
    "Claim",
    "Claimed",
    "Committed",
    "Durability",
    "Finish",
    "Sent",
    "Signal",
    "Unrecord",
)

# When the rows of a run are committed: before a result is handed on, soon after, at the run's end.
Durability: TypeAlias = Literal["sync", "async", "exit"]


class Signal(Struct, frozen=True):
    """A value for a thread's unfinished run, as it is sent."""

    thread_id: str
    task_id: str  # of its row: the same id is one signal, however often it is sent
    name: str
    payload: bytes
    now: float


class Sent(Struct, frozen=True):
    """The answer to a signal: the run that has it."""

    run_id: str
    workflow: str
    sequence: int
    previous: int  # sequence of the signal before it in the same run, or 0
    is_new: bool  # else it had been sent before


class Claim(Struct, frozen=True):
    """The wish to own a run: to begin, to continue, or to be answered by it."""

    thread_id: str
    run_id: str | None  # None: the thread's latest run, or a new one under `new_run_id`
    new_run_id: str
    workflow: str
    input: bytes
    fingerprint: str
    owner: str
    now: float
    supersede: bool = False
    epoch: int | None = None  # only if the run still has this one
    takes_over: bool = False  # by recovery, from an owner that is gone
    continues: bool = False  # only a run that is there
    awaits: bool = False  # the run's outcome elsewhere: a failure is the result, not continued
    fresh: bool = False  # not the outcome or the rest of an equal run that has ended: a new run

    def new_row(self, number: int, sequence: int) -> RunRow:
        """The run that this claim begins."""
        return RunRow(
            number=number,
            thread_id=self.thread_id,
            run_id=self.new_run_id if self.run_id is None else self.run_id,
            sequence=sequence,
            workflow=self.workflow,
            input=self.input,
            fingerprint=self.fingerprint,
            status=RunStatus.RUNNING,
            result=None,
            error=None,
            saved=None,
            owner=self.owner,
            epoch=1,
            created=self.now,
            started=self.now,
            finished=None,
            checksum=0,
        ).sealed()


class Claimed(Struct, frozen=True):
    """The answer to a claim: the run, which its claimer owns unless it is an answer."""

    row: RunRow
    previous: bytes | None  # what the latest successful run before this one saved
    is_new: bool = False
    is_answer: bool = False  # the run has succeeded already: nothing was claimed
    signals: Sequence[SignalRow] = ()  # those that wait in a run that is continued
    last_signal: int = 0  # sequence of the latest signal in it, taken or not
    waits: bytes | None = None  # of the pause that it ends
    superseded: str | None = None  # the id of the run that it has cancelled


class Finish(Struct, frozen=True):
    """The end of an execution: an end of the run, or its release (status ``running``)."""

    key: RunKey
    status: str
    now: float
    result: bytes | None = None
    error: bytes | None = None
    saved: bytes | None = None
    unrecord: tuple[str, ...] = ()  # failures that ended it: the next run executes these again
    waits: bytes | None = None  # of a pause
    due: float | None = None
    last_signal: int = 0  # a pause that does not know of a later one is due at once
    takeovers: int = 0  # goes on counting where a store that fails is no progress

    @property
    def finished(self) -> float | None:
        """When the run finished; None where it was only released."""
        return None if self.status == RunStatus.RUNNING else self.now

    @property
    def checksum(self) -> int:
        """The run's checksum from here on."""
        return outcome_checksum(
            self.key.seed,
            self.key.birth,
            self.status,
            self.result,
            self.error,
            self.saved,
            waits=self.waits,
            finished=self.finished,
        )


class Unrecord(Struct, frozen=True):
    """Failures that ended an attempt: the next attempt executes these calls again."""

    key: RunKey
    task_ids: tuple[str, ...]


class Batch(Struct):
    """What one commit carries, in the order in which it is applied."""

    checkpoints: list[Checkpoint]
    cached: list[CacheEntry]
    unrecords: list[Unrecord]
    finishes: list[Finish]
    claims: list[Claim]
    signals: list[Signal] = []


class Committed(Struct):
    """The runs whose writes were refused, and an answer to each claim and signal."""

    refused: dict[tuple[int, int], str]  # (number, epoch) -> the run's status now
    claims: list[Claimed | Exception]
    signals: list[Sent | Exception] = []
    sequences: Sequence[int] = ()  # of the checkpoints; 0 where one was refused
