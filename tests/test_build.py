"""The package as a user gets it: an sdist, a wheel from it, a fresh environment, a run there."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import numpy as np
import pytest

# To look for the module pip would keep setuptools from being imported later in this process.
INSTALLED = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="environments have other folders"),
    *(
        pytest.mark.skipif(tool not in INSTALLED, reason=f"needs {tool}, to build")
        for tool in ("pip", "setuptools", "cython")
    ),
]

ROOT = pathlib.Path(__file__).parents[1]
MADE = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so", "_native.c")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NO_COMPILER = {"CC": "/nonexistent", "FASTLSTM_REQUIRE_NATIVE": ""}

# Prints what ran, and where it lies, after comparing it with the engine for reading.
RUN = """
import pathlib, numpy as np, fastlstm
options = dict(num_layers=2, bidirectional=True, proj_size=2, dtype="float64")
lstm, truth = fastlstm.LSTM(3, 5, **options), fastlstm.LSTM(3, 5, **options, engine="numpy")
truth.load_state_dict(lstm.state_dict())
x = np.random.default_rng(0).standard_normal((7, 4, 3))
np.testing.assert_allclose(lstm(x)[0], truth(x)[0], rtol=0, atol=1e-14)
assert (pathlib.Path(fastlstm.get_include()) / "fastlstm.h").is_file()
print(lstm.engine, fastlstm.__file__)
"""


def python(*command, cwd, prefix=sys.prefix, **environment):
    """Run the Python of an environment; return the finished process, its output as text."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FASTLSTM_ENGINE")}
    return subprocess.run(
        [pathlib.Path(prefix, "bin", "python"), *command],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build_wheel(sdist, folder, **environment):
    """Build with pip what a user without network could; return the process and the folder."""
    options = "--verbose --no-deps --no-index --no-build-isolation --no-cache-dir".split()
    command = ["-m", "pip", "wheel", *options, "--wheel-dir", folder, sdist]
    return python(*command, cwd=folder, **environment)


def c_library():
    """What a program in C or C++ needs, as a wheel names it: headers, sources, CMakeLists.txt."""
    files = {path.name for path in (ROOT / "fastlstm" / "native").iterdir() if path.is_file()}
    assert files >= {"fastlstm.h", "isa.c", "isa.inc", "CMakeLists.txt", "fastlstm.pc.in"}
    return {f"fastlstm/native/{name}" for name in files}


def build_sdist(source):
    """Return the path of an sdist, which lies beside its sources."""
    code = "import setuptools.build_meta; setuptools.build_meta.build_sdist('..')"
    made = python("-c", code, cwd=source)
    assert made.returncode == 0, made.stdout
    (path,) = source.parent.glob("*.tar.gz")
    return path


def run_installed(wheel, folder):
    """Install into an environment of its own, which sees NumPy where it is; run `RUN` there."""
    prefix = folder / "environment"
    venv.create(prefix)
    packages = next(prefix.glob("lib/python*/site-packages"))
    (packages / "numpy.pth").write_text(str(pathlib.Path(np.__file__).parents[1]))
    options = ["--no-deps", "--no-index", "--target", packages]
    install = python("-m", "pip", "install", *options, wheel, cwd=folder)
    assert install.returncode == 0, install.stdout
    run = python("-I", "-c", RUN, cwd=folder, prefix=prefix)
    assert run.returncode == 0, run.stdout
    engine, place = run.stdout.split()
    assert pathlib.Path(place).is_relative_to(packages)
    return engine


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The path of an sdist that is made of a copy of the sources alone."""
    folder = tmp_path_factory.mktemp("sdist")
    return build_sdist(shutil.copytree(ROOT, folder / "source", ignore=MADE))


def in_sdist(path):
    """The names in an sdist, as they are in the repository."""
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_sdist_holds_the_repository(sdist):
    """All but what is made, pictures that can be drawn again, and the settings of services."""
    files = {
        path.relative_to(ROOT)
        for folder in ("benchmarks", "docs", "examples", "fastlstm", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyd")
        if not any(part == "__pycache__" or part[0] == "." for part in path.relative_to(ROOT).parts)
    }
    left_out = {path for path in files if path.match("benchmarks/results/*/*.png")}
    left_out -= {path for path in files if path.name == "compare.png"}  # which pages show
    made = ("docs/figures/*.svg", "docs/performance/*", "docs/performance/*/*")
    made += ("docs/reference/generated/*", "_native.c")
    left_out |= {path for path in files if any(map(path.match, made))}
    named = "CHANGELOG.md CITATION.cff CODE_OF_CONDUCT.md CONTRIBUTING.md LICENSE MANIFEST.in"
    named += " Makefile README.md SECURITY.md conftest.py pyproject.toml setup.py"
    names = in_sdist(sdist)
    assert names >= {path.as_posix() for path in files - left_out} | {*named.split()}
    assert not names & {path.as_posix() for path in left_out}
    assert sdist.stat().st_size < 3_000_000  # 2.0 MB, 0.8 of which are the tests and their data


def test_an_index_shows_it(sdist):
    """The description can be rendered, and no field of the metadata is unknown."""
    pytest.importorskip("twine", reason="needs twine, as an index checks what it gets")
    checked = python("-m", "twine", "check", "--strict", sdist, cwd=sdist.parent)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_wheel_from_sdist(sdist, tmp_path):
    built = build_wheel(sdist, tmp_path, FASTLSTM_REQUIRE_NATIVE="1")
    assert built.returncode == 0, built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 2_000_000
    with zipfile.ZipFile(wheel) as archive:
        files = [info.filename for info in archive.infolist() if "dist-info" not in info.filename]
        # some 4.2 MB: 1.7 of kernels, 0.5 of their sources for programs in C, 2.0 of Python
        assert sum(info.file_size for info in archive.infolist()) < 4_500_000
    patterns = "*.py", "*.pyi", "py.typed"
    modules = {
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in (ROOT / "fastlstm").rglob(pattern)
    }
    assert "fastlstm/engines/_native.pyi" in modules
    assert {*files} == modules | c_library() | {f"fastlstm/engines/_native{SUFFIX}"}
    assert run_installed(wheel, tmp_path) == "native"
    # Its own tests, as the sdist has them, where there are neither sources nor a compiler.
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("fastlstm-*/")
    for name in ("fastlstm", "setup.py"):
        (unpacked / name).rename(tmp_path / name)
    options = "-q --require-native -p no:cacheprovider -k native tests/test_stream.py"
    run = python(
        "-m", "pytest", *options.split(), cwd=unpacked, prefix=tmp_path / "environment", PATH=""
    )
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout


@pytest.mark.slow
def test_without_a_compiler(sdist, tmp_path):
    built = build_wheel(sdist, tmp_path, **NO_COMPILER)
    assert built.returncode == 0, built.stdout
    (warning,) = (line for line in built.stdout.splitlines() if "native engine" in line)
    assert "could not be built" in warning and "/nonexistent" in warning and "GCC" in warning
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {*archive.namelist()} >= c_library()
    assert run_installed(wheel, tmp_path) in ("numba", "numpy")


def leave(*paths):
    """Put a file of an earlier build in each place, newer than its sources."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of an earlier build")


ENGINE = f"fastlstm/engines/_native{SUFFIX}"


@pytest.fixture
def source(tmp_path):
    """A copy of the sources, with an engine of an earlier build beside them."""
    copy = shutil.copytree(ROOT, tmp_path / "source", ignore=MADE)
    leave(copy / ENGINE)
    return copy


@pytest.mark.slow
def test_an_engine_of_an_earlier_build_hides_no_failure(source):
    """It does not stay where it would be loaded, or packed by what follows; all else stays."""
    built, other = source / "out" / ENGINE, source / "out" / "other"
    leave(built, other)
    command = "setup.py build --build-lib out --build-base out build_ext --inplace".split()
    failed = python(*command, cwd=source, **NO_COMPILER)
    assert failed.returncode == 0 and "could not be built" in failed.stdout, failed.stdout
    assert not (source / ENGINE).exists() and not built.exists()
    assert other.exists()  # only folders that setuptools named are emptied


@pytest.mark.slow
def test_no_wheel_has_what_an_earlier_build_left(source, tmp_path):
    """An engine, and a module that there no longer is, in every folder that a build leaves."""
    platform = sysconfig.get_platform()
    lib = source / "build" / f"lib.{platform}-{sys.implementation.cache_tag}"
    bdist = source / "build" / f"bdist.{platform}" / "wheel"
    removed = "fastlstm/engines/_removed.py"
    leave(lib / ENGINE, lib / removed, bdist / ENGINE, bdist / removed)
    listed = source / "fastlstm.egg-info" / "SOURCES.txt"
    listed.parent.mkdir()
    listed.write_text(f"{ENGINE}\nbuild/{lib.name}/{ENGINE}\n")
    failed = build_wheel(source, tmp_path, **NO_COMPILER)
    assert failed.returncode == 0 and "could not be built" in failed.stdout, failed.stdout
    assert (source / ENGINE).exists()  # nothing was to be built in place
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    assert "fastlstm/__init__.py" in names and not names & {ENGINE, removed}
    assert not [n for n in in_sdist(build_sdist(source)) if n.endswith((ENGINE, removed))]


@pytest.mark.slow
def test_an_editable_install_loads_no_engine_of_an_earlier_build(source):
    code = "import setuptools.build_meta; setuptools.build_meta.build_editable('..')"
    failed = python("-c", code, cwd=source, **NO_COMPILER)
    assert failed.returncode == 0 and "could not be built" in failed.stdout, failed.stdout
    assert not (source / ENGINE).exists()


def test_required_without_a_compiler(sdist, tmp_path):
    built = build_wheel(sdist, tmp_path, **NO_COMPILER | {"FASTLSTM_REQUIRE_NATIVE": "1"})
    assert built.returncode != 0 and "/nonexistent" in built.stdout
    assert not [*tmp_path.glob("*.whl")]


@pytest.mark.parametrize(
    "name, flags",
    [("CFLAGS", "-g0 -ffast-math"), ("LDFLAGS", "-Ofast"), ("CFLAGS", "-ffp-contract=fast")],
)
def test_inexact_mathematics_is_refused(sdist, tmp_path, name, flags):
    """There is neither an engine with other bits, nor a package that lacks it in silence."""
    built = build_wheel(sdist, tmp_path, **{name: flags})
    assert built.returncode != 0 and f"{name} holds {flags.split()[-1]}" in built.stdout
    assert "build without it" in built.stdout
    assert not [*tmp_path.glob("*.whl")]


@pytest.mark.parametrize(
    "system, kinds",
    [("linux", ("manylinux", "musllinux")), ("macos", ("macosx",)), ("windows", ("win",))],
)
def test_wheels_of_a_release(system, kinds):
    """Those that cibuildwheel reads out of pyproject.toml."""
    pytest.importorskip("cibuildwheel", reason="needs cibuildwheel, which says what it would build")
    command = ["-m", "cibuildwheel", "--print-build-identifiers", "--platform", system]
    printed = python(*command, cwd=ROOT)
    assert printed.returncode == 0, printed.stdout
    wheels = {name.partition("_")[0] for name in printed.stdout.split()}
    pythons = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t")
    assert wheels == {f"{python}-{kind}" for python in pythons for kind in kinds}
