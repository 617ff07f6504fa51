"""`DriftGate`: where a rerun with ``on_drift="error"`` holds its new calls.

Only this module decides that the code has drifted from what is recorded: the run is idle, new calls
wait here, and recorded calls of the run's own body were not asked for. Nothing new executes before
that is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from taskflow.errors import HistoryMismatch
from taskflow.loops.loop import Loop
from taskflow.loops.promises import Latch
from taskflow.runs.activity import Activity, Executing, again
from taskflow.runs.recorded import RecordedOutcomes
from taskflow.stores.base import Store

__all__ = ("DriftGate",)

LOOK_AFTER: Final = 0.1  # seconds without any change, after which a run is idle


class DriftGate:
    """Holds new calls of a rerun until all that is recorded was asked for."""

    opens = True

    def __init__(
        self, activity: Activity, recorded: RecordedOutcomes, store: Store, loop: Loop
    ) -> None:
        self._activity = activity
        self._recorded = recorded
        self._store = store
        self._loop = loop
        self._waiting: dict[str, str | None] = {}  # the arguments of calls, by their id
        self._open = Latch()
        self._watcher: object = None

    async def wait(self, call: Executing) -> None:
        """Wait until nothing recorded is left to be asked for.

        Raises HistoryMismatch when the run is idle before that.
        """
        self._waiting[call.id] = call.shown_arguments()
        if self._watcher is None:
            # A task of its own: no caller's cancellation may leave the others waiting.
            self._watcher = self._loop.spawn(self._watch)
        try:
            await self._open
        except HistoryMismatch as error:
            raise again(error) from None
        finally:
            del self._waiting[call.id]

    async def _watch(self) -> None:
        activity, recorded = self._activity, self._recorded
        counts, executing = activity.counts, activity.executing
        seen: object = None
        while unasked := sum(row.parent_id is None for row in recorded.unasked.values()):
            # Idle: what executes is what waits here, and nothing was asked, began or ended.
            now = unasked, counts.replayed, counts.executed, sorted(executing)
            if activity.has_ended or activity.unwinding:
                break
            if now == seen and executing.keys() <= self._waiting.keys():
                error = await self._mismatch(self._waiting.items())
                activity.break_off(error)
                self._open.set_exception(error)
                return
            seen = now
            await anyio.sleep(LOOK_AFTER)
        activity.gate = None
        self._open.set_result()

    async def _mismatch(self, asked: Iterable[tuple[str, str | None]]) -> HistoryMismatch:
        """The error that shows what is recorded beside what is asked."""
        row = self._activity.row
        unused = {row.task_id for row in self._recorded.unused() if row.parent_id is None}
        kept = await self._store.checkpoints(row.thread_id, row.run_id)
        recorded = "\n".join(
            f"  recorded: {each.checkpoint.task_id} {each.checkpoint.arguments or ''}"
            for each in kept
            if each.checkpoint.task_id in unused
        )
        wanted = "\n".join(f"  asked:    {call_id} {shown or ''}" for call_id, shown in asked)
        return HistoryMismatch(
            row.thread_id,
            f"run {row.run_id!r} asks for calls that are not recorded, and does not ask for "
            f"recorded ones; nothing new was executed\n{recorded}\n{wanted}\nrun the code that "
            'recorded it, or accept the change with on_drift="log", or begin anew on another '
            "thread",
        )
