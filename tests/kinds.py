"""What tests are repeated for: kinds of stores, event loops and durabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow import MemoryStore, SQLiteStore, Store

# Opens the same records again and again, as one process after another would.
MakeStore = Callable[[], Store]

ASYNCIO = ("asyncio", {})
TRIO = ("trio", {})
# SQLite's connections live in asyncio; everything else runs on both.
KINDS = {
    "memory-asyncio": ("memory", ASYNCIO),
    "memory-trio": ("memory", TRIO),
    "sqlite-asyncio": ("sqlite", ASYNCIO),
}

on_asyncio = pytest.mark.parametrize("kind", ["memory-asyncio", "sqlite-asyncio"], indirect=True)
in_memory = pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"], indirect=True)
in_memory_on_asyncio = pytest.mark.parametrize("kind", ["memory-asyncio"], indirect=True)
every_durability = pytest.mark.parametrize("durability", ["sync", "async", "exit"])


def store_maker(kind: str, folder: Path) -> MakeStore:
    """What opens the records of one test, in memory or in a file of ``folder``."""
    memory = MemoryStore()
    path = folder / "taskflow.db"
    return lambda: memory if kind.startswith("memory") else SQLiteStore(path)
