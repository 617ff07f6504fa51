"""`Witness`: what the code of workflows does that a rerun would do again, or otherwise.

It looks on (``sys.setprofile``) at the code that executes in the bodies of workflows, and in what
these await and call, but not in tasks. Code of the standard library, of installed packages and of
taskflow is not looked into.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime
import dis
import inspect
import os
import random
import secrets
import sys
import sysconfig
import textwrap
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final

import anyio

import taskflow
from taskflow import calls, emits, maps, races, values, waits, workflows
from taskflow.calls import Call
from taskflow.definitions import Definition, definitions_named
from taskflow.runs import FRAME
from taskflow.testing.virtual import AsyncioTime, VirtualClock

__all__ = ("Witness", "closure_of", "is_users")

CLOCKS: Final = {
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime",
    "gmtime", "ctime", "clock_gettime", "strftime", "process_time", "thread_time",
}  # fmt: skip
TODAY: Final = {"now", "utcnow", "today"}
MUTATORS: Final = {
    "append", "appendleft", "extend", "extendleft", "insert", "add", "update", "setdefault", "pop",
    "popleft", "popitem", "remove", "discard", "clear", "__setitem__", "__delitem__",
}  # fmt: skip
CONTAINERS: Final = (list, dict, set, bytearray, deque)
# What is outside of the process, or differs between processes: names of builtin functions.
OUTSIDE: Final = {"getpid"}
# The same as Python's audit events tell it, whoever does it for the workflow.
AUDITED: Final = (
    "open", "socket.", "subprocess.", "sqlite3.connect", "os.", "shutil.", "glob.", "urllib.",
    "http.", "smtplib.", "ftplib.", "pathlib.",
)  # fmt: skip
# Whose reading and writing does not matter to the workflow.
UNHEARD: Final = {"importlib", "logging", "linecache", "traceback", "warnings", "inspect"}
SYSTEM: Final = {"io", "_io", "posix", "nt"}
LOOP_TIMES: Final = {
    asyncio.BaseEventLoop.time.__code__, anyio.current_time.__code__, VirtualClock.now.__code__,
    AsyncioTime.now.__code__,
}  # fmt: skip
DRAWING: Final = {random.__file__: "random", uuid.__file__: "uuid", secrets.__file__: "secrets"}
UNIQUE: Final = {"uuid1", "uuid4", "uuid6", "uuid7", "uuid8", "getnode"}
SHARED_RANDOM: Final[object] = random.random.__self__  # type: ignore[attr-defined]

_OURS: Final = os.path.dirname(taskflow.__file__) + os.sep
_STDLIB: Final = tuple(
    {sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep,
     os.path.dirname(os.__file__) + os.sep}
)  # fmt: skip
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
TYPED_IN: Final = ("<stdin>", "<string>", "<input>", "<ipython-input", "<doctest")
# Where calls are made and awaited.
CALLING: Final = {each.__file__ for each in (calls, emits, maps, races, values, waits, workflows)}
OUR_CALLS: Final = (
    taskflow.receive, taskflow.sleep, taskflow.sleep_until, taskflow.race, taskflow.as_completed,
    taskflow.emit, taskflow.now, taskflow.random, taskflow.uuid,
)  # fmt: skip
STEPS: Final = {"stepped"}  # what executes a body, among taskflow's own functions


def is_users(code: CodeType) -> bool:
    """Whether this is code of the user's, not the standard library's, a package's, or ours."""
    path = code.co_filename
    if path.startswith(TYPED_IN):
        return True
    if path.startswith(("<", *_STDLIB)) or any(each in path for each in _INSTALLED):
        return False
    return not path.startswith(_OURS) or path.startswith(os.path.join(_OURS, "examples"))


class Witness:
    """A context in which the code of workflows is looked at."""

    def __init__(self, allowed: Iterable[Callable[..., Any]]) -> None:
        self._allowed = list(allowed)
        self._allowed_codes = {getattr(each, "__code__", None) for each in self._allowed}
        self._findings: dict[str, None] = {}
        self._suspects: dict[str, None] = {}
        self._unrecorded: dict[CodeType, str] = {}  # coroutines, unless they make calls
        self._calling: set[CodeType] = set()  # coroutines that do
        self.executed: dict[CodeType, None] = {}  # of the user's, in workflows and not in tasks
        self.effects: dict[str, None] = {}  # of the workflow's own code
        self._is_users: dict[CodeType, bool] = {}
        self._seen: set[tuple[CodeType, int]] = set()
        self._former: Any = None

    def findings(self) -> list[str]:
        """What is wrong for certain."""
        unrecorded = [text for code, text in self._unrecorded.items() if code not in self._calling]
        return [*self._findings, *unrecorded]

    def suspects(self) -> list[str]:
        """What may be the reason, where a rerun has come to something else."""
        return [*self.findings(), *self._suspects][:20]

    def __enter__(self) -> Witness:
        _audit()
        _watching.append(self)
        self._former = sys.getprofile()
        sys.setprofile(self._notice)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.setprofile(self._former)
        _watching.remove(self)

    def hear(self, event: str, frame: FrameType | None) -> None:
        """Something is done to the world outside, by ``frame`` or what it was called by."""
        while frame is not None and not self._knows_as_users(frame.f_code):
            module = str(frame.f_globals.get("__name__", "")).split(".")[0]
            if module in UNHEARD or frame.f_code.co_filename.startswith((_OURS, "<frozen")):
                return
            frame = frame.f_back
        if frame is None or not self._is_workflows(frame):
            return
        called = f"{event}()" if event == "open" else event
        if event in {each.__name__ for each in self._allowed} or self._is_allowed(frame):
            return
        self._findings[
            f"{_name(frame)} does {called} ({_place(frame)}) outside of tasks: what it finds is "
            "not recorded, and what it does is done again by every rerun: do it in a task, or "
            f"pass allow=[{_path_of(frame.f_code)}]"
        ] = None

    def _is_allowed(self, frame: FrameType | None) -> bool:
        while frame is not None and self._knows_as_users(frame.f_code):
            if frame.f_code in self._allowed_codes:
                return True
            frame = frame.f_back
        return False

    def _notice(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code.co_filename in DRAWING:
                self._drawn(frame)
            elif code in LOOP_TIMES:
                self._read_loop_time(frame)
            elif code.co_filename in CALLING:
                self._makes_call(frame.f_back)
            elif self._knows_as_users(code):
                self._called(frame)
        elif event == "c_call" and self._knows_as_users(frame.f_code):
            self._called_builtin(frame, argument)

    def _makes_call(self, frame: FrameType | None) -> None:
        """A call is made, or awaited: whoever is on the stack does more than work of its own."""
        while frame is not None and frame.f_code.co_name not in STEPS:
            if frame.f_code.co_flags & inspect.CO_COROUTINE:
                self._calling.add(frame.f_code)
            frame = frame.f_back

    def _knows_as_users(self, code: CodeType) -> bool:
        known = self._is_users.get(code)
        if known is None:
            known = self._is_users[code] = is_users(code)
        return known

    def _is_workflows(self, frame: FrameType | None) -> bool:
        """Whether a frame of the user's executes for a workflow, and not in a task."""
        current = FRAME.get()
        if current is None or current.is_task or current.run.is_block:
            return False
        while frame is not None and self._knows_as_users(frame.f_code):
            frame = frame.f_back
        if frame is None:
            return False
        # taskflow calls code of the user's for other purposes, too: a key=, a __post_init__.
        return not frame.f_code.co_filename.startswith(_OURS) or frame.f_code.co_name in STEPS

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
        if self._is_workflows(caller) and frame.f_code not in self._allowed_codes:
            self._find_drawing(caller, f"{module}.{'Random' if is_constructed else name}()")

    def _read_loop_time(self, frame: FrameType) -> None:
        caller = frame.f_back
        if (
            caller is not None
            and self._knows_as_users(caller.f_code)
            and self._is_workflows(caller)
        ):
            self._find_clock(caller, "the event loop's time()")

    def _find_clock(self, frame: FrameType, called: str) -> None:
        self._findings[
            f"{_name(frame)} calls {called} ({_place(frame)}) outside of tasks: it depends on the "
            "time of day, and a rerun reads another one; use await taskflow.now(), which is "
            "recorded, or read the clock in a task"
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
            if self._is_workflows(frame) and function not in self._allowed:
                self._find_drawing(frame, f"{'os' if name == 'urandom' else 'random'}.{name}()")
            return
        elif name in OUTSIDE and function.__module__ in SYSTEM:
            if self._is_workflows(frame) and function not in self._allowed:
                self._findings[
                    f"{_name(frame)} calls {name}() ({_place(frame)}) outside of tasks: what it "
                    "finds is not recorded, and a rerun may find something else: do it in a task, "
                    f"or pass allow=[{name}]"
                ] = None
            return
        else:
            return
        if self._is_workflows(frame) and function not in self._allowed:
            self._find_clock(frame, called)

    def _mutates(self, frame: FrameType, container: object, name: str) -> None:
        """A list or the like is changed: does it outlive the run?"""
        if not isinstance(container, CONTAINERS) or not self._is_workflows(frame):
            return
        code = frame.f_code
        held = [*_outer_names(code), *(each for each in code.co_names if each in frame.f_globals)]
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
                if value is container and _is_global(owner, frame):
                    self._note_effect(frame, f"changes {held_by}.{attribute} with .{name}()")

    def _called(self, frame: FrameType) -> None:
        code = frame.f_code
        seen = code, frame.f_back.f_lineno if frame.f_back else 0
        if seen in self._seen or not self._is_workflows(frame):
            return
        self._seen.add(seen)
        self.executed[code] = None
        for stored in _stores_outside(code, frame):
            self._note_effect(frame, f"changes {stored}")
        if code in self._allowed_codes or _is_comprehension(code):
            return
        if _workflow_of(code) is not None:
            if rebound := _rebound_outside(code):
                self._note_effect(frame, f"rebinds {', '.join(rebound)}")
            return
        caller = frame.f_back
        if code.co_flags & inspect.CO_COROUTINE and _is_protocol(code):
            return
        if code.co_flags & inspect.CO_COROUTINE and not _orchestrates(frame):
            where = f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"
            place = (
                f" at {_place(caller)}" if caller and self._knows_as_users(caller.f_code) else ""
            )
            task = _task_of(code)
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
            if rebound := _rebound_outside(code):
                self._note_effect(frame, f"rebinds {', '.join(rebound)}")
            else:
                self._suspects[f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"] = None

    def _note_effect(self, frame: FrameType, effect: str) -> None:
        code = frame.f_code
        where = f"{code.co_name} ({_place(frame)})"
        if code in self._allowed_codes or _is_comprehension(code):
            return
        if _workflow_of(code) is not None or _is_comprehension(code):
            # Tests count executions like this; it is no result yet.
            effect = f"{where} {effect}, which outlives the run: every rerun does so again"
            self._suspects[effect] = self.effects[effect] = None
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


def _heard(event: str, _: object) -> None:
    if _watching and event.startswith(AUDITED):
        _watching[-1].hear(event, sys._getframe(1))


def _is_protocol(code: CodeType) -> bool:
    """Whether it is what ``async with`` and ``async for`` call, and mostly only passes on."""
    return code.co_name in ("__aenter__", "__aexit__", "__anext__")


def _path_of(code: CodeType) -> str:
    return code.co_qualname.rpartition("<locals>.")[2]


def _is_comprehension(code: CodeType) -> bool:
    return code.co_name.startswith("<") and code.co_name != "<lambda>"


def _is_global(owner: object, frame: FrameType | None) -> bool:
    """Whether an object is held by a module whose code executes."""
    while frame is not None and is_users(frame.f_code):
        if any(value is owner for value in frame.f_globals.values()):
            return True
        frame = frame.f_back
    return False


def _name(frame: FrameType) -> str:
    return frame.f_code.co_name


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _workflow_of(code: CodeType) -> str | None:
    return _definition_of(code, is_workflow=True)


def _task_of(code: CodeType) -> str | None:
    return _definition_of(code, is_workflow=False)


def _definition_of(code: CodeType, *, is_workflow: bool) -> str | None:
    for definition in definitions_named(code.co_name):
        if definition.is_workflow == is_workflow:
            fn = inspect.unwrap(definition.fn)
            if getattr(fn, "__code__", None) in (code, None):
                return definition.name
    return None


def _outer_names(code: CodeType) -> list[str]:
    """The variables of functions around this one, but for those of the workflow that it is in."""
    around = code.co_qualname.rpartition(".<locals>.")[0]
    while around:
        name = around.rpartition(".")[2]
        for definition in definitions_named(name):
            fn = inspect.unwrap(definition.fn)
            if isinstance(fn, FunctionType) and definition.is_workflow and around == _path(fn):
                return [each for each in code.co_freevars if each in fn.__code__.co_freevars]
        around = around.rpartition(".<locals>.")[0]
    return list(code.co_freevars)


def _path(fn: FunctionType) -> str:
    return fn.__code__.co_qualname


@lru_cache(maxsize=4096)
def _stored_roots(code: CodeType) -> tuple[tuple[str, str], ...]:
    """What is assigned to in ``x.y = …`` and ``x[y] = …``: the name ``x``, and the whole text."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return ()
    found: dict[tuple[str, str], None] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        # What a function remembers of its own results, ``SEEN[x] = …``, is no effect.
        targets = [each for each in targets if not isinstance(each, ast.Subscript)]
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            root: ast.expr = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if root is not target and isinstance(root, ast.Name):
                found[root.id, ast.unparse(target)] = None
    return tuple(found)


def _stores_outside(code: CodeType, frame: FrameType) -> list[str]:
    """What a function assigns to in objects that are global, or of functions around it."""
    if _is_comprehension(code):
        return []
    outer = {*_outer_names(code), *(each for each in code.co_names if each in frame.f_globals)}
    outer -= {*code.co_varnames, *code.co_cellvars}
    return [text for root, text in _stored_roots(code) if root in outer]


def _rebound_outside(code: CodeType) -> list[str]:
    """The global and nonlocal names that a function binds anew."""
    found: dict[str, None] = {}
    for each in dis.get_instructions(code):
        is_outside = each.opname == "STORE_GLOBAL" or (
            each.opname == "STORE_DEREF" and each.argval in _outer_names(code)
        )
        if is_outside:
            found[str(each.argval)] = None
    return list(found)


def _orchestrates(frame: FrameType) -> bool:
    """Whether a coroutine is there to call tasks: it names one, or was given one."""
    for each in frame.f_locals.values():
        held = [*each.values()] if isinstance(each, dict) else each
        given = held if isinstance(held, list | tuple) else [held]
        if any(isinstance(one, Definition | Call) for one in given):
            return True
    return _names_tasks(frame.f_code, frame.f_globals, dict(frame.f_locals), depth=0)


def _names_tasks(
    code: CodeType, globals_: dict[str, Any], closure: dict[str, Any], depth: int
) -> bool:
    for each in dis.get_instructions(code):
        name = each.argval
        if each.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if any("." in known.name for known in definitions_named(name)):  # a method
                return True
            continue
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = globals_.get(name)
        elif each.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            value = closure.get(name)
        else:
            continue
        if isinstance(value, Definition | Call) or value in OUR_CALLS:
            return True
        if isinstance(value, FunctionType) and depth < 3 and is_users(value.__code__):
            held = closure_of(value)
            if _names_tasks(value.__code__, value.__globals__, held, depth + 1):
                return True
    nested = (each for each in code.co_consts if isinstance(each, CodeType))
    return any(_names_tasks(each, globals_, closure, depth) for each in nested)


def closure_of(fn: FunctionType) -> dict[str, Any]:
    """What a function takes from the functions around it, as far as that is bound."""
    held: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            held[name] = cell.cell_contents
    return held
