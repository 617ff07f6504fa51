"""Tools to test workflows, and stores, as hard as taskflow tests itself.

    crashes        `crash_everywhere`: a workflow is cut off at every moment, and continued
    replays        `replay`: recorded runs against the present code, without executing any task
    virtual        `VirtualClock`: waits pass at once, and in order
    faulty         `FaultyStore`: fails, delays or repeats what it is told to
    wrapped        `WrappedStore`: a store through which everything passes
    conformance    `StoreConformance`: the suite that every store has to pass
    plugin         fixtures for pytest, which the package registers

Each of these modules shows a short program. The conformance suite and the plugin need pytest, and
are imported by their own names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The pytest plugin loads this package wherever it is installed: what nobody uses costs nothing.
if TYPE_CHECKING:
    from taskflow.testing.crashes.everywhere import Crashes, CrashTestFailed, crash_everywhere
    from taskflow.testing.doubles.faulty import FaultyStore, InjectedFault, chance, every, since
    from taskflow.testing.doubles.virtual import VirtualClock
    from taskflow.testing.doubles.wrapped import WrappedStore
    from taskflow.testing.replays import NothingToReplay, replay
    from taskflow.testing.verdicts import (
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

_MODULES = (
    "crashes.everywhere",
    "doubles.faulty",
    "doubles.virtual",
    "doubles.wrapped",
    "replays",
    "verdicts",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found["__all__"]:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
