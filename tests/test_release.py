"""docs/release_notes.py: tag, version, date and notes agree, or nothing is released."""

import pathlib
import re
import subprocess
import sys

import pytest

import fastlstm

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "docs/release_notes.py"
FILES = {
    "CHANGELOG.md": "# Changes\n\n## [Unreleased]\n\n- not yet\n\n## [1.2.0] - 2026-01-31\n\n"
    "- new\n\n### More\n\n- x\n\n## [1.1.0] - 2025-12-24\n\n- old\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\ndate-released: 2026-01-31\n",
    "fastlstm/__init__.py": '__version__ = "1.2.0"\n',
}


def release(root, *tag):
    """Run the script as it lies in a project; return what it prints, or the error."""
    path = root / "docs/release_notes.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCRIPT.read_text("utf-8"), "utf-8")
    for name, text in FILES.items():
        if not (root / name).exists():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text, "utf-8")
    run = subprocess.run([sys.executable, path, *tag], capture_output=True, text=True)
    assert run.returncode == (1 if run.stderr else 0), run.stderr
    return run.stdout or run.stderr


def test_this_version():
    """The newest dated heading of the changelog, the citation and the package agree."""
    tag = f"v{fastlstm.__version__}"
    run = subprocess.run([sys.executable, SCRIPT, tag], capture_output=True, text=True, check=True)
    assert len(run.stdout.splitlines()) > 1
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "[Unreleased]"


@pytest.mark.parametrize("tag", [(), ("v1.2.0",)])
def test_notes_are_the_newest_section(tmp_path, tag):
    assert release(tmp_path, *tag) == "- new\n\n### More\n\n- x\n"


@pytest.mark.parametrize("tag", ["v1.2.1", "1.2.0", "v1.2.0rc1", "v1.2", ""])
def test_a_wrong_tag(tmp_path, tag):
    assert (
        release(tmp_path, tag) == f"not to be released: the tag is {tag}, and the version 1.2.0\n"
    )


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("fastlstm/__init__.py", "1.2.0", "1.3.0", "is 1.3.0, CHANGELOG.md's newest is of 1.2.0"),
        ("CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0", "CITATION.cff is of 1.1.0"),
        ("CITATION.cff", "2026-01-31", "2026-02-01", "CITATION.cff is of 1.2.0 2026-02-01"),
        ("CITATION.cff", "\ndate-released: 2026-01-31", "", "CITATION.cff is of 1.2.0,"),
        ("CHANGELOG.md", "[1.2.0] - 2026-01-31", "[1.2.0]", "CHANGELOG.md's newest is of 1.1.0"),
        ("CHANGELOG.md", "] - 20", "], 20", "CHANGELOG.md has no heading"),
        ("CHANGELOG.md", "- new\n\n### More\n\n- x\n", "", "CHANGELOG.md says nothing of 1.2.0"),
    ],
)  # fmt: skip
def test_files_that_do_not_agree(tmp_path, file, old, new, said):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    assert old in FILES[file]
    (tmp_path / file).write_text(FILES[file].replace(old, new), "utf-8")
    assert said in release(tmp_path, "v1.2.0")


def test_the_tests_of_wheels_are_there():
    """Files that pyproject.toml names for cibuildwheel; one that was renamed stops a release."""
    text = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.cibuildwheel]")[2]
    named = re.findall(r"tests/test_\w+\.py", text)
    assert "tests/test_native.py" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []
