"""One pass of `crash_everywhere`: a call is run by one process after the other, each cut off."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Final

import anyio
import anyio.lowlevel
from msgspec import Struct

from taskflow.calls.definitions import definitions_of
from taskflow.calls.workflows import WorkflowCall
from taskflow.errors import RunNotFound, RunPaused, TaskflowError
from taskflow.loops.clocks import present
from taskflow.loops.loop import OUTSIDE
from taskflow.loops.promises import Latch
from taskflow.records import RunStatus
from taskflow.runtime import Runtime
from taskflow.runtime.services import Service
from taskflow.stores.base import Store
from taskflow.stores.memory import MemoryStore
from taskflow.testing.crashes.processes import (
    PROCESS,
    CutStore,
    Ears,
    History,
    Mode,
    Point,
    Process,
    on_asyncio,
    place_of,
)
from taskflow.testing.doubles.wrapped import WrappedStore
from taskflow.testing.suspects.determinism import Witness
from taskflow.testing.suspects.memory import Memory
from taskflow.testing.suspects.set_order import OtherSetOrder

__all__ = ("Outcome", "Plan", "Raised", "Setting", "Trial")

THREAD: Final = "crash-test"
RUN: Final = "crash-test"  # always the same: task ids depend on it
MANY: Final = 50  # calls of one task, in a run that does not end
HELD_FOR: Final = 3600.0  # seconds (virtual) that a call is held up, so that others end before it


class Plan(Struct, frozen=True):
    """Where the processes of a pass are cut off, one after the other; the last one is not."""

    cuts: tuple[tuple[Point, Mode], ...] = ()
    what: str = ""  # what else is tried: "watch", "set order", "forget" or "hold"
    held: str = ""  # a call that ends after those that it executes beside

    @property
    def key(self) -> str:
        """What the pass is repeated by."""
        cuts = " then ".join(f"{mode} {point.key}" for point, mode in self.cuts)
        return " ".join(each for each in (self.what, self.held, cuts) if each)


class Raised(Struct, frozen=True):
    """What a run has come to that raised an exception."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """The same for every occasion on which it is raised."""
        return cls(type(error).__qualname__, str(error))

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Outcome:
    """What a pass has come to."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.history = History()
        self.processes: list[Process] = []
        self.result: Any = None  # or a `Raised`
        self.error: BaseException | None = None  # what that stands for
        self.was_cut = False
        self.problems: list[str] = []  # what is wrong, whatever other passes came to
        self.witness: Witness | None = None
        self.order: OtherSetOrder | None = None
        self.memory: Memory | None = None


class Setting(Struct, frozen=True):
    """What all passes of a workflow have in common."""

    make_call: Callable[[], WorkflowCall[Any]]
    store: Callable[[Path], Store] | None  # None: one in memory
    make_runtime: Callable[[Store], Runtime]
    signals: Sequence[tuple[str, object]]
    allowed: Sequence[Callable[..., Any]]
    patience: float  # seconds of real time


class Known(Struct):
    """What is known of the workflow from the passes before."""

    workflows: set[str]  # names of those that may be called
    executed: dict[CodeType, None]  # of the user's, that was seen to execute in workflows
    memory: Memory
    locks: Memory  # that a process which was dropped may hold


class Trial:
    """A pass, in an empty folder."""

    def __init__(self, setting: Setting, plan: Plan, folder: Path) -> None:
        self._setting = setting
        self._plan = plan
        self._folder = folder
        self._memory = MemoryStore()
        self._context = contextlib.ExitStack()
        self.outcome = Outcome(plan)
        self.call = setting.make_call()
        if not isinstance(self.call, WorkflowCall):
            raise TypeError(f"make_call makes the call of a workflow, got {self.call!r}")

    async def run(self, known: Known) -> Outcome:
        """Run the call, continue it as often as it is cut off, and look whether all is well."""
        outcome, plan = self.outcome, self._plan
        before = set(anyio.get_running_tasks())
        lives: list[Life] = []
        expired: list[list[str]] = []  # where it was when its time was up
        with self._context:
            if plan.what == "watch" or not plan.key:
                outcome.witness = self._context.enter_context(Witness(self._setting.allowed))
            elif plan.what == "forget":
                outcome.memory = known.memory
                outcome.memory.look(known.executed)
            async with anyio.create_task_group() as group:
                where = partial(_places, outcome)
                with _watchdog(self._setting.patience, group.cancel_scope, where, expired):
                    try:
                        for process in self._processes(known):
                            life = Life(process, self.call, self._setting.signals)
                            lives.append(life)
                            await self._live(life, group)
                            if not life.was_cut:
                                outcome.result = life.result
                                outcome.error = life.error
                                break
                        await self._look_at_store()
                    finally:
                        for process in outcome.processes:
                            process.bury()
        for life in lives:
            if life.misuse is not None:
                raise life.misuse
        if expired:
            outcome.problems.append(self._expired_text(expired[0]))
        await self._look_for_children(before)
        return outcome

    def _processes(self, known: Known) -> Generator[Process]:
        """One process after the other: those that are cut off, and one that is not."""
        outcome, plan = self.outcome, self._plan
        for cut, mode in plan.cuts:
            known.locks.forget()
            process = Process(len(outcome.processes) + 1, outcome.history, cut, mode)
            if plan.held and not outcome.processes:
                process.hold_up(plan.held, partial(anyio.sleep, _longest_hold(plan.held)))
            outcome.processes.append(process)
            yield process
        if plan.what == "set order":
            outcome.order = self._context.enter_context(
                OtherSetOrder(known.workflows, known.executed)
            )
        if outcome.memory is not None:
            self._context.callback(outcome.memory.recall)
            outcome.memory.forget()
        known.locks.forget()
        outcome.processes.append(Process(len(outcome.processes) + 1, outcome.history))
        yield outcome.processes[-1]

    async def _live(self, life: Life, group: anyio.abc.TaskGroup) -> None:
        """Let a process live until it has ended or was dropped."""
        process = life.process
        store = self._open_store()
        group.start_soon(life.live, self._setting.make_runtime(CutStore(store, process)))
        await life.over.settled()
        if process.is_dead:
            await process.silence()
            await _abandon(store, life.owner)
        self.outcome.was_cut |= life.was_cut
        if process.bodies and not process.is_dead:
            left = ", ".join(sorted({call_id for call_id, _ in process.bodies.values()}))
            self.outcome.problems.append(f"run() had returned, and bodies still executed: {left}")

    def _open_store(self) -> Store:
        return self._memory if self._setting.store is None else self._setting.store(self._folder)

    async def _look_at_store(self) -> None:
        outcome, store = self.outcome, self._open_store()
        expected = RunStatus.ERROR if isinstance(outcome.result, Raised) else RunStatus.SUCCESS
        try:
            async with self._setting.make_runtime(store) as runtime:
                record = await runtime.get(THREAD)
                await runtime.tasks(THREAD)
        except TaskflowError as error:
            outcome.problems.append(f"the store is damaged: {error}")
            return
        if record.status != expected:
            outcome.problems.append(f"the run has ended, and its status is {record.status}")
        path = getattr(_innermost(store), "path", None)
        if path is not None:
            with contextlib.closing(sqlite3.connect(path)) as db:
                (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                outcome.problems.append(f"the store is damaged: SQLite says {verdict}")

    async def _look_for_children(self, before: set[anyio.TaskInfo]) -> None:
        left: list[anyio.TaskInfo] = []
        for _ in range(10):  # what has just ended may not have been left yet
            running = anyio.get_running_tasks()
            # anyio keeps worker processes for as long as the loop runs, and a child for that.
            left = [each for each in running if each not in before and not _is_pool(each)]
            if not left:
                return
            await anyio.lowlevel.checkpoint()
        names = ", ".join(sorted(map(_shown_child, left)))
        self.outcome.problems.append(
            f"children still execute though everything was closed: {names}"
        )

    def _expired_text(self, places: list[str]) -> str:
        text = f"it did not end within {self._setting.patience:g} s of real time (patience=)"
        if self.outcome.was_cut:
            text += ": it waits for something that only the process which was cut off could give"
        history = self.outcome.history
        asked = Counter(row.name for row in history.calls.values()).most_common(1)
        if asked and asked[0][1] >= MANY:
            ((name, number),) = asked
            text += f"; it has asked for {name} {number:,} times, each time with other arguments"
        where = ", ".join(sorted(set(places)))
        return f"{text}\n  when its time was up it was at {where}" if where else text


class Life:
    """What one process does: it runs the call, and hears of the end or is cut off."""

    def __init__(
        self, process: Process, call: WorkflowCall[Any], signals: Sequence[tuple[str, object]]
    ) -> None:
        self.process = process
        self._call = call
        self._signals = signals
        self.over = Latch()
        self.was_cut = False
        self.owner = ""
        self.result: Any = None
        self.error: BaseException | None = None  # that the run has raised
        self.misuse: Exception | None = None

    async def live(self, runtime: Runtime) -> None:
        """Open the runtime, run the call, close the runtime."""
        process = self.process
        PROCESS.set(process)
        OUTSIDE.set(process.outside)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._note_death)
                await runtime.open()
                service = runtime._open()
                self.owner = service.owner
                service.scheduler.stepped = process.stepped
                process.unwind = partial(_unwind, service)
                service.feeds.join(THREAD, Ears(process))
                try:
                    await self._run(runtime)
                finally:
                    await runtime.aclose()
                self.was_cut = process.has_been_cut.done()
                self.over.set_result()
                group.cancel_scope.cancel()
        except BaseException:
            if not process.is_dead:
                raise

    async def _note_death(self) -> None:
        process = self.process
        await process.has_been_cut.settled()
        if process.is_dead:
            self.was_cut = True
            self.over.set_result()

    async def _run(self, runtime: Runtime) -> None:
        async with anyio.create_task_group() as group:
            if self._signals:
                group.start_soon(self._send, runtime)
            try:
                if self.process.mode == "native":
                    asked = asyncio.ensure_future(self._result(runtime))
                    self.process.cancel = asked.cancel
                    with contextlib.suppress(asyncio.CancelledError):
                        await asked
                else:
                    with anyio.CancelScope() as scope:
                        self.process.cancel = scope.cancel
                        await self._result(runtime)
            finally:
                group.cancel_scope.cancel()

    async def _result(self, runtime: Runtime) -> None:
        clock = runtime._open().clock
        while True:
            try:
                self.result = await runtime.run(self._call, thread_id=THREAD, run_id=RUN)
                return
            except RunPaused as paused:
                deadlines = [each.deadline for each in paused.waits if each.deadline is not None]
                if not deadlines:
                    names = ", ".join(sorted({each.name for each in paused.waits}))
                    self.misuse = ValueError(
                        f"the workflow waits for signals: give crash_everywhere(…, signals=[…]) "
                        f"what is to be sent as {names}"
                    )
                    return
                await anyio.sleep(max(0.0, min(deadlines) - clock.now()))
            except Exception as error:
                if self.process.is_dead:
                    raise
                self.error = error
                self.result = Raised.of(error)
                return

    async def _send(self, runtime: Runtime) -> None:
        await self.process.began.settled()
        for number, (name, value) in enumerate(self._signals, 1):
            with contextlib.suppress(RunNotFound):
                await runtime.send(THREAD, name, value, id=f"signal {number}")


def _unwind(service: Service) -> None:
    for execution in list(service.executions.values()):
        execution.cancel()


def _shown_child(child: anyio.TaskInfo) -> str:
    """Its name, and on asyncio the function that it executes."""
    for task in asyncio.all_tasks() if on_asyncio() else ():
        if id(task) == child.id:
            coroutine: Any = task.get_coro()
            return f"{child.name} ({getattr(coroutine, '__qualname__', coroutine)})"
    return str(child.name)


def _is_pool(child: anyio.TaskInfo) -> bool:
    return "process pool" in str(child.name) or "process_pool" in str(child.name)


def _innermost(store: Store) -> Store:
    """The store that others are wrapped around."""
    while isinstance(store, WrappedStore):
        store = store.inner
    return store


async def _abandon(store: Store, owner: str) -> None:
    """Let go of what a dropped process held, as the operating system does."""
    abandon = getattr(_innermost(store), "abandon", None)
    if abandon is not None:
        await abandon()
    else:
        await store.close(owner)


def _places(outcome: Outcome) -> list[str]:
    found = (place_of(body) for _, body in outcome.processes[-1].bodies.values())
    return [each for each in found if each is not None]


@contextlib.contextmanager
def _watchdog(
    patience: float,
    scope: anyio.CancelScope,
    where: Callable[[], list[str]],
    expired: list[list[str]],
) -> Generator[None]:
    """Cancels ``scope`` when its real time is up, and notes that: the loop's may be virtual."""
    token = anyio.lowlevel.current_token()

    def end() -> None:
        expired.append(where())
        scope.cancel()

    def bark() -> None:
        from anyio import from_thread

        with contextlib.suppress(RuntimeError, anyio.RunFinishedError):
            from_thread.run_sync(end, token=token)

    timer = threading.Timer(patience, bark)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _longest_hold(held: str) -> float:
    if present.clock is None:
        return 0.05
    limits = [each.timeout for each in definitions_of(held.rpartition(":")[0])]
    return min([HELD_FOR, *(limit / 2 for limit in limits if limit is not None)])
