"""Print what a release's notes say, if its tag is right: ``python docs/release_notes.py [vX.Y.Z]``.

The notes are the newest dated section of CHANGELOG.md. Its version must be that of the package and
of CITATION.cff, with the same date there; the tag, if one is given, must be of this version too.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
HEADING = re.compile(r"^## \[(?P<version>\d+\.\d+\.\d+)\] - (?P<date>\d{4}-\d\d-\d\d)$", re.M)


def notes(root: pathlib.Path, tag: str | None = None) -> str:
    """Return the text of the newest release; an error says which files do not agree."""
    changelog, citation, package = (
        (root / name).read_text("utf-8")
        for name in ("CHANGELOG.md", "CITATION.cff", "fastlstm/__init__.py")
    )
    heading = HEADING.search(changelog)
    if not heading:
        raise ValueError("CHANGELOG.md has no heading ## [X.Y.Z] - YYYY-MM-DD")
    newest = f"{heading['version']} {heading['date']}"
    cited = " ".join(re.findall(r"^(?:version|date-released): (.*)$", citation, re.M))
    (version,) = re.findall(r'^__version__ = "(.*)"$', package, re.M)
    if version != heading["version"]:
        raise ValueError(f"fastlstm.__version__ is {version}, CHANGELOG.md's newest is of {newest}")
    if cited != newest:
        raise ValueError(f"CITATION.cff is of {cited}, CHANGELOG.md's newest of {newest}")
    if tag is not None and tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, and the version {version}")
    text = re.split(r"^## ", changelog[heading.end() :], maxsplit=1, flags=re.M)[0].strip()
    if not text:
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return text


if __name__ == "__main__":
    try:
        print(notes(ROOT, *sys.argv[1:2]))
    except ValueError as error:
        sys.exit(f"not to be released: {error}")
