"""Errors of a command as one line for people, and as its exit code."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Generator
from typing import Final

import typer

from taskflow.cli.inputs import UsageError
from taskflow.cli.progress import say
from taskflow.errors import RunCancelled, StoreError, TaskflowError, UnknownWorkflow

__all__ = ("explained", "values_checked")

STORE_FAILED: Final = 1
WRONG_USE: Final = 2
# The arguments of `Runtime.run` that its errors advise to pass, and their options here.
OPTIONS: Final = {
    "wait=True": "--wait",
    "supersede=True": "--supersede",
    "fresh=True": "--fresh",
    "another run_id": "another --run-id",
}


@contextlib.contextmanager
def explained(traceback_asked: bool) -> Generator[None]:
    """Exit with an error's explanation, or its traceback if that was asked for."""
    try:
        yield
    except (UsageError, TaskflowError) as error:
        if traceback_asked:
            sys.stderr.write("".join(traceback.format_exception(error)))
        else:
            say(f"taskflow: {_explanation(error)}", "red")
        raise typer.Exit(STORE_FAILED if isinstance(error, StoreError) else WRONG_USE) from None


@contextlib.contextmanager
def values_checked() -> Generator[None]:
    """Raise the library's ValueErrors as UsageErrors: the command line held the value."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, TaskflowError):
            raise
        raise UsageError(str(error)) from error


def _explanation(error: Exception) -> str:
    if isinstance(error, UnknownWorkflow):
        return (
            f"thread {error.thread_id!r} was run by {error.workflow!r}: resume it with that "
            "workflow"
        )
    if isinstance(error, RunCancelled):
        return (
            f"run {error.run_id!r} on thread {error.thread_id!r} was cancelled, and that is final: "
            "`taskflow run` without --run-id begins a new one"
        )
    text = str(error)
    for keyword, option in OPTIONS.items():
        text = text.replace(keyword, option)
    return text
