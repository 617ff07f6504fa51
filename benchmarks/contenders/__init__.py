"""The contenders: taskflow, its peers, and the floors.

A floor is the bound that the machine sets: the least work that must be done, with nothing around
it.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Literal, cast

from msgspec import Struct, field

from benchmarks.session import OpenSession

__all__ = ("CONTENDERS", "Contender", "Kind", "contender", "missing", "opener")

Kind = Literal["taskflow", "peer", "floor"]


class Contender(Struct, frozen=True):
    """One line of each table, and how to open it.

    ``fsync`` says when a result is safe from loss of power; ``needs`` are the modules that must be
    installed, ``options`` the arguments of its module's ``opener``.
    """

    name: str
    label: str
    kind: Kind
    family: str
    fsync: str
    needs: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict[str, str])


EACH = "each commit, awaited (WAL, FULL)"
BEHIND = "each commit, behind the caller (WAL, FULL)"
CHECKPOINTS = "at WAL checkpoints only (WAL, NORMAL)"

CONTENDERS = (
    Contender(
        "taskflow-full",
        "taskflow sync, FULL",
        "taskflow",
        "taskflow_runtime",
        EACH,
        ("taskflow",),
        {"durability": "sync", "synchronous": "FULL"},
    ),
    Contender(
        "taskflow-normal",
        "taskflow sync, NORMAL",
        "taskflow",
        "taskflow_runtime",
        CHECKPOINTS,
        ("taskflow",),
        {"durability": "sync", "synchronous": "NORMAL"},
    ),
    Contender(
        "taskflow-async",
        "taskflow async, FULL",
        "taskflow",
        "taskflow_runtime",
        BEHIND,
        ("taskflow",),
        {"durability": "async", "synchronous": "FULL"},
    ),
    # LangGraph returns a task's result while its write is on the way, in both modes; `sync`
    # waits for the checkpoint at the end of the step (an entrypoint is one step).
    Contender(
        "langgraph-sync",
        "LangGraph sync",
        "peer",
        "langgraph",
        BEHIND,
        ("langgraph", "langgraph.checkpoint.sqlite.aio"),
        {"durability": "sync"},
    ),
    Contender(
        "langgraph-async",
        "LangGraph async",
        "peer",
        "langgraph",
        BEHIND,
        ("langgraph", "langgraph.checkpoint.sqlite.aio"),
        {"durability": "async"},
    ),
    Contender(
        "dbos",
        "DBOS, SQLite as it comes",
        "peer",
        "dbos",
        "each commit, awaited (DELETE, FULL)",
        ("dbos",),
        {"journal": "DELETE"},
    ),
    Contender(
        "dbos-wal", "DBOS, SQLite in WAL", "peer", "dbos", EACH, ("dbos",), {"journal": "WAL"}
    ),
    Contender("floor-a", "floor a: no durability", "floor", "floor_bare", "never"),
    Contender(
        "floor-b-full",
        "floor b: a commit a task, FULL",
        "floor",
        "floor_raw",
        EACH,
        ("aiosqlite",),
        {"synchronous": "FULL"},
    ),
    Contender(
        "floor-b-normal",
        "floor b: a commit a task, NORMAL",
        "floor",
        "floor_raw",
        CHECKPOINTS,
        ("aiosqlite",),
        {"synchronous": "NORMAL"},
    ),
    Contender(
        "floor-f-full",
        "floor f: group commit, FULL",
        "floor",
        "floor_group",
        EACH,
        ("aiosqlite",),
        {"synchronous": "FULL"},
    ),
    Contender(
        "floor-f-normal",
        "floor f: group commit, NORMAL",
        "floor",
        "floor_group",
        CHECKPOINTS,
        ("aiosqlite",),
        {"synchronous": "NORMAL"},
    ),
)


def contender(name: str) -> Contender:
    """The contender of this name."""
    return next(known for known in CONTENDERS if known.name == name)


def missing(contender: Contender) -> str | None:
    """The first of the modules that this contender needs that is not installed."""
    for module in contender.needs:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            return module
    return None


def opener(contender: Contender) -> OpenSession:
    """The function that opens this contender on a path; imports its module."""
    module = import_module(f"benchmarks.contenders.{contender.family}")
    return cast("OpenSession", module.opener(**contender.options))
