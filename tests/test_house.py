"""The rules of the code: what imports what, what is documented, what pages show."""

import ast
import fnmatch
import inspect
import io
import pathlib
import re
import subprocess
import sys
import tokenize

import pytest

import fastlstm

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "fastlstm"

# Arrows point down only: a module imports from floors below its own. A folder is one room: its
# modules may import each other, but for engines, of which none knows another.
FLOORS = [
    ["arrays", "checks", "files", "initialisers", "npy", "terminal", "times", "wav"],
    ["dates", "engines", "sequences"],
    ["layers"],
    ["graphs"],
    ["formats", "plot"],
    ["training", "panels"],
    ["cli", "dask", "torch", "visualize"],
    ["__init__", "__main__"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
CYTHON = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.pyx"))
}
# What files of engines may import of their folder, besides the files of the same engine.
SHARED = {
    "_layers": {"contract"},
    **dict.fromkeys(("_native", "_numba", "_numpy"), {"contract", "machine", "_layers"}),
}


def imports(path):
    """Yield (module, level of the relative import, whether it is run at import) of a file."""
    if path.suffix == ".pyx":
        yield from cython_imports(path)
        return
    tree = ast.parse(path.read_text("utf-8"))
    late = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(function, ast.If) and ast.unparse(function.test) == "TYPE_CHECKING")
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, node not in late
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield name, node.level, node not in late


def cython_imports(path):
    """Yield the same of a Cython file, with one statement a line; imports of C are left out."""
    pattern = r"^([ \t]*)(?:from[ ]+(\.*)([\w.]*)[ ]+import[ ]+(.+)|import[ ]+(.+))$"
    for indent, dots, module, names, modules in re.findall(
        pattern, path.read_text("utf-8"), re.MULTILINE
    ):
        found = [module] if module else re.findall(r"(?:^|,)\s*([\w.]+)", names or modules)
        for name in found:
            yield name, len(dots), not indent


def reaches(path):
    """Private names of other objects that a file of an engine uses, such as a layer's."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    words = [token.string for token in tokens if token.type in (tokenize.NAME, tokenize.OP)]
    for owner, dot, name in zip(words, words[1:], words[2:], strict=False):
        private = re.match(r"_[a-z]", name) and name not in ("_fields", "_getframe")  # Python's
        if dot == "." and private and owner not in ("self", "import", "from"):
            yield f"{owner}.{name}"


def wrong_arrows(name, path):
    """Imports of `path`, the module `name` of the package, that break the rules."""
    *folder, module = name.split(".")
    room = folder[0] if folder else module
    for imported, level, at_import in imports(path):
        first = imported.split(".")[0]
        if level == 0:
            outside = first not in {*sys.stdlib_module_names, "numpy"}
            # an engine and a host are their library's; anything else loads one where it is used
            own = name.startswith(("engines._numba", "dask", "torch"))
            if first == "fastlstm" or (outside and at_import and not own):
                yield f"{name} imports {imported}"
        elif level == len(folder) + 1:  # from the package
            if first in FLOOR and FLOOR[first] >= FLOOR[room]:
                yield f"{name} imports {first}, which is not below it"
        elif room == "engines" and module != "__init__":
            shared = SHARED.get(module.removesuffix("_kernels"), set())
            if imported not in shared and not imported.startswith(module + "_"):
                yield f"{name} imports {imported}, but no engine knows another"


@pytest.mark.parametrize("name", MODULES | CYTHON)
def test_arrows_point_down(name):
    assert name.split(".")[0] in FLOOR, "a new module needs a floor"
    assert list(wrong_arrows(name, (MODULES | CYTHON)[name])) == []


@pytest.mark.parametrize("name", [name for name in MODULES | CYTHON if name.startswith("engines.")])
def test_engines_reach_into_nobody(name):
    """An engine uses what it is given by public names, so it knows nothing of layers."""
    assert list(reaches((MODULES | CYTHON)[name])) == []


@pytest.mark.parametrize("source", [
    "def step(self, x):\n    return self.layer._version",
    "cdef class Step:\n    def step(self, x):\n        stack = layer._stacks()[0]",
    "threads = (\n    lstm\n    ._threads)",
    "self.present()[0]._cells",
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".py", ".pyx"])
def test_reaching_into_others_is_seen(tmp_path, source, suffix):
    path = (tmp_path / "module").with_suffix(suffix)
    path.write_text(source)
    assert len(list(reaches(path))) == 1
    path.write_text('"""Not layer._version."""  # nor lstm._stacks\nself._own = x.public\n')
    assert list(reaches(path)) == []


@pytest.mark.parametrize(
    "source, wrong",
    [
        ("from ..layers import LSTM", 1),
        ("def f():\n    from ..layers.stream import Stream", 1),
        ("from . import _numba", 1),
        ("from ._numpy import run", 1),
        ("import numba", 1),
        ("import os, torch", 1),
        ("from .contract import Step\nimport threading\nimport numpy as np", 0),
        ("cimport numpy as cnp\nfrom cpython.mem cimport PyMem_RawFree", 0),
        ("def f():\n    from .. import __version__", 0),
    ],
)
def test_arrows_of_cython_are_seen(tmp_path, source, wrong):
    path = tmp_path / "module.pyx"
    path.write_text(source)
    assert len(list(wrong_arrows("engines._native", path))) == wrong


@pytest.mark.parametrize(
    "name, source",
    [
        ("engines._numpy", "from . import _numba"),
        ("engines._layers", "from ._numpy import run"),
        ("engines.contract", "from ._layers import Layers"),
        ("engines.machine", "from ._native import describe"),
        ("engines._numba_kernels", "from . import _numba"),
        ("engines._numpy", "from ..layers import LSTM"),
        ("engines._numpy", "import numba"),
        ("arrays", "from .layers.lstm import LSTM"),
        ("checks", "from . import sequences"),
        ("sequences.batch", "from ..layers.stream import Stream"),
        ("layers.lstm", "import fastlstm"),
        ("layers.lstm", "if True:\n    import torch"),
        ("layers.last", "class A:\n    from ..formats import load"),
        ("plot", "def f():\n    from .training import fit"),
        ("formats.npz", "from ..cli import main"),
        ("formats.npz", "import safetensors"),
        ("formats.npz", "from ..training import Forecaster"),
        ("training.windows", "from ..cli.train import add_commands"),
    ],
)
def test_wrong_arrows_are_seen(tmp_path, name, source):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert len(list(wrong_arrows(name, path))) == 1


@pytest.mark.parametrize(
    "name, source",
    [
        ("layers.lstm", "import numpy\nfrom ..arrays import as_rows\nfrom ..engines import choose"),
        ("layers.lstm", "from .layer import Layer\nfrom ..sequences.packing import rows_of"),
        ("formats.npz", "from . import structure\nfrom .zip import a\nfrom ..layers import Linear"),
        ("formats.npz", "def f():\n    import safetensors"),
        ("plot", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("engines._numba", "import numba, llvmlite\nfrom ._numba_kernels import run_layer"),
        ("engines._numpy", "from ._layers import Layers\nfrom .contract import Cell"),
        ("engines._layers", "from .contract import Cell"),
        ("cli.train", "from .. import __version__\nfrom ..formats import load"),
    ],
)
def test_right_arrows_are_let_through(tmp_path, name, source):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert list(wrong_arrows(name, path)) == []


def _foreign_modules(statement):
    """What a fresh interpreter has loaded after `statement`, besides NumPy and what it loads."""
    code = (
        "import sys, numpy.random; before = set(sys.modules)\n"
        f"{statement}\n"
        "after = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(after - set(sys.stdlib_module_names) - {'numpy', 'fastlstm'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_import_loads_numpy_alone():
    assert _foreign_modules("import fastlstm") == []
    assert _foreign_modules("import fastlstm; fastlstm.LSTM(2, 3, engine='numpy')") == []


def test_import_of_more_is_seen():
    pytest.importorskip("numba", reason="needs a module that must not be loaded")
    assert "numba" in _foreign_modules("import fastlstm.engines._numba")


# ---- documentation --------------------------------------------------------------------------


def _public():
    """(name, object) of everything public, methods and properties included."""
    for name in sorted({*fastlstm.__all__, *fastlstm.training.__all__}):
        thing = getattr(fastlstm if name in fastlstm.__all__ else fastlstm.training, name)
        if inspect.ismodule(thing):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for attribute, value in inspect.getmembers(thing):
                own = getattr(value, "__module__", "") or ""
                documented = own.startswith("fastlstm") or isinstance(value, property)
                if documented and (not attribute.startswith("_") or attribute == "__call__"):
                    yield f"{name}.{attribute}", value


PUBLIC = dict(_public())


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name):
    thing, doc = PUBLIC[name], inspect.getdoc(PUBLIC[name])
    assert doc and doc.splitlines()[0].endswith((".", ":")), "a sentence of purpose"
    if "." in name:
        return
    assert "Examples\n--------\n>>> " in doc.replace("    ", "") or name == "PackedSequence"
    arguments = inspect.signature(thing).parameters.values()
    if name == "PackedSequence":
        assert "Attributes\n----------" in doc
    elif arguments:
        assert "Parameters\n----------" in doc
        for argument in arguments:
            several = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}
            stars = several.get(argument.kind, "")
            pattern = rf"^{re.escape(stars)}(\w+, )*\b{argument.name}(, \w+)*( :|$)"
            assert re.search(pattern, doc.replace("*layers : Layer, or", "*layers :"), re.M), (
                argument
            )
    if inspect.isfunction(thing) and name != "save":
        assert "Returns\n-------" in doc


DOOR = {
    "LSTM", "LSTMCell", "Linear", "Embedding", "Dropout", "Last", "Layer", "ModelStream", "ReLU",
    "Sequential", "Sigmoid", "Softmax", "Stream", "Tanh", "PackedSequence", "pack_padded_sequence",
    "pad_packed_sequence", "pack_sequence", "pad_sequence", "unpack_sequence", "engine_info",
    "load", "save", "load_state", "load_lstm", "load_notes", "fit", "fit_many", "predict", "run",
    "engines", "training", "Concat", "Residual", "GraphModel", "GraphStream", "get_include", "Pool",
    "PoolFull",
}  # fmt: skip


@pytest.mark.parametrize("package", [fastlstm, fastlstm.training, fastlstm.layers])
def test_all_is_sorted_and_there(package):
    assert package.__all__ == sorted(set(package.__all__))
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_the_package_has_these_names_and_no_others():
    assert set(fastlstm.__all__) == DOOR
    public = {name for name, value in vars(fastlstm).items() if not inspect.ismodule(value)}
    assert {name for name in public if not name.startswith("_")} <= DOOR | {"TYPE_CHECKING"}


@pytest.mark.parametrize(
    "name", sorted({*fastlstm.training.__all__} - {"fit", "fit_many", "predict", "run"})
)
def test_training_names_are_in_training_alone(name):
    with pytest.raises(AttributeError, match=rf"it is fastlstm\.training\.{name}$"):
        getattr(fastlstm, name)


def test_help_of_the_engines_shows_the_equations():
    assert "z = W_ih x + W_hh h + b" in inspect.getdoc(fastlstm.engines)


def test_every_module_says_what_it_is_for():
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), name


def test_the_address_is_the_same_everywhere():
    """Of the source and of the documentation, as pyproject.toml has them."""
    urls = re.findall(r'^\w+ = "(https://.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    source, site = "https://github.com/fastlstm/fastlstm", "https://fastlstm.github.io/fastlstm"
    images = "https://raw.githubusercontent.com/fastlstm/fastlstm/main/docs/images/"
    index = "https://pypi.org/p/fastlstm", "https://test.pypi.org/p/fastlstm"  # of a release
    assert urls and all(url.startswith((source, site)) for url in urls)
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob(".github/**/*.*"),
        ROOT / "CITATION.cff",
    ]
    for page in pages:
        for url in re.findall(r"https://[\w./-]*fastlstm[\w./-]*", page.read_text("utf-8")):
            assert url.startswith((source, site, images, *index)), f"{page}: {url}"


# ---- the index of files ----------------------------------------------------------------------


def test_the_tree_names_every_file():
    """CONTRIBUTING.md says what each file of the package is for."""
    tree = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[1]
    patterns = re.findall(r"[\w*]+\.(?:pyx|py|inc|c|h)\b", tree)
    assert len(patterns) > 100
    left_out = [
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.*")
        if path.suffix in (".py", ".pyx", ".c", ".h", ".inc")
        and not re.match("__", path.name)
        and path.name != "_native.c"  # which Cython makes
        and not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    ]
    assert left_out == []


def test_the_index_of_faults_names_tests_that_exist():
    index = (ROOT / "tests/README.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", index)
    assert len(named) > 100
    for file, test in named:
        assert (ROOT / "tests" / file).is_file(), file
        if test:
            text = (ROOT / "tests" / file).read_text("utf-8")
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file}::{test}"
    assert re.findall(r"^\*\*(\d+)\.", index, re.MULTILINE) == [str(n) for n in range(32)]
