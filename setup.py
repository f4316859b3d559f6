"""The native engine; everything else about the package stands in pyproject.toml.

Where it cannot be built, the build says so in one sentence and gives a package that runs on its
other engines; FASTLSTM_REQUIRE_NATIVE=1 makes that an error. CFLAGS come last and win.
"""

import glob
import os
import shlex

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError


class BuildNative(build_ext):
    """Builds the native engine, or says what it means that it could not be built."""

    def build_extension(self, ext):
        try:
            if self.compiler.compiler_type == "msvc":
                raise CompileError("MSVC lacks the vector types of GCC and Clang")
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            if not ext.optional:
                raise
            self.warn(
                f"the native engine could not be built ({error}): fastlstm will run on numba or "
                "numpy; with GCC or Clang it is faster"
            )


native = Extension(
    "fastlstm.engines._native",
    ["fastlstm/engines/_native.pyx", *sorted(glob.glob("fastlstm/native/*.c"))],
    depends=sorted(glob.glob("fastlstm/native/*.[hi]*")),
    include_dirs=["fastlstm/native", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=[
        "-std=c11",
        "-O3",
        # a multiply-add is fused where the kernels say so and nowhere else, whatever the machine
        "-ffp-contract=off",
        "-fvisibility=hidden",
        "-pthread",
        "-g0",
        *shlex.split(os.environ.get("CFLAGS", "")),
    ],
    extra_link_args=["-pthread"],
    optional=os.environ.get("FASTLSTM_REQUIRE_NATIVE") != "1",
)

setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
