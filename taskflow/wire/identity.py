"""Who is who: only this module decides what a task id is.

A task id is ``name:`` and the hex of a 128-bit BLAKE2b digest over the parent's digest, the task's
name and version, the arguments as canonical JSON (or the task's key), and the occurrence. None of
the parts can hold a line break, so a line break parts them.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime, time, timedelta
from hashlib import blake2b
from typing import Any, Final

from msgspec import UNSET, Raw, Struct

from taskflow.errors import SerializationError
from taskflow.wire.codec import (
    NESTING_LIMIT,
    canonical_json,
    decode_plain,
    difference,
    encode_plain,
    fields_of,
)

__all__ = (
    "MAX_ID_BYTES",
    "Binder",
    "are_immutable",
    "canonical_arguments",
    "check_exact",
    "check_id",
    "check_text",
    "exact_json",
    "fingerprint",
    "idempotency_key",
    "is_text",
    "key_json",
    "name_part",
    "run_digest",
    "signal_id",
    "where_of",
)

MAX_ID_BYTES: Final = 512

# Types whose JSON alone tells which they are.
JSON_TYPES: Final = frozenset({type(None), bool, int, float, str, list, dict})
SCALARS: Final = frozenset({type(None), bool, int, str})


def check_id(value: object, what: str) -> str:
    """``value`` if it can name a thread or run; ``what`` says which.

    Raises TypeError or ValueError otherwise.
    """
    text = check_text(value, what)
    if not text or "\0" in text:
        raise ValueError(f"a {what} is not empty and holds no NUL, got {text!r}")
    if (size := len(text.encode())) > MAX_ID_BYTES:
        raise ValueError(f"a {what} takes at most {MAX_ID_BYTES} bytes of UTF-8, got {size}")

    return str(text)


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode it: lone surrogates are no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_json(key: object, what: str) -> bytes:
    """JSON of what a key function gave; ``what`` says which. Raises TypeError or ValueError."""
    if not isinstance(key, str):
        raise TypeError(f"{what} must be text, got {key!r}")
    if not is_text(key):
        raise ValueError(f"{what} is text that UTF-8 can encode, got {key!r}")

    return encode_plain(str(key))


def check_text(value: object, what: str) -> str:
    """``value`` if it can be looked for among ids of any kind; ``what`` says which it is.

    Raises TypeError or ValueError otherwise.
    """
    if not isinstance(value, str):
        raise TypeError(f"a {what} is text, got {type(value).__qualname__}")
    if not is_text(value):
        raise ValueError(f"a {what} is text that UTF-8 can encode, got {value!r}")

    return value


def run_digest(run_id: str) -> bytes:
    """What stands for the parent in the ids of a run's direct calls: 16 bytes."""
    return blake2b(run_id.encode(), digest_size=16, person=b"run").digest()


def name_part(name: str, version: str) -> bytes:
    """A task's share of its calls' digests; its line break ends it."""
    return canonical_json([name, version]) + b"\n"


def idempotency_key(thread_id: str, call_id: str) -> str:
    """32 hex digits that stand for one call on one thread, whoever executes it and how often."""
    return hashlib.blake2b(f"{thread_id}\0{call_id}".encode(), digest_size=16).hexdigest()


def signal_id(name: str, given: str) -> str:
    """The id of a signal's row on its thread, from the id that its sender gave it."""
    return f"{name}:{blake2b(given.encode(), digest_size=16, person=b'signal').hexdigest()}"


def fingerprint(part: bytes, arguments: bytes) -> str:
    """What two runs have in common that are the same workflow with the same input."""
    return blake2b(part + arguments, digest_size=16, person=b"input").hexdigest()


def where_of(fn: Callable[..., Any]) -> str:
    """``module.qualname`` of a function, a method, a partial's function or a callable object."""
    while (inner := getattr(fn, "func", None)) is not None:
        fn = inner
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


class Binder:
    """Binds what a caller passed to the names of a function's parameters."""

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self.name = name
        self.signature = inspect.signature(fn)
        parameters = self.signature.parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._positional = tuple(each.name for each in parameters if each.kind in positional)
        required = {
            each.name
            for each in parameters
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        }
        kinds = {each.kind for each in parameters}
        self._takes_keywords = kinds <= {
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        }
        self.variadic = frozenset(
            each.name for each in parameters if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        )
        # So many positional arguments, and nothing else, need no closer look.
        needed = sum(name in required for name in self._positional)
        first = self._positional[:needed]
        simple = required == set(first)
        self._simple_counts = range(needed, len(self._positional) + 1) if simple else range(0)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name, without the defaults that were not passed.

        Raises TypeError where they do not fit the signature.
        """
        if not kwargs and len(args) in self._simple_counts:
            if len(args) == 1:
                return {self._positional[0]: args[0]}
            return dict(zip(self._positional, args, strict=False))

        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None

    def unbind(self, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inverse of `bind`: positional and keyword arguments."""
        if self._takes_keywords:
            return (), arguments
        bound = inspect.BoundArguments(self.signature, OrderedDict(arguments))
        return bound.args, bound.kwargs


def canonical_arguments(
    arguments: dict[str, Any], name: str, variadic: frozenset[str] = frozenset()
) -> tuple[bytes, bytes]:
    """Arguments as canonical JSON with sorted keys, and the types that JSON does not tell.

    ``variadic`` names the parameters (``*args``, ``**kwargs``) that hold several arguments.

    Raises SerializationError where canonical JSON cannot carry one.
    """
    types: dict[str, Any] | None = None
    for parameter, value in arguments.items():
        kind = type(value)
        if kind in SCALARS:
            continue
        try:
            check_exact(value)
        except Exception as error:  # also of code of the user's
            raise _unfit(name, parameter, value, error) from error
        if kind not in JSON_TYPES:
            types = {} if types is None else types
            types[parameter] = kind.__qualname__
        if parameter in variadic and (told := _types_of_members(value)):
            types = {} if types is None else types
            types[parameter] = told
    try:
        payload = canonical_json(arguments)
        return payload, b"" if types is None else canonical_json(types)
    except Exception as error:  # also of code of the user's
        for parameter, value in arguments.items():
            try:
                canonical_json(value)
            except Exception as cause:
                raise _unfit(name, parameter, value, cause) from cause
        raise _unfit(name, "*", arguments, error) from error


def are_immutable(arguments: Iterable[object]) -> bool:
    """Whether no body could change any of them."""
    return SCALARS.issuperset(map(type, arguments))


def _types_of_members(several: Any) -> dict[str, str]:
    members = several.items() if isinstance(several, dict) else enumerate(several)
    return {
        str(place): type(member).__qualname__
        for place, member in members
        if type(member) not in JSON_TYPES
    }


def check_exact(value: Any, depth: int = 1) -> None:
    """Raise ValueError for what msgspec would change silently, or not read back everywhere.

    NaN, keys that are not text, times that text does not tell apart, fields that are left out, and
    too deep nesting.
    """
    kind = type(value)
    if kind in SCALARS:
        return
    if depth >= NESTING_LIMIT:  # arguments are members of an object themselves
        raise ValueError(f"it holds itself, or is nested more than {NESTING_LIMIT} levels deep")
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"JSON has no {value}")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not text")
            if type(item) not in SCALARS:
                check_exact(item, depth + 1)
    elif isinstance(value, Set):
        for member in value:
            if isinstance(member, Set):
                raise ValueError("a set of sets has no order to write it in")
            check_exact(member, depth + 1)
    elif names := fields_of(value):
        if hasattr(kind, "__attrs_attrs__"):
            _check_private(value)
        for name in names:
            member = getattr(value, name, None)
            if member is UNSET and _omits_defaults(kind):
                raise ValueError(f"JSON does not tell whether {name} is unset or its default")
            check_exact(member, depth + 1)
    elif isinstance(value, list | tuple):
        for member in value:
            if type(member) not in SCALARS:
                check_exact(member, depth + 1)
    elif isinstance(value, datetime | time):
        _check_time(value)
    elif kind is Raw:
        raise ValueError("it is JSON already, which nobody has checked")


def exact_json(value: Any, what: str) -> bytes:
    """JSON of a value that has no annotation; ``what`` says which.

    Raises SerializationError where JSON cannot carry it, or not every Python would read it back.
    """
    try:
        check_exact(value)
        payload = encode_plain(value)
        decode_plain(payload)
    except Exception as error:  # also of code of the user's
        raise SerializationError(f"{what} cannot be written as JSON: {error}") from error
    return payload


def _check_time(value: datetime | time) -> None:
    offset = value.utcoffset()
    if offset is None:
        if value.fold:
            raise ValueError("JSON has no fold: give it a time zone")
    elif offset % timedelta(minutes=1):
        raise ValueError(f"JSON has no time zone of {offset}, only of whole minutes")


def _check_private(value: Any) -> None:
    """Raise ValueError for a private attribute of attrs that is not as it would be made."""
    for attribute in type(value).__attrs_attrs__:
        name = attribute.name
        if name.startswith("_") and difference(getattr(value, name, None), attribute.default):
            raise ValueError(f"the attribute {name} is private, and JSON would leave it out")


def _omits_defaults(kind: type) -> bool:
    return issubclass(kind, Struct) and kind.__struct_config__.omit_defaults


def _unfit(name: str, parameter: str, value: object, error: BaseException) -> SerializationError:
    return SerializationError(
        f"{name}(): the argument {parameter} ({type(value).__qualname__}) cannot be part of the "
        f"call's identity: {error}; give {name} a key of the arguments that tell its calls "
        "apart, such as key=lambda order, client: order.id"
    )
