"""Command-line text made into objects of the library: a workflow, its call, JSON values."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

from taskflow.calls.tasks import Task
from taskflow.calls.workflows import Workflow, WorkflowCall
from taskflow.errors import SerializationError
from taskflow.wire.json import decode_plain, encode_plain

__all__ = ("UsageError", "find_workflow", "given_json", "make_call")


Json: TypeAlias = dict[str, Any] | list[Any] | str | float | None


class UsageError(Exception):
    """Raised when the command line is wrong: exit code 2."""


def find_workflow(target: str) -> Workflow[..., Any, Any]:
    """The workflow of ``module:workflow``, with the current directory on the import path.

    Raises UsageError.
    """
    module_name, colon, path = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        name = module_name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise UsageError(f"name the module as `import` does, not its file: {name}:{path or '…'}")

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name)
    if not colon or not path:
        raise UsageError(f"name a workflow, as in module:workflow; {_offer(module)}")
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Workflow):
        return cast("Workflow[..., Any, Any]", found)
    what = (
        f"{module_name} has no {path}"
        if found is None
        else f"{target} is a task, and a workflow is needed"
        if isinstance(found, Task)
        else f"{target} is {found!r:.80}, and not a workflow"
    )
    raise UsageError(f"{what}; {_offer(module)}")


def make_call(workflow: Workflow[..., Any, Any], text: str | None) -> WorkflowCall[Any]:
    """A call with the arguments that ``text`` holds as JSON, or the file of ``@file``.

    An object holds the parameters by name, an array the positional arguments; any other value is
    the only argument. Values are decoded to the parameters' annotations. Raises UsageError.
    """
    given: Json = [] if text is None else given_json(text, "--input")
    try:
        if isinstance(given, dict):
            arguments = _by_name(workflow, given)
        else:
            values = given if isinstance(given, list) else [given]
            arguments = workflow.binder.bind(tuple(values), {})
        args, kwargs = workflow.decode_input(encode_plain(arguments))
        call = workflow(*args, **kwargs)
    except (TypeError, ValueError) as error:
        # The message of a SerializationError is about records; its cause describes the input.
        reason = error.__cause__ if isinstance(error, SerializationError) else error
        raise UsageError(
            f"the input does not fit: {reason or error}\n"
            f"{workflow.name} takes {workflow.binder.signature}: give an object of its "
            "parameters, --input '{\"name\": …}', or an array of positional arguments"
        ) from error
    call.use()  # no warning that it was never awaited where the database turns out to be unusable
    return call


def given_json(text: str, what: str) -> Any:
    """The value of JSON text, or of the JSON in the file of ``@file``. Raises UsageError."""
    try:
        return decode_plain(_content(text, what))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} is not JSON: {error}; text is written with quotation marks, as '\"yes\"'"
        ) from error


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {name} in {os.getcwd()}, nor among the installed packages"
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> UsageError:
    if not name or name.startswith("."):
        return UsageError("name a module and a workflow in it, as in module:workflow")
    frames = traceback.extract_tb(error.__traceback__)
    places = [each for each in frames if "importlib" not in each.filename]
    where = f" ({places[-1].filename}, line {places[-1].lineno})" if len(places) > 1 else ""
    return UsageError(
        f"the module {name} cannot be imported: {type(error).__qualname__}: {error}{where}"
    )


def _offer(module: ModuleType) -> str:
    names = sorted(name for name, each in vars(module).items() if isinstance(each, Workflow))
    if not names:
        return f"{module.__name__} has no workflows"
    return "its workflows: " + ", ".join(f"{module.__name__}:{name}" for name in names)


def _content(text: str, what: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    try:
        return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {text}: {error.strerror or error}") from error


def _by_name(workflow: Workflow[..., Any, Any], given: dict[str, Any]) -> dict[str, Any]:
    parameters = workflow.binder.signature.parameters
    known = {name: given[name] for name in parameters if name in given}
    others = {name: value for name, value in given.items() if name not in parameters}
    rest = next((each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None)
    if others and rest is None:
        raise TypeError(f"it has no parameter {', '.join(map(repr, others))}")
    if rest is not None:
        known[rest] = {**known.get(rest, {}), **others}
    return known
