"""The kit for tests of workflows and of stores: taskflow is tested with it, too.

    crashes        `crash_everywhere`: a workflow is cut off at every moment, and continued
    replays        `replay`: recorded runs against the present code, without executing any task
    doubles        `VirtualClock`, `FaultyStore`, `WrappedStore`: in place of time or a store
    conformance    `StoreConformance`: the suite that every store has to pass
    rows           builders of the rows that a test of a store needs
    plugin         fixtures for pytest, which the package registers
    suspects       guesses at what a workflow's code does, for `crashes` alone
    origins        whose code a function is: the user's, or a package's

The docstrings show short programs. This package loads a tool when its name is first used, since
pytest imports it wherever taskflow is installed. It may import everything below it; of the package,
only the command ``taskflow check`` imports it. The conformance suite and the plugin need pytest,
and are imported by their own names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskflow.testing.crashes.everywhere import Crashes, CrashTestFailed, crash_everywhere
    from taskflow.testing.doubles.faulty import FaultyStore, InjectedFault, chance, every, since
    from taskflow.testing.doubles.virtual import VirtualClock
    from taskflow.testing.doubles.wrapped import WrappedStore
    from taskflow.testing.replays.replaying import NothingToReplay, replay
    from taskflow.testing.replays.verdicts import (
        Difference,
        IgnoredCall,
        NewCall,
        ReplayReport,
        RunReplay,
        Verdict,
    )

__all__ = (
    "CrashTestFailed",
    "Crashes",
    "Difference",
    "FaultyStore",
    "IgnoredCall",
    "InjectedFault",
    "NewCall",
    "NothingToReplay",
    "ReplayReport",
    "RunReplay",
    "Verdict",
    "VirtualClock",
    "WrappedStore",
    "chance",
    "crash_everywhere",
    "every",
    "replay",
    "since",
)

_MODULES = {
    "crashes.everywhere": ("CrashTestFailed", "Crashes", "crash_everywhere"),
    "doubles.faulty": ("FaultyStore", "InjectedFault", "chance", "every", "since"),
    "doubles.virtual": ("VirtualClock",),
    "doubles.wrapped": ("WrappedStore",),
    "replays.replaying": ("NothingToReplay", "replay"),
    "replays.verdicts": (
        "Difference", "IgnoredCall", "NewCall", "ReplayReport", "RunReplay", "Verdict",
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
