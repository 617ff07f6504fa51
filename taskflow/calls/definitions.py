"""`Definition`: what a task and a workflow have in common: a function and its options.

Only this module decides what a decorated function is called, and how its body executes.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct

from taskflow.calls.wrappers import check_wrappers
from taskflow.errors import SerializationError
from taskflow.retry import RetryPolicy
from taskflow.runs.cache import CachePolicy
from taskflow.stores.batches import Durability
from taskflow.wire.codec import Codec
from taskflow.wire.identity import Binder, check_id, is_text, key_json, name_part, where_of

__all__ = ("BodyKind", "Definition", "Options", "definitions_named", "definitions_of")

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)

# Where a frame between a decorated function and `Definition` can be.
DECORATING_MODULES: Final = (
    "taskflow.calls.definitions",
    "taskflow.calls.tasks",
    "taskflow.calls.workflows",
)


class BodyKind(Enum):
    """How a body is executed."""

    COROUTINE = "coroutine"  # stepped on the event loop
    GENERATOR = "generator"  # the same, its items collected
    THREAD = "thread"
    PROCESS = "process"


class Options(Struct, frozen=True, kw_only=True):
    """How a task or workflow is named, how its calls are told apart, and how they execute."""

    name: str | None = None  # None: the function's qualified name
    version: str | int = ""
    key: Callable[..., str] | None = None  # identity in place of the arguments
    retry: RetryPolicy | Sequence[RetryPolicy] | None = None
    timeout: float | None = None  # seconds for one attempt
    cache: CachePolicy | None = None
    executor: Literal["thread", "process"] | None = None  # where a def executes
    durability: Durability | None = None  # in place of the run's

    def __post_init__(self) -> None:
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key is a function of the arguments, got {self.key!r}")
        if self.cache is not None and not isinstance(self.cache, CachePolicy):
            raise TypeError(f"cache is a CachePolicy, got {self.cache!r}")
        if self.durability not in (None, "sync", "async", "exit"):
            raise ValueError(f'durability is "sync", "async" or "exit", got {self.durability!r}')
        if not isinstance(self.version, str | int):
            raise TypeError(f"version is text or a number, got {self.version!r}")
        if self.retry is not None and not isinstance(self.retry, RetryPolicy | Sequence):
            raise TypeError(f"retry is a RetryPolicy, or several, got {self.retry!r}")
        if not all(isinstance(policy, RetryPolicy) for policy in self.policies()):
            raise TypeError(f"retry is a RetryPolicy, or several, got {self.retry!r}")

    def policies(self) -> tuple[RetryPolicy, ...]:
        """The retry policies, of which the first that matches an error counts."""
        return (self.retry,) if isinstance(self.retry, RetryPolicy) else tuple(self.retry or ())


DEFAULT: Final = Options()


class Definition(Generic[P, R_co, T_co]):
    """A decorated function. ``fn`` is the function as it was written."""

    is_workflow = False

    def __init__(self, fn: Callable[P, R_co], options: Options = DEFAULT) -> None:
        check_wrappers(fn)
        if not callable(fn):
            raise TypeError(f"a function is needed, got {fn!r}")
        self.fn = fn
        self.name = _default_name(fn) if options.name is None else options.name
        if not isinstance(self.name, str) or not self.name or self.name == "<lambda>":
            raise ValueError("a name is needed: name='…'")
        check_id(self.name, "name of a task or workflow")
        self.version = str(options.version)
        if not is_text(self.version):
            raise ValueError(f"the version of {self.name} is text that UTF-8 can encode")
        self.where = where_of(fn)
        self.key = options.key
        self.policies = options.policies()
        self.timeout = options.timeout
        self.cache = options.cache
        self.durability: Durability | None = options.durability
        self.kind = _kind_of(fn, options.executor)
        self.is_bare = self.kind is BodyKind.COROUTINE and self.timeout is None
        self.binder = Binder(fn, self.name)
        self.part = name_part(self.name, self.version)
        self._locals = _callers_locals(fn)
        for attribute in ("__doc__", "__module__", "__qualname__", "__name__"):
            if hasattr(fn, attribute):
                setattr(self, attribute, getattr(fn, attribute))
        self.__wrapped__ = fn
        _DEFINED.setdefault(self.name, WeakValueDictionary())[self.where] = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name}>"

    @functools.cached_property
    def codec(self) -> Codec:
        """Encodes and decodes results, by the return annotation.

        Raises SerializationError where results of that annotation could not be read back.
        """
        annotation = self.annotations().get("return", Any)
        if self.kind is BodyKind.GENERATOR:
            items = typing.get_args(annotation)
            annotation = list[items[0]] if items else list[Any]  # type: ignore[valid-type]
        return Codec(annotation, f"the result of {self.name}()")

    def cache_key(self, args: tuple[Any, ...], kwargs: dict[str, Any], told_by: bytes) -> str:
        """The key under which a result is shared; ``told_by`` stands for equal arguments."""
        assert self.cache is not None
        if self.cache.key is not None:
            key = self.cache.key(*args, **kwargs)
            told_by = key_json(key, f"the cache key of {self.name}")
        return blake2b(self.part + told_by, digest_size=16).hexdigest()

    def annotations(self) -> dict[str, Any]:
        """The annotations of the function, evaluated.

        Raises SerializationError where a name in the return annotation is not known.
        """
        fn = _plain_function(self.fn)
        found = dict(getattr(fn, "__annotations__", {}))
        # A task records its result alone: what its parameters are annotated with may be unknown.
        if not self.is_workflow:
            found = {"return": found["return"]} if "return" in found else {}
        try:
            return typing.get_type_hints(
                types.SimpleNamespace(__annotations__=found),
                globalns=getattr(fn, "__globals__", {}),
                localns=self._locals,
                include_extras=True,
            )
        except (NameError, TypeError, AttributeError, SyntaxError) as error:
            raise SerializationError(
                f"{self.name}(): its annotations cannot be evaluated ({error}): import what they "
                "name where the function is defined, not under TYPE_CHECKING"
            ) from error


# Every decorated function of this process, by name and by place: the latest in each place.
_DEFINED: Final[dict[str, WeakValueDictionary[str, Definition[..., Any, Any]]]] = {}


def definitions_of(name: str) -> list[Definition[..., Any, Any]]:
    """The tasks and workflows of that name, without the definitions of this package's own waits."""
    return [each for each in _DEFINED.get(name, {}).values() if type(each) is not Definition]


def definitions_named(name: str) -> list[Definition[..., Any, Any]]:
    """The definitions whose function is called ``name``, whatever their own name is."""
    found = [each for kinds in _DEFINED.values() for each in list(kinds.values())]
    return [each for each in found if getattr(each.fn, "__name__", "") == name]


def _default_name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return str(name.rpartition("<locals>.")[2])


def _plain_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if not (inspect.isroutine(fn) or inspect.isclass(fn)):
        fn = type(fn).__call__
    return fn


def _kind_of(fn: Callable[..., Any], executor: str | None) -> BodyKind:
    if executor not in (None, "thread", "process"):
        raise ValueError(f'executor is "thread" or "process", got {executor!r}')
    # The outermost callable counts, not what it wraps: a wrapper may make a def async.
    plain = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not (inspect.isroutine(plain) or inspect.isclass(plain)):
        plain = type(plain).__call__
    if inspect.isgeneratorfunction(plain):
        raise TypeError(f"{plain.__qualname__} is a generator: return a list, or make it async")
    is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
    if is_async and executor is not None:
        raise TypeError(
            f"{plain.__qualname__} is async and executes on the event loop; executor= is for def"
        )
    if executor == "process":
        if "<locals>" in where_of(fn) or not inspect.isfunction(fn):
            raise TypeError(
                f"a worker process finds {where_of(fn)} by module and qualified name: define it "
                "at the top of a module"
            )
        return BodyKind.PROCESS
    if inspect.isasyncgenfunction(plain):
        return BodyKind.GENERATOR
    return BodyKind.COROUTINE if is_async else BodyKind.THREAD


def _callers_locals(fn: Callable[..., Any]) -> dict[str, Any]:
    """The names around a function that was defined inside another one, if it may need them."""
    annotations = getattr(_plain_function(fn), "__annotations__", {})
    if "<locals>" not in where_of(fn) or not any(isinstance(a, str) for a in annotations.values()):
        return {}
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in DECORATING_MODULES:
        frame = frame.f_back
    return dict(frame.f_locals)
