"""Fixtures for pytest: `store`, `clock` and `runtime`. The package registers them; nothing else.

    # content of test_orders.py
    import pytest

    from taskflow import Runtime, sleep, task, workflow
    from taskflow.testing import VirtualClock

    pytestmark = pytest.mark.anyio

    @task
    async def ship(order: str) -> str:
        return f"{order} is on its way"

    @workflow
    async def fulfil(order: str) -> str:
        await sleep(7 * 86400)
        return await ship(order)

    async def test_an_order_is_shipped_after_a_week(runtime: Runtime, clock: VirtualClock) -> None:
        began = clock.now()
        assert await runtime.run(fulfil("A1"), thread_id="A1", wait=True) == "A1 is on its way"
        assert clock.now() - began >= 7 * 86400

``store`` is each kind of store in turn, empty: one in memory, and a SQLite file, which is left out
on trio. ``runtime`` is open on it. With ``clock`` time is virtual, for everything in the event loop
of the test; without, it passes as on a wall.

anyio's plugin, which is installed with taskflow, executes the tests and these fixtures on one event
loop: mark the tests with ``pytest.mark.anyio``. Beside pytest-asyncio that works in its strict mode
(the default); in ``asyncio_mode = "auto"`` it executes every test itself. A test that
pytest-asyncio executes may ask for ``store``, and opens what it needs with
``async with Runtime(store) as runtime`` and ``with VirtualClock() as clock``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Nothing of taskflow is needed before a fixture is asked for.
if TYPE_CHECKING:
    from taskflow import Runtime, Store
    from taskflow.testing.doubles.virtual import VirtualClock

__all__ = ("clock", "runtime", "store")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, not open: each kind in turn."""
    from taskflow import MemoryStore, SQLiteStore

    if request.param == "memory":
        return MemoryStore()
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if (backend if isinstance(backend, str) else backend[0]) == "trio":
            pytest.skip("SQLiteStore needs asyncio")
    return SQLiteStore(tmp_path / "taskflow-store.db")


@pytest.fixture
async def clock(_on_anyio: None, anyio_backend: object) -> AsyncIterator[VirtualClock]:
    """Virtual time, for as long as the test takes."""
    from taskflow.testing.doubles.virtual import VirtualClock

    with VirtualClock() as clock:
        yield clock


@pytest.fixture
async def runtime(
    store: Store, _on_anyio: None, _time: None, anyio_backend: object
) -> AsyncIterator[Runtime]:
    """A runtime that is open on ``store``."""
    from taskflow import Runtime

    async with Runtime(store) as runtime:
        yield runtime


@pytest.fixture
def _time(request: pytest.FixtureRequest) -> None:
    """Time is virtual before a runtime is opened, in whatever order a test names the two."""
    if "clock" in request.fixturenames:
        request.getfixturevalue("clock")


@pytest.fixture
def _on_anyio(request: pytest.FixtureRequest) -> None:
    """Fails where pytest-asyncio executes the test: on another event loop than these fixtures.

    In auto mode pytest-asyncio marks all asynchronous tests itself, also those marked for anyio.
    """
    is_asyncios = request.node.get_closest_marker("asyncio") is not None
    if not (is_asyncios and request.config.pluginmanager.has_plugin("asyncio")):
        return

    pytest.fail(
        f"{request.node.name} is executed by pytest-asyncio, but taskflow's fixtures `runtime` and "
        "`clock` live on the event loop of anyio's plugin. Mark the test with pytest.mark.anyio "
        'instead of pytest.mark.asyncio, and leave asyncio_mode at "strict" (in "auto" '
        "pytest-asyncio executes every test); or ask for `store`, and open what the test needs: "
        "async with Runtime(store) as runtime; with VirtualClock() as clock",
        pytrace=False,
    )
