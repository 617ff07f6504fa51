"""`RecordedOutcomes`: what a rerun is answered from, and what it has left unused.

Only this module decides whether a call is answered from a record: its id is recorded, and was not
asked for yet in this attempt of the body around it. A row is verified when it is loaded, and
decoded when it is asked for.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import Final

from taskflow.runs.activity import Activity
from taskflow.runs.feeds import Feeds
from taskflow.stores.base import Store
from taskflow.stores.checksums import COVERED, checkpoint_checksum, covered_signal
from taskflow.stores.kinds import EMIT, ERROR, WAIT
from taskflow.stores.rows import Checkpoint, Recorded
from taskflow.wire.identity import tells_types_within

__all__ = ("RecordedOutcomes",)

logger = logging.getLogger("taskflow")

LOAD_ROWS: Final = 10_000  # in one query
SHOWN: Final = 10  # ids that the log names


class RecordedOutcomes:
    """The recorded outcomes of one run, by the id of their call."""

    __slots__ = (
        "_activity",
        "_executed",
        "_failed",
        "_feeds",
        "_kept",
        "_order",
        "_seed",
        "tells_types_within",
        "unasked",
    )

    def __init__(self, activity: Activity, feeds: Feeds) -> None:
        self.unasked: dict[str, Recorded] = {}  # by this execution, as yet
        self.tells_types_within = tells_types_within(activity.row.input)  # in ids of calls
        self._kept: dict[str, Recorded] = {}  # for further attempts of bodies that asked for them
        self._failed: dict[str, int] = {}  # recorded failures, in the order of their commits
        self._executed: set[str] = set()  # calls that executed while something was unasked
        self._order = count(2**62)  # of what is kept here: after everything that was loaded
        self._activity = activity
        self._feeds = feeds
        self._seed = activity.seed

    async def load(self, store: Store) -> tuple[dict[str, Recorded], set[str]]:
        """Read what is recorded of the run. Raises StoreError.

        The rows of deadlines, by their id, are the caller's; so are the ids of signals taken.
        """
        deadlines: dict[str, Recorded] = {}
        taken: set[str] = set()
        last = 0
        while True:
            rows = await store.load(self._activity.row, last, LOAD_ROWS)
            for row in rows:
                # All of them, before anything executes: what has lost its id would be missed.
                self._verify(row)
                if row.signal is not None:
                    taken.add(row.signal)
                if row.kind == WAIT:
                    deadlines[row.task_id] = row
                    continue
                self.unasked[row.task_id] = row
                if row.kind == ERROR:
                    self._failed[row.task_id] = row.sequence
            if len(rows) < LOAD_ROWS:
                return deadlines, taken
            last = rows[-1].sequence

    def recall(self, call_id: str, keeps: bool) -> Recorded | None:
        """The recorded outcome of a call, if there is one.

        ``keeps``: the body that asks, or one around it, may be attempted again, and ask again.
        """
        row = self.unasked.pop(call_id, None)
        if keeps:
            if row is None:
                row = self._kept.get(call_id)
            else:
                self._kept[call_id] = row
        if row is None:
            return None

        activity = self._activity
        activity.counts.replayed += row.kind != EMIT
        feeds = self._feeds.threads
        if feeds and (feed := feeds.get(activity.row.thread_id)) is not None:
            feed.replayed(activity.row.run_id, row)
        return row

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep what was just recorded, for another attempt of a body around the call."""
        order = next(self._order)
        if checkpoint.kind == ERROR:
            self._failed[checkpoint.task_id] = order
        self._kept[checkpoint.task_id] = Recorded(
            order,
            checkpoint.task_id,
            checkpoint.parent_id,
            checkpoint.kind,
            checkpoint.payload,
            checkpoint.checksum,
        )

    def note_executed(self, call_id: str) -> None:
        """This call executes, and what is recorded of calls in its body may be asked for."""
        self._executed.add(call_id)

    def drop(self, task_id: str) -> None:
        """Forget an outcome, so that the next attempt executes the call again."""
        self._kept.pop(task_id, None)
        self.unasked.pop(task_id, None)
        self._failed.pop(task_id, None)

    def failed_calls(self, name: str) -> dict[str, int]:
        """The recorded failures of the calls of one task, with the order of their commits."""
        return {
            call_id: order
            for call_id, order in self._failed.items()
            if call_id.startswith(f"{name}:") and (call_id in self.unasked or call_id in self._kept)
        }

    def unused(self) -> list[Recorded]:
        """What is recorded, could have been asked for, and was not."""
        return [
            row
            for row in self.unasked.values()
            if row.parent_id is None or row.parent_id in self._executed
        ]

    def report_drift(self) -> None:
        """Log the recorded results that the run, which ends here, did not use."""
        unused = self.unused()
        if not unused:
            return

        names = sorted({row.task_id for row in unused})
        shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        logger.warning(
            "run %r on thread %r ended without %d of its recorded results, because the code "
            "or its inputs changed since: %s",
            self._activity.row.run_id,
            self._activity.row.thread_id,
            len(unused),
            shown,
        )

    def _verify(self, row: Recorded) -> None:
        try:
            signal = covered_signal(row.checksum, row.signal)
            expected = checkpoint_checksum(self._seed, row.task_id, row.kind, row.payload, signal)
            is_sound = row.checksum & COVERED == expected
        except (TypeError, AttributeError):  # a column holds neither text nor bytes
            is_sound = False
        if not is_sound:
            raise self._activity.damaged(row.task_id, "its checksum does not fit")
