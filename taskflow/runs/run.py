"""One run: which of its calls are recorded, which execute, and where the current code stands.

A `Frame` is one executing body: the workflow's, a task's, or a ``Runtime.thread()`` block. Calls
get their identity from the frame that makes them. A `Run` knows what is recorded, what executes,
and why nothing more may start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import count
from typing import Any, Final, Literal, Protocol

import anyio
import anyio.lowlevel

from taskflow.errors import (
    CheckpointCorrupt,
    HistoryMismatch,
    LeaseLost,
    NotInRun,
    RunCancelled,
    RunUnfinished,
    StoreError,
    TaskNameConflict,
)
from taskflow.loops.clocks import Alarm
from taskflow.loops.promises import Latch, Promise, check_call_room, uninterrupted
from taskflow.loops.scheduler import Scheduler, Slots
from taskflow.records import CurrentCall, Wait
from taskflow.runs.cache import Cache
from taskflow.runs.contests import Stake
from taskflow.runs.feeds import Feed, Feeds
from taskflow.runs.inbox import Inbox, Receiver, SignalTypes
from taskflow.runs.journal import Journal
from taskflow.runs.progress import Progress
from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.stores.batches import Claimed, Durability, Sent, Signal
from taskflow.stores.checksums import (
    COVERED,
    checkpoint_checksum,
    covered_signal,
    details_checksum,
    run_checksum,
)
from taskflow.stores.kinds import EMIT, ERROR, WAIT, wait_id
from taskflow.stores.rows import CacheEntry, Checkpoint, Recorded, SignalRow
from taskflow.wire.codec import decode_attempts, decode_waits
from taskflow.wire.digests import Digests
from taskflow.wire.identity import idempotency_key, run_digest

__all__ = ("FRAME", "Frame", "Run", "Tally", "current", "logger")

logger = logging.getLogger("taskflow")

LOAD_ROWS: Final = 10_000
IDLE_AFTER: Final = 0.1  # seconds in which no call has started, executed or ended
LOOK_AGAIN: Final = 1.0  # seconds after which signals are looked up again that could not be
SHORT_WAIT: Final = 1.0  # seconds: what ends so soon is not worth unwinding the run
MAX_HELD_ROWS: Final = 10_000
MAX_HELD_BYTES: Final = 8 * 1024 * 1024
FEW_CALLS: Final = 16_384  # digests that a set may hold, which is fast and takes 96 bytes for each
FEW_REPEATS: Final = 4096  # repeated calls that are kept though none of them is in flight

FRAME: ContextVar[Frame | None] = ContextVar("taskflow_frame", default=None)


_serials = count(1)


class Held(Protocol):
    """A call that does not execute while others do."""

    is_held: bool


class Executing(Protocol):
    """What a run needs to know of a call that executes."""

    id: str
    frame: Frame
    is_behind: bool  # it waits for a time or another call, and then executes
    is_held: bool
    body: Frame | None  # of the present attempt

    @property
    def is_quiet(self) -> bool:
        """Whether no body of its own executes: it waits, or its body waits for other calls."""
        ...

    def cancel(self) -> None:
        """Cancel whoever executes it."""

    def shown_arguments(self) -> str | None:
        """Its arguments as JSON, capped, to be shown."""
        ...


class Gate(Protocol):
    """Where calls wait that are not recorded, before they execute."""

    opens: bool  # some time; else nothing ever executes behind it

    async def wait(self, call: Executing) -> None:
        """Wait until ``call`` may execute."""
        ...


class Tally(Promise, Protocol):
    """A promise that stands for many commits: it is kept once for each that it is owed."""

    owed: int
    failed: list[str]  # the ids of the calls whose failure is recorded


class Repeat:
    """Equal calls under one parent, by the digest of the first."""

    __slots__ = ("in_flight", "occurrence")

    def __init__(self, in_flight: int) -> None:
        self.occurrence = 0  # of the latest; 0 where it has to be looked up among those made
        self.in_flight = in_flight


class Frame:
    """One executing body, for one attempt."""

    __slots__ = (
        "attempt",
        "call_id",
        "digest",
        "has_ended",
        "holds_slot",
        "in_flight",
        "is_cancelled",
        "is_cut_off",
        "is_task",
        "keeps",
        "later",
        "many",
        "parent_id",
        "repeats",
        "run",
        "seen",
        "stake",
    )

    def __init__(
        self,
        run: Run,
        digest: bytes,
        call_id: str | None,
        attempt: int = 1,
        is_task: bool = False,
        keeps: bool = False,
        stake: Stake | None = None,
        parent_id: str | None = None,
    ) -> None:
        self.run = run
        self.parent_id = parent_id  # of the call, in its turn
        self.stake = stake  # in contests that it, or a body around it, takes part in
        self.digest = digest  # stands for the parent in the ids of the calls made here
        self.call_id = call_id  # None: the run's own body
        self.attempt = attempt
        self.is_task = is_task
        self.keeps = keeps  # it, or one around it, may be attempted again
        self.seen: set[bytes] | None = None  # the digests of the latest calls made here
        self.many: Digests | None = None  # of those after them
        self.repeats: dict[bytes, Repeat] | None = None  # of the latest calls that were made again
        self.in_flight = 0
        self.holds_slot = False
        self.has_ended = False
        self.is_cancelled = False
        self.later: list[Callable[[], None]] | None = None  # to start with the next call
        self.is_cut_off = False  # a call made here was, as its run was unwound

    def start_later(self, start: Callable[[], None]) -> None:
        """Call ``start`` when the body calls something that is not recorded."""
        if self.later is None:
            self.later = []
        self.later.append(start)

    def has_made(self, digest: bytes) -> bool:
        """Whether a call with this digest was made here."""
        seen, many = self.seen, self.many
        return (seen is not None and digest in seen) or (many is not None and digest in many)

    def note_made(self, digest: bytes) -> None:
        """A call with this digest is made here, the first one that has it."""
        seen = self.seen
        if seen is None:
            self.seen = {digest}
            return
        if len(seen) < FEW_CALLS:
            seen.add(digest)
            return
        if self.many is None:
            self.many = Digests()
        self.many.update((digest,))

    def repeat(self, name: str, first: bytes) -> Repeat:
        """The count of calls equal to the first one of that digest, which was made again."""
        repeats = self.repeats
        if repeats is None:
            repeats = self.repeats = {}
        repeat = repeats.get(first)
        if repeat is None:
            if len(repeats) % FEW_REPEATS == FEW_REPEATS - 1:
                for digest in [each for each in repeats if not repeats[each].in_flight]:
                    del repeats[digest]
            executing = f"{name}:{first.hex()}" in self.run.executing
            repeat = repeats[first] = Repeat(in_flight=int(executing))
        return repeat

    def enter_call(self) -> None:
        """A call made here begins: the body waits for it, so its slot goes to somebody else."""
        self.in_flight += 1
        self.give_slot_back()

    def give_slot_back(self) -> None:
        """The body waits: its slot goes to somebody else."""
        if self.holds_slot:
            self.holds_slot = False
            self.run.scheduler.slots.give_back()

    async def leave_call(self) -> None:
        """A call made here has ended: the body goes on when it has its slot again."""
        self.in_flight -= 1
        if self.is_task and not self.in_flight:
            await self.regain_slot()

    async def regain_slot(self) -> None:
        """Wait for a slot, if the body still needs one."""
        if self.has_ended or self.holds_slot or not self.is_task:
            return
        slots = self.run.scheduler.slots
        if not slots.try_take():
            await slots.take()
        # Meanwhile another branch of the body may have begun a call, or taken the slot.
        if self.in_flight or self.holds_slot or self.has_ended:
            slots.give_back()
        else:
            self.holds_slot = True

    def end(self) -> None:
        """The body has ended."""
        self.has_ended = True
        self.give_slot_back()

    def cancel(self) -> None:
        """The body was cancelled while it executes in a worker thread: so are its calls."""
        self.is_cancelled = True
        for call in self.run.executing_in(self):
            call.cancel()


class Run:
    """One run in the hands of this runtime."""

    def __init__(
        self,
        claimed: Claimed,
        *,
        scheduler: Scheduler,
        journal: Journal,
        store: Store,
        cache: Cache,
        feeds: Feeds,
        durability: Durability,
        on_drift: Literal["log", "error"],
        signal_types: SignalTypes,
    ) -> None:
        self.serial = next(_serials)
        row = claimed.row
        self.row = row
        self.key = row.key
        self.thread_id = row.thread_id
        self.run_id = row.run_id
        self.previous = claimed.previous
        self.saved: bytes | None = None
        self.attempt = 1  # of the run's own body
        self.scheduler = scheduler
        self.cache = cache
        self.durability = durability
        self.recorded: dict[str, Recorded] = {}
        self.executing: dict[str, Executing] = {}
        self.broken: BaseException | None = None
        self.unwinding = False
        self.has_ended = False
        self.execution: object = None  # who executes it: an `Execution`, or nobody for a block
        self.interrupt: Callable[[], None] | None = None  # None: a block, in its caller's own task
        self.gate: Gate | None = None
        self.inbox = Inbox(claimed.signals, claimed.last_signal)
        self.waits: dict[str, Wait] = {}  # that are open, by the id of their call
        self.pause_before = claimed.waits  # what it was paused with until now
        self.attempts = decode_attempts(claimed.waits)  # that a pause has cut off
        # When waits began that were open as the run was paused.
        self.waiting_since = {each.task_id: each.since for each in decode_waits(claimed.waits)}
        self.deadlines: dict[str, Recorded] = {}  # recorded ones, by the id of their call
        self.pause: Callable[[], None] | None = None  # None: it waits where it is
        self.feeds = feeds
        self.begun = self.executed = self.replayed = self.failed = self.retried = 0
        self.signal_types = signal_types  # that this process has met
        self._on_drift = on_drift
        self._kept: dict[str, Recorded] = {}
        self._executed_again: set[str] = set()
        self.names: dict[str, str] = {}
        self._warned: set[str] = set()
        self._failed: dict[str, int] = {}  # recorded failures, in the order of their commits
        self._keeping = count(2**62)  # after everything that was loaded
        self._held: list[tuple[Checkpoint, CacheEntry | None]] = []
        self._held_bytes = 0
        self._journal = journal
        self._store = store
        self._queued: set[str | None] = set()
        self._idle_check: Alarm | None = None
        self._looking: object = None  # the task that does
        self._looks = 0  # for signals of others, under way
        self._last_look: tuple[int, ...] = ()
        self._stray_ended: Latch | None = None
        # Warnings may be errors: they wait until the end of the run is committed.
        self._noted: list[str] = []
        self._seed = run_checksum(row.thread_id, row.run_id)

    @property
    def is_block(self) -> bool:
        """Whether it records a ``Runtime.thread()`` block, and has no workflow."""
        return self.run_id == BLOCK_RUN_ID

    @property
    def is_open(self) -> bool:
        """Whether calls may start and be answered."""
        return not (self.unwinding or self.has_ended or self.broken is not None)

    def root(self) -> Frame:
        """The frame of the run's own body."""
        return Frame(self, run_digest(self.run_id), None)

    async def load(self) -> None:
        """Read what is recorded of this run. Raises StoreError."""
        last = 0
        taken: set[str] = set()
        waiting = self.inbox.signals()  # as they are recorded: others may be sent here meanwhile
        while True:
            rows = await self._store.load(self.row, last, LOAD_ROWS)
            for row in rows:
                # All of them, before anything executes: what has lost its id would be missed.
                self._verify(row)
                if row.signal is not None:
                    taken.add(row.signal)
                if row.kind == WAIT:
                    self.deadlines[row.task_id] = row
                    continue
                self.recorded[row.task_id] = row
                if row.kind == ERROR:
                    self._failed[row.task_id] = row.sequence
            if len(rows) < LOAD_ROWS:
                break
            last = rows[-1].sequence
        for signal in waiting:
            self._check_signal(signal)
            if signal.task_id in taken:
                raise self._damaged(signal.task_id, "it is waiting, and was taken before")
        if self._on_drift == "error" and self.recorded:
            self.gate = DriftGate(self)

    def recall(self, call_id: str, frame: Frame) -> Recorded | None:
        """The recorded outcome of a call, if there is one. Raises CheckpointCorrupt."""
        row = self.recorded.pop(call_id, None)
        if frame.keeps:
            if row is None:
                row = self._kept.get(call_id)
            else:
                self._kept[call_id] = row
        if row is None:
            return None
        self.replayed += row.kind != EMIT
        if (feed := self.feed) is not None:
            feed.replayed(self.run_id, row)
        return row

    def deadline(self, call_id: str) -> Recorded | None:
        """The recorded deadline of a call, if there is one. Raises CheckpointCorrupt."""
        return self.deadlines.get(wait_id(call_id))

    def note_misfit(self, call_id: str, signal_id: str) -> bool:
        """Whether it is news that this signal does not fit that call."""
        misfit = f"{call_id} {signal_id}"
        is_news = misfit not in self._warned
        self._warned.add(misfit)
        return is_news

    def _verify(self, row: Recorded) -> None:
        try:
            signal = covered_signal(row.checksum, row.signal)
            expected = checkpoint_checksum(self._seed, row.task_id, row.kind, row.payload, signal)
            is_sound = row.checksum & COVERED == expected
        except (TypeError, AttributeError):  # a column holds neither text nor bytes
            is_sound = False
        if not is_sound:
            raise self._damaged(row.task_id, "its checksum does not fit")

    def _check_signal(self, signal: SignalRow) -> None:
        if not signal.is_sound(self._seed):
            raise self._damaged(signal.task_id, "its checksum does not fit")

    def _damaged(self, task_id: str, reason: str) -> CheckpointCorrupt:
        self.break_off(CheckpointCorrupt(self.thread_id, self.run_id, task_id, reason))
        return CheckpointCorrupt(self.thread_id, self.run_id, task_id, reason)

    @property
    def feed(self) -> Feed | None:
        """Whom to tell what happens, if anybody listens."""
        feeds = self.feeds.threads
        return feeds.get(self.thread_id) if feeds else None

    def failed_calls(self, name: str) -> dict[str, int]:
        """The recorded failures of the calls of one task, with the order of their commits."""
        return {
            call_id: order
            for call_id, order in self._failed.items()
            if call_id.startswith(f"{name}:")
            and (call_id in self.recorded or call_id in self._kept)
        }

    def claim_name(self, name: str, where: str) -> None:
        """Raise TaskNameConflict where ``name`` means another function in this run."""
        first = self.names.setdefault(name, where)
        if first != where:
            raise TaskNameConflict(name, first, where)

    def progress(self) -> Progress:
        """How far this execution is."""
        ids = self.executing.keys() - self._queued
        names = [call_id.partition(":")[0] for call_id in ids]
        return Progress(names, self.executed, self.replayed, self.failed, self.retried)

    async def queue(self, call_id: str | None, slots: Slots) -> None:
        """Wait for a slot: the call has begun, and does not execute yet."""
        self._queued.add(call_id)
        try:
            await slots.take()
        finally:
            self._queued.discard(call_id)

    def begin(self, call: Executing) -> None:
        """``call`` executes from now on.

        Raises RecursionError where the stack has no room for all that it takes to end it.
        """
        check_call_room()
        self.executing[call.id] = call
        self.begun += 1
        if (later := call.frame.later) is not None:
            call.frame.later = None
            for start in later:
                start()
        if self.recorded:
            self._executed_again.add(call.id)
        if self.waits:
            self._watch_idleness()

    def end(self, call: Executing) -> None:
        """``call`` does not execute any more."""
        del self.executing[call.id]
        if self._stray_ended is not None:
            self._stray_ended.set_result()
        if self.waits:
            self._watch_idleness()

    @property
    def is_quiet(self) -> bool:
        """Whether no body of a call executes, or is about to."""
        return all(call.is_quiet for call in self.executing.values())

    def later_attempts(self) -> dict[str, int]:
        """The attempts under way that are not the first of their call, by its id."""
        bodies = ((call.id, call.body) for call in self.executing.values())
        later = {name: body.attempt for name, body in bodies if body and body.attempt > 1}
        if self.attempt > 1:
            later[""] = self.attempt
        return later

    @property
    def is_drained(self) -> bool:
        """Whether no body of a call executes."""
        return all(call.is_quiet or call.is_behind for call in self.executing.values())

    async def hold(self, call: Held) -> None:
        """Wait to be cut off, as nothing starts any more; raise where nobody would do that."""
        if self.is_block:
            raise RunUnfinished(self.thread_id, self.run_id, "its runtime is being drained")
        call.is_held = True
        try:
            await anyio.sleep_forever()
        finally:
            call.is_held = False

    async def back_off(self, seconds: float) -> None:
        """Wait before the next attempt of a call; not where it would execute nothing."""
        await anyio.sleep(seconds if self.gate is None or self.gate.opens else 0)

    def open_receivers(self, name: str) -> Iterable[Receiver]:
        """The calls that wait for a signal of that name, the earliest first."""
        return self.inbox.receivers(name)

    def open_wait(self, wait: Wait, parent_id: str | None) -> None:
        """A call waits for a signal or a time from now on."""
        self.waits[wait.task_id] = wait
        if (feed := self.feed) is not None:
            feed.waiting(self.run_id, parent_id, wait.task_id.rpartition(":")[0], wait)
        self._watch_idleness()

    def close_wait(self, task_id: str) -> None:
        """It does not wait any more."""
        self.waits.pop(task_id, None)

    async def look_for_signals(self) -> None:
        """Ask the store for signals that others have sent. Raises StoreError."""
        rows = await self._store.signals(self.thread_id, self.run_id, self.inbox.latest)
        for row in rows:
            if row.sequence > self.inbox.latest:  # it may have come on another way meanwhile
                self._check_signal(row)
                self.inbox.put(row)

    def deliver(self, signal: Signal, sent: Sent) -> None:
        """Put a signal that was sent in this process into the inbox.

        Unless others have sent one before it that is not known here: they are taken in order.
        """
        if sent.previous != self.inbox.latest:
            self.spawn_look()
            return
        place = sent.sequence, signal.task_id, signal.name
        self.inbox.put(SignalRow(*place, signal.payload, signal.now, 0))

    def spawn_look(self) -> None:
        """Have `look_for_signals` done in the background."""
        self._looks += 1
        self._looking = self.scheduler.loop.spawn(self._look)

    @property
    def is_looking(self) -> bool:
        """Whether signals of others may be there that are not known here yet."""
        return self._looks > 0

    async def _look(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # asyncio.run() ends what is left
            while self.is_open:
                try:
                    await self.look_for_signals()
                    self._looks -= 1
                    return
                except StoreError as error:
                    if isinstance(error, CheckpointCorrupt):
                        self.break_off(error)
                        self.unwind()
                        return
                    logger.warning("signals cannot be looked up, and are again: %s", error)
                await anyio.sleep(LOOK_AGAIN)

    def _watch_idleness(self) -> None:
        if self._idle_check is None and self.pause is not None and self.is_open:
            timers = self.scheduler.timers
            self._last_look = self.begun, self.executed, self.replayed
            self._idle_check = timers.set(timers.clock.now() + IDLE_AFTER, self._check_idleness)

    def _check_idleness(self) -> None:
        """Pause the run where nothing has happened since the last look, and nothing will soon."""
        self._idle_check = None
        if not self.waits or not self.is_open:
            return
        has_changed = self._last_look != (self.begun, self.executed, self.replayed)
        if has_changed or self.is_looking:
            self._watch_idleness()
            return
        deadlines = (each.deadline for each in self.waits.values() if each.deadline is not None)
        is_short = min(deadlines, default=float("inf")) - self.scheduler.clock.now() <= SHORT_WAIT
        # Whatever ends looks again.
        if self.is_quiet and not is_short and self.pause is not None:
            self.pause()

    def executing_in(self, frame: Frame) -> list[Executing]:
        """The calls made by one body that execute now."""
        return [call for call in self.executing.values() if call.frame is frame]

    async def end_strays(self, frame: Frame | None = None) -> None:
        """Cancel, and wait for, calls that user code left executing; warn about them.

        Those of one body, or all of them where ``frame`` is None.
        """
        cancelled: set[str] = set()
        interruption: BaseException | None = None
        while strays := self.executing_in(frame) if frame else list(self.executing.values()):
            if not cancelled and not self.unwinding:
                self._note_strays(strays, frame)
            self._stray_ended = Latch()
            for call in strays:
                if call.id not in cancelled:
                    cancelled.add(call.id)
                    call.cancel()
            try:
                await uninterrupted(self._stray_ended)
            except BaseException as error:
                interruption = error
        self._stray_ended = None
        if interruption is not None:
            raise interruption

    def warn(self) -> None:
        """Issue the warnings that were noted, to somebody who can be told."""
        noted, self._noted = self._noted, []
        for text in noted:
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def log_noted(self) -> None:
        """The same to the log, where nobody can be told."""
        noted, self._noted = self._noted, []
        for text in noted:
            logger.warning("%s", text)

    def _note_strays(self, strays: list[Executing], frame: Frame | None) -> None:
        names = ", ".join(sorted({call.id.partition(":")[0] for call in strays})[:5])
        ended = frame.call_id if frame is not None and frame.call_id else "their run"
        self._noted.append(
            f"{len(strays)} calls were left executing on thread {self.thread_id!r} when {ended} "
            f"ended, and were cancelled ({names}): await them, or start them in a task group"
        )

    def note_changed_arguments(self, name: str) -> None:
        """Say, once for each task, that a body changes what a rerun would find unchanged."""
        if (changed := f"{name} changes") not in self._warned:
            self._warned.add(changed)
            logger.warning(
                "an argument of %s() on thread %r is not what it was when the call was made: a "
                "rerun that answers %s from its record will not see that change, and may call "
                "other tasks than this run did; return what changes, and leave the arguments alone",
                name,
                self.thread_id,
                name,
            )

    def warn_of_twins(self, name: str) -> None:
        """Say, once for each task, that equal calls are in flight at the same time."""
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"two equal calls of {name}() are in flight at the same time on thread "
                f"{self.thread_id!r}: which of them is which depends on who calls first; give "
                f"{name} a key= that tells them apart",
                RuntimeWarning,
                stacklevel=2,
            )

    async def check_open(self, frame: Frame) -> None:
        """Raise what keeps a call from starting here: a failed commit, or a cancellation."""
        if self.unwinding or frame.is_cancelled:
            await anyio.lowlevel.checkpoint_if_cancelled()
            if self.scheduler.loop.is_asyncio:
                raise asyncio.CancelledError(f"run {self.run_id!r} is being unwound")
            # Behind a shield trio has no cancellation to raise.
            raise RuntimeError(f"run {self.run_id!r} is being unwound: no call starts any more")
        if self.broken is not None:
            raise again(self.broken)
        if self.has_ended or frame.has_ended:
            raise RuntimeError(
                f"a call belongs to the body in which it was made: {frame.call_id or 'the run'} "
                f"on thread {self.thread_id!r} has ended"
            )

    def break_off(self, error: BaseException) -> None:
        """A commit has failed: nothing more may start, and the run cannot succeed."""
        if self.broken is None:
            self.broken = error
        if isinstance(error, LeaseLost | RunCancelled):
            self.unwind()

    def unwind(self) -> None:
        """Cancel everything that executes in this run."""
        if self.interrupt is not None:
            self.unwinding = True
            self.interrupt()

    def checkpoint(
        self,
        call_id: str,
        parent_id: str | None,
        name: str,
        kind: str,
        payload: bytes,
        arguments: str | None,
        attempts: int,
        started: float,
        signal: str | None = None,
    ) -> Checkpoint:
        """The row for the outcome of a call, which has just ended."""
        self.executed += kind != EMIT
        self.failed += kind == ERROR
        finished = self.scheduler.clock.now()
        return Checkpoint(
            self.key.number,
            self.key.epoch,
            call_id,
            parent_id,
            name,
            kind,
            payload,
            arguments,
            attempts,
            started,
            finished,
            checkpoint_checksum(self._seed, call_id, kind, payload, signal)
            | details_checksum(parent_id, name, arguments, attempts, started, finished, signal),
            signal,
        )

    def drop_deadline(self, call_id: str) -> None:
        """The call has an outcome: its deadline is not asked for again."""
        self.deadlines.pop(wait_id(call_id), None)

    async def record_deadline(self, call_id: str, frame: Frame, payload: bytes) -> None:
        """Have the deadline of a call committed, so that a rerun waits only for what is left."""
        now = self.scheduler.clock.now()
        row_id = wait_id(call_id)
        name = call_id.rpartition(":")[0]
        checksum = checkpoint_checksum(self._seed, row_id, WAIT, payload)
        checksum |= details_checksum(frame.call_id, name, None, 0, now, now, None)
        checkpoint = Checkpoint(
            self.key.number, self.key.epoch, row_id, frame.call_id, name, WAIT, payload, None, 0,
            now, now, checksum,
        )  # fmt: skip
        self.deadlines[row_id] = Recorded(0, row_id, frame.call_id, WAIT, payload, checksum)
        if self._held:
            self.flush()
        promise = self.scheduler.loop.promise()
        self._journal.put(checkpoint, self.key, promise)
        await promise

    def put(
        self,
        checkpoint: Checkpoint,
        frame: Frame,
        durability: Durability | None,
        cached: CacheEntry | None = None,
        tally: Tally | None = None,
    ) -> Promise | None:
        """Hand ``checkpoint`` in to be committed; the promise to await, if it is to be awaited.

        Else ``tally`` or the end of the run waits for it.
        """
        if frame.keeps:
            self._keep(checkpoint)
        mode = self.durability if durability is None else durability
        journal = self._journal
        if mode == "sync" or journal.is_crowded:
            if self._held:
                self.flush()
            promise: Promise
            if tally is None:
                promise = self.scheduler.loop.promise()
            else:
                tally.owed += 1
                promise = tally
            journal.put(checkpoint, self.key, promise, cached)
            return promise if tally is None else None
        if mode == "async":
            if self._held:  # a rerun goes by the order of commits
                self.flush()
            journal.put(checkpoint, self.key, _Later(self), cached)
        else:
            self._held.append((checkpoint, cached))
            self._held_bytes += len(checkpoint.payload)
            if len(self._held) > MAX_HELD_ROWS or self._held_bytes > MAX_HELD_BYTES:
                self.flush()
        return None

    def flush(self) -> None:
        """Have everything committed that was held back until now."""
        held, self._held = self._held, []
        self._held_bytes = 0
        for checkpoint, cached in held:
            self._journal.put(checkpoint, self.key, _Later(self), cached)

    async def unrecord(self, task_ids: tuple[str, ...]) -> None:
        """Drop recorded failures, so that the next attempt executes those calls again."""
        for task_id in task_ids:
            self._kept.pop(task_id, None)
            self.recorded.pop(task_id, None)
            self._failed.pop(task_id, None)
            self.deadlines.pop(wait_id(task_id), None)
        if self._held:
            self.flush()
        try:
            await self._journal.unrecord(self.key, task_ids)
        except (StoreError, LeaseLost, RunCancelled) as error:
            self.break_off(error)
            raise

    def unused(self) -> list[Recorded]:
        """What is recorded, could have been asked for, and was not."""
        return [
            row
            for row in self.recorded.values()
            if row.parent_id is None or row.parent_id in self._executed_again
        ]

    def report_drift(self) -> None:
        """Log the recorded results and signals that this run, which ends here, did not use."""
        if untaken := self.inbox.untaken():
            logger.warning(
                "run %r on thread %r ended without %d signals that were sent to it: %s",
                self.run_id,
                self.thread_id,
                len(untaken),
                ", ".join(sorted(set(untaken))[:10]),
            )
        unused = self.unused()
        if unused:
            names = sorted({row.task_id for row in unused})
            shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            logger.warning(
                "run %r on thread %r ended without %d of its recorded results, because the code "
                "or its inputs changed since: %s",
                self.run_id,
                self.thread_id,
                len(unused),
                shown,
            )

    async def mismatch(self, asked: Iterator[tuple[str, str | None]]) -> HistoryMismatch:
        """The error that shows what is recorded beside what is asked."""
        unused = {row.task_id for row in self.unused() if row.parent_id is None}
        kept = await self._store.checkpoints(self.thread_id, self.run_id)
        recorded = "\n".join(
            f"  recorded: {row.checkpoint.task_id} {row.checkpoint.arguments or ''}"
            for row in kept
            if row.checkpoint.task_id in unused
        )
        wanted = "\n".join(f"  asked:    {call_id} {shown or ''}" for call_id, shown in asked)
        return HistoryMismatch(
            self.thread_id,
            f"run {self.run_id!r} asks for calls that are not recorded, and does not ask for "
            f"recorded ones; nothing new was executed\n{recorded}\n{wanted}\nrun the code that "
            'recorded it, or accept the change with on_drift="log", or begin anew on another '
            "thread",
        )

    def _keep(self, checkpoint: Checkpoint) -> None:
        order = next(self._keeping)
        if checkpoint.kind == ERROR:
            self._failed[checkpoint.task_id] = order
        self._kept[checkpoint.task_id] = Recorded(
            order,
            checkpoint.task_id,
            checkpoint.parent_id,
            checkpoint.kind,
            checkpoint.payload,
            checkpoint.checksum,
        )


class DriftGate:
    """Holds new calls of a rerun until all that is recorded was asked for."""

    opens = True

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: dict[str, str | None] = {}
        self._open = Latch()
        self._watcher: object = None

    async def wait(self, call: Executing) -> None:
        """Wait until nothing recorded is left to be asked for.

        Raises HistoryMismatch when the run is idle before that.
        """
        self._waiting[call.id] = call.shown_arguments()
        if self._watcher is None:
            # A task of its own: no caller's cancellation may leave the others waiting.
            self._watcher = self._run.scheduler.loop.spawn(self._watch)
        try:
            await self._open
        except HistoryMismatch as error:
            raise again(error) from None
        finally:
            del self._waiting[call.id]

    async def _watch(self) -> None:
        run = self._run
        seen: object = None
        while unasked := sum(row.parent_id is None for row in run.recorded.values()):
            # Idle: what executes is what waits here, and nothing was asked, began or ended.
            now = unasked, run.replayed, run.executed, sorted(run.executing)
            if run.has_ended or run.unwinding:
                break
            if now == seen and run.executing.keys() <= self._waiting.keys():
                error = await run.mismatch(iter(self._waiting.items()))
                run.break_off(error)
                self._open.set_exception(error)
                return
            seen = now
            await anyio.sleep(IDLE_AFTER)
        run.gate = None
        self._open.set_result()


class _Later:
    """The promise of a commit that nobody waits for: it fails the run's next call."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def set_result(self, result: None, /) -> None:
        pass

    def set_exception(self, exception: BaseException, /) -> None:
        self._run.break_off(exception)

    def done(self) -> bool:
        return False

    def __await__(self) -> Any:
        raise NotImplementedError


def again(error: BaseException) -> BaseException:
    """A copy of an error that was raised before, for another one to raise."""
    try:
        copy = type(error).__new__(type(error), *error.args)
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
        copy.__cause__ = error.__cause__
    except Exception:  # a class of the user's that cannot be copied
        return error
    return copy


def current() -> CurrentCall:
    """Where this code executes: thread, run, task, attempt, and an idempotency key.

    Raises NotInRun outside of a run.
    """
    frame = FRAME.get()
    if frame is None:
        remote = REMOTE.get()
        if remote is None:
            raise NotInRun("current")
        return remote
    call_id = frame.run.run_id if frame.call_id is None else frame.call_id
    return CurrentCall(
        frame.run.thread_id,
        frame.run.run_id,
        frame.call_id,
        frame.attempt,
        idempotency_key(frame.run.thread_id, call_id),
    )


# What `current` returns in a worker process, where no run is.
REMOTE: ContextVar[CurrentCall | None] = ContextVar("taskflow_remote", default=None)
