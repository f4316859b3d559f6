"""Pytest must not import the programs, which `train` runs as a whole."""

collect_ignore = ["programs"]
