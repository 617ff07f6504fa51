"""Calls that compete: whose outcome is recorded first decides, and is known at that moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ("Contest", "Stake", "is_lost")


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
    """What an arm, and everything that is called in it, takes part in."""

    __slots__ = ("arm", "contest", "outer")

    def __init__(self, contest: Contest, arm: object, outer: Stake | None) -> None:
        self.contest = contest
        self.arm = arm
        self.outer = outer


def is_lost(stake: Stake | None) -> bool:
    """Whether another arm has won: nothing of this one is recorded any more."""
    while stake is not None:
        if stake.contest.winner not in (None, stake.arm):
            return True
        stake = stake.outer
    return False
