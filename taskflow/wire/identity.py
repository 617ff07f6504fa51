"""Ids: only this module decides what a task id is.

A task id is ``name:`` and the hex of a 128-bit BLAKE2b digest over the parent's digest, the task's
name and version, the arguments as canonical JSON with the types that it does not show (or the
task's key), and the occurrence. A line break, which none of the parts can contain, separates them.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

from taskflow.errors import SerializationError
from taskflow.wire.differences import SCALARS
from taskflow.wire.json import canonical_json, encode_plain
from taskflow.wire.plain import check_exact
from taskflow.wire.types import JSON_TYPES, types_within

__all__ = (
    "MAX_ID_BYTES",
    "Binder",
    "are_immutable",
    "canonical_arguments",
    "check_id",
    "check_text",
    "fingerprint",
    "idempotency_key",
    "is_text",
    "key_json",
    "marked_input",
    "name_part",
    "outer_types",
    "run_digest",
    "signal_id",
    "tells_types_within",
    "where_of",
)

MAX_ID_BYTES: Final = 512


def check_id(value: object, what: str) -> str:
    """``value`` if it can name a thread or run, which errors call ``what``.

    Raises TypeError or ValueError otherwise.
    """
    text = check_text(value, what)
    if not text or "\0" in text:
        raise ValueError(f"a {what} is not empty and holds no NUL, got {text!r}")
    if (size := len(text.encode())) > MAX_ID_BYTES:
        raise ValueError(f"a {what} takes at most {MAX_ID_BYTES} bytes of UTF-8, got {size}")

    return str(text)


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode it, as it cannot encode lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_json(key: object, what: str) -> bytes:
    """The JSON of a key function's result, which errors call ``what``.

    Raises TypeError or ValueError where it is no text.
    """
    if not isinstance(key, str):
        raise TypeError(f"{what} must be text, got {key!r}")
    if not is_text(key):
        raise ValueError(f"{what} is text that UTF-8 can encode, got {key!r}")

    return encode_plain(str(key))


def check_text(value: object, what: str) -> str:
    """``value`` if it is text that may be compared with ids; errors call it ``what``.

    Raises TypeError or ValueError otherwise.
    """
    if not isinstance(value, str):
        raise TypeError(f"a {what} is text, got {type(value).__qualname__}")
    if not is_text(value):
        raise ValueError(f"a {what} is text that UTF-8 can encode, got {value!r}")

    return value


def run_digest(run_id: str) -> bytes:
    """The parent's digest in the ids of a run's direct calls: 16 bytes."""
    return blake2b(run_id.encode(), digest_size=16, person=b"run").digest()


def name_part(name: str, version: str) -> bytes:
    """The name and version in the digests of a task's calls, with the line break after them."""
    return canonical_json([name, version]) + b"\n"


def idempotency_key(thread_id: str, call_id: str) -> str:
    """32 hex digits for one call on one thread: the same in every attempt, rerun and process."""
    return hashlib.blake2b(f"{thread_id}\0{call_id}".encode(), digest_size=16).hexdigest()


def signal_id(name: str, given: str) -> str:
    """The id of a signal's row on its thread, made from the sender's id for the signal."""
    return f"{name}:{blake2b(given.encode(), digest_size=16, person=b'signal').hexdigest()}"


def fingerprint(part: bytes, arguments: bytes) -> str:
    """The digest of a workflow and its input: equal for runs of equal calls."""
    return blake2b(part + arguments, digest_size=16, person=b"input").hexdigest()


def where_of(fn: Callable[..., Any]) -> str:
    """``module.qualname`` of a function, method or callable object, or of a partial's function."""
    while (inner := getattr(fn, "func", None)) is not None:
        fn = inner
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


class Binder:
    """Binds a caller's arguments to the names of a function's parameters."""

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
        # The numbers of positional arguments that fit by themselves, without a signature.bind().
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
    """Arguments as canonical JSON with sorted keys, and the types that JSON does not show.

    The types are a JSON object of those of the arguments themselves and, after a line break, a JSON
    array of those inside of them (`types_within`); each is left out where it is empty. ``variadic``
    names the parameters (``*args``, ``**kwargs``) that hold several arguments.

    Raises SerializationError where canonical JSON cannot carry one.
    """
    types: dict[str, Any] | None = None
    within: list[Any] | None = None
    for parameter, value in arguments.items():
        kind = type(value)
        if kind in SCALARS:
            continue
        try:
            check_exact(value)
            found = types_within(value, parameter, levels=2 if parameter in variadic else 1)
        except Exception as error:  # of user code too
            raise _unfit(name, parameter, value, error) from error
        if found:
            within = [found] if within is None else [*within, found]
        if kind not in JSON_TYPES:
            types = {} if types is None else types
            types[parameter] = kind.__qualname__
        if parameter in variadic and (of_members := _types_of_members(value)):
            types = {} if types is None else types
            types[parameter] = of_members
    try:
        payload = canonical_json(arguments)
        shown = b"" if types is None else canonical_json(types)
        if within is None:
            return payload, shown
        return payload, b"%b\n%b" % (shown, canonical_json(sorted(within)))
    except Exception as error:  # of user code too
        for parameter, value in arguments.items():
            try:
                canonical_json(value)
            except Exception as cause:
                raise _unfit(name, parameter, value, cause) from cause
        raise _unfit(name, "*", arguments, error) from error


def outer_types(types: bytes) -> bytes:
    """Those of `canonical_arguments` without the types inside of the arguments."""
    return types.partition(b"\n")[0]


def marked_input(payload: bytes) -> bytes:
    """The input of a run that is begun now, whose ids tell the types inside of arguments.

    It ends in a space, which JSON ignores; that of a run which was begun by 0.3 does not.
    """
    return payload + b" "


def tells_types_within(payload: bytes) -> bool:
    """Whether the ids of a run with this input tell the types inside of arguments.

    A run keeps the ids that it was begun with: else an upgrade would execute its calls again.
    """
    return payload.endswith(b" ")


def are_immutable(arguments: Iterable[object]) -> bool:
    """Whether a body can change none of the arguments."""
    return SCALARS.issuperset(map(type, arguments))


def _types_of_members(several: Any) -> dict[str, str]:
    members = several.items() if isinstance(several, dict) else enumerate(several)
    return {
        str(place): type(member).__qualname__
        for place, member in members
        if type(member) not in JSON_TYPES
    }


def _unfit(name: str, parameter: str, value: object, error: BaseException) -> SerializationError:
    return SerializationError(
        f"{name}(): the argument {parameter} ({type(value).__qualname__}) cannot be part of the "
        f"call's identity: {error}; give {name} a key of the arguments that tell its calls "
        "apart, such as key=lambda order, client: order.id"
    )
