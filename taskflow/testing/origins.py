"""Whose code it is: the user's, the standard library's, an installed package's, or taskflow's.

Only the file that a function or module comes from decides. What was typed in counts as the user's,
and so does the installed package that a workflow under test comes from (`count_as_users`).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FunctionType
from typing import Final

import taskflow

__all__ = (
    "OURS", "count_as_users", "is_installed", "is_users", "is_users_function", "is_users_module",
)  # fmt: skip

OURS: Final = os.path.dirname(taskflow.__file__) + os.sep
EXAMPLES: Final = os.path.join(OURS, "examples")
STDLIB: Final = tuple(
    {sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep,
     os.path.dirname(os.__file__) + os.sep}
)  # fmt: skip
INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
LOOPS: Final = tuple(f"{os.sep}{each}{os.sep}" for each in ("anyio", "trio", "sniffio"))
TYPED_IN: Final = ("<stdin>", "<string>", "<input>", "<ipython-input", "<doctest")

_counted: Final[set[str]] = set()  # files and folders of installed packages that are the user's


def count_as_users(fn: FunctionType) -> None:
    """A workflow's package is the user's, though it is installed."""
    path = fn.__code__.co_filename
    if _is_in(INSTALLED, path):
        package = sys.modules.get(fn.__module__.partition(".")[0])
        folders = getattr(package, "__path__", None)
        _counted.update([path] if folders is None else [f"{each}{os.sep}" for each in folders])


def is_users(code: CodeType) -> bool:
    """Whether the user has written it."""
    return _is_users_path(code.co_filename)


def is_users_module(name: str) -> bool:
    """Whether the user has written the module of that name."""
    module = sys.modules.get(name)
    if module is None or name in sys.builtin_module_names:
        return False
    return _is_users_path(getattr(module, "__file__", None) or TYPED_IN[0])


def is_users_function(function: object) -> bool:
    """Whether the user has written it, or the class of what it is a method of."""
    owner = getattr(function, "__self__", None)
    return is_users_module(getattr(function, "__module__", None) or type(owner).__module__)


def is_installed(code: CodeType) -> bool:
    """Whether it is code of an installed package, but for those that event loops are made of."""
    path = code.co_filename
    return _is_in(INSTALLED, path) and not _is_in(LOOPS, path)


def _is_users_path(path: str) -> bool:
    if path.startswith((*TYPED_IN, *_counted)):
        return True
    if path.startswith(("<", *STDLIB)) or _is_in(INSTALLED, path):
        return False
    return not path.startswith(OURS) or path.startswith(EXAMPLES)


def _is_in(folders: tuple[str, ...], path: str) -> bool:
    return any(each in path for each in folders)
