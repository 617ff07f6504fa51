"""What can be read off a function of the user's without calling it."""

from __future__ import annotations

import contextlib
import dis
import gc
import inspect
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final

from taskflow.calls.call import Call
from taskflow.calls.definitions import Definition, definitions_named
from taskflow.testing.origins import is_users
from taskflow.testing.suspects.names import OUR_CALLS

__all__ = (
    "codes_in", "definitions_with", "functions_of", "is_comprehension", "is_workflow",
    "orchestrates", "reachable",
)  # fmt: skip

DEPTH: Final = 3  # of the functions that are looked into for tasks


def definitions_with(code: CodeType) -> list[Definition[..., Any, Any]]:
    """The tasks and workflows whose function has that code, or none, and its name."""
    return [
        each
        for each in definitions_named(code.co_name)
        if getattr(inspect.unwrap(each.fn), "__code__", None) in (code, None)
    ]


def is_workflow(code: CodeType) -> bool:
    """Whether it is the body of a workflow."""
    return any(each.is_workflow for each in definitions_with(code))


def is_comprehension(code: CodeType) -> bool:
    """Whether it is a part of a function that has a code of its own."""
    return code.co_name.startswith("<") and code.co_name != "<lambda>"


def reachable(fn: FunctionType) -> dict[FunctionType, None]:
    """The function, those of the user's that it may call, and so on."""
    found: dict[FunctionType, None] = {}
    left = [fn]
    while left:
        reached = left.pop()
        if reached not in found and is_users(reached.__code__):
            found[reached] = None
            left += _named_in(reached)
    return found


def _named_in(fn: FunctionType) -> Iterator[FunctionType]:
    """The functions that it may call: by name, or as methods and attributes of what it names.

    Those of workflows are among them, and those of tasks are not.
    """
    held = {**fn.__globals__, **_closure_of(fn)}
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
    held = dict(frame.f_locals)
    for each in held.values():
        given = each.values() if isinstance(each, dict) else each
        given = given if isinstance(each, dict | list | tuple) else [each]
        if any(isinstance(one, Definition | Call) for one in given):
            return True
    return _names_tasks(frame.f_code, frame.f_globals, held, DEPTH)


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
        if isinstance(value, FunctionType) and depth and is_users(value.__code__):
            held = _closure_of(value)
            if _names_tasks(value.__code__, value.__globals__, held, depth - 1):
                return True
    nested = (each for each in code.co_consts if isinstance(each, CodeType))
    return any(_names_tasks(each, globals_, closure, depth) for each in nested)


def _closure_of(fn: FunctionType) -> dict[str, Any]:
    """What a function takes from the functions around it, as far as that is bound."""
    held: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            held[name] = cell.cell_contents
    return held
