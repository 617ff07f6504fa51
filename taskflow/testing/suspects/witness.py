"""`Witness`: watches workflows execute, and finds what a rerun would repeat or do differently.

It sees each call (``sys.setprofile``) in the bodies of workflows, and in what these await and call,
but not in tasks. Code of the standard library, of installed packages and of taskflow is not looked
into; what that does outside of the process is heard (``sys.addaudithook``).
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import dis
import inspect
import random
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, Final

from taskflow.testing.origins import OURS
from taskflow.testing.suspects import names
from taskflow.testing.suspects.coroutines import Coroutines
from taskflow.testing.suspects.effects import Effects
from taskflow.testing.suspects.findings import Findings
from taskflow.testing.suspects.functions import is_comprehension, is_workflow
from taskflow.testing.suspects.stacks import Stacks, is_of_workflow, known_as, module_of

__all__ = ("Witness",)


class Witness:
    """A context in which the code of workflows is looked at."""

    def __init__(self, allowed: Iterable[Callable[..., Any]]) -> None:
        self.executed: dict[CodeType, None] = {}  # of the user's, in workflows and not in tasks
        self.met: dict[CodeType, None] = {}  # of the user's, wherever it executed
        self._stacks = Stacks(allowed)
        self._findings = Findings()
        self._effects = Effects(self._stacks, self._findings)
        self._coroutines = Coroutines(self._stacks, self._findings)
        self._seen: set[tuple[CodeType, int]] = set()  # functions, and lines that they begin from
        self._former: tuple[Any, Any] = None, None  # profilers
        self._is_over = False

    @property
    def findings(self) -> list[str]:
        """What is wrong for certain."""
        return [*self._findings.wrong, *self._coroutines.wrong()]

    @property
    def notes(self) -> list[str]:
        """What may be right, and may not."""
        return [*self._findings.noted, *self._coroutines.noted()]

    @property
    def suspects(self) -> list[str]:
        """What may be the reason, where a rerun has come to something else."""
        return [*self.findings, *self._findings.suspect][:20]

    def __enter__(self) -> Witness:
        _audit()
        _watching.append(self)
        self._former = sys.getprofile(), threading.getprofile()
        sys.setprofile(self._notice)
        threading.setprofile(self._notice)  # of those that begin now: `def` workflows execute there
        return self

    def __exit__(self, *raised: object) -> None:
        self._is_over = True
        here, in_threads = self._former
        if here is None or callable(here):
            sys.setprofile(here)
        else:  # a profiler in C, as cProfile's before Python 3.12
            here.enable()
        threading.setprofile(in_threads)
        _watching.remove(self)

    # What is heard: the world outside.

    def hear(self, called: str, frame: FrameType | None) -> None:
        """Note an access to the world outside, by ``frame`` or one of its callers."""
        while frame is not None and not self._stacks.is_users(frame.f_code):
            module, path = module_of(frame), frame.f_code.co_filename
            if module.split(".")[0] in names.UNHEARD or path.startswith("<frozen importlib"):
                return
            if path.startswith(OURS) and path != names.VIRTUAL:  # which passes on
                return
            if known_as(frame)[0] == names.HOP:
                return  # that was told
            if module == "asyncio.events" and is_of_workflow():  # a child that asyncio has begun
                self._findings.tell("outside in a child", frame, called)
                return
            frame = frame.f_back
        if not {called, called.rpartition(".")[2]} & self._stacks.allowed_names:
            self._find("outside", frame, called)

    def _find(
        self, kind: str, caller: FrameType | None, called: str, function: object = None
    ) -> None:
        """Tell of a call, if a workflow makes it, and it is not allowed."""
        frame = self._stacks.of_workflow(caller)
        if frame is not None and not self._stacks.is_allowed(frame, function):
            self._findings.tell(kind, frame, called)

    # What is seen: calls.

    def _notice(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_over:
            sys.setprofile(None)  # in a thread that began meanwhile, and lives on
            return
        try:
            if event == "call":
                self._call(frame)
            elif event == "c_call":
                self._call_builtin(frame, argument)
        except Exception as error:  # of a class of the user's: it must not be raised in that code
            self._findings.tell("unseen", frame, repr(error))

    def _call(self, frame: FrameType) -> None:
        """A function written in Python begins."""
        code, caller = frame.f_code, frame.f_back
        if code.co_filename in names.DRAWING:
            self._draw(frame)
        elif code in names.LOOP_TIMES:
            self._find("clock", caller, "the event loop's time()")
        elif code.co_filename.startswith(names.CALLING):
            self._coroutines.call(caller)
        elif self._stacks.is_users(code):
            self.met[code] = None
            self._begin(frame)
        elif code is names.ENVIRONMENT:
            reader = self._stacks.of_workflow(caller, "os", "collections.abc")
            if reader is not None and not self._stacks.is_allowed(reader):
                self._findings.tell("environment", reader)
        elif code.co_filename == collections.__file__ and code.co_name in names.MUTATORS:
            self._mutate(caller, frame.f_locals.get("self"), code.co_name)
        else:
            if code.co_flags & names.AWAITED:
                self._coroutines.awaits(frame)
            self._call_known(frame, *known_as(frame))

    def _call_known(self, frame: FrameType, kind: str | None, called: str) -> None:
        if kind == names.HOP:
            self.hear(called, frame.f_back)
        elif kind == names.SLEEP:
            sleeper = self._stacks.of_workflow(frame.f_back)
            takes_time = any(frame.f_locals.get(each) for each in ("delay", "seconds"))
            if sleeper is not None and takes_time:
                self._findings.tell("sleep", sleeper)
        elif kind == names.LIMIT:
            limited = self._stacks.of_workflow(frame.f_back, "contextlib")
            if limited is not None:
                self._findings.tell("limit", limited, called)

    def _begin(self, frame: FrameType) -> None:
        """A function of the user's begins."""
        code = frame.f_code
        seen = code, frame.f_back.f_lineno if frame.f_back else 0
        if seen in self._seen or self._stacks.of_workflow(frame) is None:
            return
        self._seen.add(seen)
        self.executed[code] = None
        self._effects.begin(frame)
        if code in self._stacks.allowed_codes or is_comprehension(code):
            return
        if not is_workflow(code):
            is_on_trial = self._coroutines.begin(frame)
            if is_on_trial or code.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR):
                return
            self._findings.tell("helper", frame)
        self._effects.rebinds(frame)

    def _draw(self, frame: FrameType) -> None:
        """A function of `random`, `uuid` or `secrets` begins."""
        module, name = names.DRAWING[frame.f_code.co_filename], frame.f_code.co_name
        if module == "random":
            generator = frame.f_locals.get("self")
            is_unseeded = name == "__init__" and frame.f_locals.get("x", 0) is None
            is_systems = isinstance(generator, random.SystemRandom)
            if not (is_unseeded or is_systems or generator is names.SHARED_RANDOM):
                return  # one with a seed of its own
        elif module == "uuid" and name not in names.UNIQUE:
            return
        if frame.f_code not in self._stacks.allowed_codes:
            drawn = "Random" if name == "__init__" else name
            self._find("draw", frame.f_back, f"{module}.{drawn}()")

    def _call_builtin(self, frame: FrameType, function: Any) -> None:
        """A function written in C begins."""
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if function in names.UNAUDITED:
            self.hear(f"os.{name}", frame)
        elif name in names.QUERIES and isinstance(owner, sqlite3.Connection | sqlite3.Cursor):
            self.hear(f"sqlite3.{name}", frame)
        elif not self._stacks.is_users(frame.f_code):
            return
        elif name in names.CLOCKS and function.__module__ == "time":
            if _argument_count(frame) < names.TIMES_GIVEN.get(name, 2):  # else it is given the time
                self._find("clock", frame, f"time.{name}()", function)
        elif name in names.TODAY and isinstance(owner, type):
            if issubclass(owner, datetime.date):
                self._find("clock", frame, f"{owner.__name__}.{name}()", function)
        elif name in names.MUTATORS:
            self._mutate(frame, owner, name)
        elif name == "urandom" and function.__module__ in ("posix", "nt"):
            self._find("draw", frame, "os.urandom()", function)
        elif owner is names.SHARED_RANDOM:
            self._find("draw", frame, f"random.{name}()", function)

    def _mutate(self, caller: FrameType | None, container: object, method: str) -> None:
        frame = self._stacks.of_workflow(caller)
        if frame is not None:
            self._effects.mutates(frame, container, method)


_watching: Final[list[Witness]] = []
_audits: Final[list[bool]] = []


def _audit() -> None:
    """Listen to audit events from now on, once and for all: Python has no way to stop that."""
    if not _audits:
        _audits.append(True)
        sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(names.AUDITED):
        if event == "open" and "zoneinfo" in str(arguments[0]):
            return  # time zones are read where they are first asked for
        with contextlib.suppress(Exception):  # it would be raised in the code that is heard
            _watching[-1].hear(event, sys._getframe(1))


def _argument_count(frame: FrameType) -> int:
    """Of the call that executes in a frame, as far as its instruction tells it."""
    code, at = frame.f_code.co_code, frame.f_lasti
    name = dis.opname[code[at]]
    return code[at + 1] if name.startswith(("CALL", "PRECALL")) else 0
