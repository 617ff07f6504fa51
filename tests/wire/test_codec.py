"""The first run and every rerun see the same values: what is accepted, what is refused, and how."""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections import Counter
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow.errors import SerializationError
from taskflow.wire.codec import Codec, annotation_for
from taskflow.wire.json import NESTING_LIMIT, nesting
from taskflow.wire.plain import is_plain

T = TypeVar("T")


class Page(msgspec.Struct):
    url: str
    links: list[str] = []


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Box(msgspec.Struct, Generic[T]):
    item: T


@dataclasses.dataclass
class Order:
    number: int
    tags: set[str]
    parent: Order | None = None


class Row(TypedDict):
    number: int
    pair: NotRequired[tuple[int, str]]


class Point(NamedTuple):
    x: int
    y: str


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    HIGH = 3


@attrs.define
class Item:
    sku: str
    sizes: tuple[int, ...] = ()


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName")
    since: datetime
    groups: set[int] = set()
    _secret: int = pydantic.PrivateAttr(1)


class Opaque:
    pass


class ListOfMine(list):
    pass


class IntOfMine(int):
    pass


def codec(annotation: Any) -> Codec:
    return Codec(annotation, "the result of f()")


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Page, Page("a.org", ["b.org"])),
        (Cat | Dog, Dog("Rex")),
        (Box[set[int]], Box({1})),
        (Order, Order(1, {"a"}, Order(2, set()))),
        (Row, {"number": 1, "pair": (1, "x")}),
        (Point, Point(1, "y")),
        (Colour, Colour.RED),
        (Level, Level.HIGH),
        (Item, Item("a", (1, 2))),
        (Customer, Customer(fullName="Ann", since=datetime(2020, 1, 1), groups={1})),
        (list[Customer], [Customer(fullName="Ann", since=datetime(2020, 1, 1))]),
        (datetime, datetime(2020, 1, 2, 3, 4, 5, 6)),
        (datetime, datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=2)))),
        (date, date(2020, 1, 2)),
        (time, time(1, 2, 3)),
        (timedelta, timedelta(days=-3, microseconds=5)),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (bytes, b"\xff\0"),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (set[tuple[int, int]], {(1, 2)}),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (int | str, "a"),
        (bytes | None, None),
        (Literal["a", 1], 1),
        (dict[int, str], {1: "a"}),
        (dict[UUID, list[tuple[int, int]]], {UUID(int=1): [(1, 2)]}),
        (float, -0.0),
        (None, None),
        (str, "é\u2028\0🧵"),
        (object, [1, None]),
    ],
)
def test_a_value_of_its_annotation_comes_back(annotation: Any, value: object) -> None:
    """Equal and of the same type, now and at every rerun."""
    payload, decoded = codec(annotation).round_trip(value)

    for each in (decoded, codec(annotation).decode(payload)):
        assert each == value
        assert type(each) is type(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_what_json_has_comes_back_without_an_annotation(value: object) -> None:
    """Falsy values, large integers, order of keys: as repr shows them."""
    payload, decoded = codec(Any).round_trip(value)

    assert repr(decoded) == repr(codec(Any).decode(payload)) == repr(value)


@given(st.tuples(st.sets(st.integers()), st.binary(), st.lists(st.decimals(allow_nan=False))))
@settings(max_examples=50, deadline=None)
def test_what_is_refused_without_an_annotation_comes_back_with_one(value: Any) -> None:
    """The annotation decides, never the value."""
    with pytest.raises(SerializationError):
        codec(Any).round_trip(value)
    assert codec(tuple[set[int], bytes, list[Decimal]]).round_trip(value)[1] == value


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ((1, "a"), "-> tuple[int, str]"),
        ({1}, "-> set[int]"),
        (frozenset({"a"}), "-> frozenset[str]"),
        ({1: "a"}, "-> dict[int, str]"),
        (b"x", "-> bytes"),
        ([{"a": (1,)}], "-> list[dict[str, tuple[int]]]"),
        (ListOfMine([1]), "use list(…)"),
        (Counter("ab"), "use dict(…)"),
        (Page("a.org"), "-> Page"),
        (Order(1, set()), "-> Order"),
        (Point(1, "y"), "-> Point"),
        (Colour.RED, "-> Colour"),
        (UUID(int=1), "-> UUID"),
        (datetime(2020, 1, 1), "-> datetime"),
        (Decimal(1), "-> Decimal"),
    ],
    ids=repr,
)
def test_what_would_change_silently_is_refused(value: object, advice: str) -> None:
    """With the annotation to write."""
    with pytest.raises(SerializationError) as caught:
        codec(Any).round_trip(value)

    assert "the result of f()" in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [-float("inf")],
        "\ud800",
        {"\ud800": 1},
        1j,
        Opaque(),
        print,
        IntOfMine(1),
        10**4300,
        [-(10**4300)],
        nested(NESTING_LIMIT + 1),
        nested(5000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    """Not-numbers, lone surrogates, unknown types, too large integers, too deep nesting."""
    with pytest.raises(SerializationError, match=r"the result of f\(\)"):
        codec(Any).round_trip(value)


@pytest.mark.parametrize("container", [[], {}])
def test_a_cycle_is_refused(container: Any) -> None:
    """It has no end."""
    if isinstance(container, list):
        container.append(container)
    else:
        container["self"] = container

    with pytest.raises(SerializationError, match="holds itself"):
        codec(Any).round_trip(container)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "x"),
        (int, True),
        (int, 1.5),
        (bool, 1),
        (str, None),
        (list[int], ["a"]),
        (tuple[int, int], [1, 2]),
        (list, [(1, 2)]),
        (Page, Order(1, set())),
        (float, 2**53 + 1),
        (float, float("nan")),
    ],
)
def test_a_value_that_does_not_fit_its_annotation_is_refused(annotation: Any, value: Any) -> None:
    """Also where it could be made to fit."""
    with pytest.raises(SerializationError, match=r"the result of f\(\)"):
        codec(annotation).round_trip(value)


@pytest.mark.parametrize("annotation", [Opaque, list[Opaque], type, range])
def test_an_annotation_that_cannot_be_read_back_is_refused(annotation: Any) -> None:
    """Before any value of it exists."""
    with pytest.raises(SerializationError, match="annotated"):
        codec(annotation)


def test_the_largest_values_that_are_read_back_are_accepted() -> None:
    """Integers of 4,300 digits, and the whole nesting limit."""
    for value in (10**4299, nested(NESTING_LIMIT)):
        assert codec(Any).round_trip(value)[1] == value


def test_the_limit_of_integers_does_not_depend_on_this_process() -> None:
    """Another one may not have called sys.set_int_max_str_digits()."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(SerializationError):
            codec(int).round_trip(10**5000)
    finally:
        sys.set_int_max_str_digits(before)


def test_what_a_pydantic_model_does_not_dump_is_not_lost_silently() -> None:
    """Private attributes are part of what pydantic calls equal."""
    customer = Customer(fullName="Ann", since=datetime(2020, 1, 1))
    customer._secret = 2

    with pytest.raises(SerializationError, match="_secret"):
        codec(Customer).round_trip(customer)


def test_the_place_of_the_difference_is_named() -> None:
    """As a path into the value."""
    with pytest.raises(SerializationError, match=r"at \['a'\]\[1\]"):
        codec(Any).round_trip({"a": [1, (2,)]})


def test_the_caller_gets_the_decoded_value() -> None:
    """Not the object itself: a list that is changed later is not what was recorded."""
    value = [1, [2]]

    assert codec(Any).round_trip(value)[1][1] is not value[1]


def test_a_record_that_no_longer_fits_says_so() -> None:
    """The annotation changed since: give the task a new version."""
    with pytest.raises(SerializationError, match="version="):
        codec(int).decode(b'"text"')


@pytest.mark.parametrize("text", ['[["[[[["]]', '{"a":"\\"[{"}', "[]" * 3])
def test_nesting_counts_no_brackets_inside_text(text: str) -> None:
    """Nor after an escaped quotation mark."""
    padded = b'["' + b"[" * 500 + b'",' + text.encode().replace(b"[]", b"1,") + b"1]"

    assert nesting(padded) < 10


def test_plain_values_need_no_annotation() -> None:
    """Text, numbers, lists and dictionaries of them do not; tuples do."""
    assert is_plain({"a": [1, None]})
    assert not is_plain((1,))
    assert annotation_for([(1,)]) == "list[tuple[int]]"


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_is_no_fault_of_a_value_is_not_told_as_one(error: type[Exception]) -> None:
    """Memory may run out, or the stack, wherever a value is recorded and read."""

    class Greedy(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            if armed:
                raise error

    armed: list[bool] = []
    codec = Codec(Greedy, "the result of f()")
    value = Greedy(1)
    payload, _ = codec.round_trip(value)
    armed.append(True)
    for use in (lambda: codec.round_trip(value), lambda: codec.decode(payload)):
        with pytest.raises(error):
            use()


def test_the_end_of_the_stack_is_no_fault_of_a_value_or_annotation() -> None:
    """What is recorded there fails as anything else does."""

    def make(levels: int) -> object:
        if levels:
            return make(levels - 1)
        return Codec(dict[str, list[int]], "the result of f()").round_trip({"a": [1]})

    refused = 0
    for levels in range(sys.getrecursionlimit()):
        try:
            make(levels)
        except RecursionError:
            refused += 1
    assert refused
