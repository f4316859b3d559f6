"""How Sphinx builds the documentation: ``make docs`` writes it to build/docs/index.html."""

import importlib.util
import pathlib
import sys

import fastlstm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = pathlib.Path(__file__).parent
ABOUT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]

project = "fastlstm"
author = "The fastlstm developers"
copyright = author
version = release = fastlstm.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["figures"]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 4
autosummary_generate = True
numpydoc_show_class_members = False
nitpicky = False

html_theme = "pydata_sphinx_theme"
html_title = f"fastlstm {release}"
html_theme_options = {
    "github_url": ABOUT["urls"]["Source"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
}


def draw_figures(app):
    """Draw docs/figures/*.py, each a function ``draw() -> Figure``, as .svg files beside them."""
    sys.path.insert(0, str(HERE / "figures"))  # for _style.py, which they share
    for path in sorted((HERE / "figures").glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.draw().savefig(path.with_suffix(".svg"), bbox_inches="tight")


def setup(app):
    app.connect("builder-inited", draw_figures)
