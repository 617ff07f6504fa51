"""`Frame`: one executing body, and `current`, which tells where the present code executes.

A body is the workflow's, a task's, or a ``Runtime.thread()`` block. Only this module decides which
body the present code belongs to: `FRAME` holds it, in the body's own context. A call takes its
identity from the frame that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final, Generic, Protocol, TypeVar

from taskflow.errors import NotInRun
from taskflow.loops.scheduler import Scheduler
from taskflow.records import CurrentCall
from taskflow.runs.contests import Stake
from taskflow.runs.occurrences import Occurrences
from taskflow.wire.identity import idempotency_key

__all__ = ("FRAME", "REMOTE", "Frame", "current")


class Cancellable(Protocol):
    """A call that executes."""

    def cancel(self) -> None: ...


class FramedRun(Protocol):
    """What a frame needs of its run."""

    scheduler: Scheduler

    @property
    def thread_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    def executing_in(self, frame: Frame[Any], /) -> Iterable[Cancellable]: ...


R = TypeVar("R", bound=FramedRun)


class Frame(Generic[R]):
    """One executing body, for one attempt, in a run of type ``R``."""

    __slots__ = (
        "attempt",
        "call_id",
        "digest",
        "has_ended",
        "holds_slot",
        "in_flight",
        "interruption",
        "is_cut_off",
        "is_task",
        "keeps",
        "later",
        "made",
        "parent_id",
        "run",
        "stake",
    )

    def __init__(
        self,
        run: R,
        digest: bytes,
        call_id: str | None,
        attempt: int = 1,
        is_task: bool = False,
        keeps: bool = False,
        stake: Stake | None = None,
        parent_id: str | None = None,
    ) -> None:
        self.run = run
        self.digest = digest  # stands for the parent in the ids of the calls made here
        self.call_id = call_id  # None: the run's own body
        self.parent_id = parent_id  # of the call, in its turn
        self.attempt = attempt
        self.is_task = is_task
        self.keeps = keeps  # this body, or one around it, may be attempted again
        self.stake = stake  # in contests that this body, or one around it, takes part in
        self.made: Occurrences | None = None  # the calls made here
        self.in_flight = 0  # calls that this body waits for
        self.holds_slot = False
        self.has_ended = False
        self.interruption: BaseException | None = None  # the cancellation of a worker thread's body
        self.is_cut_off = False  # a call awaited here was, as the body or its run was cancelled
        self.later: list[Callable[[], None]] | None = None  # to start with the next call

    def start_later(self, start: Callable[[], None]) -> None:
        """Call ``start`` when the body calls something that is not recorded."""
        if self.later is None:
            self.later = []
        self.later.append(start)

    def enter_call(self) -> None:
        """Begin to wait for a call: the slot goes to another body meanwhile."""
        self.in_flight += 1
        if self.holds_slot:
            self.holds_slot = False
            self.run.scheduler.slots.give_back()

    async def leave_call(self, error: BaseException | None = None) -> None:
        """End waiting for a call, which may have raised ``error``; wait for a slot to go on with.

        A cancellation, and what ends the process, is passed on without a slot.
        """
        self.in_flight -= 1
        passes_on = error is not None and not isinstance(error, Exception)
        if self.is_task and not self.in_flight and not passes_on:
            await self.regain_slot()

    def give_slot_back(self) -> None:
        """Hand the slot to another body, as this one waits."""
        if self.holds_slot:
            self.holds_slot = False
            self.run.scheduler.slots.give_back()

    async def regain_slot(self) -> None:
        """Wait for a slot, if the body needs one to go on."""
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
        """Note that the body has ended."""
        self.has_ended = True
        if self.holds_slot:
            self.holds_slot = False
            self.run.scheduler.slots.give_back()

    def interrupt(self, cancellation: BaseException) -> None:
        """Cancel the calls of a body that was cancelled while it executes in a worker thread.

        The thread itself cannot be stopped. If the body completes, its outcome is recorded before
        ``cancellation`` is raised.
        """
        self.interruption = cancellation
        for call in self.run.executing_in(self):
            call.cancel()


# The body that the present code belongs to.
FRAME: Final[ContextVar[Frame[Any] | None]] = ContextVar("taskflow_frame", default=None)
# What `current` returns in a worker process, where no run is.
REMOTE: Final[ContextVar[CurrentCall | None]] = ContextVar("taskflow_remote", default=None)


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

    run = frame.run
    call_id = run.run_id if frame.call_id is None else frame.call_id
    return CurrentCall(
        run.thread_id,
        run.run_id,
        frame.call_id,
        frame.attempt,
        idempotency_key(run.thread_id, call_id),
    )
