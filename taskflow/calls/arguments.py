"""The arguments of a call, as they are shown, and whether its body has changed them."""

from __future__ import annotations

from typing import Any, Final

from taskflow.calls.definitions import Definition
from taskflow.errors import SerializationError
from taskflow.wire.identity import are_immutable, canonical_arguments
from taskflow.wire.json import decode_plain, encode_plain

__all__ = ("capped", "have_changed", "shown", "spelled_call")

ARGUMENTS_LIMIT: Final = 4096  # bytes of JSON that are kept of a call's arguments, to be shown
SPELLED: Final = 200  # characters of them in the text of a call


def have_changed(
    definition: Definition[..., Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    told_by: bytes,
) -> bool:
    """Whether arguments are not any more what an identity was taken from: their JSON and types."""
    if are_immutable(args) and are_immutable(kwargs.values()):
        return False

    try:
        arguments = definition.binder.bind(args, kwargs)
        name, variadic = definition.name, definition.binder.variadic
        return b"".join(canonical_arguments(arguments, name, variadic)) != told_by
    except SerializationError:
        return True


def shown(
    definition: Definition[..., Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Arguments that need no canonical form, as JSON; the type's name where JSON carries none."""
    values: dict[str, Any] = {}
    for name, value in definition.binder.bind(args, kwargs).items():
        try:
            values[name] = decode_plain(encode_plain(value))
        except Exception:
            values[name] = f"<{type(value).__qualname__}>"
    return capped(encode_plain(values))


def capped(canonical: bytes) -> str:
    """Arguments as they are kept to be shown: JSON, or a JSON text of its beginning."""
    if len(canonical) <= ARGUMENTS_LIMIT:
        return canonical.decode()

    beginning = canonical[:ARGUMENTS_LIMIT].decode(errors="ignore")
    return encode_plain(f"{beginning}…").decode()


def spelled_call(name: str, arguments: str | None) -> str:
    """A call as one would write it, from its arguments as they are kept to be shown."""
    values = None if arguments is None else decode_plain(arguments.encode())
    if not isinstance(values, dict):
        return f"{name}({'' if values is None else values})"

    text = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return f"{name}({text if len(text) <= SPELLED else f'{text[:SPELLED]}…'})"
