"""`Codec`: the values of one annotation to bytes and back.

A value is decoded again as soon as it is encoded, and compared, so that the first run sees what
every rerun will see. A value that would not come back as it was is an error, never a silent change.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Set
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from taskflow.errors import SerializationError
from taskflow.loops.promises import room_for
from taskflow.wire.differences import (
    SCALARS,
    are_same,
    difference,
    is_same_leaf,
    is_told_by_marshal,
)
from taskflow.wire.json import (
    NESTING_LIMIT,
    decoder_for,
    encode_plain,
    is_readable,
    nesting,
)

__all__ = ("Codec", "annotation_for")

# Errors that say nothing about a value or its annotation; what is nested too deep is refused first.
FROM_ELSEWHERE: Final = MemoryError, RecursionError

# The limit of msgspec, and of Python unless sys.set_int_max_str_digits() was called.
INT_DIGITS: Final = 4300


class Codec:
    """Encodes and decodes the values of one annotation.

    ``what`` names the values in errors. Raises SerializationError for an annotation whose values
    cannot be read back.
    """

    def __init__(self, annotation: Any, what: str, *, of_parameters: bool = False) -> None:
        self.annotation = annotation
        self._what = what
        self._of_parameters = of_parameters  # values are arguments by parameter
        self._scalars = _scalars_of(annotation)
        annotation = Any if annotation is object else annotation
        try:
            types = _types_in(annotation)
            self._decoder = decoder_for(annotation)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # of user code too
            raise SerializationError(
                f"{what} is annotated {_name(annotation)}, which cannot be read back from a "
                f"record ({error}): annotate a type that msgspec decodes"
            ) from error
        self._is_told_by_marshal = all(map(is_told_by_marshal, types))
        for each in types:
            if isinstance(each, msgspec.inspect.CustomType) and not is_readable(each.cls):
                raise SerializationError(
                    f"{what} is annotated {_name(annotation)}, and {_name(each.cls)} cannot be "
                    "read back from a record: return a Struct, a dataclass or builtin values "
                    "instead"
                )

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """The recorded form of ``value``, and the value that is decoded from it.

        Raises SerializationError, with the annotation to write, where the two differ.
        """
        kind = type(value)
        payload = self._encode(value)
        if kind in self._scalars and (kind is not int or len(payload) <= INT_DIGITS):
            return payload, value

        if nesting(payload) > NESTING_LIMIT:
            raise SerializationError(
                f"{self._what} is nested more than {NESTING_LIMIT} levels deep, more than every "
                "supported Python reads back: return a flatter value"
            )
        try:
            decoded = self._decoder.decode(payload)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # of user code too, such as __post_init__
            raise SerializationError(
                f"{self._what} do not fit: {error!s}; {self._advice(value, str(error))}"
                if self._of_parameters
                else f"{self._what} does not fit its annotation {_name(self.annotation)}: {error}; "
                f"{self._advice(value, '')}"
            ) from error
        if not are_same(value, decoded, by_marshal=self._is_told_by_marshal):
            raise SerializationError(self._difference(value, decoded))
        return payload, decoded

    def decode(self, payload: bytes) -> Any:
        """The value of a recorded form.

        Raises SerializationError where the annotation has changed since, and it no longer fits.
        """
        try:
            return self._decoder.decode(payload)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # of user code too, such as __post_init__
            raise SerializationError(
                f"{self._what} was recorded as {payload[:200]!r}, which does not fit its "
                f"present annotation {_name(self.annotation)}: {error}; give the task a new "
                "version=, or forget the record"
            ) from error

    def _encode(self, value: Any) -> bytes:
        try:
            return encode_plain(value)
        except MemoryError:
            raise
        except RecursionError as error:
            room_for(NESTING_LIMIT)()  # raises if the stack was full, whatever the value is
            raise SerializationError(
                f"{self._what} holds itself, or is nested too deep for JSON"
            ) from error
        except Exception as error:  # of user code too
            raise SerializationError(
                f"{self._what} is {_short(value)}, which cannot be recorded as JSON: {error}; "
                "use builtin values (keys of dicts are text or numbers), a Struct or a dataclass"
            ) from error

    def _difference(self, value: Any, decoded: Any) -> str:
        where, before, after = difference(value, decoded) or ("", value, decoded)
        reason = (
            f"{self._what}{where and f', at {where},'} is {_short(before)} and would come back "
            f"from its record as {_short(after)}"
        )
        if not isinstance(before, float) and not is_same_leaf(before, before):
            return f"{reason}: it does not equal itself; use None or text for it"
        return f"{reason}: {self._advice(value, where)}"

    def _advice(self, value: Any, where: str) -> str:
        """The annotation to write; ``where`` leads to the parameter, where there are several."""
        number = _not_finite(value)
        if number is not None:
            return f"JSON has no {number}; use None or text for it"
        if not self._of_parameters:
            return f"annotate it as -> {annotation_for(value)}"
        named = re.search(r"\$\.(\w+)|^\['(\w+)'\]", where)
        name = (named[1] or named[2]) if named else None
        if name in value:
            return f"annotate the parameter {name}: {annotation_for(value[name])}"
        return "annotate the parameters with the types of what is passed"


def _not_finite(value: Any) -> float | None:
    """The first NaN or infinity inside builtin containers: JSON has no form for it."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, float):
            if not math.isfinite(each):
                return each
        elif isinstance(each, Mapping):
            pending.extend(each.values())
            pending.extend(each)
        elif isinstance(each, list | tuple | Set):
            pending.extend(each)
    return None


def _scalars_of(annotation: Any) -> frozenset[object]:
    """The builtin types whose values are their own decoded form under this annotation."""
    if annotation is Any or annotation is object:
        return SCALARS
    if annotation is None:
        return frozenset({type(None)})
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    types = frozenset(each for each in SCALARS if each in members)
    return types if len(types) == len(members) else frozenset()


def _is_union(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return origin is Union or getattr(origin, "__name__", "") == "UnionType"


def _types_in(annotation: Any) -> list[msgspec.inspect.Type]:
    """The type of ``annotation``, and all types inside it."""
    inspect = msgspec.inspect
    seen: dict[int, Any] = {}
    pending: list[Any] = [inspect.type_info(annotation)]
    while pending:
        node = pending.pop()
        if isinstance(node, list | tuple):
            pending.extend(node)
        elif isinstance(node, inspect.Type | inspect.Field) and id(node) not in seen:
            seen[id(node)] = node
            pending.extend(getattr(node, name) for name in node.__struct_fields__)
    return list(seen.values())


def annotation_for(value: object, depth: int = 0) -> str:
    """The annotation under which ``value`` would come back, for the advice in errors."""
    kind = type(value)
    if value is None:
        return "None"
    if depth > 3:
        return "..."
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind.__qualname__
    if isinstance(value, tuple):
        members = ", ".join(annotation_for(member, depth + 1) for member in value[:5])
        return f"tuple[{members or '()'}{', ...' if len(value) > 5 else ''}]"
    if isinstance(value, list | Set):
        name = "list" if isinstance(value, list) else kind.__name__
        inner = sorted({annotation_for(member, depth + 1) for member in list(value)[:20]})
        return f"{name}[{' | '.join(inner)}]" if inner else name
    if isinstance(value, Mapping):
        keys = sorted({annotation_for(key, depth + 1) for key in list(value)[:20]})
        values = sorted({annotation_for(item, depth + 1) for item in list(value.values())[:20]})
        return f"dict[{' | '.join(keys)}, {' | '.join(values)}]" if keys else "dict"
    if isinstance(value, enum.Enum) or kind.__module__ != "builtins":
        return kind.__qualname__
    return kind.__name__


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "?"
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__qualname__})"
