"""`Stacks`: whether a frame executes for a workflow, so that every rerun executes it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FrameType
from typing import Any

from taskflow.runs.frame import FRAME
from taskflow.testing.origins import OURS, is_users
from taskflow.testing.suspects.names import FUNCTIONS, STEPS

__all__ = ("Stacks", "executes_bodies", "is_of_workflow", "known_as", "module_of")


class Stacks:
    """Finds the frames of workflows on a stack, and those of functions that the author allows."""

    def __init__(self, allowed: Iterable[Callable[..., Any]]) -> None:
        self._allowed = list(allowed)
        functions: list[Any] = [inspect.unwrap(getattr(each, "fn", each)) for each in self._allowed]
        functions += [type(each).__call__ for each in functions]
        functions += [each.func for each in functions if isinstance(each, partial)]
        self.allowed_codes = {getattr(each, "__code__", None) for each in functions}
        self.allowed_names = {getattr(each, "__name__", "") for each in self._allowed}
        self._is_users: dict[CodeType, bool] = {}

    def is_users(self, code: CodeType) -> bool:
        """Whether it is code of the user's."""
        known = self._is_users.get(code)
        if known is None:
            known = self._is_users[code] = is_users(code)
        return known

    def of_workflow(self, frame: FrameType | None, *through: str) -> FrameType | None:
        """The frame of a workflow that has called this one, by way of modules ``through``.

        It is the user's, and executes for a workflow and not in a task.
        """
        while frame is not None and frame.f_globals.get("__name__") in through:
            frame = frame.f_back
        if frame is None or not self.is_users(frame.f_code) or not is_of_workflow():
            return None
        below: FrameType | None = frame
        while below is not None and self.is_users(below.f_code):
            if below.f_code.co_name == "<module>":
                return None  # it is imported meanwhile, once
            below = below.f_back
        if below is None:
            return None
        # taskflow calls code of the user's for other purposes, too: a key=, a __post_init__.
        is_called_by_us = below.f_code.co_filename.startswith(OURS)
        return frame if not is_called_by_us or executes_bodies(below) else None

    def is_allowed(self, frame: FrameType | None, function: object = None) -> bool:
        """Whether the author allows ``function``, or a function of the user's that calls it."""
        if function is not None and function in self._allowed:
            return True
        while frame is not None and self.is_users(frame.f_code):
            if frame.f_code in self.allowed_codes:
                return True
            frame = frame.f_back
        return False


def is_of_workflow() -> bool:
    """Whether this is the context of a workflow, and not of a task."""
    current = FRAME.get()
    return current is not None and not current.is_task and not current.run.is_block


def executes_bodies(frame: FrameType) -> bool:
    """Whether it is the function of taskflow's that steps bodies."""
    return frame.f_code.co_name in STEPS and frame.f_code.co_filename.startswith(OURS)


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def known_as(frame: FrameType) -> tuple[str | None, str]:
    """What the function does that executes in a frame, if it is one of FUNCTIONS, and its name."""
    name = frame.f_code.co_name
    kind, packages = FUNCTIONS.get(name, (None, ("",)))
    is_known = kind is not None and module_of(frame).startswith(packages)
    return (kind, f"{packages[0]}.{name}") if is_known else (None, name)
