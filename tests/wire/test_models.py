"""Annotations with classes of pydantic and attrs: read and written by those libraries, whole."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel

from taskflow import Runtime, emit, previous, receive, save, task, workflow
from taskflow.errors import SerializationError
from taskflow.events import Emitted
from taskflow.wire.codec import Codec
from taskflow.wire.json import json_schema
from taskflow.wire.plain import exact_json

T = TypeVar("T")


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    when: datetime | None = None


Payment = Annotated[Card | Cash, Field(discriminator="kind")]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime
    day: date
    tags: set[str]
    amount: Decimal
    pair: tuple[int, str]
    id: UUID


class Renamed(BaseModel):
    name: str = Field(validation_alias="fullName")


class Chosen(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(validation_alias=AliasChoices("fullName", "n"), serialization_alias="out")
    first: int = Field(default=0, validation_alias=AliasPath("numbers", 0))


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Payments(RootModel[list[Payment]]):
    pass


class Page(BaseModel, Generic[T]):
    items: list[T]


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.x


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Host(BaseModel):
    address: ipaddress.IPv4Address
    path: pathlib.Path
    url: pydantic.HttpUrl


class Tree(BaseModel):
    leaf: int
    trees: list[Tree] = []


class Wrapper(BaseModel):
    renamed: Renamed
    chosen: list[Chosen]


@pydantic.dataclasses.dataclass
class Validated:
    x: int = Field(alias="X")
    payment: Payment | None = None


@dataclasses.dataclass
class Receipt:
    payment: Payment
    scan: bytes = b""


class Row(TypedDict):
    payment: Payment
    number: NotRequired[int]


class Line(NamedTuple):
    payment: Payment
    number: int


class Order(msgspec.Struct):
    card: Card
    number: int


class Sheet(msgspec.Struct):
    payment: RootModel[Payment]


@attrs.define
class Item:
    sku: str
    _secret: int = 0
    many: int = attrs.field(default=1, alias="count", converter=int)


@attrs.define
class Parcel:
    card: Card


@attrs.frozen
class Shelf:
    items: tuple[Item, ...]


NOW = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
CARD, CASH = Card(number="1"), Cash(when=NOW)
STRICT = Strict(
    when=NOW, day=NOW.date(), tags={"a"}, amount=Decimal("1.10"), pair=(1, "a"), id=UUID(int=1)
)
CHOSEN = Chosen(n="Ann", numbers=[3])
HOST = Host(address="10.0.0.1", path="/a", url="http://a.org")

COMES_BACK: list[tuple[Any, Any]] = [
    (Strict, STRICT),
    (dict[str, list[Strict | None]], {"a": [STRICT, None]}),
    (Renamed, Renamed(fullName="Ann")),
    (list[Chosen], [CHOSEN]),
    (Wrapper, Wrapper(renamed=Renamed(fullName="Ann"), chosen=[CHOSEN])),
    (Swapped, Swapped(a=1, b=2)),
    (Card | Cash, CASH),
    (Payment, CARD),
    (list[Payment], [CARD, CASH]),
    (dict[str, Payment], {"a": CASH}),
    (tuple[Payment, bytes], (CARD, b"\xff")),
    (Payment | set[int] | None, {1}),
    (Payments, Payments([CARD, CASH])),
    (Page[Payment], Page[Payment](items=[CASH])),
    (list[Page[int]], [Page[int](items=[1])]),
    (Computed, Computed(x=1)),
    (Open, Open(a=1, more=2)),
    (Host, HOST),
    (Tree, Tree(leaf=1, trees=[Tree(leaf=2)])),
    (Validated, Validated(X=1, payment=CARD)),
    (Receipt, Receipt(CASH, b"\xff\xfe")),
    (list[Row], [{"payment": CARD, "number": 1}, {"payment": CASH}]),
    (Line, Line(CASH, 1)),
    (Order, Order(CARD, 1)),
    (list[Order | Cash], [Order(CARD, 1), CASH]),
    (Sheet, Sheet(RootModel[Payment](CASH))),
    (pydantic.HttpUrl, pydantic.HttpUrl("http://a.org")),
    (list[Annotated[int, Field(gt=0)]], [1]),
    (Item, Item("a", secret=3, count="4")),
    (list[Item | None], [Item("a", secret=3), None]),
    (dict[str, Shelf], {"a": Shelf((Item("a", secret=1), Item("b")))}),
    (list[Parcel | Cash], [Parcel(CARD), CASH]),
]


@pytest.mark.parametrize(("annotation", "value"), COMES_BACK, ids=str)
def test_a_value_comes_back(annotation: Any, value: Any) -> None:
    """Equal and of the same type, on the first run and at every rerun."""
    codec = Codec(annotation, "the result of f()")
    payload, first = codec.round_trip(value)

    assert first == codec.decode(payload) == value
    assert type(first) is type(value)


@pytest.mark.parametrize(("annotation", "value"), COMES_BACK, ids=str)
async def test_a_value_is_carried_everywhere(runtime: Runtime, annotation: Any, value: Any) -> None:
    """As an argument, a result, an input, a result of a workflow, saved, and read by the next."""
    executed: list[Any] = []

    async def through(given: Any) -> Any:
        executed.append(given)
        return given

    async def flow(given: Any, other: int = 1) -> Any:
        before = previous(annotation)
        save(given)
        found = await give()
        return before if before is not None else found

    async def give() -> Any:
        executed.append(value)
        return value

    give.__annotations__ = {"return": annotation}
    flow.__annotations__ = {"given": annotation, "other": int, "return": annotation}
    give, run = task(give), workflow(flow)  # type: ignore[assignment]
    for run_id in ("1", "2", "2"):
        assert await runtime.run(run(value), thread_id="a", run_id=run_id) == value

    assert executed == [value, value]


async def test_a_signal_is_read_by_its_aliases(runtime: Runtime) -> None:
    """As JSON from anybody, or as the value itself."""

    @workflow
    async def ask() -> tuple[list[Chosen], Payment]:
        names: Any = list[Chosen]
        pay: Any = Payment
        return await receive("name", names), await receive("pay", pay)

    handle = await runtime.start(ask(), thread_id="a")
    await runtime.send("a", "name", [{"n": "Ann", "numbers": [3]}])
    await runtime.send("a", "pay", CASH)

    assert await handle.result() == ([CHOSEN], CASH)


@pytest.mark.parametrize("annotation", [Strict, Renamed, list[Payment], dict[str, Open]], ids=str)
def test_there_is_a_json_schema(annotation: Any) -> None:
    """Of what pydantic reads."""
    assert json_schema(annotation) == pydantic.TypeAdapter(annotation).json_schema()


def test_records_of_earlier_versions_are_read() -> None:
    """Aliases as pydantic writes them, bytes as msgspec does."""
    read = Codec(tuple[Swapped, bytes], "it").decode(b'[{"b":1,"a":2},"/+8="]')

    assert read == (Swapped(b=1, a=2), b"\xff\xef")


class Hidden(BaseModel):
    secret: pydantic.SecretStr


class Excluded(BaseModel):
    left_out: str = Field(default="", exclude=True)


class Kept(BaseModel):
    _note: str = pydantic.PrivateAttr("")


class Animal(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


@dataclasses.dataclass
class Left:
    name: str


@dataclasses.dataclass
class Right:
    name: str


def noted() -> Kept:
    kept = Kept()
    kept._note = "a"
    return kept


@pytest.mark.parametrize(
    ("annotation", "value", "way_out"),
    [
        (Hidden, Hidden(secret="a"), "serializer"),
        (list[Excluded], [Excluded(left_out="a")], "exclude=True"),
        (Kept, noted(), "private attribute"),
        (Animal | Dog, Dog(name="Rex"), "discriminator"),
        (Any, CARD, "-> Card"),
        (list, [CARD, CASH], "-> list[Card | Cash]"),
        (Card, CASH, "-> Cash"),
        (list, [Left("a"), Right("b")], "RootModel"),
    ],
    ids=str,
)
def test_what_would_not_come_back_is_refused(annotation: Any, value: Any, way_out: str) -> None:
    """With advice that helps."""
    with pytest.raises(SerializationError) as caught:
        Codec(annotation, "the result of f()").round_trip(value)

    assert way_out in str(caught.value)


@pytest.mark.parametrize("union", [Left | Right, list[Left | Right], dict[str, Left | Item]])
def test_a_union_that_json_does_not_tell_apart_is_refused(union: Any) -> None:
    """The message names the ways out."""
    with pytest.raises(SerializationError, match=r"tag=True.*discriminator.*RootModel"):
        Codec(union, "the result of f()")


@pytest.mark.parametrize("value", [Hidden(secret="a"), Excluded(left_out="a"), noted()], ids=repr)
def test_what_would_change_is_not_sent_or_saved(value: BaseModel) -> None:
    """Also where nobody knows yet who reads it."""
    with pytest.raises(SerializationError, match="does not read back"):
        exact_json(value, "the saved value")


async def test_what_previous_would_not_read_is_not_saved(runtime: Runtime) -> None:
    """As soon as its type is known, before or after."""

    @workflow
    async def keep(early: bool) -> None:
        if early:
            save({"kind": "card"})
            previous(Cash)
        previous(Card)
        save(CASH)

    with pytest.raises(SerializationError, match=r"this run .* saves"):
        await runtime.run(keep(True), thread_id="a")
    with pytest.raises(SerializationError, match=r"previous\(Cash\)"):
        await runtime.run(keep(False), thread_id="b")


@attrs.define
class Untyped:
    name = attrs.field()


@attrs.define
class Derived:
    name: str
    shown: str = attrs.field()

    @shown.default
    def _shown(self) -> str:
        return self.name


class Unfinished(BaseModel):
    later: Missing  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (list[Untyped], "name of Untyped has no type"),
        (Derived | None, "shown of Derived has a default that takes self"),
        (dict[str, Unfinished], "name 'Missing' is not defined"),
    ],
)
def test_a_class_that_cannot_be_read_is_refused_before_a_body_executes(
    annotation: Any, reason: str
) -> None:
    """With its reason."""
    with pytest.raises(SerializationError, match=reason):
        Codec(annotation, "the result of f()")


def test_a_discriminator_tells_dataclasses_apart() -> None:
    """The way out that the error of their union names."""

    @dataclasses.dataclass
    class Plus:
        kind: Literal["plus"] = "plus"

    @dataclasses.dataclass
    class Minus:
        kind: Literal["minus"] = "minus"

    annotation = list[Annotated[Plus | Minus, Field(discriminator="kind")]]  # type: ignore[valid-type]

    assert Codec(annotation, "it").round_trip([Minus(), Plus()])[1] == [Minus(), Plus()]


def test_bytes_in_a_model_need_its_config() -> None:
    """The error names the two settings, under which they come back."""

    class Text(BaseModel):
        scan: bytes

    class Base64(BaseModel):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        scan: bytes

    with pytest.raises(SerializationError, match=r"ser_json_bytes.*val_json_bytes"):
        Codec(Text, "it").round_trip(Text(scan=b"\xff"))
    assert Codec(Base64, "it").round_trip(Base64(scan=b"\xff"))[1].scan == b"\xff"


async def test_what_is_emitted_may_leave_fields_out(runtime: Runtime) -> None:
    """Nobody reads it back: listeners are shown what the model shows."""

    @workflow
    async def shop() -> None:
        await emit(Excluded(left_out="a"))

    async with runtime.stream(shop(), thread_id="a") as events:
        told = [each.value async for each in events if isinstance(each, Emitted)]

    assert told == [{}]


@workflow
async def order(sheet: Sheet, payment: Payment, *scans: bytes, **more: Chosen) -> list[Any]:
    return [payment.kind, len(scans), more["a"].name, sheet.payment.root.kind]


async def test_parameters_of_several_libraries_stand_side_by_side(runtime: Runtime) -> None:
    """Each is read by its own; a misfit names the parameter."""
    sheet = Sheet(RootModel[Payment](CASH))
    call = order(sheet, CARD, b"\xff", a=CHOSEN)

    assert await runtime.run(call, thread_id="a") == ["card", 1, "Ann", "cash"]
    with pytest.raises(SerializationError, match="annotate the parameter payment: Renamed"):
        order(sheet, Renamed(fullName="Ann"))  # type: ignore[arg-type]
