"""Values without an annotation: whether JSON carries them exactly, or what it would change."""

from __future__ import annotations

import math
from collections.abc import Set
from datetime import datetime, time
from typing import Any

from msgspec import UNSET, Raw, Struct

from taskflow.errors import SerializationError
from taskflow.wire.advice import reason_against
from taskflow.wire.differences import SCALARS, are_same, difference, fields_of
from taskflow.wire.json import NESTING_LIMIT, decode_plain, encode_exact, encode_plain, nesting

__all__ = ("check_exact", "exact_json", "is_plain")


def is_plain(value: object) -> bool:
    """Whether ``value`` comes back from JSON as it was, without any annotation."""
    try:
        payload = encode_plain(value)
        return nesting(payload) <= NESTING_LIMIT and are_same(value, decode_plain(payload))
    except Exception:  # of user code too
        return False


def exact_json(value: Any, what: str, *, is_read_back: bool = True) -> bytes:
    """The JSON of a value, which the error calls ``what``.

    Where it is not read back, a model of pydantic may leave fields out, and hide secrets.

    Raises SerializationError where JSON cannot carry it, or not every Python would read it back.
    """
    try:
        check_exact(value)
        payload = encode_exact(value) if is_read_back else encode_plain(value)
        decode_plain(payload)
    except Exception as error:  # of user code too
        raise SerializationError(f"{what} cannot be written as JSON: {error}") from error
    return payload


def check_exact(value: Any, depth: int = 1) -> None:
    """Raise ValueError for a value that msgspec would change silently, or that is nested too deep.

    Changed silently are NaN, keys that are not text, times that their text does not tell apart, and
    fields that are omitted.
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
        raise ValueError("a msgspec.Raw is JSON already, and is not checked")


def _check_time(value: datetime | time) -> None:
    if reason := reason_against(value):
        raise ValueError(reason)


def _check_private(value: Any) -> None:
    """Raise ValueError for a private attribute of attrs that differs from its default."""
    for attribute in type(value).__attrs_attrs__:
        name = attribute.name
        if name.startswith("_") and difference(getattr(value, name, None), attribute.default):
            raise ValueError(f"the attribute {name} is private, and JSON would leave it out")


def _omits_defaults(kind: type) -> bool:
    return issubclass(kind, Struct) and kind.__struct_config__.omit_defaults
