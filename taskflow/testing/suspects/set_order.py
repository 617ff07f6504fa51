"""`OtherSetOrder`: workflows that iterate over sets do so in another order, as another process may.

The order of a set of texts is drawn anew in each process (``PYTHONHASHSEED``), and stays the same
within one. So the functions are compiled again from their source, with every iteration by way of
`_Order.of`, and work as they did when the context is left.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FunctionType
from typing import Any, Final

from taskflow.calls.definitions import definitions_of
from taskflow.testing.suspects.functions import (
    codes_in,
    functions_in,
    functions_of,
    is_users,
    is_users_module,
)

__all__ = ("OtherSetOrder",)

ORDER: Final = "__taskflow_other_order__"
PICK: Final = "__taskflow_pick__"
SHOW: Final = "__taskflow_show__"
# Functions that give what they are given in its order, and methods that do.
ORDERED: Final = {
    "list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "dict", "max", "min",
    "sorted", "sum", "reduce", "chain", "deque", "islice", "product", "combinations",
    "permutations", "groupby", "accumulate", "Counter", "nlargest", "nsmallest", "cycle",
    "pairwise", "batched", "zip_longest", "starmap", "takewhile", "dropwhile", "reversed",
}  # fmt: skip
ORDERED_METHODS: Final = ORDERED | {"join", "extend", "fromkeys", "from_iterable"}
ENCODING: Final = {"dumps", "encode", "json_encode"}
# Functions that give something else in another process, or show a set.
SEEDED_FUNCTIONS: Final = (hash, str, repr)
OTHER_SEED: Final = 0x5BD1E995
PICKED: Final = ORDERED_METHODS | ENCODING | {"pop", "format"}
PLAIN: Final = (int, float, bool)  # whose hash is the same in every process


class OtherSetOrder:
    """A context in which the workflows of these names, and what they call, see sets otherwise."""

    def __init__(self, names: Iterable[str], executed: Iterable[CodeType] = ()) -> None:
        self.places: list[str] = []  # where a set was iterated over, as file and line
        self.without_source: list[str] = []
        self._names = sorted(names)
        self._executed = list(executed)  # what was seen to execute in workflows
        self._former: list[tuple[FunctionType, CodeType]] = []

    def __enter__(self) -> OtherSetOrder:
        done: set[FunctionType] = set()
        for name in self._names:
            for definition in definitions_of(name):
                if definition.is_workflow:
                    fn = inspect.unwrap(definition.fn)
                    if isinstance(fn, FunctionType):
                        self._change(fn, done)
        inner = {each for _, code in self._former for each in codes_in(code)}
        for fn in functions_of(self._executed):  # methods, properties, whatever leads to them
            self._change(fn, done, is_inner=fn.__code__ in inner)
        return self

    def __exit__(self, *raised: object) -> None:
        for fn, code in reversed(self._former):
            fn.__code__ = code
            for name in (ORDER, PICK, SHOW):
                fn.__globals__.pop(name, None)

    def _change(self, fn: FunctionType, done: set[FunctionType], *, is_inner: bool = False) -> None:
        """Compile ``fn``, and the functions of the user's that it names, with sets reordered.

        One that is inside of a function that was changed is made anew by that.
        """
        if fn in done or not is_users(fn.__code__):
            return
        done.add(fn)
        for called in functions_in(fn):
            self._change(called, done)
        code = _reordered(fn)
        if code is None:
            is_told = is_inner or fn.__name__ == "<lambda>" or _is_generated(fn)
            if not is_told:
                self.without_source.append(fn.__qualname__)
            return
        self._former.append((fn, fn.__code__))
        fn.__code__ = code
        fn.__globals__[ORDER] = self.of
        fn.__globals__[PICK] = self.pick
        fn.__globals__[SHOW] = self.shown

    def of(self, value: Any, place: str) -> Any:
        """``value``, or, if it is a set whose order may differ, its members in another order."""
        if not isinstance(value, set | frozenset) or not _is_arbitrary(value):
            return value
        self._note(place)
        return list(value)[::-1]

    def pick(self, function: Any, place: str) -> Any:
        """What is called in place of ``function``: itself, if it cares for no order."""
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if any(function is each for each in SEEDED_FUNCTIONS):
            return lambda *given, **how: self._seeded(function, given, how, place)
        if name not in PICKED or _is_users_function(function):
            return function
        if name == "pop":
            return partial(self.pop, owner, place) if isinstance(owner, set) else function
        show = self.shown if name == "format" else self.listed if name in ENCODING else self.of
        return lambda *given, **how: function(*(show(each, place) for each in given), **how)

    def pop(self, value: set[Any], place: str) -> Any:
        """What ``value.pop()`` gives."""
        if not _is_arbitrary(value):
            return value.pop()
        last = self.of(value, place)[0]
        value.remove(last)
        return last

    def _seeded(self, function: Any, given: Any, how: Any, place: str) -> Any:
        """What hash, str or repr gives elsewhere."""
        if function is hash and not _is_plain(given[0]):
            self._note(place)
            return hash((OTHER_SEED, hash(*given)))
        return function(*(self.shown(each, place) for each in given), **how)

    def shown(self, value: Any, place: str) -> Any:
        """The same with sets in it that are shown in another order, or itself if it has none."""
        if isinstance(value, set | frozenset):
            ordered = self.of(value, place)
            if ordered is value:
                return value
            text = f"{{{', '.join(map(repr, ordered))}}}"
            return _Text(text if isinstance(value, set) else f"frozenset({text})")
        return self._inside(value, self.shown, place)

    def listed(self, value: Any, place: str) -> Any:
        """The same with sets in it that have become lists in another order."""
        if isinstance(value, set | frozenset):
            return self.of(value, place)
        return self._inside(value, self.listed, place)

    def _inside(self, value: Any, change: Callable[[Any, str], Any], place: str) -> Any:
        """What is in a list, tuple or dictionary, changed; or that itself if nothing is."""
        if type(value) in (list, tuple):
            changed = type(value)(change(each, place) for each in value)
            return changed if any(map(operator.is_not, changed, value)) else value
        if type(value) is dict:
            values = {name: change(each, place) for name, each in value.items()}
            return values if any(map(operator.is_not, values.values(), value.values())) else value
        return value

    def _note(self, place: str) -> None:
        if place not in self.places:
            self.places.append(place)


def _is_generated(fn: FunctionType) -> bool:
    """Whether it was made from a text that no file holds, as a dataclass makes its methods."""
    is_typed_in = fn.__module__ == "__main__" and "__file__" not in fn.__globals__
    return fn.__code__.co_filename == "<string>" and not is_typed_in


def _is_users_function(function: Any) -> bool:
    """Whether it, or what it is a method of, was written by the user."""
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or type(owner).__module__
    return is_users_module(module)


class _Text:
    """Shown as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _is_arbitrary(value: set[Any] | frozenset[Any]) -> bool:
    return len(value) > 1 and not all(map(_is_plain, value))


def _is_plain(value: object) -> bool:
    """Whether its hash is the same in every process."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _reordered(fn: FunctionType) -> CodeType | None:
    try:
        lines, first = inspect.getsourcelines(fn.__code__)  # not what it wraps
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    code = fn.__code__
    definition = _definition_of(code, tree)
    if definition is None:
        return None
    ast.increment_lineno(tree, first - 1)
    changed = _Reorder(code.co_filename).visit(definition)
    # A function around it, so that what it takes from outside is free in it, in the same order;
    # its own name is global, unless it was not.
    names_itself: list[ast.stmt] = []
    if isinstance(changed, ast.Lambda):
        changed = ast.Expr(changed)
    elif code.co_name not in code.co_freevars:
        names_itself.append(ast.Global([code.co_name]))
    outer = ast.parse(
        "def _outer():\n" + "".join(f"    {name} = None\n" for name in code.co_freevars) + "    0"
    )
    function = outer.body[0]
    assert isinstance(function, ast.FunctionDef)
    owner = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    if owner and owner != "<locals>":  # a method: private names have that of its class in them
        body = ast.parse(f"class {owner}:\n    0").body[0]
        assert isinstance(body, ast.ClassDef)
        body.body = [changed]
        changed = body
    function.body[-1:] = [changed]
    function.body[:0] = names_itself
    ast.fix_missing_locations(outer)
    flags = code.co_flags & _FUTURES
    compiled = compile(outer, code.co_filename, "exec", flags=flags, dont_inherit=True)
    inside = _code_in(compiled, "_outer")
    if isinstance(changed, ast.ClassDef):
        inside = _code_in(inside, owner)
    found = _code_in(inside, code.co_name)
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


_FUTURES: Final = __import__("__future__").annotations.compiler_flag


def _code_in(code: CodeType | None, name: str) -> CodeType | None:
    for each in () if code is None else code.co_consts:
        if isinstance(each, CodeType) and each.co_name == name:
            return each
    return None


def _unpacks(target: ast.expr) -> bool:
    is_slice = isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
    return is_slice or isinstance(target, ast.Tuple | ast.List)


class _Reorder(ast.NodeTransformer):
    """Sends everything that is iterated over through `OtherSetOrder.of`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def visit_For(self, node: ast.For) -> ast.AST:
        node = self._visited(node)
        node.iter = self._ordered(node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        node = self._visited(node)
        if not node.is_async:
            node.iter = self._ordered(node.iter)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.AST:
        node = self._visited(node)
        node.value = self._ordered(node.value)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        node = self._visited(node)
        if isinstance(node.op, ast.Add):
            node.value = self._ordered(node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        node = self._visited(node)
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            node.right = self._shown(node.right)
        return node

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        node = self._visited(node)
        if isinstance(node.ctx, ast.Load):
            node.value = self._ordered(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node = self._visited(node)
        if any(_unpacks(target) for target in node.targets):
            node.value = self._ordered(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node = self._visited(node)
        node.func = self._call(PICK, node.func)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == "hash" and isinstance(node.ctx, ast.Load):  # as the key of a sort, say
            return ast.copy_location(self._call(PICK, node), node)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node = self._visited(node)
        if node.conversion != ord("a"):
            node.value = self._shown(node.value)
        return node

    def _shown(self, value: ast.expr) -> ast.expr:
        """A set as the text that it would be formatted to; anything else as it is."""
        return self._call(SHOW, value)

    def _visited(self, node: Any) -> Any:
        return self.generic_visit(node)

    def _ordered(self, value: ast.expr) -> ast.expr:
        return ast.copy_location(self._call(ORDER, value), value)

    def _call(self, name: str, value: ast.expr, *more: ast.expr) -> ast.expr:
        place = ast.Constant(f"{self._path}:{value.lineno}")
        called = ast.Call(ast.Name(name, ast.Load()), [value, *more, place], [])
        return ast.copy_location(called, value)
