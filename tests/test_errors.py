"""The errors of taskflow: they can be copied, pickled and sent to another process."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from taskflow import errors
from taskflow.errors import StoreError, TaskflowError
from taskflow.records import Wait
from taskflow.testing import CrashTestFailed, InjectedFault, NothingToReplay

# An argument for each annotation that a constructor of an error has.
EXAMPLES: dict[str, object] = {
    "str": "order-17",
    "str | None": "charge",
    "int": 3,
    "float": 1.5,
    "bool": True,
    "Sequence[Wait]": [Wait("signal", "approve", "approve:1", 1.5)],
    "Iterable[str]": ["ship", "fulfil"],
}
CLASSES = [getattr(errors, name) for name in errors.__all__]
CLASSES += [CrashTestFailed, InjectedFault, NothingToReplay]


def example(kind: type[Exception]) -> Exception:
    """An error of that class, with a value for each parameter."""
    if not inspect.isfunction(kind.__init__):
        return kind("the message", 7)
    parameters = inspect.signature(kind).parameters.values()
    return kind(**{each.name: EXAMPLES[each.annotation] for each in parameters})


def raise_example(kind: type[Exception]) -> None:
    """What a worker process executes."""
    raise example(kind)


def assert_same(one: BaseException, other: BaseException) -> None:
    """Class, message, arguments and attributes are equal."""
    assert type(one) is type(other)
    assert (str(one), repr(one), one.args) == (str(other), repr(other), other.args)
    assert one.__dict__ == other.__dict__


def pickled(error: Exception) -> Exception:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_are_copied_and_pickled(
    kind: type[Exception], duplicate: Callable[[Exception], Exception]
) -> None:
    """Message, arguments, attributes and notes are what they were."""
    error = example(kind)
    error.add_note("while the order was read")

    assert_same(duplicate(error), error)
    assert_same(duplicate(duplicate(error)), error)


def test_errors_come_back_from_a_worker_process() -> None:
    """As the same class with the same message."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(raise_example, kind) for kind in CLASSES]
        raised = [future.exception() for future in futures]

    for kind, error in zip(CLASSES, raised, strict=True):
        assert error is not None
        error.__dict__.pop("__notes__", None)
        assert_same(error, example(kind))


def test_a_fault_of_a_row_is_one_in_a_copy() -> None:
    """Attributes that are set after the error was made are kept."""
    error = StoreError("a row was refused")
    error.row_at_fault = True

    assert pickled(error).row_at_fault


class CardRefused(TaskflowError):
    """An error of a user, who derives from the base of ours."""

    def __init__(self, card: str, *, code: int) -> None:
        self.card = card
        self.code = code
        super().__init__(f"card {card} was refused with {code}")


def test_errors_of_users_that_derive_from_ours_are_copied() -> None:
    """With whatever constructor they have."""
    assert_same(pickled(CardRefused("visa", code=3)), CardRefused("visa", code=3))
