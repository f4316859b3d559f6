"""Run the code of a page, so that its figures show what the page computes."""

import contextlib
import functools
import io
import os
import pathlib
import re
import tempfile
from typing import Any

DOCS = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PAST, FORECAST, TRUTH = "0.35", "tab:blue", "tab:orange"  # as fastlstm.plot has them


@functools.cache
def names_of(page: str) -> dict[str, Any]:
    """Return the names that the Python blocks of a page, as "tutorial/03-regression", define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    text = (DOCS / f"{page}.md").read_text("utf-8")
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)  # pages write files
        try:
            for block in BLOCK.findall(text):
                exec(compile(block, page, "exec"), names)
        finally:
            os.chdir(here)
    return names
