"""The way out of a value that would not come back: what to write, or what to pass on instead.

An annotation is advised only if the value does come back under it.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from datetime import datetime, time, timedelta
from types import GenericAlias
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from taskflow.wire.differences import fields_of, has_fixed_zone, is_pydantic, is_same_leaf
from taskflow.wire.models import NOT_WRITTEN

__all__ = (
    "TELL_APART",
    "annotation_for",
    "annotation_of",
    "instead_of_unwritable",
    "reason_against",
    "short",
    "spelled",
    "way_out",
)

DEEPEST: Final = 20  # levels of an annotation that is advised
WIDEST: Final = 1000  # members that are looked at, for it
LONGEST: Final = 5  # members of a tuple that are annotated one by one

TELL_APART: Final = (
    "JSON does not tell classes of a union apart by itself: make them Structs with tag=True, or "
    "let pydantic do it, with Annotated[A | B, Field(discriminator=…)] or a RootModel of that"
)
NO_ANNOTATION: Final = (
    "no annotation of its class alone brings it back: annotate what the class holds (Box[int]), or "
    "use builtin values, a Struct or a dataclass"
)
BUILTINS: Final = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset)


def way_out(
    annotation: Any,
    value: Any,
    before: Any,
    after: Any,
    comes_back: Callable[[Any, Any], bool],
) -> tuple[str, str]:
    """What to annotate ``value`` with, or else what to do: one of two texts is empty.

    ``annotation`` is the present one. ``before`` would come back as ``after``; both are ``value``
    where no place is known. ``comes_back`` says whether a value is read back unchanged under an
    annotation.
    """
    if (reason := _reason_in(value)) is not None:
        return "", reason
    is_other_class = before is not after and type(before) is not type(after)
    if is_other_class and _names(annotation, type(before)):
        return "", TELL_APART
    try:
        described = annotation_of(value)
        if comes_back(described, value):
            return spelled(described), ""
        if _is_ambiguous(described):
            return "", TELL_APART
        return "", _instead_of(before, after, _holds_models(value))
    except Exception:  # of user code too
        return "", NO_ANNOTATION


def _instead_of(before: Any, after: Any, has_models: bool) -> str:
    """What to do about a value that comes back under no annotation."""
    kind = type(before)
    name = kind.__qualname__
    if not isinstance(before, float) and not is_same_leaf(before, before):
        return "it does not equal itself; use None or text for it"
    for builtin in BUILTINS:
        if isinstance(before, builtin) and kind is not builtin and not hasattr(kind, "_fields"):
            if isinstance(before, enum.Enum):
                break
            return f"no annotation brings {name} back: use {builtin.__name__}(…) of it"
    if has_models:
        return f"pydantic does not read back what it writes of it: {NOT_WRITTEN}"
    if before is not after and isinstance(before, type(after)) and kind is not type(after):
        return f"{name} is read back where {name} itself is annotated; in a union, {TELL_APART}"
    return NO_ANNOTATION


def instead_of_unwritable(value: Any, error: Exception) -> str:
    """What to do about a value that has no JSON. A coroutine is closed: nobody will await it."""
    if inspect.iscoroutine(value):
        value.close()
    if isinstance(value, Awaitable):
        return "nothing has awaited it: await it in the body, and make a def that returns it async"
    if "invalid utf-8" in str(error):
        return (
            "bytes in a model are text to pydantic, unless its config says "
            'ser_json_bytes="base64" and val_json_bytes="base64"'
        )
    return "use builtin values (keys of dicts are text or numbers), a Struct or a dataclass"


def reason_against(value: datetime | time) -> str | None:
    """Why JSON cannot carry a time, with the way out; None where it can."""
    zone = value.tzinfo
    if not has_fixed_zone(value):
        convert = (
            "convert it with .astimezone(UTC)"
            if isinstance(value, datetime)
            else "use a time without a zone"
        )
        return (
            f"JSON has offsets, and no time zone {zone}: it would come back an hour off after a "
            f"change of clocks; {convert}, and keep the zone's name as text where it is needed"
        )
    offset = value.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        return f"JSON has no time zone of {offset}, only of whole minutes"
    if value.fold:
        return (
            "JSON has no fold, which tells the second 02:30 of a night from the first: use a "
            "datetime in UTC, or .replace(fold=0)"
        )
    return None


def _inside(value: Any) -> Iterator[Any]:
    """The value, and whatever it holds that has no parts of its own, or has fields."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, Mapping):
            pending.extend(each.values())
            pending.extend(each)
        elif isinstance(each, list | tuple | Set):
            pending.extend(each)
        else:
            yield each
            pending.extend(getattr(each, name, None) for name in fields_of(each))


def _reason_in(value: Any) -> str | None:
    """Why JSON cannot carry a value, or one inside it, whatever the annotation is."""
    for each in _inside(value):
        if isinstance(each, float) and not math.isfinite(each):
            return f"JSON has no {each}; use None or text for it"
        if isinstance(each, datetime | time) and (reason := reason_against(each)) is not None:
            return reason
    return None


def _holds_models(value: Any) -> bool:
    return any(is_pydantic(type(each)) for each in _inside(value))


def _names(annotation: Any, kind: type) -> bool:
    """Whether a class stands in an annotation as it is written."""
    return annotation is kind or any(_names(each, kind) for each in get_args(annotation))


def annotation_of(value: Any, depth: int = 0) -> Any:
    """The annotation that describes ``value`` and what it holds."""
    kind = type(value)
    if value is None or depth > DEEPEST:
        return value if value is None else Any
    inner = depth + 1
    if kind is tuple:
        if 0 < len(value) <= LONGEST:
            return GenericAlias(tuple, tuple(annotation_of(each, inner) for each in value))
        return GenericAlias(tuple, (_union(value, inner), ...)) if value else tuple[()]
    if kind in (list, set, frozenset):
        return GenericAlias(kind, (_union(value, inner),)) if value else kind
    if kind is dict:
        if not value:
            return dict
        return GenericAlias(dict, (_union(value, inner), _union(value.values(), inner)))
    return kind


def _union(values: Any, depth: int) -> Any:
    members: dict[str, Any] = {}
    for each in list(values)[:WIDEST]:
        annotation = annotation_of(each, depth)
        members.setdefault(spelled(annotation), annotation)
    return Union[tuple(members[name] for name in sorted(members))]  # noqa: UP007 - computed


def _is_ambiguous(annotation: Any) -> bool:
    """Whether it has a union of classes with fields that JSON does not tell apart."""
    args = get_args(annotation)
    if get_origin(annotation) is Union:
        classes = [
            each
            for each in args
            if dataclasses.is_dataclass(each)
            or is_pydantic(each)
            or hasattr(each, "__attrs_attrs__")
            or (isinstance(each, type) and issubclass(each, msgspec.Struct))
        ]
        if len(classes) > 1:
            return True
    return any(map(_is_ambiguous, args))


def annotation_for(value: object) -> str:
    """How the annotation that describes ``value`` is written."""
    return spelled(annotation_of(value))


def spelled(annotation: Any) -> str:
    """How an annotation is written, without modules."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if origin is Union:
        return " | ".join(map(spelled, args))
    if origin is None and isinstance(annotation, type):
        return "tuple[()]" if isinstance(annotation, GenericAlias) else annotation.__qualname__
    if origin in (list, tuple, dict, set, frozenset):
        return f"{origin.__name__}[{', '.join(map(spelled, args)) or '()'}]"
    return "Any" if annotation is Any else str(annotation)


def short(value: object) -> str:
    """A value and its type, on one line."""
    try:
        text = repr(value)
    except Exception:  # of user code
        text = "?"
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__qualname__})"
