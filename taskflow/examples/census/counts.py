"""The counts of one Python file: its lines, functions, classes and branches."""

from __future__ import annotations

import ast
import warnings
from typing import Final

from msgspec import Struct

__all__ = ("MOST", "Count", "Function", "count_in")

MOST: Final = 10  # the number of most complex functions that are kept

BRANCHES: Final = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
)
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES: Final = (*FUNCTIONS, ast.ClassDef)

# Three nodes out of five: skipping them saves half of the walk.
LEAVES: Final = frozenset({ast.Name, ast.Constant, ast.Load, ast.Store, ast.Del, ast.alias})


class Function(Struct, frozen=True):
    """A function and how complex it is."""

    name: str  # qualified
    line: int
    complexity: int  # cyclomatic: the number of its branches, plus one


class Count(Struct, frozen=True):
    """The counts of one file, without its path: equal contents have equal counts."""

    lines: int
    parses: bool = True  # if not, the counts below are unknown
    functions: int = 0
    classes: int = 0
    branches: int = 0
    most_complex: list[Function] = []  # at most MOST


def count_in(content: bytes) -> Count:
    """Count one file.

    A branch is an ``if``, ``for``, ``while``, ``except``, ``case`` or conditional expression, each
    further operand of ``and`` and ``or``, and each ``for`` and ``if`` of a comprehension. It
    belongs to the innermost function or class around it.
    """
    lines = len(content.splitlines())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in the counted file
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return Count(lines, parses=False)

    functions: list[Function] = []
    classes = branches = 0
    scopes: list[tuple[str, ast.AST]] = [("", tree)]
    while scopes:
        prefix, scope = scopes.pop()
        own, inner = _branches_of(scope)
        branches += own
        classes += isinstance(scope, ast.ClassDef)
        if isinstance(scope, FUNCTIONS):
            functions.append(Function(prefix[:-1], scope.lineno, own + 1))
        scopes += [(f"{prefix}{each.name}.", each) for each in inner]
    functions.sort(key=lambda each: (-each.complexity, each.line))
    return Count(lines, True, len(functions), classes, branches, functions[:MOST])


def _branches_of(
    scope: ast.AST,
) -> tuple[int, list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """The number of a scope's own branches, and the scopes directly in it."""
    branches = 0
    inner: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []
    nodes = [scope]
    while nodes:
        node = nodes.pop()
        if isinstance(node, SCOPES) and node is not scope:
            inner.append(node)
            continue
        if isinstance(node, BRANCHES):
            branches += 1
        elif isinstance(node, ast.BoolOp):
            branches += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            branches += 1 + len(node.ifs)
        # Not ast.iter_child_nodes(), which takes three times as long.
        for value in vars(node).values():
            if value.__class__ is list:
                nodes += [
                    each
                    for each in value
                    if each.__class__ not in LEAVES and isinstance(each, ast.AST)
                ]
            elif value.__class__ not in LEAVES and isinstance(value, ast.AST):
                nodes.append(value)
    return branches, inner
