"""How a batch is applied: in which order, and which of its writes are refused.

A write carries its run's number and epoch. Where the run has another epoch by now, or is not
running any more, that write is refused, and only that: ``Committed.refused`` names the run. A store
that writes many rows in one statement sees by their number that some were refused: `note_refused`
looks up which.
"""

from __future__ import annotations

from collections.abc import Iterable

from taskflow.records import RunStatus
from taskflow.stores import claims, signals
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.tables import Refused, Runs, Tables

__all__ = ("apply", "is_current", "note_refused")


def apply(batch: Batch, tables: Tables) -> Committed:
    """Write a batch, in the caller's transaction."""
    refused: Refused = {}
    sequences = tables.checkpoints.insert(batch.checkpoints, refused) if batch.checkpoints else ()
    if batch.cached:
        tables.put_cached(batch.cached)
    for unrecord in batch.unrecords:
        key = unrecord.key
        if is_current(key.number, key.epoch, tables.runs.standing(key.number), refused):
            tables.checkpoints.unrecord(key, unrecord.task_ids)
    if batch.finishes:
        tables.finish(batch.finishes, refused)
    answers = claims.answers(batch.claims, tables) if batch.claims else []
    sent = [signals.answer(each, tables) for each in batch.signals] if batch.signals else []
    return Committed(refused, answers, sent, sequences)


def is_current(number: int, epoch: int, now: tuple[int, str] | None, refused: Refused) -> bool:
    """Whether a run whose epoch and status are ``now`` accepts a write; if not, that is noted."""
    if now is not None and now[0] == epoch and now[1] == RunStatus.RUNNING:
        return True

    refused[number, epoch] = now[1] if now else RunStatus.CANCELLED
    return False


def note_refused(writes: Iterable[tuple[int, int]], runs: Runs, refused: Refused) -> None:
    """Look up which of these writes, given by number and epoch, were refused."""
    for number, epoch in writes:
        is_current(number, epoch, runs.standing(number), refused)
