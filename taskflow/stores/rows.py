"""The rows of the run, checkpoint and cache tables, and how each is verified.

A row is what was written if its checksum fits: `verified` raises where it does not.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, structs

from taskflow.errors import CheckpointCorrupt
from taskflow.records import RunStatus
from taskflow.stores.checksums import (
    COVERED,
    checkpoint_checksum,
    covered_signal,
    details_checksum,
    fits,
    outcome_checksum,
    run_checksum,
)
from taskflow.stores.kinds import SIGNAL

__all__ = (
    "ENDED",
    "CacheEntry",
    "Checkpoint",
    "CheckpointRow",
    "Recorded",
    "RunKey",
    "RunRow",
    "SignalRow",
)


ENDED: Final = (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)


class RunKey(Struct, frozen=True):
    """A run's identity and epoch, checked by every commit."""

    number: int  # the store's own number of the run
    epoch: int  # grows at every take-over
    thread_id: str
    run_id: str
    seed: int  # checksum of the columns of the run that never change
    workflow: str = ""
    birth: int | None = None  # checksum of its place and times; None: these are not covered


class Checkpoint(Struct, frozen=True, gc=False):
    """The recorded outcome of one call: what a rerun is given instead of an execution."""

    number: int  # RunKey.number and RunKey.epoch of the run that records it
    epoch: int
    task_id: str
    parent_id: str | None  # the task id of the call that made it; None: the run's own body
    name: str
    kind: str  # one of `taskflow.stores.kinds`
    payload: bytes  # JSON of the value, or of the Failure
    arguments: str | None  # JSON, capped
    attempts: int  # 0: answered from the cache
    started: float  # wall clock, seconds since the epoch
    finished: float
    checksum: int
    signal: str | None = None  # the id of the signal that it has taken

    @property
    def has_sound_details(self) -> bool:
        """Whether its columns beside its outcome are what was written."""
        try:
            return fits(self.checksum, self.checksum & COVERED, self._details_checksum())
        except (TypeError, OverflowError):
            return False

    def is_sound(self, seed: int) -> bool:
        """Whether it is what was written into the run of that `run_checksum`."""
        try:
            signal = covered_signal(self.checksum, self.signal)
            expected = checkpoint_checksum(seed, self.task_id, self.kind, self.payload, signal)
            return fits(self.checksum, expected, self._details_checksum())
        except (TypeError, AttributeError, OverflowError):  # neither text nor bytes
            return False

    def _details_checksum(self) -> int:
        return details_checksum(
            self.parent_id,
            self.name,
            self.arguments,
            self.attempts,
            self.started,
            self.finished,
            self.signal,
        )


class Recorded(Struct, frozen=True, gc=False):
    """What a rerun loads of a checkpoint."""

    sequence: int  # commit order, over the whole store
    task_id: str
    parent_id: str | None
    kind: str
    payload: bytes
    checksum: int
    signal: str | None = None


class SignalRow(Struct, frozen=True, gc=False):
    """A signal that no call has taken yet."""

    sequence: int
    task_id: str
    name: str
    payload: bytes
    sent: float  # wall clock, seconds since the epoch
    checksum: int

    def is_sound(self, seed: int) -> bool:
        """Whether it is what was sent to the run of that `run_checksum`."""
        try:
            return fits(
                self.checksum,
                checkpoint_checksum(seed, self.task_id, SIGNAL, self.payload),
                details_checksum(None, self.name, None, 0, self.sent, self.sent, None),
            )
        except (TypeError, AttributeError):  # a column holds neither text nor bytes
            return False


class CacheEntry(Struct, frozen=True):
    """A result that other threads may be given, committed with the checkpoint it comes from."""

    task_name: str
    key: str
    payload: bytes
    expires: float | None
    checksum: int


class RunRow(Struct, frozen=True):
    """One row of the run table."""

    number: int
    thread_id: str
    run_id: str
    sequence: int  # from 1, on its thread
    workflow: str
    input: bytes  # JSON object of the workflow's arguments
    fingerprint: str  # digest of workflow and input
    status: str
    result: bytes | None
    error: bytes | None
    saved: bytes | None
    owner: str | None
    epoch: int
    created: float
    started: float
    finished: float | None
    checksum: int
    waits: bytes | None = None  # JSON of its waits while it is paused
    due: float | None = None  # when recovery is to continue it; 0: at once
    takeovers: int = 0  # from owners that were gone, since it last progressed
    mark: int = 0  # the sequence of its latest checkpoint at the latest take-over

    @property
    def key(self) -> RunKey:
        """Its identity and epoch, checked by every commit."""
        seed = run_checksum(
            self.thread_id, self.run_id, self.workflow, self.input, self.fingerprint
        )
        place = self.sequence, self.epoch, self.created, self.started
        return RunKey(
            self.number,
            self.epoch,
            self.thread_id,
            self.run_id,
            seed,
            self.workflow,
            run_checksum(*place),
        )

    @property
    def is_open(self) -> bool:
        """Whether it has not ended: a thread has at most one such run."""
        return self.status not in ENDED

    @property
    def is_final(self) -> bool:
        """Whether it is never continued; a failed run is, by the same call."""
        return self.status in (RunStatus.SUCCESS, RunStatus.CANCELLED)

    def sealed(self) -> RunRow:
        """The same row with the checksum that fits it."""
        return structs.replace(self, checksum=self._expected_checksum())

    def verified(self) -> RunRow:
        """The row itself. Raises CheckpointCorrupt where it is not what was written."""
        try:
            expected = self._expected_checksum()
            is_sound = fits(self.checksum, expected & COVERED, expected & ~COVERED)
        except (TypeError, ValueError, OverflowError):  # a column holds neither text nor bytes
            is_sound = False
        if not is_sound:
            raise CheckpointCorrupt(self.thread_id, self.run_id, None, "its checksum does not fit")

        return self

    def _expected_checksum(self) -> int:
        key = self.key
        return outcome_checksum(
            key.seed,
            key.birth,
            self.status,
            self.result,
            self.error,
            self.saved,
            waits=self.waits,
            finished=self.finished,
        )


class CheckpointRow(Struct, frozen=True):
    """One row of the checkpoint table."""

    sequence: int
    run_id: str
    checkpoint: Checkpoint

    def verified(self, thread_id: str) -> CheckpointRow:
        """The row itself. Raises CheckpointCorrupt where it is not what was written there."""
        if not self.checkpoint.is_sound(run_checksum(thread_id, self.run_id)):
            reason = "its checksum does not fit"
            raise CheckpointCorrupt(thread_id, self.run_id, self.checkpoint.task_id, reason)

        return self
