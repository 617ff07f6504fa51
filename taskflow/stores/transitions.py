"""What each change of a run makes of its row.

Only these functions decide which columns change with a run's status; a store writes what they give.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from taskflow.records import RunStatus
from taskflow.stores.batches import Claim, Finish
from taskflow.stores.rows import RunRow

__all__ = ("cancelled", "continued", "ended", "forked", "reopened")


def continued(row: RunRow, claim: Claim, latest_checkpoint: Callable[[], int]) -> RunRow:
    """A run that ``claim`` continues.

    ``latest_checkpoint`` gives the sequence of the last row that the run itself has recorded. A
    take-over that finds the same one as the take-over before it has found no progress.
    """
    takeovers, mark = 0, row.mark
    if claim.takes_over:
        mark = latest_checkpoint()
        takeovers = row.takeovers + 1 if row.takeovers and mark == row.mark else 1
    return structs.replace(
        row,
        status=RunStatus.RUNNING,
        error=None,
        saved=None,
        owner=claim.owner,
        epoch=row.epoch + 1,
        started=claim.now,
        finished=None,
        waits=None,
        due=None,
        takeovers=takeovers,
        mark=mark,
    ).sealed()


def ended(row: RunRow, finish: Finish, last_signal: int) -> RunRow:
    """A run whose execution has ended: finished, paused or released.

    ``last_signal`` is the sequence of the run's latest signal: a pause that does not know of it is
    due at once.
    """
    is_late = finish.status == RunStatus.PAUSED and last_signal > finish.last_signal
    return structs.replace(
        row,
        status=finish.status,
        result=finish.result,
        error=finish.error,
        saved=finish.saved,
        owner=None,
        finished=finish.finished,
        waits=finish.waits,
        due=0.0 if is_late else finish.due,
        takeovers=finish.takeovers,
    ).sealed()


def cancelled(row: RunRow, now: float) -> RunRow:
    """A run that was cancelled: final, and writes of its former owner are refused."""
    return structs.replace(
        row,
        status=RunStatus.CANCELLED,
        owner=None,
        epoch=row.epoch + 1,
        finished=now,
        waits=None,
        due=None,
    ).sealed()


def reopened(row: RunRow) -> RunRow:
    """A run that had succeeded, and of which a call was forgotten or replaced."""
    return structs.replace(
        row, status=RunStatus.RUNNING, result=None, saved=None, finished=None
    ).sealed()


def forked(row: RunRow, to: str, *, is_whole: bool) -> RunRow:
    """A run as it begins on the thread ``to``: as it was if it had succeeded, else unfinished.

    It has no owner and is not due: recovery does not begin it.
    """
    copy = structs.replace(
        row, thread_id=to, owner=None, epoch=1, waits=None, due=None, takeovers=0, mark=0
    )
    if row.status != RunStatus.SUCCESS or not is_whole:
        copy = structs.replace(
            copy, status=RunStatus.RUNNING, result=None, error=None, saved=None, finished=None
        )
    return copy.sealed()
