"""The documentation's site: its reference names all that is public, no link leads nowhere.

Also how versions are published side by side. `make docs` builds the site; a warning is an error.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import unicodedata

import pytest
from test_docs import MADE, PAGES

import fastlstm

ROOT = pathlib.Path(__file__).parents[1]


def imported(file):
    """Return a module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(file, ROOT / f"docs/{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the reference -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def building():
    """docs/building.py, which makes pages and leads links for the site."""
    return imported("building")


def reference(name="*"):
    return "\n".join(
        page.read_text("utf-8") for page in sorted(ROOT.glob(f"docs/reference/{name}.md"))
    )


def documented(text):
    """Return the names in the lists of the reference, from which it makes a page for each."""
    return set(re.findall(r"^   (fastlstm\.[\w.]+)$", text, re.M))


def public():
    """Return all public names: those of each module's `__all__`, or without an underscore."""
    modules = "", ".training", ".plot", ".visualize", ".torch", ".dask"
    for module in (importlib.import_module(f"fastlstm{name}") for name in modules):
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
    own = fastlstm.training
    twice = {own.fit, own.fit_many, own.predict, own.run}  # which fastlstm has too
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
    assert {s for form in formats.table.WRITTEN for s in form.SUFFIXES} <= told


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


TEXTS = sorted(
    {*PAGES, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md"))}
    | {f"{folder}/README.md" for folder in ("benchmarks", "examples", "tests")}
)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(building, page):
    found = dead(building, page, (ROOT / page).read_text("utf-8"))
    assert not found, f"{page} links to what is not there: {', '.join(found)}"


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


# ---- versions side by side -----------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """A function that publishes a site of a version, and returns the folder of all versions."""
    publishing, sites = imported("publishing"), tmp_path / "sites"

    def publish(version, text):
        built = tmp_path / "built"
        shutil.rmtree(built, ignore_errors=True)
        (built / "_static").mkdir(parents=True)
        (built / "index.html").write_text(text)
        publishing.publish(built, sites, version)
        return sites

    return publish


def front(sites):
    return re.search(r'url=(\w+)/"', (sites / "index.html").read_text())[1]


def test_versions_stand_side_by_side(published):
    sites = published("dev", "a")
    assert front(sites) == "dev" and not (sites / "stable").exists()
    for version in ("0.1.0", "0.9.0", "0.10.0", "0.9.1", "0.11.0rc1"):
        sites = published(version, version)
    sites = published("dev", "b")
    assert front(sites) == "stable"
    folders = "0.1.0", "0.9.0", "0.9.1", "0.10.0", "0.11.0rc1"
    assert [(sites / v / "index.html").read_text() for v in folders] == [*folders]
    assert (sites / "dev/index.html").read_text() == "b"
    assert (sites / "stable/index.html").read_text() == "0.10.0"  # the newest, not the last
    assert (sites / ".nojekyll").exists()  # without it _static is left out


def test_list_of_versions(published):
    for version in ("0.1.0", "0.10.0", "0.9.0", "dev", "0.11.0rc1"):
        sites = published(version, "")
    listed = json.loads((sites / "switcher.json").read_text())
    assert [(v["version"], v["url"].split("/")[-2]) for v in listed] == [
        ("dev", "dev"),
        ("0.10.0", "stable"),
        ("0.9.0", "0.9.0"),
        ("0.1.0", "0.1.0"),
    ]
    assert [v["version"] for v in listed if v.get("preferred")] == ["0.10.0"]


def test_pages_that_a_version_no_longer_has_go(published):
    sites = published("dev", "")
    (sites / "dev/old.html").touch()
    (sites / "0.1.0").mkdir()
    published("dev", "")
    assert not (sites / "dev/old.html").exists() and (sites / "0.1.0").exists()


@pytest.mark.parametrize("version", ["main", "v0.1.0", "0.1", "..", "", "0.1.0/.."])
def test_only_versions_are_published(published, version):
    with pytest.raises(ValueError, match="a version is dev or has three numbers"):
        published(version, "")


@pytest.mark.skipif(
    os.name == "nt" or not shutil.which("git"), reason="needs git and a POSIX shell"
)
def test_publishing_keeps_what_others_published(tmp_path):
    """docs/publish.sh, as the workflow runs it, against a repository in a folder."""
    git = [
        "git",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.invalid",
        "-c",
        "init.defaultBranch=main",
    ]
    origin, clone = tmp_path / "origin", tmp_path / "clone"

    def run(*command, cwd=clone):
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(*git, "init", "--quiet", "--bare", origin, cwd=tmp_path)
    run(*git, "clone", "--quiet", origin, clone, cwd=tmp_path)
    (clone / "docs").mkdir()
    for file in ("publish.sh", "publishing.py"):
        shutil.copy(ROOT / "docs" / file, clone / "docs")
    run(*git, "add", "docs")
    run(*git, "commit", "--quiet", "--message", "first")
    run(*git, "push", "--quiet", "origin", "HEAD:main")
    for version in ("dev", "0.1.0", "0.2.0", "dev"):
        built = tmp_path / "built"
        built.mkdir(exist_ok=True)
        (built / "index.html").write_text(f"of {version}")
        run("sh", "docs/publish.sh", built, version)
    kept = run("git", "ls-tree", "-r", "--name-only", "gh-pages", cwd=origin).split()
    assert {f"{v}/index.html" for v in ("dev", "stable", "0.1.0", "0.2.0")} <= {*kept}
    assert not any(name.startswith("docs") for name in kept)
    assert run("git", "show", "gh-pages:stable/index.html", cwd=origin) == "of 0.2.0"
    assert run("git", "rev-list", "--count", "gh-pages", cwd=origin) == "1\n"
    assert run("git", "log", "--format=%s", "main", cwd=origin) == "first\n"
    shutil.move(origin, tmp_path / "away")  # what cannot be read is not taken for empty
    done = subprocess.run(["sh", "docs/publish.sh", built, "dev"], cwd=clone, capture_output=True)
    assert done.returncode not in (0, 2)
