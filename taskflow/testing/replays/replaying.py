"""`replay`: recorded runs, many at a time, against the present code of their workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import anyio
import anyio.abc

from taskflow.calls.workflows import Workflow
from taskflow.errors import TaskflowError
from taskflow.loops.promises import Latch
from taskflow.records import RunStatus
from taskflow.testing.replays.comparisons import skipped
from taskflow.testing.replays.histories import History, Reader, RecordedRun
from taskflow.testing.replays.rehearsals import LOOK_INTERVAL, Rehearsal
from taskflow.testing.replays.verdicts import ReplayReport, RunReplay

__all__ = ("NothingToReplay", "replay")

MOST_RUNS: Final = 400  # that are replayed at a time
MOST_ROWS: Final = 200_000  # recorded calls of these


class NothingToReplay(TaskflowError, LookupError):
    """Raised when a history holds no run of the workflow: nothing was checked."""

    def __init__(self, workflow: str, others: Iterable[str] = ()) -> None:
        self.workflow = workflow
        self.others = sorted(each for each in others if each)
        known = ", ".join(map(repr, self.others[:10]))
        way_out = (
            f": it holds runs of {known}; a workflow that was renamed keeps its runs with "
            '@workflow(name="…")'
            if known
            else ""
        )
        super().__init__(f"the history holds no such run of the workflow {workflow!r}{way_out}")


async def replay(
    history: History,
    workflow: Workflow[..., Any, Any],
    *,
    thread_id: str | None = None,
    status: str | Iterable[str] | None = None,
    patience: float = 5.0,
    report: Callable[[RunReplay], object] | None = None,
) -> ReplayReport:
    """Replay recorded runs against the present code of ``workflow``, without executing any task.

    ``history``: an open runtime, a store that is not open here, the path of a SQLite file; or
    exported threads: lines (an open file, ``runtime.export(…)``), the path of a file of them, or
    several of these. Exports may follow each other in one file. ``thread_id`` and ``status`` (one
    or several) leave other runs out.

    A run that had succeeded is changed when the code asks for calls that are not recorded, leaves
    recorded ones out, raises, or returns or saves another value. An unfinished one is changed when
    what is recorded is not asked for before it comes to a halt, when it asks again for what
    somebody was asked already, or raises where it had not; what it asks for after all that is
    recorded, it would do next anyway. Runs that were cancelled are skipped.

    ``patience``: seconds that the workflow may spend on anything that is no call. ``report`` is
    given each entry as soon as it is there.

    Raises NothingToReplay where the history holds no such run, StoreError, ImportRefused where
    lines are not whole exports, OSError where a file cannot be read, and ValueError for one that is
    no history.
    """
    if not isinstance(workflow, Workflow):
        raise TypeError(f"replay() takes a history and a workflow, got {workflow!r}")
    if patience < 0:
        raise ValueError(f"patience is not negative, got {patience}")
    given = [status] if isinstance(status, str) else status
    statuses = None if given is None else frozenset(map(RunStatus, given))
    group = anyio.create_task_group()
    replays = _Replays(workflow, patience, report, group)
    reader = Reader(workflow.name, thread_id, statuses, replays.begin)
    error: Exception | None = None
    async with group:
        group.start_soon(replays.watch)
        try:
            await reader.read(history)
            await replays.finish()
        except Exception as failure:  # not in a group of one
            error = failure
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    if not replays.entries:
        raise NothingToReplay(workflow.name, reader.others)
    return ReplayReport(workflow.name, replays.in_order(), dict(reader.others))


class _Replays:
    """The runs that are being replayed, and the entries of those that have been."""

    def __init__(
        self,
        workflow: Workflow[..., Any, Any],
        patience: float,
        report: Callable[[RunReplay], object] | None,
        group: anyio.abc.TaskGroup,
    ) -> None:
        self.entries: dict[int, RunReplay] = {}
        self._workflow = workflow
        self._patience = patience
        self._report = report
        self._group = group
        self._begun = 0
        self._active: dict[int, Rehearsal | None] = {}
        self._rows = 0  # of these
        self._changed = Latch()
        self._error: Exception | None = None

    async def begin(self, recorded: RecordedRun) -> None:
        """Replay one more run, as soon as there is room. Raises what others have raised."""
        while self._active and not self._has_room(len(recorded.rows)):
            await self._next_end()
        self._active[self._begun] = None
        self._rows += len(recorded.rows)
        self._group.start_soon(self._replay, self._begun, recorded)
        self._begun += 1

    async def finish(self) -> None:
        """Wait for all that have begun. Raises what they have raised."""
        while self._active:
            await self._next_end()
        if self._error is not None:
            raise self._error

    def in_order(self) -> list[RunReplay]:
        """An entry for each run, in the order of the history."""
        return [self.entries[number] for number in sorted(self.entries)]

    def _has_room(self, rows: int) -> bool:
        return len(self._active) < MOST_RUNS and self._rows + rows <= MOST_ROWS

    async def _next_end(self) -> None:
        await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def watch(self) -> None:
        """Look at all of them: one timer serves hundreds. Unwind them when this is cancelled."""
        try:
            while True:
                await anyio.sleep(LOOK_INTERVAL)
                now = anyio.current_time()
                for rehearsal in self._rehearsals():
                    rehearsal.look(now)
        finally:
            for rehearsal in self._rehearsals():
                rehearsal.unwind()

    def _rehearsals(self) -> list[Rehearsal]:
        return [each for each in self._active.values() if each is not None]

    async def _replay(self, number: int, recorded: RecordedRun) -> None:
        try:
            entry = await self._entry_of(number, recorded)
            self.entries[number] = entry
            if self._report is not None:
                self._report(entry)
        except Exception as error:
            self._error = self._error or error
        finally:
            del self._active[number]
            self._rows -= len(recorded.rows)
            changed, self._changed = self._changed, Latch()
            changed.set_result()

    async def _entry_of(self, number: int, recorded: RecordedRun) -> RunReplay:
        row = recorded.row
        if row.status == RunStatus.CANCELLED:
            return skipped(row, "it was cancelled, and is never continued")
        rehearsal = Rehearsal(recorded, self._workflow, self._patience)
        self._active[number] = rehearsal
        return await rehearsal.perform()
