"""pydantic's ValidationError, which has no arguments: what it is made of instead.

Its class is Rust code that cannot be derived from, and is made by ``from_exception_data`` alone.
pydantic is not imported for that: an error of its exists only where it is imported already.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

from taskflow.wire.attributes import is_writable

__all__ = ("made", "parts")

INPUT_LIMIT: Final = 10_000  # bytes of an input in JSON
TEXT_LIMIT: Final = 1_000  # characters of an input's text; pydantic shows fifty


def parts(error: BaseException) -> tuple[Any, ...] | None:
    """The title, the lines, the mode and whether inputs are hidden; ``None`` for other errors."""
    if not _is_validation_error(type(error)):
        return None
    reduced: Any = error.__reduce__()
    title, lines, *rest = reduced[1]
    return (title, [_part(line) for line in lines], *rest)


def _part(line: dict[str, Any]) -> dict[str, Any]:
    """One line, whose input is told by its text where it is large or cannot be recorded."""
    part: dict[str, Any] = {name: line[name] for name in ("type", "loc", "msg")}
    part["ctx"] = {
        name: value
        for name, value in line.get("ctx", {}).items()
        if isinstance(value, Exception) or is_writable(value)
    }
    given = line["input"]
    if is_writable(given, INPUT_LIMIT):
        part["input"] = given
    else:
        part["shown"] = [type(given).__qualname__, repr(given)[:TEXT_LIMIT]]
    return part


def made(kind: type, parts: tuple[Any, ...]) -> BaseException | None:
    """The error that is made of these parts; ``None`` for other classes."""
    if not _is_validation_error(kind):
        return None
    title, lines, *rest = parts
    build: Any = kind.from_exception_data  # type: ignore[attr-defined]
    error: BaseException = build(title, [_line(build, title, part) for part in lines], *rest)
    error.args = ()  # as pydantic leaves it
    return error


def _line(build: Any, title: str, part: dict[str, Any]) -> dict[str, Any]:
    """One line as ``from_exception_data`` takes it, with the recorded message."""
    line = {"type": part["type"], "loc": tuple(part["loc"])}
    line["input"] = part["input"] if "input" in part else _stand_in(*part["shown"])
    context = part["ctx"]
    as_text = {name: str(value) for name, value in context.items()}  # pydantic's own types take it
    for each in (context, as_text):
        if each:
            line["ctx"] = each
        with suppress(Exception):  # a type of the user's, or one that this version does not know
            if build(title, [line]).errors(include_url=False)[0]["msg"] == part["msg"]:
                return line
    custom: Any = sys.modules["pydantic_core"].PydanticCustomError
    line["type"] = custom(part["type"], part["msg"], line.pop("ctx", None) and context)
    return line


class _Shown:
    """The text of an input that is not recorded."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _stand_in(name: str, text: str) -> _Shown:
    kind: type[_Shown] = type(name.rpartition(".")[2], (_Shown,), {"__qualname__": name})
    return kind(text)


def _is_validation_error(kind: type) -> bool:
    core = sys.modules.get("pydantic_core")
    return core is not None and kind is core.ValidationError
