"""`Coroutines`: the plain coroutines that a workflow awaits.

A coroutine of the user's is wrong unless it, or what it awaits, makes calls, or it only waits for
other branches (a lock, a queue). One of an installed package is noted.
"""

from __future__ import annotations

import inspect
from types import CodeType, FrameType

from taskflow.testing.origins import is_installed
from taskflow.testing.suspects.findings import Findings, place_in, text_of
from taskflow.testing.suspects.functions import definitions_with, orchestrates
from taskflow.testing.suspects.names import AWAITED, COORDINATING, PROTOCOL, SLEEP
from taskflow.testing.suspects.stacks import Stacks, executes_bodies, known_as, module_of

__all__ = ("Coroutines",)


class Coroutines:
    """Which coroutines a workflow awaits, and which of these make calls."""

    def __init__(self, stacks: Stacks, findings: Findings) -> None:
        self._stacks = stacks
        self._findings = findings
        self._calling: set[CodeType] = set()  # they make calls, or await what does
        self._awaited: dict[CodeType, set[str]] = {}  # by the user's: modules of what they await
        self._plain: dict[CodeType, str] = {}  # the user's, with what is wrong unless they call
        self._foreign: dict[CodeType, str] = {}  # of packages, with what is noted unless they do

    def wrong(self) -> list[str]:
        """What is said of the user's that neither make calls nor only wait for other branches."""
        return [text for code, text in self._plain.items() if not self._is_right(code)]

    def noted(self) -> list[str]:
        """What is said of those of packages."""
        return [text for code, text in self._foreign.items() if code not in self._calling]

    def _is_right(self, code: CodeType) -> bool:
        awaited = self._awaited.get(code, set())
        return code in self._calling or (bool(awaited) and awaited <= COORDINATING)

    def call(self, frame: FrameType | None) -> None:
        """A call is made, or awaited: the coroutines on the stack make calls."""
        while frame is not None and not executes_bodies(frame):
            if frame.f_code.co_flags & AWAITED:
                self._calling.add(frame.f_code)
            frame = frame.f_back

    def begin(self, frame: FrameType) -> bool:
        """A function of the user's begins in a workflow; whether it is a coroutine on trial."""
        code, caller = frame.f_code, frame.f_back
        is_users_caller = caller is not None and self._stacks.is_users(caller.f_code)
        is_awaited = code.co_flags & inspect.CO_COROUTINE and code.co_name not in PROTOCOL
        if code.co_flags & inspect.CO_ASYNC_GENERATOR:  # one of `asynccontextmanager` is protocol
            is_awaited = is_users_caller
        if not is_awaited or orchestrates(frame):
            return False
        where = f" at {place_in(caller)}" if caller is not None and is_users_caller else ""
        task = next((each.name for each in definitions_with(code)), None)
        kind = "no task" if task is None else "plain function"
        self._plain[code] = text_of(kind, frame, task, where)
        return True

    def awaits(self, frame: FrameType) -> None:
        """A coroutine of the standard library's, or of a package, begins."""
        caller = frame.f_back
        if caller is None or not self._stacks.is_users(caller.f_code):
            return
        module = module_of(frame)
        awaited = self._awaited.setdefault(caller.f_code, set())
        awaited.add("sleep" if known_as(frame)[0] == SLEEP else module)
        if self._stacks.of_workflow(caller) is None or self._stacks.is_allowed(caller):
            return
        if module == "unittest.mock":
            self._findings.tell("mock", caller)
        elif is_installed(frame.f_code):
            called = f"{module}.{frame.f_code.co_qualname}"
            self._foreign[frame.f_code] = text_of("package", caller, called)
