"""`Effects`: changes that a workflow's code makes to objects that outlive the run.

These are held by a module, or by a function around the one that executes, unless that function
began in the workflow itself. A function with an effect is wrong; an effect of the workflow's own
body is noted, since tests count executions like this.
"""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FrameType, ModuleType
from typing import NamedTuple

from taskflow.testing.suspects.findings import Findings
from taskflow.testing.suspects.functions import is_comprehension, is_workflow
from taskflow.testing.suspects.names import CONTAINERS
from taskflow.testing.suspects.stacks import Stacks

__all__ = ("Effects",)


class Effects:
    """Looks for effects in frames of workflows."""

    def __init__(self, stacks: Stacks, findings: Findings) -> None:
        self._stacks = stacks
        self._findings = findings
        self._began: dict[tuple[str, str], CodeType] = {}  # in the workflow: by file and path in it
        # By object and function: whether one holds the other; the object is kept, as its id is.
        self._held: dict[tuple[int, CodeType], tuple[object, bool]] = {}

    def begin(self, frame: FrameType) -> None:
        """A function begins: look at what it assigns to in objects that outlive the run."""
        code = frame.f_code
        self._began[code.co_filename, code.co_qualname] = code
        if is_comprehension(code):
            return
        outer = {*self._reached(frame)} - {*code.co_varnames, *code.co_cellvars}
        for root, text, is_changed in _assigned(code):
            if root in outer or (is_changed and self._is_outer_owner(frame, root)):
                self._tell(frame, f"changes {text}")

    def rebinds(self, frame: FrameType) -> None:
        """Tell which names around it a function binds anew.

        What is counted on is counted again; what is only kept, a client say, may be right.
        """
        outer = self._free(frame.f_code)
        counted: dict[str, bool] = {}
        for before, each in pairwise(dis.get_instructions(frame.f_code)):
            is_free = each.opname == "STORE_DEREF" and each.argval in outer
            if is_free or each.opname == "STORE_GLOBAL":
                is_counted = before.opname == "BINARY_OP"
                counted[each.argval] = counted.get(each.argval, False) or is_counted
        for name, is_counted in counted.items():
            self._tell(frame, f"rebinds {name}", may_be_right=not is_counted)

    def mutates(self, frame: FrameType, container: object, method: str) -> None:
        """Tell if a list or the like that is changed outlives the run."""
        if isinstance(container, CONTAINERS):
            for text, value in self._outliving(frame):
                if value is container:
                    self._tell(frame, f"changes {text} with .{method}()")
                    return

    def _outliving(self, frame: FrameType) -> Iterator[tuple[str, object]]:
        """What a frame reaches that outlives the run, by how it is written there."""
        for name, value in self._reached(frame).items():
            yield name, value
            if not isinstance(value, ModuleType):
                yield from _attributes(name, value)
        for name in ("self", "cls"):
            if self._is_outer_owner(frame, name):
                yield from _attributes(name, frame.f_locals[name])

    def _reached(self, frame: FrameType) -> dict[str, object]:
        """What the names in a function stand for that are not its own."""
        code, held = frame.f_code, frame.f_globals
        free: dict[str, object] = {each: frame.f_locals.get(each) for each in self._free(code)}
        return {**free, **{each: held[each] for each in code.co_names if each in held}, **free}

    def _free(self, code: CodeType) -> list[str]:
        """The variables of functions around this one, but for those that began in the workflow."""
        around = code.co_qualname.rpartition(".<locals>.")[0]
        while around:
            began = self._began.get((code.co_filename, around))
            if began is not None:
                return [each for each in code.co_freevars if each in began.co_freevars]
            around = around.rpartition(".<locals>.")[0]
        return list(code.co_freevars)

    def _is_outer_owner(self, frame: FrameType, name: str) -> bool:
        """Whether ``name`` is self or cls, and something holds it that outlives the run."""
        owner = frame.f_locals.get(name) if name in ("self", "cls") else None
        caller: FrameType | None = frame
        while owner is not None and caller is not None and self._stacks.is_users(caller.f_code):
            known = self._held.get((id(owner), caller.f_code))
            if known is None:
                free = [caller.f_locals.get(each) for each in self._free(caller.f_code)]
                known = owner, _is_held(owner, [*caller.f_globals.values(), *free])
                self._held[id(owner), caller.f_code] = known
            if known[1]:
                return True
            caller = caller.f_back
        return False

    def _tell(self, frame: FrameType, effect: str, *, may_be_right: bool = False) -> None:
        code = frame.f_code
        if code in self._stacks.allowed_codes or is_comprehension(code):
            return
        kind = "own effect" if may_be_right or is_workflow(code) else "effect"
        self._findings.tell(kind, frame, effect)


class Assigned(NamedTuple):
    """Something that is assigned to in a function: ``x.y = …``, ``x[y] += …``, ``del x.y``."""

    root: str  # x
    text: str  # the whole
    is_changed: bool  # and not only replaced


@lru_cache(maxsize=4096)
def _assigned(code: CodeType) -> tuple[Assigned, ...]:
    """What a function assigns to in objects; but what it remembers, ``seen[x] = …``, is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return ()
    found: dict[Assigned, None] = {}
    for node in _own_nodes(tree.body[0]):
        targets: list[ast.expr] = []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign | ast.Delete):
            targets = [each for each in node.targets if not isinstance(each, ast.Subscript)]
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if root is not target and isinstance(root, ast.Name):
                is_changed = isinstance(node, ast.AugAssign)
                found[Assigned(root.id, ast.unparse(target), is_changed)] = None
    return tuple(found)


def _own_nodes(definition: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, and not in functions and classes inside of it."""
    for child in ast.iter_child_nodes(definition):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _own_nodes(child)


def _attributes(name: str, owner: object) -> Iterator[tuple[str, object]]:
    for attribute, value in getattr(owner, "__dict__", {}).items():
        yield f"{name}.{attribute}", value


def _is_held(owner: object, values: Iterable[object]) -> bool:
    """Whether it is one of these, or in a dictionary that is."""
    return any(
        value is owner or (type(value) is dict and any(each is owner for each in value.values()))
        for value in values
    )
