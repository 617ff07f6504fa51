"""Choosing among calls: `race` for the first success, `as_completed` for all as they come.

Only this module decides which outcome comes first: the one that was committed first, so that a
rerun sees the same winner and the same order. Nothing is recorded but the calls themselves.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import anyio.lowlevel

from taskflow.calls.call import Call, check_loop, check_same_run
from taskflow.calls.recorded import RecordedCall
from taskflow.calls.workflows import WorkflowCall
from taskflow.errors import NotInRun
from taskflow.loops.cancellation import Cancellable, Group
from taskflow.loops.promises import Latch
from taskflow.runs.activity import again
from taskflow.runs.contests import Contest, Stake
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.stores.kinds import RESULT
from taskflow.stores.rows import Recorded

__all__ = ("AsCompleted", "as_completed", "race")

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class _Arms:
    """Calls that execute beside each other, in the order in which their outcomes are recorded."""

    def __init__(self, what: str, frame: Frame[Run], calls: tuple[Call[Any], ...]) -> None:
        self.calls = [_recorded_call(what, call) for call in calls]
        self.frame = frame
        self.order: list[RecordedCall[Any]] = []  # as their outcomes were handed in
        self.outcomes: dict[RecordedCall[Any], tuple[Any, Exception | None]] = {}
        self.contest = Contest(self._settled, one_wins=what == "race")
        self.cut_off: set[RecordedCall[Any]] = set()
        self.changed = Latch()
        self._group: Group = frame.run.scheduler.loop.group()
        self._children: dict[RecordedCall[Any], Cancellable] = {}
        for call in self.calls:
            call.use()

    def recall(self) -> list[tuple[Recorded, RecordedCall[Any]]]:
        """What is recorded of them, in the order of the commits."""
        rows = [(call.recall(), call) for call in self.calls]
        found = [(row, call) for row, call in rows if row is not None]
        return sorted(found, key=lambda each: each[0].sequence)

    async def enter(self) -> None:
        """Be ready to execute, until `end`."""
        await self._group.__aenter__()

    def start(self, calls: list[RecordedCall[Any]]) -> None:
        """Execute these calls."""
        for call in calls:
            call.stake = Stake(self.contest, call, call.frame.stake)
            self._children[call] = self._group.start(partial(self._execute, call))

    async def end(self, *, cancel: bool) -> None:
        """Wait until none of the calls executes any more."""
        if cancel:
            self._group.cancel()
        await self._group.__aexit__(None, None, None)

    async def _execute(self, call: RecordedCall[Any]) -> None:
        try:
            value = await call.execute_for(None, call.frame.run.scheduler.loop.host())
            self.outcomes[call] = value, None
        except Exception as error:
            self.outcomes[call] = None, error
        finally:
            if call not in self.outcomes:
                self.cut_off.add(call)
            if call not in self.order:
                self.order.append(call)
            self._tell()

    def _settled(self, arm: RecordedCall[Any], succeeded: bool) -> None:
        self.order.append(arm)
        if self.contest.winner is arm:
            for call, child in self._children.items():
                if call is not arm:
                    child.cancel()

    def _tell(self) -> None:
        changed, self.changed = self.changed, Latch()
        changed.set_result()


class RaceCall(Call[T]):
    """The call that `race` makes. It is not recorded itself; its arms are."""

    __slots__ = ("_arms",)

    def __init__(self, frame: Frame[Run], calls: tuple[Call[T], ...]) -> None:
        self.frame: Frame[Run] = frame
        self.id = "race"
        self._arms = _Arms("race", frame, calls)
        self._steps = None

    def _execute(self) -> Generator[Any, Any, T]:
        return self._race().__await__()

    async def _race(self) -> T:
        arms, frame = self._arms, self.frame
        check_same_run(self)
        await frame.run.activity.check_open(frame)
        failed: dict[RecordedCall[Any], Exception] = {}
        recorded = arms.recall()
        for row, call in recorded:
            if row.kind == RESULT:
                return call.replay(row)  # type: ignore[no-any-return]
        for row, call in recorded:
            try:
                call.replay(row)
            except Exception as error:
                failed[call] = error
        left = [call for call in arms.calls if call not in failed]
        frame.enter_call()
        try:
            await arms.enter()
            arms.start(left)
            await arms.end(cancel=False)
        except BaseException as error:
            await frame.leave_call(error)
            raise
        await frame.leave_call()
        winner = arms.contest.winner
        if isinstance(winner, RecordedCall) and winner in arms.outcomes:
            value, failure = arms.outcomes[winner]
            if failure is not None:
                raise failure
            return value  # type: ignore[no-any-return]
        for call, (_, failure) in arms.outcomes.items():
            if failure is not None:
                failed[call] = failure
        if len(failed) < len(arms.calls):
            await _raise_cancellation(frame, "race")
        raise ExceptionGroup(
            "every call of a race has failed", [failed[call] for call in arms.calls]
        )


class AsCompleted(Generic[T]):
    """What `as_completed` makes: entered once, then an asynchronous iterator of results."""

    def __init__(self, frame: Frame[Run], calls: tuple[Call[T], ...]) -> None:
        self._frame = frame
        self._arms = _Arms("as_completed", frame, calls)
        self._recorded: deque[tuple[Recorded, RecordedCall[T]]] = deque()
        self._given = 0  # of those that are executed here
        self._left: list[RecordedCall[T]] = []
        self._is_started = False
        self._is_left = False
        self._is_entered = False

    def __del__(self) -> None:
        if not getattr(self, "_is_entered", True):
            warnings.warn(
                f"as_completed() on thread {self._frame.run.thread_id!r} was never entered, and "
                "executed nothing: use it in 'async with'",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )

    async def __aenter__(self) -> AsCompleted[T]:
        if self._is_entered:
            raise RuntimeError("as_completed() is entered once: make another one to ask again")
        self._is_entered = True
        check_loop("as_completed()", self._frame)
        await self._frame.run.activity.check_open(self._frame)
        recorded = self._arms.recall()
        self._recorded.extend(recorded)
        known = {call for _, call in recorded}
        self._left = [call for call in self._arms.calls if call not in known]
        await self._arms.enter()
        if recorded:
            # A body that executes on has others beside it, as it had before; one that only
            # replays may leave without them.
            self._frame.start_later(self._start)
        else:
            self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_left = True
        await self._arms.end(cancel=True)

    def __aiter__(self) -> AsCompleted[T]:
        return self

    async def __anext__(self) -> T:
        """The next result in the order of the commits; raises what that call has failed with."""
        if not self._is_entered:
            raise RuntimeError("as_completed() executes nothing outside of 'async with'")
        if self._recorded:
            row, call = self._recorded.popleft()
            return call.replay(row)
        if self._given == len(self._left):
            raise StopAsyncIteration
        if self._is_left:
            raise RuntimeError("the block of as_completed() was left, and its calls cut off")
        self._start()
        arms = self._arms
        while len(arms.order) <= self._given or arms.order[self._given] not in arms.outcomes:
            if arms.cut_off:
                await _raise_cancellation(self._frame, "as_completed")
            await arms.changed.wait()
        call = arms.order[self._given]
        self._given += 1
        value, failure = arms.outcomes[call]
        if failure is not None:
            raise failure
        return value  # type: ignore[no-any-return]

    def _start(self) -> None:
        if not (self._is_started or self._is_left):
            self._is_started = True
            self._arms.start(self._left)


@overload
def race(first: Call[A], second: Call[B], /) -> Call[A | B]: ...
@overload
def race(first: Call[A], second: Call[B], third: Call[C], /) -> Call[A | B | C]: ...
@overload
def race(*calls: Call[T]) -> Call[T]: ...
def race(*calls: Call[Any]) -> Call[Any]:
    """The result of the first of ``calls`` that succeeds; the others are cancelled, and have ended.

    Once one has won, no other is recorded. Raises an ExceptionGroup of all failures where each has
    failed. Takes calls of tasks and workflows, `receive` and `sleep`; TypeError for others.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("race")
    if not calls:
        raise ValueError("race() takes at least one call")
    return RaceCall(frame, calls)


@overload
def as_completed(first: Call[A], second: Call[B], /) -> AsCompleted[A | B]: ...
@overload
def as_completed(first: Call[A], second: Call[B], third: Call[C], /) -> AsCompleted[A | B | C]: ...
@overload
def as_completed(*calls: Call[T]) -> AsCompleted[T]: ...
def as_completed(*calls: Call[Any]) -> AsCompleted[Any]:
    """The results of ``calls`` in the order in which they come, and on a rerun in the same one.

    ``async with as_completed(*calls) as results: async for result in results: …``. A call that has
    failed raises its exception in its place. Leaving the block cancels those that still execute,
    and waits for their end. Takes what `race` takes.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("as_completed")
    return AsCompleted(frame, calls)


def _recorded_call(what: str, call: Call[Any]) -> RecordedCall[Any]:
    if isinstance(call, WorkflowCall):
        return call.as_child()
    if not isinstance(call, RecordedCall):
        raise TypeError(
            f"{what}() takes calls of tasks and workflows, receive() and sleep(), got {call!r}: "
            "make it in a task or workflow of its own"
        )
    return call


async def _raise_cancellation(frame: Frame[Run], what: str) -> None:
    """Raise what has cut an arm off from outside the contest."""
    await anyio.lowlevel.checkpoint_if_cancelled()
    if frame.run.broken is not None:
        raise again(frame.run.broken)
    if frame.run.scheduler.loop.is_asyncio:
        raise asyncio.CancelledError(f"a call of {what}() was cancelled")
    raise RuntimeError(f"a call of {what}() was cancelled")
