"""`Codec`: the values of one annotation to bytes and back.

A value is decoded again as soon as it is encoded, and compared, so that the first run sees what
every rerun will see. A value that would not come back as it was is an error, never a silent change.
"""

from __future__ import annotations

import re
from typing import Any, Final, Union, get_args, get_origin

from taskflow.errors import SerializationError
from taskflow.loops.promises import room_for
from taskflow.wire.advice import (
    TELL_APART,
    annotation_for,
    instead_of_unwritable,
    short,
    way_out,
)
from taskflow.wire.differences import SCALARS, are_same, difference
from taskflow.wire.forms import Form, form_of, form_of_parameters
from taskflow.wire.json import (
    NESTING_LIMIT,
    canonical_json,
    decode_plain,
    nesting,
)
from taskflow.wire.unknown import unknown_fields

__all__ = ("Codec", "annotation_for")

# Errors that say nothing about a value or its annotation; what is nested too deep is refused first.
FROM_ELSEWHERE: Final = MemoryError, RecursionError

# The limit of msgspec, and of Python unless sys.set_int_max_str_digits() was called.
INT_DIGITS: Final = 4300


class Codec:
    """Encodes and decodes the values of one annotation.

    ``what`` names the values in errors, and ``advice`` says where to write an annotation of theirs.
    ``parameters``: the annotations by parameter, where the
    values are the arguments of a call, and ``annotation`` is their TypedDict.

    Raises SerializationError for an annotation whose values cannot be read back.
    """

    def __init__(
        self,
        annotation: Any,
        what: str,
        *,
        advice: str = "annotate it as -> {}",
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self.annotation = annotation
        self.what = what
        self._told = advice
        self._parameters = parameters
        self._scalars = _scalars_of(annotation)
        form = self._form_of_parameters(parameters) if parameters is not None else None
        self._form: Form = form or _form(annotation, what)
        self._encode_value = self._form.encoders[0]
        self._decode_value = self._form.decode
        self.can_drop_fields = self._form.can_drop_fields

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """The recorded form of ``value``, and the value that is decoded from it.

        Raises SerializationError, with the annotation to write, where the two differ.
        """
        kind = type(value)
        payload = self._encode(value)
        if kind in self._scalars and (kind is not int or len(payload) <= INT_DIGITS):
            return payload, value

        if nesting(payload) > NESTING_LIMIT:
            raise SerializationError(
                f"{self.what} is nested more than {NESTING_LIMIT} levels deep, more than every "
                "supported Python reads back: return a flatter value"
            )
        try:
            decoded = self._decode_value(payload)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # of user code too, such as __post_init__
            if (found := self._otherwise(value)) is not None:
                return found
            raise SerializationError(self._misfit(value, error)) from error
        if not are_same(value, decoded, by_marshal=self._form.is_told_by_marshal):
            if (found := self._otherwise(value)) is not None:
                return found
            raise SerializationError(self._difference(value, decoded))
        return payload, decoded

    def decode(self, payload: bytes) -> Any:
        """The value of a recorded form.

        Raises SerializationError where the annotation has changed since, and it no longer fits.
        """
        try:
            return self._decode_value(payload)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:  # of user code too, such as __post_init__
            raise SerializationError(
                f"{self.what} was recorded as {payload[:200]!r}, which does not fit its "
                f"present annotation {_name(self.annotation)}: {error}; give the task a new "
                "version=, or forget the record"
            ) from error

    def dropped_fields(self, payload: bytes, value: Any) -> dict[str, list[str]]:
        """The fields in a recorded form that ``value``, decoded from it, has no place for.

        By the class that does not know them: they were recorded when it had other fields.
        """
        if not self.can_drop_fields:
            return {}
        try:
            again = self._encode_value(value)
            if again == payload:
                return {}
            return unknown_fields(decode_plain(payload), decode_plain(again), value)
        except FROM_ELSEWHERE:
            raise
        except Exception:  # of user code too: a value that is decoded, and not encoded again
            return {}

    def settled(self, payload: bytes) -> tuple[bytes, Any]:
        """The value of JSON that somebody else has written, and the recorded form of that value.

        Raises SerializationError where it does not fit the annotation.
        """
        value = self.decode(payload)
        if self.dropped_fields(payload, value):
            try:
                return self.round_trip(value)
            except SerializationError:  # what it was made from says more than what it makes
                pass
        return payload, value

    def canonical(self, value: Any) -> bytes:
        """JSON whose keys and sets have an order that is the same in every process."""
        return canonical_json(self._form.canonical(value))

    def _form_of_parameters(self, parameters: dict[str, Any]) -> Form:
        try:
            return form_of_parameters(parameters, self.annotation)
        except FROM_ELSEWHERE:
            raise
        except Exception as error:
            of_call = self.what.removeprefix("the arguments ")
            for name, annotation in parameters.items():
                _form(annotation, f"the parameter {name} {of_call}")
            raise _unreadable(self.annotation, self.what, error) from error

    def _otherwise(self, value: Any) -> tuple[bytes, Any] | None:
        """The same by another encoder of the form, if a value comes back from that alone."""
        for encode in self._form.encoders[1:]:
            try:
                payload = encode(value)
                decoded = self._decode_value(payload)
                if nesting(payload) <= NESTING_LIMIT and difference(value, decoded) is None:
                    return payload, decoded
            except FROM_ELSEWHERE:
                raise
            except Exception:
                continue
        return None

    def _encode(self, value: Any) -> bytes:
        try:
            return self._encode_value(value)
        except MemoryError:
            raise
        except RecursionError as error:
            room_for(NESTING_LIMIT)()  # raises if the stack was full, whatever the value is
            raise SerializationError(
                f"{self.what} holds itself, or is nested too deep for JSON"
            ) from error
        except Exception as error:  # of user code too
            told = short(value)
            raise SerializationError(
                f"{self.what} is {told}, which cannot be recorded as JSON: {error}; "
                f"{instead_of_unwritable(value, error)}"
            ) from error

    def _misfit(self, value: Any, error: Exception) -> str:
        if self._parameters is not None:
            return f"{self.what} do not fit: {error}; {self._advice(value, str(error))}"
        return (
            f"{self.what} does not fit its annotation {_name(self.annotation)}: {error}; "
            f"{self._advice(value)}"
        )

    def _difference(self, value: Any, decoded: Any) -> str:
        where, before, after = difference(value, decoded) or ("", value, decoded)
        return (
            f"{self.what}{where and f', at {where},'} is {short(before)} and would come back "
            f"from its record as {short(after)}: {self._advice(value, where, before, after)}"
        )

    def _advice(self, value: Any, where: str = "", *places: Any) -> str:
        """The way out. ``where`` leads to the parameter, where there are several.

        ``places``: what is there, and what it would come back as.
        """
        present, told = self.annotation, self._told
        if self._parameters is not None:
            named = re.search(r"\$\.(\w+)|^\['(\w+)'\]", where)
            name = str(named[1] or named[2]) if named else None
            if name is None or name not in value:
                return "annotate the parameters with the types of what is passed"
            present, value = self._parameters[name], value[name]
            told = f"annotate the parameter {name}: {{}}"
        before, after = places or (value, value)
        annotation, reason = way_out(present, value, before, after, _comes_back)
        return reason or told.format(annotation)


def _form(annotation: Any, what: str) -> Form:
    try:
        return form_of(Any if annotation is object else annotation)
    except FROM_ELSEWHERE:
        raise
    except Exception as error:  # of user code too
        raise _unreadable(annotation, what, error) from error


def _unreadable(annotation: Any, what: str, error: Exception) -> SerializationError:
    text = str(error)
    advice = (
        TELL_APART
        if "union" in text.lower()
        else "annotate builtin values, a Struct, a dataclass or a model of pydantic"
    )
    return SerializationError(
        f"{what} is annotated {_name(annotation)}, which cannot be read back from a record "
        f"({text}): {advice}"
    )


def _comes_back(annotation: Any, value: Any) -> bool:
    try:
        form = form_of(annotation)
    except Exception:
        return False
    for encode in form.encoders:
        try:
            if difference(value, form.decode(encode(value))) is None:
                return True
        except Exception:  # of user code too
            continue
    return False


def _scalars_of(annotation: Any) -> frozenset[object]:
    """The builtin types whose values are their own decoded form under this annotation."""
    if annotation is Any or annotation is object:
        return SCALARS
    if annotation is None:
        return frozenset({type(None)})
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    types = frozenset(each for each in SCALARS if each in members)
    return types if len(types) == len(members) else frozenset()


def _is_union(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return origin is Union or getattr(origin, "__name__", "") == "UnionType"


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
