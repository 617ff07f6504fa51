"""`Trial`: one pass of `crash_everywhere`, a sequence of processes that run the call."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio import from_thread
from msgspec import Struct

from taskflow.calls.definitions import definitions_of
from taskflow.calls.workflows import WorkflowCall
from taskflow.errors import TaskflowError
from taskflow.loops.clocks import present
from taskflow.records import RunStatus
from taskflow.runtime import Runtime
from taskflow.stores.base import Store
from taskflow.stores.memory import MemoryStore
from taskflow.testing.crashes.deaths import on_asyncio
from taskflow.testing.crashes.histories import History
from taskflow.testing.crashes.lives import THREAD, Life, Raised
from taskflow.testing.crashes.looks import Look
from taskflow.testing.crashes.points import Plan
from taskflow.testing.crashes.processes import CutStore, Process
from taskflow.testing.doubles.wrapped import WrappedStore

__all__ = ("Outcome", "Setting", "Trial")

MANY: Final = 50  # calls of one task, in a run that does not end
HELD_FOR: Final = 3600.0  # seconds (virtual) that a call is held up, so that others end before it


class Outcome:
    """The result of one pass, with its history and its problems."""

    def __init__(self, plan: Plan, look: Look) -> None:
        self.plan = plan
        self.look = look
        self.history = History()
        self.processes: list[Process] = []
        self.result: Any = None  # or a `Raised`
        self.error: BaseException | None = None  # itself, where that is a `Raised`
        self.was_cut = False
        self.problems: list[str] = []  # faults of this pass by itself, without comparison


class Setting(Struct, frozen=True):
    """What all passes of a workflow have in common."""

    make_call: Callable[[], WorkflowCall[Any]]
    store: Callable[[Path], Store] | None  # None: one in memory
    make_runtime: Callable[[Store], Runtime]
    signals: Sequence[tuple[str, object]]
    patience: float  # seconds of real time


class Trial:
    """A pass, in an empty folder."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self._setting = setting
        self._folder = folder
        self._memory = MemoryStore()
        self.call = setting.make_call()
        if not isinstance(self.call, WorkflowCall):
            raise TypeError(f"make_call makes the call of a workflow, got {self.call!r}")

    async def run(self, plan: Plan, look: Look) -> Outcome:
        """Run the call, continue it after each cut, and check the store and the children."""
        outcome = Outcome(plan, look)
        before = set(anyio.get_running_tasks())
        expired: list[list[str]] = []  # the places of its bodies when its time was up
        misuse: Exception | None = None
        with look:
            async with anyio.create_task_group() as group:

                def end() -> None:
                    expired.append(outcome.processes[-1].places())
                    group.cancel_scope.cancel()

                with _watchdog(self._setting.patience, end):
                    try:
                        for process in _processes(outcome):
                            life = Life(process, self.call, self._setting.signals)
                            await self._live(life, process, outcome, group)
                            misuse = misuse or life.misuse
                            if not life.was_cut:
                                outcome.result, outcome.error = life.result, life.error
                                break
                        await self._look_at_store(outcome)
                    finally:
                        for process in outcome.processes:
                            process.bury()
        if misuse is not None:
            raise misuse
        if expired:
            outcome.problems.append(self._expired_text(outcome, expired[0]))
        if left := await _children_left(before):
            outcome.problems.append(
                f"children still execute though everything was closed: {', '.join(left)}"
            )
        return outcome

    async def _live(
        self, life: Life, process: Process, outcome: Outcome, group: anyio.abc.TaskGroup
    ) -> None:
        """Let a process live until it has ended or was dropped."""
        store = self._open_store()
        group.start_soon(life.live, self._setting.make_runtime(CutStore(store, process)))
        await life.over.settled()
        if process.is_dead:
            await process.death.silence()
            await _abandon(store, life.owner)
        elif process.bodies:
            left = ", ".join(sorted({call_id for call_id, _ in process.bodies.values()}))
            outcome.problems.append(f"run() had returned, and bodies still executed: {left}")
        outcome.was_cut |= life.was_cut

    def _open_store(self) -> Store:
        return self._memory if self._setting.store is None else self._setting.store(self._folder)

    async def _look_at_store(self, outcome: Outcome) -> None:
        store = self._open_store()
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

    def _expired_text(self, outcome: Outcome, places: list[str]) -> str:
        text = f"it did not end within {self._setting.patience:g} s of real time (patience=)"
        if outcome.was_cut:
            text += ": it waits for something that only the process which was cut off could give"
        asked = Counter(row.name for row in outcome.history.calls.values())
        for name, number in asked.most_common(1):
            if number >= MANY:
                text += (
                    f"; it has asked for {name} {number:,} times, each time with other arguments"
                )
        return f"{text}\n  when its time was up it was at {', '.join(places)}" if places else text


def _processes(outcome: Outcome) -> Generator[Process]:
    """One process after the other: those that are cut off, and one that is not."""
    plan = outcome.plan
    held = (plan.held, _longest_hold(plan.held)) if plan.held else None
    for number, cut in enumerate((*plan.cuts, None), 1):
        outcome.look.begin(is_last=cut is None)
        process = Process(number, outcome.history, cut, held if number == 1 else None)
        outcome.processes.append(process)
        yield process


def _longest_hold(held: str) -> float:
    """Seconds by which a call may end late, without meeting a time limit of its own."""
    if present.clock is None:
        return 0.05
    limits = [each.timeout for each in definitions_of(held.rpartition(":")[0])]
    return min([HELD_FOR, *(limit / 2 for limit in limits if limit is not None)])


def _innermost(store: Store) -> Store:
    """The store that others are wrapped around."""
    while isinstance(store, WrappedStore):
        store = store.inner
    return store


async def _abandon(store: Store, owner: str) -> None:
    """Let go of what a dropped process held, as the operating system does."""
    abandon = getattr(_innermost(store), "abandon", None)
    await (store.close(owner) if abandon is None else abandon())


async def _children_left(before: set[anyio.TaskInfo]) -> list[str]:
    """Tasks of the loop that are new since ``before``, but for anyio's own for worker processes."""
    left: list[anyio.TaskInfo] = []
    for _ in range(10):  # a task that has just ended may still be listed
        left = [
            each
            for each in anyio.get_running_tasks()
            if each not in before and "process pool" not in str(each.name).replace("_", " ")
        ]
        if not left:
            break
        await anyio.lowlevel.checkpoint()
    return sorted(map(_shown_child, left))


def _shown_child(child: anyio.TaskInfo) -> str:
    """Its name, and on asyncio the function that it executes."""
    for task in asyncio.all_tasks() if on_asyncio() else ():
        if id(task) == child.id:
            coroutine: Any = task.get_coro()
            return f"{child.name} ({getattr(coroutine, '__qualname__', coroutine)})"
    return str(child.name)


@contextlib.contextmanager
def _watchdog(patience: float, end: Callable[[], None]) -> Generator[None]:
    """Calls ``end`` in the loop after so many seconds of real time; the loop's may be virtual."""
    token = anyio.lowlevel.current_token()

    def bark() -> None:
        with contextlib.suppress(RuntimeError, anyio.RunFinishedError):
            from_thread.run_sync(end, token=token)

    timer = threading.Timer(patience, bark)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
