"""Every store keeps the promises of `taskflow.stores.base`: the suite is public, and runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kinds import MakeStore

from taskflow import MemoryStore, SQLiteStore
from taskflow.stores.pruning import Outline, Prune, prunable
from taskflow.testing import FaultyStore
from taskflow.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    """The store that keeps nothing beyond its process, on both event loops."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def make_store(self) -> MakeStore:
        memory = MemoryStore()
        return lambda: memory


class TestSQLiteStore(StoreConformance):
    """The store that keeps a file."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: SQLiteStore(tmp_path / "taskflow.db")


class TestFaultyStore(StoreConformance):
    """A store without faults is as good as the one that it is wrapped around."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: FaultyStore(SQLiteStore(tmp_path / "taskflow.db"))


# Which runs may be pruned.


def outline(number: int, status: str = "success", **changes: Any) -> Outline:
    """The outline of a run that has ended at the time of its number."""
    fields: dict[str, Any] = {"owner": None, "has_saved": False, "has_rows": True}
    finished = None if status == "running" else float(number)
    return Outline(number, f"run {number}", 1, status, finished, **{**fields, **changes})


@pytest.mark.parametrize(
    ("runs", "keep_last", "deleted"),
    [
        ([outline(1), outline(2)], 0, {1: False, 2: False}),  # nothing stays
        ([outline(1), outline(2)], 1, {1: True}),  # 2 was given what 1 had saved
        ([outline(1), outline(2), outline(3)], 1, {1: False, 2: True}),
        ([outline(1), outline(2, "running")], 0, {1: True}),
        ([outline(1), outline(2, "cancelled"), outline(3, "error")], 0, {1: True, 2: False}),
        ([outline(1), outline(9)], 0, {1: True}),  # 9 is younger
        ([outline(1), outline(2, has_saved=True)], 0, {1: False, 2: True}),
        ([outline(1, has_saved=True), outline(2)], 0, {1: False, 2: False}),
        ([outline(1), outline(2), outline(3, owner="x")], 0, {1: False, 2: True}),
    ],
)
def test_what_previous_needs_is_not_deleted(
    runs: list[Outline], keep_last: int, deleted: dict[int, bool]
) -> None:
    """True: its row stays, without its calls."""
    found = prunable(runs, Prune(("success", "cancelled"), 5.0, keep_last, 0.0))

    assert {run.number: keeps_row for run, keeps_row in found} == deleted
