"""Types and values of all kinds for the tests that fuzz: what fits, what nearly does, what is odd.

A `Shape` is a type annotation and the values that belong to it. `same` is what "comes back as it
was" means, said a second time and in another way than in taskflow itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import itertools
import math
import re
import struct
import warnings
from collections.abc import Callable, Coroutine, Set
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import attrs
import hypothesis
import hypothesis.strategies as st
import msgspec
import pydantic

from taskflow import Runtime, Store, Task, task

T = TypeVar("T")
_numbers = itertools.count(1)


class Shape(NamedTuple):
    """An annotation, and what belongs to it."""

    annotation: Any
    values: st.SearchStrategy[Any]
    is_hashable: bool = True
    json: str = "str"  # how its values are written: what two members of a union differ in

    def __repr__(self) -> str:
        return f"<shape {self.annotation}>"


# Types of our own that stand in this module.


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # another name for the same  # noqa: PIE796
    GREEN = "green"
    __eq__ = lambda self, other: True  # noqa: E731 - it lies
    __hash__ = enum.Enum.__hash__


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Mood(enum.StrEnum):
    GOOD = "good"
    BAD = "1"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2
    SHARE = 4


class Box(msgspec.Struct, Generic[T], frozen=True):
    item: T


class Cat(msgspec.Struct, tag=True, frozen=True):
    lives: int


class Dog(msgspec.Struct, tag=True, frozen=True):
    lives: int


class Bird(msgspec.Struct, tag="flies", array_like=True):
    lives: int
    wings: list[int] = []


class Tree(msgspec.Struct, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    leaf_value: int | None = None
    sub_trees: list[Tree] = []


@dataclasses.dataclass(slots=True)
class Chain:
    link: int
    rest: Chain | None = None


@dataclasses.dataclass
class Base:
    one: int
    two: str = "2"


@dataclasses.dataclass(kw_only=True)
class Derived(Base):
    """Its __eq__ lies."""

    three: float = 3.0

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@attrs.define
class Item:
    sku: str
    sizes: tuple[int, ...] = ()
    _secret: int = 0


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName")
    since: datetime | None = None
    groups: set[int] = set()
    more: dict[str, int | str] = {}


class Row(TypedDict, total=False):
    number: int
    pair: tuple[int, str]


class Point(NamedTuple):
    x: int
    y: float = 0.0


Number = NewType("Number", int)


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Listed(list[Any]):
    pass


class Mapped(dict[Any, Any]):
    pass


class Liar:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Touchy:
    """Not to be compared, shown or hashed."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("compared")

    def __repr__(self) -> str:
        raise ZeroDivisionError("shown")

    def __hash__(self) -> int:
        raise ZeroDivisionError("hashed")


# Strategies.

texts = st.text(st.characters(codec="utf-8"), max_size=20)


def _first(moment: Any) -> Any:
    """The first of two moments that a clock shows alike: JSON has no second one."""
    return moment.replace(fold=0)


minutes = st.integers(-14 * 60, 14 * 60).map(lambda each: timezone(timedelta(minutes=each)))
moments = st.datetimes(timezones=st.none() | minutes).map(_first)
whole = (
    st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**4299])
    | st.integers(0, 4298).map(lambda digits: -(10**digits))
)
reals = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 1e16])
decimals = st.decimals(allow_nan=False) | st.sampled_from(
    [Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal("1E+400"), Decimal("Infinity")]
)
spans = st.timedeltas() | st.sampled_from(
    [timedelta.max, timedelta.min, timedelta(microseconds=-1), timedelta(0)]
)

SCALARS = [
    Shape(int, whole, json="int"),
    Shape(bool, st.booleans(), json="bool"),
    Shape(float, reals, json="float"),
    Shape(str, texts),
    Shape(None, st.none(), json="null"),
    Shape(bytes, st.binary(max_size=20)),
    Shape(bytearray, st.binary(max_size=20).map(bytearray), is_hashable=False),
    Shape(datetime, moments),
    Shape(date, st.dates()),
    Shape(time, (st.times() | st.times(timezones=minutes)).map(_first)),
    Shape(timedelta, spans),
    Shape(UUID, st.uuids()),
    Shape(Decimal, decimals),
    Shape(Colour, st.sampled_from(Colour)),
    Shape(Level, st.sampled_from(Level), json="int"),
    Shape(Mood, st.sampled_from(Mood)),
    Shape(Rights, st.integers(0, 7).map(Rights), json="int"),
    Shape(Literal[1, "1", "a"], st.sampled_from([1, "1", "a"]), json="int"),
    Shape(Number, st.integers(), json="int"),
    Shape(Annotated[int, msgspec.Meta(ge=0)], st.integers(0), json="int"),
    Shape(Annotated[str, msgspec.Meta(min_length=1)], texts.filter(bool)),
    Shape(Box[int], st.builds(Box, st.integers()), json="object"),
    Shape(Cat | Dog, st.builds(Cat, st.integers()) | st.builds(Dog, st.integers()), json="object"),
    Shape(Point, st.builds(Point, st.integers(), reals), json="array"),
]

trees = st.recursive(
    st.builds(Tree, st.none() | st.integers()),
    lambda inner: st.builds(Tree, st.none() | st.integers(), st.lists(inner, max_size=3)),
    max_leaves=6,
)
chains = st.recursive(
    st.builds(Chain, st.integers()), lambda inner: st.builds(Chain, st.integers(), inner)
)
plain = st.recursive(
    st.none() | st.booleans() | whole | reals | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

RECORDS = [
    Shape(Any, plain, is_hashable=False, json="any"),
    Shape(object, plain, is_hashable=False, json="any"),
    Shape(Tree, trees, is_hashable=False, json="object"),
    Shape(Chain, chains, is_hashable=False, json="object"),
    Shape(Bird, st.builds(Bird, st.integers()), is_hashable=False, json="array"),
    Shape(Derived, st.builds(Derived, st.integers(), texts), is_hashable=False, json="object"),
    Shape(
        Item,
        st.builds(Item, texts, st.lists(st.integers(), max_size=3).map(tuple)),
        is_hashable=False,
        json="object",
    ),
    Shape(
        Customer,
        st.builds(
            Customer,
            fullName=texts,
            since=st.none() | moments,
            groups=st.sets(st.integers(-(2**60), 2**60), max_size=3),
            more=st.dictionaries(texts, st.integers(-(2**60), 2**60) | texts, max_size=3),
        ),
        is_hashable=False,
        json="object",
    ),
    Shape(
        Row,
        st.fixed_dictionaries(
            {}, optional={"number": st.integers(), "pair": st.tuples(st.integers(), texts)}
        ),
        is_hashable=False,
        json="object",
    ),
]

KEYS = [
    each
    for each in SCALARS
    if each.annotation
    in (str, int, float, bytes, datetime, date, time, timedelta, UUID, Level, Mood, Number)
]
# Keys are read back by way of numbers where they look like some, which loses the sign of "-0".
signed = re.compile(r"-0+(E[+-]?\d+)?")
KEYS.append(
    Shape(Decimal, decimals.filter(lambda each: not signed.fullmatch(str(each)))),
)


def _listed(item: Shape) -> Shape:
    return Shape(list[item.annotation], st.lists(item.values, max_size=3), False, "array")


def _nested(item: Shape) -> list[Shape]:
    """Shapes that hold one other."""
    note, values = item.annotation, item.values
    shapes = [
        _listed(item),
        Shape(tuple[note, ...], st.lists(values, max_size=3).map(tuple), item.is_hashable, "array"),
        Shape(tuple[note, int], st.tuples(values, st.integers()), item.is_hashable, "array"),
        Shape(dict[str, note], st.dictionaries(texts, values, max_size=3), False, "object"),
        Shape(Box[note], st.builds(Box, values), item.is_hashable, "object"),
        Shape(Annotated[note, msgspec.Meta(title="a")], values, item.is_hashable, item.json),
    ]
    if item.json not in ("null", "any"):
        optional = Union[note, None]  # noqa: UP007 - not every annotation has |
        shapes.append(Shape(optional, st.none() | values, item.is_hashable, item.json))
    if item.is_hashable:
        some = st.sets(values, max_size=3)
        shapes += [
            Shape(set[note], some, False, "array"),
            Shape(frozenset[note], some.map(frozenset), item.json != "array", "array"),
        ]
    return shapes


@st.composite
def _records(draw: st.DrawFn, items: st.SearchStrategy[Shape]) -> Shape:
    """A class that is made for this example, of some kind, with fields of some shapes."""
    fields = {f"field{n}": draw(items) for n in range(draw(st.integers(0, 3)))}
    notes = {name: each.annotation for name, each in fields.items()}
    name = f"Made{next(_numbers)}"
    flags = draw(st.fixed_dictionaries(dict.fromkeys(["frozen", "kw_only"], st.booleans())))
    is_hashable = flags["frozen"] and all(each.is_hashable for each in fields.values())
    kind = draw(st.sampled_from(["dataclass", "struct", "attrs", "namedtuple", "typeddict"]))
    made: Callable[..., Any]
    form = "object"
    if kind == "dataclass":
        made = dataclasses.make_dataclass(name, notes.items(), **flags, slots=draw(st.booleans()))
    elif kind == "struct":
        options = draw(
            st.fixed_dictionaries(
                dict.fromkeys(
                    ["array_like", "omit_defaults", "forbid_unknown_fields", "eq"], st.booleans()
                )
            )
        )
        options |= {"rename": draw(st.sampled_from([None, "camel", "pascal", "kebab"]))}
        options |= {"tag": draw(st.sampled_from([None, True, "tag"]))}
        form = "array" if options["array_like"] else "object"
        is_hashable = is_hashable and options["eq"]
        defaults = [
            (field, note, draw(fields[field].values)) if _has_default(fields[field], draw) else pair
            for pair in notes.items()
            for field, note in [pair]
        ]
        defaults.sort(key=len)  # those without one come first
        made = msgspec.defstruct(name, defaults, **flags, **options)
    elif kind == "attrs":
        made = attrs.make_class(
            name,
            {each: attrs.field(type=note or type(None)) for each, note in notes.items()},
            **flags,
        )
    elif kind == "namedtuple":
        made, form = NamedTuple(name, list(notes.items())), "array"  # type: ignore[misc]
        is_hashable = all(each.is_hashable for each in fields.values())
    else:
        made, is_hashable = TypedDict(name, notes), False  # type: ignore[misc]
    values = st.fixed_dictionaries({each: shape.values for each, shape in fields.items()})
    built = values.map(lambda given: made(**given))
    return Shape(made, built, is_hashable and bool(fields), form)


def _has_default(shape: Shape, draw: st.DrawFn) -> bool:
    immutable = (int, str, bool, float, None, bytes, Decimal, UUID, date)
    return shape.annotation in immutable and draw(st.booleans())


@st.composite
def _unions(draw: st.DrawFn, items: st.SearchStrategy[Shape]) -> Shape:
    """Members that JSON tells apart."""
    members = {"int": SCALARS[0], "bool": SCALARS[1], "str": SCALARS[3], "null": SCALARS[4]}
    item = draw(items)
    some = draw(st.lists(st.sampled_from(sorted(members)), min_size=1, unique=True))
    chosen = [members[each] for each in some if each != item.json]
    if item.json in ("array", "float") or item.annotation in (Tree, Chain):
        chosen.append(item)
    if not chosen:
        return item
    annotation = Union[tuple(each.annotation for each in chosen)]  # noqa: UP007
    values = st.one_of([each.values for each in chosen])
    return Shape(annotation, values, all(each.is_hashable for each in chosen), "any")


shapes: st.SearchStrategy[Shape] = st.recursive(
    st.sampled_from([*SCALARS, *RECORDS]),
    lambda inner: (
        inner.flatmap(lambda item: st.sampled_from(_nested(item)))
        | _records(inner)
        | _unions(inner)
        | st.tuples(st.sampled_from(KEYS), inner).map(
            lambda both: Shape(
                dict[both[0].annotation, both[1].annotation],
                st.dictionaries(both[0].values, both[1].values, max_size=3),
                False,
                "object",
            )
        )
    ),
    max_leaves=4,
)

fitting = shapes.flatmap(lambda shape: st.tuples(st.just(shape.annotation), shape.values))


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner], leaf: Any = None) -> Any:
    """Something inside something, to any depth, made without recursion."""
    value = leaf
    for _ in range(depth):
        value = wrap(value)
    return value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


def _shared() -> list[Any]:
    value: list[Any] = [1]
    return [value, value, {"again": value}]


class Held:
    """A value that may be too odd to be shown."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        try:
            return f"<held {repr(self.value)[:200]}>"
        except Exception as error:
            return f"<held {type(self.value).__qualname__}: {error!r:.50}>"


ATOMS = [
    *(math.nan, math.inf, -math.inf, 1j, 10**4300, -(10**5000), 2**53 + 1, 2**1024),
    *("\ud800", "a\udfff", "\0", Text("a"), Whole(1), Real(1), Real("nan"), Liar(), Touchy()),
    *(1, True, 1.0, 0, -0.0, "1", "", None, (), (1,), object(), print, int, ...),
    *(Level.LOW, Mood.GOOD, Colour.CRIMSON, Rights(0), Rights(7)),
    *(msgspec.UNSET, msgspec.Raw(b"{"), memoryview(b"a"), memoryview(b"abc")[::2]),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("1.00"), Decimal(1)),
    *(datetime(2020, 1, 1, fold=1), time(2, 30, fold=1), frozenset({1.0}), frozenset({1})),
    *(
        datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=seconds)))
        for seconds in (1, 30, 59, 3601, -90)
    ),
]

HOLDERS: list[Callable[[], Any]] = [
    lambda: {"\ud800": 1},
    lambda: {1: 1},
    lambda: {None: 1},
    lambda: {math.nan: 1},
    lambda: {1.0: 1, "1.0": 2},
    lambda: {True: 1},
    lambda: {(1,): 1},
    lambda: Listed([1]),
    lambda: Mapped(a=1),
    lambda: bytearray(b"a"),
    lambda: {datetime(2020, 1, 1, fold=1)},
    lambda: {1, "a"},
    lambda: {Decimal("NaN"), Decimal(1)},
    lambda: Item("a", (1,), 5),
    lambda: Customer.model_construct(name=1, since="x"),
    lambda: nested(401),
    lambda: nested(1000, lambda inner: {"a": inner}),
    lambda: nested(20_000, lambda inner: (inner,)),
    lambda: nested(20_000, lambda inner: Tree(sub_trees=[inner]), Tree()),
    _cycle,
    _shared,
    lambda: (each for each in "ab"),
]

odd = st.sampled_from(list(map(Held, ATOMS))) | st.sampled_from(HOLDERS).map(
    lambda make: Held(make())
)


def _spoil(value: Any, other: Any, way: int) -> Any:
    """A value with something odd in the place of one of its parts, or beside it."""
    if way == 0 and isinstance(value, list):
        return [*value, other]
    if way == 0 and type(value) is tuple:
        return (other, *value[1:])
    if way == 0 and type(value) is dict:
        return {**value, next(iter(value), "a"): other}
    if way == 0 and isinstance(value, msgspec.Struct) and value.__struct_fields__:
        return msgspec.structs.replace(value, **{value.__struct_fields__[-1]: other})
    return [other, [other], (other, value), {"a": other}][way % 4]


anything: st.SearchStrategy[Held] = (
    fitting.map(lambda pair: Held(pair[1]))
    | odd
    | st.builds(
        lambda pair, other, way: Held(_spoil(pair[1], other.value, way)),
        fitting,
        odd,
        st.integers(0, 4),
    )
)


def carried_by_json(pair: tuple[Any, Any]) -> bool:
    """Whether a value can be told without its annotation: not so keys that are no text."""
    pending = [pair[1]]
    while pending:
        each = pending.pop()
        if isinstance(each, dict) and not all(isinstance(key, str) for key in each):
            return False
        if isinstance(each, Set) and len({*map(type, each)}) > 1:
            return False
        pending += _parts(each) or ()
    return True


def same(one: Any, other: Any, *, in_order: bool = True) -> bool:
    """Equal, and of the same types all the way down; an int may have become the same float.

    ``in_order``: dictionaries have to have their keys in the same order too.
    """
    pending = [(one, other)]
    while pending:
        one, other = pending.pop()
        kind = type(one)
        if kind is int and type(other) is float:
            if one != other:
                return False
            continue
        if kind is not type(other):
            return False
        found = _parts(one, in_order), _parts(other, in_order)
        if found[0] is None or found[1] is None:
            if _atom(one) != _atom(other):
                return False
        elif len(found[0]) != len(found[1]):
            return False
        else:
            pending += zip(*found, strict=True)
    return True


def _parts(value: Any, in_order: bool = True) -> list[Any] | None:
    kind = type(value)
    if isinstance(value, list | tuple) and not hasattr(kind, "_fields"):
        return list(value)
    if isinstance(value, dict):
        keys = list(value) if in_order else sorted(value, key=_order)
        return [*keys, *(value[key] for key in keys)]
    if isinstance(value, Set):
        return sorted(value, key=_order)
    if hasattr(kind, "_fields"):
        names = kind._fields
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(kind) or attrs.has(kind):
        names = tuple(each.name for each in _fields(kind))
    elif isinstance(value, pydantic.BaseModel):
        names = tuple(kind.model_fields)
    else:
        return None
    return [getattr(value, name) for name in names]


def _fields(kind: Any) -> tuple[Any, ...]:
    return attrs.fields(kind) if attrs.has(kind) else dataclasses.fields(kind)


def _order(value: Any) -> Any:
    """What sorts the members of a set, the same way on both sides."""
    parts = _parts(value)
    if parts is not None:
        return f"{type(value).__name__}{[_order(each) for each in parts]}"
    # A whole number may have become a float, and is sorted where that one is.
    number = float(value) if type(value) is int and abs(value) < 2**53 else value
    return f"{number!r}"


def _atom(value: Any) -> Any:
    """What tells a value without parts from all others of its type."""
    if isinstance(value, enum.Enum):
        return id(value)
    if isinstance(value, float):
        return struct.pack("d", value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime | time):
        return value.isoformat(), value.fold
    if isinstance(value, memoryview):
        return value.tobytes()
    return value


class Host:
    """Executes coroutines one after the other on one event loop, with a runtime that is open."""

    def __init__(self, store: Store) -> None:
        self._runner = asyncio.Runner()
        self.runtime = Runtime(store)
        self._threads = itertools.count(1)

    def __enter__(self) -> Host:
        self.run(self.runtime.open())
        return self

    def __exit__(self, *raised: object) -> None:
        self.run(self.runtime.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` comes to; it may take a minute."""
        return self._runner.run(asyncio.wait_for(work, 60))

    def new_thread(self) -> str:
        """The id of a thread that holds nothing."""
        return f"thread {next(self._threads)}"


def fuzz(test: Callable[..., None], seed: int, examples: int, *args: Any) -> None:
    """Call ``test`` with examples of what ``args`` describe, the same ones for the same seed."""
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what hypothesis and pydantic find odd in odd values
        hypothesis.seed(seed)(settings(hypothesis.given(*args)(test)))()


def giver(
    annotation: Any, value: Any, executed: list[Any], name: str = "give"
) -> Task[[], Any, Any]:
    """A task that returns ``value`` and is annotated to return ``annotation``."""

    async def give() -> Any:
        executed.append(name)
        return value

    give.__annotations__ = {"return": annotation}
    return task(give, name=name)
