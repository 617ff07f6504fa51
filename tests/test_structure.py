"""Which way imports run, how large the parts of the package may be, and what wings say."""

from __future__ import annotations

import pytest
import structure

PACKAGES = [module for module in structure.MODULES if module.is_package and module.name]


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


def test_a_module_can_be_read_at_once() -> None:
    """None is longer than 600 lines."""
    assert structure.too_long_modules() == []


def test_most_modules_are_short() -> None:
    """Half of them are shorter than 200 lines."""
    assert structure.too_long_a_median() == []


def test_no_assert_holds_logic() -> None:
    """What ``python -O`` leaves out only tells type checkers what is known."""
    assert structure.asserts_with_logic() == []


def test_a_function_fits_on_a_page() -> None:
    """None is longer than 60 lines, with its docstring."""
    assert structure.too_long_functions() == []


def test_a_function_of_the_engine_takes_few_parameters() -> None:
    """At most 8; the options of the public API are named in `structure.OPTIONS`."""
    assert structure.too_many_parameters() == []


def test_a_class_has_few_methods() -> None:
    """At most 25, but for the faces in `structure.FACES`."""
    assert structure.too_many_methods() == []


def test_a_constructor_sets_few_attributes() -> None:
    """At most 16: an object that needs more is several."""
    assert structure.too_many_attributes() == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_names_its_rooms(package: structure.Module) -> None:
    """Its docstring has a line for each of its modules: it is the map of the folder."""
    assert structure.unnamed_rooms(package) == []


def test_a_package_holds_nothing_but_its_docstring() -> None:
    """Each name is imported from its own module, but for those of `structure.INTERFACES`."""
    assert structure.packages_that_hold_code() == []
