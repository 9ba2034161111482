PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo results test test-slow test-gpu sanitize bench setup wheel docs lint lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv and install everything; quick when nothing changed

# constraints.txt makes the installation repeatable; the stamp is newer than what it was made from.
$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install Python 3.11 or name another with make PYTHON=..." >&2; exit 1; }
	@echo "installing torch and the rest into $(VENV): minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	-$(BIN)/python -m multimax.kernels
	@touch $@

# Its C++ is compiled, minutes on two cores, against the torch that is here: pip would else fetch another one for it.
# torchaudio, which it asks for and translation does not use, is made for another CUDA and breaks importing transformers.
$(VENV)/.fairseq: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cython 'setuptools>=77' wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,fairseq]'
	$(BIN)/python -m pip uninstall --quiet --yes torchaudio
	@touch $@

demo: setup ## train a DeiT with MultiMax on digits that ship with scikit-learn: two minutes on two cores
	$(BIN)/python train.py task=deit reweight=multimax scale=demo
	@echo "look at runs/deit-digits-multimax-*/summary.json; next: source $(BIN)/activate, then"
	@echo "  python train.py reweight=softmax                        # the same with softmax"
	@echo "  python -m multimax.suite.report serve runs              # both in a browser"

results: setup ## make every table and figure in results/ from the runs recorded there
	$(BIN)/python -m multimax.suite.report

test: $(VENV)/.fairseq lint ## install fairseq, check style and types, run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu"

test-slow: $(VENV)/.fairseq ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/.fairseq ## speed and memory beside other implementations: a quarter of an hour on two quiet cores
	$(BIN)/python -m benchmarks

# The address sanitizer must be loaded before Python is. torch's OpenMP is not instrumented: the thread sanitizer has a
# program without torch.
sanitize: setup ## the C++ kernels under the address, undefined-behaviour and thread sanitizers
	mkdir -p .cache
	for sanitizer in thread address,undefined; do \
		g++ -std=c++20 -O1 -g -march=native -fsanitize=$$sanitizer -fno-sanitize-recover=undefined -Wno-psabi \
			-Wno-ignored-attributes -Imultimax/kernels/cpu tests/kernels/rows_alone.cpp -o .cache/rows_alone -pthread && \
		.cache/rows_alone || exit 1; \
	done
	CXX=g++ CXXFLAGS='-g -fsanitize=address,undefined -fno-sanitize-recover=undefined' \
		TORCH_EXTENSIONS_DIR=.cache/sanitize ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest -p no:cacheprovider tests/kernels/test_cpu_arguments.py \
		tests/kernels/test_cpu_attention.py tests/kernels/test_cpu_rows.py -k "not blocks and not graph_break"

wheel: setup ## dist/*.whl with the configurations and the compiled kernels: users need no compiler
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'setuptools>=77' wheel
	rm -rf build  # setuptools would carry what was removed since
	MULTIMAX_WHEEL_KERNELS=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps -w dist .

docs: setup ## the documentation as a site, docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: setup ## write the versions in .venv to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean: ## remove .venv and caches, never runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
