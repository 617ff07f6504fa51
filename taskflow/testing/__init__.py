"""Tools to test workflows, and stores, as hard as taskflow tests itself."""

from taskflow.testing.faulty import FaultyStore, chance, every, since
from taskflow.testing.virtual import VirtualClock
from taskflow.testing.wrapped import WrappedStore

__all__ = (
    "FaultyStore",
    "VirtualClock",
    "WrappedStore",
    "chance",
    "every",
    "since",
)
