"""Exceptions to bytes and back: a rerun raises the failure that the first run raised.

An exception is recorded as its class, arguments, message, cause, and those attributes that have a
recorded form (`taskflow.wire.attributes`). It is rebuilt without running its ``__init__``, which
would garble messages or fail; a message that its class cannot make again is the recorded one. Only
classes that this process has imported are rebuilt: nothing named in a database is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from types import MethodDescriptorType
from typing import Any, Final

from msgspec import Struct, structs

from taskflow.errors import TaskFailed
from taskflow.retry import ANSWER, Answer, answer_of
from taskflow.wire import validations
from taskflow.wire.attributes import SIZE_LIMIT, Unrecordable, read, write
from taskflow.wire.classes import (
    MESSAGE,
    WithMessage,
    class_of,
    instance,
    members_of,
    name_of,
    printable,
    script_of,
    with_message,
)
from taskflow.wire.differences import difference
from taskflow.wire.json import decode_plain, encode_plain
from taskflow.wire.plain import is_plain

__all__ = (
    "Failure",
    "Mark",
    "copied",
    "describe",
    "drop_mark",
    "extend_mark",
    "mark_of",
    "marks_in",
    "rebuild",
    "record",
    "set_mark",
    "set_origin",
)

MARK: Final = "__taskflow_mark__"
OWN: Final = (MARK, ANSWER, MESSAGE)  # attributes that are none of the user's
FORM: Final = 1
MESSAGE_LIMIT: Final = 10_000  # characters; a rebuilt message is compared up to the same length
DEPTH_LIMIT: Final = (
    50  # exceptions inside another: of what is deeper, only the message is recorded
)
# Exceptions that occur again, in all: groups that share members, level by level, would otherwise be
# written 2**levels times.
REPEATS_LIMIT: Final = 10_000


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
    script: str | None = None  # the importable name of its module, which was the main script
    parts: list[Any] | None = None  # `args` in the form of `attributes.write`, if it is no literal
    state: dict[str, Any] = {}  # attributes in that form, which JSON does not carry
    cause: Failure | None = None
    answer: Answer | None = None  # the HTTP answer that it tells of
    form: int = 0  # of the record: FORM, or 0 up to taskflow 0.3

    @staticmethod
    def parse(payload: bytes) -> Failure:
        """The failure that `encode` wrote. Raises ValueError for other JSON."""
        try:
            fields = decode_plain(payload)
            if not isinstance(fields, dict):
                raise ValueError("not the record of a failure")
            return Failure.of(fields)
        except RecursionError as error:
            raise ValueError("groups of failures are nested too deep") from error

    @staticmethod
    def of(fields: dict[str, Any]) -> Failure:
        """The failure that was written as this object; what another version added is left out."""
        failure = Failure(**{name: fields[name] for name in FIELDS if name in fields})
        if failure.members is not None:
            failure.members = [Failure.of(member) for member in fields["members"]]
        if failure.cause is not None:
            failure.cause = Failure.of(fields["cause"])
        if failure.answer is not None:
            failure.answer = Answer(**fields["answer"])
        return failure

    def encode(self) -> bytes:
        """Its JSON."""
        return encode_plain(self)


FIELDS: Final = Failure.__struct_fields__


def record(error: BaseException, ended_by: tuple[str, ...] = (), given_up: bool = False) -> Failure:
    """The recorded form of ``error``; ``ended_by`` names the recorded failures that caused it.

    It never raises: a failure must not be lost because its user-defined methods fail.
    """
    failure = _recorded(error, _Walk())
    failure.ended_by = list(ended_by)
    failure.given_up = given_up
    return failure


class _Walk:
    """The exceptions met so far in one failure: members of groups, causes, attributes."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._path: list[int] = []
        self._repeats = 0

    def enter(self, error: BaseException) -> None:
        """Go into ``error``; what follows is what it holds, until `leave`."""
        self._path.append(id(error))
        self._known.add(id(error))

    def leave(self) -> None:
        """Go back to what holds the error."""
        self._path.pop()

    def may_enter(self, errors: Sequence[BaseException]) -> bool:
        """Whether what an exception holds is recorded."""
        self._repeats += sum(id(each) in self._known for each in errors)
        return len(self._path) <= DEPTH_LIMIT and self._repeats <= REPEATS_LIMIT

    def is_inside(self, error: BaseException) -> bool:
        """Whether ``error`` is one of those that hold the present one, or that one itself."""
        return id(error) in self._path


def _recorded(error: BaseException, walk: _Walk) -> Failure:
    kind = type(error)
    failure = Failure(type=name_of(kind), message=_message(error)[:MESSAGE_LIMIT], form=FORM)
    walk.enter(error)
    try:
        failure.script = script_of(kind)
        failure.answer = answer_of(error)
        _add_arguments(failure, error, walk)
        _add_attributes(failure, error, walk)
        cause = error.__cause__
        if cause is not None and not walk.is_inside(cause) and walk.may_enter([cause]):
            failure.cause = _recorded(cause, walk)
    except Exception:  # of user code: the class and the message are enough
        failure.args = failure.literal = failure.parts = failure.members = None
        failure.attributes, failure.state = {}, {}
    finally:
        walk.leave()
    return failure


def _add_arguments(failure: Failure, error: BaseException, walk: _Walk) -> None:
    """Record what the exception is made of, if that has a recorded form."""
    if isinstance(error, BaseExceptionGroup):
        if walk.may_enter(error.exceptions):
            failure.message = printable(error.message)[:MESSAGE_LIMIT]
            failure.members = [_recorded(each, walk) for each in error.exceptions]
        return
    args = list(_arguments(error))
    if is_plain(args):
        failure.args = args
        return
    failure.literal = _literal(args)
    if failure.literal is None:
        with suppress(Exception):  # of user code, too: the message stands for them
            failure.parts = [write(each, _writer(walk)) for each in args]


def _add_attributes(failure: Failure, error: BaseException, walk: _Walk) -> None:
    for name, value in _attributes(error):
        if type(name) is not str or not (name.isascii() or is_plain(name)):
            continue
        if is_plain(value):
            failure.attributes[name] = value
            continue
        with suppress(Exception):  # of user code, too: the others are recorded
            tree = write(value, _writer(walk))
            if len(encode_plain(tree)) <= SIZE_LIMIT:
                failure.state[name] = tree


def _writer(walk: _Walk) -> Callable[[BaseException], Failure]:
    """What writes the exceptions that another one holds as arguments and attributes."""

    def write_error(error: BaseException) -> Failure:
        if walk.is_inside(error) or not walk.may_enter([error]):
            raise Unrecordable("it is held by itself, or by too many others")
        return _recorded(error, walk)

    return write_error


def rebuild(failure: Failure, original: BaseException | None = None) -> Exception:
    """The exception that was recorded, or a TaskFailed where it cannot be rebuilt.

    ``original`` is the exception itself, where this process still has it: the rebuilt one is of the
    very class, though another one may have the same name, and its cause has the traceback.
    """
    error = _rebuilt(failure, original)
    return error if isinstance(error, Exception) else _stand_in(failure)


def _rebuilt(failure: Failure, original: BaseException | None = None) -> BaseException:
    error: BaseException | None = None
    try:
        kind = class_of(failure.type, failure.script)
        if kind is not None and issubclass(kind, BaseException):
            error = _made(_same_class(failure, kind, original), failure, original)
    except Exception:  # a record that does not fit today's class
        pass
    if error is None:
        error = _stand_in(failure)
    if failure.cause is not None:
        cause = None if original is None else original.__cause__
        error.__cause__ = _rebuilt(failure.cause, cause)
        if cause is not None:
            error.__cause__.__traceback__ = cause.__traceback__
    return error


def _stand_in(failure: Failure) -> TaskFailed:
    return TaskFailed(failure.type, failure.message)


def _same_class(
    failure: Failure, kind: type[BaseException], original: BaseException | None
) -> type[BaseException]:
    """The class of ``original``, if it is of that name."""
    if original is None or name_of(type(original)) != failure.type:
        return kind
    exact = type(original)
    return exact.__mro__[2] if issubclass(exact, WithMessage) else exact


def _made(
    kind: type[BaseException], failure: Failure, original: BaseException | None
) -> BaseException | None:
    """An exception of that class with the recorded message, arguments and attributes.

    Where its class makes another message of these, it gets the recorded one (`with_message`).
    """
    if failure.members is not None:
        originals = getattr(original, "exceptions", ())
        members = [
            rebuild(member, each)
            for member, each in zip_longest(failure.members, originals[: len(failure.members)])
        ]
        error = instance(kind, (failure.message, members))
        _set_attributes(error, failure)
        return error
    args = _arguments_of(failure)
    error = validations.made(kind, args) or instance(kind, args)
    _set_attributes(error, failure)
    if not _has_message(error, failure):
        _undo_init(error, failure, args)
    if _has_message(error, failure):
        return error
    if not failure.form:  # its first run met a stand-in, and so do the reruns
        return None
    try:
        error = instance(with_message(kind), args)
    except TypeError:  # a final class: another message is better than another class
        return error
    _set_attributes(error, failure)
    _undo_init(error, failure, args)
    error.__dict__[MESSAGE] = failure.message
    return error


def _has_message(error: BaseException, failure: Failure) -> bool:
    return _message(error)[:MESSAGE_LIMIT] == failure.message


def _undo_init(error: BaseException, failure: Failure, args: tuple[Any, ...]) -> None:
    """Take back what the ``__init__`` of OSError has made of ``args`` that a subclass set later."""
    if isinstance(error, OSError):
        error.args = args
        for name in ("errno", "strerror", "filename", "filename2"):
            if name not in failure.attributes and name not in failure.state:
                BaseException.__delattr__(error, name)  # it is None then


def _arguments_of(failure: Failure) -> tuple[Any, ...]:
    if failure.literal is not None:
        return tuple(ast.literal_eval(failure.literal))
    if failure.parts is not None:
        with suppress(LookupError, ValueError):
            return tuple(read(each, _read_error) for each in failure.parts)
    return (failure.message,) if failure.args is None else tuple(failure.args)


def _read_error(fields: Any) -> BaseException:
    return _rebuilt(fields if isinstance(fields, Failure) else Failure.of(fields))


def copied(error: BaseException) -> BaseException:
    """A shallow copy, to be raised by another caller; ``error`` itself where its class has none."""
    try:
        copy = instance(type(error), _arguments(error))
        if copy.args != error.args:
            copy.args = error.args
        copy.__dict__.update(error.__dict__)
        for name in members_of(type(error)):
            value = getattr(error, name, None)
            if getattr(copy, name, None) is not value:
                with suppress(AttributeError, TypeError):  # read-only, as the members of a group
                    BaseException.__setattr__(copy, name, value)
        copy.__cause__ = error.__cause__
    except Exception:  # of a class of the user's, or one that is made in its own way
        return error
    return copy


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
    """Give a rebuilt error the traceback and the context of the one that was raised."""
    for name in ("__traceback__", "__context__", "__suppress_context__"):
        # Not setattr: classes of users may be frozen.
        BaseException.__setattr__(error, name, getattr(original, name))


def extend_mark(error: BaseException, task_ids: list[str]) -> None:
    """Add other recorded failures to those that ended a marked error's call."""
    mark = mark_of(error)
    if mark is not None:
        others = [each for each in task_ids if each not in (mark.task_id, *mark.ended_by)]
        set_mark(error, structs.replace(mark, ended_by=(*mark.ended_by, *others)))


def _attributes(error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, value in getattr(error, "__dict__", {}).items():
        if name not in OWN:
            yield name, value
    for name in members_of(type(error)):
        value = getattr(error, name, None)
        if value is not None:
            yield name, value


def _set_attributes(error: BaseException, failure: Failure) -> None:
    attributes = dict(failure.attributes)
    for name, tree in failure.state.items():
        with suppress(Exception):  # a class that this process does not have, or another one now
            attributes[name] = read(tree, _read_error)
    members = members_of(type(error))
    for name, value in attributes.items():
        if name not in members:
            error.__dict__[name] = value
        elif getattr(error, name, None) != value:
            BaseException.__setattr__(error, name, value)
    if failure.answer is not None and answer_of(error) != failure.answer:
        error.__dict__[ANSWER] = failure.answer


def _literal(args: list[Any]) -> str | None:
    """The arguments as a Python literal (tuples, bytes, int keys, …), if that is exact."""
    try:
        literal = repr(args)
        return literal if difference(args, ast.literal_eval(literal)) is None else None
    except Exception:  # no literal, or a failing __repr__ of user code
        return None


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """The arguments that rebuild the error: OSError keeps a file's name out of its ``args``."""
    offered = validations.parts(error)
    if offered is not None:
        return offered
    if isinstance(type(error).__reduce__, MethodDescriptorType):
        given = error.__reduce__()[1]
        if isinstance(given, tuple):
            return given
    return error.args


def _message(error: BaseException) -> str:
    try:
        return printable(str(error))
    except Exception:
        return f"<{type(error).__qualname__} without a readable message>"
