"""How recorded calls are forgotten, replaced and copied.

What drops or changes a call drops the calls that it was made by as well, up to the run itself:
their results came of its. The run is open again if it is its thread's latest and has succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from taskflow.errors import CheckpointCorrupt, RunNotFound
from taskflow.records import RunStatus
from taskflow.stores.checksums import COVERED, checkpoint_checksum, covered_signal, run_checksum
from taskflow.stores.kinds import RESULT, SIGNAL, WAIT, wait_id
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.stores.tables import Tables
from taskflow.stores.transitions import reopened

__all__ = ("checksum_on", "forget", "left_out", "replace", "replaced")


def forget(tables: Tables, thread_id: str, task_id: str) -> bool:
    """Drop a recorded call and the calls that it was made by; false where there is none."""
    try:
        run_id, chain = _calls_up_from(tables, thread_id, task_id)
    except RunNotFound:
        return False

    for each in chain:
        tables.checkpoints.drop(thread_id, each)
    _reopen(tables, thread_id, run_id)
    return True


def replace(tables: Tables, thread_id: str, task_id: str, payload: bytes) -> bool:
    """Write another result of a recorded call; false where there is none."""
    try:
        run_id, (_, *callers) = _calls_up_from(tables, thread_id, task_id)
    except RunNotFound:
        return False

    if not tables.checkpoints.replace_result(thread_id, run_id, task_id, payload):
        return False
    for each in callers:
        tables.checkpoints.drop(thread_id, each)
    _reopen(tables, thread_id, run_id)
    return True


def left_out(tables: Tables, source: RunRow, without: Sequence[str]) -> set[str]:
    """The ids of the rows that a fork of ``source`` without these calls does not copy.

    Raises RunNotFound for a call that ``source`` has not recorded.
    """
    ids: set[str] = set()
    for task_id in without:
        run_id, chain = _calls_up_from(tables, source.thread_id, task_id)
        if run_id != source.run_id:
            what = f"call {task_id!r} recorded by run {source.run_id!r}"
            raise RunNotFound(source.thread_id, what)
        ids.update(chain)
    return ids | {wait_id(each) for each in ids}


def replaced(checkpoint: Checkpoint, thread_id: str, run_id: str, payload: bytes) -> Checkpoint:
    """A call's row with another result."""
    signal = covered_signal(checkpoint.checksum, checkpoint.signal)
    seed = run_checksum(thread_id, run_id)
    covered = checkpoint_checksum(seed, checkpoint.task_id, RESULT, payload, signal)
    checksum = checkpoint.checksum & ~COVERED | covered
    return structs.replace(checkpoint, kind=RESULT, payload=payload, checksum=checksum)


def checksum_on(to: str, thread_id: str, row: CheckpointRow) -> int:
    """The checksum of a row when it stands on the thread ``to``. Raises CheckpointCorrupt."""
    each = row.verified(thread_id).checkpoint
    seed = run_checksum(to, row.run_id)
    signal = covered_signal(each.checksum, each.signal)
    moved = checkpoint_checksum(seed, each.task_id, each.kind, each.payload, signal)
    return each.checksum & ~COVERED | moved


def _calls_up_from(tables: Tables, thread_id: str, task_id: str) -> tuple[str, list[str]]:
    """The run that has recorded a call, and the recorded calls from that one up to the run itself.

    Raises RunNotFound where it is not recorded, or is a signal or a deadline, and
    CheckpointCorrupt where its run or its callers are not known.
    """
    found = tables.checkpoints.row(thread_id, task_id)
    if found is None or found.checkpoint.kind in (SIGNAL, WAIT):
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")

    run_id = found.run_id
    if tables.runs.run(thread_id, run_id) is None:
        raise CheckpointCorrupt(thread_id, run_id, None, f"no run has recorded {task_id}")
    chain: list[str] = []
    next_id: str | None = task_id
    while next_id is not None and found is not None and next_id not in chain:
        chain.append(next_id)
        if not found.checkpoint.has_sound_details:
            raise CheckpointCorrupt(thread_id, run_id, None, f"the caller of {next_id} is lost")
        next_id = found.checkpoint.parent_id
        found = None if next_id is None else tables.checkpoints.row(thread_id, next_id)
    return run_id, chain


def _reopen(tables: Tables, thread_id: str, run_id: str) -> None:
    latest = tables.runs.latest(thread_id)
    if latest and latest.run_id == run_id and latest.status == RunStatus.SUCCESS:
        tables.runs.update(reopened(latest.verified()))
