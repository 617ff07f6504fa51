"""Fields of a record that today's classes do not know, which decoding drops in silence.

Not those of classes that say themselves what becomes of such fields: they forbid or keep them, or
look at them in a validator of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, Final

import msgspec

from taskflow.wire.differences import fields_of, is_pydantic

__all__ = ("can_drop_fields", "unknown_fields")

TYPED_DICT: Final = "a TypedDict"


def can_drop_fields(node: msgspec.inspect.Type) -> bool:
    """Whether values of a type may be decoded from objects with more fields than it has."""
    inspect = msgspec.inspect
    if isinstance(node, inspect.StructType):
        return not node.forbid_unknown_fields
    return isinstance(node, inspect.DataclassType | inspect.TypedDictType | inspect.CustomType)


def unknown_fields(recorded: Any, again: Any, value: Any) -> dict[str, list[str]]:
    """The fields that stand in a record and were dropped, by the class that does not know them.

    ``recorded`` is the record's JSON, ``value`` what it was decoded to, and ``again`` the JSON of
    that.
    """
    found: dict[str, list[str]] = {}
    pending = [(recorded, again, value)]
    while pending:
        was, now, each = pending.pop()
        if was == now:
            continue
        if is_pydantic(type(each)) and type(each).__pydantic_root_model__:
            pending.append((was, now, each.root))
        elif isinstance(was, dict) and isinstance(now, dict):
            if isinstance(each, dict):
                if len(was) > len(now):
                    _add(found, TYPED_DICT, was.keys() - now.keys())
                values = zip(now, each.values(), strict=False)
                pending += [(was[key], now[key], item) for key, item in values if key in was]
            else:
                known = dict(_known(each))
                if not _looks_itself(type(each)):
                    name = type(each).__qualname__
                    _add(found, name, was.keys() - known.keys() - now.keys())
                pending += [
                    (item, now.get(key), getattr(each, known[key], None))
                    for key, item in was.items()
                    if key in known
                ]
        elif isinstance(was, list):
            pending += _items(found, was, now, each)
    return {name: sorted(fields) for name, fields in found.items()}


def _items(
    found: dict[str, list[str]], was: list[Any], now: Any, value: Any
) -> list[tuple[Any, Any, Any]]:
    """The items of an array, beside what has become of them."""
    again = now if isinstance(now, list) else []
    if isinstance(value, Set):
        # In any order: the classes of all members are one class, as it were.
        known = {name for member in value for name, _ in _known(member)}
        written = {key for item in again if isinstance(item, dict) for key in item}
        names = ", ".join(sorted({type(member).__qualname__ for member in value}))
        for item in was:
            if isinstance(item, dict):
                _add(found, names, item.keys() - known - written)
        return []
    if isinstance(value, msgspec.Struct):  # array_like
        config = value.__struct_config__
        values = [getattr(value, name) for name in value.__struct_fields__]
        if config.tag is not None:
            values.insert(0, config.tag)
        if len(was) > len(values):
            places = (f"item {place}" for place in range(len(values), len(was)))
            _add(found, type(value).__qualname__, set(places))
    else:
        values = list(value) if isinstance(value, list | tuple) else []
    return list(zip(was, again, values, strict=False))


def _add(found: dict[str, list[str]], name: str, fields: Set[str]) -> None:
    new = sorted(set(fields).difference(found.get(name, ())))
    if new:
        found.setdefault(name, []).extend(new)


def _known(value: Any) -> Iterator[tuple[str, str]]:
    """The names under which a value's fields may stand in JSON, with those of its attributes."""
    kind: Any = type(value)
    if isinstance(value, msgspec.Struct):
        yield from zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
        if (tag_field := kind.__struct_config__.tag_field) is not None:
            yield tag_field, tag_field
        return
    fields = kind.model_fields if is_pydantic(kind) else getattr(kind, "__pydantic_fields__", {})
    for name, field in fields.items():
        for alias in (field.alias, field.serialization_alias, *_read(field.validation_alias)):
            if alias is not None:
                yield alias, name
    yield from ((name, name) for name in fields_of(value))


def _read(alias: Any) -> Iterator[str]:
    """The names of a validation alias: it is text, a path, or a choice of both."""
    if isinstance(alias, str):
        yield alias
    for choice in getattr(alias, "choices", ()):
        yield from _read(choice)
    if path := getattr(alias, "path", ()):
        yield str(path[0])


def _looks_itself(kind: Any) -> bool:
    """Whether a model's validator sees all fields before pydantic drops any."""
    decorators = getattr(kind, "__pydantic_decorators__", None)
    validators = getattr(decorators, "model_validators", {}).values()
    return any(each.info.mode in ("before", "wrap") for each in validators)
