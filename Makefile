# Every target but `clean` prepares what it needs in .venv, on a fresh machine too;
# a stamp file for each set of packages makes the second call quick.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check
SETUP := $(VENV)/.created pyproject.toml setup.py
# Packages that carry a trained model. Their own dependencies are not needed to read it.
G2PM := g2pM==0.1.2.5
SILERO := silero-vad==6.2.3

.PHONY: demo test bench lint clean

demo: $(VENV)/.demo
	$(RUN) examples/pinyin.py

test: $(VENV)/.test
	$(RUN) -m pytest

bench: $(VENV)/.bench
	$(RUN) -m pytest -p benchmarks benchmarks --benchmark-only

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(SETUP)
	$(INSTALL) --editable ".[numba]"
	$(INSTALL) --no-deps $(G2PM)
	touch $@

$(VENV)/.test: $(SETUP)
	$(INSTALL) --editable ".[test]"
	$(INSTALL) --no-deps $(G2PM) $(SILERO)
	touch $@

$(VENV)/.bench: $(SETUP)
	$(INSTALL) --editable ".[bench]"
	touch $@

$(VENV)/.dev: $(SETUP)
	$(INSTALL) --editable ".[dev]"
	touch $@
