"""The list of public names, what an import costs, and the one door of a dependency."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import taskflow

PACKAGE = Path(taskflow.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

PUBLIC = {
    "taskflow": {
        "CachePolicy", "Call", "MemoryStore", "RetryPolicy", "RunCancelled", "RunHandle",
        "RunNotFound", "RunPaused", "RunUnfinished", "Runtime", "SQLiteStore", "Store", "Task",
        "TaskFailed", "TaskTimeout", "TaskflowError", "ThreadBusy", "Workflow", "WorkflowCall",
        "as_completed", "current", "emit", "now", "previous", "race", "random", "receive", "save",
        "sleep", "sleep_until", "task", "uuid", "workflow",
    },
    "taskflow.errors": {
        "CheckpointCorrupt", "HistoryMismatch", "ImportRefused", "LeaseLost", "NotInRun",
        "RunCancelled", "RunNotFound", "RunPaused", "RunSetAside", "RunUnfinished", "SchemaTooNew",
        "SerializationError", "StoreError", "TaskFailed", "TaskNameConflict", "TaskTimeout",
        "TaskflowError", "ThreadBusy", "ThreadExists", "UnknownWorkflow",
    },
    "taskflow.events": {
        "Dropped", "Emitted", "Event", "RunCancelled", "RunCompleted", "RunFailed", "RunPaused",
        "RunStarted", "TaskCompleted", "TaskFailed", "TaskRetrying", "TaskStarted", "Waiting",
    },
    "taskflow.records": {
        "CurrentCall", "Pruned", "RunRecord", "RunStatus", "TaskRecord", "Wait",
    },
}  # fmt: skip

# Where the names are that stood at the top in 0.3.
MOVED = {
    "AsCompleted": "taskflow.calls.races.AsCompleted",
    "CheckpointCorrupt": "taskflow.errors.CheckpointCorrupt",
    "Clock": "taskflow.loops.clocks.Clock",
    "CurrentCall": "taskflow.records.CurrentCall",
    "Dropped": "taskflow.events.Dropped",
    "Emitted": "taskflow.events.Emitted",
    "Event": "taskflow.events.Event",
    "HistoryMismatch": "taskflow.errors.HistoryMismatch",
    "ImportRefused": "taskflow.errors.ImportRefused",
    "LeaseLost": "taskflow.errors.LeaseLost",
    "NotInRun": "taskflow.errors.NotInRun",
    "Progress": "taskflow.runs.progress.Progress",
    "Pruned": "taskflow.records.Pruned",
    "RunCancelledEvent": "taskflow.events.RunCancelled",
    "RunCompleted": "taskflow.events.RunCompleted",
    "RunFailed": "taskflow.events.RunFailed",
    "RunPausedEvent": "taskflow.events.RunPaused",
    "RunRecord": "taskflow.records.RunRecord",
    "RunSetAside": "taskflow.errors.RunSetAside",
    "RunStarted": "taskflow.events.RunStarted",
    "RunStatus": "taskflow.records.RunStatus",
    "SchemaTooNew": "taskflow.errors.SchemaTooNew",
    "SerializationError": "taskflow.errors.SerializationError",
    "StoreError": "taskflow.errors.StoreError",
    "Stream": "taskflow.runtime.subscriptions.Stream",
    "Subscription": "taskflow.runtime.subscriptions.Subscription",
    "TaskCompleted": "taskflow.events.TaskCompleted",
    "TaskFailedEvent": "taskflow.events.TaskFailed",
    "TaskNameConflict": "taskflow.errors.TaskNameConflict",
    "TaskRecord": "taskflow.records.TaskRecord",
    "TaskRetrying": "taskflow.events.TaskRetrying",
    "TaskStarted": "taskflow.events.TaskStarted",
    "ThreadExists": "taskflow.errors.ThreadExists",
    "UnknownWorkflow": "taskflow.errors.UnknownWorkflow",
    "Wait": "taskflow.records.Wait",
    "Waiting": "taskflow.events.Waiting",
}


@pytest.mark.parametrize("module", list(PUBLIC))
def test_the_public_names_are_these(module: str) -> None:
    """A name that is added or lost is a decision, and is made here too."""
    names = import_module(module).__all__
    assert set(names) == PUBLIC[module]
    assert len(names) == len(PUBLIC[module])


def test_every_public_name_is_there() -> None:
    """``__all__`` promises nothing that the package does not have."""
    for name in taskflow.__all__:
        assert getattr(taskflow, name) is not None


def test_nothing_else_is_public() -> None:
    """What has no underscore, and is no module, is in ``__all__``."""
    names = {
        name
        for name in dir(taskflow)
        if not name.startswith("_") and not isinstance(getattr(taskflow, name), ModuleType)
    }
    assert names == PUBLIC["taskflow"]


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_name_of_before_works_and_tells_its_new_place(name: str) -> None:
    """It is the very object, and the warning can be followed."""
    with pytest.warns(DeprecationWarning, match=rf"taskflow\.{name} is {MOVED[name]} now"):
        old = getattr(taskflow, name)
    module, _, attribute = MOVED[name].rpartition(".")
    assert old is getattr(import_module(module), attribute)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    """As of any other module."""
    with pytest.raises(AttributeError, match="has no attribute 'taks'"):
        taskflow.taks  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in PUBLIC for name in sorted(PUBLIC[module]) if name[0].isupper()],
)
def test_every_public_class_says_what_it_is(module: str, name: str) -> None:
    """A class that users meet has a docstring of its own."""
    found = getattr(import_module(module), name)
    assert name == "Event" or found.__doc__  # `Event` is a union of those beside it


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
        ("StoreError", RuntimeError), ("SchemaTooNew", taskflow.errors.StoreError),
        ("CheckpointCorrupt", taskflow.errors.StoreError),
    ],
)  # fmt: skip
def test_every_error_is_a_taskflow_error_and_a_builtin_one(
    name: str, builtin: type[Exception]
) -> None:
    """Whoever does not know taskflow catches what fits."""
    error = getattr(taskflow.errors, name)
    assert issubclass(error, taskflow.TaskflowError)
    assert issubclass(error, builtin)


@pytest.mark.parametrize(
    "heavy", ["typer", "rich", "fastapi", "trio", "pydantic", "httpx", "attrs", "attr"]
)
def test_an_import_loads_nothing_that_is_not_needed(heavy: str) -> None:
    """All of the public names load the three dependencies, and none of the optional ones."""
    check = f"import sys; from taskflow import *; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


def _loaded_by(statement: str) -> set[str]:
    """The modules that a new process loads for it."""
    program = (
        f"import sys; before = set(sys.modules); {statement}; print(*sys.modules.keys() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_an_import_of_the_package_loads_little() -> None:
    """Its names are loaded when they are used; 26 modules on Python 3.11."""
    assert len(_loaded_by("import taskflow")) <= 190


def test_what_every_program_imports_loads_little_beside_taskflow_itself() -> None:
    """The modules of Python and of the dependencies; 145 on Python 3.11."""
    loaded = _loaded_by("from taskflow import Runtime, task, workflow")
    assert len([name for name in loaded if name.partition(".")[0] != "taskflow"]) <= 160


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
    [("aiosqlite", "stores/sqlite/connection.py"), ("msgspec.json", "wire/json.py")],
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
