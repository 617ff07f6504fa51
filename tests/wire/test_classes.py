"""The class of a recorded failure, where its module was the main script or is now."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ENVIRONMENT, ROOT

from taskflow.wire.classes import class_of, name_of
from taskflow.wire.failures import Failure, rebuild, record

# Fails in a task that is executed once, and says which except clause met it.
PROGRAM = """
import asyncio
from enum import Enum
from taskflow import Runtime, task, workflow

class Reason(Enum):
    FUNDS = "no funds"

class CardDeclined(Exception):
    def __init__(self, reason, code):
        super().__init__(f"{reason.value}: {code}")
        self.reason = reason

def local():
    class Local(Exception):
        pass
    return Local

Local = local()

@task(name="charge")
async def charge():
    print("executed")
    try:
        raise Local("the bank")
    except Local as error:
        raise CardDeclined(Reason.FUNDS, 51) from error

@task(name="check", executor="process")
def check():
    raise CardDeclined(Reason.FUNDS, 52)

@workflow(name="order")
async def order(remote):
    try:
        await (check() if remote else charge())
    except CardDeclined as error:
        cause = error.__cause__
        print(f"met {error}, {error.reason is Reason.FUNDS}, {type(cause) is Local} {cause}")
    if remote is None or not hold:
        return
    raise KeyError("again")

hold = True

async def main(file, remote=False):
    async with Runtime(file) as runtime:
        try:
            await runtime.run(order(remote), thread_id="t")
        except KeyError:
            pass

if __name__ == "__main__":
    import sys
    asyncio.run(main(sys.argv[1], "remote" in sys.argv))
"""
IMPORTING = """
import asyncio, sys
from {module} import main
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the script ``orders.py``, the same one in a package, and what imports them."""
    (tmp_path / "orders.py").write_text(PROGRAM)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text(PROGRAM)
    (tmp_path / "shop" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "service.py").write_text(IMPORTING.format(module="orders"))
    (tmp_path / "shop_service.py").write_text(IMPORTING.format(module="shop.orders"))
    return tmp_path


def start(folder: Path, *words: str) -> list[str]:
    """What the program prints."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, *words[:-1], str(folder / "orders.db"), words[-1]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


SCRIPT, SERVICE = ("orders.py", ""), ("service.py", "")
PACKAGED, MODULE, SHOP_SERVICE = (
    ("shop/orders.py", ""),
    ("-m", "shop.orders", ""),
    ("shop_service.py", ""),
)
MET = "met no funds: 51, True, True the bank"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SCRIPT, SCRIPT),
        (SCRIPT, SERVICE),
        (SERVICE, SCRIPT),
        (PACKAGED, MODULE),
        (MODULE, PACKAGED),
        (PACKAGED, SHOP_SERVICE),
        (SHOP_SERVICE, PACKAGED),
        (MODULE, SHOP_SERVICE),
        (SHOP_SERVICE, MODULE),
        (("-m", "shop", ""), ("shop/__main__.py", "")),
        (("shop", ""), ("-m", "shop.__main__", "")),
    ],
    ids=lambda words: " ".join(words).strip(),
)
def test_classes_of_the_script_are_found_however_it_is_started(
    folder: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """As a script, a module, or imported by another one: one ``except`` clause, one execution."""
    assert start(folder, *first) == ["executed", MET]
    assert start(folder, *second) == [MET]


def test_a_script_that_was_renamed_finds_its_classes(folder: Path) -> None:
    """They are those of the main script, whatever its file is called."""
    start(folder, *SCRIPT)
    shutil.move(folder / "orders.py", folder / "renamed.py")

    assert start(folder, "renamed.py", "") == [MET]


def test_a_class_of_the_script_comes_back_from_a_worker_process(folder: Path) -> None:
    """There, the script is called ``__mp_main__``."""
    assert start(folder, "orders.py", "remote") == ["met no funds: 52, True, False None"]


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_a_record_that_does_not_name_its_script_means_the_present_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So did those of older versions."""

    class Declined(Exception):
        pass

    monkeypatch.setattr(sys.modules["__main__"], "Declined", Declined, raising=False)

    assert class_of(f"{name}:Declined") is Declined


def test_two_modules_of_one_name_are_not_taken_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script that stands in neither of them, or in either, is in none."""
    for name in ("one.orders", "two.orders"):
        module = type(sys)(name)
        monkeypatch.setitem(sys.modules, name, module)
        module.Declined = type("Declined", (Exception,), {"__module__": name})

    assert class_of("__main__:Declined", "orders") is None


def test_of_two_classes_of_one_name_the_raised_one_is_rebuilt() -> None:
    """Where the first run still has it: two bodies at once may each define such a class."""

    def make() -> type[Exception]:
        class Declined(Exception):
            pass

        return Declined

    one, other = make(), make()
    failure = record(one("x"))

    assert name_of(one) == name_of(other)
    assert type(rebuild(failure, one("x"))) is one
    assert type(rebuild(Failure.parse(failure.encode()))) is other
