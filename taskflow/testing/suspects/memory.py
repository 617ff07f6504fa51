"""`Memory`: what the code of workflows finds in the process, beside what is recorded.

Another process does not have what was left there: a dictionary that a task has filled, an attribute
that it has set. `Memory` puts that back to what it was, for as long as a rerun executes.
"""

from __future__ import annotations

import contextlib
import operator
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from types import SimpleNamespace as Namespace
from typing import Any, Final, NamedTuple

from taskflow.testing.suspects.functions import codes_in, functions_of, is_users_module

__all__ = ("Memory",)

DEPTH: Final = 4  # of what is held by what a name stands for
MOST: Final = 100_000  # things that are looked at
MISSING: Final = object()
CONTAINERS: Final = (OrderedDict, dict, set, list, deque, bytearray)
LOOPS: Final = ("asyncio", "anyio", "trio")
LOCKS: Final = {
    "Lock", "Semaphore", "Condition", "Event", "Queue", "Barrier", "CapacityLimiter",
    "StrictFIFOLock", "MemoryObjectStreamState",
}  # fmt: skip
HOLDERS: Final = (Namespace, UserDict, UserList, ChainMap)  # whose attributes are what they hold


class Part(NamedTuple):
    """Something that can change: a variable, what a container holds, what an object's slots do."""

    name: str  # of the variable that leads to it
    read: Callable[[], list[Any]]
    write: Callable[[list[Any]], None]

    def look(self) -> list[Any]:
        """What it is now."""
        return self.read()


class Memory:
    """What some functions find by the names in them, and what changes of that.

    With ``only_locks``: locks, events, queues and the like, which nobody holds in a new process.
    """

    def __init__(self, *, only_locks: bool = False) -> None:
        self._only_locks = only_locks
        self.changed: dict[str, None] = {}  # names, once it was forgotten
        self.left_out: dict[str, None] = {}  # names of what holds too much to be looked at
        self._seen: set[object] = set()
        self._looked_at = 0
        self._before: list[tuple[Part, list[Any]]] = []
        self._after: list[tuple[Part, list[Any]]] = []

    def look(self, codes: Iterable[CodeType]) -> None:
        """Look at what the functions with that code name, if it was not looked at before."""
        for fn in functions_of(codes):
            for name, part in _variables_of(fn):
                if name not in self._seen:
                    self._seen.add(name)
                    (value,) = part.read() if self._only_locks else self._keep(part)
                    with contextlib.suppress(Exception):  # of a class of the user's
                        self._look_into(value, part.name, DEPTH)

    def forget(self) -> None:
        """Put everything back to what it was when it was looked at."""
        for part, before in self._before:
            with contextlib.suppress(Exception):  # of a class of the user's
                after = part.read()
                if not _are_same(before, after):
                    self._after.append((part, after))
                    part.write(before)
                    self.changed[part.name] = None

    def recall(self) -> None:
        """Put back what was forgotten."""
        while self._after:
            part, after = self._after.pop()
            with contextlib.suppress(Exception):
                part.write(after)

    def _keep(self, part: Part) -> list[Any]:
        contents = part.read()
        self._before.append((part, contents))
        return contents

    def _look_into(self, value: Any, name: str, depth: int, *, is_in_lock: bool = False) -> None:
        if depth == 0 or id(value) in self._seen:
            return
        kind = type(value)
        is_lock = self._only_locks and _is_lock(kind)
        is_kept = is_lock or is_in_lock or not self._only_locks
        keep = self._keep if is_kept else Part.look
        size = len(value) if issubclass(kind, CONTAINERS) else 0
        if size and self._looked_at + size > MOST:
            self.left_out[name] = None
            return
        self._looked_at += size
        is_users = is_users_module(kind.__module__)
        if issubclass(kind, (*CONTAINERS, tuple)) or is_users or is_lock:
            self._seen.add(id(value))  # which stays what it is: a part of it is kept
        held: Iterable[Any] = ()
        container = next((each for each in CONTAINERS if issubclass(kind, each)), None)
        if container is not None:
            held = keep(_contents(container, value, name))
        elif kind is tuple:
            held = value
        elif kind is type and is_users_module(value.__module__):
            held = keep(_class(value, name))
        if is_users or is_lock or issubclass(kind, HOLDERS):
            if slots := _slots_of(kind):
                held = [*held, *keep(_slots(value, slots, name))]
            with contextlib.suppress(TypeError):
                held = [*held, vars(value)]
        for each in held:
            self._look_into(each, name, depth - 1, is_in_lock=is_lock or is_in_lock)


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
            yield (id(namespace), name), _variable(namespace, name)
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        yield id(cell), _cell(cell, name)


def _variable(namespace: dict[str, Any], name: str) -> Part:
    def write(contents: list[Any]) -> None:
        if contents[0] is MISSING:
            del namespace[name]
        else:
            namespace[name] = contents[0]

    return Part(name, lambda: [namespace.get(name, MISSING)], write)


def _cell(cell: CellType, name: str) -> Part:
    def read() -> list[Any]:
        try:
            return [cell.cell_contents]
        except ValueError:
            return [MISSING]

    def write(contents: list[Any]) -> None:
        if contents[0] is MISSING:
            del cell.cell_contents
        else:
            cell.cell_contents = contents[0]

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


def _slots_of(kind: type) -> list[MemberDescriptorType]:
    found = (each for owner in kind.__mro__ for each in vars(owner).values())
    return [each for each in found if isinstance(each, MemberDescriptorType)]


def _slots(owner: object, slots: list[MemberDescriptorType], name: str) -> Part:
    def read() -> list[Any]:
        contents: list[Any] = []
        for slot in slots:
            try:
                contents.append(slot.__get__(owner))
            except AttributeError:
                contents.append(MISSING)
        return contents

    def write(contents: list[Any]) -> None:
        for slot, value, now in zip(slots, contents, read(), strict=True):
            if value is MISSING and now is not MISSING:
                slot.__delete__(owner)
            elif value is not now:
                slot.__set__(owner, value)

    return Part(name, read, write)


def _is_lock(kind: type) -> bool:
    names = {each.__name__ for each in kind.__mro__}
    return kind.__module__.startswith(LOOPS) and not names.isdisjoint(LOCKS)


def _is_data(name: str, value: object) -> bool:
    is_method = callable(value) or hasattr(value, "__get__")
    return not is_method and not (name.startswith("__") and name.endswith("__"))


def _are_same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))
