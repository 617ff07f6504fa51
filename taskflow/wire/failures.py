"""Exceptions to bytes and back: a rerun raises the failure that the first run raised.

An exception is recorded as its class, arguments, message and those attributes that JSON carries,
and rebuilt without running its ``__init__``, which would garble messages or fail. Only classes that
this process has imported are rebuilt: nothing named in a database is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from types import MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

from msgspec import Struct, structs

from taskflow.errors import TaskFailed
from taskflow.wire.differences import difference
from taskflow.wire.json import decode_plain, encode_plain
from taskflow.wire.plain import is_plain

__all__ = ("Failure", "Mark", "describe", "mark_of", "marks_in", "rebuild", "record")

MARK = "__taskflow_mark__"
MESSAGE_LIMIT = 10_000  # characters; a rebuilt message is compared up to the same length
GROUPS_LIMIT = 50  # levels of groups in groups: of deeper ones only the message is recorded
# Members of groups that occur again, in all: groups that share members, level by level, would
# otherwise be written 2**levels times.
REPEATS_LIMIT = 10_000


class Mark(Struct, frozen=True):
    """The recorded call whose failure an exception object is.

    It holds ids only, so that the exception can be pickled and keeps no run alive.
    """

    run: int  # `Run.serial`
    task_id: str
    ended_by: tuple[str, ...]  # the recorded failures that ended that call
    given_up: bool  # whether its retry policy, or that of a call below it, has given up


class Failure(Struct, omit_defaults=True):
    """The recorded form of an exception."""

    type: str  # "module:qualname"
    message: str
    args: list[Any] | None = None  # None: JSON does not carry them
    literal: str | None = None  # `args` as a Python literal, where JSON does not carry them
    attributes: dict[str, Any] = {}
    members: list[Failure] | None = None  # of an exception group
    ended_by: list[str] = []
    given_up: bool = False

    @staticmethod
    def parse(payload: bytes) -> Failure:
        """The failure that `encode` wrote. Raises ValueError for other JSON."""
        try:
            fields = decode_plain(payload)
            if not isinstance(fields, dict):
                raise ValueError("not the record of a failure")
            return Failure._of(fields)
        except RecursionError as error:
            raise ValueError("groups of failures are nested too deep") from error

    @staticmethod
    def _of(fields: dict[str, Any]) -> Failure:
        members = fields.pop("members", None)
        failure = Failure(**fields)
        if members is not None:
            failure.members = [Failure._of(member) for member in members]
        return failure

    def encode(self) -> bytes:
        """Its JSON."""
        return encode_plain(self)


def record(error: BaseException, ended_by: tuple[str, ...] = (), given_up: bool = False) -> Failure:
    """The recorded form of ``error``; ``ended_by`` names the recorded failures that caused it.

    It never raises: a failure must not be lost because its user-defined methods fail.
    """
    failure = _recorded(error, 0, _Groups())
    failure.ended_by = list(ended_by)
    failure.given_up = given_up
    return failure


class _Groups:
    """The exception groups met so far in one failure."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._repeats = 0

    def may_enter(self, group: BaseExceptionGroup[BaseException], depth: int) -> bool:
        """Whether the members of a group at ``depth`` are recorded."""
        if id(group) in self._known:
            self._repeats += len(group.exceptions)
        self._known.add(id(group))
        return depth < GROUPS_LIMIT and self._repeats <= REPEATS_LIMIT


def _recorded(error: BaseException, depth: int, groups: _Groups) -> Failure:
    """The recorded form of ``error``, a member of ``depth`` groups in groups."""
    failure = Failure(type=_type_name(type(error)), message=_message(error)[:MESSAGE_LIMIT])
    try:
        failure.attributes = {
            name: value
            for name, value in _attributes(error)
            if name != MARK and type(name) is str and is_plain(name) and is_plain(value)
        }
        if not isinstance(error, BaseExceptionGroup):
            args = list(_arguments(error))
            if is_plain(args):
                failure.args = args
            else:
                failure.literal = _literal(args)
        elif groups.may_enter(error, depth):
            failure.message = _printable(error.message)[:MESSAGE_LIMIT]
            failure.members = [_recorded(each, depth + 1, groups) for each in error.exceptions]
    except Exception:  # of user code: the class and the message are enough
        failure.args = failure.literal = failure.members = None
        failure.attributes = {}
    return failure


def rebuild(failure: Failure) -> Exception:
    """The exception that was recorded, or a TaskFailed where it cannot be rebuilt."""
    try:
        kind = _class_of(failure.type)
        if kind is None:
            return TaskFailed(failure.type, failure.message)
        if failure.members is not None:
            members = [rebuild(member) for member in failure.members]
            error = kind.__new__(kind, failure.message, members)
        else:
            args = [failure.message] if failure.args is None else failure.args
            if failure.literal is not None:
                args = ast.literal_eval(failure.literal)
            error = _instance(kind, tuple(args))
        _set_attributes(error, failure.attributes)
        same = failure.members is not None or _message(error)[:MESSAGE_LIMIT] == failure.message
        if same and isinstance(error, Exception):
            return error
    except Exception:  # user code: a class that cannot be made without its __init__
        pass
    return TaskFailed(failure.type, failure.message)


def describe(payload: bytes) -> str:
    """A recorded failure in one line: type and message."""
    failure = Failure.parse(payload)
    return f"{failure.type.rpartition(':')[2]}: {failure.message}"


def marks_in(error: BaseException, run: int) -> Iterator[Mark]:
    """The marks of the recorded failures of ``run`` from which ``error`` results.

    The error's own mark if it has one, else those of its group's members and its ``__cause__``;
    never those of its ``__context__``, which an ``except`` block has handled.
    """
    pending, seen = [error], set()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        mark = mark_of(each)
        if mark is not None and mark.run == run:
            yield mark
            continue
        if isinstance(each, BaseExceptionGroup):
            pending.extend(each.exceptions)
        if each.__cause__ is not None:
            pending.append(each.__cause__)


def mark_of(error: BaseException) -> Mark | None:
    """The mark on ``error``; ``None`` where it is no recorded call's failure."""
    return getattr(error, "__dict__", {}).get(MARK)


def drop_mark(error: BaseException) -> None:
    """Take the mark off an error that leaves its run."""
    getattr(error, "__dict__", {}).pop(MARK, None)


def set_mark(error: BaseException, mark: Mark) -> None:
    """Mark ``error`` as the failure of a recorded call."""
    error.__dict__[MARK] = mark


def set_origin(error: BaseException, original: BaseException) -> None:
    """Give a rebuilt error the traceback, cause and context of the one that was raised."""
    for name in ("__traceback__", "__cause__", "__context__", "__suppress_context__"):
        # Not setattr: classes of users may be frozen.
        BaseException.__setattr__(error, name, getattr(original, name))


def extend_mark(error: BaseException, task_ids: list[str]) -> None:
    """Add other recorded failures to those that ended a marked error's call."""
    mark = mark_of(error)
    if mark is not None:
        others = [each for each in task_ids if each not in (mark.task_id, *mark.ended_by)]
        set_mark(error, structs.replace(mark, ended_by=(*mark.ended_by, *others)))


def _instance(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = kind.__new__(kind, *args)
    # The nearest __init__ that is C code (of OSError, KeyError, …) sets the fields that live there.
    for base in kind.__mro__:
        init = base.__dict__.get("__init__")
        if isinstance(init, WrapperDescriptorType):
            init(error, *args)
            break
    return error


def _attributes(error: BaseException) -> Iterator[tuple[str, Any]]:
    yield from getattr(error, "__dict__", {}).items()
    for name in _members(type(error)):
        value = getattr(error, name, None)
        if value is not None:
            yield name, value


def _set_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    members = _members(type(error))
    for name, value in attributes.items():
        if name not in members:
            error.__dict__[name] = value
        elif getattr(error, name, None) != value:
            BaseException.__setattr__(error, name, value)


def _members(kind: type[BaseException]) -> set[str]:
    """Attributes stored outside ``__dict__``: in slots, or in C (``name`` of ImportError)."""
    return {
        name
        for base in kind.__mro__
        for name, member in base.__dict__.items()
        if isinstance(member, MemberDescriptorType) and not name.startswith("__")
    }


def _literal(args: list[Any]) -> str | None:
    """The arguments as a Python literal (tuples, bytes, int keys, …), if that is exact."""
    try:
        literal = repr(args)
        return literal if difference(args, ast.literal_eval(literal)) is None else None
    except Exception:  # no literal, or a failing __repr__ of user code
        return None


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """The arguments that rebuild the error: OSError keeps a file's name out of its ``args``."""
    if isinstance(type(error).__reduce__, MethodDescriptorType):
        given = error.__reduce__()[1]
        if isinstance(given, tuple):
            return given
    return error.args


def _class_of(name: str) -> type[BaseException] | None:
    module_name, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        # Not getattr: a module's __getattr__ may import what is asked of it.
        found = getattr(found, "__dict__", {}).get(part)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    return _local_class(module_name, qualname)


def _local_class(module_name: str, qualname: str) -> type[BaseException] | None:
    """A class defined in a function: the newest live one of that name."""
    pending: list[type[BaseException]] = [Exception]
    seen: set[type] = set()
    found = None
    while pending:
        for child in type.__subclasses__(pending.pop()):
            if child not in seen:
                seen.add(child)
                pending.append(child)
                if child.__qualname__ == qualname and child.__module__ == module_name:
                    found = child
    return found


def _type_name(kind: type[BaseException]) -> str:
    return _printable(f"{kind.__module__}:{kind.__qualname__}")


def _message(error: BaseException) -> str:
    try:
        return _printable(str(error))
    except Exception:
        return f"<{type(error).__qualname__} without a readable message>"


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
