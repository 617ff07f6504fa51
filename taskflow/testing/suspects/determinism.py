"""`Witness`: what the code of workflows does that a rerun would do again, or otherwise.

It looks on (``sys.setprofile``) at the code that executes in the bodies of workflows, and in what
these await and call, but not in tasks. Code of the standard library, of installed packages and of
taskflow is not looked into; what that does outside of the process is heard (``sys.addaudithook``).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import dis
import inspect
import os
import random
import secrets
import sqlite3
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

import anyio

from taskflow.calls import call, emits, maps, races, values, waits, workflows
from taskflow.runs.frame import FRAME
from taskflow.testing.doubles.loop_time import AsyncioTime
from taskflow.testing.doubles.virtual import VirtualClock
from taskflow.testing.suspects.functions import (
    OURS,
    is_installed,
    is_users,
    orchestrates,
    stored_roots,
    task_of,
    workflow_of,
)

__all__ = ("Witness",)

CLOCKS: Final = {
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime",
    "gmtime", "ctime", "clock_gettime", "strftime", "process_time", "thread_time",
}  # fmt: skip
TIMES_GIVEN: Final = {"localtime": 1, "gmtime": 1, "ctime": 1, "strftime": 2}
TODAY: Final = {"now", "utcnow", "today"}
MUTATORS: Final = {
    "append", "appendleft", "extend", "extendleft", "insert", "add", "update", "pop", "popleft",
    "popitem", "remove", "discard", "clear", "__setitem__", "__delitem__",
}  # fmt: skip
CONTAINERS: Final = (list, dict, set, bytearray, deque)
# What is outside of the process, or differs between processes: whoever does it for the workflow,
# as Python's audit events tell it, and builtin functions that have none.
AUDITED: Final = (
    "open", "socket.", "subprocess.", "sqlite3.connect", "os.", "shutil.", "glob.", "urllib.",
    "http.", "smtplib.", "ftplib.", "pathlib.",
)  # fmt: skip
UNAUDITED: Final = {
    getattr(os, name)
    for name in (
        "stat", "lstat", "access", "readlink", "statvfs", "getcwd", "getpid", "times",
        "getloadavg", "cpu_count", "uname", "getlogin",
    )
    if hasattr(os, name)
}  # fmt: skip
# Whose reading and writing does not matter to the workflow.
UNHEARD: Final = {
    "importlib", "pkgutil", "logging", "linecache", "traceback", "warnings", "inspect", "zoneinfo",
    "dateutil", "pytz", "mimetypes", "locale", "gettext", "babel",
}  # fmt: skip
# What has a function executed in another thread, and what sets a time limit: names, and whose.
HOPS: Final = {
    "to_thread": "asyncio", "run_in_executor": "asyncio", "run_sync": "anyio.to_thread",
    "to_thread_run_sync": "trio", "submit": "concurrent.futures", "start": "threading",
}  # fmt: skip
LIMITS: Final = {
    "timeout": "asyncio", "timeout_at": "asyncio", "wait_for": "asyncio", "move_on_after": "anyio",
    "fail_after": "anyio",
}  # fmt: skip
AWAITED: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# Awaiting these is no work: they wait for what others do.
COORDINATING: Final = {
    "asyncio.locks", "asyncio.queues", "asyncio.tasks", "asyncio.taskgroups", "asyncio.timeouts",
    "anyio._core._synchronization", "anyio._core._tasks", "anyio.streams.memory",
    "anyio._backends._asyncio", "trio._sync", "trio._channel", "contextlib",
}  # fmt: skip
SLEEPS: Final = {"sleep": ("asyncio", "anyio", "trio")}
QUERIES: Final = {"execute", "executemany", "executescript"}
ENVIRONMENT: Final = type(os.environ).__getitem__.__code__
LOOP_TIMES: Final = {
    asyncio.BaseEventLoop.time.__code__, anyio.current_time.__code__, VirtualClock.now.__code__,
    AsyncioTime.now.__code__,
}  # fmt: skip
VIRTUAL: Final = AsyncioTime.now.__code__.co_filename  # passes calls of the loop on
DRAWING: Final = {random.__file__: "random", uuid.__file__: "uuid", secrets.__file__: "secrets"}
UNIQUE: Final = {"uuid1", "uuid4", "uuid6", "uuid7", "uuid8", "getnode"}
SHARED_RANDOM: Final[object] = random.random.__self__  # type: ignore[attr-defined]

# Where calls are made and awaited.
CALLING: Final = {each.__file__ for each in (call, emits, maps, races, values, waits, workflows)}
STEPS: Final = {"stepped", "work"}  # what executes a body, among taskflow's own functions


class Witness:
    """A context in which the code of workflows is looked at."""

    def __init__(self, allowed: Iterable[Callable[..., Any]]) -> None:
        self._allowed = list(allowed)
        self._allowed_names = {getattr(each, "__name__", "") for each in self._allowed}
        functions: list[Any] = [inspect.unwrap(getattr(each, "fn", each)) for each in self._allowed]
        functions += [type(each).__call__ for each in functions]
        functions += [each.func for each in functions if isinstance(each, partial)]
        self._allowed_codes = {getattr(each, "__code__", None) for each in functions}
        self._findings: dict[str, None] = {}
        self._suspects: dict[str, None] = {}
        self._unrecorded: dict[CodeType, str] = {}  # coroutines, unless they make calls
        self._calling: set[CodeType] = set()  # coroutines that do
        self.executed: dict[CodeType, None] = {}  # of the user's, in workflows and not in tasks
        self.met: dict[CodeType, None] = {}  # of the user's, wherever it executed
        self._awaited: dict[CodeType, set[str]] = {}  # by coroutines of the user's: whose they are
        self._foreign: dict[CodeType, str] = {}  # coroutines of packages, unless they make calls
        self._began: dict[tuple[str, str], CodeType] = {}  # the same, by file and path in it
        self._effects: dict[str, None] = {}  # of the workflow's own code
        self._is_users: dict[CodeType, bool] = {}
        self._seen: set[tuple[CodeType, int]] = set()
        self._former: Any = None
        self._is_over = False
        self._outer: dict[tuple[int, CodeType], tuple[object, bool]] = {}

    def findings(self) -> list[str]:
        """What is wrong for certain."""
        unrecorded = [
            text
            for code, text in self._unrecorded.items()
            if code not in self._calling and not self._only_coordinates(code)
        ]
        return [*self._findings, *unrecorded]

    def effects(self) -> list[str]:
        """What may be right, and may not."""
        foreign = [text for code, text in self._foreign.items() if code not in self._calling]
        return [*self._effects, *foreign]

    def _only_coordinates(self, code: CodeType) -> bool:
        """Whether what it awaits are locks, queues, and tasks that others have begun."""
        awaited = self._awaited.get(code, set())
        return bool(awaited) and awaited <= COORDINATING

    def suspects(self) -> list[str]:
        """What may be the reason, where a rerun has come to something else."""
        return [*self.findings(), *self._suspects][:20]

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

    def hear(self, event: str, frame: FrameType | None) -> None:
        """Something is done to the world outside, by ``frame`` or what it was called by."""
        while frame is not None and not self._knows_as_users(frame.f_code):
            module = str(frame.f_globals.get("__name__", ""))
            path = frame.f_code.co_filename
            if module.split(".")[0] in UNHEARD or path.startswith("<frozen importlib"):
                return
            if path.startswith(OURS) and path != VIRTUAL:  # which passes on
                return
            if _is_of(frame, HOPS):
                return  # that was told
            if module == "asyncio.events" and _is_of_workflow():  # a child that asyncio has begun
                self._find_outside("a workflow", event, "")
                return
            frame = frame.f_back
        if frame is None or not self._is_workflows(frame):
            return
        names = {event, event.rpartition(".")[2]}
        if names & self._allowed_names or self._is_allowed(frame):
            return
        path = _path_of(frame.f_code)
        self._find_outside(_name(frame), event, f" ({_place(frame)})", f", or pass allow=[{path}]")

    def _find_outside(self, name: str, event: str, place: str, otherwise: str = "") -> None:
        self._findings[
            f"{name} does {event}(){place} outside of tasks: what it finds is not recorded, and "
            f"what it does is done again by every rerun: do it in a task{otherwise}"
        ] = None

    def _is_allowed(self, frame: FrameType | None) -> bool:
        while frame is not None and self._knows_as_users(frame.f_code):
            if frame.f_code in self._allowed_codes:
                return True
            frame = frame.f_back
        return False

    def _notice(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_over:
            sys.setprofile(None)  # in a thread that began meanwhile, and lives on
            return
        try:
            self._see(frame, event, argument)
        except Exception as error:  # of a class of the user's: it must not be raised in that code
            self._suspects[f"{_place(frame)} could not be looked at: {error!r}"] = None

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code.co_filename in DRAWING:
                self._drawn(frame)
            elif code in LOOP_TIMES:
                self._read_loop_time(frame)
            elif code.co_filename in CALLING:
                self._makes_call(frame.f_back)
            elif self._knows_as_users(code):
                self.met[code] = None
                self._called(frame)
            elif code.co_flags & AWAITED and self._awaits(frame):
                pass
            elif code is ENVIRONMENT:
                self._read_environment(frame.f_back)
            elif _is_of(frame, HOPS):
                self.hear(f"{HOPS[code.co_name]}.{code.co_name}", frame.f_back)
            elif _is_of(frame, SLEEPS):
                self._sleeps(frame)
            elif code.co_filename == collections.__file__ and code.co_name in MUTATORS:
                self._mutates(frame.f_back, frame.f_locals.get("self"), code.co_name)
            elif _is_of(frame, LIMITS):
                self._limits(frame.f_back, f"{LIMITS[code.co_name]}.{code.co_name}()")
        elif event == "c_call":
            if argument in UNAUDITED:
                self.hear(f"os.{argument.__name__}", frame)
            elif getattr(argument, "__name__", "") in QUERIES and _is_database(argument.__self__):
                self.hear(f"sqlite3.{argument.__name__}", frame)
            elif self._knows_as_users(frame.f_code):
                self._called_builtin(frame, argument)

    def _awaits(self, frame: FrameType) -> bool:
        """A coroutine of somebody else's begins: whether all is said of it."""
        caller, code = frame.f_back, frame.f_code
        if caller is None or not self._knows_as_users(caller.f_code):
            return False
        module = str(frame.f_globals.get("__name__", ""))
        is_sleep = _is_of(frame, SLEEPS)
        self._awaited.setdefault(caller.f_code, set()).add("sleep" if is_sleep else module)
        if not self._is_workflows(caller) or self._is_allowed(caller):
            return False
        where = f"{_name(caller)} ({_place(caller)})"
        if module == "unittest.mock":
            self._findings[
                f"{where} awaits a mock outside of tasks: what stands for a service is asked "
                "again by every rerun: await it in a task"
            ] = None
            return True
        if is_installed(code):
            self._foreign[code] = (
                f"{where} awaits {module}.{code.co_qualname}, which is no task: what it gives is "
                "not recorded, and a rerun asks again"
            )
        return False

    def _users(self, frame: FrameType | None, *between: str) -> FrameType | None:
        """The frame of the user's workflow that has called this, by way of modules ``between``."""
        while frame is not None and frame.f_globals.get("__name__") in between:
            frame = frame.f_back
        if frame is None or not self._knows_as_users(frame.f_code):
            return None
        return frame if self._is_workflows(frame) else None

    def _read_environment(self, caller: FrameType | None) -> None:
        frame = self._users(caller, "os", "collections.abc")
        if frame is not None and not self._is_allowed(frame):
            self._effects[
                f"{_name(frame)} ({_place(frame)}) reads os.environ, which is not recorded, and "
                "which the next deploy may change: pass it as an argument, or read it in a task"
            ] = None

    def _sleeps(self, sleep: FrameType) -> None:
        frame = self._users(sleep.f_back)
        if frame is not None and any(sleep.f_locals.get(each) for each in ("delay", "seconds")):
            self._effects[
                f"{_name(frame)} ({_place(frame)}) sleeps, which is not recorded: every rerun does "
                "so again, from the start; taskflow.sleep() is, and lets the process end meanwhile"
            ] = None

    def _limits(self, caller: FrameType | None, limit: str) -> None:
        frame = self._users(caller, "contextlib")
        if frame is not None:
            self._suspects[
                f"{_name(frame)} ({_place(frame)}) sets a time limit, {limit}: what it cuts off is "
                "not recorded, and a rerun may be quicker; use @task(timeout=…), "
                "receive(timeout=…) or race() with sleep(), which are"
            ] = None

    def _makes_call(self, frame: FrameType | None) -> None:
        """A call is made, or awaited: whoever is on the stack does more than work of its own."""
        while frame is not None and not _executes_bodies(frame):
            if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
                self._calling.add(frame.f_code)
            frame = frame.f_back

    def _knows_as_users(self, code: CodeType) -> bool:
        known = self._is_users.get(code)
        if known is None:
            known = self._is_users[code] = is_users(code)
        return known

    def _is_workflows(self, frame: FrameType | None) -> bool:
        """Whether a frame of the user's executes for a workflow, and not in a task."""
        if not _is_of_workflow():
            return False
        while frame is not None and self._knows_as_users(frame.f_code):
            if frame.f_code.co_name == "<module>":
                return False  # it is imported meanwhile, once
            frame = frame.f_back
        if frame is None:
            return False
        # taskflow calls code of the user's for other purposes, too: a key=, a __post_init__.
        return not frame.f_code.co_filename.startswith(OURS) or _executes_bodies(frame)

    def _drawn(self, frame: FrameType) -> None:
        """A function of `random`, `uuid` or `secrets` is called."""
        caller = frame.f_back
        if caller is None or not self._knows_as_users(caller.f_code):
            return
        module, name = DRAWING[frame.f_code.co_filename], frame.f_code.co_name
        is_constructed = name == "__init__"
        if module == "random":
            generator = frame.f_locals.get("self")
            is_unseeded = name == "__init__" and frame.f_locals.get("x", 0) is None
            is_shared = generator is SHARED_RANDOM or isinstance(generator, random.SystemRandom)
            if not (is_shared or is_unseeded):
                return  # one with a seed of its own
        if module == "uuid" and name not in UNIQUE:
            return
        is_allowed = frame.f_code in self._allowed_codes or self._is_allowed(caller)
        if self._is_workflows(caller) and not is_allowed:
            self._find_drawing(caller, f"{module}.{'Random' if is_constructed else name}()")

    def _read_loop_time(self, frame: FrameType) -> None:
        caller = frame.f_back
        if (
            caller is not None
            and self._knows_as_users(caller.f_code)
            and self._is_workflows(caller)
            and not self._is_allowed(caller)
        ):
            self._find_clock(caller, "the event loop's time()")

    def _find_clock(self, frame: FrameType, called: str) -> None:
        self._findings[
            f"{_name(frame)} calls {called} ({_place(frame)}) outside of tasks: it depends on the "
            "time of day, and a rerun reads another one; use await taskflow.now(), which is "
            "recorded, or read the clock in a task; if nothing comes of it but a line in a log, "
            f"pass allow=[{_path_of(frame.f_code)}]"
        ] = None

    def _find_drawing(self, caller: FrameType, called: str) -> None:
        self._findings[
            f"{_name(caller)} calls {called} ({_place(caller)}) outside of tasks: a rerun draws "
            "another value; use taskflow.random() or taskflow.uuid(), which are recorded, or draw "
            "it in a task"
        ] = None

    def _called_builtin(self, frame: FrameType, function: Any) -> None:
        name = getattr(function, "__name__", "")
        if name in CLOCKS and function.__module__ == "time":
            if _argument_count(frame) >= TIMES_GIVEN.get(name, 2):
                return  # it is given the time
            called = f"time.{name}()"
        elif name in TODAY and isinstance(owner := getattr(function, "__self__", None), type):
            if not issubclass(owner, datetime.date):
                return
            called = f"{owner.__name__}.{name}()"
        elif name in MUTATORS:
            self._mutates(frame, getattr(function, "__self__", None), name)
            return
        elif (name == "urandom" and function.__module__ in ("posix", "nt")) or (
            getattr(function, "__self__", None) is SHARED_RANDOM
        ):
            is_allowed = function in self._allowed or self._is_allowed(frame)
            if self._is_workflows(frame) and not is_allowed:
                self._find_drawing(frame, f"{'os' if name == 'urandom' else 'random'}.{name}()")
            return
        else:
            return
        is_allowed = function in self._allowed or self._is_allowed(frame)
        if self._is_workflows(frame) and not is_allowed:
            self._find_clock(frame, called)

    def _mutates(self, frame: FrameType | None, container: object, name: str) -> None:
        """A list or the like is changed: does it outlive the run?"""
        if not isinstance(container, CONTAINERS):
            return
        if frame is None or not self._is_workflows(frame):
            return
        code = frame.f_code
        held = [
            *self._outer_names(code),
            *(each for each in code.co_names if each in frame.f_globals),
        ]
        for known in held:
            outer = frame.f_locals if known in code.co_freevars else frame.f_globals
            value = outer.get(known)
            if value is container:
                self._note_effect(frame, f"changes {known} with .{name}()")
                return
            for attribute, inner in getattr(value, "__dict__", {}).items():
                if inner is container and not isinstance(value, ModuleType):
                    self._note_effect(frame, f"changes {known}.{attribute} with .{name}()")
                    return
        for held_by in ("self", "cls"):
            owner = frame.f_locals.get(held_by)
            for attribute, value in getattr(owner, "__dict__", {}).items():
                if value is container and self._is_outer(owner, frame):
                    self._note_effect(frame, f"changes {held_by}.{attribute} with .{name}()")

    def _called(self, frame: FrameType) -> None:
        code = frame.f_code
        seen = code, frame.f_back.f_lineno if frame.f_back else 0
        if seen in self._seen or not self._is_workflows(frame):
            return
        self._seen.add(seen)
        self.executed[code] = None
        self._began[code.co_filename, code.co_qualname] = code
        for stored in self._stores_outside(frame):
            self._note_effect(frame, f"changes {stored}")
        if code in self._allowed_codes or _is_comprehension(code):
            return
        if workflow_of(code) is not None:
            self._note_rebound(frame)
            return
        caller = frame.f_back
        is_awaited = code.co_flags & inspect.CO_COROUTINE and not _is_protocol(code)
        if code.co_flags & inspect.CO_ASYNC_GENERATOR:  # one of `asynccontextmanager` is protocol
            is_awaited = caller is not None and self._knows_as_users(caller.f_code)
        if is_awaited and not orchestrates(frame):
            where = f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"
            place = (
                f" at {_place(caller)}" if caller and self._knows_as_users(caller.f_code) else ""
            )
            task = task_of(code)
            reason = (
                "is no task"
                if task is None
                else f"was called as the plain function of the task {task!r} (.fn)"
            )
            self._unrecorded[code] = (
                f"{where} is awaited by a workflow{place} and {reason}: what it gives is not "
                "recorded, and a rerun executes it again: "
                + ("decorate it with @task" if task is None else "call the task itself")
                + f", or, if it does nothing but compute, pass allow=[{_path_of(code)}]"
            )
        elif not code.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR):
            self._suspects[f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"] = None
            self._note_rebound(frame)

    def _outer_names(self, code: CodeType) -> list[str]:
        """The variables of functions around this one, but for those that began in the workflow."""
        around = code.co_qualname.rpartition(".<locals>.")[0]
        while around:
            began = self._began.get((code.co_filename, around))
            if began is not None:
                return [each for each in code.co_freevars if each in began.co_freevars]
            around = around.rpartition(".<locals>.")[0]
        return list(code.co_freevars)

    def _stores_outside(self, frame: FrameType) -> list[str]:
        """What a function assigns to in objects that are global, or of functions around it."""
        code = frame.f_code
        if _is_comprehension(code):
            return []
        outer = {
            *self._outer_names(code),
            *(each for each in code.co_names if each in frame.f_globals),
        }
        outer -= {*code.co_varnames, *code.co_cellvars}
        return [
            stored.text
            for stored in stored_roots(code)
            if stored.root in outer
            or (
                stored.is_changed
                and stored.root in ("self", "cls")
                and self._is_outer(frame.f_locals.get(stored.root), frame)
            )
        ]

    def _rebound_outside(self, code: CodeType) -> dict[str, bool]:
        """The global and nonlocal names that a function binds anew, and whether by ``x += 1``."""
        found: dict[str, bool] = {}
        outer = self._outer_names(code)
        before = ""
        for each in dis.get_instructions(code):
            is_outside = each.opname == "STORE_GLOBAL" or (
                each.opname == "STORE_DEREF" and each.argval in outer
            )
            if is_outside:
                name = str(each.argval)
                found[name] = found.get(name, False) or before == "BINARY_OP"
            if each.opname != "CACHE":
                before = each.opname
        return found

    def _is_outer(self, owner: object, frame: FrameType | None) -> bool:
        """Whether a module, or a function around what executes, holds an object."""
        if owner is None:
            return False
        while frame is not None and self._knows_as_users(frame.f_code):
            known = self._outer.get((id(owner), frame.f_code))
            if known is None:
                known = owner, _is_held(owner, self._outer_values(frame))
                self._outer[id(owner), frame.f_code] = known
            if known[1]:
                return True
            frame = frame.f_back
        return False

    def _outer_values(self, frame: FrameType) -> Iterator[object]:
        """What is global, or of functions around this one."""
        yield from frame.f_globals.values()
        for name in self._outer_names(frame.f_code):
            yield frame.f_locals.get(name)

    def _note_rebound(self, frame: FrameType) -> None:
        """What is counted on is counted again; what is only kept, a client say, may be right."""
        for name, is_counted in self._rebound_outside(frame.f_code).items():
            self._note_effect(frame, f"rebinds {name}", may_be_right=not is_counted)

    def _note_effect(self, frame: FrameType, effect: str, *, may_be_right: bool = False) -> None:
        code = frame.f_code
        where = f"{code.co_name} ({_place(frame)})"
        if code in self._allowed_codes or _is_comprehension(code):
            return
        if may_be_right or workflow_of(code) is not None:
            # Tests count executions like this; it is no result yet.
            effect = f"{where} {effect}, which outlives the run: every rerun does so again"
            self._suspects[effect] = self._effects[effect] = None
            return
        self._findings[
            f"{where} is called by a workflow, {effect}, which outlives the run, and is no task: a "
            f"rerun does it again: decorate it with @task, or pass allow=[{_path_of(code)}]"
        ] = None


_watching: Final[list[Witness]] = []
_audits: Final[list[bool]] = []


def _audit() -> None:
    """Listen to audit events from now on, once and for all: Python has no way to stop that."""
    if not _audits:
        _audits.append(True)
        sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(AUDITED):
        if event == "open" and "zoneinfo" in str(arguments[0]):
            return  # time zones are read where they are first asked for
        with contextlib.suppress(Exception):  # it would be raised in the code that is heard
            _watching[-1].hear(event, sys._getframe(1))


def _is_protocol(code: CodeType) -> bool:
    """Whether it is what ``async with`` and ``async for`` call, and mostly only passes on."""
    return code.co_name in ("__aenter__", "__aexit__", "__anext__")


def _path_of(code: CodeType) -> str:
    return code.co_qualname.rpartition("<locals>.")[2]


def _is_comprehension(code: CodeType) -> bool:
    return code.co_name.startswith("<") and code.co_name != "<lambda>"


def _name(frame: FrameType) -> str:
    return frame.f_code.co_name


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_of_workflow() -> bool:
    """Whether this is the context of a workflow, and not of a task."""
    current = FRAME.get()
    return current is not None and not current.is_task and not current.run.is_block


def _is_held(owner: object, values: Iterable[object]) -> bool:
    """Whether it is one of these, or in a dictionary that is."""
    for value in values:
        if value is owner:
            return True
        if type(value) is dict and any(each is owner for each in value.values()):
            return True
    return False


def _is_database(value: object) -> bool:
    return isinstance(value, sqlite3.Connection | sqlite3.Cursor)


def _argument_count(frame: FrameType) -> int:
    """Of the call that executes in a frame, as far as its instruction tells it."""
    code, at = frame.f_code.co_code, frame.f_lasti
    name = dis.opname[code[at]]
    return code[at + 1] if name.startswith(("CALL", "PRECALL")) else 0


def _executes_bodies(frame: FrameType) -> bool:
    return frame.f_code.co_name in STEPS and frame.f_code.co_filename.startswith(OURS)


def _is_of(frame: FrameType, names: Mapping[str, str | tuple[str, ...]]) -> bool:
    """Whether a function with one of these names executes, in the package that it belongs to."""
    package = names.get(frame.f_code.co_name)
    return package is not None and str(frame.f_globals.get("__name__", "")).startswith(package)
