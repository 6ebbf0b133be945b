# Sets up everything by itself: any target makes .venv first, if it is absent or the pins have changed.

.DEFAULT_GOAL := help
.PHONY: help repro test test-all test-sweep test-training test-executorch lint format browser web toolchains uv executorch demo on-device example bench bench-scale fuzz sweep bench-sweep apple-tests second-judge lock clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SWEEPING := $(VENV)/installed-sweep
TRAINING := $(VENV)/installed-training
EXECUTORCH := $(VENV)/installed-executorch
# DVC runs `python ...`: let that be this environment's. Paths are relative, for a checkout with a space in its path.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
SOURCES := stages commands examples tests
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

help:  ## Explain the targets
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

repro: $(INSTALLED)  ## Run the whole pipeline (dvc repro) and print the figures of every model
	@if command -v npm >/dev/null; then NPM_CONFIG_FETCH_RETRIES=0 $(MAKE) --silent --no-print-directory web \
	  || echo 'onnxruntime-web was not installed: nothing is run as browsers do'; fi
	@$(RUN) python -m dvc repro || { $(RUN) python commands/check_lock.py; exit 1; }
	@$(RUN) python commands/show_metrics.py

test: lint  ## Lint, check types, run all tests
	@$(RUN) python -m pytest -n auto --dist worksteal

test-all: lint  ## As test, and every kind of net in docs/nets.md through every format, not a sixth of them (some minutes more)
	@ALL_TESTS=1 $(RUN) python -m pytest -n auto --dist worksteal

lint: $(INSTALLED)  ## Lint and check types only
	@$(RUN) ruff check $(SOURCES)
	@$(RUN) ruff format --check $(SOURCES)
	@$(RUN) mypy

format: $(INSTALLED)  ## Format the sources and sort their imports
	@$(RUN) ruff check --fix $(SOURCES)
	@$(RUN) ruff format $(SOURCES)

WEB := web/node_modules/.package-lock.json
web: $(WEB)  ## Install ONNX Runtime for WebAssembly into web/ (needs npm)

TOOLCHAINS := commands/toolchains/node_modules/.package-lock.json
toolchains: $(TOOLCHAINS)  ## Install what the verifiers in C and Kotlin are compiled with (240 MB; needs npm)
	@if [ -e /usr/include/cjson/cJSON.h ] && [ -e /usr/share/java/com.android.json.jar ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo 'cJSON for C and org.json for Kotlin: install them yourself'; exit 0; fi; \
	$(AS_ROOT) apt-get update --quiet && \
	$(AS_ROOT) apt-get install --yes --quiet --no-install-recommends libcjson-dev libandroid-json-java

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@if ! command -v npm >/dev/null; then echo 'npm is needed: install Node.js 20 or newer' >&2; exit 1; fi
	@npm --prefix $* ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Each part runs whatever became of those before it, and the exit code is of all.
on-device: $(INSTALLED)  ## Check the release bundle, training and ExecuTorch in all that this machine has or can get (some minutes)
	@$(MAKE) -j1 --keep-going --silent --no-print-directory web toolchains \
	  || echo 'Not all could be installed: what is missing is named below'
	@$(MAKE) -j1 --keep-going --silent --no-print-directory on-device-bundle on-device-training on-device-executorch

.PHONY: on-device-bundle on-device-training on-device-executorch
on-device-bundle:
	@$(RUN) python commands/on_device.py

on-device-training:
	@echo && echo 'Training on the device: what the optional stage training_artifacts makes, tried (make test-training)'
	@if $(MAKE) --silent $(TRAINING); then $(MAKE) --silent test-training; \
	else echo 'not run: requirements-training.txt cannot be installed here'; fi

on-device-executorch:
	@echo && echo 'ExecuTorch: its programs through all stages (make test-executorch tries every kind of net as well)'
	@if $(MAKE) --silent $(EXECUTORCH); then \
	EXECUTORCH_TESTS=1 $(RUN) python -m pytest -q --disable-warnings tests/test_executorch.py; \
	else echo 'not run: requirements-executorch.txt cannot be installed here'; fi

demo: $(INSTALLED) $(WEB)  ## Try the model in a browser: serves a page on 127.0.0.1
	@$(RUN) python commands/demo.py

example: $(INSTALLED)  ## Run real recordings through the pipeline: NAME=basic_motions or NAME=japanese_vowels
	@$(RUN) python examples/run.py $(NAME)

browser:  ## Make sure that a browser is there for the tests of the pages: installs Debian's Chromium if need be
	@for program in $(BROWSERS); do if command -v "$$program" >/dev/null; then exit 0; fi; done; \
	if [ -d "/Applications/Google Chrome.app" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo 'Chromium or Google Chrome is needed: install one' >&2; exit 1; fi; \
	$(AS_ROOT) apt-get update --quiet && $(AS_ROOT) apt-get install --yes --quiet --no-install-recommends chromium

bench: $(INSTALLED)  ## Measure speed, as ratios in one run: SECTIONS="latency training" for some alone
	@$(RUN) python commands/bench.py $(SECTIONS)

bench-scale: $(INSTALLED)  ## Measure time and memory of every stage at 10,000 to 10,000,000 sequences
	@$(RUN) python commands/bench_scale.py $(SEQUENCES)

fuzz: $(INSTALLED)  ## Damage what the last run wrote, 12,000 times, and read it: only clean errors are allowed
	@$(RUN) python commands/fuzz.py

sweep: $(SWEEPING)  ## Search parameters, each trial a DVC experiment: SPACE=sweeps/learning_rate.yaml
	@$(RUN) python commands/sweep.py $(SPACE) $(OPTIONS)

test-sweep: $(SWEEPING)  ## Test sweeps, also on a cluster and with real remotes (needs sshd; a quarter of an hour)
	@SWEEP_TESTS=1 $(RUN) python -m pytest tests/sweep

uv: $(TRAINING)  ## Install uv, which the optional stage training_artifacts needs

test-training: $(TRAINING)  ## Test that what is exported trains further on a device
	@TRAINING_TESTS=1 $(RUN) python -m pytest -q --disable-warnings tests/test_training_artifacts.py tests/shared/device_training

executorch: $(EXECUTORCH)  ## Install ExecuTorch, for which export.formats may then name executorch

test-executorch: $(EXECUTORCH)  ## Test ExecuTorch programs through all stages, and its column of docs/nets.md (a quarter of an hour)
	@EXECUTORCH_TESTS=1 $(RUN) python -m pytest -q --disable-warnings -n auto tests/test_executorch.py tests/test_nets.py -k executorch

bench-sweep: $(SWEEPING)  ## Measure sweeps: trials a minute beside DVC's own queue, and what early answers save
	@$(RUN) python commands/bench_sweep.py

apple-tests: $(INSTALLED)  ## Run Apple's own tests against our Core ML evaluator (about a quarter of an hour)
	@$(RUN) python tests/apple_tests/run.py --suite all --jobs 2 --report docs/coreml_coverage.md

second-judge: $(INSTALLED)  ## Hold our Core ML evaluator to Apple's Core AI runtime, module by module (some minutes)
	@$(RUN) python tests/second_judge/run.py --report docs/second_judge.md

# With uv, which resolves for every supported Python and system at once; it is installed for this alone.
LOCKED := requirements.lock requirements-torch.lock requirements-coreai.lock
UV := .venv-uv
COMPILE = $(UV)/bin/uv pip compile $(1) --constraint constraints.txt \
  --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
OF_TORCH = torch triton $(shell grep -oE '^(nvidia|cuda)-[a-z0-9-]+' constraints.txt)
OF_COREAI = $(shell grep -oE '^[a-z-]+' requirements-coreai.txt)
ONLY = awk -v names=' $(1) ' '/^[a-z]/ {split($$1, name, "=="); keep = index(names, " " name[1] " ")} keep'
lock:  ## Resolve requirements.txt anew into the files with hashes that are installed from (needs no .venv)
	python3 -m venv --clear $(UV) && $(UV)/bin/python -m pip install --quiet uv
	{ echo '# All but torch, with hashes. Made by `make lock` (uv pip compile) from requirements.txt and constraints.txt.'; \
	  $(call COMPILE,requirements.txt) $(addprefix --no-emit-package ,$(OF_TORCH)); } > requirements.lock
	{ echo '# torch as PyPI has it (on Linux with CUDA), with hashes. Made by `make lock` (uv pip compile).'; \
	  $(call COMPILE,requirements.txt) | $(call ONLY,$(OF_TORCH)); } > requirements-torch.lock
	{ echo '# What Core AI needs beside requirements.lock, with hashes. Made by `make lock` (uv pip compile).'; \
	  $(call COMPILE,requirements.txt requirements-coreai.txt) | $(call ONLY,$(OF_COREAI)); } > requirements-coreai.lock
	$(UV)/bin/uv lock --quiet --upgrade --script stages/shared/device_training/make_artifacts.py
	rm -rf $(UV)

clean:  ## Delete the environment and the tools' caches; data, models and DVC's cache stay
	rm -rf $(VENV) $(UV) .mypy_cache .pytest_cache .ruff_cache

# With $(PYTHON), or else the first Python of a supported version. Every package is held to its hash but torch, of which
# there are builds that PyPI lacks, such as PyTorch's own for the CPU: it is what pip finds here in the version that is
# pinned. `make TORCH='--require-hashes -r requirements-torch.lock'` takes PyPI's build of it, by its hash.
TORCH := -c requirements.txt torch
$(INSTALLED): requirements.txt requirements-coreai.txt constraints.txt $(LOCKED)
	@python=''; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed; found $(if $(PYTHON),$(PYTHON): )$$("$(or $(PYTHON),python3)" --version 2>&1 || true). Install one, or make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; fi; \
	echo "Installing into $(VENV) with $$("$$python" --version): some minutes, once"; \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-coreai.lock || \
	  echo 'Core AI is left out: its packages could not be installed here (requirements-coreai.txt says for which machines they are)' >&2
	@touch $(INSTALLED)
	@for file in $^; do if [ "$$file" -nt $(INSTALLED) ]; then touch -r "$$file" $(INSTALLED); fi; done  # a clock set back

# What a sweep needs beside the rest; the pipeline does without.
$(SWEEPING): $(INSTALLED) requirements-sweep.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-sweep.txt -c constraints.txt
	@touch $(SWEEPING)

# What the stage training_artifacts needs beside the rest; all else it installs by itself.
$(TRAINING): $(INSTALLED) requirements-training.txt
	@echo 'Installing uv into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-training.txt
	@touch $(TRAINING)

# What the format ExecuTorch needs beside the rest; without it, a note stands in place of its file.
$(EXECUTORCH): $(INSTALLED) requirements-executorch.txt
	@echo 'Installing ExecuTorch into $(VENV): a minute, once'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-executorch.txt -c constraints.txt
	@touch $(EXECUTORCH)
