"""The types inside a value that its JSON does not show: dates in a list, members of an enum.

Only this module decides which they are: those of every value that is not exactly None, a bool, int,
float, str, list or dict, keys of dicts included.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import compress
from operator import itemgetter
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct

from taskflow.wire.differences import fields_of
from taskflow.wire.json import canonical_json

__all__ = ("JSON_TYPES", "types_within")

# Types that can be told from their JSON, and those of them that hold nothing.
JSON_TYPES: Final = frozenset({type(None), bool, int, float, str, list, dict})
LEAVES: Final = JSON_TYPES - {list, dict}
# Types whose values hold nothing either: most of what arguments hold, so they are not looked into.
ATOMS: Final = frozenset({date, datetime, time, timedelta, UUID, Decimal, bytes, bytearray})

# How a member is found in what holds it: its index, its name, its key, or a key and the key's type.
_Key: TypeAlias = "int | str | list[str]"


def types_within(value: Any, name: str, *, levels: int) -> list[Any]:
    """The qualified names of the types inside ``value``, and where they are; [] if there are none.

    A flat list of depth, key and type for each value that has such a type, and for each that leads
    to one, whose type is "". It does not depend on the order of keys, members and fields. Left out
    are the types of the first ``levels`` levels, which the caller tells. ``name`` is the key of the
    value itself.
    """
    if levels and _holds_leaves(value, type(value)):
        return []  # most arguments are such

    found: list[Any] = []
    trail: list[_Key] = []  # to the value in hand
    told = 0  # how many of these keys are in `found`
    pending: list[tuple[Any, _Key]] = [(value, name)]
    depths = [0]  # of what is pending
    while pending:
        (value, key), depth = pending.pop(), depths.pop()
        kind = type(value)
        trail[depth:] = [key]
        told = min(told, depth)
        if depth >= levels and (kind not in JSON_TYPES or type(key) is list):
            for level in range(told, depth):
                found += (level, trail[level], "")
            found += (depth, key, "" if kind in JSON_TYPES else kind.__qualname__)
            told = depth + 1
        if kind in LEAVES or kind in ATOMS or _holds_leaves(value, kind):
            continue
        if isinstance(value, Set):
            for text, types in _members_of_set(value):
                for level in range(told, depth + 1):
                    found += (level, trail[level], "")
                told = depth + 1
                found += (depth + 1, text, types)
        elif members := _members(value, kind):
            members.reverse()
            pending += members
            depths += [depth + 1] * len(members)
    return found


def _holds_leaves(value: Any, kind: type) -> bool:
    """Whether it is a list, tuple or dict of JSON's own types that hold nothing."""
    if kind is list or kind is tuple:
        return set(map(type, value)) <= LEAVES
    return kind is dict and {*map(type, value), *map(type, value.values())} <= LEAVES


def _members(value: Any, kind: type) -> list[tuple[Any, _Key]]:
    """The members that may have such a type, or hold one that has, in an order of their own."""
    if isinstance(value, dict):
        told = [
            (item, str.__str__(key), type(key))
            for key, item in value.items()
            if type(key) is not str or type(item) not in LEAVES
        ]
        told.sort(key=itemgetter(1))
        return [
            (item, text if kind is str else [text, kind.__qualname__]) for item, text, kind in told
        ]
    if names := fields_of(value):
        return [*_fields(value, kind, names)]
    if not isinstance(value, list | tuple):
        return []
    return [(each, index) for index, each in enumerate(value) if type(each) not in LEAVES]


def _fields(value: Any, kind: type, names: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """Those among the fields of an object which stand in its JSON."""
    omitted: dict[str, Any] = {}
    if isinstance(value, Struct) and value.__struct_config__.omit_defaults:
        omitted = {each.name: each for each in msgspec.structs.fields(kind)}
    leaves_out_private = hasattr(kind, "__attrs_attrs__")
    for name in sorted(names):
        member = getattr(value, name, None)
        if type(member) in LEAVES or member is UNSET or (leaves_out_private and name[0] == "_"):
            continue
        field = omitted.get(name)
        if field is not None and (member is field.default or _is_made_empty(member, field)):
            continue
        yield member, name


def _is_made_empty(member: Any, field: msgspec.structs.FieldInfo) -> bool:
    return type(member) is field.default_factory and isinstance(member, Set) and not member


def _members_of_set(members: Any) -> list[tuple[str, list[Any]]]:
    """The members of a set that have such types, as their JSON, with the types, in that order."""
    kinds = [*map(type, members)]
    if LEAVES.issuperset(kinds):
        return []
    typed = compress(members, (kind not in LEAVES for kind in kinds))
    told = ((canonical_json(each).decode(), types_within(each, "", levels=0)) for each in typed)
    return [(text, types) for text, _, types in sorted((t, canonical_json(w), w) for t, w in told)]
