"""`Signals`: the signals that are sent to a run, from this process and from others.

Only this module decides when the store is asked for signals that this process does not know: a
signal is taken only when those that were sent before it are here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Final

import anyio

from taskflow.errors import CheckpointCorrupt, StoreError
from taskflow.loops.loop import Loop
from taskflow.runs.activity import Activity
from taskflow.runs.inbox import Inbox
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Sent, Signal
from taskflow.stores.rows import SignalRow

__all__ = ("Signals",)

logger = logging.getLogger("taskflow")

LOOK_AGAIN: Final = 1.0  # seconds after which signals are looked up again that could not be


class Signals:
    """The inbox of one run, and the lookups that fill it."""

    __slots__ = ("_activity", "_looking", "_looks", "_loop", "_seed", "_store", "inbox")

    def __init__(self, claimed: Claimed, activity: Activity, store: Store, loop: Loop) -> None:
        self.inbox = Inbox(claimed.signals, claimed.last_signal)
        self._activity = activity
        self._store = store
        self._loop = loop
        self._seed = activity.seed
        self._looking: object = None  # the task that does
        self._looks = 0  # lookups that are under way

    @property
    def is_looking(self) -> bool:
        """Whether signals of other processes may be there that are not known here yet."""
        return self._looks > 0

    def deliver(self, signal: Signal, sent: Sent) -> None:
        """Put a signal that was sent in this process into the inbox.

        Unless others have sent one before it that is not known here: they are taken in order.
        """
        if sent.previous != self.inbox.latest:
            self.spawn_look()
            return

        place = sent.sequence, signal.task_id, signal.name
        self.inbox.put(SignalRow(*place, signal.payload, signal.now, 0))

    async def look(self) -> None:
        """Ask the store for signals that others have sent. Raises StoreError."""
        row = self._activity.row
        rows = await self._store.signals(row.thread_id, row.run_id, self.inbox.latest)
        for each in rows:
            if each.sequence > self.inbox.latest:  # it may have come on another way meanwhile
                self._verify(each)
                self.inbox.put(each)

    def spawn_look(self) -> None:
        """Have `look` done in the background."""
        self._looks += 1
        self._looking = self._loop.spawn(self._look_until_found)

    def verify(self, waiting: Iterable[SignalRow], taken: set[str]) -> None:
        """Raise CheckpointCorrupt where one that waits is damaged, or was taken before."""
        for signal in waiting:
            self._verify(signal)
            if signal.task_id in taken:
                raise self._activity.damaged(signal.task_id, "it is waiting, and was taken before")

    def report_untaken(self) -> None:
        """Log the signals that the run, which ends here, did not take."""
        if untaken := self.inbox.untaken():
            logger.warning(
                "run %r on thread %r ended without %d signals that were sent to it: %s",
                self._activity.row.run_id,
                self._activity.row.thread_id,
                len(untaken),
                ", ".join(sorted(set(untaken))[:10]),
            )

    async def _look_until_found(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # asyncio.run() ends what is left
            while self._activity.is_open:
                try:
                    await self.look()
                    self._looks -= 1
                    return
                except StoreError as error:
                    if isinstance(error, CheckpointCorrupt):
                        self._activity.break_off(error)
                        self._activity.unwind()
                        return
                    logger.warning("signals cannot be looked up, and are again: %s", error)
                await anyio.sleep(LOOK_AGAIN)

    def _verify(self, signal: SignalRow) -> None:
        if not signal.is_sound(self._seed):
            raise self._activity.damaged(signal.task_id, "its checksum does not fit")
