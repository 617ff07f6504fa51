"""A process that can be cut off at a chosen moment, without a process: for `crash_everywhere`.

`Process` stands between the steps of every body that its runtime executes (``Scheduler.stepped``),
and between its runtime and the store (`CutStore`). When it is dropped, nothing of it goes on: no
body takes another step, and nothing it asks of the store is answered, until `Process.bury`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, Final, Literal, TypeAlias, TypeVar

import anyio
from msgspec import Struct, structs

from taskflow.calls.call import RecordedCall, spelled_call
from taskflow.errors import StoreError
from taskflow.events import Event, TaskCompleted, TaskStarted
from taskflow.events import TaskFailed as TaskFailedEvent
from taskflow.loops.cancellation import notice_cancellation
from taskflow.loops.loop import Outside, counted
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.records import RunStatus
from taskflow.runs.feeds import Listener
from taskflow.runs.frame import FRAME
from taskflow.runs.run import Run
from taskflow.stores.base import Store
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.kinds import OUTCOMES, RESULT
from taskflow.stores.rows import Checkpoint
from taskflow.testing.doubles.wrapped import WrappedStore
from taskflow.testing.suspects.functions import is_users

__all__ = (
    "BEGIN",
    "END",
    "LAST",
    "PROCESS",
    "Burial",
    "CutStore",
    "Ears",
    "History",
    "Mode",
    "Point",
    "Process",
    "Silence",
    "on_asyncio",
)

T = TypeVar("T")

Mode: TypeAlias = Literal["drop", "cancel", "native"]

# Commits that are no call's own.
BEGIN: Final = "begin"  # of the run
LAST: Final = "last"  # everything but the end of the run
END: Final = "end"  # of the run


class Point(Struct, frozen=True):
    """A moment of a run at which a process can be cut off, whatever else goes on at that moment."""

    kind: Literal["commit", "await"]
    call: str  # the task id; empty: the run's own body
    attempt: int = 1
    index: int = 0  # of the await, from 1, in that attempt

    @property
    def key(self) -> str:
        """The same as text: what a pass is repeated by."""
        if self.kind == "commit":
            return f"commit {self.call}"
        return f"await {self.index} {self.call}".strip() + f" #{self.attempt}" * (self.attempt > 1)


class Burial(asyncio.CancelledError):
    """Ends a body of a process that was dropped, when everything has been looked at.

    A cancellation, as nobody complains of those. asyncio only.
    """


def on_asyncio() -> bool:
    """Whether this is the event loop of asyncio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


# Which process the code that asks belongs to.
PROCESS: Final[ContextVar[Process | None]] = ContextVar("taskflow_process", default=None)


class Silence(logging.Filter):
    """Nobody hears what a dropped process logs when it ends at last."""

    def filter(self, record: logging.LogRecord) -> bool:
        process = PROCESS.get()
        return process is None or not process.is_dead


class History:
    """What has happened in the processes of one pass."""

    def __init__(self) -> None:
        self.calls: dict[str, Checkpoint] = {}  # the rows of calls, in the order of their commits
        self.results: dict[str, int] = {}  # by task id: in which process it was recorded
        self.executed: list[tuple[str, int]] = []  # task ids, and the process that executed them
        self.recorded_in: dict[str, int] = {}  # the same for failures, too
        self.again: list[str] = []  # task ids that were executed though a result was recorded
        self.beside: dict[str, set[str]] = {}  # for each call, those that executed meanwhile
        self.has_contests = False
        self.shown: dict[str, str] = {}  # calls as one would write them
        self._executing: set[str] = set()

    def hear(self, event: Event, process: int) -> None:
        """Something happens in a process."""
        task_id = event.task_id or ""
        if isinstance(event, TaskStarted):
            self.executed.append((task_id, process))
            if task_id in self.results:
                self.again.append(task_id)
            for other in self._executing:
                self.beside.setdefault(task_id, set()).add(other)
                self.beside.setdefault(other, set()).add(task_id)
            self._executing.add(task_id)
        elif isinstance(event, TaskCompleted | TaskFailedEvent):
            self._executing.discard(task_id)

    def committed(self, batch: Batch, process: int) -> None:
        """A batch, or a part of one, is durable."""
        for checkpoint in batch.checkpoints:
            if checkpoint.kind in OUTCOMES:
                self.calls[checkpoint.task_id] = checkpoint
                self.recorded_in.setdefault(checkpoint.task_id, process)
            if checkpoint.kind == RESULT:
                self.results[checkpoint.task_id] = process
        dropped = [each.task_ids for each in batch.unrecords]
        dropped += [each.unrecord for each in batch.finishes]
        for task_id in itertools.chain.from_iterable(dropped):
            self.calls.pop(task_id, None)


class Process:
    """One process of a pass: where it is cut off, how, and what it has come to."""

    def __init__(
        self,
        number: int,
        history: History,
        cut: Point | None = None,
        mode: Mode = "drop",
    ) -> None:
        self.number = number
        self.history = history
        self.cut = cut
        self.mode = mode
        self.points: list[Point] = []  # in the order in which they were reached
        self.began = Latch()  # the workflow's body
        self.has_been_cut = Latch()
        self.unwind: Callable[[], object] | None = None  # cancels everything that it executes
        self.cancel: Callable[[], object] | None = None  # cancels whoever waits for the run
        self.where: str | None = None  # file and line of the await that it was cut off at
        self.result: bytes | None = None  # that the run was about to end with
        self.run: Run | None = None  # that its bodies belong to
        # Bodies that execute now, each with the id of its call.
        self.bodies: dict[int, tuple[str, object]] = {}
        self.outside = Outside()  # what threads do for it: nobody waits for those of the dead
        counted.all.append(self.outside)
        # trio minds that anything but its own cancellation is raised where code waits.
        self._is_asyncio = on_asyncio()
        self._held = ""
        self._hold: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._is_dead = False
        self._buried = Latch()
        self._asking = 0  # of the store, at this moment
        self._asking_in: set[int] = set()  # the loop's tasks that do
        self._quiet = Latch()
        self._is_reported = False  # the await at which bodies in one stack of awaits stop

    @property
    def is_dead(self) -> bool:
        """Whether it was dropped."""
        return self._is_dead

    @property
    def was_cut(self) -> bool:
        """Whether it has been cut off."""
        return self.has_been_cut.done()

    def hold_up(self, call_id: str, hold: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let the body of a call end later: after ``hold``."""
        self._held, self._hold = call_id, hold

    def reach(self, point: Point, body: Coroutine[Any, Any, Any] | None = None) -> bool:
        """Whether it is cut off here."""
        if self._is_dead:
            return False
        self.points.append(point)
        if point != self.cut or self.has_been_cut.done():
            return False
        self.where = None if body is None else place_of(body)
        if self.mode == "drop":
            self._is_dead = True
            counted.all.remove(self.outside)
            if not self._asking:
                self._quiet.set_result()
        elif self.cancel is not None:
            self.cancel()
        self.has_been_cut.set_result()
        return True

    async def silence(self) -> None:
        """Wait until nothing that it had asked of the store before it was dropped is under way."""
        await self._quiet.wait()

    def bury(self) -> None:
        """Let the dropped process end, now that nobody looks any more."""
        if not self._is_dead:
            self._is_dead = True
            counted.all.remove(self.outside)
        if self.unwind is not None:
            self.unwind()
        self._buried.set_result()

    # What its runtime asks of the store.

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """The answer to what is asked of the store, unless the process is dead by then."""
        if self._is_dead:
            await self._stand_still()
        child = anyio.get_current_task().id
        self._asking += 1
        self._asking_in.add(child)
        try:
            answer = await work()
        finally:
            self._asking -= 1
            self._asking_in.discard(child)
            if self._is_dead and not self._asking and not self._quiet.done():
                self._quiet.set_result()
        if self._is_dead:
            await self._stand_still()
        return answer

    async def _stand_still(self) -> None:
        await uninterrupted(self._buried)
        raise StoreError("this process was dropped: it asks nothing of the store any more")

    async def _rest(self) -> None:
        """Wait to be buried, however often what stands still is cancelled meanwhile."""
        try:
            await uninterrupted(self._buried)
        except GeneratorExit:
            raise
        except BaseException as error:
            notice_cancellation(error)

    # How its runtime executes bodies.

    @types.coroutine
    def stepped(self, body: Coroutine[Any, Any, T], context: Context, /) -> Generator[Any, Any, T]:
        """Execute ``body`` step by step; between two steps the process may be cut off."""
        frame = context[FRAME]
        assert frame is not None
        call_id = frame.call_id or ""
        index = 0
        self.run = frame.run
        step: Callable[..., Any] = body.send
        sent: Any = None
        self.bodies[id(body)] = call_id, body
        if isinstance(call := frame.run.activity.executing.get(call_id), RecordedCall):
            self.history.shown[call_id] = spelled_call(call.definition.name, call.shown_arguments())
        if frame.stake is not None:
            self.history.has_contests = True
        if not call_id and not self.began.done():
            self.began.set_result()
        try:
            while True:
                # What the store was asked before is under way: its answer comes first.
                if self._is_dead and anyio.get_current_task().id not in self._asking_in:
                    yield from self._rest().__await__()
                    if self._is_asyncio:
                        sent, step = Burial(), body.throw
                self._is_reported = False
                try:
                    awaited = context.run(step, sent)
                except StopIteration as stop:
                    if self._hold is not None and call_id == self._held:
                        yield from self._hold().__await__()
                    if self._is_dead:
                        yield from self._rest().__await__()
                        if self._is_asyncio:
                            raise Burial from None
                    return stop.value  # type: ignore[no-any-return]
                except BaseException:
                    sent = None  # an error that was thrown in: its traceback holds this frame
                    raise
                # What a body awaits is what bodies around it await: it is counted once.
                is_held = False
                if not self._is_reported:
                    self._is_reported = True
                    index += 1
                    is_held = self.reach(Point("await", call_id, frame.attempt, index), body)
                try:
                    sent = yield awaited
                    is_waited_for = is_held and not (self._is_dead or frame.run.unwinding)
                    if is_waited_for and self._is_asyncio:
                        yield from self._buried.settled().__await__()  # until it is cancelled
                    step = body.send
                except GeneratorExit:
                    context.run(body.close)
                    raise
                except BaseException as error:
                    notice_cancellation(error)
                    sent, step = error, body.throw
        finally:
            self.bodies.pop(id(body), None)


class Ears(Listener):
    """Tells the history of a pass what happens in one of its processes."""

    def __init__(self, process: Process) -> None:
        super().__init__(0)
        self._process = process

    def put(self, event: Event, size: int = 0) -> None:
        if not self._process.is_dead:
            self._process.history.hear(event, self._process.number)


class CutStore(WrappedStore):
    """The store as one process sees it: one row after another is durable, until it is cut off."""

    def __init__(self, store: Store, process: Process) -> None:
        super().__init__(store)
        self._process = process

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._process.ask(work)

    async def close(self, owner: str) -> None:
        if not self._process.is_dead:  # else it was abandoned
            await self.inner.close(owner)

    async def commit(self, batch: Batch) -> Committed:
        return await self._process.ask(lambda: self._commit(batch))

    async def _commit(self, batch: Batch) -> Committed:
        process = self._process
        cut = process.cut
        ends = [each for each in batch.finishes if each.status == RunStatus.SUCCESS]
        if ends:
            process.result = ends[-1].result
        if cut is not None and cut.kind == "commit" and process.mode == "drop":
            ids = [each.task_id for each in batch.checkpoints]
            if cut.call in ids:
                # Rows that are committed together might as well have been committed one by one.
                rows = batch.checkpoints[: ids.index(cut.call) + 1]
                return await self._commit_whole(Batch(rows, batch.cached, [], [], [], []))
            if ends and cut.call == LAST:
                alone = structs.replace(batch, finishes=[], claims=[], signals=[])
                committed = await self._commit_whole(alone)
                process.reach(Point("commit", LAST))
                return committed
        return await self._commit_whole(batch)

    async def _commit_whole(self, batch: Batch) -> Committed:
        process = self._process
        committed = await self.inner.commit(batch)
        process.history.committed(batch, process.number)
        for checkpoint in batch.checkpoints:
            if checkpoint.kind in OUTCOMES:
                process.reach(Point("commit", checkpoint.task_id))
        for finish in batch.finishes:
            if finish.status == RunStatus.SUCCESS:
                process.reach(Point("commit", END))
        if batch.claims:
            process.reach(Point("commit", BEGIN))
        return committed


def place_of(body: Any) -> str | None:
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
