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
import re
import shlex
import time
from logging import INFO

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

# Options of GCC and Clang that let sums be taken in another order, products fused, nan or signs of
# zero forgotten. A compiler tells the sources of some alone, which then refuse (internal.h).
INEXACT = re.compile(
    "-Ofast|-f(fast-math|finite-math-only|unsafe-math-optimizations|associative-math"
    "|reciprocal-math|no-signed-zeros|fp-contract=(?!off).*|fp-model=(?!strict).*)"
)
FLAGS = {name: shlex.split(os.environ.get(name, "")) for name in ("CFLAGS", "LDFLAGS")}


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
            if self.compiler.compiler_type == "msvc":
                raise CompileError("MSVC lacks the vector types of GCC and Clang")
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


native = Extension(
    "fastlstm.engines._native",
    ["fastlstm/engines/_native.pyx", *sorted(glob.glob("fastlstm/native/*.c"))],
    depends=sorted(glob.glob("fastlstm/native/*.[hi]*")),
    include_dirs=["fastlstm/native", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=[
        "-std=c11",
        # -O3 takes a third more of the compiler's time, and saves none of ours.
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

setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
