"""What setup.py asks of the compilers of Windows, which here are pretended."""

import os
import pathlib
import runpy
import types

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pretends compilers by shell scripts")

setuptools = pytest.importorskip("setuptools", reason="runs setup.py")
errors = pytest.importorskip("setuptools.errors")
pytest.importorskip("Cython", reason="runs setup.py")

SETUP = pathlib.Path(__file__).parents[1] / "setup.py"


@pytest.fixture
def names(monkeypatch):
    """The names of setup.py, which sets up nothing."""
    monkeypatch.chdir(SETUP.parent)
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.setenv("CFLAGS", "-Wall")
    monkeypatch.delenv("CC", raising=False)
    return types.SimpleNamespace(**runpy.run_path(str(SETUP)))


def program(*parts, prints=""):
    """Make a program that can be run, which prints this; return its path."""
    path = pathlib.Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return str(path)


class VisualStudio:
    """What distutils' class of Visual Studio's compiler has of what setup.py uses."""

    compiler_type = "msvc"
    initialized = False

    def __init__(self, folder):
        self.tools = folder / "VC" / "Tools"

    def initialize(self, plat_name):
        """Find the compiler, as is only done when it is needed."""
        assert not self.initialized
        self.initialized, self.plat_name = True, plat_name
        self.cc = program(self.tools, "MSVC", "14.44", "bin", "HostX86", "x64", "cl.exe")
        self.compile_options = ["/nologo", "/O2", "/W3", "/GL", "/DNDEBUG", "/MD"]


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """Visual Studio in a folder of its own, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("ProgramFiles", str(tmp_path / "programs"))
    return VisualStudio(tmp_path / "programs" / "Microsoft Visual Studio")


def places(tmp_path, studio):
    """Where clang-cl is looked for, the first place first."""
    return [
        (tmp_path / "path", "clang-cl"),
        (studio.tools, "Llvm", "x64", "bin", "clang-cl"),
        (studio.tools, "Llvm", "ARM64", "bin", "clang-cl"),
        (studio.tools, "Llvm", "bin", "clang-cl"),
        (tmp_path / "programs", "LLVM", "bin", "clang-cl"),
    ]


@pytest.mark.parametrize("place", range(5))
def test_clang_cl_takes_the_place_of_the_own_compiler(names, studio, tmp_path, place):
    """The first that is found, and Visual Studio's remains where it is."""
    found = [program(*parts) for parts in places(tmp_path, studio)[place:]]
    names.fit_to_windows(names.native, studio, "win-amd64")
    assert studio.cc == found[0]
    assert studio.plat_name == "win-amd64"
    assert studio.compile_options == ["/nologo", "/O2", "/W3", "/DNDEBUG", "/MD"]


@pytest.mark.parametrize(
    "plat_name, processor", [("win-amd64", "x86_64"), ("win-arm64", "aarch64"), ("win32", "i686")]
)
def test_options_of_clang_cl(names, studio, tmp_path, plat_name, processor):
    """They are those of Clang, each marked as such; CFLAGS come last."""
    program(tmp_path, "path", "clang-cl")
    asked = names.native.extra_compile_args
    assert "-ffp-contract=off" in asked and "-pthread" in asked and asked[-1] == "-Wall"
    names.fit_to_windows(names.native, studio, plat_name)
    target, *rest = names.native.extra_compile_args
    assert target == f"--target={processor}-pc-windows-msvc"
    assert rest == [f"/clang:{flag}" for flag in asked if flag != "-pthread"]
    assert names.native.extra_link_args == []


def test_cc_names_clang_cl(names, studio, tmp_path, monkeypatch):
    """It comes before what is on the PATH, and need not be there."""
    program(tmp_path, "path", "clang-cl")
    monkeypatch.setenv("CC", program(tmp_path, "own", "clang-cl-20"))
    names.fit_to_windows(names.native, studio, "win-amd64")
    assert studio.cc == str(tmp_path / "own" / "clang-cl-20")


@pytest.mark.parametrize("named", ["", "no-compiler", "gcc"])
def test_without_clang_cl(names, studio, tmp_path, monkeypatch, named):
    """The error says what is missing and where to get it; another compiler is not taken for it."""
    program(tmp_path, "path", "gcc")
    if named:
        program(tmp_path, "programs", "LLVM", "bin", "clang-cl")  # is not asked for
        monkeypatch.setenv("CC", named)
    with pytest.raises(
        errors.CompileError, match=f"{named or 'clang-cl'} is not .* C\\+\\+ Clang tools"
    ):
        names.fit_to_windows(names.native, studio, "win-amd64")
    assert studio.cc.endswith("cl.exe")


@pytest.mark.parametrize("plain", [True, False])
def test_mingw(names, tmp_path, plain):
    """GCC may not take its stack for aligned, a Clang of the same name may; no pthreads library."""
    told = "gcc (Rev8, MSYS2) 15.2.0" if plain else "clang version 21.1.0, x86_64-w64-windows-gnu"
    compiler = types.SimpleNamespace(
        compiler_type="mingw32", compiler_so=[program(tmp_path, "gcc", prints=told), "-mdll"]
    )
    asked = names.native.extra_compile_args
    names.fit_to_windows(names.native, compiler, "win-amd64")
    unaligned = ["-Wa,-muse-unaligned-vector-move"] if plain else []
    assert names.native.extra_compile_args == unaligned + [f for f in asked if f != "-pthread"]
    assert names.native.extra_link_args == ["-static-libgcc"]


def test_mingw_without_a_compiler(names):
    """That there is none is left to be told by the build itself."""
    compiler = types.SimpleNamespace(compiler_type="mingw32", compiler_so=["/nonexistent"])
    names.fit_to_windows(names.native, compiler, "win-amd64")
    assert "-ffp-contract=off" in names.native.extra_compile_args
