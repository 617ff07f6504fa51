"""`workflow`: the decorator for functions that call tasks; `previous` and `save` for their runs.

Only this module decides what the call of a workflow is: the description of a run, or, inside
another workflow, a child of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import GenericAlias
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Optional,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    overload,
)

from taskflow.calls.call import USED, Call
from taskflow.calls.definitions import BodyKind, Definition, Options
from taskflow.calls.identities import identify
from taskflow.calls.recorded import RecordedCall
from taskflow.errors import NotInRun, SerializationError
from taskflow.retry import RetryPolicy
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.wire.codec import Codec
from taskflow.wire.identity import fingerprint
from taskflow.wire.json import decode_plain
from taskflow.wire.plain import exact_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ("Workflow", "WorkflowCall", "WorkflowOptions", "previous", "save", "workflow")

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


class WorkflowOptions(TypedDict, total=False):
    """The options of `workflow`."""

    name: str  # default: the function's qualified name
    version: str | int
    retry: RetryPolicy | Sequence[RetryPolicy]


class Workflow(Definition[P, R_co, T_co], Generic[P, R_co, T_co]):
    """A workflow: calling it describes a run, or, inside another workflow, makes a child of it."""

    is_workflow = True
    owner: type | None = None  # of a method: the class that it stands in

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[T_co]:
        """A call with these arguments. Raises SerializationError where one cannot be recorded."""
        return WorkflowCall(self, args, kwargs)

    @overload
    def __get__(self, instance: None, owner: type) -> Workflow[P, R_co, T_co]: ...
    @overload
    def __get__(
        self: Workflow[Concatenate[Any, Q], R_co, T_co], instance: object, owner: type
    ) -> Workflow[Q, R_co, T_co]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        """The workflow bound to the instance it was taken from, which is a part of its input."""
        return self if instance is None else BoundWorkflow(self, instance)

    @property
    def unbound(self) -> Workflow[..., R_co, T_co]:
        """The same without the object of a method."""
        return self

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    @functools.cached_property
    def input_codec(self) -> Codec:
        """Encodes and decodes the arguments, by the parameters' annotations."""
        annotations = self.annotations()
        fields: dict[str, Any] = {}
        for name, parameter in self.binder.signature.parameters.items():
            given: Any = annotations.get(name, Any)
            if self.owner is not None and not fields and name not in annotations:
                given = self._checked_owner(self.owner)
            if parameter.kind is parameter.VAR_POSITIONAL:
                given = GenericAlias(tuple, (given, ...))
            elif parameter.kind is parameter.VAR_KEYWORD:
                given = GenericAlias(dict, (str, given))
            fields[name] = given
        # The functional form takes any names.
        shape = TypedDict(f"{self.name} arguments", fields, total=False)  # type: ignore[misc]
        return Codec(shape, f"the arguments of {self.name}()", parameters=fields)

    def _checked_owner(self, owner: type) -> type:
        """The class of the objects that a method is called on."""
        try:
            Codec(owner, f"the object of {self.name}()")
        except SerializationError as error:
            raise SerializationError(
                f"{self.name}() is a method, and the object that it is called on is recorded with "
                f"its arguments: make {owner.__qualname__} a dataclass, a Struct or a model, or "
                "make the workflow a function of what it needs from it"
            ) from error
        return owner

    def decode_input(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a recorded input."""
        return self.binder.unbind(self.input_codec.decode(payload))

    def check_parameters(self, payload: bytes) -> None:
        """Raise SerializationError where a recorded input has arguments that are not taken."""
        gone = decode_plain(payload).keys() - self.binder.signature.parameters.keys()
        if gone:
            raise SerializationError(
                f"{self.name}() takes no parameter {', '.join(sorted(gone))}, and the recorded "
                "input has one: continue the run with the code that began it, or give the new code "
                "another name= or version="
            )


class BoundWorkflow(Workflow[P, R_co, T_co]):
    """The workflow of a method, with the instance that it was taken from."""

    def __init__(self, workflow: Workflow[Any, R_co, T_co], instance: object) -> None:
        self.__dict__.update(workflow.__dict__)
        self._unbound = workflow
        self._instance = instance
        self.fn = functools.partial(workflow.fn, instance)

    @property
    def unbound(self) -> Workflow[..., R_co, T_co]:
        return self._unbound

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[T_co]:
        return self._unbound(self._instance, *args, **kwargs)


class WorkflowCall(Call[T_co], Generic[T_co]):
    """A description of a run, until a runtime runs it or another workflow awaits it.

    ``input`` is the JSON object of its arguments.
    """

    __slots__ = ("_child", "definition", "fingerprint", "input")

    def __init__(
        self,
        definition: Workflow[..., Any, T_co],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        arguments = definition.binder.bind(args, kwargs)
        self.input, _ = definition.input_codec.round_trip(arguments)
        try:
            canonical = definition.input_codec.canonical(arguments)
        except Exception as error:  # sets have an order in it, and what they hold may have none
            raise SerializationError(
                f"the arguments of {definition.name}() have no canonical form: {error}"
            ) from error
        self.definition = definition
        self.fingerprint = fingerprint(definition.part, canonical)
        self.frame: Frame[Run] | None = FRAME.get()
        self._child: RecordedCall[T_co] | None = None
        if self.frame is None:
            self.id = f"{definition.name}:{self.fingerprint}"
        else:
            args, kwargs = definition.decode_input(self.input)
            identity = identify(definition, self.frame, args, kwargs, canonical)
            self._child = RecordedCall(definition, self.frame, args, kwargs, identity)
            self.id = self._child.id
        self._steps = None

    def __repr__(self) -> str:
        return f"<workflow call {self.id}>"

    def use(self) -> None:
        # A runtime runs what it describes, as often as it is asked to.
        if self._steps is None:
            self._steps = USED
        if self._child is not None:
            self._child.close()

    def as_child(self) -> RecordedCall[T_co]:
        # The call as a child of the workflow around it, for a race or `as_completed` to execute.
        if self._child is None:
            raise NotInRun(self.definition.name, f"{self.definition.name}.fn")
        if self._steps is not None:
            raise self._used()
        self._steps = USED
        return self._child

    def close(self) -> None:
        """Give it up (the coroutine protocol): it will never execute."""
        if self._steps is None:
            self.use()

    def __del__(self) -> None:
        if getattr(self, "_child", None) is None:  # which reports itself otherwise
            super().__del__()

    def _execute(self) -> Generator[Any, Any, T_co]:
        if self._child is None:
            self._steps = USED
            raise NotInRun(self.definition.name, f"{self.definition.name}.fn")
        return self._child.__await__()


def previous(type: type[T], /) -> T | None:  # noqa: A002 - positional only: nobody can name it
    """What the latest successful run on this thread saved before this one was created.

    That is what it gave to `save`, or its result; ``None`` on the thread's first run. Decoded to
    ``type``. Raises NotInRun outside of a run, SerializationError where it does not fit.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("previous")
    run = frame.run
    read: Any = Optional[type]  # noqa: UP045 - of any annotation
    codec = run.reads = Codec(read, "the saved value", advice="read it with previous({})")
    if run.saved is not None:  # before the type was known
        _previous(run, codec, run.saved, f"this run on thread {run.thread_id!r} saves", type)
    if run.previous is None:
        return None
    told = f"the previous run on thread {run.thread_id!r} saved"
    return _previous(run, codec, run.previous, told, type)  # type: ignore[no-any-return]


def _previous(run: Run, codec: Codec, payload: bytes, told: str, annotation: Any) -> Any:
    try:
        return run.read(codec, payload)
    except SerializationError as error:
        raise SerializationError(
            f"{told} {payload[:200]!r}, which is no {annotation!r}: give previous() the type of "
            "what save() was given"
        ) from error


def save(value: object) -> None:
    """Keep ``value`` for `previous` in later runs on this thread, in place of the run's result.

    It is kept when the run succeeds; the last value counts. Raises NotInRun outside of a run,
    RuntimeError in a task or a child workflow (which a rerun does not execute again), and
    SerializationError where JSON cannot carry the value, or the type that this run gave to
    `previous` would not read it back.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("save")
    if frame.call_id is not None or frame.run.is_block:
        raise RuntimeError(
            "save() belongs into the run's own workflow: "
            + (
                "a Runtime.thread() block has none"
                if frame.call_id is None
                else f"{frame.call_id} executes once, and could not save on a rerun"
            )
        )

    codec = frame.run.reads
    frame.run.saved = (
        exact_json(value, "the saved value") if codec is None else codec.round_trip(value)[0]
    )


@overload
def workflow(
    fn: Callable[P, Coroutine[Any, Any, T]], /, **options: Unpack[WorkflowOptions]
) -> Workflow[P, Coroutine[Any, Any, T], T]: ...
@overload
def workflow(fn: Callable[P, T], /, **options: Unpack[WorkflowOptions]) -> Workflow[P, T, T]: ...
@overload
def workflow(**options: Unpack[WorkflowOptions]) -> Decorator: ...
def workflow(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a workflow; bare or with options.

    ``async def`` executes on the event loop, ``def`` in a worker thread, where ``call.result()``
    waits for a call. Raises TypeError for a generator.
    """
    if fn is None:
        return functools.partial(workflow, **options)

    made: Workflow[..., Any, Any] = Workflow(fn, Options(**options))
    if made.kind is BodyKind.GENERATOR:
        raise TypeError(f"{made.name} is a generator: a workflow returns its result")
    return made


class Decorator(Protocol):
    """What ``workflow(**options)`` returns."""

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Workflow[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Workflow[P, T, T]: ...
