"""Values to bytes and back: the one door to ``msgspec.json``.

A `Codec` belongs to one annotation. What it encodes it decodes again at once and compares, so that
the first run sees what every rerun will see, and what would not come back as it was is an error
instead of a silent change.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import marshal
import math
import re
import sys
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, Final, TypeAlias, Union, get_args, get_origin

import msgspec

from taskflow.errors import SerializationError
from taskflow.loops.promises import room_for
from taskflow.records import Wait

__all__ = (
    "NESTING_LIMIT",
    "Codec",
    "annotation_for",
    "canonical_json",
    "decode_attempts",
    "decode_plain",
    "decode_waits",
    "encode_pause",
    "encode_plain",
    "is_plain",
    "json_schema",
    "nesting",
)

# Python 3.11 reads about 900 levels back from a shallow stack; 3.13 several thousand.
NESTING_LIMIT: Final = 400

# No fault of a value or its annotation: what is nested too deep is refused before it is read.
FROM_ELSEWHERE: Final = MemoryError, RecursionError

# What msgspec reads, and Python where nobody called sys.set_int_max_str_digits().
INT_DIGITS: Final = 4300

SCALARS: Final = frozenset({int, str, bool, type(None)})
LEAVES: Final = SCALARS | {float, bytes, bytearray}
NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")


def _to_builtin(value: Any) -> Any:
    """What msgspec is to encode in place of an object that it does not know: pydantic models."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        # By alias, as it is read back.
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    raise NotImplementedError(f"JSON has no form for objects of type {type(value).__qualname__}")


def _to_fields(value: Any) -> Any:
    """The same for what is not read back, but must tell values apart.

    A dump hides secrets, leaves excluded fields out, and writes sets in an order of their own.
    """
    if _is_pydantic(type(value)):
        return {name: getattr(value, name, None) for name in fields_of(value)}
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.AnyUrl):
        return str(value)
    raise NotImplementedError(f"JSON has no form for objects of type {type(value).__qualname__}")


def _from_builtin(annotation: type, value: Any) -> Any:
    """The object of a type that msgspec does not know: pydantic models, and any object."""
    if _is_pydantic(annotation):
        return annotation.model_validate(value)  # type: ignore[attr-defined]
    if annotation is object:
        return value
    raise NotImplementedError(f"{annotation!r} cannot be read back from JSON")


def _is_pydantic(annotation: object) -> bool:
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(annotation, type)
        and issubclass(annotation, pydantic.BaseModel)
    )


_encoder = msgspec.json.Encoder(enc_hook=_to_builtin)
_sorting_encoder = msgspec.json.Encoder(enc_hook=_to_fields, order="sorted")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

encode_plain = _encoder.encode
decode_plain = _decoder.decode


def canonical_json(value: Any) -> bytes:
    """JSON with keys and sets in an order that is the same in every process."""
    try:
        return _sorting_encoder.encode(value)
    except TypeError:  # members of a set that cannot be compared, such as those of an enum
        return _sorting_encoder.encode(_with_sorted_sets(value))


def _with_sorted_sets(value: Any) -> Any:
    """A copy in which the members of sets are sorted by their canonical JSON."""
    if isinstance(value, Set):
        return [msgspec.Raw(each) for each in sorted(map(canonical_json, value))]
    if isinstance(value, dict):
        return {key: _with_sorted_sets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_sorted_sets(each) for each in value]
    names = fields_of(value)
    if not names:
        return value
    fields = {name: _with_sorted_sets(getattr(value, name, None)) for name in names}
    if _is_pydantic(type(value)):
        return fields
    copied = copy.copy(value)
    force = (
        msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    )
    for name, item in fields.items():
        force(copied, name, item)
    return copied


def nesting(payload: bytes) -> int:
    """How deep the arrays and objects of a JSON text are nested, or at most `NESTING_LIMIT` + 1."""
    if payload.count(b"[") + payload.count(b"{") <= NESTING_LIMIT:
        return 0
    if b"\\" in payload:
        payload = payload.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(payload.split(b'"')[::2])  # of text, which may hold brackets too
    brackets = outside.translate(AS_BRACKETS, NOT_BRACKETS)
    for depth in range(NESTING_LIMIT + 1):
        if not brackets:
            return depth
        brackets = brackets.replace(b"[]", b"")  # the innermost pairs
    return NESTING_LIMIT + 1


def is_plain(value: object) -> bool:
    """Whether JSON carries ``value`` exactly, without any annotation."""
    try:
        payload = _encoder.encode(value)
        return nesting(payload) <= NESTING_LIMIT and _same(value, _decoder.decode(payload))
    except Exception:  # also of code of the user's
        return False


def encode_pause(waits: Sequence[Wait], attempts: Mapping[str, int]) -> bytes:
    """What is recorded of a paused run: its waits, and the attempts that are under way.

    These by the id of their call, "" for the run itself, and only later ones than the first.
    """
    return encode_plain({"waits": waits, "attempts": attempts})


def decode_waits(payload: bytes | None) -> list[Wait]:
    """The waits of a paused run."""
    if payload is None:
        return []
    return [Wait(**fields) for fields in decode_plain(payload)["waits"]]


def decode_attempts(payload: bytes | None) -> dict[str, int]:
    """The attempts of a paused run that were under way."""
    return {} if payload is None else decode_plain(payload)["attempts"]


def json_schema(annotation: Any) -> dict[str, Any] | None:
    """What JSON an annotation is decoded from, as JSON Schema; ``None`` where that is not told."""
    if _is_pydantic(annotation):
        return annotation.model_json_schema()  # type: ignore[no-any-return]
    try:
        return msgspec.json.schema(annotation)
    except (TypeError, NotImplementedError, RecursionError):
        return None


class Codec:
    """Encodes and decodes the values of one annotation.

    Raises SerializationError where nothing of that annotation could be read back.
    """

    def __init__(self, annotation: Any, what: str, *, of_parameters: bool = False) -> None:
        self.annotation = annotation
        self._what = what
        self._of_parameters = of_parameters  # values are arguments by parameter
        self._scalars = _scalars_of(annotation)
        annotation = Any if annotation is object else annotation
        try:
            types = _types_in(annotation)
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
                annotation, dec_hook=_from_builtin
            )
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # also of code of the user's
            raise SerializationError(
                f"{what} is annotated {_name(annotation)}, which cannot be read back from a "
                f"record ({error}): annotate a type that msgspec decodes"
            ) from error
        self._is_told_by_marshal = not any(map(_is_blurred, types))
        for each in types:
            if isinstance(each, msgspec.inspect.CustomType) and not _is_readable(each.cls):
                raise SerializationError(
                    f"{what} is annotated {_name(annotation)}, and {_name(each.cls)} cannot be "
                    "read back from a record: return a Struct, a dataclass or builtin values "
                    "instead"
                )

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """The recorded form of ``value``, and ``value`` as it is decoded from that.

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
        except Exception as error:  # also of code of the user's, such as __post_init__
            raise SerializationError(
                f"{self._what} do not fit: {error!s}; {self._advice(value, str(error))}"
                if self._of_parameters
                else f"{self._what} does not fit its annotation {_name(self.annotation)}: {error}; "
                f"{self._advice(value, '')}"
            ) from error
        if not _same(value, decoded, by_marshal=self._is_told_by_marshal):
            raise SerializationError(self._difference(value, decoded))
        return payload, decoded

    def decode(self, payload: bytes) -> Any:
        """The value of a recorded form.

        Raises SerializationError where it does not fit the annotation, which changed since.
        """
        try:
            return self._decoder.decode(payload)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # also of code of the user's, such as __post_init__
            raise SerializationError(
                f"{self._what} was recorded as {payload[:200]!r}, which does not fit its "
                f"annotation {_name(self.annotation)} any more: {error}; give the task a new "
                "version=, or forget the record"
            ) from error

    def _encode(self, value: Any) -> bytes:
        try:
            return _encoder.encode(value)
        except MemoryError:
            raise
        except RecursionError as error:
            room_for(NESTING_LIMIT)()  # or the code stands too deep, whatever the value is
            raise SerializationError(
                f"{self._what} holds itself, or is nested too deep for JSON"
            ) from error
        except Exception as error:  # also of code of the user's
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
        if not isinstance(before, float) and not _is_same_leaf(before, before):
            return f"{reason}: it does not equal itself; use None or text for it"
        return f"{reason}: {self._advice(value, where)}"

    def _advice(self, value: Any, where: str) -> str:
        """The annotation to write; ``where`` tells which parameter's, of several."""
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
    """The first float inside builtin containers that JSON has no form for."""
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
    """The exact types whose values are their own decoded form under this annotation."""
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
    """Every type inside ``annotation``, and it itself."""
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


def _is_readable(kind: type) -> bool:
    """Whether `_from_builtin` makes objects of that type."""
    return kind is object or _is_pydantic(kind)


def _is_blurred(node: msgspec.inspect.Type) -> bool:
    """Whether different values of a type may have the same marshalled form.

    Buffers of all kinds have, and so has a NaN, which can be the key of a dictionary.
    """
    inspect = msgspec.inspect
    if isinstance(node, inspect.DictType):
        return not isinstance(node.key_type, inspect.StrType | inspect.IntType | inspect.AnyType)
    buffers = inspect.BytesType | inspect.ByteArrayType | inspect.MemoryViewType
    return isinstance(node, buffers | inspect.CustomType)


def _same(value: Any, decoded: Any, *, by_marshal: bool = True) -> bool:
    if by_marshal:
        try:
            # Exact builtins all the way down: their marshalled forms tell 1, 1.0 and True apart,
            # and subclasses cannot be marshalled. 10x faster than walking both (version 2 has no
            # back references, which depend on how often an object is shared).
            if marshal.dumps(value, 2) == marshal.dumps(decoded, 2):
                return True
        except ValueError:
            pass
    return difference(value, decoded) is None


def difference(value: Any, decoded: Any) -> tuple[str, Any, Any] | None:
    """The first place in which two values differ, by type or by value: path, one, other.

    It takes no more of the stack for a deeply nested value.
    """
    pending: list[tuple[Any, Any, _Place]] = [(value, decoded, None)]
    while pending:
        one, other, place = pending.pop()
        kind = type(one)
        if kind is not type(other):
            # An int is a float to every type checker (PEP 484): the same number comes back.
            if kind is int and type(other) is float and one == other:
                continue
            return _path(place), one, other
        if kind in LEAVES:
            if one != other or (kind is float and not one and repr(one) != repr(other)):
                return _path(place), one, other
            continue
        members = _members(one, other, place)
        if members is None:
            return _path(place), one, other
        if members:
            members.reverse()
            pending.extend(members)
        elif not (_is_container(one) or _is_same_leaf(one, other)):
            return _path(place), one, other
    return None


# Where something is inside a value: the place of what holds it, its name there, whether that is the
# name of a field. None: the value itself.
_Place: TypeAlias = "tuple[_Place, Any, bool] | None"


def _members(one: Any, other: Any, place: _Place) -> list[tuple[Any, Any, _Place]] | None:
    """What two values of one type hold, pair by pair; ``None`` where they do not hold as much."""
    kind = type(one)
    if kind is list or kind is tuple:
        if len(one) != len(other):
            return None
        pairs = enumerate(zip(one, other, strict=True))
        return [(*pair, (place, index, False)) for index, pair in pairs]
    if kind is dict:
        if len(one) != len(other):
            return None
        keys = [(*pair, place) for pair in zip(one, other, strict=True)]
        values = zip(one.items(), other.values(), strict=True)
        return keys + [(value, found, (place, key, False)) for (key, value), found in values]
    if isinstance(one, Set):
        if one != other:
            return None
        found = {each: each for each in other}
        return [(each, found[each], place) for each in one]
    return [
        (getattr(one, name, None), getattr(other, name, None), (place, name, True))
        for name in fields_of(one)
    ]


def _is_container(value: Any) -> bool:
    """Whether all that can be told of a value is what it holds."""
    kind = type(value)
    return (
        kind in (list, tuple, dict)
        or isinstance(value, Set | msgspec.Struct)
        or dataclasses.is_dataclass(kind)
    )


def _is_same_leaf(one: Any, other: Any) -> bool:
    """Whether two values of one type that hold no others are the same."""
    try:
        if isinstance(one, Decimal):  # 1.0 equals 1.00, and 0 equals -0
            return bool(one == other) and one.as_tuple() == other.as_tuple()
        # Equal times may still be two: the first and the second 02:30 of a night in autumn.
        return bool(one == other) and getattr(one, "fold", 0) == getattr(other, "fold", 0)
    except Exception:  # a signalling NaN, or an object that cannot be compared
        return False


def _path(place: _Place) -> str:
    parts: list[str] = []
    while place is not None:
        place, name, is_field = place
        parts.append(f".{name}" if is_field else f"[{name!r}]")
    return "".join(reversed(parts))


def fields_of(value: Any) -> tuple[str, ...]:
    """The names of the fields of a Struct, dataclass, NamedTuple, attrs or pydantic object."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return tuple(kind._fields)
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(field.name for field in kind.__attrs_attrs__)
    if _is_pydantic(kind):
        model: Any = value
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        return (*kind.model_fields, *(extra or ()), *(private or ()))
    return ()


def annotation_for(value: object, depth: int = 0) -> str:
    """The annotation under which ``value`` would come back: what errors advise to write."""
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
