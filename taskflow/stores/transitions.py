"""What each change of a run makes of its row.

Only these functions decide which columns change with a run's status; a store writes what they give.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from taskflow.records import RunStatus
from taskflow.stores.batches import Claim
from taskflow.stores.rows import RunRow

__all__ = ("cancelled", "continued", "forked", "reopened")


def continued(row: RunRow, claim: Claim, latest_checkpoint: Callable[[], int]) -> RunRow:
    """A run that ``claim`` continues.

    ``latest_checkpoint`` tells the sequence of the last row that the run itself has recorded: a
    take-over that finds it where the one before did has found no progress.
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


def cancelled(row: RunRow, now: float) -> RunRow:
    """A run that is ended for good."""
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
    """A run that had succeeded, and of which something was forgotten or replaced."""
    return structs.replace(
        row, status=RunStatus.RUNNING, result=None, saved=None, finished=None
    ).sealed()


def forked(row: RunRow, to: str, *, is_whole: bool) -> RunRow:
    """A run as it begins on the thread ``to``: as it was if it had succeeded, else unfinished.

    It never begins by itself: nobody owns it, and it is not due.
    """
    copy = structs.replace(
        row, thread_id=to, owner=None, epoch=1, waits=None, due=None, takeovers=0, mark=0
    )
    if row.status != RunStatus.SUCCESS or not is_whole:
        copy = structs.replace(
            copy, status=RunStatus.RUNNING, result=None, error=None, saved=None, finished=None
        )
    return copy.sealed()
