"""Programs that a person would really run, each with `python -m taskflow.examples.<name>`."""
