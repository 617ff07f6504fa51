"""What can be read off a function of the user's without calling it."""

from __future__ import annotations

import ast
import contextlib
import dis
import gc
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple

import taskflow
from taskflow.calls.call import Call
from taskflow.calls.definitions import Definition, definitions_named

__all__ = (
    "OURS", "closure_of", "codes_in", "count_as_users", "functions_in", "functions_of",
    "is_installed", "is_users",
    "is_users_module", "orchestrates", "reachable", "stored_roots", "task_of", "workflow_of",
)  # fmt: skip

OURS: Final = os.path.dirname(taskflow.__file__) + os.sep
_STDLIB: Final = tuple(
    {sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep,
     os.path.dirname(os.__file__) + os.sep}
)  # fmt: skip
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
TYPED_IN: Final = ("<stdin>", "<string>", "<input>", "<ipython-input", "<doctest")
OUR_CALLS: Final = (
    taskflow.receive, taskflow.sleep, taskflow.sleep_until, taskflow.race, taskflow.as_completed,
    taskflow.emit, taskflow.now, taskflow.random, taskflow.uuid,
)  # fmt: skip


def is_users(code: CodeType) -> bool:
    """Whether this is code of the user's, not the standard library's, a package's, or ours."""
    return _is_users_path(code.co_filename)


def is_installed(code: CodeType) -> bool:
    """Whether it is code of an installed package, but for those that event loops are made of."""
    path = code.co_filename
    is_loops = any(f"{os.sep}{each}{os.sep}" in path for each in ("anyio", "trio", "sniffio"))
    return any(each in path for each in _INSTALLED) and not is_loops


_counted: Final[dict[str, None]] = {}  # files and folders of installed packages that are the user's


def count_as_users(fn: FunctionType) -> None:
    """A workflow's package is the user's, though it is installed."""
    path = fn.__code__.co_filename
    if any(each in path for each in _INSTALLED):
        package = sys.modules.get(fn.__module__.partition(".")[0])
        folders = getattr(package, "__path__", None)
        for folder in [path] if folders is None else [f"{each}{os.sep}" for each in folders]:
            _counted[folder] = None


def is_users_module(name: str) -> bool:
    """The same of a module."""
    module = sys.modules.get(name)
    if module is None or name in sys.builtin_module_names:
        return False
    return _is_users_path(getattr(module, "__file__", None) or TYPED_IN[0])


def _is_users_path(path: str) -> bool:
    if path.startswith(TYPED_IN):
        return True
    if path.startswith(tuple(_counted)):
        return True
    if path.startswith(("<", *_STDLIB)) or any(each in path for each in _INSTALLED):
        return False
    return not path.startswith(OURS) or path.startswith(os.path.join(OURS, "examples"))


def workflow_of(code: CodeType) -> str | None:
    return _definition_of(code, is_workflow=True)


def task_of(code: CodeType) -> str | None:
    return _definition_of(code, is_workflow=False)


def _definition_of(code: CodeType, *, is_workflow: bool) -> str | None:
    for definition in definitions_named(code.co_name):
        if definition.is_workflow == is_workflow:
            fn = inspect.unwrap(definition.fn)
            if getattr(fn, "__code__", None) in (code, None):
                return definition.name
    return None


class Stored(NamedTuple):
    """Something that is assigned to in a function: ``x.y = …``, ``x[y] += …``, ``del x.y``."""

    root: str  # x
    text: str  # the whole
    is_changed: bool  # and not only replaced


@lru_cache(maxsize=4096)
def stored_roots(code: CodeType) -> tuple[Stored, ...]:
    """What a function assigns to in objects; but what it remembers, ``seen[x] = …``, is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return ()
    found: dict[Stored, None] = {}
    for node in _own_nodes(tree.body[0]):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [each for each in targets if not isinstance(each, ast.Subscript)]
        is_changed = isinstance(node, ast.AugAssign)
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            root: ast.expr = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if root is not target and isinstance(root, ast.Name):
                found[Stored(root.id, ast.unparse(target), is_changed)] = None
    return tuple(found)


def _own_nodes(definition: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, and not in functions and classes inside of it."""
    for child in ast.iter_child_nodes(definition):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _own_nodes(child)


def functions_in(fn: FunctionType) -> Iterator[FunctionType]:
    """The functions that it may call: by name, or as methods and attributes of what it names.

    Those of workflows are among them, and those of tasks are not.
    """
    held = {**fn.__globals__, **closure_of(fn)}
    code = fn.__code__
    for name in (*code.co_names, *code.co_freevars):
        value = held.get(name)
        if isinstance(value, Definition) and value.is_workflow:
            value = inspect.unwrap(value.fn)
        if isinstance(value, FunctionType):
            yield value
            continue
        holder = value if isinstance(value, type | ModuleType) else type(value)
        for attribute in code.co_names:
            if isinstance(found := vars(holder).get(attribute), FunctionType):
                yield found


def reachable(fn: FunctionType) -> dict[CodeType, None]:
    """Its code, and that of the user's functions that it may call, and so on."""
    found: dict[CodeType, None] = {}
    left = [fn]
    while left:
        reached = left.pop()
        if reached.__code__ not in found and is_users(reached.__code__):
            found[reached.__code__] = None
            left += functions_in(reached)
    return found


def functions_of(codes: Iterable[CodeType]) -> list[FunctionType]:
    """The functions that there are at this moment with that code."""
    known = set(codes)
    found = gc.get_referrers(*known)
    return [each for each in found if isinstance(each, FunctionType) and each.__code__ in known]


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The functions inside of a function, and inside of those."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from codes_in(each)


def orchestrates(frame: FrameType) -> bool:
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
        if isinstance(value, Definition | Call) or any(value is each for each in OUR_CALLS):
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
