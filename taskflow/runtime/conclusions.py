"""What is committed about a run when its body has ended, and why nothing more may start in it."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Final

from msgspec import structs

from taskflow.errors import (
    CheckpointCorrupt,
    HistoryMismatch,
    LeaseLost,
    RunCancelled,
    RunUnfinished,
    StoreError,
)
from taskflow.records import RunStatus
from taskflow.runs.run import Run
from taskflow.runtime.body import Ending
from taskflow.runtime.waiters import Waiters
from taskflow.stores.batches import Finish
from taskflow.wire import failures
from taskflow.wire.pauses import decode_waits

__all__ = ("Cause", "Conclusion", "interrupted", "retry_time")


STORE_RETRY: Final = 1.0  # seconds after which a run is continued that the store has failed


class Cause(IntEnum):
    """Why nothing more may start in a round. A higher cause takes the place of a lower one."""

    NONE = 0
    LEFT = 1  # the last waiter has left
    CLOSING = 2  # the runtime, its event loop or the process ends
    PAUSED = 3  # the run is idle; only a round without any other cause is paused
    BROKEN = 4  # a commit has failed; the body is not cancelled, and its next call raises
    LOST = 5  # another owner has the run, or it was ended, or it cannot be read any more
    CANCELLED = 6  # `RunHandle.cancel` or `Runtime.cancel`: the run is ended for good

    @property
    def is_unwinding(self) -> bool:
        """Whether newcomers wait for the end of the round, instead of joining it."""
        return self not in (Cause.NONE, Cause.PAUSED, Cause.BROKEN)


class Conclusion:
    """Decides how a round ends, by the cause that has stopped it and what its body came to.

    ``due`` is when recovery continues a run that is released. ``is_automatic``: nobody asked for
    this round.
    """

    def __init__(
        self, run: Run, now: float, due: float | None, waiters: Waiters, *, is_automatic: bool
    ) -> None:
        self.release = Finish(run.key, RunStatus.RUNNING, now, due=due)
        self._run = run
        self._waiters = waiters
        self._is_automatic = is_automatic

    def of(self, cause: Cause, ending: Ending) -> Ending:
        """How the round ends, for every cause but a pause."""
        run, error = self._run, ending.error
        if cause is Cause.CANCELLED:
            finish = Finish(run.key, RunStatus.CANCELLED, self.release.now)
            return Ending(finish, error=RunCancelled(run.thread_id, run.run_id))
        if cause >= Cause.BROKEN:
            assert run.broken is not None
            return Ending(self.cut_off_by(run.broken), error=run.broken)
        if cause is not Cause.NONE:
            # What the workflow has returned or raised while it was unwound is discarded.
            if error is None or isinstance(error, asyncio.CancelledError | Exception):
                error = interrupted(run.thread_id, run.run_id)
            return Ending(self.release, error=error)
        if ending.finish.status == RunStatus.RUNNING and error is not None:
            return Ending(self.cut_off_by(error), error=error)
        return ending

    def cut_off_by(self, error: BaseException) -> Finish:
        """The finish of a round that ``error`` has cut off, which is not the workflow's own."""
        run, release = self._run, self.release
        if isinstance(error, StoreError) and not isinstance(error, CheckpointCorrupt):
            if not (self._is_automatic or self._waiters.patient):
                return release  # nobody is there for whom recovery could continue it
            takeovers = run.row.takeovers
            due = retry_time(release.now, takeovers)
            return structs.replace(release, due=due, takeovers=takeovers)
        if isinstance(error, LeaseLost | RunCancelled) or not isinstance(error, Exception):
            return release
        if self._is_automatic:  # it would be tried again and again, with the same result
            return self._failed_by(error)
        if run.waiting.pause_before is not None and not run.activity.counts.executed:
            # It was paused, and the code or the input does not fit it: so it stays.
            deadlines = (each.deadline for each in decode_waits(run.waiting.pause_before))
            return structs.replace(
                release,
                status=RunStatus.PAUSED,
                waits=run.waiting.pause_before,
                due=min((each for each in deadlines if each is not None), default=None),
                last_signal=run.signals.inbox.latest,
            )
        if isinstance(error, HistoryMismatch | CheckpointCorrupt):
            return release
        # What the workflow is given or gives cannot be recorded: it has failed, before or after.
        return self._failed_by(error)

    def _failed_by(self, error: Exception) -> Finish:
        recorded = failures.record(error).encode()
        return structs.replace(self.release, status=RunStatus.ERROR, error=recorded, due=None)


def retry_time(now: float, takeovers: int) -> float:
    """When to continue a run that the store has failed: it may be well again by then."""
    return now + STORE_RETRY * 2.0**takeovers


def interrupted(
    thread_id: str,
    run_id: str | None,
    reason: str = "it was interrupted, as its runtime was closed or drained",
) -> RunUnfinished:
    """The error of whoever still waits for a run that was unwound."""
    return RunUnfinished(thread_id, run_id or "", f"{reason}; run it again to continue")
