# make demo | test | test-all | bench | claims-quick | claims | peers | fuzz | kernels | docs | lint: each sets up what it needs
# in .venv, and is quick the second time.

PYTHON ?= python3
TORCH ?= torch==2.13.0
# The tool that its integration is tested against. In a folder of its own, and without what it asks for: that
# would replace torch, and a torchvision that does not fit torch is no good to others either.
BREACHING ?= breaching==0.1.2 lpips==0.1.4 torchvision==0.28.0
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SOURCES := $(shell find csrc -type f)
CXX_FILES := $(shell find csrc tests -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# Modules of the API reference that `make docs` builds.
API := sapag_fast $(addprefix sapag_fast., search.recipe search.options victim.surrogate recovery.certificate distances \
	distances.sums matching.explicit models clients.training data clients.defences reports.metrics)

.PHONY: demo test test-all test-long mutations bench claims claims-quick peers fuzz kernels docs lint format clean

demo: $(VENV)/built
	$(BIN)/sapag-fast demo --output demo_output --overwrite

# OPTIONS are pytest's, such as -x.
test: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(OPTIONS)

# What `make test` leaves out: the long tests, and the mutations of the CUDA sources that the tests must notice.
test-all: test test-long mutations

test-long: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m long $(OPTIONS)

# BUDGET=N: no further mutation is started after so many seconds.
mutations: $(VENV)/built
	$(BIN)/python tests/csrc/mutations.py $(if $(BUDGET),--seconds $(BUDGET))

bench: $(VENV)/built
	$(BIN)/python -m pytest benchmarks --benchmark-disable-gc
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search.step_speed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search.optimizer_speed
	$(BIN)/python -m benchmarks.search.attack_speed --threads 1
	$(BIN)/python -m benchmarks.report.tables

# DATA=FOLDER: with mnist (IDX), cifar10/train and cifar10/test (class folders), cola (TSV). Both go on where they
# were stopped; claims takes hours, claims-quick minutes.
claims claims-quick: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.claims --data $(or $(DATA),$(error say DATA=FOLDER)) --workers $(WORKERS) $(if $(filter %-quick,$@),--quick)

# DATA=FOLDER: with cifar10/test (class folders). A quarter of an hour on two idle cores.
peers: $(VENV)/built
	$(BIN)/python -m benchmarks.peers --data $(or $(DATA),$(error say DATA=FOLDER))
	$(BIN)/python -m benchmarks.report.tables

# SEED=N, PARTS="tables files" (all), BUDGET=seconds: goes on where the same seed was stopped on the same sources.
fuzz: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability --seed $(or $(SEED),0) --workers $(WORKERS) $(if $(PARTS),--part $(PARTS)) $(if $(BUDGET),--budget $(BUDGET))

kernels: $(VENV)/built
	$(BIN)/python -m benchmarks.kernels.cuda_machine_code
	$(BIN)/python -m benchmarks.kernels.triton_machine_code

docs: $(VENV)/built
	$(BIN)/pip install --quiet "pdoc>=15"
	$(BIN)/pdoc --docformat numpy --output-directory docs/api $(API)

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build *.egg-info sapag_fast/*.so

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=77" wheel ninja numpy
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/built: $(VENV)/torch setup.py pyproject.toml $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[all,test,lint]"
	-$(BIN)/pip install --quiet --upgrade --target $(VENV)/breaching --no-deps $(BREACHING)
	-$(BIN)/pip install --quiet --upgrade --target $(VENV)/breaching "hydra-core>=1.3" tqdm
	touch $@

