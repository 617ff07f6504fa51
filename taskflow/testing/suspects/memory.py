"""`Memory`: the state that workflows read in the process, beside what is recorded.

Another process lacks what was left there: a dictionary that a task has filled, an attribute that it
has set. `Memory` restores the state of the moment at which it looked.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, Final, NamedTuple

from taskflow.testing.origins import is_users_module
from taskflow.testing.suspects.functions import codes_in, functions_of
from taskflow.testing.suspects.names import CONTAINERS, HOLDERS, LOCKS, LOOPS

__all__ = ("Memory", "write_all")

DEPTH: Final = 4  # of what is held by what a name stands for
MOST: Final = 100_000  # things that are looked at
MISSING: Final = object()


class Part(NamedTuple):
    """Something that can change: a variable, the contents of a container, a slot of an object."""

    name: str  # of the variable that leads to it
    read: Callable[[], list[Any]]
    write: Callable[[list[Any]], None]


Contents = list[tuple[Part, list[Any]]]


class Memory:
    """The state that some functions reach by the names in them, and what changes of it.

    With ``only_locks``: locks, events, queues and the like, which nobody holds in a new process.
    """

    def __init__(self, *, only_locks: bool = False) -> None:
        self._only_locks = only_locks
        self.changed: dict[str, None] = {}  # names, once it was forgotten
        self.left_out: dict[str, None] = {}  # names of what holds too much to be looked at
        self._seen: set[object] = set()
        self._looked_at = 0
        self._before: Contents = []

    def look(self, codes: Iterable[CodeType]) -> None:
        """Look at what the functions with that code name, if it was not looked at before."""
        for fn in functions_of(codes):
            for key, part in _variables_of(fn):
                if key not in self._seen:
                    self._seen.add(key)
                    (value,) = self._contents(part, is_kept=not self._only_locks)
                    with contextlib.suppress(Exception):  # of a class of the user's
                        self._look_into(value, part.name, DEPTH)

    def forget(self) -> Contents:
        """Restore the state of the moment at which it looked; returns what was there instead."""
        after: Contents = []
        for part, before in self._before:
            with contextlib.suppress(Exception):  # of a class of the user's
                now = part.read()
                if len(before) != len(now) or not all(map(operator.is_, before, now)):
                    after.append((part, now))
                    part.write(before)
                    self.changed[part.name] = None
        return after

    def _contents(self, part: Part, *, is_kept: bool) -> list[Any]:
        contents = part.read()
        if is_kept:
            self._before.append((part, contents))
        return contents

    def _look_into(self, value: Any, name: str, depth: int, *, is_in_lock: bool = False) -> None:
        if depth == 0 or id(value) in self._seen:
            return
        kind = type(value)
        is_lock = self._only_locks and _is_lock(kind)
        is_in_lock = is_in_lock or is_lock
        size = len(value) if issubclass(kind, CONTAINERS) else 0
        if size and self._looked_at + size > MOST:
            self.left_out[name] = None
            return
        self._looked_at += size
        is_opened = is_users_module(kind.__module__) or is_lock
        if is_opened or issubclass(kind, (*CONTAINERS, tuple)):
            self._seen.add(id(value))  # which stays what it is: a part of it is kept
        is_opened = is_opened or issubclass(kind, HOLDERS)
        held: list[Any] = [*value] if kind is tuple else []
        for part in _parts_of(value, name, is_opened=is_opened):
            held += self._contents(part, is_kept=is_in_lock or not self._only_locks)
        if is_opened:
            held += [getattr(value, "__dict__", None)]
        for each in held:
            self._look_into(each, name, depth - 1, is_in_lock=is_in_lock)


def write_all(contents: Contents) -> None:
    """Undo `Memory.forget`."""
    for part, after in reversed(contents):
        with contextlib.suppress(Exception):
            part.write(after)


def _variables_of(fn: FunctionType) -> Iterator[tuple[object, Part]]:
    """Global ones, also of the user's modules that it names, and those of functions around it."""
    code = fn.__code__
    names = {name for each in (code, *codes_in(code)) for name in each.co_names}
    modules = [fn.__globals__.get(name) for name in names]
    namespaces = [
        vars(each)
        for each in modules
        if type(each) is ModuleType and is_users_module(each.__name__)
    ]
    for namespace in (fn.__globals__, *namespaces):
        for name in sorted(names):
            get, put, drop = namespace.__getitem__, namespace.__setitem__, namespace.__delitem__
            yield (id(namespace), name), _place(name, get, put, drop, name)
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        get, put, drop = (partial(each, cell) for each in (getattr, setattr, delattr))
        yield id(cell), _place(name, get, put, drop, "cell_contents")


def _parts_of(value: Any, name: str, *, is_opened: bool) -> Iterator[Part]:
    """What can change in an object; its slots only where it is opened."""
    kind: type = type(value)
    container = next((each for each in CONTAINERS if issubclass(kind, each)), None)
    if container is not None:
        yield _contents(container, value, name)
    elif type(value) is type and is_users_module(value.__module__):
        yield _class(value, name)
    for each in chain.from_iterable(vars(owner).values() for owner in kind.__mro__):
        if is_opened and isinstance(each, MemberDescriptorType):
            yield _place(name, each.__get__, each.__set__, each.__delete__, value)


def _place(
    name: str,
    get: Callable[..., Any],
    put: Callable[..., None],
    drop: Callable[..., None],
    key: object,
) -> Part:
    """Of one value, or none: by functions that are given its key."""

    def read() -> list[Any]:
        try:
            return [get(key)]
        except (LookupError, ValueError, AttributeError):
            return [MISSING]

    def write(contents: list[Any]) -> None:
        (value,) = contents
        if value is MISSING:
            drop(key)
        else:
            put(key, value)

    return Part(name, read, write)


def _contents(kind: Any, container: Any, name: str) -> Part:
    """By the methods of its builtin class, whatever a class of the user's makes of them."""

    def read() -> list[Any]:
        if issubclass(kind, dict):
            return [*chain.from_iterable(kind.items(container))]
        return [*kind.__iter__(container)]

    def write(contents: list[Any]) -> None:
        kind.clear(container)
        if issubclass(kind, dict):
            kind.update(container, zip(contents[::2], contents[1::2], strict=True))
        elif issubclass(kind, set):
            kind.update(container, contents)
        else:
            kind.extend(container, contents)

    return Part(name, read, write)


def _class(owner: type, name: str) -> Part:
    """What a class holds beside methods."""

    def read() -> list[Any]:
        attributes = vars(owner).items()
        return [*chain.from_iterable(each for each in attributes if _is_data(*each))]

    def write(contents: list[Any]) -> None:
        wanted = dict(zip(contents[::2], contents[1::2], strict=True))
        for attribute in {*read()[::2]} - wanted.keys():
            type.__delattr__(owner, attribute)
        for attribute, value in wanted.items():
            type.__setattr__(owner, attribute, value)

    return Part(name, read, write)


def _is_lock(kind: type) -> bool:
    names = {each.__name__ for each in kind.__mro__}
    return kind.__module__.startswith(LOOPS) and not names.isdisjoint(LOCKS)


def _is_data(name: str, value: object) -> bool:
    is_method = callable(value) or hasattr(value, "__get__")
    return not is_method and not (name.startswith("__") and name.endswith("__"))
