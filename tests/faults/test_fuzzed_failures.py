"""Fuzzed exceptions: what a rerun meets is what the first run met, whatever the class does."""

from __future__ import annotations

from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from values import Held, Host, anything, fuzz, nested, plain, same, texts

from taskflow import TaskFailed, task, workflow
from taskflow.wire.failures import Failure, rebuild, record


class AfterAll(Exception):
    """Ends a run whose tasks are all recorded, so that the next one replays them."""


class Plain(Exception):
    pass


class Keyword(Exception):
    def __init__(self, text: str = "", *, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Picky(Exception):
    """Is made of exactly two arguments."""

    def __new__(cls, one: Any = 1, two: Any = 2) -> Picky:
        if type(one) is not int:
            raise TypeError("one is a number")
        return super().__new__(cls, one, two)


class Mute(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise SystemError("not to be shown")

    __repr__ = __str__


class Endless(Exception):
    def __str__(self) -> str:
        return f"{self}"


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Fickle(Exception):
    """Is shown in another way each time."""

    shown = 0

    def __str__(self) -> str:
        Fickle.shown += 1
        return f"shown {Fickle.shown} times"


class Reduced(Exception):
    def __reduce__(self) -> Any:
        raise OSError("not to be taken apart")


class Slotted(Exception):
    __slots__ = ("code",)


class Frozen(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("frozen")


class Unasked(Exception):
    """Has no arguments that one could ask for."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise KeyError("args")


class Liar(ValueError):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    @property
    def __class__(self) -> Any:
        return KeyError


@attrs.define(auto_exc=True)
class Made(Exception):
    code: Any


class Endless2(ExceptionGroup[Exception]):
    """Is a member of itself."""

    @property
    def exceptions(self) -> Any:
        return (self,)


CLASSES = [Plain, Keyword, Picky, Mute, Endless, NoText, Fickle, Reduced, Slotted, Frozen, Unasked]
CLASSES += [Liar, Made, ValueError, KeyError, OSError, RuntimeError, StopAsyncIteration]
CLASSES += [type("Odd", (Exception,), {"__module__": "\ud800", "__qualname__": "Odd\n\0"})]
CLASSES += [type("Unknown", (LookupError,), {"__module__": "nowhere.to.be.found"})]


def made(kind: type[Exception], args: list[Held], attributes: dict[str, Held]) -> Exception:
    """An exception of that class, as good as it can be made."""
    try:
        error = kind(*(each.value for each in args))
    except Exception:
        error = kind() if kind is not Made else kind(1)
    error.__dict__.update({name: each.value for name, each in attributes.items()})
    return error


errors = st.recursive(
    st.builds(
        made,
        st.sampled_from(CLASSES),
        st.lists(plain.map(Held) | anything, max_size=3),
        st.dictionaries(texts, anything, max_size=2),
    ),
    lambda inner: st.builds(ExceptionGroup, texts, st.lists(inner, min_size=1, max_size=3)),
    max_leaves=4,
).map(Held)


def told(error: BaseException) -> Any:
    """What may be told of an exception."""
    if isinstance(error, TaskFailed):
        return TaskFailed, error.exception_type, error.message
    if isinstance(error, BaseExceptionGroup):
        return type(error), error.message, [told(each) for each in error.exceptions]
    attributes = {key: value for key, value in error.__dict__.items() if not key.startswith("__")}
    return type(error), BaseException.args.__get__(error), attributes


def test_whatever_is_raised_is_recorded_and_rebuilt(seed: int, is_long: bool) -> None:
    """The same each time; nothing that a class does keeps it from that."""

    def check(held: Held) -> None:
        payload = record(held.value).encode()
        one, other = (rebuild(Failure.parse(payload)) for _ in range(2))
        assert same(told(one), told(other))
        assert isinstance(one, TaskFailed | type(held.value))

    fuzz(check, seed, 20_000 if is_long else 150, errors)


def test_a_rerun_meets_what_the_first_run_met(host: Host, seed: int, is_long: bool) -> None:
    """Class, arguments, attributes and members; the body is executed once."""

    def check(held: Held) -> None:
        executed: list[None] = []
        met: list[BaseException] = []

        @task(name="fail")
        async def fail() -> None:
            executed.append(None)
            raise held.value

        @workflow(name="shop")
        async def shop() -> None:
            try:
                await fail()
            except Exception as error:
                met.append(error)
            if len(met) == 1:
                raise AfterAll

        thread_id = host.new_thread()
        with pytest.raises(AfterAll):
            host.run(host.runtime.run(shop(), thread_id=thread_id))
        host.run(host.runtime.run(shop(), thread_id=thread_id))

        assert len(executed) == 1
        assert len(met) == 2
        assert same(told(met[0]), told(met[1]))

    fuzz(check, seed, 3_000 if is_long else 25, errors)


def test_a_run_that_fails_in_whatever_way_can_be_run_again(
    host: Host, seed: int, is_long: bool
) -> None:
    """What ends it is told to its caller and shown; the next run executes the task again."""

    def check(held: Held) -> None:
        executed: list[None] = []

        @task(name="fail")
        async def fail() -> int:
            executed.append(None)
            if len(executed) == 1:
                raise held.value
            return 5

        @workflow(name="shop")
        async def shop() -> int:
            return await fail()

        async def first() -> BaseException | None:
            try:
                await host.runtime.run(shop(), thread_id=thread_id)
            except Exception as error:
                return error
            return None

        thread_id = host.new_thread()
        assert isinstance(host.run(first()), Exception)
        shown = host.run(host.runtime.get(thread_id))
        assert shown.status == "error"
        assert shown.error
        assert host.run(host.runtime.run(shop(), thread_id=thread_id)) == 5

    fuzz(check, seed, 3_000 if is_long else 25, errors)


def grouped(depth: int, width: int = 1) -> ExceptionGroup[Exception]:
    """Groups in groups, the same one ``width`` times in each."""
    error: Exception = ValueError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("group", [error] * width)
    assert isinstance(error, ExceptionGroup)
    return error


@pytest.mark.parametrize(
    "error",
    [
        grouped(10),
        grouped(100),
        grouped(10_000),
        grouped(10, 3),
        grouped(60, 2),
        Endless2("itself", [ValueError()]),
        ValueError(nested(390)),
        ValueError(nested(450)),
        ValueError(nested(100_000)),
        made(ValueError, [], {"deep": Held(nested(100_000))}),
        ValueError("x" * 1_000_000),
        ValueError(*range(10_000)),
    ],
    ids=[
        "10",
        "100",
        "10000",
        "3^10",
        "2^60",
        "self",
        "a390",
        "a450",
        "a1e5",
        "d1e5",
        "1MB",
        "1e4",
    ],
)
def test_no_failure_is_too_deep_or_too_wide(host: Host, error: Exception) -> None:
    """Members that are too many or too deep are told by type and message; nothing overflows."""
    met: list[BaseException] = []

    @task(name="fail")
    async def fail() -> None:
        raise error

    @workflow(name="shop")
    async def shop() -> None:
        try:
            await fail()
        except Exception as caught:
            met.append(caught)
        if len(met) == 1:
            raise AfterAll

    with pytest.raises(AfterAll):
        host.run(host.runtime.run(shop(), thread_id="t"))
    host.run(host.runtime.run(shop(), thread_id="t"))

    assert len(met) == 2
    assert {type(each) for each in met} <= {type(error), TaskFailed}
    assert str(met[0]) == str(met[1])


def test_causes_in_a_circle_are_no_trouble(host: Host) -> None:
    """They end a run as any failure does, whoever built them."""
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    one.__context__, two.__context__ = two, one

    @task(name="fail")
    async def fail() -> None:
        raise one

    @workflow(name="shop")
    async def shop() -> None:
        await fail()

    for _ in range(2):
        with pytest.raises(ValueError, match="one"):
            host.run(host.runtime.run(shop(), thread_id="t"))
