"""The optional C extension; everything else about the package stands in pyproject.toml.

Without a compiler the build says so in one line and gives a package that runs on its other
engines; FASTLSTM_REQUIRE_NATIVE=1 makes that an error.
"""

import os

from setuptools import Extension, setup

SOURCE = "fastlstm/engines/_native.pyx"
required = os.environ.get("FASTLSTM_REQUIRE_NATIVE") == "1"

native = Extension("fastlstm.engines._native", [SOURCE], optional=not required)

setup(ext_modules=[native] if required or os.path.exists(SOURCE) else [])
