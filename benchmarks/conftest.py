"""What pytest shall not import: whole programs, which `train` runs."""

collect_ignore = ["programs"]
