"""Which run a signal goes to: its thread's latest run, unless that is final; once for each id.

A failed run gets signals for the time when it is continued. A signal whose id is on the thread
already is not written again, but where its run has ended before any call took it, it moves to the
latest run. A run without an owner that gets one is due at once.
"""

from __future__ import annotations

from taskflow.errors import CheckpointCorrupt, RunNotFound
from taskflow.records import RunStatus
from taskflow.stores.batches import Sent, Signal
from taskflow.stores.checksums import checkpoint_checksum, details_checksum, run_checksum
from taskflow.stores.kinds import SIGNAL
from taskflow.stores.rows import Checkpoint, RunRow
from taskflow.stores.tables import Runs, Tables

__all__ = ("answer", "signal_row")


def answer(signal: Signal, tables: Tables) -> Sent | Exception:
    """Send a signal; the run that has it, or the error that its sender is to get."""
    try:
        return _send(signal, tables)
    except (CheckpointCorrupt, RunNotFound) as error:
        return error


def _send(signal: Signal, tables: Tables) -> Sent:
    thread_id = signal.thread_id
    runs, checkpoints = tables.runs, tables.checkpoints
    known = checkpoints.place_of(thread_id, signal.task_id)
    run = _receiver(thread_id, runs)
    if known is not None:
        run_id, sequence = known
        is_here = run is not None and run.run_id == run_id
        if is_here or checkpoints.is_taken(thread_id, signal.task_id):
            held = runs.run(thread_id, run_id)
            return Sent(run_id, held.workflow if held else "", sequence, 0, False)
    if run is None:
        raise RunNotFound(thread_id, "unfinished run")

    if known is not None:  # its run has ended before a call took it
        checkpoints.drop(thread_id, signal.task_id)
    previous = checkpoints.last_signal(run)
    sequence = checkpoints.add_signal(run, signal_row(signal, run))
    # Also a run whose caller went away before it paused: it waits as a paused one does.
    if run.owner is None and run.status in (RunStatus.PAUSED, RunStatus.RUNNING):
        runs.make_due(run)
    return Sent(run.run_id, run.workflow, sequence, previous, True)


def _receiver(thread_id: str, runs: Runs) -> RunRow | None:
    """The run that a signal goes to, if there is one. Raises CheckpointCorrupt."""
    latest = runs.latest(thread_id)
    if latest is None:
        runs.check_absent(thread_id)
        return None
    return None if latest.verified().is_final else latest


def signal_row(signal: Signal, run: RunRow) -> Checkpoint:
    """The row of a signal in the run that it goes to."""
    seed = run_checksum(run.thread_id, run.run_id)
    return Checkpoint(
        number=run.number,
        epoch=run.epoch,
        task_id=signal.task_id,
        parent_id=None,
        name=signal.name,
        kind=SIGNAL,
        payload=signal.payload,
        arguments=None,
        attempts=0,
        started=signal.now,
        finished=signal.now,
        checksum=checkpoint_checksum(seed, signal.task_id, SIGNAL, signal.payload)
        | details_checksum(None, signal.name, None, 0, signal.now, signal.now, None),
    )
