"""`Run`: one run in the hands of this process, made of its parts.

`Activity` is what executes and whether more may start, `RecordedOutcomes` what a rerun is answered
from, `Waiting` and `Signals` what waits, `Writes` what is written. Only this module decides what
one event means to several of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, Literal

from msgspec import Struct, field

from taskflow.errors import HistoryMismatch, TaskNameConflict
from taskflow.loops.scheduler import Scheduler
from taskflow.runs.activity import Activity, Executing
from taskflow.runs.cache import Cache
from taskflow.runs.feeds import Feed, Feeds
from taskflow.runs.frame import Frame
from taskflow.runs.gate import DriftGate
from taskflow.runs.inbox import SignalTypes
from taskflow.runs.journal import Journal
from taskflow.runs.notices import Notices
from taskflow.runs.recorded import RecordedOutcomes
from taskflow.runs.signals import Signals
from taskflow.runs.waiting import Waiting
from taskflow.runs.writes import Writes
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Durability
from taskflow.stores.rows import RunKey
from taskflow.wire.codec import Codec
from taskflow.wire.identity import run_digest

__all__ = ("Run", "RunServices")

logger = logging.getLogger("taskflow")

_serials: Final = count(1)


class RunServices(Struct, frozen=True):
    """What the runs of one runtime share, and how it was told to work."""

    scheduler: Scheduler
    journal: Journal
    store: Store
    cache: Cache
    feeds: Feeds
    signal_types: SignalTypes  # that this process has met
    durability: Durability
    on_drift: Literal["log", "error"]
    drifted: set[tuple[str, str]] = field(default_factory=set)  # fields by class, as they were told

    def tell_dropped(
        self, thread_id: str, run_id: str, what: str, fields: Mapping[str, Sequence[str]]
    ) -> HistoryMismatch | None:
        """Log fields of a record that its classes do not know: once for each class.

        With ``on_drift="error"`` returns the error to raise instead.
        """
        shown = "; ".join(f"{name}: {', '.join(each)}" for name, each in fields.items())
        told = f"{what} was recorded with fields that are not known any more ({shown})"
        if self.on_drift == "error":
            return HistoryMismatch(
                thread_id,
                f"{told} in run {run_id!r}: let the class have them again, give what has recorded "
                'them a new version=, or leave them out with on_drift="log"',
            )
        new = {(name, one) for name, each in fields.items() for one in each} - self.drifted
        if new:
            self.drifted.update(new)
            logger.warning(
                "%s, in run %r on thread %r, and is used without them: let the class have them "
                "again, or give what has recorded them a new version=",
                told,
                run_id,
                thread_id,
            )
        return None


class Run:
    """One run in the hands of this process."""

    def __init__(self, claimed: Claimed, services: RunServices) -> None:
        row, feeds, scheduler = claimed.row, services.feeds, services.scheduler
        self.serial = next(_serials)  # tells it from other runs of this process
        self.row = row
        self.previous = claimed.previous
        self.saved: bytes | None = None  # for the thread's next run
        self.reads: Codec | None = None  # what `previous` was asked for, and will be
        self.attempt = 1  # of the run's own body
        self.execution: object = None  # what executes it: an `Execution`, or None for a block
        self.names: dict[str, str] = {}  # of tasks and workflows: where their function is
        self.services = services
        self.scheduler = scheduler
        self.notices = Notices(row.thread_id)
        self.activity = Activity(row, scheduler, self.notices)
        self.recorded = RecordedOutcomes(self.activity, feeds)
        self.writes = Writes(self.activity, scheduler, services.journal, services.durability)
        self.signals = Signals(claimed, self.activity, services.store, scheduler.loop)
        self.waiting = Waiting(
            claimed.waits, self.activity, self.signals, self.writes, feeds, scheduler
        )

    @property
    def thread_id(self) -> str:
        """The thread that it is on."""
        return self.row.thread_id

    @property
    def run_id(self) -> str:
        """Its id, on that thread."""
        return self.row.run_id

    @property
    def key(self) -> RunKey:
        """The run's identity and epoch, checked by every commit."""
        return self.writes.key

    @property
    def is_block(self) -> bool:
        """Whether it records a ``Runtime.thread()`` block, and has no workflow."""
        return self.activity.is_block

    @property
    def broken(self) -> BaseException | None:
        """The error after which nothing more may start, if there is one."""
        return self.activity.broken

    @property
    def unwinding(self) -> bool:
        """Whether everything that executes is being cancelled."""
        return self.activity.unwinding

    @property
    def feed(self) -> Feed | None:
        """The listeners of its thread, if there are any."""
        feeds = self.services.feeds.threads
        return feeds.get(self.row.thread_id) if feeds else None

    def root(self) -> Frame[Run]:
        """The frame of the run's own body."""
        return Frame(self, run_digest(self.row.run_id), None)

    async def load(self) -> None:
        """Read what is recorded of this run. Raises StoreError."""
        waiting = self.signals.inbox.signals()  # as recorded: others may be sent here meanwhile
        deadlines, taken = await self.recorded.load(self.services.store)
        self.waiting.load(deadlines)
        self.signals.verify(waiting, taken)
        if self.services.on_drift == "error" and self.recorded.unasked:
            self.activity.gate = DriftGate(
                self.activity, self.recorded, self.services.store, self.scheduler.loop
            )

    def read(self, codec: Codec, payload: bytes) -> Any:
        """The value of a recorded form.

        Raises SerializationError where it does not fit the present annotation, and HistoryMismatch
        where ``on_drift="error"`` and it has fields that the present classes do not know.
        """
        value = codec.decode(payload)
        if codec.can_drop_fields and (fields := codec.dropped_fields(payload, value)):
            self.tell_dropped(codec.what, fields)
        return value

    def tell_dropped(self, what: str, fields: Mapping[str, Sequence[str]]) -> None:
        """Tell of recorded fields that are not known any more: once, or by HistoryMismatch."""
        if self.notices.dropped is not None:
            self.notices.dropped.append((what, fields))
            return
        error = self.services.tell_dropped(self.thread_id, self.run_id, what, fields)
        if error is not None:
            self.activity.break_off(error)
            raise error

    def attach(
        self,
        interrupt: Callable[[], None],
        pause: Callable[[], None] | None = None,
        execution: object = None,
    ) -> None:
        """Have the run cut off by ``interrupt``, and by ``pause`` when it is idle."""
        self.activity.interrupt = interrupt
        self.waiting.pause = pause
        self.execution = execution

    def detach(self) -> None:
        """Let go of what cuts it off: each would keep the other in memory."""
        self.activity.interrupt = self.waiting.pause = None

    def claim_name(self, name: str, where: str) -> None:
        """Raise TaskNameConflict where ``name`` means another function in this run."""
        first = self.names.setdefault(name, where)
        if first != where:
            raise TaskNameConflict(name, first, where)

    def begin_attempt(self, attempt: int) -> None:
        """The run's own body is attempted: what an earlier attempt saved is void."""
        self.attempt = attempt
        self.saved = None

    def begin(self, call: Executing) -> None:
        """``call`` executes from now on.

        Raises RecursionError where the stack has no room for all that it takes to end it.
        """
        self.activity.begin(call)
        if self.recorded.unasked:
            self.recorded.note_executed(call.id)
        if self.waiting.waits:
            self.waiting.watch()

    def end(self, call: Executing) -> None:
        """``call`` does not execute any more."""
        self.activity.end(call)
        if self.waiting.waits:
            self.waiting.watch()

    def executing_in(self, frame: Frame[Any]) -> list[Executing]:
        """The calls made by one body that execute now."""
        return self.activity.executing_in(frame)

    def later_attempts(self) -> dict[str, int]:
        """The attempts under way that are not the first, by the call's id; "" is the run's own."""
        later = self.activity.later_attempts()
        if self.attempt > 1:
            later[""] = self.attempt
        return later

    async def unrecord(self, task_ids: tuple[str, ...]) -> None:
        """Drop recorded failures, so that the next attempt executes those calls again."""
        for task_id in task_ids:
            self.recorded.drop(task_id)
            self.waiting.drop_deadline(task_id)
        await self.writes.unrecord(task_ids)

    async def conclude(self) -> None:
        """End what user code left executing, then hand in all that was held back.

        The run's end is the next that may be handed in.
        """
        try:
            await self.activity.end_strays()
        finally:
            self.activity.close()
            self.writes.flush()

    def report_drift(self) -> None:
        """Log the signals and recorded results that this run, which ends here, did not use."""
        self.signals.report_untaken()
        self.recorded.report_drift()
