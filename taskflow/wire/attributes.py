"""Arguments and attributes of exceptions that JSON does not carry by itself, as JSON and back.

Containers, literals, times, numbers, paths, members of enumerations and other exceptions. They have
no annotation that would say what they are, so the JSON does: ``{"$": "tuple", "v": […]}``.
"""

from __future__ import annotations

import ast
import math
import pathlib
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from taskflow.wire.classes import class_of, name_of, script_of
from taskflow.wire.json import encode_plain
from taskflow.wire.plain import is_plain

__all__ = ("SIZE_LIMIT", "Unrecordable", "is_writable", "read", "write")

NESTING_LIMIT: Final = 20
SIZE_LIMIT: Final = 1_000_000  # bytes of JSON; what is larger is no detail of a failure
TAG, VALUE = "$", "v"

# By the exact type: a subclass would come back as its base.
AS_TEXT: Final[dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    float: (repr, float),  # NaN and the infinities
    int: (repr, int),  # beyond 64 bits
    bytes: (repr, ast.literal_eval),
    complex: (repr, complex),
    str: (ascii, ast.literal_eval),  # with lone surrogates
    Decimal: (str, Decimal),
    UUID: (str, UUID),
    date: (date.isoformat, date.fromisoformat),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    **{
        kind: (str, kind)
        for kind in (
            pathlib.PurePosixPath,
            pathlib.PureWindowsPath,
            type(pathlib.Path()),
        )
    },
}
CONTAINERS: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
READERS: Final = {kind.__name__: read for kind, (_, read) in AS_TEXT.items()}
MAKERS: Final = {kind.__name__: make for kind, make in CONTAINERS.items()}


class Unrecordable(Exception):
    """Raised for a value that has no form here, or a too large one."""


def write(value: Any, write_error: Callable[[BaseException], Any]) -> Any:
    """The value as a tree of JSON; ``write_error`` writes the exceptions in it.

    Raises Unrecordable, or what user code raises.
    """
    return _written(value, write_error, 0)


def is_writable(value: Any, limit: int = SIZE_LIMIT) -> bool:
    """Whether a value without exceptions has a form here, of at most so many bytes."""
    try:
        return len(encode_plain(_written(value, _refuse, 0))) <= limit
    except Exception:  # of user code, too
        return False


def _refuse(error: BaseException) -> Any:
    raise Unrecordable("exceptions are recorded elsewhere") from error


def _written(value: Any, write_error: Callable[[BaseException], Any], depth: int) -> Any:
    kind = type(value)
    if depth > NESTING_LIMIT:
        raise Unrecordable("it is nested too deep")
    if kind is dict:
        pairs = [
            [_written(each, write_error, depth + 1) for each in pair] for pair in value.items()
        ]
        if TAG not in value and all(type(key) is str and is_plain(key) for key in value):
            return dict(pairs)
        return {TAG: "dict", VALUE: pairs}
    if kind is list or kind in CONTAINERS:
        members = [_written(each, write_error, depth + 1) for each in value]
        return members if kind is list else {TAG: kind.__name__, VALUE: members}
    if isinstance(value, BaseException):
        return {TAG: "error", VALUE: write_error(value)}
    if isinstance(value, Enum):
        where = {"type": name_of(kind), "script": script_of(kind), "name": value.name}
        if kind.__members__.get(value.name) is not value:  # several flags
            raise Unrecordable(f"{value!r} has no name of its own")
        return {TAG: "enum", VALUE: where}
    if is_plain(value):
        return value
    if kind is timedelta:
        return {TAG: "timedelta", VALUE: [value.days, value.seconds, value.microseconds]}
    if kind in AS_TEXT and _is_exact(value):
        return {TAG: kind.__name__, VALUE: AS_TEXT[kind][0](value)}
    raise Unrecordable(f"objects of type {kind.__qualname__} are not recorded")


def _is_exact(value: Any) -> bool:
    """Whether a value is all that its text tells: a named time zone is not."""
    if isinstance(value, datetime | time):
        return not value.fold and (value.tzinfo is None or type(value.tzinfo) is timezone)
    return not isinstance(value, Decimal) or not math.isnan(value) or str(value) == "NaN"


def read(tree: Any, read_error: Callable[[Any], BaseException]) -> Any:
    """The value that was written. Raises LookupError or ValueError where it has none now."""
    if isinstance(tree, list):
        return [read(each, read_error) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if TAG not in tree:
        return {key: read(each, read_error) for key, each in tree.items()}
    tag, value = tree[TAG], tree[VALUE]
    if tag == "dict":
        return {read(key, read_error): read(each, read_error) for key, each in value}
    if tag in MAKERS:
        return MAKERS[tag](read(each, read_error) for each in value)
    if tag == "error":
        return read_error(value)
    if tag == "timedelta":
        return timedelta(*value)
    if tag == "enum":
        return _member(value)
    return READERS[tag](value)


def _member(where: dict[str, Any]) -> Enum:
    kind = class_of(where["type"], where["script"])
    if kind is None or not issubclass(kind, Enum):
        raise LookupError(f"this process has no enumeration {where['type']}")
    return kind.__members__[where["name"]]
