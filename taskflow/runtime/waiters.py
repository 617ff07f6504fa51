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

    A waiter is *patient* or not. All of them wait through timers. Whoever is not patient is told
    when the run waits for an answer; the others wait for that, too. While somebody waits through a
    pause, the execution sleeps instead of ending. The last waiter who leaves stops the execution,
    and stays until it is unwound.

    Three things are told, each at most once in a round: it has *begun* (the run is claimed, or the
    claim was answered or refused), the *round is over* (the run has paused or ended), it has
    *ended*. A sleeping execution keeps no latch for the first two: it has begun, and the next
    round makes its own.
    """

    __slots__ = (
        "_execution",
        "_is_over",
        "_needs_answer",
        "_outlasts",
        "_runs",
        "_unseen",
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
        self._needs_answer = False  # it sleeps until somebody sends a signal
        self._unseen = 0  # of the count: nobody, but it must not fall to 0
        self._outlasts = False  # some who are not patient have waited through a pause
        self._execution = execution
        self._runs: list[Waiters] | None = None  # of the executions whose code waits here

    # Joining and leaving.

    def join(self, *, patient: bool) -> None:
        """Count a waiter in."""
        self.count += 1
        self.patient += patient

    def join_unseen(self) -> None:
        """Count in nobody: whoever joins and leaves again does not stop the execution."""
        self._unseen += 1
        self.count += 1

    async def wait(self, *, patient: bool = True) -> Any:
        """Join, and wait for the workflow's result, which is decoded anew for each waiter.

        A waiter that is cancelled leaves. Raises RunPaused where the run waits for an answer and
        the waiter is not patient, and ThreadBusy where the waiter is code of a run that this one
        waits for.
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
        self.is_awaited = True
        self.join(patient=patient)
        try:
            error = await (self.ended.settled() if patient else self._over())
        except BaseException:
            await self.leave(patient=patient)
            raise
        self._count_out(patient)
        if error is None:
            return self._execution.outcome()
        if not self.count and self._execution.is_asleep:
            self._execution.give_up()
        raise again(error)

    async def _over(self) -> BaseException | None:
        """Wait for the end, or until the run waits for an answer; that as an error, or None.

        Another owner is no error for those who have waited through a pause: they wait for that one.
        """
        execution = self._execution
        has_outlasted = False
        while not self.ended.done():
            if self._needs_answer:
                waits = await execution.paused_for()
                return RunPaused(execution.thread_id, execution.run_id or "", waits)
            # Who is told of a pause hears of it, though the run may go on by then.
            over = self._is_over = self._is_over or Latch()
            await over.settled()
            if over.error is not None and not (
                has_outlasted and isinstance(over.error, ThreadBusy)
            ):
                return over.error
            has_outlasted = True
        return None

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
        self._outlasts = self._outlasts and self.count > self.patient + self._unseen

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
        return self.ended.done() or (not patient and self._needs_answer)

    def count_through(self, *, is_timed: bool, is_elsewhere: bool) -> int:
        """How many wait on while the run sleeps: for times alone, or for another owner."""
        if is_timed or (is_elsewhere and self._outlasts):
            return self.count - self._unseen
        return self.patient

    def outlast(self) -> None:
        """A sleep for times alone has begun: whoever waits now waits through it."""
        self._outlasts = self.count > self.patient + self._unseen

    def tell_begun(self) -> None:
        """The run is claimed."""
        if not self.begun.done():
            self.begun.set_result()

    def expect_round(self) -> None:
        """Another round begins: the next pause is told again."""
        self._is_over = self._is_over or Latch()
        self._needs_answer = False

    def tell_asleep(self, paused: BaseException | None, *, needs_answer: bool) -> None:
        """The execution sleeps: whoever does not wait through that is told so.

        ``needs_answer``: until somebody sends a signal, and not for a time or another owner alone.
        """
        self.tell_paused(paused)
        self._is_over = None
        self._needs_answer = needs_answer
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
