"""How the package is built, measured with `ast` alone: ``python tests/structure.py`` shows it.

The table lists each wing with its modules, lines, and imports of other wings. Below it stands
whatever breaks a rule or exceeds a limit of this file; `test_structure` asserts that nothing does.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
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
# Packages behind whose door nobody from two floors above may go, but the tools for tests.
DOORS = ("stores.sqlite", "runtime")
# Packages that hold more than their docstring: the doors, and the public interfaces.
INTERFACES = frozenset({"", *DOORS, "testing", "testing.conformance"})

MODULE_LINES = 600
MEDIAN_LINES = 200
FUNCTION_LINES = 60
PARAMETERS = 8  # of a function of the engine
METHODS = 25
ATTRIBUTES = 16  # that a constructor sets

# The classes that users meet as a whole, and the protocol that every store implements.
FACES = frozenset({"Runtime", "Store", "MemoryStore", "SQLiteStore", "WrappedStore"})
# Keyword-only options of the public API: each is a decision of the user's, documented by name.
OPTIONS = frozenset(
    {"runtime.runtime: Runtime.__init__", "calls.tasks: task", "calls.workflows: workflow"}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path

    @cached_property
    def text(self) -> str:
        """What the file holds."""
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @cached_property
    def name(self) -> str:
        """Its dotted name, without ``taskflow.``; empty for the package itself."""
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(parts[:-1] if self.is_package else parts)

    @property
    def is_package(self) -> bool:
        """Whether it is the ``__init__.py`` of a folder."""
        return self.path.name == "__init__.py"

    @property
    def wing(self) -> str:
        """The first part of its name: a wing, or a module at the top level."""
        return self.name.partition(".")[0]

    @property
    def lines(self) -> int:
        """How long the file is."""
        return len(self.text.splitlines())

    @cached_property
    def imports(self) -> frozenset[str]:
        """Names of the package's modules that it imports, at any place in it.

        ``from taskflow.stores import base`` is an import of ``stores.base``, and ``from taskflow
        import task`` one of the package itself, whose name is empty.
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
                    is_module = below.removeprefix("taskflow.") in MODULES_BY_NAME
                    found.add(below if is_module else node.module)
        return frozenset(
            each.removeprefix("taskflow").removeprefix(".")
            for each in found
            if each.partition(".")[0] == "taskflow"
        )

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Each function, nested ones too, with its qualified name."""
        for name, function in _functions(self.tree, ""):
            yield f"{self.name}: {name}", function

    def classes(self) -> Iterator[ast.ClassDef]:
        """Each class, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        if isinstance(child, Function | ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


MODULES = tuple(Module(path) for path in sorted(PACKAGE.rglob("*.py")))
MODULES_BY_NAME = {module.name: module for module in MODULES}


# Imports.


def floor_of(wing: str) -> int:
    """The height of a wing's floor, from 0. Raises LookupError for a wing that has none."""
    for height, wings in enumerate(reversed(FLOORS)):
        if wing in wings:
            return height
    raise LookupError(f"{wing!r} stands on no floor: add it to FLOORS in {__file__}")


def runs_down(module: Module, other: str) -> bool:
    """Whether ``module`` may import the module of that name.

    It may import its own wing, wings below, and those to the right on its floor. The package itself
    imports whatever it offers, and is imported on the highest floor alone.
    """
    if module.name == "":
        return True
    here, wing = floor_of(module.wing), other.partition(".")[0]
    if wing == "":
        return here == len(FLOORS) - 1
    if here != floor_of(wing):
        return floor_of(wing) < here
    row = FLOORS[-1 - here]
    return row.index(module.wing) <= row.index(wing)


def imports_that_run_up() -> list[str]:
    """Imports against the order of FLOORS."""
    return [
        f"{module.name} imports {other or 'taskflow'}"
        for module in MODULES
        for other in sorted(module.imports)
        if not runs_down(module, other)
    ]


def imports_past_a_door() -> list[str]:
    """Imports of a room behind a door: what a package re-exports is taken from the package."""
    return [
        f"{module.name} imports {other}"
        for door in DOORS
        for module in MODULES
        if module.wing not in ("", "testing")
        if floor_of(module.wing) >= floor_of(door.partition(".")[0]) + 2
        for other in sorted(module.imports)
        if other.startswith(f"{door}.")
    ]


def cycles() -> list[str]:
    """Modules that import each other, by however many steps; of several circles the first one."""
    needs = {module.name: module.imports - {module.name} for module in MODULES}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return [" is imported by ".join(error.args[1])]
    return []


# Sizes.


def length(function: Function) -> int:
    """Its lines from ``def`` on, nested functions included."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def parameters(function: Function) -> int:
    """How many a caller may give, ``self`` and ``cls`` aside."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    variadic = (arguments.vararg is not None) + (arguments.kwarg is not None)
    return len(named) + len(arguments.kwonlyargs) + variadic


def attributes(constructor: Function) -> int:
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


def methods(cls: ast.ClassDef) -> int:
    """How many names of methods and properties it defines; one for all overloads of a method."""
    return len({name for name, _ in _functions(cls, "") if "." not in name})


def too_long_modules() -> list[str]:
    """Modules above MODULE_LINES."""
    return [f"{each.name}: {each.lines}" for each in MODULES if each.lines > MODULE_LINES]


def too_long_a_median() -> list[str]:
    """The median of the modules' lines, where it is not below MEDIAN_LINES."""
    middle = median(each.lines for each in MODULES)
    return [f"{middle}"] if middle >= MEDIAN_LINES else []


def too_long_functions() -> list[str]:
    """Functions above FUNCTION_LINES."""
    return [
        f"{name}: {length(function)}"
        for module in MODULES
        for name, function in module.functions()
        if length(function) > FUNCTION_LINES
    ]


def too_many_parameters() -> list[str]:
    """Functions of the engine above PARAMETERS."""
    return [
        f"{name}: {parameters(function)}"
        for module in MODULES
        if module.wing in ENGINE
        for name, function in module.functions()
        if parameters(function) > PARAMETERS and name not in OPTIONS
    ]


def too_many_methods() -> list[str]:
    """Classes above METHODS that are no face."""
    return [
        f"{module.name}: {cls.name}: {methods(cls)}"
        for module in MODULES
        for cls in module.classes()
        if methods(cls) > METHODS and cls.name not in FACES
    ]


def too_many_attributes() -> list[str]:
    """Constructors above ATTRIBUTES."""
    return [
        f"{name}: {attributes(function)}"
        for module in MODULES
        for name, function in module.functions()
        if function.name == "__init__" and attributes(function) > ATTRIBUTES
    ]


# Docstrings of wings.


def rooms(package: Module) -> list[str]:
    """The modules and packages directly in its folder."""
    found = (
        module.name.removeprefix(f"{package.name}.")
        for module in MODULES
        if module.name.startswith(f"{package.name}.")
    )
    return [name for name in found if "." not in name and not name.startswith("__")]


def unnamed_rooms(package: Module) -> list[str]:
    """Those that its docstring does not name, between backticks or at the head of a line."""
    text = ast.get_docstring(package.tree) or ""
    return [name for name in rooms(package) if not re.search(rf"(?m)`{name}`|^ +{name}\b", text)]


def packages_that_name_no_rooms() -> list[str]:
    """Packages whose docstring leaves out a module of their folder."""
    return [
        f"{package.name}: {', '.join(unnamed)}"
        for package in MODULES
        if package.is_package and package.name and (unnamed := unnamed_rooms(package))
    ]


def packages_that_hold_code() -> list[str]:
    """Packages that define or re-export something, beside INTERFACES."""
    return [
        package.name
        for package in MODULES
        if package.is_package and package.name not in INTERFACES
        if ast.get_docstring(package.tree) is None or len(package.tree.body) > 1
    ]


# What ``python -O`` leaves out.


def is_narrowing(node: ast.expr) -> bool:
    """Whether an asserted expression only tells a type checker what a name or attribute is."""
    if isinstance(node, ast.Compare):
        return is_narrowing(node.left) and all(
            isinstance(each, ast.Constant) for each in node.comparators
        )
    if isinstance(node, ast.Call):
        is_isinstance = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        return is_isinstance and is_narrowing(node.args[0])
    if isinstance(node, ast.Attribute):
        return is_narrowing(node.value)
    return isinstance(node, ast.Name)


def _catches_assertions(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and "AssertionError" in ast.unparse(handler.type)


def asserts_with_logic() -> list[str]:
    """Asserts that do or decide something, and handlers of a failed one.

    Those of the conformance suite are what a test is made of: pytest executes them also under -O.
    """
    return [
        f"{module.name}: line {node.lineno}"
        for module in MODULES
        if not module.name.startswith("testing.conformance")
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Assert) and not is_narrowing(node.test))
        or (isinstance(node, ast.ExceptHandler) and _catches_assertions(node))
    ]


CHECKS = (
    imports_that_run_up,
    imports_past_a_door,
    cycles,
    too_long_modules,
    too_long_a_median,
    too_long_functions,
    too_many_parameters,
    too_many_methods,
    too_many_attributes,
    packages_that_name_no_rooms,
    packages_that_hold_code,
    asserts_with_logic,
)


def main() -> int:
    """Print the wings, then what breaks a rule or exceeds a limit; 1 where something does."""
    for wing in (wing for wings in FLOORS for wing in wings):
        modules = [module for module in MODULES if module.wing == wing]
        others = {each.partition(".")[0] for module in modules for each in module.imports} - {wing}
        print(
            f"{wing:10} {len(modules):3} modules {sum(each.lines for each in modules):6} lines"
            f"  imports {', '.join(sorted(each or 'taskflow' for each in others)) or 'nothing'}"
        )
    failed = 0
    for check in CHECKS:
        for each in check():
            failed = 1
            print(f"{check.__name__.replace('_', ' ')}: {each}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
