"""Fuzzed ids: any text names a thread, a run, a signal or a task, or is refused by that name."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from values import Host, fuzz

from taskflow import (
    CachePolicy,
    RunCancelled,
    RunNotFound,
    receive,
    task,
    workflow,
)

REFUSED = (ValueError, TypeError)
LONGEST = 512  # bytes
ids = st.text(max_size=40) | st.sampled_from(
    [
        *("", "\0", "a\0b", "\ud800", "a\udfffb", "x" * (LONGEST + 1), "x" * 1_000_000, "🧵" * 129),
        *(
            "\n",
            " ",
            "'; DROP TABLE run; --",
            '"',
            "%s{}%",
            "a:b",
            "a@b",
            "=1",
            "🧵" * 128,
            "x" * LONGEST,
        ),
        *(
            "\x1b[2J",
            "\u202e",
            "\u2028",
            "..",
            "../../etc/passwd",
            "NULL",
            "-1",
            "\ufeff",
            "é",
            "e\u0301",
        ),
    ]
)


def is_id(text: str) -> bool:
    """What the documentation says of ids: up to 512 bytes of UTF-8, without NUL."""
    try:
        return 0 < len(text.encode()) <= LONGEST and "\0" not in text
    except UnicodeEncodeError:
        return False


@task
async def echo(value: str) -> str:
    return value


@workflow
async def shop(value: str = "") -> str:
    return await echo(value)


@workflow
async def ask(name: str) -> list[Any]:
    return [await receive(name), await receive(name)]


async def told_apart(host: Host, thread_id: str, run_id: str) -> None:
    """Everything that takes these ids finds what it means, and nothing else."""
    runtime = host.runtime
    assert await runtime.run(shop("a"), thread_id=thread_id, run_id=run_id) == "a"
    assert await runtime.run(shop("b"), thread_id=thread_id) == "b"
    (call,) = await runtime.tasks(thread_id, run_id)
    assert call.value == "a"
    assert (await runtime.get(thread_id, run_id)).run_id == run_id
    assert (await runtime.get(thread_id)).thread_id == thread_id
    numbers = [event.number async for event in runtime.subscribe(thread_id, run_id=run_id)]
    assert numbers
    lines = [line async for line in runtime.export(thread_id)]
    assert (
        await runtime.import_thread(lines, to=f"{thread_id[:50]} copy") == f"{thread_id[:50]} copy"
    )
    assert (await runtime.fork(thread_id, to=f"{thread_id[:50]} fork", run_id=run_id)).result == "a"
    await runtime.forget(thread_id, (await runtime.tasks(thread_id))[-1].task_id)
    await runtime.cancel(thread_id)
    for each in (thread_id, f"{thread_id[:50]} copy", f"{thread_id[:50]} fork"):
        await runtime.delete(each)
        with pytest.raises(RunNotFound):
            await runtime.get(each)


def test_ids_of_threads_and_runs_work_everywhere_or_nowhere(
    host: Host, seed: int, is_long: bool
) -> None:
    """The same ones in each kind of store."""

    def check(thread_id: str, run_id: str) -> None:
        if is_id(thread_id) and is_id(run_id):
            host.run(told_apart(host, thread_id, run_id))
            return
        what = "run id" if is_id(thread_id) else "thread id"
        with pytest.raises(REFUSED, match=what):
            host.run(host.runtime.run(shop(), thread_id=thread_id, run_id=run_id))

    fuzz(check, seed, 2_000 if is_long else 60, ids, ids)


@pytest.mark.parametrize(
    "name",
    ["get", "cancel", "delete", "resume", "tasks", "subscribe", "export", "fork", "send", "thread"],
)
def test_no_place_takes_what_is_no_id(host: Host, name: str) -> None:
    """Each says that it is the thread's id which is none."""

    async def use(thread_id: Any) -> None:
        method = getattr(host.runtime, name)
        if name == "fork":
            await method("t", to=thread_id)
        elif name == "send":
            await method(thread_id, "name")
        elif name == "thread":
            async with method(thread_id):
                pass
        elif name in ("subscribe", "export"):
            await anext(method(thread_id))
        else:
            await method(thread_id)

    for value in ("", "a\0", "\ud800", "x" * 513, None, 1, b"a", ["a"]):
        with pytest.raises(REFUSED, match="thread id"):
            host.run(use(value))


@pytest.mark.parametrize("value", ["\ud800", 1, b"a"])
def test_what_is_looked_for_is_text(host: Host, value: Any) -> None:
    """Also where it could only be found, or not."""
    runtime = host.runtime
    host.run(runtime.run(shop(), thread_id="t"))
    for what, look in (
        ("run id", lambda: runtime.get("t", value)),
        ("run id", lambda: runtime.tasks("t", value)),
        ("run id", lambda: runtime.fork("t", to="other", run_id=value)),
        ("task id", lambda: runtime.forget("t", value)),
        ("task id", lambda: runtime.replace("t", value, 1)),
        ("task id", lambda: runtime.fork("t", to="other", without=[value])),
        ("workflow's name", lambda: runtime.runs(workflow=value)),
        ("task's name", lambda: runtime.clear_cache(value)),
    ):
        with pytest.raises(REFUSED, match=what):
            host.run(look())
    assert [each.thread_id for each in host.run(runtime.runs())] == ["t"]


def test_names_and_ids_of_signals_tell_them_apart(host: Host, seed: int, is_long: bool) -> None:
    """One id counts once, each other one is another signal; what is none is refused by name."""

    def check(name: str, signal_id: str) -> None:
        async def send() -> list[Any]:
            handle = await host.runtime.start(ask(name), thread_id=thread_id)
            await host.runtime.send(thread_id, name, 1, id=signal_id)
            await host.runtime.send(thread_id, name, 2, id=signal_id)
            await host.runtime.send(thread_id, name, 3)
            return await handle.result()

        async def stop() -> None:
            handle = await host.runtime.start(ask("other"), thread_id=thread_id)
            try:
                await host.runtime.send(thread_id, name, 1, id=signal_id)
            finally:
                await handle.cancel()
                with pytest.raises(RunCancelled):
                    await handle.result()

        thread_id = host.new_thread()
        if is_id(name) and is_id(signal_id):
            assert host.run(send()) == [1, 3]
            return
        with pytest.raises(REFUSED, match="signal's id" if is_id(name) else "signal's name"):
            host.run(stop())

    fuzz(check, seed, 2_000 if is_long else 50, ids, ids)


def test_names_of_tasks_and_workflows(host: Host, seed: int, is_long: bool) -> None:
    """Any id is one; calls of two names are never one call; what is none is refused by name."""

    def check(name: str, version: str) -> None:
        executed: list[str] = []

        async def body(value: str) -> str:
            executed.append(value)
            return value

        if not is_id(name):
            with pytest.raises(ValueError, match="name"):
                task(body, name=name)
            with pytest.raises(ValueError, match="name"):
                workflow(body, name=name)
            return
        try:
            named = task(body, name=name, version=version)
        except ValueError as error:
            assert "version" in str(error)  # noqa: PT017
            assert not is_id(f"a{version}"[:100])
            return

        @workflow(name=f"{name[:100]} too"[:100])
        async def both() -> list[str]:
            return [await named("1"), *await named.map(["2", "3"]), await echo("4")]

        thread_id = host.new_thread()
        for _ in range(2):
            result = host.run(host.runtime.run(both(), thread_id=thread_id))
            assert result == ["1", "2", "3", "4"]
        assert sorted(executed) == ["1", "2", "3"]
        assert {each.name for each in host.run(host.runtime.tasks(thread_id))} == {name, "echo"}

    fuzz(check, seed, 2_000 if is_long else 50, ids, ids)


def test_keys_of_calls_and_of_shared_results_are_any_text(
    host: Host, seed: int, is_long: bool
) -> None:
    """Equal ones are one call and one shared result; a lone surrogate is refused at the call."""

    def check(one: str, other: str) -> None:
        executed: list[int] = []

        @task(name="keyed", key=lambda number, text: text)
        async def keyed(number: int, text: str) -> int:
            executed.append(number)
            return number

        @task(name="shared", cache=CachePolicy(key=lambda number, text: f"{thread_id}{text}"))
        async def shared(number: int, text: str) -> int:
            executed.append(number)
            return number

        @workflow(name="both")
        async def both() -> list[Any]:
            calls = keyed(1, one), keyed(2, other)
            assert (calls[0].id.encode() == calls[1].id.encode()) is False
            return [*[await each for each in calls], await shared(3, one), await shared(4, other)]

        thread_id = host.new_thread()
        try:
            one.encode(), other.encode()
        except UnicodeEncodeError:
            with pytest.raises(ValueError, match="the key of keyed"):
                host.run(host.runtime.run(both(), thread_id=thread_id))
            assert executed == []
            return
        result = host.run(host.runtime.run(both(), thread_id=thread_id))
        assert result == [1, 2, 3, 3 if one == other else 4]
        assert executed == ([1, 2, 3] if one == other else [1, 2, 3, 4])

    fuzz(check, seed, 2_000 if is_long else 50, ids, ids)
