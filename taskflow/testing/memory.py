"""`Memory`: what the code of workflows finds in the process, beside what is recorded.

Another process does not have what was left there: a dictionary that a task has filled, an attribute
that it has set. `Memory` puts that back to what it was, for as long as a rerun executes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType
from typing import Any, Final

from msgspec import Struct

from taskflow.testing.functions import codes_in, functions_of, is_users_module

__all__ = ("Memory",)

DEPTH: Final = 3  # of what is held by what a name stands for
MISSING: Final = object()


class Kept(Struct, frozen=True):
    """What a variable stood for at a moment, and what that held."""

    value: object
    contents: tuple[Any, ...]  # of copies, in the order in which they are found
    put_back: Callable[[], None]


class Variable(Struct, frozen=True):
    """A global variable, or one of a function around the code that names it."""

    name: str
    namespace: dict[str, Any] | None
    cell: CellType | None

    @property
    def value(self) -> object:
        if self.namespace is not None:
            return self.namespace.get(self.name, MISSING)
        assert self.cell is not None
        try:
            return self.cell.cell_contents
        except ValueError:
            return MISSING

    def bind(self, value: object) -> None:
        if value is MISSING or self.value is value:
            return
        if self.namespace is not None:
            self.namespace[self.name] = value
        elif self.cell is not None:
            self.cell.cell_contents = value


class Memory:
    """What these pieces of code name, as it is now."""

    def __init__(self, executed: Iterable[CodeType]) -> None:
        self._variables = list(_variables_of(executed))
        self._before = [_kept(each) for each in self._variables]
        self._after: list[Kept] = []
        self.changed: list[str] = []  # names, once it was forgotten

    def forget(self) -> None:
        """Put everything back to what it was when this was made."""
        self._after = [_kept(each) for each in self._variables]
        for variable, before, after in zip(self._variables, self._before, self._after, strict=True):
            if _differ(before, after):
                self.changed.append(variable.name)
        for variable, before in zip(self._variables, self._before, strict=True):
            variable.bind(before.value)
            before.put_back()

    def recall(self) -> None:
        """Put everything back to what it was when it was forgotten."""
        for variable, after in zip(self._variables, self._after, strict=False):
            variable.bind(after.value)
            after.put_back()


def _variables_of(executed: Iterable[CodeType]) -> Iterator[Variable]:
    seen: set[tuple[int, str]] = set()
    for fn in functions_of(executed):
        code = fn.__code__
        for name in {name for each in (code, *codes_in(code)) for name in each.co_names}:
            if name in fn.__globals__ and (id(fn.__globals__), name) not in seen:
                seen.add((id(fn.__globals__), name))
                yield Variable(name, fn.__globals__, None)
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            if (id(cell), name) not in seen:
                seen.add((id(cell), name))
                yield Variable(name, None, cell)


def _kept(variable: Variable) -> Kept:
    found: list[tuple[Any, Callable[[], None]]] = []
    _collect(variable.value, DEPTH, found, set())

    def put_back() -> None:
        for _, each in found:
            each()

    return Kept(variable.value, tuple(copy for copy, _ in found), put_back)


def _collect(
    value: Any, depth: int, found: list[tuple[Any, Callable[[], None]]], seen: set[int]
) -> None:
    """Copies of what ``value`` holds, and of what that holds, each with what puts it back."""
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    held: Iterable[Any] = ()
    if isinstance(value, dict):
        copied = dict(value)
        found.append((copied, lambda: _refill(value, value.update, copied)))
        held = list(copied.values())
    elif isinstance(value, set):
        members = set(value)
        found.append((members, lambda: _refill(value, value.update, members)))
    elif isinstance(value, list | deque | bytearray):
        items = list(value)
        found.append((items, lambda: _refill(value, value.extend, items)))
        held = items
    elif isinstance(value, type) and is_users_module(value.__module__):
        attributes = {name: each for name, each in vars(value).items() if _is_data(name, each)}
        found.append((attributes, lambda: _set_all(value, attributes)))
        held = list(attributes.values())
    elif is_users_module(type(value).__module__):
        if hasattr(value, "__dict__"):
            _collect(vars(value), depth, found, seen)
        kinds: Any = type(value).__mro__
        names = [each for kind in kinds for each in getattr(kind, "__slots__", ())]
        slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
        found.append((slots, lambda: _set_all(value, slots)))
        held = list(slots.values())
    for each in held:
        _collect(each, depth - 1, found, seen)


def _refill(container: Any, fill: Callable[[Any], object], contents: Any) -> None:
    container.clear()
    fill(contents)


def _set_all(owner: object, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        if getattr(owner, name, MISSING) is not value:
            setattr(owner, name, value)


def _is_data(name: str, value: object) -> bool:
    is_method = callable(value) or hasattr(value, "__get__")
    return not is_method and not (name.startswith("__") and name.endswith("__"))


def _differ(before: Kept, after: Kept) -> bool:
    if before.value is not after.value:
        return True
    with contextlib.suppress(Exception):  # of the user's __eq__
        return bool(before.contents != after.contents)
    return True
