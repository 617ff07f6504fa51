"""Command lines to type next: to continue a run, and to answer its open waits."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, cast

from taskflow.cli.progress import shown_id
from taskflow.records import Wait

__all__ = ("DEFAULT_DB", "answer_to", "awaited", "command_line", "how_to_answer", "in_short")

DEFAULT_DB: Final = "taskflow.db"
DEEPEST: Final = 5  # levels of an example
MODULE: Final = os.path.join(os.path.dirname(__file__), "__main__.py")  # of `python -m`


def command_line(command: str, arguments: Iterable[str], db: str, *options: str) -> str:
    """The command line of ``command`` on ``db``, quoted for a shell."""
    is_module = os.path.abspath(sys.argv[0]) == os.path.abspath(MODULE)
    words = ["python", "-m", "taskflow.cli"] if is_module else ["taskflow"]
    if db != DEFAULT_DB or "TASKFLOW_DB" in os.environ:
        options += ("--db", db)
    given = list(arguments)
    if any(each.startswith("-") for each in given):
        return shlex.join([*words, command, *options, "--", *given])
    return shlex.join([*words, command, *given, *options])


def awaited(wait: Wait) -> str:
    """An open wait in words: its name, type, deadline and prompt."""
    until = ""
    if wait.deadline is not None:
        until = f" until {datetime.fromtimestamp(wait.deadline):%Y-%m-%d %H:%M:%S}"
    if wait.kind == "timer":
        return f"a timer{until}"
    kind = "" if wait.type in (None, "Any") else f" ({wait.type})"
    prompt = "" if wait.prompt is None else f": {json.dumps(wait.prompt, ensure_ascii=False)}"
    return f"the signal {wait.name!r}{kind}{until}{prompt}"


def in_short(waits: Iterable[Wait]) -> str:
    """The names of all signals and timers in ``waits``."""
    names = (
        f"signal {shown_id(each.name)}" if each.kind == "signal" else "timer" for each in waits
    )
    return ", ".join(dict.fromkeys(names))


def how_to_answer(thread_id: str, waits: Iterable[Wait], db: str) -> Iterator[str]:
    """A line for each wait, and under it the command that answers it."""
    for wait in waits:
        yield f"Waits for {awaited(wait)}"
        if wait.kind == "signal":
            yield f"  {answer_to(thread_id, wait, db)}"


def answer_to(thread_id: str, wait: Wait, db: str) -> str:
    """The command that answers an open ``receive``, with an example of a value to edit."""
    value = _example(wait.schema or {}, wait.schema or {})
    given = [] if value is None else [json.dumps(value)]
    return command_line("send", [thread_id, wait.name, *given], db)


def _example(schema: dict[str, Any], whole: dict[str, Any], depth: int = 0) -> Any:
    """A value that a JSON Schema allows, as far as types alone can tell."""
    if depth > DEEPEST:
        return None
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _example(whole.get("$defs", {}).get(name, {}), whole, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for one_of in ("anyOf", "oneOf", "allOf"):
        if one_of in schema:
            return _example(schema[one_of][0], whole, depth + 1)
    kind = schema.get("type")
    if kind == "object":
        fields = cast("dict[str, Any]", schema.get("properties", {}))
        required = schema.get("required", [])
        return {each: _example(fields.get(each, {}), whole, depth + 1) for each in required}
    if kind == "array":
        items = cast("list[Any]", schema.get("prefixItems", []))
        return [_example(each, whole, depth + 1) for each in items]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"string": "...", "boolean": True}.get(str(kind))
