"""`Form`: how the values of one annotation are written as JSON and read back.

There are three: by msgspec; by pydantic, where types of pydantic stand in the annotation; and
parameter by parameter, where they stand in those of some of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from taskflow.wire.differences import fields_of, is_told_by_marshal
from taskflow.wire.json import decode_plain, decoder_for, encode_plain
from taskflow.wire.models import Adapter, is_readable, mentions_models, parts_of
from taskflow.wire.unknown import can_drop_fields

__all__ = ("Form", "form_of", "form_of_parameters")


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one annotation are written and read."""

    encoders: Sequence[Callable[[Any], bytes]]  # in the order in which they are tried
    decode: Callable[[bytes], Any]
    canonical: Callable[[Any], Any]  # what the canonical JSON of a value is made from
    is_told_by_marshal: bool = False  # see `differences`
    can_drop_fields: bool = True  # that a record has, and its classes have not


def form_of(annotation: Any) -> Form:
    """The form of an annotation's values. Raises where they could not be read back."""
    if not mentions_models(annotation):
        return _by_msgspec(annotation)
    try:
        return _by_pydantic(annotation)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        try:
            # A class with fields of both, which msgspec reads if each model stands by itself.
            return _by_msgspec(annotation)
        except Exception:  # the reason of pydantic is the better one
            raise error from None


def form_of_parameters(annotations: dict[str, Any], shape: Any) -> Form:
    """The form of a call's arguments by parameter; ``shape`` is their TypedDict."""
    if any(map(mentions_models, annotations.values())):
        return _by_parameter({name: form_of(each) for name, each in annotations.items()})
    return _by_msgspec(shape)


def _by_msgspec(annotation: Any) -> Form:
    try:
        types = _types_in(annotation)
        decoder = decoder_for(annotation)
    except Exception as error:
        for each in parts_of(annotation):
            _check_attributes(each, error)
        raise
    for each in types:
        if isinstance(each, msgspec.inspect.CustomType) and not is_readable(each.cls):
            raise TypeError(f"{each.cls.__qualname__} has no form in JSON that is read back")
    has_private = any(_has_private(getattr(each, "cls", None)) for each in types)
    return Form(
        encoders=[_encode_private if has_private else encode_plain],
        decode=decoder.decode,
        canonical=_with_private if has_private else _itself,
        is_told_by_marshal=all(map(is_told_by_marshal, types)),
        can_drop_fields=any(map(can_drop_fields, types)),
    )


def _by_pydantic(annotation: Any) -> Form:
    adapter = Adapter(annotation)
    encoders = [partial(_checked, each) for each in (adapter.encode, adapter.encode_by_name)]
    return Form(encoders=encoders, decode=adapter.decode, canonical=_itself)


def _by_parameter(forms: dict[str, Form]) -> Form:
    split = decoder_for(dict[str, msgspec.Raw]).decode

    def decode(payload: bytes) -> dict[str, Any]:
        """The arguments; those of no parameter are left out."""
        arguments: dict[str, Any] = {}
        for name, part in split(payload).items():
            if name in forms:
                try:
                    arguments[name] = forms[name].decode(bytes(part))
                except (MemoryError, RecursionError):
                    raise
                except Exception as error:
                    raise ValueError(f"{error} - at `$.{name}`") from error
        return arguments

    def canonical(arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: forms[name].canonical(each) for name, each in arguments.items()}

    def encode(choice: int, arguments: dict[str, Any]) -> bytes:
        parts = (
            encode_plain(name) + b":" + forms[name].encoders[choice](argument)
            for name, argument in arguments.items()
        )
        return b"{" + b",".join(parts) + b"}"

    return Form(
        encoders=[partial(encode, 0), partial(encode, -1)], decode=decode, canonical=canonical
    )


def _itself(value: Any) -> Any:
    return value


def _checked(encode: Callable[[Any], bytes], value: Any) -> bytes:
    """The JSON that pydantic writes, which a model may tell to write what is none."""
    payload = encode(value)
    if b"NaN" in payload or b"Infinity" in payload:
        decode_plain(payload)
    return payload


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


def _check_attributes(kind: Any, error: Exception) -> None:
    """Raise TypeError for a class of attrs that msgspec does not read, which it says otherwise."""
    for each in getattr(kind, "__attrs_attrs__", ()):
        if each.type is None:
            raise TypeError(
                f"the attribute {each.name} of {kind.__qualname__} has no type: annotate it"
            ) from error
        if getattr(each.default, "takes_self", False):
            raise TypeError(
                f"the attribute {each.name} of {kind.__qualname__} has a default that takes self: "
                "set it in __attrs_post_init__ instead, or make the class a dataclass"
            ) from error


def _has_private(kind: Any) -> bool:
    """Whether a class of attrs has private attributes, which msgspec reads and does not write."""
    return any(each.name.startswith("_") for each in getattr(kind, "__attrs_attrs__", ()))


def _encode_private(value: Any) -> bytes:
    return encode_plain(_with_private(value))


def _with_private(value: Any) -> Any:
    """A copy in which objects of attrs are dictionaries of all their attributes."""
    if isinstance(value, list | tuple | Set):
        return [_with_private(each) for each in value]
    if isinstance(value, dict):
        return {key: _with_private(item) for key, item in value.items()}
    names = fields_of(value)
    if not names:
        return value
    fields = {name: _with_private(getattr(value, name, None)) for name in names}
    if _has_private(type(value)):
        return fields
    copied = copy.copy(value)
    force = (
        msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    )
    for name, item in fields.items():
        force(copied, name, item)
    return copied
