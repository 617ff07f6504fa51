"""How the package is built, measured with `ast` alone: ``python tests/structure.py`` shows it.

The table lists each wing with its modules, lines, and imports of other wings. Below it stands
whatever exceeds a limit of this file; `test_structure` asserts that nothing does.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "taskflow"

# Wings and top-level modules from the highest floor to the lowest. On one floor, a wing may import
# those that stand to the right of it.
FLOORS = (
    ("examples", "cli", "testing", "fastapi"),
    ("runtime",),
    ("calls",),
    ("runs",),
    ("stores",),
    ("wire", "loops"),
    ("events", "errors", "records", "retry"),
)
ENGINE = frozenset({"runtime", "calls", "runs", "stores", "wire", "loops"})

MODULE_LINES = 600
MEDIAN_LINES = 200
FUNCTION_LINES = 60
PARAMETERS = 8  # of a function of the engine
METHODS = 25
ATTRIBUTES = 16  # that a constructor sets

# The classes that users meet as a whole, and the protocol that every store implements.
FACES = frozenset({"Runtime", "Store", "MemoryStore", "SQLiteStore", "WrappedStore"})
# Keyword-only options of the public API: each is a decision of the user's, documented by name.
OPTIONS = frozenset({"Runtime.__init__", "task", "workflow"})


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.path.read_text("utf-8"))

    @property
    def name(self) -> str:
        """Its dotted name, without ``taskflow.``; empty for the package itself."""
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def wing(self) -> str:
        """The first part of its name: a wing, or a module at the top level."""
        return self.name.partition(".")[0]

    @property
    def lines(self) -> int:
        """How long the file is."""
        return len(self.path.read_text("utf-8").splitlines())

    @cached_property
    def imports(self) -> frozenset[str]:
        """The modules of the package that it imports, at any place in it, without ``taskflow.``.

        Of ``from taskflow.stores import base`` the module ``stores.base``, and not the package.
        """
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                if node.level or node.module is None:
                    raise ValueError(f"{self.name} imports relatively, in line {node.lineno}")
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    found.add(below if below in MODULES_BY_DOTTED_NAME else node.module)
        return frozenset(
            each.removeprefix("taskflow").removeprefix(".")
            for each in found
            if each.partition(".")[0] == "taskflow"
        )

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        """Each function with its qualified name within the module."""
        yield from _functions(self.tree, "")

    def classes(self) -> Iterator[ast.ClassDef]:
        """Each class of the module."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


def _functions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES_BY_DOTTED_NAME = {_dotted(path): Module(path) for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = tuple(MODULES_BY_DOTTED_NAME.values())


def floor_of(wing: str) -> int:
    """The height of a wing's floor, from 0. Raises LookupError for a wing that has none."""
    for height, wings in enumerate(reversed(FLOORS)):
        if wing in wings:
            return height
    raise LookupError(f"{wing!r} stands on no floor: add it to FLOORS in {__file__}")


def may_import(wing: str, other: str) -> bool:
    """Whether imports from ``wing`` to ``other`` run down, or to the right on one floor."""
    here, there = floor_of(wing), floor_of(other)
    if here != there:
        return there < here
    row = FLOORS[len(FLOORS) - 1 - here]
    return row.index(wing) <= row.index(other)


def imports_that_run_up() -> list[str]:
    """Imports against the order of FLOORS. Only the highest floor imports the package itself."""
    return [
        f"{module.name} imports {other or 'taskflow'}"
        for module in MODULES
        for other in sorted(module.imports)
        if not runs_down(module, other)
    ]


def runs_down(module: Module, other: str) -> bool:
    """Whether ``module`` may import the module of that name."""
    if module.name == "":
        return True
    wing = other.partition(".")[0]
    if wing == "":
        return floor_of(module.wing) == len(FLOORS) - 1
    return may_import(module.wing, wing)


def imports_past_a_door() -> list[str]:
    """Imports of a room behind a door: what a package re-exports is taken from the package.

    The doors are `taskflow.stores.sqlite` and `taskflow.runtime`; the tools for tests may go
    through the wall.
    """
    found: list[str] = []
    for door, insiders in (("stores.sqlite", "stores"), ("runtime", "runtime")):
        for module in MODULES:
            is_inside = module.wing == insiders or module.wing == "testing" or module.name == ""
            if is_inside or floor_of(module.wing) - floor_of(insiders) < 2:
                continue
            found += [
                f"{module.name} imports {other}"
                for other in sorted(module.imports)
                if other.startswith(f"{door}.")
            ]
    return found


def cycles() -> list[str]:
    """Modules that import each other, by however many steps."""
    doors = {module.name for module in MODULES if module.path.name == "__init__.py"}
    needs = {
        module.name: {each for each in module.imports if each != module.name and each not in doors}
        for module in MODULES
        if module.name not in doors
    }
    done: set[str] = set()
    while ready := {each for each in needs if each not in done and needs[each] <= done}:
        done |= ready
    return sorted(set(needs) - done)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller may give, ``self`` and ``cls`` aside."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    variadic = (arguments.vararg is not None) + (arguments.kwarg is not None)
    return len(named) + len(arguments.kwonlyargs) + variadic


def attributes(constructor: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many attributes of ``self`` it sets."""
    names = {
        node.attr
        for node in ast.walk(constructor)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return len(names)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def too_long_modules() -> list[str]:
    """Modules above MODULE_LINES, and the median where it is above MEDIAN_LINES."""
    found = [f"{each.name}: {each.lines}" for each in MODULES if each.lines > MODULE_LINES]
    middle = median(each.lines for each in MODULES)
    return found if middle < MEDIAN_LINES else [*found, f"the median: {middle}"]


def too_long_functions() -> list[str]:
    """Functions above FUNCTION_LINES."""
    return [
        f"{module.name}: {name}: {_length(function)}"
        for module in MODULES
        for name, function in module.functions()
        if _length(function) > FUNCTION_LINES
    ]


def too_many_parameters() -> list[str]:
    """Functions of the engine above PARAMETERS."""
    return [
        f"{module.name}: {name}: {parameters(function)}"
        for module in MODULES
        if module.wing in ENGINE
        for name, function in module.functions()
        if parameters(function) > PARAMETERS and name not in OPTIONS
    ]


def too_many_methods() -> list[str]:
    """Classes above METHODS that are no face."""
    found: list[str] = []
    for module in MODULES:
        for each in module.classes():
            methods = sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in each.body)
            if methods > METHODS and each.name not in FACES:
                found.append(f"{module.name}: {each.name}: {methods}")
    return found


def too_many_attributes() -> list[str]:
    """Constructors above ATTRIBUTES."""
    return [
        f"{module.name}: {name}: {attributes(function)}"
        for module in MODULES
        for name, function in module.functions()
        if name.endswith("__init__") and attributes(function) > ATTRIBUTES
    ]


CHECKS = (
    imports_that_run_up,
    imports_past_a_door,
    cycles,
    too_long_modules,
    too_long_functions,
    too_many_parameters,
    too_many_methods,
    too_many_attributes,
)


def main() -> int:
    """Print the wings, then what exceeds a limit; 1 where something does."""
    for wings in FLOORS:
        for wing in wings:
            rooms = [module for module in MODULES if module.wing == wing]
            below = {other.partition(".")[0] for module in rooms for other in module.imports}
            print(
                f"{wing:10} {len(rooms):3} modules {sum(each.lines for each in rooms):6} lines"
                f"  imports {', '.join(sorted(below - {wing})) or 'nothing'}"
            )
    failed = 0
    for check in CHECKS:
        for each in check():
            failed = 1
            print(f"{check.__name__.replace('_', ' ')}: {each}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
