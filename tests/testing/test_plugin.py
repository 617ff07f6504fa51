"""The fixtures that the package registers with pytest, as who has installed it sees them."""

from __future__ import annotations

import inspect
import textwrap

import pytest

from taskflow.testing import plugin

pytest_plugins = ["pytester"]

OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", "error", "-p", "no:asyncio")
# pytest-asyncio warns of an option that is not set, and of fixtures that are not its own.
LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"
WITH_ASYNCIO = ("-q", "-p", "no:cacheprovider", "-o", LOOP_SCOPE)


def program() -> str:
    """The tests in the plugin's docstring."""
    lines = (inspect.getdoc(plugin) or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))


def test_the_program_of_its_documentation_passes(pytester: pytest.Pytester) -> None:
    """On every event loop that anyio offers, with every store that works there."""
    pytester.makepyfile(program())
    done = pytester.runpytest_subprocess(*OPTIONS)
    done.assert_outcomes(passed=3, skipped=1)


def test_a_runtime_opens_in_virtual_time_whoever_is_named_first(pytester: pytest.Pytester) -> None:
    """The order of a test's parameters changes nothing."""
    pytester.makepyfile(
        """
        import pytest
        from taskflow import Runtime, sleep, workflow

        @workflow
        async def nap() -> None:
            await sleep(86400)

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_one(clock, runtime):
            await runtime.run(nap(), thread_id="t", wait=True)

        @pytest.mark.anyio
        async def test_other(runtime, clock):
            await runtime.run(nap(), thread_id="t", wait=True)
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=4)


def test_fixtures_of_ones_own_go_first(pytester: pytest.Pytester) -> None:
    """Who has a fixture of that name keeps it."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def store():
            return "mine"

        def test_it(store):
            assert store == "mine"
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


def test_it_does_nothing_where_nobody_asks(pytester: pytest.Pytester) -> None:
    """Tests that use none of it load none of the tools."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing_was_loaded():
            loaded = [each for each in sys.modules if each.startswith("taskflow.testing.")]
            assert loaded == ["taskflow.testing.plugin"]
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


def test_its_names_are_these(pytester: pytest.Pytester) -> None:
    """What the plugin registers is what its documentation names."""
    assert set(plugin.__all__) == {"clock", "runtime", "store"}
    listed = pytester.runpytest_subprocess("--fixtures", "-q").stdout.str()
    for name in plugin.__all__:
        assert f"\n{name} -- " in listed


BOTH = """
import pytest
from taskflow import Runtime, sleep, workflow
from taskflow.testing import VirtualClock

@workflow
async def nap() -> None:
    await sleep(60)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.{mark}
async def test_runtime(runtime, clock):
    await runtime.run(nap(), thread_id="t", wait=True)

@pytest.mark.{mark}
async def test_clock(clock):
    assert clock.now()

@pytest.mark.{mark}
async def test_store(store):
    with VirtualClock():
        async with Runtime(store) as runtime:
            await runtime.run(nap(), thread_id="t", wait=True)
"""


@pytest.mark.parametrize(("mark", "mode"), [("asyncio", "strict"), ("anyio", "auto")])
def test_a_test_of_pytest_asyncio_is_told_the_way_out(
    pytester: pytest.Pytester, mark: str, mode: str
) -> None:
    """It would be executed on another event loop than the fixtures; with ``store`` alone it runs.

    In auto mode pytest-asyncio executes what is marked for anyio, too.
    """
    pytest.importorskip("pytest_asyncio", reason="the group dev installs it")
    pytester.makepyfile(BOTH.format(mark=mark))

    done = pytester.runpytest_subprocess(*WITH_ASYNCIO, "-o", f"asyncio_mode={mode}")

    done.assert_outcomes(errors=3, passed=2)
    done.stdout.fnmatch_lines(["*test_runtime* is executed by pytest-asyncio*pytest.mark.anyio*"])
    assert "on which it was opened" not in done.stdout.str()


def test_tests_of_anyio_run_beside_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """In its strict mode, which is the default."""
    pytest.importorskip("pytest_asyncio", reason="the group dev installs it")
    pytester.makepyfile(
        test_anyio=BOTH.format(mark="anyio"),
        test_asyncio="""
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_it():
            assert asyncio.get_running_loop()
        """,
    )

    done = pytester.runpytest_subprocess(*WITH_ASYNCIO)

    done.assert_outcomes(passed=6)
