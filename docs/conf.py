"""How Sphinx builds the documentation: ``make docs`` writes it to build/docs/index.html."""

import os
import pathlib
import sys

import fastlstm

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import building

project = "fastlstm"
author = "The fastlstm developers"
copyright = author
# Which version a published site is, as the folder that it goes to is called: "dev" or a number.
# Where nothing is said, it is for whoever built it, and has no list of other versions.
PUBLISHED = os.environ.get("DOCS_VERSION", "")
version = release = "dev" if PUBLISHED == "dev" else fastlstm.__version__
TAG = f"v{PUBLISHED}" if PUBLISHED[:1].isdigit() else "main"
SITE = "https://fastlstm.github.io/fastlstm"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["figures"]
myst_enable_extensions = [
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "smartquotes",
]
myst_heading_anchors = 4
default_role = "py:obj"  # what docstrings have in single backticks
autodoc_typehints = "none"  # docstrings tell them
autosummary_generate = [f"reference/{p.name}" for p in (building.DOCS / "reference").glob("*.md")]
# Whatever is documented has a docstring that begins with a sentence; its sections are known and in
# order, and its parameters are there and have descriptions that end in a full stop.
numpydoc_validation_checks = {
    *("GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08"),
    *("SS01", "SS03", "SS04", "SS05", "SS06"),
    *("PR02", "PR06", "PR08", "PR09", "PR10"),
}
numpydoc_show_class_members = False  # _templates/autosummary/class.rst lists them
highlight_language = "none"  # of what docstrings show: equations, mostly
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = f"fastlstm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Pages at the top that have none below them have nothing to show at their side.
html_sidebars = {
    page.stem: []
    for page in building.DOCS.glob("*.md")
    if "{toctree}" not in page.read_text("utf-8")
}
html_favicon = "_static/logo.svg"
html_baseurl = f"{SITE}/{PUBLISHED}/" if PUBLISHED else ""
html_show_sourcelink = False
html_copy_source = False
html_context = {
    "github_user": "fastlstm",
    "github_repo": "fastlstm",
    "github_version": TAG,
    "doc_path": "docs",
}
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": project},
    "github_url": building.SOURCES,
    "use_edit_page_button": True,
    "header_links_before_dropdown": 5,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version", "theme-version"],
}
if PUBLISHED:
    html_theme_options |= {
        "switcher": {"json_url": f"{SITE}/switcher.json", "version_match": PUBLISHED},
        "check_switcher": False,  # it lists the site that is being built
        "navbar_start": ["navbar-logo", "version-switcher"],
        "show_version_warning_banner": True,
    }


def make_pages(app):
    building.draw_figures()
    building.copy_results()
    building.write_help()
    building.write_c_reference()


def read_page(app, page, text):
    """Let the links of a page lead to the same places on the site."""
    text[0] = building.each_link(text[0], building.on_site(page, TAG))


def without_edit_button(app, page, template, context, doctree):
    source = building.origin(page)
    if not (source.startswith("docs/") and (building.ROOT / source).exists()):
        context["theme_use_edit_page_button"] = False


def without_fields(app, kind, name, member, skip, options):
    """Leave out what a named tuple says of its fields, "Alias for field number 0"."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("builder-inited", make_pages, priority=100)  # before autosummary looks for pages
    app.connect("source-read", read_page)
    app.connect("autodoc-skip-member", without_fields)
    app.connect("html-page-context", without_edit_button)
