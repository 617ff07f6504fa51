"""Which run a signal goes to, and the row that it becomes there."""

from __future__ import annotations

from taskflow.stores.batches import Signal
from taskflow.stores.checksums import checkpoint_checksum, details_checksum, run_checksum
from taskflow.stores.kinds import SIGNAL
from taskflow.stores.rows import Checkpoint, RunRow

__all__ = ("signal_row",)


def signal_row(signal: Signal, run: RunRow) -> Checkpoint:
    """The row of a signal in the run that it goes to."""
    return Checkpoint(
        run.number,
        run.epoch,
        signal.task_id,
        None,
        signal.name,
        SIGNAL,
        signal.payload,
        None,
        0,
        signal.now,
        signal.now,
        checkpoint_checksum(
            run_checksum(run.thread_id, run.run_id), signal.task_id, SIGNAL, signal.payload
        )
        | details_checksum(None, signal.name, None, 0, signal.now, signal.now, None),
    )
