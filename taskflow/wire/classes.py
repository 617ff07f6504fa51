"""Recorded names of classes to classes, and classes to instances, without code of users.

A class is recorded by its module and qualified name, and found again among the modules that this
process has imported. Only this module decides which class a recorded name means. The main script is
one module under several names: ``__main__`` in the process that was started with it,
``__mp_main__`` in worker processes, and its own name where another program imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePath
from types import BuiltinMethodType, MemberDescriptorType, WrapperDescriptorType
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

__all__ = (
    "MESSAGE",
    "WithMessage",
    "class_of",
    "instance",
    "name_of",
    "printable",
    "script_of",
    "with_message",
)

MAIN: Final = ("__main__", "__mp_main__")

# The attribute that holds the message of an exception whose class is made by `with_message`.
MESSAGE: Final = "__taskflow_message__"


def name_of(kind: type) -> str:
    """The recorded name of a class: ``module:qualname``."""
    return printable(f"{kind.__module__}:{kind.__qualname__}")


def script_of(kind: type) -> str | None:
    """The importable name of the module of a class of the main script; ``None`` for others."""
    return _script_name() if kind.__module__ in MAIN else None


def class_of(name: str, script: str | None = None) -> type | None:
    """The class that was recorded as ``name``; ``None`` if this process has not imported it.

    ``script`` is the importable name of its module, if it was a class of the main script.
    """
    module, _, qualname = name.partition(":")
    for each in _modules(module, script):
        found = sys.modules.get(each)
        for part in qualname.split("."):
            # Not getattr: a module's __getattr__ may import what is asked of it.
            found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, type):
            return found
    return _local_class({*_modules(module, script)}, qualname)


def _modules(module: str, script: str | None) -> Iterator[str]:
    """The names under which the module of a recorded class may be imported now, best first."""
    if module not in MAIN:
        yield module
        if _is_script(module):
            yield from MAIN
        return
    if script is None or _is_script(script):
        yield from MAIN
    if script is None:
        return
    yield script
    # A script is known by its file alone; as part of a package it has a longer name.
    longer = [each for each in list(sys.modules) if each.endswith(f".{script}")]
    if len(longer) == 1:
        yield longer[0]
    yield from MAIN  # the script may have been renamed


def _script_name() -> str | None:
    """What the main script would be imported as, as far as it tells: ``None`` for a notebook."""
    main = getattr(sys.modules.get("__main__"), "__dict__", {})
    name = getattr(main.get("__spec__"), "name", None)  # python -m package.module
    if isinstance(name, str) and name not in MAIN:
        return name
    path = _script_path()
    if not path:
        return None
    return ".".join(path[-2:]) if path[-1] == "__main__" else path[-1]


def _script_path() -> tuple[str, ...]:
    main = getattr(sys.modules.get("__main__"), "__dict__", {})
    file = main.get("__file__")
    return _parts(file) if isinstance(file, str) else ()


@lru_cache(4)
def _parts(file: str) -> tuple[str, ...]:
    return PurePath(file).with_suffix("").parts if file else ()


def _is_script(module: str) -> bool:
    """Whether the main script is the module of that name: ``a.b`` is the file ``…/a/b.py``."""
    parts = tuple(module.split("."))
    return module == _script_name() or _script_path()[-len(parts) :] == parts


def _local_class(modules: set[str], qualname: str) -> type[BaseException] | None:
    """An exception class that is defined in a function: the newest live one of that name."""
    pending: list[type[BaseException]] = [Exception]
    seen: set[type] = set()
    found = None
    while pending:
        for child in type.__subclasses__(pending.pop()):
            if child not in seen and not issubclass(child, WithMessage):
                seen.add(child)
                pending.append(child)
                if child.__qualname__ == qualname and child.__module__ in modules:
                    found = child
    return found


class WithMessage:
    """Mixed into the class of a rebuilt exception that cannot make its message any more."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Not that of the exception's class, which may enter its subclasses somewhere."""

    def __str__(self) -> str:
        return str(self.__dict__.get(MESSAGE, ""))

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except Exception:  # of user code: attributes that it shows are not recorded
            return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        error: Any = self
        kind = type(self).__mro__[2]
        members = {name: getattr(self, name, None) for name in members_of(kind)}
        return _restored, (kind, error.args), {**members, **self.__dict__}


def with_message(kind: type[BaseException]) -> type[BaseException]:
    """A subclass of ``kind``, of the same name, whose message is the recorded one.

    Raises TypeError where ``kind`` is final.
    """
    for child in type.__subclasses__(kind):
        if child.__bases__[0] is WithMessage:
            return child
    content = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__slots__": ()}
    # Not by calling the metaclass, which may enter its classes somewhere.
    return type.__new__(type(kind), kind.__name__, (WithMessage, kind), content)


def _restored(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return instance(with_message(kind), args)


def instance(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception that is made without running code of users: no ``__new__``, no ``__init__``.

    Those that are C code (of OSError, KeyError, …) set the fields that live there.
    """
    of_c = (base.__dict__.get("__new__") for base in kind.__mro__)
    error = next(each for each in of_c if isinstance(each, BuiltinMethodType))(kind, *args)
    of_c = (base.__dict__.get("__init__") for base in kind.__mro__)
    next(each for each in of_c if isinstance(each, WrapperDescriptorType))(error, *args)
    return cast("BaseException", error)


_members: Final[WeakKeyDictionary[type[BaseException], frozenset[str]]] = WeakKeyDictionary()


def members_of(kind: type[BaseException]) -> frozenset[str]:
    """Attributes outside of ``__dict__``: in slots, or in C (``name`` of ImportError)."""
    members = _members.get(kind)
    if members is None:
        members = _members[kind] = frozenset(
            name
            for base in kind.__mro__
            if base is not BaseExceptionGroup  # whose members are arguments
            for name, member in base.__dict__.items()
            if isinstance(member, MemberDescriptorType) and not name.startswith("__")
        )
    return members


def printable(text: str) -> str:
    """The text without what UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()
