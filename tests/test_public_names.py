"""The list of public names, what an import costs, and the one door of a dependency."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import taskflow

PACKAGE = Path(taskflow.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

PUBLIC = {
    "AsCompleted", "CachePolicy", "Call", "CheckpointCorrupt", "Clock", "CurrentCall", "Dropped",
    "Emitted", "Event", "HistoryMismatch", "ImportRefused", "LeaseLost", "MemoryStore",
    "NotInRun", "Progress", "Pruned", "RetryPolicy", "RunCancelled", "RunCancelledEvent",
    "RunCompleted", "RunFailed", "RunHandle", "RunNotFound", "RunPaused", "RunPausedEvent",
    "RunRecord", "RunSetAside", "RunStarted", "RunStatus", "RunUnfinished", "Runtime",
    "SQLiteStore", "SchemaTooNew", "SerializationError", "Store", "StoreError", "Stream",
    "Subscription", "Task", "TaskCompleted", "TaskFailed", "TaskFailedEvent", "TaskNameConflict",
    "TaskRecord", "TaskRetrying", "TaskStarted", "TaskTimeout", "TaskflowError", "ThreadBusy",
    "ThreadExists", "UnknownWorkflow", "Wait", "Waiting", "Workflow", "WorkflowCall",
    "as_completed", "current", "emit", "now", "previous", "race", "random", "receive", "save",
    "sleep", "sleep_until", "task", "uuid", "workflow",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    """A name that is added or lost is a decision, and is made here too."""
    assert set(taskflow.__all__) == PUBLIC
    assert len(taskflow.__all__) == len(PUBLIC)


def test_every_public_name_is_there() -> None:
    """``__all__`` promises nothing that the package does not have."""
    for name in taskflow.__all__:
        assert getattr(taskflow, name) is not None


def test_nothing_else_is_public() -> None:
    """What has no underscore, and is no module, is in ``__all__``."""
    names = {
        name
        for name, value in vars(taskflow).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert names == PUBLIC


@pytest.mark.parametrize(
    "name", [each for each in taskflow.__all__ if each[0].isupper() and each != "Event"]
)
def test_every_public_class_says_what_it_is(name: str) -> None:
    """A class that users meet has a docstring of its own."""
    assert getattr(taskflow, name).__doc__
    assert getattr(taskflow, name).__module__.startswith("taskflow")


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("NotInRun", RuntimeError), ("ThreadBusy", RuntimeError), ("RunUnfinished", RuntimeError),
        ("RunNotFound", LookupError), ("RunCancelled", RuntimeError),
        ("RunPaused", RuntimeError), ("RunSetAside", RuntimeError),
        ("UnknownWorkflow", LookupError), ("HistoryMismatch", RuntimeError),
        ("TaskNameConflict", ValueError), ("SerializationError", TypeError),
        ("ThreadExists", ValueError), ("ImportRefused", ValueError),
        ("TaskFailed", RuntimeError), ("TaskTimeout", TimeoutError), ("LeaseLost", RuntimeError),
        ("StoreError", RuntimeError), ("SchemaTooNew", taskflow.StoreError),
        ("CheckpointCorrupt", taskflow.StoreError),
    ],
)  # fmt: skip
def test_every_error_is_a_taskflow_error_and_a_builtin_one(
    name: str, builtin: type[Exception]
) -> None:
    """Whoever does not know taskflow catches what fits."""
    error = getattr(taskflow, name)
    assert issubclass(error, taskflow.TaskflowError)
    assert issubclass(error, builtin)


@pytest.mark.parametrize(
    "heavy", ["typer", "rich", "fastapi", "trio", "pydantic", "httpx", "attrs", "attr"]
)
def test_an_import_loads_nothing_that_is_not_needed(heavy: str) -> None:
    """``import taskflow`` loads its three dependencies, and none of the optional ones."""
    check = f"import sys, taskflow; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


def _imports(path: Path) -> set[str]:
    """The modules that a file imports, at any place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize(
    ("dependency", "door"),
    [("aiosqlite", "stores/sqlite/store.py"), ("msgspec.json", "wire/codec.py")],
)
def test_a_dependency_has_one_door(dependency: str, door: str) -> None:
    """What is to be replaced one day is imported, and used, in one place."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if dependency in _imports(path) or _uses(path, dependency)
    }
    assert users == {door}


def _uses(path: Path, dotted: str) -> bool:
    """Whether a file has the expression ``msgspec.json``, say."""
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == dotted
        for node in ast.walk(ast.parse(path.read_text()))
    )
