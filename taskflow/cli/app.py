"""`app`: all commands of the command line, in the order of ``taskflow --help``."""

from __future__ import annotations

from typing import Final

import typer

from taskflow.cli import check, commands, history, waiting

__all__ = ("app",)

app: Final = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run durable workflows, and look at what is recorded of them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 paused, 128 + n stopped by signal n.",
)

app.command("run")(commands.run)
app.command("resume")(commands.resume)
app.command("list")(commands.list_runs)
app.command("show")(commands.show)
app.command("forget")(commands.forget)
app.command("cancel")(commands.cancel)
app.command("delete")(commands.delete)

app.command("fork")(history.fork)
app.command("replace")(history.replace)
app.command("prune")(history.prune)
app.command("export")(history.export)
app.command("import")(history.import_thread)

# The value to send may be a negative number, which is no option.
app.command("send", context_settings={"ignore_unknown_options": True})(waiting.send)
app.command("watch")(waiting.watch)
app.command("recover")(waiting.recover)

app.command("check")(check.check)
