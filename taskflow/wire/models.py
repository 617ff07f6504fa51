"""Annotations in which types of pydantic stand, which pydantic reads and writes: whole, by itself.

So strict models, aliases, unions of models and discriminators mean what they mean to pydantic.
Pydantic is not imported here: where nobody has imported it, no annotation names its types.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import (
    Annotated,
    Any,
    Final,
    NewType,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from weakref import WeakKeyDictionary

import msgspec

from taskflow.wire.differences import difference

__all__ = (
    "NOT_WRITTEN",
    "Adapter",
    "from_builtin",
    "is_model_type",
    "is_readable",
    "mentions_models",
    "parts_of",
    "to_builtin",
    "to_exact_builtin",
    "to_telling_builtin",
)

# Modules whose objects in Annotated[...] speak to pydantic.
OF_PYDANTIC: Final = frozenset({"pydantic", "pydantic_core", "annotated_types"})

NOT_WRITTEN: Final = (
    "give the model a serializer and a validator that are inverses, and no field with "
    "exclude=True, no secret and no private attribute that a later run needs"
)


class Adapter:
    """Reads and writes the values of one annotation by pydantic's TypeAdapter.

    Raises what pydantic raises for an annotation that it cannot read.
    """

    def __init__(self, annotation: Any) -> None:
        pydantic: Any = sys.modules["pydantic"]
        # Bytes as msgspec writes them, outside of models, which have a config of their own. As
        # every class may have: TypeAdapter takes a config for none, but for a NewType of it.
        config = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
        new_type: Any = NewType
        recorded = new_type("Recorded", _Bridging().bridged(annotation))
        self._adapter = pydantic.TypeAdapter(recorded, config=config)
        if not getattr(self._adapter, "pydantic_complete", True):
            self._adapter.rebuild(raise_errors=True)  # says which name is not defined
        # By the names of fields too, where pydantic can (from 2.11 on): not every alias that is
        # written is one that is read.
        self._names = {"by_alias": True, "by_name": True} if _reads_names(pydantic) else {}

    def encode(self, value: Any) -> bytes:
        """The JSON of a value, with the aliases of its fields."""
        return self._dump_json(value, by_alias=True)

    def encode_by_name(self, value: Any) -> bytes:
        """The JSON of a value, with the names of its fields."""
        return self._dump_json(value, by_alias=False)

    def decode(self, payload: bytes) -> Any:
        """The value of a JSON text, with the aliases or the names of its fields."""
        return self._adapter.validate_json(payload, **self._names)

    def to_builtin(self, value: Any) -> tuple[Any, bool]:
        """The builtin form of a value, and whether it comes back.

        With aliases, or with the names of fields where only those are read back.
        """
        by_alias = self._dump(value, by_alias=True)
        if self._comes_back(value, by_alias):
            return by_alias, True
        by_name = self._dump(value, by_alias=False)
        if self._comes_back(value, by_name):
            return by_name, True
        return by_alias, False

    def from_builtin(self, value: Any) -> Any:
        """The value of a builtin form. As JSON, which strict models read more from."""
        core: Any = sys.modules["pydantic_core"]
        return self.decode(core.to_json(value))

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of what is read."""
        return self._adapter.json_schema()  # type: ignore[no-any-return]

    def _dump_json(self, value: Any, *, by_alias: bool) -> bytes:
        payload: bytes = self._adapter.dump_json(
            value, by_alias=by_alias, round_trip=True, warnings=False
        )
        return payload

    def _dump(self, value: Any, *, by_alias: bool) -> Any:
        return self._adapter.dump_python(
            value, mode="json", by_alias=by_alias, round_trip=True, warnings=False
        )

    def _comes_back(self, value: Any, form: Any) -> bool:
        try:
            return difference(value, self.from_builtin(form)) is None
        except Exception:  # of user code too
            return False


_adapters: Final[WeakKeyDictionary[type, Adapter | None]] = WeakKeyDictionary()


def _adapter_of(kind: type) -> Adapter | None:
    """The adapter of a class; None where pydantic cannot read it."""
    if kind not in _adapters:
        try:
            _adapters[kind] = Adapter(kind)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # pydantic raises several kinds
            if is_model_type(kind):
                return None  # as yet: it may name a class that is defined later
            _adapters[kind] = None
    return _adapters[kind]


def to_builtin(value: Any) -> Any:
    """The builtin form of an object whose type msgspec does not know."""
    kind = type(value)
    if is_model_type(kind) and (adapter := _adapter_of(kind)) is not None:
        return adapter.to_builtin(value)[0]
    raise NotImplementedError(f"JSON has no form for objects of type {kind.__qualname__}")


def to_exact_builtin(value: Any) -> Any:
    """The same, of an object that comes back from it. Raises ValueError for others."""
    kind = type(value)
    if is_model_type(kind) and (adapter := _adapter_of(kind)) is not None:
        form, comes_back = adapter.to_builtin(value)
        if comes_back:
            return form
        raise ValueError(
            f"pydantic does not read back what it writes of {kind.__qualname__}: {NOT_WRITTEN}"
        )
    return to_builtin(value)


def to_telling_builtin(value: Any) -> Any:
    """The form of an object that pydantic can rebuild from it, as no two objects have the same.

    Also of the types of the standard library that it knows, such as those of network addresses.
    """
    kind = type(value)
    if has_adapters() and (adapter := _adapter_of(kind)) is not None:
        form, comes_back = adapter.to_builtin(value)
        if comes_back:
            return form
    raise NotImplementedError(f"JSON has no form for objects of type {kind.__qualname__}")


def from_builtin(annotation: type, value: Any) -> Any:
    """The object of a type that msgspec does not know: one of pydantic's, or any object."""
    if is_model_type(annotation) and (adapter := _adapter_of(annotation)) is not None:
        return adapter.from_builtin(value)
    if annotation is object:
        return value
    raise NotImplementedError(f"{annotation!r} cannot be read back from JSON")


def is_readable(kind: type) -> bool:
    """Whether `from_builtin` makes objects of a type that msgspec does not know."""
    return kind is object or (is_model_type(kind) and _adapter_of(kind) is not None)


def has_adapters() -> bool:
    """Whether somebody has imported pydantic, of version 2 or later."""
    return hasattr(sys.modules.get("pydantic"), "TypeAdapter")


def is_model_type(kind: Any) -> bool:
    """Whether pydantic reads and writes this class, as it does models and its own types."""
    return (
        isinstance(kind, type)
        and has_adapters()
        and (
            hasattr(kind, "__get_pydantic_core_schema__")
            or hasattr(kind, "__pydantic_core_schema__")
        )
    )


def mentions_models(annotation: Any) -> bool:
    """Whether a type of pydantic stands in an annotation, at any depth."""
    if not has_adapters():
        return False
    return any(is_model_type(each) or _speaks_to_pydantic(each) for each in parts_of(annotation))


def parts_of(annotation: Any) -> Iterator[Any]:
    """The annotation, and whatever stands in it, at any depth."""
    seen: set[Any] = set()
    pending = [annotation]
    while pending:
        each = pending.pop()
        yield each
        try:
            if each in seen:
                continue
            seen.add(each)
        except TypeError:  # metadata, or members of a Literal, that have no hash
            continue
        pending.extend(_parts(each))


def _reads_names(pydantic: Any) -> bool:
    version = str(getattr(pydantic, "VERSION", "2.0")).split(".")
    return tuple(int(part) for part in version[:2]) >= (2, 11)


def _speaks_to_pydantic(metadata: Any) -> bool:
    module = type(metadata).__module__.partition(".")[0]
    return module in OF_PYDANTIC or (
        not isinstance(metadata, type) and hasattr(metadata, "__get_pydantic_core_schema__")
    )


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotations, and the metadata, that an annotation is made of."""
    if get_origin(annotation) is Annotated:
        yield annotation.__origin__
        yield from annotation.__metadata__
        return
    origin = get_origin(annotation)
    if origin is not None:
        yield from get_args(annotation)
        yield origin
        return
    for name in ("__supertype__", "__value__", "__bound__"):  # NewType, type X = …, TypeVar
        if not isinstance(annotation, type) and hasattr(annotation, name):
            yield getattr(annotation, name)
    if isinstance(annotation, type) and (
        is_typeddict(annotation)
        or dataclasses.is_dataclass(annotation)
        or issubclass(annotation, msgspec.Struct)
        or hasattr(annotation, "__attrs_attrs__")
        or hasattr(annotation, "_fields")
    ):
        try:
            yield from get_type_hints(annotation, include_extras=True).values()
        except Exception:  # a name that is not known is told where the annotation is read
            return


class _Bridging:
    """Makes an annotation one that pydantic reads, though it names types that msgspec reads."""

    def __init__(self) -> None:
        self._open: set[Any] = set()  # typed dictionaries around the present one

    def bridged(self, annotation: Any) -> Any:
        """The same annotation, with bridges."""
        origin, args = get_origin(annotation), get_args(annotation)
        named = annotation if origin is None else origin
        if isinstance(named, type) and (
            issubclass(named, msgspec.Struct) or hasattr(named, "__attrs_attrs__")
        ):
            if is_model_type(named):
                return annotation
            return Annotated[annotation, _Bridge(annotation, named)]
        if is_typeddict(annotation):
            return self._typed_dictionary(annotation)
        if origin is Annotated:
            return Annotated[(self.bridged(annotation.__origin__), *annotation.__metadata__)]
        if origin is None or not args:
            return annotation
        made = tuple(self.bridged(each) if _is_annotation(each) else each for each in args)
        if made == args:
            return annotation
        if origin is Union or origin is types.UnionType:
            return Union[made]  # noqa: UP007 - of what is computed
        if origin is Required or origin is NotRequired:
            return origin[made[0]]
        if hasattr(annotation, "copy_with"):
            return annotation.copy_with(made)
        return types.GenericAlias(origin, made)

    def _typed_dictionary(self, annotation: Any) -> Any:
        """An equal one of typing_extensions: before Python 3.12 pydantic reads no other."""
        if annotation in self._open:
            return annotation
        self._open.add(annotation)
        try:
            hints = get_type_hints(annotation, include_extras=True)
            made = {name: self.bridged(hint) for name, hint in hints.items()}
        finally:
            self._open.discard(annotation)
        if made == hints and sys.version_info >= (3, 12):
            return annotation
        required = annotation.__required_keys__
        fields = {
            name: hint
            if get_origin(hint) in (Required, NotRequired)
            else (Required[hint] if name in required else NotRequired[hint])
            for name, hint in made.items()
        }
        extensions: Any = sys.modules.get("typing_extensions")  # pydantic imports it
        return extensions.TypedDict(annotation.__name__, fields)


class _Bridge:
    """Tells pydantic to leave the values of one type to msgspec."""

    def __init__(self, annotation: Any, kind: type) -> None:
        self._annotation = annotation
        self._kind = kind
        with contextlib.suppress(msgspec.ValidationError):  # TypeError: msgspec reads none of it
            self._read(None)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """A schema of two functions."""
        core: Any = sys.modules["pydantic_core"]
        made = core.core_schema
        return made.no_info_plain_validator_function(
            self._read, serialization=made.plain_serializer_function_ser_schema(self._written)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Any object: its own schema has definitions that would stand in another place."""
        return {}

    def _read(self, value: Any) -> Any:
        if isinstance(value, self._kind):
            return value
        return msgspec.convert(value, self._annotation, dec_hook=from_builtin, str_keys=True)

    def _written(self, value: Any) -> Any:
        if not isinstance(value, self._kind):
            core: Any = sys.modules["pydantic_core"]
            raise core.PydanticSerializationUnexpectedValue(f"{value!r} is no {self._kind}")
        return msgspec.to_builtins(value, enc_hook=to_builtin, str_keys=True)


def _is_annotation(part: Any) -> bool:
    """Whether a part of a generic type is one, and not a member of a Literal, or a ``...``."""
    return isinstance(part, type) or get_origin(part) is not None or is_typeddict(part)
