"""Which way imports run, how large the parts of the package may be, and what wings say."""

from __future__ import annotations

import pytest
import structure


@pytest.mark.parametrize("module", structure.MODULES, ids=lambda module: module.name or "taskflow")
def test_imports_only_point_down(module: structure.Module) -> None:
    """A module imports its own wing and those below."""
    assert [each for each in module.imports if not structure.runs_down(module, each)] == []


def test_a_door_is_not_walked_around() -> None:
    """What a package re-exports is not taken from its inner rooms from two floors above."""
    assert structure.imports_past_a_door() == []


def test_no_two_modules_import_each_other() -> None:
    """Imports run one way, also between two modules of one wing."""
    assert structure.cycles() == []


def test_most_modules_are_short() -> None:
    """Half of them are shorter than 200 lines."""
    assert structure.too_long_a_median() == []


def test_no_assert_holds_logic() -> None:
    """What ``python -O`` leaves out only tells type checkers what is known."""
    assert structure.asserts_with_logic() == []
