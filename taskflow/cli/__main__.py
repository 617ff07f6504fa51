"""``python -m taskflow.cli``: the same as the command ``taskflow``."""

from taskflow.cli.main import main

main()
