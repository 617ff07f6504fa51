"""`recompiled`: the code of a function, with what depends on the order of sets sent elsewhere."""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

__all__ = ("ORDER", "PICK", "SHOW", "recompiled")

# Names of functions that the code is to find among its globals. Each is given a value, and the file
# and line: what is iterated over, what is called, and what becomes a text.
ORDER: Final = "__taskflow_other_order__"
PICK: Final = "__taskflow_pick__"
SHOW: Final = "__taskflow_show__"


class Site(NamedTuple):
    """A field of a syntax node that depends on the order of a set, in those nodes where it does."""

    node: type[ast.AST]
    field: str
    sent_to: str
    applies: Callable[[Any], bool] = lambda node: True


SITES: Final = (
    Site(ast.For, "iter", ORDER),
    Site(ast.comprehension, "iter", ORDER, lambda node: not node.is_async),
    Site(ast.YieldFrom, "value", ORDER),
    Site(ast.AugAssign, "value", ORDER, lambda node: isinstance(node.op, ast.Add)),
    Site(ast.Starred, "value", ORDER, lambda node: isinstance(node.ctx, ast.Load)),
    Site(ast.Assign, "value", ORDER, lambda node: any(map(_unpacks, node.targets))),
    Site(ast.Call, "func", PICK),
    Site(ast.FormattedValue, "value", SHOW, lambda node: node.conversion != ord("a")),
    Site(
        ast.BinOp, "right", SHOW,
        lambda node: isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant),
    ),
)  # fmt: skip


def recompiled(fn: FunctionType) -> CodeType | None:
    """What ``fn`` is to execute instead; None where its source is not there, or not by itself."""
    code = fn.__code__
    try:
        lines, first = inspect.getsourcelines(code)  # not what it wraps
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    definition = _definition_of(code, tree)
    if definition is None:
        return None
    ast.increment_lineno(tree, first - 1)
    changed = _Reorder(code.co_filename).visit(definition)
    outer, path = _around(code)
    holder: Any = outer
    for _ in path:
        holder = holder.body[-1]
    holder.body[-1] = ast.Expr(changed) if isinstance(changed, ast.Lambda) else changed
    ast.fix_missing_locations(outer)
    flags = code.co_flags & __future__.annotations.compiler_flag
    found: CodeType | None = compile(outer, code.co_filename, "exec", flags, dont_inherit=True)
    for name in (*path, code.co_name):
        found = _code_in(found, name)
    return found if found is not None and found.co_freevars == code.co_freevars else None


def _definition_of(code: CodeType, tree: ast.Module) -> ast.AST | None:
    """The one definition of a function's source, or the one lambda of its line."""
    if code.co_name == "<lambda>":
        lambdas = [each for each in ast.walk(tree) if isinstance(each, ast.Lambda)]
        return lambdas[0] if len(lambdas) == 1 else None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    definition.decorator_list = []
    getattr(definition, "type_params", []).clear()  # which would be a scope of their own
    return definition


def _around(code: CodeType) -> tuple[ast.Module, list[str]]:
    """A function, and for a method its class, whose last statement stands for the definition.

    So what it takes from outside is free in it, its own name is global (unless it was free), and
    private names have that of the class in them.
    """
    lines = [f"def _outer({', '.join(code.co_freevars)}):"]
    if code.co_name.isidentifier() and code.co_name not in code.co_freevars:
        lines.append(f" global {code.co_name}")
    owner = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    if owner in ("", "<locals>"):
        return ast.parse("\n".join([*lines, " 0"])), ["_outer"]
    return ast.parse("\n".join([*lines, f" class {owner}:", "  0"])), ["_outer", owner]


def _code_in(code: CodeType | None, name: str) -> CodeType | None:
    for each in () if code is None else code.co_consts:
        if isinstance(each, CodeType) and each.co_name == name:
            return each
    return None


class _Reorder(ast.NodeTransformer):
    """Sends the fields of SITES to the functions that they are sent to."""

    def __init__(self, path: str) -> None:
        self._path = path

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        for site in SITES:
            if isinstance(node, site.node) and site.applies(node):
                setattr(node, site.field, self._sent(getattr(node, site.field), site.sent_to))
        if isinstance(node, ast.Name) and node.id == "hash" and isinstance(node.ctx, ast.Load):
            return self._sent(node, PICK)  # as the key of a sort, say
        return node

    def _sent(self, value: ast.expr, to: str) -> ast.expr:
        place = ast.Constant(f"{self._path}:{value.lineno}")
        return ast.copy_location(ast.Call(ast.Name(to, ast.Load()), [value, place], []), value)


def _unpacks(target: ast.expr) -> bool:
    is_slice = isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
    return is_slice or isinstance(target, ast.Tuple | ast.List)
