"""Who may have a run: the decision on a claim, by the thread's latest run and the run it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from taskflow.errors import (
    HistoryMismatch,
    RunCancelled,
    RunNotFound,
    RunUnfinished,
    ThreadBusy,
)
from taskflow.records import RunStatus
from taskflow.stores.base import BLOCK_RUN_ID
from taskflow.stores.batches import Claim
from taskflow.stores.rows import RunRow

__all__ = ("Decision", "decide")

Decision: TypeAlias = Literal["new", "continue", "answer", "supersede"]


def decide(
    claim: Claim, latest: RunRow | None, known: RunRow | None, is_gone: Callable[[str], bool]
) -> Decision:
    """What becomes of a claim, given the thread's latest run and the run that it names.

    Raises ThreadBusy, RunUnfinished, RunCancelled, RunNotFound or HistoryMismatch where it is
    turned down.
    """
    if known is not None:
        _check_same(claim, known)
        if known.status == RunStatus.SUCCESS:
            return "answer"
        _check_free(claim, known, is_gone, same_run=True)
        _check_awaited(claim, known)
        return "continue"

    _check_may_begin(claim, latest)
    if latest is None:
        return "new"
    is_same = claim.run_id is None and latest.fingerprint == claim.fingerprint
    if latest.is_final:
        return "answer" if is_same and latest.status == RunStatus.SUCCESS else "new"
    _check_workflow(latest)
    _check_free(claim, latest, is_gone, same_run=is_same)
    if is_same:
        return "continue"
    if claim.supersede:
        return "supersede"
    raise RunUnfinished(
        latest.thread_id,
        latest.run_id,
        f"{latest.workflow} with the input {_shown(latest.input)}; run it again to finish it, or "
        "pass supersede=True to cancel it and begin a new run",
    )


def _check_same(claim: Claim, known: RunRow) -> None:
    """Raise unless the named run is the one that was looked at, of the same call, and not ended."""
    if claim.epoch not in (None, known.epoch) and known.status != RunStatus.SUCCESS:
        raise ThreadBusy(
            known.thread_id,
            f"run {known.run_id!r} was claimed by somebody else meanwhile",
            same_run=True,
            run_id=known.run_id,
        )
    if known.status == RunStatus.CANCELLED:
        raise RunCancelled(known.thread_id, known.run_id)
    if known.fingerprint != claim.fingerprint:
        raise HistoryMismatch(
            known.thread_id,
            f"run {known.run_id!r} was begun by {known.workflow} with the input "
            f"{_shown(known.input)}, not by {claim.workflow} with {_shown(claim.input)}: give "
            "another input another run_id",
        )


def _check_free(
    claim: Claim, row: RunRow, is_gone: Callable[[str], bool], *, same_run: bool
) -> None:
    """Raise ThreadBusy while another owner executes the run."""
    if row.owner is None or row.owner == claim.owner or is_gone(row.owner):
        return

    raise ThreadBusy(
        row.thread_id,
        f"run {row.run_id!r} of {row.workflow or 'a thread block'} is being executed by the "
        f"runtime {row.owner}",
        same_run=same_run,
        run_id=row.run_id if same_run else None,
    )


def _check_awaited(claim: Claim, known: RunRow) -> None:
    """Raise ThreadBusy where a run has failed whose outcome elsewhere is what the claim awaits."""
    if claim.awaits and known.status == RunStatus.ERROR:
        raise ThreadBusy(
            known.thread_id,
            f"run {known.run_id!r} has failed elsewhere since it was looked at",
            same_run=True,
            run_id=known.run_id,
        )


def _check_may_begin(claim: Claim, latest: RunRow | None) -> None:
    """Raise where a claim on a run that is not there may not begin it."""
    if claim.continues:
        raise RunNotFound(claim.thread_id, f"run {claim.run_id!r}")
    if latest is not None and claim.run_id == BLOCK_RUN_ID:
        raise HistoryMismatch(
            claim.thread_id,
            "it holds runs of workflows; give Runtime.thread() blocks a thread of their own",
        )


def _check_workflow(latest: RunRow) -> None:
    """Raise RunUnfinished where the thread is used by blocks, whose run never ends."""
    if latest.run_id == BLOCK_RUN_ID:
        raise RunUnfinished(
            latest.thread_id,
            latest.run_id,
            "it is used by Runtime.thread() blocks; give workflows a thread of their own",
        )


def _shown(value: bytes) -> str:
    return value.decode()[:500]
