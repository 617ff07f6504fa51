"""What `forget`, `replace` and `fork` make of recorded calls."""

from __future__ import annotations

from taskflow.stores.checksums import COVERED, checkpoint_checksum, covered_signal, run_checksum
from taskflow.stores.rows import CheckpointRow

__all__ = ("checksum_on",)


def checksum_on(to: str, thread_id: str, row: CheckpointRow) -> int:
    """The checksum of a row when it stands on the thread ``to``. Raises CheckpointCorrupt."""
    each = row.verified(thread_id).checkpoint
    seed = run_checksum(to, row.run_id)
    signal = covered_signal(each.checksum, each.signal)
    moved = checkpoint_checksum(seed, each.task_id, each.kind, each.payload, signal)
    return each.checksum & ~COVERED | moved
