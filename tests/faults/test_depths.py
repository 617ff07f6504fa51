"""Deep and large inputs: nothing overflows the stack, hangs, or takes more than linear time."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from values import Chain, Host, Tree, giver, nested, same

from taskflow import (
    CachePolicy,
    MemoryStore,
    RunNotFound,
    Runtime,
    emit,
    previous,
    receive,
    save,
    sleep,
    task,
    workflow,
)
from taskflow.errors import SerializationError
from taskflow.wire.codec import Codec
from taskflow.wire.failures import Failure, rebuild, record
from taskflow.wire.identity import canonical_arguments
from taskflow.wire.json import NESTING_LIMIT
from taskflow.wire.plain import exact_json

PATIENCE = 30.0  # seconds
ACCEPTED = NESTING_LIMIT - 1  # what holds an argument is one more level
WRAPPINGS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "list": (Any, lambda inner: [inner]),
    "dict": (Any, lambda inner: {"a": inner}),
    "tuple": (tuple, lambda inner: (inner,)),
    "struct": (Tree, lambda inner: Tree(sub_trees=[inner] if inner else [])),
    "dataclass": (Chain, lambda inner: Chain(1, inner)),
}


class Deep(NamedTuple):
    """Containers in each other."""

    kind: str
    annotation: Any
    depth: int
    value: Any

    @property
    def is_accepted(self) -> bool:
        return self.depth < NESTING_LIMIT


@pytest.fixture(params=[ACCEPTED, NESTING_LIMIT + 1, 601, 1_001, 5_001, 100_001])
def depth(request: pytest.FixtureRequest) -> int:
    """How many levels of JSON, an odd number."""
    return int(request.param)


@pytest.fixture(params=list(WRAPPINGS))
def deep(request: pytest.FixtureRequest, depth: int) -> Deep:
    """Containers of each kind in each other."""
    annotation, wrap = WRAPPINGS[request.param]
    levels = depth
    if request.param == "struct":  # with a list in each, which the last one leaves out
        levels = (depth - 1) // 2 if depth < NESTING_LIMIT else depth // 2 + 2
    return Deep(request.param, annotation, depth, nested(levels, wrap))


def test_a_deep_result_comes_back_or_is_refused(host: Host, deep: Deep) -> None:
    """At a depth that does not depend on where the code stands."""
    give = giver(deep.annotation, deep.value, [])

    @workflow(name="shop")
    async def shop() -> bool:
        return same(await give(), deep.value)

    if deep.is_accepted and deep.kind != "tuple":  # of tuples in tuples no annotation tells
        assert host.run(host.runtime.run(shop(), thread_id="t"))
        return
    with pytest.raises(SerializationError, match="the result of give"):
        host.run(host.runtime.run(shop(), thread_id="t"))
    assert host.run(host.runtime.tasks("t")) == []


def test_a_deep_argument_makes_a_call_or_is_refused(host: Host, deep: Deep) -> None:
    """And a call that was made can be looked at."""
    executed: list[None] = []

    @task
    async def use(value: Any) -> None:
        executed.append(None)

    @workflow(name="shop")
    async def shop() -> None:
        await use(deep.value)

    if deep.is_accepted:
        host.run(host.runtime.run(shop(), thread_id="t"))
        (call,) = host.run(host.runtime.tasks("t"))
        assert "value" in call.arguments
        return
    with pytest.raises(SerializationError, match=r"argument value .*key=lambda"):
        host.run(host.runtime.run(shop(), thread_id="t"))
    assert executed == []


def test_a_deep_input_begins_a_run_or_none(host: Host, depth: int) -> None:
    """The description itself is refused."""
    value = nested(depth)

    @workflow(name="shop")
    async def shop(value: Any) -> Any:
        return value

    if depth < NESTING_LIMIT:
        assert same(host.run(host.runtime.run(shop(value), thread_id="t")), value)
        return
    with pytest.raises(SerializationError, match=r"the arguments of shop\(\)"):
        shop(value)
    assert host.run(host.runtime.runs()) == []


def test_deep_values_are_saved_emitted_and_asked_with_or_refused(host: Host, deep: Deep) -> None:
    """What was taken can be read again, by anybody."""

    @workflow(name="shop")
    async def shop() -> list[str]:
        refused = []
        for what, use in (
            ("emit", emit),
            ("saved", save),
            ("prompt", lambda value: receive("one", prompt=value, timeout=1e-9)),
        ):
            try:
                call = use(deep.value)
            except SerializationError as error:
                assert what in str(error)  # noqa: PT017
                refused.append(what)
            else:
                if what == "emit":
                    await call
                elif what == "prompt":
                    with pytest.raises(TimeoutError):
                        await call
        return refused

    @workflow(name="after")
    async def after() -> bool:
        return previous(deep.annotation if deep.is_accepted else list) is not None

    async def events() -> int:
        return len([each async for each in host.runtime.subscribe("t", run_id="1")])

    refused = host.run(host.runtime.run(shop(), thread_id="t", run_id="1"))
    assert refused == ([] if deep.is_accepted else ["emit", "saved", "prompt"])
    assert host.run(host.runtime.run(after(), thread_id="t", run_id="2"))
    assert host.run(events()) >= 2


def test_deep_signals_are_taken_or_refused(host: Host, deep: Deep) -> None:
    """Before they are sent."""

    @workflow(name="shop")
    async def shop() -> bool:
        return same(await receive("one", deep.annotation), deep.value)

    async def send() -> bool:
        handle = await host.runtime.start(shop(), thread_id="t")
        try:
            await host.runtime.send("t", "one", deep.value)
        except SerializationError as error:
            assert "'one'" in str(error)  # noqa: PT017
            await handle.cancel()
            return False
        return await handle.result() or deep.kind == "tuple"  # which came as lists in a tuple

    assert host.run(send()) == deep.is_accepted


def test_the_limit_of_nesting_is_no_matter_of_the_stack(host: Host) -> None:
    """A call that is made deep in others may have what one at the top may."""

    @task
    async def use(value: Any) -> Any:
        return value

    def called(levels: int, value: Any) -> Any:
        return called(levels - 1, value) if levels else use(value)

    @workflow(name="shop")
    async def shop() -> list[bool]:
        value = nested(ACCEPTED)
        return [same(await called(levels, value), value) for levels in (0, 300)]

    assert host.run(host.runtime.run(shop(), thread_id="t")) == [True, True]


def test_what_is_nested_in_a_file_is_no_way_to_overflow(host: Host) -> None:
    """JSON that somebody else has written may be nested deeper than what we write."""

    async def read() -> None:
        await host.runtime.run(shop(), thread_id="t")
        lines = [json.loads(line) async for line in host.runtime.export("t")]
        lines[1]["result"] = "[" * 100_000 + "]" * 100_000
        text = [json.dumps(each, separators=(",", ":")) for each in lines]
        with pytest.raises(ValueError, match="line"):
            await host.runtime.import_thread(text, to="other")
        with pytest.raises(RunNotFound):
            await host.runtime.get("other")

    @workflow(name="shop")
    async def shop() -> None:
        pass

    host.run(read())


class Large(msgspec.Struct):
    text: str
    numbers: list[int] = []


def _bracketed(size: int) -> Any:
    """As bad as can be for who counts brackets: those in text are none."""
    return ["[" * size, "]" * (size // 2), '\\"[{' * (size // 4), [[]] * (size // 100)]


GROWING: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "text": lambda n: (str, "x" * n * 20),
    "escapes": lambda n: (Any, ['"\\\n\0é🧵' * n]),
    "brackets": lambda n: (Any, _bracketed(n * 5)),
    "nested": lambda n: (Any, [nested(390) for _ in range(n // 200)]),
    "numbers": lambda n: (list[int], list(range(n))),
    "long numbers": lambda n: (list[int], [10**4000] * (n // 2000)),
    "floats": lambda n: (list[float], [each / 7 for each in range(n)]),
    "bytes": lambda n: (bytes, b"\xff" * n * 20),
    "many bytes": lambda n: (list[bytes], [b"x"] * n),
    "keys": lambda n: (dict[str, int], {str(each): each for each in range(n)}),
    "number keys": lambda n: (dict[float, int], {each / 7: each for each in range(n)}),
    "set": lambda n: (set[str], {str(each) for each in range(n)}),
    "set of tuples": lambda n: (set[tuple[int, str]], {(each, str(each)) for each in range(n)}),
    "structs": lambda n: (list[Large], [Large(str(each), [each]) for each in range(n // 4)]),
}


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, at best of several: what else this machine does only adds to it."""
    taken = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            begun = time.process_time()
            work()
            taken.append(time.process_time() - begun)
    finally:
        gc.enable()
    return min(taken)


def grows_linearly(work: Callable[[int], Callable[[], object]], is_long: bool) -> bool:
    """Whether eight times as much takes at most twenty times as long, not sixty-four times."""
    size = 8_000 if is_long else 1_000
    for _ in range(3):  # a machine that is busy elsewhere may fail it once
        few, many = seconds(work(size)), seconds(work(8 * size))
        if many < 20 * few + 0.01:
            return True
    return False


@pytest.mark.parametrize("kind", list(GROWING))
def test_large_values_take_linear_time(kind: str, is_long: bool) -> None:
    """To be recorded, compared and read back; and to be refused, with advice."""

    def accepted(size: int) -> Callable[[], object]:
        annotation, value = GROWING[kind](size)
        codec = Codec(annotation, "the result of f()")
        return lambda: codec.round_trip(value)

    def refused(size: int) -> Callable[[], object]:
        _, value = GROWING[kind](size)
        codec = Codec(Any, "the result of f()")

        def work() -> None:
            with pytest.raises(SerializationError):
                codec.round_trip([value, (1,)])

        return work

    assert grows_linearly(accepted, is_long)
    assert grows_linearly(refused, is_long)


@pytest.mark.parametrize("kind", list(GROWING))
def test_large_arguments_take_linear_time(kind: str, is_long: bool) -> None:
    """To be told from others, and to be sent, saved and emitted."""

    def work(size: int) -> Callable[[], object]:
        value = GROWING[kind](size)[1]

        def use() -> None:
            if kind == "number keys":
                with pytest.raises(SerializationError):
                    canonical_arguments({"x": value}, "f")
                return
            canonical_arguments({"x": value}, "f")
            exact_json(value, "the value")

        return use

    assert grows_linearly(work, is_long)


@pytest.mark.parametrize("kind", list(GROWING))
def test_large_failures_take_linear_time(kind: str, is_long: bool) -> None:
    """To be recorded and rebuilt: with large arguments, attributes and many members."""

    def work(size: int) -> Callable[[], object]:
        value = GROWING[kind](size // 4)[1]
        error = ValueError("x", value, (value,))
        error.value = value  # type: ignore[attr-defined]
        group = ExceptionGroup("group", [*(KeyError(each) for each in range(size // 8)), error])
        return lambda: rebuild(Failure.parse(record(group).encode()))

    assert grows_linearly(work, is_long)


class Ends(NamedTuple):
    """What a run that goes down to the end of the stack does there, and with which runtime."""

    workflow: Any
    options: dict[str, Any] = {}
    levels: range = range(sys.getrecursionlimit() - 200, sys.getrecursionlimit())


async def deep_down(levels: int, call: Callable[[], Any]) -> Any:
    """Await ``call()`` that deep in coroutines that await each other."""
    return await deep_down(levels - 1, call) if levels else await call()


@task
async def double(number: int) -> int:
    return 2 * number


@task(cache=CachePolicy(key=lambda number, where: str(number)))
async def shared(number: int, where: str) -> int:
    return 2 * number


@workflow
async def double_at(levels: int) -> int:
    return await deep_down(levels, lambda: double(1))


@workflow
async def nested_at(levels: int) -> int:
    return await nested_at(levels - 1) if levels else await double(1)


@workflow
async def contend_at(levels: int) -> int:
    """Two that want the only slot, which one of them has to hand over down there."""

    @task
    async def outer(levels: int) -> int:
        return await deep_down(levels, lambda: double(levels))

    deep, _ = await asyncio.gather(outer(levels), outer(0), return_exceptions=True)
    if isinstance(deep, BaseException):
        raise deep
    return 2


@workflow
async def share_at(levels: int) -> int:
    """Two that want the same shared result, and one of them is down there."""
    deep, shallow = await asyncio.gather(
        deep_down(levels, lambda: shared(levels, "down")),
        shared(levels, "up"),
        return_exceptions=True,
    )
    assert shallow == 2 * levels
    if isinstance(deep, BaseException):
        raise deep
    return 2


@workflow
async def stray_at(levels: int) -> int:
    """A call that is left executing down there has to be ended."""
    stray = asyncio.create_task(deep_down(levels, lambda: sleep(1000)))
    await sleep(1e-9)
    if stray.done():
        stray.result()
    return 2


@workflow
async def wait_at(levels: int) -> int:
    """An alarm is set down there, which is the next to ring."""
    await deep_down(levels, lambda: sleep(1e-9))
    return 2


ENDS = {
    "task": Ends(double_at),
    "nested": Ends(nested_at, levels=range(100, 220, 3)),
    "slots": Ends(contend_at, {"max_concurrency": 1}),
    "cache": Ends(share_at),
    "stray": Ends(stray_at),
    "alarm": Ends(wait_at),
}


@pytest.mark.filterwarnings("ignore:.*left executing:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", list(ENDS))
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_at_the_end_of_the_stack_a_run_fails_or_succeeds(
    kind: str, debug: bool, is_long: bool
) -> None:
    """It never hangs; and nobody else on the same runtime does, at whichever level it ends."""
    ends = ENDS[kind]
    came_to: Counter[str] = Counter()

    async def main() -> None:
        async with Runtime(MemoryStore(), poll_interval=1000, **ends.options) as runtime:
            for levels in ends.levels[:: 1 if is_long or not debug else 7]:
                try:
                    call = runtime.run(ends.workflow(levels), thread_id=f"deep {levels}")
                    assert await asyncio.wait_for(call, PATIENCE) == 2
                    came_to["result"] += 1
                except RecursionError:
                    came_to["error"] += 1
                call = runtime.run(double_at(0), thread_id=f"other {levels}")
                assert await asyncio.wait_for(call, PATIENCE) == 2
                call = runtime.run(wait_at(0), thread_id=f"waits {levels}")
                assert await asyncio.wait_for(call, PATIENCE) == 2

    asyncio.run(main(), debug=debug)
    assert came_to["error"]
    assert came_to["result"]
