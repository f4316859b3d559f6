"""Every block of code in README.md and in docs/ runs, and every figure is drawn."""

import atexit
import doctest
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MADE = "docs/performance/", "docs/reference/generated/"  # by the building of the site
PAGES = [
    name
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if not (name := page.relative_to(ROOT).as_posix()).startswith(MADE)
]
FIGURES = sorted(path.stem for path in ROOT.glob("docs/figures/[!_]*.py"))
# A block that cannot run in a test says why, in a comment of Markdown on the line before it.
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]*\S -->\n)?"
    r"^(?P<fence>```+)(?P<language>[^`\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$",
    re.M | re.S,
)
# What a page needs beside fastlstm and what every test has, in a comment that is its first line.
NEEDS = re.compile(r"<!-- needs: ([\w, ]+) -->\n")
RUN = {"python", "pycon", "sh", "c", "cpp"}
SHOWN = {"text", "toml", "yaml", "json", "ini", "matlab"}  # what is not for this machine


def blocks(page):
    """Return language, text and first line of the blocks of a page that are to run."""
    text = page.read_text("utf-8")
    indented = re.search(r"^[ \t>]+```", text, re.M)
    assert not indented, f"{page.name}: a block that is indented, as in a list, would not run"
    found = []
    for block in BLOCK.finditer(text):
        language = block["language"].strip()
        if language.startswith("{"):  # a directive of Sphinx
            continue
        where = f"{page.name}, line {text.count(chr(10), 0, block.start('fence')) + 1}"
        assert language in RUN | SHOWN, f"{where}: a block needs one of {RUN | SHOWN}"
        if language in RUN and not block["skip"]:
            line = text.count("\n", 0, block.start("text"))
            found.append((language, block["text"], line))
    return found


def needed(page):
    """Return the names of the packages that a page needs, and without which it is skipped."""
    found = NEEDS.match(page.read_text("utf-8"))
    return found[1].split(", ") if found else []


def run_python(text, line, page, names):
    exec(compile("\n" * line + text, str(page), "exec"), names)


def run_pycon(text, line, page, names):
    """Run lines as in Python's prompt; what they print is compared with what the page shows."""
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), line)
    test.globs = names
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=said.append, clear_globs=False
    )
    assert not said, "".join(said)


def run_sh(text, line, page, names):
    """Run a script, with the commands of this Python's environment first, until one fails."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"line {line}:\n{text}\n{done.stdout}{done.stderr}"


@functools.cache
def native_objects(compiler):
    """Compile the native library, once for all pages, and return its object files."""
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    sources = sorted((ROOT / "fastlstm/native").glob("*.c"))
    jobs = [
        subprocess.Popen([compiler, *C_FLAGS, "-c", source, "-o", folder / f"{source.stem}.o"])
        for source in sources
    ]
    assert not any([job.wait() for job in jobs])
    return sorted(folder.iterdir())


def run_c(text, line, page, names):
    """Compile a program against the native library, and run it."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("needs a C compiler")
    pathlib.Path("program.c").write_text(text)
    command = [compiler, *C_FLAGS, "program.c", *native_objects(compiler), "-lm", "-o", "program"]
    subprocess.run(command, check=True)
    subprocess.run(["./program"], check=True)


def run_cpp(text, line, page, names):
    """Compile a program in C++17 against the native library, and run it."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if not compiler or not shutil.which("g++"):
        pytest.skip("needs a compiler of C and g++")
    pathlib.Path("program.cpp").write_text(text)
    objects = native_objects(compiler)
    flags = ["-std=c++17", "-Wall", "-Wextra", *C_FLAGS[1:]]
    subprocess.run(["g++", *flags, "program.cpp", *objects, "-o", "program"], check=True)
    subprocess.run(["./program"], check=True)


C_FLAGS = ["-std=c11", "-O0", "-ffp-contract=off", "-pthread", f"-I{ROOT / 'fastlstm/native'}"]
RUNNERS = {"python": run_python, "pycon": run_pycon, "sh": run_sh, "c": run_c, "cpp": run_cpp}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other in an empty folder, with the same names."""
    for name in needed(ROOT / page):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for language, text, line in blocks(ROOT / page):
        RUNNERS[language](text, line, ROOT / page, names)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn(name, tmp_path, monkeypatch):
    """It shows something, and leaves no file behind."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "docs/figures")  # for _style.py, which they share
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/figures/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figure = module.draw()
    assert any(axes.has_data() for axes in figure.axes)
    assert not list(tmp_path.iterdir())


def test_what_a_page_needs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- needs: onnx, torch -->\n# a\n")
    assert needed(page) == ["onnx", "torch"]
    page.write_text("# a\n<!-- needs: torch -->\n")
    assert needed(page) == []


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```python\nx = 1\n```\n```text\nno\n```\n<!-- not run: needs a network -->\n"
        "```sh\nls\n```\n```{note}\nno\n```\n```pycon\n>>> 1\n1\n```\n"
    )
    assert blocks(page) == [("python", "x = 1\n", 2), ("pycon", ">>> 1\n1\n", 15)]
    page.write_text("```\nwhat is it\n```\n")
    with pytest.raises(AssertionError, match="page.md, line 1: a block needs"):
        blocks(page)
    page.write_text("- a\n\n  ```python\n  assert False\n  ```\n")
    with pytest.raises(AssertionError, match="page.md: a block that is indented"):
        blocks(page)


@pytest.mark.parametrize(
    "language, text",
    [
        ("python", "assert False"),
        ("pycon", ">>> 1\n2\n"),
        ("sh", "false\ntrue"),
        ("sh", "no-such-command | cat"),
    ],
)
def test_a_block_that_fails_is_seen(language, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        RUNNERS[language](text, 0, tmp_path / "page.md", {})
