"""Whether a value and its decoded form are the same, type by type, and where they differ."""

from __future__ import annotations

import dataclasses
import marshal
import sys
from collections.abc import Set
from datetime import datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec

__all__ = (
    "SCALARS",
    "are_same",
    "difference",
    "fields_of",
    "has_fixed_zone",
    "is_pydantic",
    "is_same_leaf",
    "is_told_by_marshal",
)

SCALARS: Final = frozenset({int, str, bool, type(None)})
LEAVES: Final = SCALARS | {float, bytes, bytearray}


def are_same(value: Any, decoded: Any, *, by_marshal: bool = True) -> bool:
    """Whether two values are equal and of the same types at every depth.

    ``by_marshal`` where no type inside them needs a closer look (`is_told_by_marshal`).
    """
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


def is_told_by_marshal(node: msgspec.inspect.Type) -> bool:
    """Whether different values of a type always have different marshalled forms.

    Not those of buffers, which marshal writes alike whatever their type, and not dictionaries that
    may have a NaN as a key.
    """
    inspect = msgspec.inspect
    if isinstance(node, inspect.DictType):
        return isinstance(node.key_type, inspect.StrType | inspect.IntType | inspect.AnyType)
    buffers = inspect.BytesType | inspect.ByteArrayType | inspect.MemoryViewType
    return not isinstance(node, buffers | inspect.CustomType)


def difference(value: Any, decoded: Any) -> tuple[str, Any, Any] | None:
    """The first place in which two values differ, by type or by value: path, one, other.

    Iterative: a deeply nested value takes no more of the stack than a flat one.
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
        elif not (_is_container(one) or is_same_leaf(one, other)):
            return _path(place), one, other
    return None


# The position of a member inside a value: the position of its container, its key or name there,
# and whether that is a field's name. None: the value itself.
_Place: TypeAlias = "tuple[_Place, Any, bool] | None"


def _members(one: Any, other: Any, place: _Place) -> list[tuple[Any, Any, _Place]] | None:
    """The members of two values of one type in pairs; ``None`` where their numbers differ."""
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
    """Whether two values of this type are the same as soon as all their members are."""
    kind = type(value)
    return (
        kind in (list, tuple, dict)
        or isinstance(value, Set | msgspec.Struct)
        or dataclasses.is_dataclass(kind)
    )


def is_same_leaf(one: Any, other: Any) -> bool:
    """Whether two values of one type that have no members are the same."""
    try:
        if isinstance(one, Decimal):  # 1.0 equals 1.00, and 0 equals -0
            return bool(one == other) and one.as_tuple() == other.as_tuple()
        if isinstance(one, datetime | time):
            return _is_same_time(one, other)
        return bool(one == other)
    except Exception:  # a signalling NaN, or an object that cannot be compared
        return False


def _is_same_time(one: Any, other: Any) -> bool:
    """Whether two times are equal, also after an hour is added to both."""
    if (one.tzinfo is None) != (other.tzinfo is None) or not has_fixed_zone(one):
        return False
    # Equal times may differ in `fold`: the first and the second 02:30 of a night in autumn.
    return bool(one == other and one.fold == other.fold and one.utcoffset() == other.utcoffset())


def has_fixed_zone(value: datetime | time) -> bool:
    """Whether a time has no time zone, or one with the same offset at all times.

    JSON carries an offset, and no other zone.
    """
    zone = value.tzinfo
    try:
        return zone is None or zone.utcoffset(None) is not None
    except Exception:  # of a zone that needs to know when
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
    if is_pydantic(kind):
        model: Any = value
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        return (*kind.model_fields, *(extra or ()), *(private or ()))
    return ()


def is_pydantic(annotation: object) -> bool:
    """Whether it is a model class of pydantic, which is not imported for that."""
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(annotation, type)
        and issubclass(annotation, pydantic.BaseModel)
    )
