"""The entry point of the command ``taskflow``, which works without the ``[cli]`` extra, too."""

from __future__ import annotations

import io
import sys

__all__ = ("main",)

MISSING_EXTRA = (
    "taskflow: its command line needs typer and rich: pip install 'taskflow-runtime[cli]'"
)


def main() -> None:
    """Execute the command line, and exit: 0 done, 1 failed, 2 wrong use, 3 paused."""
    try:
        from taskflow.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.exit(_refusal())

    for stream in (sys.stdout, sys.stderr):
        # A result may hold characters that the terminal's encoding does not have.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _refusal() -> int:
    print(MISSING_EXTRA, file=sys.stderr)
    return 2
