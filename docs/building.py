"""What conf.py makes for the pages before Sphinx reads them, and where links lead on the site."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import posixpath
import re
import shutil
import sys
from collections.abc import Callable, Iterator

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
SOURCES = "https://github.com/fastlstm/fastlstm"

# Pages and pictures of other folders that the site has too, at which places; they are copied.
RESULTS = "benchmarks/results/"
MEASURING = {"benchmarks/README.md": "performance/measuring.md"}

# Code is passed over, in blocks and in lines, but not what stands in a directive of Sphinx.
_BLOCK = r"^(?P<fence>```+)(?!\{).*?^(?P=fence)[ ]*$"
_INLINE = r"(?<!`)(?P<ticks>`+)(?!`)[^\n]*?(?<!`)(?P=ticks)(?!`)"
_LINK = re.compile(rf"{_BLOCK}|{_INLINE}|(?P<before>\]\()(?P<target>[^)\s]+)", re.M | re.S)


def each_link(text: str, change: Callable[[str], str]) -> str:
    """Return a page's text with the target of every link and image replaced."""

    def replaced(match: re.Match[str]) -> str:
        return match[0] if match["target"] is None else match["before"] + change(match["target"])

    return _LINK.sub(replaced, text)


def placed(path: str) -> str | None:
    """Return where the site has a file or folder of the repository, from docs/; None if not."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith(RESULTS) and not path.endswith(".json"):
        inside = path.removeprefix(RESULTS).rstrip("/")
        return f"performance/{inside}" + ("/index.md" if "/" not in inside else "")
    return MEASURING.get(path)


def origin(page: str) -> str:
    """Return which file of the repository a page of the site is, from the name of the page."""
    for source, copied in MEASURING.items():
        if f"{page}.md" == copied:
            return source
    if page.startswith("performance/"):
        return RESULTS + page.removeprefix("performance/") + ".md"
    return f"docs/{page}.md"


def resolved(target: str, source: str) -> str | None:
    """Return the path in the repository to which a link in a file leads; None if elsewhere."""
    path = target.partition("#")[0]
    if not path or path.startswith("/") or re.match(r"[a-z]+:", target):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return found + "/" * path.endswith("/")


def on_site(page: str, version: str) -> Callable[[str], str]:
    """Return what makes of the links of a page those that lead to the same places from the site.

    Links to pages stay links to pages; those to other files of the repository lead to GitHub. What
    is not there stays as it is, and Sphinx warns of it.
    """
    source = origin(page)

    def change(target: str) -> str:
        path = resolved(target, source)
        if path is None or (path.startswith("docs/") and source.startswith("docs/")):
            return target
        _, sharp, part = target.partition("#")
        if (place := placed(path)) is not None:
            return posixpath.relpath(place, posixpath.dirname(page) or ".") + sharp + part
        if not (ROOT / path).exists():
            return target
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{SOURCES}/{kind}/{version}/{path.rstrip('/')}{sharp}{part}"

    return change


# ---- pages and pictures that are made ------------------------------------------------------------


def write(path: pathlib.Path, text: str) -> None:
    """Write a file, unless it has this text: Sphinx reads anew what is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def draw_figures() -> None:
    """Draw docs/figures/*.py, each a function ``draw() -> Figure``, as .svg files beside them."""
    folder = DOCS / "figures"
    sys.path.insert(0, str(folder))  # for what they share, whose names begin with _
    shared = max(path.stat().st_mtime for path in folder.glob("*.py") if path.name[0] == "_")
    for path in sorted(folder.glob("[!_]*.py")):
        drawn = path.with_suffix(".svg")
        if drawn.exists() and drawn.stat().st_mtime > max(path.stat().st_mtime, shared):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.draw().savefig(drawn, bbox_inches="tight")


def heading(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def copy_results() -> None:
    """Make the pages under performance/: how it is measured, and the results of each machine."""
    for source, place in MEASURING.items():
        write(DOCS / place, (ROOT / source).read_text("utf-8"))
    for machine in sorted(path for path in (ROOT / RESULTS).iterdir() if path.is_dir()):
        folder = DOCS / "performance" / machine.name
        folder.mkdir(parents=True, exist_ok=True)
        listed = []
        for picture in machine.glob("*.png"):
            shutil.copy2(picture, folder)
        for path in sorted(machine.glob("*.md")):
            text = path.read_text("utf-8")
            title = heading(text)
            names = [path.stem, path.stem.replace("compare", "roofline")]
            pictures = [name for name in dict.fromkeys(names) if (folder / f"{name}.png").exists()]
            shown = "".join(f"\n![{title}, drawn]({name}.png)\n" for name in pictures)
            first, end, rest = text.partition("\n")
            write(folder / path.name, first + end + shown + rest)
            listed.append(f"{title} <{path.stem}>\n")
        toctree = f"```{{toctree}}\n:maxdepth: 1\n\n{''.join(listed)}```\n"
        write(folder / "index.md", f"# Results of `{machine.name}`\n\n{toctree}")


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the names of the subcommands of ``fastlstm``, and their parsers."""
    from fastlstm import cli

    parser = cli._parser()
    yield "fastlstm", parser
    (subcommands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    yield from subcommands.choices.items()


def write_help() -> None:
    """Write what ``fastlstm COMMAND --help`` prints into files, which command_line.md includes."""
    os.environ["COLUMNS"] = "88"
    for name, parser in commands():
        write(DOCS / f"reference/generated/help-{name}.txt", parser.format_help())


# ---- the C library -------------------------------------------------------------------------------

HEADER = ROOT / "fastlstm/native/fastlstm.h"
# A comment that begins a line, and the declarations that follow it without an empty line; or
# declarations of types that have no comment.
_DECLARED = re.compile(
    r"^/\*\s(?P<comment>.*?)\*/\n(?P<declared>(?:[^\n/]+[^\n]*\n)*)|^(?P<alone>(?:enum|typedef)\b.*?);$",
    re.M | re.S,
)


def header_parts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the comments of a header, each with what is declared behind it; one may be empty."""
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif\n", "", text, flags=re.M | re.S)
    text = re.sub("^FL_API ", "", text[: text.rindex("#endif")], flags=re.M)
    for match in _DECLARED.finditer(text):
        if match["alone"]:
            yield "", f"{match['alone']};"
        else:
            yield match["comment"].strip(), match["declared"].strip()


def functions(declared: str) -> list[str]:
    """Return the declarations of functions, each on one line without its semicolon."""
    if declared.startswith(("typedef", "enum", "#")):
        return []
    return [" ".join(part.split()) for part in declared.split(";") if "(" in part]


def as_rst(comment: str) -> str:
    """Return a comment as reST: `names` are code, and indented lines are blocks of code."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", comment):
        if paragraph.startswith("    "):
            paragraphs.append(".. code-block:: c\n\n" + paragraph)
        else:
            text = " ".join(paragraph.split())
            text = re.sub(r"\*", r"\\*", text)
            paragraphs.append(re.sub(r"`([^`]+)`", r"``\1``", text))
    return "\n\n".join(paragraphs)


def c_reference(text: str) -> str:
    """Return the reference of the header as reST, in its own order."""
    made = []
    for comment, declared in header_parts(text):
        said = as_rst(comment)
        found = functions(declared)
        if found:
            made.append(f".. c:function:: {found[0]}\n")
            made += [f"              {function}\n" for function in found[1:]]
            made += ["\n", indented(said), "\n"]
        elif name := re.search(r"\}?\s*(fl_\w+);\s*$", declared):
            block = "" if "{" not in declared else f".. code-block:: c\n\n{indented(declared)}"
            made += [f".. c:type:: {name[1]}\n\n", indented(said), "\n", indented(block), "\n"]
        elif declared and not declared.startswith("#"):
            made += [said, "\n\n", f".. code-block:: c\n\n{indented(declared)}", "\n"]
        else:
            made += [said, "\n\n"]
    return "".join(made)


def indented(text: str) -> str:
    return "".join(f"   {line}\n" if line.strip() else "\n" for line in text.splitlines())


def write_c_reference() -> None:
    write(DOCS / "reference/generated/c_api.txt", c_reference(HEADER.read_text("utf-8")))
