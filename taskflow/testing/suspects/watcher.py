"""`Suspects`: the watcher of `crash_everywhere`. It looks at the code of one workflow.

    watch        a `Witness` looks on, as it does in the undisturbed pass
    set order    a rerun sees sets in another order (`OtherSetOrder`)
    forget       a rerun does not find what was left in the process (`Memory`)

In every pass, locks that a dropped process held are free in the next process.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any

from taskflow.testing.crashes.looks import Look, Watcher
from taskflow.testing.origins import count_as_users
from taskflow.testing.suspects.functions import functions_of, reachable
from taskflow.testing.suspects.memory import Memory, write_all
from taskflow.testing.suspects.set_order import OtherSetOrder
from taskflow.testing.suspects.witness import Witness

__all__ = ("Suspects",)


class Suspects(Watcher):
    """What is known of a workflow's code from the passes before."""

    def __init__(self, fn: Callable[..., Any], allowed: Iterable[Callable[..., Any]]) -> None:
        self.allowed = list(allowed)
        self.executed: dict[CodeType, None] = {}  # of the user's, in workflows and not in tasks
        self.memory = Memory()
        self.locks = Memory(only_locks=True)
        self._suspects: list[str] = []
        self._notes: dict[str, None] = {}
        self._reachable: dict[FunctionType, None] = {}
        fn = inspect.unwrap(fn)
        if isinstance(fn, FunctionType):
            count_as_users(fn)
            self._reachable = reachable(fn)
            self.memory.look(each.__code__ for each in self._reachable)

    @property
    def suspects(self) -> list[str]:
        return self._suspects

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def kinds(self, *, is_rerun: bool) -> tuple[str, ...]:
        return ("watch", "set order", "forget") if is_rerun else ("watch",)

    def look(self, kind: str) -> Look:
        return LOOKS.get(kind, Pass)(self)

    def functions(self) -> dict[FunctionType, None]:
        """Those that may execute in the workflow, as far as that is known."""
        found = dict(self._reachable)
        for fn in functions_of(self.executed):  # methods, properties, whatever leads to them
            found |= reachable(fn)
        return found

    def learn(self, witness: Witness) -> None:
        """What a pass has shown that was watched."""
        self.executed |= witness.executed
        self.locks.look(witness.met)
        self._suspects = witness.suspects
        self.note(witness.notes)

    def note(self, texts: Iterable[str]) -> None:
        """What an author should know who looks at the result of all passes."""
        self._notes |= dict.fromkeys(texts)


class Pass(Look):
    """Looks at nothing: locks are free in each of its processes."""

    def __init__(self, suspects: Suspects) -> None:
        self._suspects = suspects
        self._context = contextlib.ExitStack()

    def begin(self, *, is_last: bool) -> None:
        if is_last:
            self._change()
        self._suspects.locks.forget()

    def _change(self) -> None:
        """Change what the rerun finds."""

    def __exit__(self, *raised: object) -> None:
        self._context.close()


class Watched(Pass):
    """A witness looks on."""

    def __init__(self, suspects: Suspects) -> None:
        super().__init__(suspects)
        self._witness = Witness(suspects.allowed)

    @property
    def findings(self) -> list[str]:
        return self._witness.findings

    def __enter__(self) -> None:
        self._context.enter_context(self._witness)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        self._suspects.learn(self._witness)


class Reordered(Pass):
    """The rerun sees sets in another order."""

    def __init__(self, suspects: Suspects) -> None:
        super().__init__(suspects)
        self._order = OtherSetOrder()

    @property
    def reason(self) -> str:
        places = ", ".join(self._order.places)
        return places and (
            "it depends on the order of a set, or on a hash, and another process has another one "
            f"({places}): iterate over sorted(…), or use a list or a dict"
        )

    def _change(self) -> None:
        self._order.change(self._suspects.functions())
        self._context.callback(self._order.restore)
        self._suspects.note(
            f"the source of {name} is not there, or not by itself: its use of sets is unknown"
            for name in self._order.without_source
        )


class Forgetful(Pass):
    """The rerun does not find what the processes before have left in memory."""

    def __init__(self, suspects: Suspects) -> None:
        super().__init__(suspects)
        self._memory = suspects.memory
        self._memory.look(suspects.executed)

    @property
    def reason(self) -> str:
        names = ", ".join(self._memory.changed)
        return names and (
            "it depends on what was left in the process, which another one does not have: have a "
            f"task return that, and pass it on (changed meanwhile: {names})"
        )

    def _change(self) -> None:
        self._context.callback(write_all, self._memory.forget())
        self._suspects.note(
            f"{name} holds too much to look whether a rerun depends on it"
            for name in self._memory.left_out
        )


LOOKS: dict[str, type[Pass]] = {
    "undisturbed": Watched, "watch": Watched, "set order": Reordered, "forget": Forgetful,
}  # fmt: skip
