"""What stands between a decorator of taskflow and the function that was written.

Only this module decides over which wrappers `task` and `workflow` may be put: over those whose
calls are what their signature shows. A wrapper that `functools.wraps` has made shows the signature
of the function inside it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ("check_wrappers",)

CACHES: Final = type(functools.lru_cache(lambda: None))
VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_wrappers(fn: Any) -> None:
    """Raise TypeError, with its cause, where calls of ``fn`` are not what they seem to be."""
    if isinstance(fn, staticmethod | classmethod | property):
        kind = type(fn).__name__
        raise TypeError(
            f"{_name(fn)} is a {kind}: "
            + (
                "a call has arguments, and a property takes none: decorate a method"
                if isinstance(fn, property)
                else f"put @{kind} above the decorator of taskflow, not below it"
            )
        )
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not (inspect.isfunction(fn) or isinstance(fn, CACHES)) or not hasattr(fn, "__wrapped__"):
        return

    _check_async(fn)
    for wrapper in _layers(fn):
        if inspect.isfunction(wrapper):
            _check_signature(wrapper)


def _layers(fn: Any) -> Iterator[Any]:
    """The wrappers whose signature is that of what they wrap, from the outermost on."""
    seen: set[int] = set()
    while hasattr(fn, "__wrapped__") and "__signature__" not in vars(fn) and id(fn) not in seen:
        seen.add(id(fn))
        yield fn
        fn = fn.__wrapped__


def _check_async(fn: Any) -> None:
    inner = inspect.unwrap(fn)
    if _is_async(inner) and not _is_async(fn):
        raise TypeError(
            f"{_name(fn)} is async, and {_place(fn)}, which wraps it, is a def: its result would "
            "be a coroutine that nobody awaits. Make the wrapper async def, or put the decorator "
            "of taskflow below it; if it executes the coroutine to its end, delete its __wrapped__"
        )


def _is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def _check_signature(wrapper: Callable[..., Any]) -> None:
    shown = inspect.signature(wrapper).parameters
    own = inspect.signature(wrapper, follow_wrapped=False).parameters
    needed = {
        name
        for name, each in shown.items()
        if each.default is each.empty and each.kind not in VARIADIC
    }
    if any(each.kind in VARIADIC for each in own.values()):
        calls = _Calls.of(wrapper)
        supplied = None if calls is None else calls.supplied(list(shown), set(own))
        wrong = (supplied or set()) & needed
    else:
        asked = {name for name, each in own.items() if each.default is each.empty}
        wrong = (needed - own.keys()) | (asked - shown.keys())
    if wrong:
        raise TypeError(
            f"{_name(wrapper)} shows the signature {inspect.signature(wrapper)}, and "
            f"{_place(wrapper)}, which wraps it, is called in another way "
            f"({', '.join(sorted(wrong))}): its calls could not be told apart by their arguments. "
            "Give the wrapper a __signature__ of what it is called with, or let the function get "
            "that by itself"
        )


class _Calls:
    """How a wrapper, as it is written, calls the function that it wraps."""

    def __init__(self, wrapper: Callable[..., Any], tree: ast.AST) -> None:
        code = wrapper.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        flags = code.co_flags
        names = list(code.co_varnames[count:])
        self._args = names.pop(0) if flags & inspect.CO_VARARGS else None
        self._kwargs = names.pop(0) if flags & inspect.CO_VARKEYWORDS else None
        inner = wrapper.__wrapped__  # type: ignore[attr-defined]
        cells = zip(code.co_freevars, wrapper.__closure__ or (), strict=True)
        self._inner = {name for name, cell in cells if _holds(cell, inner)}
        self._tree = tree

    @staticmethod
    def of(wrapper: Callable[..., Any]) -> _Calls | None:
        """From the wrapper's source; None where there is none."""
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(wrapper.__code__)))
        except (OSError, TypeError, SyntaxError, IndentationError):
            return None
        return _Calls(wrapper, tree)

    def supplied(self, shown: list[str], own: set[str]) -> set[str]:
        """The parameters, of those that are shown, for which the wrapper has values itself."""
        found: set[str] = set()
        before = 0  # positional arguments that are put before those of the caller
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                arguments = self._arguments(node)
                if arguments is not None:
                    before = max(before, self._before(arguments, own))
                    found |= {
                        each.arg for each in node.keywords if each.arg and each.arg not in own
                    }
                found |= self._put_by_call(node)
            elif isinstance(node, ast.Assign):
                before = max(before, self._before_assigned(node, own))
                found |= self._put(node)
        return found | set(shown[:before])

    def _arguments(self, node: ast.Call) -> list[ast.expr] | None:
        """What the function inside is called with, where this is a call of it, or a partial."""
        if isinstance(node.func, ast.Name) and node.func.id in self._inner:
            return node.args
        first = node.args[0] if node.args else None
        is_partial = "partial" in ast.unparse(node.func)
        if is_partial and isinstance(first, ast.Name) and first.id in self._inner:
            return [*node.args[1:], ast.Starred(ast.Name(self._args or ""))]
        return None

    def _before(self, arguments: list[ast.expr], own: set[str]) -> int:
        """How many values of the wrapper's own stand before the caller's ``*args``."""
        for place, each in enumerate(arguments):
            if isinstance(each, ast.Starred):
                is_callers = isinstance(each.value, ast.Name) and each.value.id == self._args
                mine = [one for one in arguments[:place] if not _is_name(one, own)]
                return len(mine) if is_callers else 0
        return 0

    def _before_assigned(self, node: ast.Assign, own: set[str]) -> int:
        """The same where the wrapper makes another ``args`` first."""
        if not any(_is_name(target, {self._args}) for target in node.targets):
            return 0
        if isinstance(node.value, ast.Tuple):
            return self._before(node.value.elts, own)
        if isinstance(node.value, ast.BinOp) and _is_name(node.value.right, {self._args}):
            left = node.value.left
            return len(left.elts) if isinstance(left, ast.Tuple) else 1
        return 0

    def _put(self, node: ast.Assign) -> set[str]:
        """The names under which it puts values of its own into ``kwargs``."""
        return {
            target.slice.value
            for target in node.targets
            if isinstance(target, ast.Subscript)
            and _is_name(target.value, {self._kwargs})
            and isinstance(target.slice, ast.Constant)
            and isinstance(target.slice.value, str)
        }

    def _put_by_call(self, node: ast.Call) -> set[str]:
        """The same by ``kwargs.update(name=…)``."""
        function = node.func
        is_update = isinstance(function, ast.Attribute) and function.attr == "update"
        if not is_update or not _is_name(function.value, {self._kwargs}):  # type: ignore[attr-defined]
            return set()
        return {each.arg for each in node.keywords if each.arg}


def _holds(cell: Any, inner: Any) -> bool:
    try:
        return cell.cell_contents is inner
    except ValueError:  # it is empty as yet
        return False


def _is_name(node: ast.AST, names: set[Any]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _name(fn: Any) -> str:
    fn = getattr(fn, "__func__", None) or getattr(fn, "fget", None) or fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _place(fn: Any) -> str:
    """Where a wrapper is written: its name is that of the function inside it."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return f"a {type(fn).__name__}"
    return f"{getattr(code, 'co_qualname', code.co_name)} (line {code.co_firstlineno} of its file)"
