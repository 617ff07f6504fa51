"""`OtherSetOrder`: workflows that iterate over sets do so in another order, as another process may.

The order of a set of texts is drawn anew in each process (``PYTHONHASHSEED``), and stays the same
within one. So the functions are compiled again from their source (`recompiled`), with everything
that depends on an order by way of this class, and work as they did when the context is left.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FunctionType
from typing import Any, Final

from taskflow.testing.origins import is_users_function
from taskflow.testing.suspects.functions import codes_in
from taskflow.testing.suspects.names import ENCODING, ORDERED, PLAIN, SEEDED
from taskflow.testing.suspects.recompiled import ORDER, PICK, SHOW, recompiled

__all__ = ("OtherSetOrder",)

OTHER_SEED: Final = 0x5BD1E995
CHANGED: Final = ORDERED | ENCODING | {"pop", "format"}


class OtherSetOrder:
    """Has functions of the user's see sets otherwise, from `change` to `restore`."""

    def __init__(self) -> None:
        self.places: dict[str, None] = {}  # where a set was iterated over, as file and line
        self.without_source: list[str] = []
        self._former: list[tuple[FunctionType, CodeType]] = []

    def change(self, functions: Iterable[FunctionType]) -> None:
        """Give these functions their other code."""
        compiled = {fn: recompiled(fn) for fn in functions}
        self._former = [(fn, fn.__code__) for fn, code in compiled.items() if code is not None]
        # What is inside of a function that was changed is made anew by that.
        inner = {each for _, code in self._former for each in codes_in(code)}
        for fn, code in compiled.items():
            if code is not None:
                fn.__code__ = code
                fn.__globals__.update({ORDER: self.of, PICK: self.pick, SHOW: self.shown})
            elif fn.__code__ not in inner and fn.__name__ != "<lambda>" and not _is_generated(fn):
                self.without_source.append(fn.__qualname__)

    def restore(self) -> None:
        """Give them their own code again."""
        for fn, code in self._former:
            fn.__code__ = code
            for name in (ORDER, PICK, SHOW):
                fn.__globals__.pop(name, None)

    def of(self, value: Any, place: str) -> Any:
        """``value``, or, if it is a set whose order may differ, its members in another order."""
        if not isinstance(value, set | frozenset) or len(value) < 2 or all(map(_is_plain, value)):
            return value
        self.places[place] = None
        return list(value)[::-1]

    def pick(self, function: Any, place: str) -> Any:
        """What is called in place of ``function``: itself, if it cares for no order."""
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if any(function is each for each in SEEDED):
            return partial(self._seeded, function, place)
        if name not in CHANGED or is_users_function(function):
            return function
        if name == "pop":
            return partial(self._pop, owner, place) if isinstance(owner, set) else function
        change = self.shown if name == "format" else self.listed if name in ENCODING else self.of
        return lambda *given, **how: function(*(change(each, place) for each in given), **how)

    def _pop(self, owner: set[Any], place: str) -> Any:
        """What ``owner.pop()`` gives."""
        ordered = self.of(owner, place)
        if ordered is owner:
            return owner.pop()
        owner.remove(ordered[0])
        return ordered[0]

    def _seeded(self, function: Any, place: str, *given: Any, **how: Any) -> Any:
        """What hash, str or repr gives elsewhere."""
        if function is hash and not _is_plain(given[0]):
            self.places[place] = None
            return hash((OTHER_SEED, hash(*given)))
        return function(*(self.shown(each, place) for each in given), **how)

    def shown(self, value: Any, place: str) -> Any:
        """The same with sets in it that are shown in another order, or itself if it has none."""
        return self._inside(value, place, _Text.of)

    def listed(self, value: Any, place: str) -> Any:
        """The same with sets in it that have become lists in another order."""
        return self._inside(value, place, lambda ordered, _: ordered)

    def _inside(self, value: Any, place: str, make: Callable[[list[Any], Any], Any]) -> Any:
        """What ``make`` makes of the sets in lists, tuples and dictionaries, if their order may
        differ; or that itself."""
        if isinstance(value, set | frozenset):
            ordered = self.of(value, place)
            return value if ordered is value else make(ordered, value)
        if type(value) not in (list, tuple, dict):
            return value
        held = [*value.values()] if type(value) is dict else value
        changed = [self._inside(each, place, make) for each in held]
        if all(map(operator.is_, changed, held)):
            return value
        if type(value) is dict:
            return dict(zip(value, changed, strict=True))
        return type(value)(changed)


class _Text:
    """Shown as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of(cls, ordered: list[Any], unordered: object) -> _Text:
        """A set as it would be shown with its members in that order."""
        text = f"{{{', '.join(map(repr, ordered))}}}"
        return cls(text if isinstance(unordered, set) else f"frozenset({text})")

    def __repr__(self) -> str:
        return self._text


def _is_generated(fn: FunctionType) -> bool:
    """Whether it was made from a text that no file holds, as a dataclass makes its methods."""
    is_typed_in = fn.__module__ == "__main__" and "__file__" not in fn.__globals__
    return fn.__code__.co_filename == "<string>" and not is_typed_in


def _is_plain(value: object) -> bool:
    """Whether its hash is the same in every process."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
