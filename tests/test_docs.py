"""Every block of code in README.md and in docs/ runs, and every figure is drawn.

The reference names all that is public, and no link leads nowhere. `make docs` builds the site.
"""

import atexit
import doctest
import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata

import pytest

import fastlstm

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
RUN = {"python", "pycon", "sh", "c"}
SHOWN = {"text", "toml", "yaml", "json", "ini", "matlab", "cpp"}  # what is not for this machine


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


C_FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-pthread", f"-I{ROOT / 'fastlstm/native'}"]
RUNNERS = {"python": run_python, "pycon": run_pycon, "sh": run_sh, "c": run_c}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other in an empty folder, with the same names."""
    for name in needed(ROOT / page):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for language, text, line in blocks(ROOT / page):
        RUNNERS[language](text, line, ROOT / page, names)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn(name, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "docs/figures")  # for _style.py, which they share
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/figures/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figure = module.draw()
    assert any(axes.has_data() for axes in figure.axes)


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


# ---- the reference -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def building():
    """docs/building.py, which makes pages and leads links for the site."""
    spec = importlib.util.spec_from_file_location("building", ROOT / "docs/building.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(name="*"):
    return "\n".join(
        page.read_text("utf-8") for page in sorted(ROOT.glob(f"docs/reference/{name}.md"))
    )


def documented(text):
    """Return the names in the lists of the reference, from which it makes a page for each."""
    return set(re.findall(r"^   (fastlstm\.[\w.]+)$", text, re.M))


def public():
    """Return all public names: those of each module's `__all__`, or without an underscore."""
    modules = ["fastlstm", "fastlstm.training", "fastlstm.plot", "fastlstm.visualize"]
    for module in map(importlib.import_module, modules):
        own = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", own):
            yield f"{module.__name__}.{name}", getattr(module, name)


def test_reference_names_what_is_public():
    """A new name needs a line in a page of docs/reference."""
    listed = documented(reference())
    twice = {fastlstm.training.fit, fastlstm.training.predict}  # which fastlstm has too
    for name, value in public():
        if name in ("fastlstm.engines", "fastlstm.training"):  # packages
            continue
        again = name.startswith("fastlstm.training.") and value in twice
        assert name in listed or again, f"docs/reference does not list {name}"
    for name in listed:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), f"{name} is not there"


def test_reference_of_the_c_library(building):
    """Every function, type and constant of the header, each with what its comment says."""
    header = building.HEADER.read_text("utf-8")
    made = building.c_reference(header)
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    for name in sorted(set(re.findall(r"\b(?:fl_\w+)(?=\()", code))):
        assert re.search(rf"^( *)(\.\. c:function::)? .*\b{name}\(", made, re.M), name
    for name in sorted(set(re.findall(r"\b(fl_\w+);\n", code))):
        assert f".. c:type:: {name}\n" in made, name
    for name in set(re.findall(r"\bFL_[A-Z_]+", code)):
        assert name in made
    assert "equations (1) to (5)" in made


def test_reference_of_the_command_line(building):
    page = reference("command_line")
    for name, _ in building.commands():
        assert f"generated/help-{name}.txt" in page, f"command_line.md leaves out {name}"


def test_reference_of_environment_variables():
    sources = [ROOT / "setup.py", *ROOT.glob("fastlstm/**/*.py"), *ROOT.glob("fastlstm/**/*.pyx")]
    text = "".join(path.read_text("utf-8") for path in sources)
    page = reference("environment")
    for name in set(re.findall(r"[\"'](FASTLSTM_[A-Z_]+)[\"']", text)):
        assert f"| `{name}` |" in page, f"environment.md leaves out {name}"


def test_reference_of_formats():
    """Every suffix that is written has a row."""
    from fastlstm import formats

    rows = re.findall(r"^\| (`[^|]+) \|", reference("file_formats"), re.M)
    told = {suffix for row in rows for suffix in re.findall(r"`(\.[\w.]+)`", row)}
    assert {s for form in formats._WRITTEN for s in form.SUFFIXES} <= told


# ---- links ---------------------------------------------------------------------------------------


def anchors(page):
    """Return the names under which links reach the headings of a page."""
    text = re.sub(r"^(```+).*?^\1[ ]*$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for title in re.findall(r"^#+ (.+)$", text, re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        kept = [c for c in title if c in "-_ " or unicodedata.category(c)[0] in "LN"]
        yield "".join(kept).replace(" ", "-")
    yield from re.findall(r"^\(([\w-]+)\)=$", text, re.M)


def dead(building, source, text):
    """Return the links of a file of the repository that lead to nothing in it."""
    found = []

    def look(target):
        path, place = building.resolved(target, source), ROOT / source
        if path is not None:
            place = ROOT / path
            if not place.suffix and not place.exists():  # a page, as Sphinx lets it be called
                place = place.with_name(place.name + ".md")
        _, sharp, part = target.partition("#")
        if re.match(r"[a-z]+:", target) or path is not None and path.endswith(".svg"):
            return target  # elsewhere, or drawn when the site is built
        made = path is not None and path.startswith(MADE)
        if not (place.exists() or made):
            found.append(target)
        elif sharp and place.suffix == ".md" and part not in anchors(place):
            found.append(target)
        return target

    building.each_link(text, look)
    return found


@pytest.mark.parametrize(
    "link, there",
    [
        ("[a](../README.md)", True),
        ("[a](../missing.md)", False),
        ("![a](missing.png)", False),
        ("[a](performance.md#all-machines)", True),
        ("[a](performance.md#no-such-place)", False),
        ("[`a`](architecture)", True),
        ("[`a`](architectures)", False),
        ("`[a](missing.md)`", True),
        ("```python\nx[0](missing)\n```", True),
        ("```{note}\n[a](missing.md)\n```", False),
        ("[a](https://example.org/missing.md)", True),
    ],
)
def test_a_dead_link_is_seen(building, link, there):
    assert (not dead(building, "docs/page.md", link)) == there


@pytest.mark.parametrize(
    "page, target, leads",
    [
        ("options", "onnx.md#reading", "onnx.md#reading"),
        ("options", "../benchmarks/README.md#protocol", "performance/measuring.md#protocol"),
        (
            "tutorial/01",
            "../../setup.py",
            "https://github.com/fastlstm/fastlstm/blob/main/setup.py",
        ),
        (
            "options",
            "../fastlstm/native/",
            "https://github.com/fastlstm/fastlstm/tree/main/fastlstm/native",
        ),
        ("performance", "../benchmarks/results/m/compare.md", "performance/m/compare.md"),
        ("performance", "../benchmarks/results/m/compare.png", "performance/m/compare.png"),
        ("performance", "../benchmarks/results/m/", "performance/m/index.md"),
        ("performance/measuring", "../docs/options.md", "../options.md"),
        ("performance/m/compare", "train.md", "train.md"),
        ("options", "../missing.md", "../missing.md"),
        ("options", "#here", "#here"),
        ("options", "https://example.org", "https://example.org"),
    ],
)
def test_where_links_lead_on_the_site(building, page, target, leads):
    assert building.on_site(page, "main")(target) == leads
