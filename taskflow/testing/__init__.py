"""Tools to test workflows, and stores, as hard as taskflow tests itself."""

from taskflow.testing.faulty import FaultyStore, chance, every, since
from taskflow.testing.replays import NothingToReplay, replay
from taskflow.testing.verdicts import (
    Difference,
    IgnoredCall,
    NewCall,
    ReplayReport,
    RunReplay,
    Verdict,
)
from taskflow.testing.virtual import VirtualClock
from taskflow.testing.wrapped import WrappedStore

__all__ = (
    "Difference",
    "FaultyStore",
    "IgnoredCall",
    "NewCall",
    "NothingToReplay",
    "ReplayReport",
    "RunReplay",
    "Verdict",
    "VirtualClock",
    "WrappedStore",
    "chance",
    "every",
    "replay",
    "since",
)
