"""Memory: however much is done, a process grows by less than 100 MiB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import ENVIRONMENT

PROGRAM = Path(__file__).with_name("growth.py")

LIMIT = 100.0  # MiB
PATIENCE = 3600.0
# What is there once, however much is done: pages of the database, and what waits to be written.
ROWS = 35.0  # MiB, where rows are written as fast as they can be
VALUES = 60.0  # where these rows hold kilobytes: batches of eight MiB
RUNS = 20.0  # where something else takes longer (what is garbage at a time differs between Pythons)


class Often(NamedTuple):
    """Something that is done very often, and how often."""

    scenario: str
    long: int
    short: int
    fixed: float  # MiB that it may take however often it is done

    def limit(self, count: int) -> float:
        """MiB by which the process may grow: its share of what may come with all of them."""
        return self.fixed + (LIMIT - self.fixed) * count / self.long


OFTEN = [
    Often("map", 1_000_000, 50_000, ROWS),
    Often("map_twice", 1_000_000, 20_000, ROWS),
    Often("gather", 1_000_000, 20_000, ROWS),
    Often("loop", 1_000_000, 20_000, ROWS),
    Often("equal_calls", 1_000_000, 10_000, ROWS),
    Often("handled_failures", 1_000_000, 10_000, ROWS),
    Often("attempts", 1_000_000, 20_000, RUNS),
    Often("pages", 50_000, 3_000, VALUES),
    Often("unread_subscription", 500_000, 20_000, ROWS),
    Often("unread_stream", 500_000, 20_000, ROWS),
    Often("unread_values", 50_000, 3_000, VALUES),
    Often("naps", 100_000, 10_000, ROWS),
    Often("blocks", 100_000, 2_000, RUNS),
    Often("runs", 100_000, 2_000, RUNS),
    Often("turns", 100_000, 500, RUNS),
    Often("failed_runs", 100_000, 2_000, RUNS),
    Often("failing_again", 20_000, 200, RUNS),
    Often("cancelled_runs", 100_000, 2_000, RUNS),
    Often("abandoned_runs", 100_000, 2_000, RUNS),
    Often("forgotten_waiters", 100_000, 10_000, RUNS),
    Often("forgotten_handles", 100_000, 1_000, RUNS),
    Often("forgotten_subscriptions", 100_000, 2_000, RUNS),
    Often("signals", 100_000, 5_000, RUNS),
    Often("untaken_signals", 100_000, 5_000, RUNS),
    Often("equal_signals", 100_000, 5_000, RUNS),
    Often("answers", 100_000, 1_000, RUNS),
]


@pytest.mark.parametrize("often", OFTEN, ids=lambda often: often.scenario)
def test_memory_does_not_grow_with_what_is_done(
    often: Often, is_long: bool, tmp_path: Path
) -> None:
    """Its peak less what a process takes after the first few: measured in one of its own."""
    count = often.long if is_long else often.short
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), often.scenario, str(count // 20), str(count)],
        capture_output=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    outcome = json.loads(done.stdout)
    sys.stdout.write(f"{often.scenario}: {count:,} done, {outcome['grown']:.1f} MiB more\n")
    assert outcome["done"] == count
    assert outcome["grown"] < often.limit(count)
