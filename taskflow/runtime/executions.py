"""An execution: the state machine that takes a run from its claim to its end in this runtime.

A *round* leads from a claim to the moment when the run sleeps or has ended; a run that pauses and
is woken takes several. The states:

                 ┌───────────────────────────────┐
                 ▼                               │
    ┌──────► claiming ──────► executing ──► concluding
    │           │ │ ▲             │            │ │
    │           │ │ └─── again    │            │ │
    └─ asleep ◄─┘ │               │            │ │
         │   ▲    │               │            │ │
         │   └────┼───────────────┼────────────┘ │
         ▼        ▼               ▼              ▼
                           ended

| from       | to         | when |
|------------|------------|------|
| claiming   | executing  | the store grants the claim |
| claiming   | concluding | the store grants the claim, and the round was stopped meanwhile |
| claiming   | asleep     | a woken run is executed elsewhere: its patient waiters wait for that |
| claiming   | claiming   | the same, and a signal has come since: it is claimed again |
| claiming   | ended      | the claim is refused, or answered by a run that has succeeded |
| executing  | concluding | the body has ended, by itself or because the round was stopped |
| executing  | ended      | the engine itself has failed: whoever waits is told even so |
| concluding | asleep     | a pause is committed, and somebody waits through it |
| concluding | claiming   | a pause is committed, and over already; or the run is to be cancelled |
| concluding | ended      | the end, release or pause of the run is committed or refused |
| asleep     | claiming   | a signal, a deadline, a waiter or recovery wakes it |
| asleep     | ended      | it has ended elsewhere, or the runtime ends, or nobody waits any more |

`Cause` is why nothing more may start in the round; `Conclusion` decides by it what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from enum import StrEnum
from typing import Any, Final, Protocol

import anyio
from msgspec import structs

from taskflow.calls.workflows import Workflow
from taskflow.errors import RunCancelled, RunPaused, TaskflowError, ThreadBusy
from taskflow.loops.clocks import Alarm
from taskflow.loops.promises import uninterrupted
from taskflow.records import RunStatus, Wait
from taskflow.runs.activity import again
from taskflow.runs.feeds import Feeds
from taskflow.runs.frame import FRAME
from taskflow.runs.run import Run, RunServices
from taskflow.runtime.conclusions import Cause, interrupted
from taskflow.runtime.elsewhere import settle, waits_of
from taskflow.runtime.rounds import Engine, Pause, Round, earliest, needs_answer, released
from taskflow.runtime.waiters import Waiters
from taskflow.stores.batches import Claim, Claimed
from taskflow.wire import failures

__all__ = ("TRANSITIONS", "Execution", "Keeper", "Registrar", "Sleep", "State")


class State(StrEnum):
    """Where an execution is."""

    CLAIMING = "claiming"  # the claim is made, or about to be
    EXECUTING = "executing"  # the run is this runtime's, and its body executes
    CONCLUDING = "concluding"  # what still executes is ended, and the end of the round committed
    ASLEEP = "asleep"  # the run is paused: nothing is kept but this object, until it is woken
    ENDED = "ended"  # every waiter is told


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.CLAIMING: frozenset(State),
    State.EXECUTING: frozenset({State.CONCLUDING, State.ENDED}),
    State.CONCLUDING: frozenset({State.CLAIMING, State.ASLEEP, State.ENDED}),
    State.ASLEEP: frozenset({State.CLAIMING, State.ENDED}),
    State.ENDED: frozenset(),
}


class Registrar(Protocol):
    """What keeps one execution for each thread, and is told of every change of its place."""

    def spawn(self, execution: Execution) -> None: ...
    def wake(self, execution: Execution) -> None: ...
    def granted(self, execution: Execution, superseded: str | None) -> None: ...
    def fell_asleep(self, execution: Execution, due: float | None) -> None: ...
    def set_alarm(self, execution: Execution, due: float | None) -> None: ...
    def ended(self, execution: Execution) -> None: ...
    def is_automatic(self, execution: Execution) -> bool:
        """Whether nobody asked for this round but a signal, a deadline or recovery."""
        ...


class Keeper(Engine, Protocol):
    """The open runtime that keeps an execution."""

    @property
    def registry(self) -> Registrar: ...
    @property
    def shared(self) -> RunServices: ...


class Sleep:
    """What an execution knows while it is asleep, and only then."""

    __slots__ = ("alarm", "is_elsewhere")

    def __init__(self, *, is_elsewhere: bool) -> None:
        self.alarm: Alarm | None = None  # for the first of its deadlines
        self.is_elsewhere = is_elsewhere  # another runtime executes the run

    def set_alarm(self, alarm: Alarm | None) -> None:
        """Have this alarm, or none, in place of the one that was set."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = alarm


class Execution:
    """Claims a run, executes its workflow, and ends, pauses or releases the run.

    The states and transitions stand at the head of this file. Equal calls join the execution of
    their run, as `waiters`; when the last of them is cancelled, so is the execution.
    """

    __slots__ = (
        "_keeper",
        "_payload",
        "claim",
        "context",
        "epoch",
        "error",
        "round",
        "run_id",
        "sleep",
        "state",
        "status",
        "task",
        "thread_id",
        "waiters",
        "workflow",
    )

    def __init__(self, claim: Claim, workflow: Workflow[..., Any, Any], keeper: Keeper) -> None:
        self.claim = claim
        self.thread_id = claim.thread_id
        self.workflow = workflow
        self.waiters = Waiters(self)
        self.state = State.CLAIMING
        self.run_id = claim.run_id
        self.epoch = 0
        self.status = RunStatus.RUNNING
        self.task: object = None  # which executes `main`
        self.sleep: Sleep | None = None  # while asleep
        self.round: Round | None = Round(keeper)  # None while asleep
        self.error: BaseException | None = None  # that it has ended with
        self.context: Context = copy_context()  # the first caller's, but for the run it is in
        self.context.run(FRAME.set, None)
        self._keeper = keeper
        self._payload: bytes | None = None  # the recorded result that it has ended with

    @property
    def run(self) -> Run | None:
        """The run in hand, once it is claimed; also after the end, but not after a pause."""
        return None if self.round is None else self.round.run

    @property
    def cause(self) -> Cause:
        """Why nothing more may start in this round."""
        return Cause.PAUSED if self.round is None else self.round.cause

    @property
    def is_asleep(self) -> bool:
        """Whether the run is paused, and somebody waits on."""
        return self.state is State.ASLEEP

    def answers(self, claim: Claim) -> bool:
        """Whether ``claim`` asks for what is executed here."""
        same_run = claim.run_id is None or claim.run_id == self.run_id
        return same_run and claim.fingerprint == self.claim.fingerprint

    def outcome(self) -> Any:
        """The result, decoded anew each time, once it has ended. Raises what it has ended with."""
        if (run := self.run) is not None:
            run.notices.warn()
        if (error := self.error) is not None:
            self.error = again(error)  # the first who asks gets the error, the others get copies
            raise error
        assert self._payload is not None
        codec = self.workflow.codec
        value = codec.decode(self._payload)
        if fields := codec.dropped_fields(self._payload, value):
            shared, run_id = self._keeper.shared, self.run_id or ""
            if (
                drift := shared.tell_dropped(self.thread_id, run_id, codec.what, fields)
            ) is not None:
                raise drift
        return value

    async def paused_for(self) -> list[Wait]:
        """What a sleeping run waits for. Raises StoreError."""
        return await waits_of(self.thread_id, self.run_id, self._keeper.store)

    # What others do to it.

    def stop(self, cause: Cause) -> None:
        """Let nothing more start, for ``cause`` or for a higher one that is known.

        Before: any state. After: asleep → ended; else the same state, and the body is cancelled. A
        round that is claiming skips its body. One that is concluding goes by the cause unless its
        end was handed to the journal; after the commit of a pause a cancellation leads to another
        round, which ends the run for good.
        """
        if self.state is State.ASLEEP:
            self.end(interrupted(self.thread_id, self.run_id))
        elif self.round is not None and self.state is not State.ENDED:
            self.round.stop(cause)

    def give_up(self) -> None:
        """Stop, as the last waiter has left.

        Before: any state. After: asleep → ended, and the run stays paused; else as after `stop`.
        """
        if self.state is State.ASLEEP:
            self.end(interrupted(self.thread_id, self.run_id, "nobody waited for it any more"))
        else:
            self.stop(Cause.LEFT)

    def wake(self) -> None:
        """Go on with a paused run: asleep → claiming."""
        self._leave_sleep(State.CLAIMING)
        self._begin_round(Cause.NONE)

    def ring(self) -> None:
        """The first of its deadlines has come: it goes on when it is its turn."""
        self._keeper.registry.wake(self)

    def pause_elsewhere(self, waits: Sequence[Wait], epoch: int, due: float | None) -> None:
        """Another runtime has paused the run again: asleep → asleep, or ended.

        Ended where the run waits for an answer by now, and whoever is left waits for times alone.
        """
        assert self.sleep is not None
        self.epoch = epoch
        self.sleep.is_elsewhere = False
        paused: RunPaused | None = None
        if needs_answer(waits):
            paused = RunPaused(self.thread_id, self.run_id or "", waits)
            if not self.waiters.patient:
                self.end(paused)
                return
        self.waiters.tell_asleep(paused, needs_answer=paused is not None)
        self._keeper.registry.set_alarm(self, due)

    def end(self, error: BaseException) -> None:
        """Tell everybody that the run goes on here no more: asleep → ended.

        It has ended elsewhere, or the runtime ends, or nobody waits any more.
        """
        self._leave_sleep(State.ENDED)
        self._set(self.status, error=error)
        if isinstance(error, RunCancelled):
            announce(self._keeper.feeds, self, RunStatus.CANCELLED)
        self._tell_ended()

    def answer(self, payload: bytes) -> None:
        """Tell everybody that the run has succeeded elsewhere.

        Before: asleep, or claiming and not spawned. After: ended.
        """
        if self.task is not None:
            raise impossible(self.state, State.ENDED)
        if self.state is State.ASLEEP:
            self._leave_sleep(State.ENDED)
        else:
            self._move(State.ENDED)
        self._set(RunStatus.SUCCESS, payload)
        announce(self._keeper.feeds, self, RunStatus.SUCCESS, payload)
        self._tell_ended()

    async def cancel(self) -> None:
        """End the run for good, and wait until nothing of it executes here. Raises StoreError.

        Before: any state. After: ended; or asleep, if the run has failed elsewhere.
        """
        if self.state not in (State.ASLEEP, State.ENDED):
            self.stop(Cause.CANCELLED)
            if self.waiters.belong_to_caller():
                await anyio.sleep_forever()  # which the cancellation ends: this is code of that run
            await uninterrupted(self.waiters.ended)
        # Also where the end could not be recorded, or another runtime has taken the run over.
        is_open = self.status in (RunStatus.RUNNING, RunStatus.PAUSED)
        if self.state is State.ASLEEP or (self.run_id is not None and is_open):
            keeper = self._keeper
            await keeper.store.cancel(self.thread_id, keeper.clock.now(), self.run_id)
            await settle(self, keeper.store)

    # A round.

    async def main(self) -> None:
        """Execute a round; what it comes to is kept, not raised, but for what ends the process.

        Before: claiming. After: asleep or ended, or claiming in another task.
        """
        rest: Pause | ThreadBusy | None = None
        try:
            rest = await self._execute_round()
        except BaseException as error:
            self._set(self.status, error=error)
        if rest is None:
            self._move(State.ENDED)
            self._tell_ended()
        else:
            self._rest(rest)
        is_unheard = not self.waiters.is_awaited and isinstance(self.task, asyncio.Task)
        if is_unheard and isinstance(self.error, KeyboardInterrupt | SystemExit):
            raise self.error  # as any task of asyncio does: it ends the process

    def abandon(self) -> None:
        """End, if the task has ended without that: asyncio may cancel one before its first step."""
        if self.state not in (State.ASLEEP, State.ENDED):
            self._move(State.ENDED)
            self._tell_ended()

    async def _execute_round(self) -> Pause | ThreadBusy | None:
        """Claim, execute and conclude; the pause or the other owner to sleep for, if any.

        Before: claiming. After: claiming, if the claim was refused or answered; else concluding.
        """
        round_ = self.round
        assert round_ is not None
        try:
            claimed = await round_.claim(self.claim)
        except ThreadBusy as busy:
            if self.status != RunStatus.PAUSED:  # it was not woken
                raise
            # Another owner has woken it: here it sleeps on until that has come to an end.
            if round_.cause is not Cause.CANCELLED:
                return busy
            now = self._keeper.clock.now()
            await self._keeper.store.cancel(self.thread_id, now, self.run_id)
            raise RunCancelled(self.thread_id, self.run_id or "") from None
        self.run_id = claimed.row.run_id
        self.epoch = claimed.row.epoch
        if claimed.is_answer:
            self._set(RunStatus.SUCCESS, claimed.row.result)
            announce(self._keeper.feeds, self, RunStatus.SUCCESS, claimed.row.result)
            return None
        run = self._begin(round_, claimed)
        if self.state is State.EXECUTING:
            ending = await round_.execute(run, self.workflow, is_new=claimed.is_new)
            self._move(State.CONCLUDING)
        else:
            ending = released(run)
        is_automatic = self._keeper.registry.is_automatic(self)
        ending = await round_.conclude(run, ending, self.waiters, is_automatic=is_automatic)
        finish, pause = ending.finish, round_.pause
        self._set(RunStatus(finish.status), ending.payload, ending.error)
        waits = [] if pause is None else pause.waits
        announce(self._keeper.feeds, self, finish.status, finish.result or finish.error, waits)
        # One that was paused before, and could not be continued, has ended here with an error.
        return pause if finish.status == RunStatus.PAUSED and ending.error is None else None

    def _begin(self, round_: Round, claimed: Claimed) -> Run:
        """Open the run that was claimed: claiming → executing, or concluding if it was stopped."""
        self.status = RunStatus.RUNNING
        run = round_.open(claimed, self)
        self._move(State.EXECUTING if round_.cause is Cause.NONE else State.CONCLUDING)
        self._keeper.registry.granted(self, claimed.superseded)
        self.waiters.tell_begun()
        if (feed := self._keeper.feeds.threads.get(self.thread_id)) is not None:
            feed.run_started(run.row)
        return run

    def _rest(self, rest: Pause | ThreadBusy) -> None:
        """Sleep until the run goes on, or is free again; tell waiters who do not wait for that.

        Before: concluding, with the pause committed; or claiming, where another runtime executes
        the run. After: asleep; or claiming, where the pause is over already; or ended, where nobody
        waits on.
        """
        round_, waiters, keeper = self.round, self.waiters, self._keeper
        assert round_ is not None
        if round_.run is not None:
            round_.run.notices.log()
        round_.let_go()
        # A signal that came while the run was unwound or claimed will not be told again.
        is_over = (round_.has_missed and waiters.count) or round_.cause is Cause.CANCELLED
        if is_over and not keeper.is_ending:
            self._move(State.CLAIMING)
            self._begin_round(Cause.CANCELLED if round_.cause is Cause.CANCELLED else Cause.NONE)
            return
        is_elsewhere = isinstance(rest, ThreadBusy)
        waits = [] if isinstance(rest, ThreadBusy) else rest.waits
        is_timed = not is_elsewhere and not needs_answer(waits)  # everybody waits for times
        stays = waiters.count_through(is_timed=is_timed, is_elsewhere=is_elsewhere)
        ends = not stays or keeper.is_ending
        paused: TaskflowError | None = None
        if isinstance(rest, ThreadBusy):
            paused = rest
        elif not is_timed and (ends or waiters.is_anyone_impatient):
            paused = RunPaused(self.thread_id, self.run_id or "", waits)
        self.round = self.task = None
        if ends:
            self._move(State.ENDED)
            waiters.tell_paused(paused)
            self.error = None if stays else paused
            self._tell_ended()
            return
        self._move(State.ASLEEP)
        self.sleep = Sleep(is_elsewhere=is_elsewhere)
        keeper.registry.fell_asleep(self, earliest(waits))
        waiters.tell_asleep(paused, needs_answer=not (is_timed or is_elsewhere))
        if is_timed:
            waiters.outlast()

    def _begin_round(self, cause: Cause) -> None:
        """Claim a run again that was paused. Before and after: claiming."""
        self.claim = structs.replace(
            self.claim,
            run_id=self.run_id,
            now=self._keeper.clock.now(),
            fresh=False,
            supersede=False,
            epoch=None,
            takes_over=False,
            continues=True,
        )
        self.round = Round(self._keeper, cause)
        self.waiters.expect_round()
        self._keeper.registry.spawn(self)

    def _leave_sleep(self, state: State) -> None:
        if self.sleep is None:
            raise impossible(self.state, state)
        self._move(state)
        self.sleep.set_alarm(None)
        self.sleep = None

    def _move(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise impossible(self.state, state)
        self.state = state

    def _set(
        self,
        status: RunStatus,
        payload: bytes | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Keep what the round has come to."""
        self.status = RunStatus.CANCELLED if isinstance(error, RunCancelled) else status
        self._payload = payload
        self.error = error

    def _tell_ended(self) -> None:
        """Tell everybody that it has ended."""
        if self.error is None and self._payload is None:
            self.error = interrupted(self.thread_id, self.run_id)
        self._keeper.registry.ended(self)
        if self.round is not None:
            self.round.let_go()
        self.waiters.tell_ended()
        self._keeper.feeds.wake(self.thread_id)


def announce(
    feeds: Feeds,
    execution: Execution,
    status: str,
    payload: bytes | None = None,
    waits: Sequence[Wait] = (),
) -> None:
    """Tell whoever listens to the thread how a round has ended; ``payload``: result or error."""
    feed = feeds.threads.get(execution.thread_id)
    if feed is None:
        return
    run_id, name = execution.run_id or "", execution.workflow.name
    if status == RunStatus.SUCCESS:
        feed.run_completed(run_id, name, payload or b"null")
    elif status == RunStatus.ERROR:
        feed.run_failed(run_id, name, failures.describe(payload or b""))
    elif status == RunStatus.PAUSED:
        feed.run_paused(run_id, name, list(waits))
    else:
        feed.run_cancelled(run_id, name, status == RunStatus.CANCELLED)


def impossible(state: State, to: State) -> RuntimeError:
    """The error of a transition that is not in the table: a defect of this package."""
    return RuntimeError(f"internal error: an execution that is {state} cannot be {to}")
