"""The rows that a store keeps, what a commit carries, and the checksums of both.

`RunRow` and `Checkpoint` are rows of the run table and of the checkpoint table. A `Batch` is what
one commit carries: checkpoints, `Claim`, `Finish`, `Unrecord` and `Signal`; a `Committed` is what
it came to.

The checkpoint table holds five kinds of rows: the ``result`` or ``error`` of a call; the ``emit``
of a value; the deadline of a ``wait``, from its first call on; and a ``signal`` that was sent to a
run. The call that takes a signal names it in its own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias
from zlib import crc32

from msgspec import Struct, msgpack, structs

from taskflow.errors import CheckpointCorrupt
from taskflow.records import RunStatus

__all__ = (
    "Batch",
    "CacheEntry",
    "Checkpoint",
    "CheckpointRow",
    "Claim",
    "Claimed",
    "Committed",
    "Durability",
    "Finish",
    "Outline",
    "Prune",
    "Recorded",
    "RunKey",
    "RunRow",
    "Sent",
    "Signal",
    "SignalRow",
    "Unrecord",
    "checkpoint_checksum",
    "covered_signal",
    "details_checksum",
    "fits",
    "run_checksum",
)

Durability: TypeAlias = Literal["sync", "async", "exit"]

RESULT = "result"
ERROR = "error"
EMIT = "emit"
WAIT = "wait"
SIGNAL = "signal"
OUTCOMES = (RESULT, ERROR)
COVERED = 0xFFFFFFFF  # the bits of a checksum that cover what a replay depends on


class RunKey(Struct, frozen=True):
    """Which run, and in whose hands: what every commit carries, and is checked against."""

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
    kind: str  # "result" or "error" (or another one of those above)
    payload: bytes  # JSON of the value, or of the Failure
    arguments: str | None  # JSON, capped
    attempts: int  # how many; 0: answered from the cache
    started: float  # wall clock, seconds since the epoch
    finished: float
    checksum: int
    signal: str | None = None  # the id of the signal that it has taken

    @property
    def has_sound_details(self) -> bool:
        """Whether what it tells beside its outcome is what was written."""
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


class Signal(Struct, frozen=True):
    """A value for a thread's unfinished run, as it is sent."""

    thread_id: str
    task_id: str  # of its row: the same id is one signal, however often it is sent
    name: str
    payload: bytes
    now: float


class Sent(Struct, frozen=True):
    """What sending a signal came to."""

    run_id: str
    workflow: str
    sequence: int
    previous: int  # sequence of the signal before it in the same run, or 0
    is_new: bool  # else it had been sent before


class SignalRow(Struct, frozen=True, gc=False):
    """A signal that nobody has taken yet."""

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
    waits: bytes | None = None  # JSON of what it waits for while it is paused
    due: float | None = None  # when it is to be continued by whoever recovers; 0: at once
    takeovers: int = 0  # how often it was taken from owners that died, without any progress
    mark: int = 0  # the sequence of its latest checkpoint at the latest take-over

    @property
    def key(self) -> RunKey:
        """Who may write to it now."""
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
    def is_final(self) -> bool:
        """Whether it is never continued."""
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
        return outcome_checksum(
            self.key,
            self.status,
            self.result,
            self.error,
            self.saved,
            self.waits,
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
    epoch: int | None = None  # only if nobody has claimed it since
    takes_over: bool = False  # nobody asked for it: its owner has died
    continues: bool = False  # only a run that is there
    awaits: bool = False  # what comes of it elsewhere: a failure is its result, and not continued

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
    """What a claim came to."""

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
    def checksum(self) -> int:
        """The run's checksum from here on."""
        return outcome_checksum(
            self.key,
            self.status,
            self.result,
            self.error,
            self.saved,
            self.waits,
            finished=None if self.status == RunStatus.RUNNING else self.now,
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
    """What a commit came to: the runs whose writes were refused, and an answer to each claim."""

    refused: dict[tuple[int, int], str]  # (number, epoch) -> the run's status now
    claims: list[Claimed | Exception]
    signals: list[Sent | Exception] = []
    sequences: Sequence[int] = ()  # of the checkpoints; 0 where one was refused


class Outline(Struct, frozen=True):
    """One run of a thread, as far as it matters to who prunes."""

    number: int
    run_id: str
    epoch: int
    status: str
    finished: float | None
    owner: str | None
    has_saved: bool  # a value for `previous`
    has_rows: bool  # checkpoints


class Prune(Struct, frozen=True):
    """Which runs are to be deleted."""

    statuses: tuple[str, ...]
    before: float  # those that have finished earlier
    keep_last: int  # but for so many of the latest of each thread
    now: float  # and shared results that have expired by then


def checkpoint_checksum(
    seed: int, task_id: str, kind: str, payload: bytes, signal: str | None = None
) -> int:
    """CRC-32 over all that a replay depends on; ``seed`` is `run_checksum` of thread and run."""
    if kind == ERROR:
        seed = ~seed & 0xFFFFFFFF
    elif kind != RESULT:
        seed = crc32(kind.encode(), seed)
    checksum = crc32(payload, crc32(task_id.encode(), seed))
    return checksum if signal is None else crc32(signal.encode(), checksum)


def covered_signal(checksum: int, signal: str | None) -> str | None:
    """The signal that a row's checksum covers: rows of the first two schemas cover none."""
    return signal if checksum > COVERED else None


def outcome_checksum(
    key: RunKey,
    status: str,
    result: bytes | None,
    error: bytes | None,
    saved: bytes | None,
    waits: bytes | None,
    *,
    finished: float | None,
) -> int:
    """CRC-32 over what a run is and came to, and, above its 32 bits, one over the other columns.

    Not covered are its number, which a new row does not know, who owns it and when it is due, which
    others change, and how often it was taken over.
    """
    waiting = () if waits is None else (waits,)
    checksum = run_checksum(key.seed, status, result, error, saved, *waiting)
    if key.birth is None:
        return checksum
    return _above(run_checksum(key.birth, finished)) | checksum


def details_checksum(
    parent_id: str | None,
    name: str,
    arguments: str | None,
    attempts: int,
    started: float,
    finished: float,
    signal: str | None,
) -> int:
    """CRC-32 over what a checkpoint tells beside its outcome, to be added to the other one."""
    details = _pack((parent_id, name, arguments, attempts, started, finished, signal))
    return (crc32(details) >> 1 or 1) << 32  # `_above`, without a call: once for each row


def fits(checksum: int, expected: int, details: int) -> bool:
    """Whether a row has the checksum that is ``expected`` of it, and the one of its ``details``.

    Rows of schemas before 3 have only the first.
    """
    return checksum & COVERED == expected and (
        checksum >> 32 == 0 or checksum & ~COVERED == details
    )


def _above(checksum: int) -> int:
    """A checksum for the upper half of SQLite's integers, which have a sign; never 0."""
    return (checksum >> 1 or 1) << 32


def run_checksum(*parts: str | int | float | bytes | None) -> int:
    """CRC-32 over ``parts`` in MessagePack, where each tells its type and length."""
    return crc32(_pack(parts))


_pack = msgpack.Encoder().encode
