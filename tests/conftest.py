"""What every test may ask for: a runtime over each kind of store, on each event loop it runs on."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kinds import ASYNCIO, KINDS, MakeStore, store_maker

from taskflow import Runtime


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long, and with which seed, what is in tests/faults goes on."""
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="the long forms of tests/faults")
    group.addoption("--seed", type=int, default=1, help="what they draw their faults from")


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests and their processes, also where a shell started pytest with ``&``.

    A shell without job control has such a command ignore SIGINT, and its children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether a test of faults goes on for as long as its long form says."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """What a test of faults draws from; it says the seed where it fails."""
    seed = request.config.getoption("--seed")
    request.node.add_report_section("setup", "seed", f"repeat with --seed={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """The store and the event loop of a test that asks for ``runtime``, ``store`` or ``reopen``."""
    return str(request.param)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """The event loop that goes with ``kind``; asyncio where a test does not ask for one."""
    if "kind" in request.fixturenames:
        return KINDS[request.getfixturevalue("kind")][1]
    return ASYNCIO


@pytest.fixture
def make_store(kind: str, tmp_path: Path) -> MakeStore:
    """Opens the same records again and again, as one process after another would."""
    return store_maker(kind, tmp_path)


@pytest.fixture
async def runtime(make_store: MakeStore, anyio_backend: object) -> AsyncIterator[Runtime]:
    """An open runtime."""
    async with Runtime(make_store()) as runtime:
        yield runtime
