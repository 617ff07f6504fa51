"""Calls that compete: the arms of ``race`` and ``as_completed``.

Only this module decides which arm has won: the one whose success is handed in first. What an arm
that has lost comes to is not recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import anyio.lowlevel

from taskflow.loops.loop import Loop

__all__ = ("Contest", "Stake")


class Call(Protocol):
    """A call that takes part in a contest."""

    id: str


class Contest:
    """Arms in the order in which their outcomes were handed in to be committed."""

    def __init__(self, when_settled: Callable[[Any, bool], None], *, one_wins: bool) -> None:
        self.winner: object = None
        self._when_settled = when_settled
        self._one_wins = one_wins

    def settle(self, arm: object, succeeded: bool) -> None:
        """The outcome of ``arm`` is handed in now."""
        if succeeded and self._one_wins:
            self.winner = arm
        self._when_settled(arm, succeeded)


class Stake:
    """The contest that an arm, and everything that is called in it, takes part in."""

    __slots__ = ("arm", "contest", "outer")

    def __init__(self, contest: Contest, arm: object, outer: Stake | None) -> None:
        self.contest = contest
        self.arm = arm
        self.outer = outer  # of a body around the contest

    @property
    def is_lost(self) -> bool:
        """Whether another arm has won, here or in a contest around this one."""
        stake: Stake | None = self
        while stake is not None:
            if stake.contest.winner not in (None, stake.arm):
                return True
            stake = stake.outer
        return False

    async def settle(self, call: Call, succeeded: bool, loop: Loop) -> None:
        """Hand the outcome of ``call`` in, if it is the arm itself and has not lost."""
        await self.check(call.id, loop)
        if self.arm is call:
            self.contest.settle(call, succeeded)

    async def check(self, call_id: str, loop: Loop) -> None:
        """Raise a cancellation in a call of an arm that has lost."""
        if self.is_lost:
            await anyio.lowlevel.checkpoint_if_cancelled()
            if loop.is_asyncio:
                raise asyncio.CancelledError(f"{call_id} has lost: another call has won")
            raise RuntimeError(f"{call_id} has lost: another call has won")
