"""An execution is a state machine: its table is true, and no other transition is possible."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest

from taskflow import RunCancelled, RunUnfinished, workflow
from taskflow.loops.clocks import Clock
from taskflow.records import RunStatus
from taskflow.runs.feeds import Feeds
from taskflow.runtime import executions
from taskflow.runtime.conclusions import Cause
from taskflow.runtime.executions import TRANSITIONS, Execution, Sleep, State
from taskflow.runtime.rounds import Round
from taskflow.stores.batches import Claim


@workflow
async def answering() -> int:
    return 1


class FakeKeeper:
    """A runtime that executes nothing, and notes what its registry is told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.feeds = Feeds(self.clock)
        self.is_ending = False
        self.registry = self
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in ("spawn", "wake", "ended", "fell_asleep"):
            raise AttributeError(name)
        return lambda *_: self.told.append(name)


@pytest.fixture
def keeper() -> FakeKeeper:
    return FakeKeeper()


@pytest.fixture
def execution(keeper: FakeKeeper) -> Execution:
    """One that is to claim its run."""
    claim = Claim("t", None, "r", answering.name, b"{}", "", "owner", 0.0)
    return Execution(claim, answering, keeper)  # type: ignore[arg-type]


def put(execution: Execution, state: State) -> Execution:
    """Put it into that state, as the transitions leave it there."""
    execution.state = state
    if state is State.ASLEEP:
        execution.round = execution.task = None
        execution.sleep = Sleep(is_elsewhere=False)
        execution.status = RunStatus.PAUSED
        execution.waiters.tell_asleep(None, needs_answer=True)
    return execution


def test_the_table_in_the_docstring_is_the_one_that_is_held() -> None:
    """Each row of it is a transition, and each transition has a row."""
    rows = re.findall(r"^\| (\w+) +\| (\w+) +\| .* \|$", executions.__doc__ or "", re.MULTILINE)
    shown = [(State(before), State(after)) for before, after in rows[1:]]
    held = [(before, after) for before, afters in TRANSITIONS.items() for after in afters]
    assert sorted(shown, key=str) == sorted(held, key=str)


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_no_other_transition_is_possible(execution: Execution, before: State, after: State) -> None:
    put(execution, before)
    if after in TRANSITIONS[before]:
        execution._move(after)
        assert execution.state is after
        return
    with pytest.raises(RuntimeError, match=f"{before.value} cannot be {after.value}"):
        execution._move(after)
    assert execution.state is before


@pytest.mark.parametrize("state", [each for each in State if each is not State.ASLEEP])
def test_only_what_sleeps_is_woken_or_ended_from_outside(
    execution: Execution, state: State
) -> None:
    put(execution, state)
    execution.task = object()
    for transition in (
        execution.wake,
        lambda: execution.end(RunCancelled("t", "r")),
        lambda: execution.answer(b"1"),
    ):
        with pytest.raises(RuntimeError, match="internal error"):
            transition()
    assert execution.state is state


def test_what_is_woken_claims_again(execution: Execution, keeper: FakeKeeper) -> None:
    put(execution, State.ASLEEP).wake()
    assert (execution.state, execution.cause, execution.sleep) == (State.CLAIMING, Cause.NONE, None)
    assert execution.claim.continues
    assert keeper.told == ["spawn"]


def test_what_sleeps_is_told_of_its_end(execution: Execution, keeper: FakeKeeper) -> None:
    put(execution, State.ASLEEP).end(RunCancelled("t", "r"))
    assert execution.status == RunStatus.CANCELLED
    assert execution.waiters.ended.done()
    assert keeper.told == ["ended"]
    with pytest.raises(RunCancelled):
        execution.outcome()


@pytest.mark.parametrize("state", [State.CLAIMING, State.ASLEEP])
def test_what_has_succeeded_elsewhere_is_the_result(execution: Execution, state: State) -> None:
    put(execution, state).answer(b"1")
    assert execution.state is State.ENDED
    assert execution.outcome() == 1


def test_a_sleep_that_nobody_waits_for_any_more_is_over(execution: Execution) -> None:
    """Its run stays paused, and whoever comes by another way is told."""
    put(execution, State.ASLEEP).give_up()
    assert (execution.state, execution.status) == (State.ENDED, RunStatus.PAUSED)
    with pytest.raises(RunUnfinished, match="nobody waited"):
        execution.outcome()


def test_what_has_ended_is_stopped_no_more(execution: Execution) -> None:
    put(execution, State.ENDED).stop(Cause.CANCELLED)
    assert execution.cause is Cause.NONE


@pytest.mark.parametrize(("first", "second"), list(product(Cause, Cause)))
def test_a_higher_cause_takes_the_place_of_a_lower_one(first: Cause, second: Cause) -> None:
    round_ = Round(FakeKeeper(), first)  # type: ignore[arg-type]
    round_.stop(second)
    assert round_.cause is max(first, second)


def test_only_what_executes_is_paused(execution: Execution) -> None:
    """A round without a body is claiming or concluding."""
    assert execution.round is not None
    execution.round.stop_for_pause()
    assert execution.cause is Cause.NONE


def test_nobody_is_told_of_a_sleep_for_times_alone(execution: Execution) -> None:
    put(execution, State.ASLEEP).waiters.tell_asleep(None, needs_answer=False)
    assert not execution.waiters.is_over(patient=False)


def test_whoever_is_patient_is_not_told_of_a_pause(execution: Execution) -> None:
    execution.waiters.join(patient=True)
    assert not execution.waiters.is_anyone_impatient
    execution.waiters.join(patient=False)
    assert execution.waiters.is_anyone_impatient
    put(execution, State.ASLEEP)
    assert execution.waiters.is_over(patient=False)
    assert not execution.waiters.is_over(patient=True)


@pytest.mark.anyio
async def test_the_last_waiter_who_leaves_stops_it(execution: Execution) -> None:
    """In a claim that is under way; the sleep of a paused run is over."""
    execution.waiters.join(patient=True)
    execution.waiters.join(patient=True)
    await put(execution, State.ASLEEP).waiters.leave(patient=True)
    assert execution.state is State.ASLEEP
    await execution.waiters.leave(patient=True)
    assert execution.state is State.ENDED
