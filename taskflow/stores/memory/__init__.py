"""`MemoryStore`: the face in `store`, the rows in `tables`, as dicts."""

from taskflow.stores.memory.store import MemoryStore

__all__ = ("MemoryStore",)
