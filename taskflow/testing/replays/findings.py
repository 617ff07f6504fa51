"""What the present code asks for that is not recorded, and does not ask for that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from taskflow.calls.emits import EmitCall
from taskflow.calls.recorded import RecordedCall
from taskflow.calls.waits import WaitCall
from taskflow.loops.promises import Latch
from taskflow.records import RunStatus, Wait
from taskflow.runs.activity import Executing
from taskflow.stores.kinds import ERROR, OUTCOMES
from taskflow.stores.rows import Checkpoint, Recorded
from taskflow.testing.replays.histories import RecordedRun
from taskflow.testing.replays.verdicts import IgnoredCall, NewCall
from taskflow.wire import failures
from taskflow.wire.json import decode_plain
from taskflow.wire.pauses import decode_waits

__all__ = ("Findings", "Hold", "find", "ignored_call", "ignored_wait", "name_of")

SHOWN: Final = 200  # characters of a result


class Hold:
    """The gate that never opens: calls of tasks, and waits, are held behind it."""

    opens = False

    def __init__(self) -> None:
        self.held: dict[str, RecordedCall[Any]] = {}  # in the order in which they were asked for
        self.asked: set[str] = set()  # every call that is not recorded and was ever asked for
        self.begun: set[str] = set()  # of these, the workflows: their bodies execute
        self._released = Latch()

    def release(self) -> None:
        """The run is unwound: so are calls whose cancellation is shielded off."""
        self._released.set_result()

    async def wait(self, call: Executing) -> None:
        """Hold a call that would wait, or execute a body other than a workflow's."""
        assert isinstance(call, RecordedCall)
        if isinstance(call, EmitCall):
            return
        self.asked.add(call.id)
        if call.definition.is_workflow:
            self.begun.add(call.id)
            return
        self.held[call.id] = call
        call.is_held = True
        try:
            await self._released.wait()
        finally:
            call.is_held = False
            del self.held[call.id]


class Findings(Struct, frozen=True):
    """What differs between the calls of the code and those that are recorded."""

    new: Sequence[NewCall] = ()  # asked for, and not recorded
    waits: frozenset[str] = frozenset()  # ids of those of them that wait
    unasked: Sequence[Checkpoint] = ()  # recorded, and not asked for
    open_waits: Sequence[Wait] = ()  # what the paused run waited for, and does no more
    note: str = ""  # why nothing moves, where no call holds it up

    @property
    def leaves_something_out(self) -> bool:
        """Whether the code does without anything that is recorded."""
        return bool(self.unasked or self.open_waits)


def find(
    recorded: RecordedRun, hold: Hold, unasked: Sequence[Recorded], note: str = ""
) -> Findings:
    """Compare what ``hold`` has seen, as it is now, with what is recorded.

    ``unasked``: the recorded calls that the code has not asked for. Later the calls that are cut
    off have dropped their arguments.
    """
    calls = {each.checkpoint.task_id: each.checkpoint for each in recorded.rows}
    unasked = [row for row in unasked if row.kind in OUTCOMES]
    left_out = [row for row in unasked if row.parent_id is None or row.parent_id in hold.begun]
    if recorded.row.status != RunStatus.SUCCESS:
        left_out += _left_behind(calls, hold, unasked)
    return Findings(
        new=[_new_call(each) for each in hold.held.values()],
        waits=frozenset(each.id for each in hold.held.values() if isinstance(each, WaitCall)),
        unasked=[calls[row.task_id] for row in left_out],
        open_waits=_open_waits(recorded, calls, hold),
        note=note,
    )


def _left_behind(
    calls: dict[str, Checkpoint], hold: Hold, unasked: Sequence[Recorded]
) -> list[Recorded]:
    """Calls of a child workflow that had not ended, and is not asked for any more.

    While another one of its name is begun. What the losing arm of a race has left looks alike, but
    something was recorded after it.
    """
    names = {name_of(each) for each in hold.begun}
    if not names:
        return []
    order = {task_id: place for place, task_id in enumerate(calls)}
    direct = (
        order[each.task_id]
        for each in calls.values()
        if each.parent_id is None and each.kind in OUTCOMES
    )
    last = max(direct, default=-1)
    return [
        row
        for row in unasked
        if row.parent_id is not None
        and row.parent_id not in calls
        and row.parent_id not in hold.asked
        and name_of(row.parent_id) in names
        and order[row.task_id] > last
    ]


def _open_waits(recorded: RecordedRun, calls: dict[str, Checkpoint], hold: Hold) -> list[Wait]:
    """What the paused run waited for, and does not wait for any more."""
    if recorded.row.status != RunStatus.PAUSED:
        return []
    known = hold.asked | calls.keys()
    tasks = {each.id for each in hold.held.values() if not isinstance(each, WaitCall)}
    names = {name_of(each) for each in tasks}

    def is_missing(wait: Wait) -> bool:
        if wait.task_id in known:
            return False
        if wait.parent_id is None or wait.parent_id in hold.begun:
            return True
        if wait.parent_id in known:
            return False
        # A task that is held may hide it, unless it is the one of that name.
        return not tasks or name_of(wait.parent_id) in names

    return [each for each in decode_waits(recorded.row.waits) if is_missing(each)]


def _new_call(call: RecordedCall[Any]) -> NewCall:
    try:
        shown = call.shown_arguments()
    except Exception:  # what is no call of that function is told when it executes
        shown = None
    arguments = None if shown is None else decode_plain(shown.encode())
    return NewCall(call.definition.name, call.id, call.frame.call_id, arguments)


def ignored_call(row: Checkpoint) -> IgnoredCall:
    """A recorded call as the report shows it."""
    arguments = None if row.arguments is None else decode_plain(row.arguments.encode())
    if row.kind == ERROR:
        outcome = failures.describe(row.payload)
    else:
        outcome = row.payload.decode(errors="replace")
    if len(outcome) > SHOWN:
        outcome = f"{outcome[: SHOWN - 1]}…"
    return IgnoredCall(row.name, row.task_id, row.parent_id, arguments, outcome)


def ignored_wait(wait: Wait) -> IgnoredCall:
    """An open wait as the report shows it."""
    told = {"name": wait.name, "prompt": wait.prompt, "type": wait.type}
    arguments = {name: each for name, each in told.items() if each is not None}
    if wait.kind == "timer":
        arguments = {"until": wait.deadline}
    return IgnoredCall(name_of(wait.task_id), wait.task_id, wait.parent_id, arguments, "")


def name_of(task_id: str) -> str:
    """The name in a task id."""
    return task_id.rpartition(":")[0]
