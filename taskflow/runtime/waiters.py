"""Those who wait for one execution: how they join and leave, and what they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

from taskflow.errors import RunPaused, TaskflowError, ThreadBusy
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.records import Wait
from taskflow.runs.activity import again
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run

__all__ = ("Awaited", "Waiters")


# A sleeping execution has begun: it needs no latch of its own to say so.
DONE: Final = Latch()
DONE.set_result()


class Awaited(Protocol):
    """What waiters need of the execution that they wait for."""

    @property
    def waiters(self) -> Waiters: ...
    @property
    def thread_id(self) -> str: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def run(self) -> object | None:
        """The run in hand; None where the claim was answered or refused."""
        ...

    @property
    def is_asleep(self) -> bool: ...

    def outcome(self) -> Any:
        """The result, or the error raised, once it has ended."""
        ...

    def give_up(self) -> None:
        """Stop: the last waiter has left."""
        ...

    async def paused_for(self) -> list[Wait]:
        """What a sleeping run waits for."""
        ...


class Waiters:
    """Those who wait for one execution.

    A waiter is *patient* or not. Whoever is not patient is told when the run pauses; the others
    wait through pauses, and while one of them does, a paused execution sleeps instead of ending.
    The last waiter who leaves stops the execution, and stays until it is unwound.

    Three things are told, each at most once in a round: it has *begun* (the run is claimed, or the
    claim was answered or refused), the *round is over* (the run has paused or ended), it has
    *ended*. A sleeping execution keeps no latch for the first two: it has begun, and the next
    round makes its own.
    """

    __slots__ = (
        "_execution",
        "_is_over",
        "_runs",
        "begun",
        "count",
        "ended",
        "is_awaited",
        "patient",
    )

    def __init__(self, execution: Awaited) -> None:
        self.count = 0
        self.patient = 0  # of those
        self.is_awaited = False  # somebody has asked for its result
        self.begun = Latch()
        self.ended = Latch()
        self._is_over: Latch | None = Latch()  # the round; None while asleep
        self._execution = execution
        self._runs: list[Waiters] | None = None  # of the executions whose code waits here

    # Joining and leaving.

    def join(self, *, patient: bool) -> None:
        """Count a waiter in."""
        self.count += 1
        self.patient += patient

    async def wait(self, *, patient: bool = True) -> Any:
        """Join, and wait for the workflow's result, which is decoded anew for each waiter.

        A waiter that is cancelled leaves. Raises RunPaused where the run pauses and the waiter is
        not patient, and ThreadBusy where the waiter is code of a run that this one waits for.
        """
        frame = FRAME.get()
        caller = _waiters_of(frame)
        if frame is None or caller is None:
            return await self._wait(patient)
        if caller.include(self):
            raise ThreadBusy(self._execution.thread_id, "the run would wait for itself")
        frame.give_slot_back()
        try:
            with self._joined_by(caller):
                outcome = await self._wait(patient)
        except Exception:
            await frame.regain_slot()
            raise
        await frame.regain_slot()
        return outcome

    async def _wait(self, patient: bool) -> Any:
        execution = self._execution
        self.is_awaited = True
        if execution.is_asleep and not patient:
            waits = await execution.paused_for()
            raise RunPaused(execution.thread_id, execution.run_id or "", waits)
        self.join(patient=patient)
        # Who is not patient hears of the pause, though the run may go on by then.
        over = self.ended if patient or self._is_over is None else self._is_over
        try:
            await over.settled()
        except BaseException:
            await self.leave(patient=patient)
            raise
        self._count_out(patient)
        if over.error is not None:
            raise again(over.error)
        return execution.outcome()

    async def wait_begun(self, *, patient: bool = True) -> None:
        """Join, and wait until the run is claimed or the claim answered.

        Raises why the claim was refused.
        """
        self.join(patient=patient)
        try:
            await self.begun.wait()
        except BaseException:
            self._count_out(patient)
            if not self.count and not self.ended.done():
                self._execution.give_up()
            raise
        if self.ended.done() and self._execution.run is None:
            self._execution.outcome()

    async def leave(self, *, patient: bool) -> None:
        """Wait no more; the last waiter stops the execution, and waits until it is unwound."""
        self._count_out(patient)
        if self.count or self.ended.done():
            return
        self._execution.give_up()
        if self._is_over is not None:
            with contextlib.suppress(TaskflowError):  # who goes away need not hear how it ended
                await uninterrupted(self._is_over)

    def _count_out(self, patient: bool) -> None:
        self.count -= 1
        self.patient -= patient

    # Runs that wait for runs.

    @contextlib.contextmanager
    def _joined_by(self, other: Waiters) -> Iterator[None]:
        """Code of the run that ``other`` belongs to waits here."""
        if self._runs is None:
            self._runs = []
        self._runs.append(other)
        try:
            yield
        finally:
            self._runs.remove(other)

    @property
    def is_needed(self) -> bool:
        """Whether code of another run has waited here: it may hold what others wait for."""
        return self._runs is not None

    def include(self, other: Waiters) -> bool:
        """Whether the execution of ``other`` is this one, or its code waits for this one.

        It may wait by any number of steps: for a run that waits for another run, and so on.
        """
        return self is other or any(each.include(other) for each in self._runs or ())

    def belong_to_caller(self) -> bool:
        """Whether the code that asks belongs to this execution, or to one that it waits for."""
        caller = _waiters_of(FRAME.get())
        return caller is not None and caller.include(self)

    # Telling.

    @property
    def is_anyone_impatient(self) -> bool:
        """Whether somebody is to be told of a pause."""
        return self.count > self.patient

    def is_over(self, *, patient: bool) -> bool:
        """Whether there is nothing more to wait for."""
        return self.ended.done() or (not patient and self._execution.is_asleep)

    def tell_begun(self) -> None:
        """The run is claimed."""
        if not self.begun.done():
            self.begun.set_result()

    def expect_round(self) -> None:
        """Another round begins: the next pause is told again."""
        self._is_over = self._is_over or Latch()

    def tell_asleep(self, paused: BaseException | None) -> None:
        """The execution sleeps: whoever is not patient is told so."""
        self.tell_paused(paused)
        self._is_over = None
        self.tell_begun()
        self.begun = DONE

    def tell_paused(self, paused: BaseException | None) -> None:
        """The round is over; ``paused`` is what impatient waiters raise, if there are any."""
        over = self._is_over
        if over is None or over.done():
            return
        if paused is not None:
            over.set_exception(paused)
        else:
            over.set_result()

    def tell_ended(self) -> None:
        """The execution has ended: everybody who is left is told so."""
        for latch in (self.begun, self.ended, self._is_over):
            if latch is not None and not latch.done():
                latch.set_result()


def _waiters_of(frame: Frame[Run] | None) -> Waiters | None:
    """Those who wait for the execution that the code of this frame belongs to, if it has one."""
    if frame is None or frame.run.execution is None:
        return None
    return cast("Awaited", frame.run.execution).waiters
