"""Which runs `prune` deletes, and which of them leave their row behind for `previous`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from taskflow.records import RunStatus

__all__ = ("Outline", "Prune", "prunable")


class Prune(Struct, frozen=True):
    """Which runs and shared results are to be deleted."""

    statuses: tuple[str, ...]
    before: float  # those that have finished earlier
    keep_last: int  # so many of the latest runs of each thread stay
    now: float  # and shared results that have expired by then


class Outline(Struct, frozen=True):
    """The columns of a run that decide whether it is pruned."""

    number: int
    run_id: str
    epoch: int
    status: str
    finished: float | None
    owner: str | None
    has_saved: bool  # a value for `previous`
    has_rows: bool  # checkpoints


def prunable(runs: Sequence[Outline], ask: Prune) -> list[tuple[Outline, bool]]:
    """Which of a thread's runs (oldest first) are to be deleted.

    True beside those whose row stays, without its calls, because `previous` needs it: a successful
    run before one that stays; and the latest successful one, if any run of the thread stays, or if
    it was given a value to save for a later one.
    """
    last = len(runs) - ask.keep_last
    doomed = [
        index < last
        and run.status in ask.statuses
        and run.owner is None
        and run.finished is not None
        and run.finished < ask.before
        for index, run in enumerate(runs)
    ]
    needed: set[int] = set()
    success: int | None = None
    for index, run in enumerate(runs):
        if success is not None and not doomed[index]:
            needed.add(success)
        if run.status == RunStatus.SUCCESS:
            success = index
    if success is not None and (runs[success].has_saved or not all(doomed)):
        needed.add(success)
    return [(run, index in needed) for index, run in enumerate(runs) if doomed[index]]
