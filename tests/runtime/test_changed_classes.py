"""Recorded fields that today's classes do not know are told, never dropped in silence."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from kinds import MakeStore

from taskflow import CachePolicy, Runtime, previous, receive, save, task, workflow
from taskflow.errors import HistoryMismatch
from taskflow.testing import replay
from taskflow.wire.codec import Codec


class AfterAll(Exception):
    """Ends a run whose tasks are recorded."""


@dataclasses.dataclass
class Price:
    amount: int
    currency: str = "EUR"


@dataclasses.dataclass
class Amount:
    """What is left of `Price`."""

    amount: int


def pricing(annotation: Any, made: Any, fails: bool) -> Any:
    """A workflow whose task is annotated as it is today."""

    async def price(number: int) -> Any:
        return made

    async def shop() -> Any:
        found = [await price_task(1), *(await price_task.map([2, 3]))]
        if fails:
            raise AfterAll
        return found[0]

    price.__annotations__ = {"return": annotation}
    shop.__annotations__ = {"return": annotation}
    price_task = task(price, name="price")
    return workflow(shop, name="shop")


OLD = Price(7, "USD")


async def test_a_dropped_field_is_told_once(
    make_store: MakeStore, anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names the class, the field, the task and the thread."""
    async with Runtime(make_store()) as runtime:
        with pytest.raises(AfterAll):
            await runtime.run(pricing(Price, OLD, True)(), thread_id="a")
    async with Runtime(make_store()) as runtime:
        for _ in range(2):
            found = await runtime.run(pricing(Amount, OLD, False)(), thread_id="a")

    assert found == Amount(7)
    (told,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "price()" in told
    assert "Amount: currency" in told
    assert "'a'" in told


async def test_a_dropped_field_is_an_error_on_request(
    make_store: MakeStore, anyio_backend: object
) -> None:
    """``on_drift="error"``: the run stays as it is, and the code that knows the field goes on."""
    async with Runtime(make_store()) as runtime:
        with pytest.raises(AfterAll):
            await runtime.run(pricing(Price, OLD, True)(), thread_id="a")
    async with Runtime(make_store(), on_drift="error") as runtime:
        with pytest.raises(HistoryMismatch, match=r"price\(\) .*Amount: currency"):
            await runtime.run(pricing(Amount, OLD, False)(), thread_id="a")
        assert await runtime.run(pricing(Price, OLD, False)(), thread_id="a") == OLD
        with pytest.raises(HistoryMismatch, match=r"shop\(\) .*Amount: currency"):
            await runtime.run(pricing(Amount, OLD, False)(), thread_id="a")


@pytest.mark.parametrize("fails", [True, False])
async def test_a_replay_reports_a_dropped_field(
    make_store: MakeStore, anyio_backend: object, fails: bool
) -> None:
    """As a change that a deploy would make, of runs that have ended and of others."""
    async with Runtime(make_store()) as runtime:
        try:
            await runtime.run(pricing(Price, OLD, fails)(), thread_id="a")
        except AfterAll:
            assert fails
        report = await replay(runtime, pricing(Amount, OLD, fails))
        same = await replay(runtime, pricing(Price, OLD, fails))

    assert not report.is_unchanged
    assert "currency of Amount (the result of price())" in str(report)
    assert "version=" in str(report)
    assert same.is_unchanged


async def test_a_shared_result_with_a_dropped_field_is_computed_anew(runtime: Runtime) -> None:
    """As one that does not fit its annotation any more."""
    executed: list[str] = []

    def shop(annotation: Any, made: Any) -> Any:
        async def price() -> Any:
            executed.append(annotation.__name__)
            return made

        price.__annotations__ = {"return": annotation}
        cached = task(price, name="price", cache=CachePolicy())

        @workflow
        async def shop() -> None:
            await cached()

        return shop

    await runtime.run(shop(Price, OLD)(), thread_id="a")
    await runtime.run(shop(Amount, Amount(1))(), thread_id="b")

    assert executed == ["Price", "Amount"]


async def test_a_signal_may_have_more_fields_than_its_type(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sends it decides; what is recorded is what the type knows."""
    fails = [True]

    @workflow
    async def ask() -> Amount:
        answer = await receive("price", Amount)
        if fails:
            fails.clear()
            raise AfterAll
        return answer

    handle = await runtime.start(ask(), thread_id="a")
    await runtime.send("a", "price", {"amount": 1, "note": "cheap"})
    with pytest.raises(AfterAll):
        await handle.result()

    assert await runtime.run(ask(), thread_id="a") == Amount(1)
    assert not [each for each in caplog.records if "fields" in each.getMessage()]


async def test_an_input_and_a_saved_value_tell_of_dropped_fields(
    make_store: MakeStore, anyio_backend: object
) -> None:
    """As results do."""

    def order(annotation: Any) -> Any:
        async def order(price: Any) -> None:
            if annotation is Price:
                raise AfterAll

        order.__annotations__ = {"price": annotation, "return": None}
        return workflow(order, name="order")

    @workflow(name="keep")
    async def keep() -> None:
        save({"amount": 1, "currency": "USD"})

    @workflow(name="look")
    async def look() -> None:
        previous(Amount)

    async with Runtime(make_store()) as runtime:
        await runtime.run(keep(), thread_id="a")
        with pytest.raises(AfterAll):
            await runtime.run(order(Price)(OLD), thread_id="b")
    async with Runtime(make_store(), on_drift="error", workflows=[order(Amount)]) as runtime:
        with pytest.raises(HistoryMismatch, match="Amount: currency"):
            await runtime.run(look(), thread_id="a")
        with pytest.raises(HistoryMismatch, match=r"arguments of order\(\) .*Amount: currency"):
            await runtime.resume("b")


class Struct(msgspec.Struct, rename="camel", omit_defaults=True, tag=True):
    amount_of: int = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    amount: int


class Array(msgspec.Struct, array_like=True):
    amount: int


class Frozen(msgspec.Struct, frozen=True):
    amount: int


@attrs.define
class Item:
    amount: int


class Model(pydantic.BaseModel):
    amount: int = pydantic.Field(validation_alias=pydantic.AliasChoices("amount", "sum"))
    note: str = pydantic.Field(default="", exclude=True)


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    amount: int


class Migrating(pydantic.BaseModel):
    amount: int

    @pydantic.model_validator(mode="before")
    @classmethod
    def moved(cls, fields: Any) -> Any:
        return {"amount": fields.get("amount", fields.get("total"))}


class Root(pydantic.RootModel[list[Model]]):
    pass


class Row(TypedDict):
    amount: int


@pytest.mark.parametrize(
    ("annotation", "payload", "dropped"),
    [
        (Struct, b'{"type":"Struct","amountOf":1,"amount_of":2}', {"Struct": ["amount_of"]}),
        (list[Array], b"[[1,2]]", {"Array": ["item 1"]}),
        (dict[str, Item], b'{"a":{"amount":1,"b":2}}', {"Item": ["b"]}),
        (Row, b'{"amount":1,"b":2,"c":3}', {"a TypedDict": ["b", "c"]}),
        (tuple[int, Amount | None], b'[1,{"amount":1,"b":2}]', {"Amount": ["b"]}),
        (set[Frozen], b'[{"amount":1,"b":2},{"amount":2}]', {"Frozen": ["b"]}),
        (list[Model], b'[{"amount":1,"b":2},{"amount":1,"c":2}]', {"Model": ["b", "c"]}),
        (Root, b'[{"sum":1,"b":2}]', {"Model": ["b"]}),
    ],
)
def test_a_dropped_field_is_found_at_any_depth(
    annotation: Any, payload: bytes, dropped: dict[str, list[str]]
) -> None:
    """In every kind of class, by the names that stand in JSON."""
    codec = Codec(annotation, "it")

    assert codec.dropped_fields(payload, codec.decode(payload)) == dropped


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Struct, b'{"type":"Struct","amountOf":0}'),
        (Open, b'{"amount":1,"more":2}'),
        (Migrating, b'{"total":1,"more":2}'),
        (Model, b'{"sum":1,"note":"a"}'),
        (dict[int, float], b'{"1":1.0}'),
        (set[int], b"[3,1,2]"),
        (Any, b'{"a":1, "b":2}'),
        (Amount, b'{ "amount" : 1 }'),
    ],
)
def test_what_is_known_is_no_dropped_field(annotation: Any, payload: bytes) -> None:
    """Defaults, aliases, further fields that a class keeps or looks at, another order."""
    codec = Codec(annotation, "it")

    assert codec.dropped_fields(payload, codec.decode(payload)) == {}


def test_a_class_that_forbids_fields_says_so_itself() -> None:
    """The record does not fit."""
    decode: Callable[[bytes], Any] = Codec(Strict, "it").decode

    with pytest.raises(TypeError, match="unknown field"):
        decode(b'{"amount":1,"b":2}')
