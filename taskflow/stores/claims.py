"""Who may own a run: the decision on a claim, and what the claim becomes.

Only `decide` says what a claim may have; `check_idle` and `is_recoverable` say when a run is free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, TypeAlias

from msgspec import structs

from taskflow.errors import (
    HistoryMismatch,
    RunCancelled,
    RunNotFound,
    RunUnfinished,
    TaskflowError,
    ThreadBusy,
)
from taskflow.records import RunStatus
from taskflow.stores.base import BLOCK_RUN_ID
from taskflow.stores.batches import Claim, Claimed
from taskflow.stores.rows import RunRow
from taskflow.stores.tables import Tables
from taskflow.stores.transitions import cancelled, continued

__all__ = (
    "Decision",
    "answers",
    "check_idle",
    "decide",
    "is_recoverable",
    "unknown_workflows",
)

Decision: TypeAlias = Literal["new", "continue", "answer", "supersede"]


def answers(claims: Sequence[Claim], tables: Tables) -> list[Claimed | Exception]:
    """Apply the claims of a batch; the answer to each, which is an exception if turned down."""
    heads = tables.runs.heads(list({claim.thread_id for claim in claims}))
    found: list[Claimed | Exception] = []
    beginning: dict[str, tuple[int, Claimed]] = {}
    for index, claim in enumerate(claims):
        thread_id = claim.thread_id
        try:
            if thread_id in beginning:
                raise ThreadBusy(thread_id, "a run begins on it at this moment")
            claimed = _answer(claim, heads.get(thread_id), tables)
        except TaskflowError as error:
            found.append(error)
            continue
        found.append(claimed)
        if claimed.is_new:
            beginning[thread_id] = index, claimed
        elif not claimed.is_answer:
            heads[thread_id] = claimed.row
    if beginning:
        begun = tables.runs.begin([claimed.row for _, claimed in beginning.values()])
        for row, (index, claimed) in zip(begun, beginning.values(), strict=True):
            found[index] = structs.replace(claimed, row=row)
    return found


def _answer(claim: Claim, head: RunRow | None, tables: Tables) -> Claimed:
    if head is None:
        tables.runs.check_absent(claim.thread_id)
        known = None
    elif claim.run_id in (None, head.run_id):
        known = None if claim.run_id is None else head
    else:
        known = tables.runs.run(claim.thread_id, str(claim.run_id))
    latest = head and head.verified()
    decision = decide(claim, latest, known and known.verified(), tables.is_gone)
    held = known or latest
    if decision == "answer" and held is not None:
        return Claimed(held, None, is_answer=True)
    superseded = latest if decision == "supersede" else None
    if held is None or decision == "new" or held is superseded:
        return _begun(claim, latest, tables, superseded)
    return _continued(claim, held, tables, superseded)


def _begun(
    claim: Claim, latest: RunRow | None, tables: Tables, superseded: RunRow | None
) -> Claimed:
    """A new run, which has no number yet."""
    if latest is None:
        return Claimed(claim.new_row(0, 1), None, is_new=True)

    sequence = latest.sequence
    if superseded is not None:  # it may have been continued after others had ended
        sequence = tables.runs.last_sequence(latest.thread_id)
    row = claim.new_row(0, sequence + 1)
    previous = _saved_before(row, tables)
    ended = _cancelled(superseded, claim, tables)
    return Claimed(row, previous, is_new=True, superseded=ended)


def _continued(claim: Claim, held: RunRow, tables: Tables, superseded: RunRow | None) -> Claimed:
    previous = _saved_before(held, tables)  # before anything is written: it may be damaged
    row = continued(held, claim, lambda: tables.checkpoints.latest_of(held))
    ended = _cancelled(superseded, claim, tables)
    tables.runs.update(row)
    last_signal = tables.checkpoints.last_signal(row)
    signals = tables.checkpoints.waiting_signals(row) if last_signal else ()
    return Claimed(
        row,
        previous,
        signals=signals,
        last_signal=last_signal,
        waits=held.waits,
        superseded=ended,
    )


def _cancelled(superseded: RunRow | None, claim: Claim, tables: Tables) -> str | None:
    """End the run that is superseded, if there is one; its id."""
    if superseded is None:
        return None
    tables.runs.update(cancelled(superseded, claim.now))
    return superseded.run_id


def _saved_before(row: RunRow, tables: Tables) -> bytes | None:
    """What the latest successful run before this one has saved: its result, if nothing else."""
    earlier = tables.runs.previous(row)
    if earlier is None:
        return None
    earlier.verified()
    return earlier.result if earlier.saved is None else earlier.saved


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
        if latest is None or known.is_open or not latest.is_open:
            return "continue"
        return _superseding(claim, latest, is_gone)  # it has failed, and another run is open

    _check_may_begin(claim, latest)
    if latest is None:
        return "new"
    is_same = claim.run_id is None and latest.fingerprint == claim.fingerprint
    if not latest.is_open:
        return _after_end(latest) if is_same and not claim.fresh else "new"
    _check_workflow(latest)
    if is_same and not (claim.fresh and claim.supersede):
        _check_free(claim, latest, is_gone, same_run=True)
        return "continue"
    return _superseding(claim, latest, is_gone)


def _after_end(latest: RunRow) -> Decision:
    """What becomes of a claim whose equal run was the thread's latest, and has ended."""
    if latest.status == RunStatus.SUCCESS:
        return "answer"
    return "continue" if latest.status == RunStatus.ERROR else "new"


def _superseding(claim: Claim, latest: RunRow, is_gone: Callable[[str], bool]) -> Decision:
    """Supersede the open run in the way of a claim. Raises ThreadBusy or RunUnfinished."""
    _check_free(claim, latest, is_gone, same_run=False)
    if claim.supersede:
        return "supersede"
    raise RunUnfinished(
        latest.thread_id,
        latest.run_id,
        f"{latest.workflow} with the input {_shown(latest.input)}; run it again to finish it, or "
        "pass supersede=True to cancel it for this one",
    )


def _check_same(claim: Claim, known: RunRow) -> None:
    """Raise unless the named run is the one that was looked at, of the same call, and not ended."""
    if claim.epoch not in (None, known.epoch) and known.status != RunStatus.SUCCESS:
        raise ThreadBusy(
            known.thread_id,
            f"run {known.run_id!r} was claimed by another runtime meanwhile",
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
    return value.decode().rstrip()[:500]


def check_idle(latest: RunRow | None, owner: str | None, is_gone: Callable[[str], bool]) -> None:
    """Raise ThreadBusy while any owner but ``owner`` executes a thread's latest run."""
    if latest is None or latest.owner in (None, owner) or is_gone(str(latest.owner)):
        return

    raise ThreadBusy(latest.thread_id, f"run {latest.run_id!r} is executed by {latest.owner}")


def is_recoverable(row: RunRow, now: float, is_gone: Callable[[str], bool]) -> bool:
    """Whether recovery may continue a run: it is due, or its owner is gone."""
    if row.is_final:
        return False
    if row.owner is not None:
        return is_gone(row.owner)
    return row.due is not None and row.due <= now


def unknown_workflows(names: Collection[str], known: Sequence[str]) -> list[str]:
    """The names of recoverable runs' workflows that are not known; blocks have the name ``""``."""
    return sorted({*names} - {*known, ""})
