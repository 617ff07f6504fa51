"""`Process`: a simulated process that is cut off at a chosen moment.

It stands between the steps of every body that its runtime executes (``Scheduler.stepped``), and
between its runtime and the store (`CutStore`).
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

import anyio
from msgspec import structs

from taskflow.calls.arguments import spelled_call
from taskflow.calls.recorded import RecordedCall
from taskflow.loops.cancellation import (
    Thrown,
    cancel_requests,
    check_cancelled,
    note_thrown,
)
from taskflow.loops.promises import Latch
from taskflow.records import RunStatus
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.stores.base import Store
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.kinds import OUTCOMES
from taskflow.testing.crashes.deaths import Burial, Death, on_asyncio
from taskflow.testing.crashes.histories import History
from taskflow.testing.crashes.points import BEGIN, END, LAST, Cut, Point
from taskflow.testing.doubles.wrapped import WrappedStore
from taskflow.testing.origins import is_users

__all__ = ("CutStore", "Process")

T = TypeVar("T")


class Process:
    """One process of a pass: its cut, the points that it reached, and its bodies."""

    def __init__(
        self,
        number: int,
        history: History,
        cut: Cut | None = None,
        held: tuple[str, float] | None = None,
    ) -> None:
        self.number = number
        self.history = history
        self.cut = cut
        self.death = Death()
        self.points: list[Point] = []  # in the order in which they were reached
        self.began = Latch()  # the workflow's body
        self.has_been_cut = Latch()
        self.cancel: Callable[[], object] | None = None  # cancels the caller of the run
        self.unwind: Callable[[], object] | None = None  # cancels everything that it executes
        self.where: str | None = None  # file and line of the await that it was cut off at
        self.result: bytes | None = None  # that the run was about to end with
        self.run: Run | None = None  # that its bodies belong to
        self.bodies: dict[int, tuple[str, object]] = {}  # that execute, with the ids of their calls
        self._held = held  # the id of a call whose body ends late, and the seconds
        self._is_counted = False  # the await at which nested bodies are suspended together

    @property
    def is_dead(self) -> bool:
        """Whether it was dropped."""
        return self.death.has_come

    @property
    def was_cut(self) -> bool:
        """Whether it has been cut off."""
        return self.has_been_cut.done()

    def places(self) -> list[str]:
        """Where its bodies are suspended, as file and line."""
        found = {_place_of(body) for _, body in self.bodies.values()}
        return sorted(each for each in found if each is not None)

    def reach(self, point: Point, body: Coroutine[Any, Any, Any] | None = None) -> bool:
        """Whether it is cut off here."""
        if self.is_dead:
            return False
        self.points.append(point)
        if self.cut is None or point != self.cut.point or self.was_cut:
            return False
        self.where = _place_of(body)
        if self.cut.mode == "drop":
            self.death.come()
        elif self.cancel is not None:
            self.cancel()
        self.has_been_cut.set_result()
        return True

    def bury(self) -> None:
        """End the process, dropped or not, after the comparison."""
        self.death.come()
        if self.unwind is not None:
            self.unwind()
        self.death.buried.set_result()

    @types.coroutine
    def stepped(self, body: Coroutine[Any, Any, T], context: Context, /) -> Generator[Any, Any, T]:
        """Execute ``body`` step by step; between two steps the process may be cut off."""
        frame = context[FRAME]
        assert frame is not None
        call_id, index = frame.call_id or "", 0
        step: Callable[..., Any] = body.send
        sent: Any = None
        requests = cancel_requests()
        thrown: Thrown | None = None
        self._begin(call_id, frame, body)
        try:
            while True:
                if self.death.stops_this():
                    yield from self.death.rest().__await__()
                    if on_asyncio():
                        sent, step = Burial(), body.throw
                self._is_counted = False
                try:
                    awaited = context.run(step, sent)
                except StopIteration as stop:
                    if thrown is not None:
                        thrown.end()
                    yield from self._end(call_id).__await__()
                    return stop.value  # type: ignore[no-any-return]
                except BaseException as error:
                    sent = None  # an error that was thrown in: its traceback holds this frame
                    if thrown is not None or not isinstance(error, Exception):
                        check_cancelled(error, thrown)
                    raise
                if thrown is not None:
                    thrown.wait()
                # Bodies around this one are suspended at the same await: it is counted once.
                is_held = False
                if not self._is_counted:
                    self._is_counted, index = True, index + 1
                    is_held = self.reach(Point("await", call_id, frame.attempt, index), body)
                try:
                    sent, step = (yield awaited), body.send
                    if is_held and not (self.is_dead or frame.run.unwinding) and on_asyncio():
                        yield from self.death.buried.settled().__await__()  # until it is cancelled
                except GeneratorExit:
                    context.run(body.close)
                    raise
                except BaseException as error:
                    thrown = note_thrown(error, thrown, requests)
                    sent, step = error, body.throw
        finally:
            self.bodies.pop(id(body), None)

    def _begin(self, call_id: str, frame: Frame[Run], body: Coroutine[Any, Any, Any]) -> None:
        self.run = frame.run
        self.bodies[id(body)] = call_id, body
        if isinstance(call := frame.run.activity.executing.get(call_id), RecordedCall):
            self.history.shown[call_id] = spelled_call(call.definition.name, call.shown_arguments())
        if frame.stake is not None:
            self.history.has_contests = True
        if not call_id and not self.began.done():
            self.began.set_result()

    async def _end(self, call_id: str) -> None:
        if self._held is not None and call_id == self._held[0]:
            await anyio.sleep(self._held[1])
        if self.is_dead:
            await self.death.rest()
            if on_asyncio():
                raise Burial from None


class CutStore(WrappedStore):
    """The store as one process sees it: one row after another is durable, until it is cut off."""

    def __init__(self, store: Store, process: Process) -> None:
        super().__init__(store)
        self._process = process

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._process.death.ask(work)

    async def close(self, owner: str) -> None:
        if not self._process.is_dead:  # else it was abandoned
            await self.inner.close(owner)

    async def commit(self, batch: Batch) -> Committed:
        return await self._process.death.ask(lambda: self._commit(batch))

    async def _commit(self, batch: Batch) -> Committed:
        process, cut = self._process, self._process.cut
        ends = [each for each in batch.finishes if each.status == RunStatus.SUCCESS]
        if ends:
            process.result = ends[-1].result
        if cut is not None and cut.point.kind == "commit" and cut.mode == "drop":
            ids = [each.task_id for each in batch.checkpoints]
            if cut.point.call in ids:
                # Rows that are committed together might as well have been committed one by one.
                rows = batch.checkpoints[: ids.index(cut.point.call) + 1]
                return await self._commit_whole(Batch(rows, batch.cached, [], [], [], []))
            if ends and cut.point.call == LAST:
                alone = structs.replace(batch, finishes=[], claims=[], signals=[])
                committed = await self._commit_whole(alone)
                process.reach(cut.point)
                return committed
        return await self._commit_whole(batch)

    async def _commit_whole(self, batch: Batch) -> Committed:
        process = self._process
        committed = await self.inner.commit(batch)
        process.history.commit(batch, process.number)
        reached = [each.task_id for each in batch.checkpoints if each.kind in OUTCOMES]
        reached += [END for each in batch.finishes if each.status == RunStatus.SUCCESS]
        reached += [BEGIN] * bool(batch.claims)
        for call in reached:
            process.reach(Point("commit", call))
        return committed


def _place_of(body: Any) -> str | None:
    """File and line of what a suspended coroutine awaits, as deep as the user's code goes."""
    place = None
    while body is not None:
        frame = getattr(body, "cr_frame", None) or getattr(body, "gi_frame", None)
        if frame is None:
            break
        if "taskflow" in frame.f_globals.get("__name__", "").split(".")[:1]:
            break
        if place is None or is_users(frame.f_code):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        body = getattr(body, "cr_await", None) or getattr(body, "gi_yieldfrom", None)
    return place
