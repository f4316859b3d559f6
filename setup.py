"""The native engine; everything else about the package stands in pyproject.toml.

Where it cannot be built, the build says so in one sentence and gives a package that runs on its
other engines; FASTLSTM_REQUIRE_NATIVE=1 makes that an error. CFLAGS come last and win; one that
changes what numbers come out, such as -ffast-math, is always an error.
"""

import concurrent.futures
import contextlib
import glob
import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time
from logging import INFO

import numpy
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

# Options of GCC and Clang that let sums be taken in another order, products fused, nan or signs of
# zero forgotten. A compiler tells the sources of some alone, which then refuse (internal.h).
INEXACT = re.compile(
    "-Ofast|-f(fast-math|finite-math-only|unsafe-math-optimizations|associative-math"
    "|reciprocal-math|no-signed-zeros|fp-contract=(?!off).*|fp-model=(?!strict).*)"
)
FLAGS = {name: shlex.split(os.environ.get(name, "")) for name in ("CFLAGS", "LDFLAGS")}


class BuildAnew(build):
    """Builds into empty folders: what an earlier build left there would be packed."""

    def run(self):
        bdist = self.get_finalized_command("bdist").bdist_base
        for folder in (self.build_lib, bdist):
            # only a folder that setuptools has named, such as build/lib.linux-x86_64-cpython-311
            if os.path.basename(folder).startswith(("lib", "bdist.")):
                shutil.rmtree(folder, ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Builds the native engine, or says what it means that it could not be built."""

    def run(self):
        """Build, after removing what an earlier build left: it would stand in for what fails now.

        It may also be of another compiler or of other flags, which nobody would notice.
        """
        for ext in self.extensions:
            built = os.path.join(self.build_lib, self.get_ext_filename(ext.name))
            for path in {built, self.get_ext_fullpath(ext.name)}:  # the latter may be in the source
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
        super().run()

    def build_extension(self, ext):
        for name, flags in FLAGS.items():
            for flag in filter(INEXACT.fullmatch, flags):
                raise SystemExit(
                    f"{name} holds {flag}, with which fastlstm's results would not be the same "
                    "bits on every machine, and not right for inf and nan: build without it"
                )
        try:
            if self.compiler.compiler_type in ("msvc", "mingw32"):
                fit_to_windows(ext, self.compiler, self.plat_name)
            self.compile_side_by_side()
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            if not ext.optional:
                raise
            self.warn(
                f"the native engine could not be built ({error}): fastlstm will run on numba or "
                "numpy; with GCC or Clang it is faster"
            )

    def compile_side_by_side(self):
        """Let the compiler take as many sources at once as there are processors.

        The kernels of an instruction set take several seconds, and each set has a file of its own.
        What is done is told, where the user asked to hear it (`pip install --verbose`).
        """
        compile_all = self.compiler.compile
        done = itertools.count(1)

        def compile_one(source, total, *arguments, **options):
            began = time.perf_counter()
            made = compile_all([source], *arguments, **options)
            seconds = time.perf_counter() - began
            self.announce(f"compiled {source} in {seconds:.1f} s, {next(done)} of {total}", INFO)
            return made

        def compile_each(sources, *arguments, **options):
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [
                    pool.submit(compile_one, source, len(sources), *arguments, **options)
                    for source in sources
                ]
                try:
                    return [made for job in jobs for made in job.result()]
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise

        self.compiler.compile = compile_each


# ---- Windows --------------------------------------------------------------------------------

PROCESSORS = {"win32": "i686", "win-amd64": "x86_64", "win-arm64": "aarch64"}


def fit_to_windows(ext, compiler, plat_name):
    """Say what the extension asks of a compiler in the words of the one that is to be used."""
    gcc = [flag for flag in ext.extra_compile_args if flag != "-pthread"]
    if compiler.compiler_type == "msvc":
        use_clang_cl(compiler, plat_name)
        target = f"--target={PROCESSORS[plat_name]}-pc-windows-msvc"
        ext.extra_compile_args = [target, *(f"/clang:{flag}" for flag in gcc)]
        ext.extra_link_args = []
    else:
        # GCC's stack is not aligned to the vectors that it keeps there (its bug 54412), Clang's is.
        unaligned = [] if is_clang(compiler.compiler_so[0]) else ["-Wa,-muse-unaligned-vector-move"]
        ext.extra_compile_args = [*unaligned, *gcc]
        ext.extra_link_args = ["-static-libgcc"]  # so that no library of MinGW need be found


def use_clang_cl(compiler, plat_name):
    """Put clang-cl in the place of Visual Studio's own compiler, whose libraries it uses.

    It is the one that CC names, or that is on the PATH, came with Visual Studio or with LLVM.
    """
    if not compiler.initialized:
        compiler.initialize(plat_name)
    tools = [folder for folder in pathlib.Path(compiler.cc).parents if folder.name == "Tools"]
    programs = os.environ.get("ProgramFiles", r"C:\Program Files")
    folders = [
        *(folder / "Llvm" / kind / "bin" for folder in tools for kind in ("x64", "ARM64", "")),
        pathlib.Path(programs, "LLVM", "bin"),
    ]
    name = os.environ.get("CC") or "clang-cl"
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if not found or "clang-cl" not in os.path.basename(found).lower():
        raise CompileError(
            f"{name} is not a clang-cl that is here, and Visual Studio's own compiler lacks the "
            "vectors and atomics of GCC and Clang: add its component C++ Clang tools for Windows"
        )
    compiler.cc = found
    # an option of the own compiler alone, at which Clang would warn for each source
    compiler.compile_options = [option for option in compiler.compile_options if option != "/GL"]


def is_clang(compiler):
    """Whether this compiler, of whatever name, is Clang."""
    with contextlib.suppress(OSError):
        told = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        return "clang" in told.stdout.lower()
    return False


native = Extension(
    "fastlstm.engines._native",
    ["fastlstm/engines/_native.pyx", *sorted(glob.glob("fastlstm/native/*.c"))],
    depends=sorted(glob.glob("fastlstm/native/*.[hi]*")),
    include_dirs=["fastlstm/native", numpy.get_include()],
    # FL_API: the extension exports nothing of the C library that it holds
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("FL_API", "")],
    extra_compile_args=[
        "-std=c11",
        # -O3 takes a quarter more of the compiler's time, and saves none of ours.
        "-O2",
        "-fpeel-loops",
        "-Wno-ignored-optimization-argument",  # Clang does without peeling
        # a multiply-add is fused where the kernels say so and nowhere else, whatever the machine
        "-ffp-contract=off",
        "-fvisibility=hidden",
        "-pthread",
        "-g0",
        *FLAGS["CFLAGS"],
    ],
    extra_link_args=["-pthread"],
    optional=os.environ.get("FASTLSTM_REQUIRE_NATIVE") != "1",
)

setup(ext_modules=[native], cmdclass={"build": BuildAnew, "build_ext": BuildNative})
