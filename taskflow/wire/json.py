"""JSON text, written and read: the one module that uses ``msgspec.json``.

Recorded values are written by `encode_plain` and read back under their annotation. `canonical_json`
writes identities: equal values give equal text in every process, and it is never read back.
"""

from __future__ import annotations

import copy
from collections.abc import Set
from typing import Any, Final

import msgspec

from taskflow.wire.differences import fields_of, is_pydantic
from taskflow.wire.models import (
    Adapter,
    from_builtin,
    mentions_models,
    to_builtin,
    to_exact_builtin,
    to_telling_builtin,
)

__all__ = (
    "NESTING_LIMIT",
    "canonical_json",
    "decode_plain",
    "decoder_for",
    "encode_exact",
    "encode_plain",
    "json_schema",
    "nesting",
)

# Python 3.11 reads about 900 levels back from a shallow stack; 3.13 several thousand.
NESTING_LIMIT: Final = 400

NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")


def _to_fields(value: Any) -> Any:
    """The canonical form of such an object, which must tell values apart and is not read back.

    A dump of pydantic would hide secrets, omit excluded fields, and write sets in an order that
    varies.
    """
    if is_pydantic(type(value)):
        return {name: getattr(value, name, None) for name in fields_of(value)}
    return to_telling_builtin(value)


_encoder = msgspec.json.Encoder(enc_hook=to_builtin)
_sorting_encoder = msgspec.json.Encoder(enc_hook=_to_fields, order="sorted")
_exact_encoder = msgspec.json.Encoder(enc_hook=to_exact_builtin)
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

encode_plain = _encoder.encode
encode_exact = _exact_encoder.encode
decode_plain = _decoder.decode


def decoder_for(annotation: Any) -> msgspec.json.Decoder[Any]:
    """A decoder of the values of ``annotation``; raises where msgspec cannot read it back."""
    return msgspec.json.Decoder(annotation, dec_hook=from_builtin)


def json_schema(annotation: Any) -> dict[str, Any] | None:
    """The JSON Schema of an annotation's values; ``None`` where it has none."""
    try:
        if mentions_models(annotation):
            return Adapter(annotation).json_schema()
        return msgspec.json.schema(annotation)
    except Exception:  # of a type that has none, or of user code
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
