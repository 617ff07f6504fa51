"""JSON text, written and read: the one module that uses ``msgspec.json``.

Recorded values are written by `encode_plain` and read back under their annotation. `canonical_json`
writes identities: equal values give equal text in every process, and it is never read back.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Set
from typing import Any, Final

import msgspec

from taskflow.wire.differences import fields_of, is_pydantic

__all__ = (
    "NESTING_LIMIT",
    "canonical_json",
    "decode_plain",
    "decoder_for",
    "encode_plain",
    "is_readable",
    "json_schema",
    "nesting",
)

# Python 3.11 reads about 900 levels back from a shallow stack; 3.13 several thousand.
NESTING_LIMIT: Final = 400

NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")


def _to_builtin(value: Any) -> Any:
    """The builtin form of an object whose type msgspec does not know: a pydantic model."""
    if is_pydantic(type(value)):
        # By alias, as it is read back.
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    raise NotImplementedError(f"JSON has no form for objects of type {type(value).__qualname__}")


def _to_fields(value: Any) -> Any:
    """The canonical form of such an object, which must tell values apart and is not read back.

    A dump of pydantic would hide secrets, omit excluded fields, and write sets in an order that
    varies.
    """
    if is_pydantic(type(value)):
        return {name: getattr(value, name, None) for name in fields_of(value)}
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.AnyUrl):
        return str(value)
    raise NotImplementedError(f"JSON has no form for objects of type {type(value).__qualname__}")


def _from_builtin(annotation: type, value: Any) -> Any:
    """The object of a type that msgspec does not know: a pydantic model, or any object."""
    if is_pydantic(annotation):
        return annotation.model_validate(value)  # type: ignore[attr-defined]
    if annotation is object:
        return value
    raise NotImplementedError(f"{annotation!r} cannot be read back from JSON")


def is_readable(kind: type) -> bool:
    """Whether `_from_builtin` makes objects of a type that msgspec does not know."""
    return kind is object or is_pydantic(kind)


_encoder = msgspec.json.Encoder(enc_hook=_to_builtin)
_sorting_encoder = msgspec.json.Encoder(enc_hook=_to_fields, order="sorted")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

encode_plain = _encoder.encode
decode_plain = _decoder.decode


def decoder_for(annotation: Any) -> msgspec.json.Decoder[Any]:
    """A decoder of the values of ``annotation``; raises where msgspec cannot read it back."""
    return msgspec.json.Decoder(annotation, dec_hook=_from_builtin)


def json_schema(annotation: Any) -> dict[str, Any] | None:
    """The JSON Schema of an annotation's values; ``None`` where it has none."""
    if is_pydantic(annotation):
        return annotation.model_json_schema()  # type: ignore[no-any-return]
    try:
        return msgspec.json.schema(annotation)
    except (TypeError, NotImplementedError, RecursionError):
        return None


def canonical_json(value: Any) -> bytes:
    """JSON whose keys and sets have an order that is the same in every process."""
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
    if is_pydantic(type(value)):
        return fields
    copied = copy.copy(value)
    force = (
        msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    )
    for name, item in fields.items():
        force(copied, name, item)
    return copied


def nesting(payload: bytes) -> int:
    """The depth of the arrays and objects in a JSON text, counted up to `NESTING_LIMIT` + 1.

    0 where the text has too few brackets to reach the limit.
    """
    if payload.count(b"[") + payload.count(b"{") <= NESTING_LIMIT:
        return 0
    if b"\\" in payload:
        payload = payload.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(payload.split(b'"')[::2])  # without strings, which may hold brackets too
    brackets = outside.translate(AS_BRACKETS, NOT_BRACKETS)
    for depth in range(NESTING_LIMIT + 1):
        if not brackets:
            return depth
        brackets = brackets.replace(b"[]", b"")  # the innermost pairs
    return NESTING_LIMIT + 1
