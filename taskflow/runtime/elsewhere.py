"""What other runtimes have made of a run that sleeps here: they may have ended or deleted it."""

from __future__ import annotations

from typing import Protocol

from taskflow.errors import CheckpointCorrupt, RunCancelled, RunNotFound
from taskflow.records import RunStatus, Wait
from taskflow.stores.base import Store
from taskflow.stores.rows import RunRow
from taskflow.wire import failures
from taskflow.wire.pauses import decode_waits

__all__ = ("Sleeper", "settle", "waits_of")


class Sleeper(Protocol):
    """An execution that may be asleep."""

    @property
    def thread_id(self) -> str: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def is_asleep(self) -> bool: ...
    def end(self, error: BaseException) -> None: ...
    def answer(self, payload: bytes) -> None: ...


async def settle(sleeper: Sleeper, store: Store) -> None:
    """End a sleep if the run has ended elsewhere. Raises StoreError."""
    damage: CheckpointCorrupt | None = None
    row: RunRow | None = None
    try:
        row = await store.run(sleeper.thread_id, sleeper.run_id)
    except CheckpointCorrupt as error:
        damage = error
    if not sleeper.is_asleep:  # it was woken or ended meanwhile
        return
    if damage is not None:
        sleeper.end(damage)
    elif row is None:
        sleeper.end(RunNotFound(sleeper.thread_id))
    elif row.status == RunStatus.CANCELLED:
        sleeper.end(RunCancelled(sleeper.thread_id, row.run_id))
    elif row.status == RunStatus.ERROR:
        sleeper.end(failures.rebuild(failures.Failure.parse(row.error or b"{}")))
    elif row.status == RunStatus.SUCCESS:
        sleeper.answer(row.verified().result or b"null")


async def waits_of(thread_id: str, run_id: str | None, store: Store) -> list[Wait]:
    """What a paused run waits for. Raises StoreError."""
    row = await store.run(thread_id, run_id)
    return decode_waits(None if row is None else row.waits)
