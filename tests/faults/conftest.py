"""What tests of faults may ask for: a runtime to use from plain functions, and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from values import Host

from taskflow import MemoryStore, SQLiteStore


@pytest.fixture(params=["memory", "sqlite"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """An open runtime on each kind of store."""
    memory = request.param == "memory"
    with Host(MemoryStore() if memory else SQLiteStore(tmp_path / "taskflow.db")) as host:
        yield host


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What hypothesis draws from."""
    return int(request.config.getoption("--seed"))
