"""The suite for stores, in the hands of somebody who has written one: it finds what lies."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from taskflow.testing import conformance

# Stores that break one promise each.
LIARS = """
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from taskflow import MemoryStore
from taskflow.stores.batches import Batch
from taskflow.testing import FaultyStore, WrappedStore, every, since
from taskflow.testing.conformance import StoreConformance


class Forgetful(WrappedStore):
    async def commit(self, batch):
        if len(batch.checkpoints) > 1:
            batch = structs.replace(batch, checkpoints=batch.checkpoints[:-1])
        return await super().commit(batch)


class Piecemeal(WrappedStore):
    async def commit(self, batch):
        for each in batch.checkpoints:
            await super().commit(Batch([each], [], [], [], []))
        return await super().commit(structs.replace(batch, checkpoints=[]))


class Unfenced(WrappedStore):
    async def commit(self, batch):
        newest = {row.number: row.epoch for row in await self.latest(["thread"])}
        renewed = [
            structs.replace(each, epoch=newest.get(each.number, each.epoch))
            for each in batch.checkpoints
        ]
        return await super().commit(structs.replace(batch, checkpoints=renewed))


class Living(WrappedStore):
    @asynccontextmanager
    async def snapshot(self, thread_id):
        yield Now(self, thread_id)


class Now:
    def __init__(self, store, thread_id):
        self.store, self.thread_id = store, thread_id

    async def runs(self, after, limit):
        rows = await self.store.runs(None, None, None, 100)
        rows = [row for row in rows if row.thread_id == self.thread_id and row.sequence > after]
        return rows[:limit]

    async def checkpoints(self, run_id, after, limit):
        return await self.store.checkpoints(self.thread_id, run_id, after, limit)


class Immortal(WrappedStore):
    async def close(self, owner):
        pass


class Suite(StoreConformance):
    @pytest.fixture
    def make_store(self):
        return self.make(MemoryStore())


class TestHonest(Suite):
    def make(self, store):
        return lambda: store


class TestForgetful(Suite):
    def make(self, store):
        return lambda: Forgetful(store)


class TestPiecemeal(Suite):
    def make(self, store):
        return lambda: Piecemeal(store)


class TestUnfenced(Suite):
    def make(self, store):
        return lambda: Unfenced(store)


class TestLiving(Suite):
    def make(self, store):
        return lambda: Living(store)


class TestImmortal(Suite):
    def make(self, store):
        return lambda: Immortal(store)


class TestAmnesiac(Suite):
    def make(self, store):
        return MemoryStore


class TestTwice(Suite):
    def make(self, store):
        return lambda: FaultyStore(store).duplicate("commit", since(1))


class TestUnheard(Suite):
    def make(self, store):
        return lambda: FaultyStore(store).fail("commit", every(3), after=True)
"""


def report(path: Path, *options: str) -> str:
    """What pytest prints of a file: a line for each test, with its outcome."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *options]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, cwd=path.parent)
    return done.stdout


def counts(printed: str, name: str) -> Counter[str]:
    """How many tests of a class have passed, failed and erred."""
    found = re.findall(rf"^(PASSED|FAILED|ERROR) \S+::{name}::", printed, re.MULTILINE)
    return Counter(found)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the suite says of an honest store, and of those that break a promise."""
    path = tmp_path_factory.mktemp("liars") / "test_liars.py"
    path.write_text(LIARS)
    return report(path, "--tb=short")


def test_the_programs_of_its_docstring_are_suites(tmp_path: Path) -> None:
    """As they stand there: one on asyncio, and one on both event loops."""
    lines = (inspect.getdoc(conformance) or "").splitlines()
    program = "\n".join(line for line in lines if line.startswith("    ") or not line)
    path = tmp_path / "test_my_store.py"
    path.write_text(textwrap.dedent(program))

    printed = report(path, "-k", "signal")

    one, both = counts(printed, "TestMyStore"), counts(printed, "TestMyOtherStore")
    assert one.keys() == both.keys() == {"PASSED"}, printed
    assert both["PASSED"] == 2 * one["PASSED"] > 20


def test_an_honest_store_passes(verdicts: str) -> None:
    """Every test of the suite, and there are many."""
    found = counts(verdicts, "TestHonest")

    assert found.keys() == {"PASSED"}, verdicts
    assert found["PASSED"] > 100


@pytest.mark.parametrize(
    ("liar", "found_by"),
    [
        ("Forgetful", "test_a_batch_is_applied_in_its_order"),
        ("Piecemeal", "test_a_batch_with_a_row_at_fault_writes_nothing"),
        ("Unfenced", "test_a_write_of_an_older_epoch_is_refused"),
        ("Living", "test_a_snapshot_is_one_moment"),
        ("Immortal", "test_the_run_of_a_closed_owner_can_be_taken_over"),
        ("Amnesiac", "test_the_next_process_finds_what_was_committed"),
        ("Twice", "test_a_claim_of_an_unknown_thread_begins_a_run"),
        ("Unheard", "test_load_gives_a_run_in_pages"),
    ],
)
def test_a_store_that_breaks_a_promise_is_found(verdicts: str, liar: str, found_by: str) -> None:
    """By the test that is about it."""
    failed = re.findall(rf"^FAILED \S+::Test{liar}::(\w+)", verdicts, re.MULTILINE)
    assert found_by in failed, verdicts


def test_what_fails_shows_its_values(verdicts: str) -> None:
    """The suite's assertions are rewritten, as those of a test's own file are."""
    assert re.search(r"AssertionError: assert \[.*\] == \['charge:2'\]", verdicts), verdicts


def test_a_suite_without_a_store_says_what_is_missing(tmp_path: Path) -> None:
    """The fixture that a subclass has to give."""
    path = tmp_path / "test_none.py"
    path.write_text(
        "from taskflow.testing.conformance import StoreConformance\n"
        "class TestNone(StoreConformance): ...\n"
    )

    printed = report(path, "-k", "test_an_empty_batch")

    assert counts(printed, "TestNone") == {"ERROR": 1}
    assert "TestNone has no fixture make_store" in printed


def test_only_the_suite_imports_pytest() -> None:
    """Neither taskflow nor the rest of ``taskflow.testing`` does."""
    check = "import sys, taskflow.testing, taskflow.testing.rows; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"
