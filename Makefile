# Each target sets up what it needs: a virtual environment (.venv, .venv-*) with the package, built in
# place. PYTHON chooses the interpreter for it.

PYTHON ?= python3
FUZZ_SECONDS ?= 3600
BIN := .venv/bin
SOURCES := $(wildcard src_c/* cyopt/*.pyx cyopt/*.px[di] cyopt/bench/*.pyx) setup.py pyproject.toml
# Installs into the environment $(1); setuptools would warn that cyopt may be imported from this
# folder, which is intended.
INSTALL = PYTHONWARNINGS=ignore $(1)/bin/pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-all test-cuda test-gpu test-hosts test-mpi sanitize fuzz fuzz-c bench \
	bench-gpu bench-hosts bench-mpi lint clean
.PRECIOUS: .venv-hosts-%/built

help:  ## This list.
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 14

demo: .venv/built  ## Train on handwritten digits with NumPy's Adam and with cyopt's.
	$(BIN)/python -m cyopt demo

test: .venv/built  ## The tests; a fixed sample where the whole matrix would take too long.
	$(BIN)/python -m pytest

test-all: .venv/built  ## The tests with the whole of every matrix, and the installs.
	$(BIN)/python -m pytest --full

# In separate environments: the hosts of tests/hosts, and torch, which is large. TORCH_newest and
# TORCH_year-old are the torch that pip installs; empty for none.
INSTALL_TORCH = $(if $(TORCH_$(1)),$(call INSTALL,.venv-hosts-$(1)) $(TORCH_$(1)))
HOST_TESTS := $(addprefix tests/test_,$(addsuffix .py,autograd docs hosts numba sklearn \
	sklearn_switch spacy thinc torch torch_counters torch_gpu torch_groups torch_state \
	torch_tensors torch_whole bench_hosts)) cyopt/integrations
TORCH_newest ?= torch
TORCH_year-old ?= torch==2.9.1
test-hosts: test-hosts-newest test-hosts-year-old  ## The integrations, with the newest hosts and with year-old ones.

test-hosts-%: .venv-hosts-%/built
	$(call INSTALL_TORCH,$*)
	.venv-hosts-$*/bin/python -m pytest $(HOST_TESTS)

.venv-hosts-%/built: tests/hosts/%.txt $(SOURCES)
	@echo "Building cyopt into .venv-hosts-$* with the hosts of $<: some minutes."
	@$(PYTHON) -m venv .venv-hosts-$*
	@$(call INSTALL,.venv-hosts-$*) -r $<
	@$(call INSTALL,.venv-hosts-$*) --editable ".[test]"
	@touch $@

test-mpi: .venv-mpi/built  ## The tests of several ranks, with an MPI of its own.
	.venv-mpi/bin/python -m pytest tests/test_mpi.py tests/test_docs.py cyopt/distributed

.venv-mpi/built: $(SOURCES)
	@echo "Building cyopt into .venv-mpi with an MPI: about a minute."
	@$(PYTHON) -m venv .venv-mpi
	@$(call INSTALL,.venv-mpi) --editable ".[mpi,test]"
	@touch $@

# The compiler for GPUs is 300 MB, CuPy another 70; no GPU is needed. Besides the bits, these tests
# check the kernels' machine code and count what a step asks of the driver.
test-cuda: .venv-cuda/built  ## The tests of the code for GPUs, compiled and run on the CPU.
	.venv-cuda/bin/python -m pytest $(wildcard tests/test_cuda_*.py) cyopt/cuda

.venv-cuda/built: $(SOURCES)
	@echo "Building cyopt into .venv-cuda with Numba's compiler for GPUs: some minutes."
	@$(PYTHON) -m venv .venv-cuda
	@$(call INSTALL,.venv-cuda) --editable ".[cuda,test]" nvidia-cuda-nvdisasm cupy-cuda13x
	@touch $@

# Uses the machine's torch and CuPy if it has them; GPU_PEERS is what pip installs, empty for none.
# API errors are not reported: the driver is asked for the places of arrays and may refuse, which is
# expected or raises. racecheck is slow and checks shared memory, which the kernels do not use: one
# test is enough.
GPU_PEERS ?= cupy-cuda13x torch
SANITIZER = .venv-gpu/lib/python*/site-packages/nvidia/cu13/bin/compute-sanitizer
test-gpu: .venv-gpu/built  ## The tests that need an NVIDIA GPU, and NVIDIA's sanitizer over them.
	.venv-gpu/bin/python -m pytest tests/gpu
	$(SANITIZER) --tool memcheck --report-api-errors no --error-exitcode 1 \
		.venv-gpu/bin/python -m pytest tests/gpu -k "test_graph or more_arrays or test_one_pass and all or test_bits and weight_decay"
	$(SANITIZER) --tool racecheck --error-exitcode 1 \
		.venv-gpu/bin/python -m pytest tests/gpu -k test_a_run

bench-gpu: .venv-gpu/built  ## Time a step on a GPU beside torch, CuPy and Numba. ARGS="--quick" and others.
	@mkdir -p bench/results
	.venv-gpu/bin/python bench --device cuda --json bench/results/local-gpu.json \
		--plot bench/results/local-gpu.png $(ARGS)
	.venv-gpu/bin/python bench/gpu_host.py --json bench/results/local-gpu-host.json
	.venv-gpu/bin/python bench/gpu_options.py --json bench/results/local-gpu-options.json
	.venv-gpu/bin/python bench/gpu_compile.py --json bench/results/local-gpu-compile.json

.venv-gpu/built: $(SOURCES)
	@echo "Building cyopt into .venv-gpu with Numba's compiler for GPUs: some minutes."
	@$(PYTHON) -m venv --system-site-packages .venv-gpu
	@$(call INSTALL,.venv-gpu) --editable ".[cuda,test]" "nvidia-cuda-sanitizer-api==13.0.*" $(GPU_PEERS)
	@touch $@

# A copy of the tree, built with checks of every access and every operation that C leaves undefined.
# Leaks are not checked: all that is reported would be Python's own.
CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1
sanitize:  ## The tests with gcc's AddressSanitizer and UndefinedBehaviorSanitizer. ARGS are pytest's.
	@mkdir -p build/sanitize
	@tar -c --exclude='./.venv*' --exclude=./build --exclude=./.git --exclude='*.so' . | \
		tar -x -C build/sanitize
	CC=gcc CFLAGS="$(CHECKS)" LDFLAGS="$(CHECKS)" $(MAKE) -C build/sanitize .venv/built
	cd build/sanitize && UBSAN_OPTIONS=print_stacktrace=1 \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		.venv/bin/python -m pytest --capture=sys $(ARGS)

# FUZZ_SECONDS=60 for less than an hour.
fuzz: .venv/built  ## Random sequences of calls against the reference, different each time.
	CYOPT_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/test_machine.py

# Corpus and findings stay in build/fuzz.
FUZZ := -std=c11 -O1 -g -fno-math-errno -ffp-contract=off -pthread -Wno-pass-failed -Isrc_c
fuzz-c:  ## Random lists of arrays against plain copies, in C, by clang's libFuzzer.
	@mkdir -p build/fuzz/corpus
	clang $(FUZZ) -DCYOPT_LIBFUZZER -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		tests/fuzz.c src_c/*.c -lm -o build/fuzz/program
	cd build/fuzz && ./program -max_total_time=$(FUZZ_SECONDS) -max_len=300 -print_final_stats=1 \
		corpus

bench: .venv-bench/built  ## Time a step beside NumPy and the peers of bench/; half an hour. ARGS="--quick" and others.
	@mkdir -p bench/results
	.venv-bench/bin/python bench --json bench/results/local.json --plot bench/results/local.png $(ARGS)
	.venv-bench/bin/python bench --bars --json bench/results/local-bars.json

# spaCy needs the older thinc.
bench-hosts: .venv-hosts-newest/built .venv-hosts-year-old/built  ## Time trainings in other frameworks, with their optimizers and with cyopt's; six minutes.
	$(call INSTALL_TORCH,newest)
	@mkdir -p bench/results
	.venv-hosts-newest/bin/python bench --json bench/results/local-hosts.json --hosts
	.venv-hosts-year-old/bin/python bench --json bench/results/local-spacy.json --hosts spacy

# RANKS ranks on this machine; mpiexec refuses root unless it is allowed explicitly.
RANKS ?= 2
MPIEXEC = .venv-mpi/bin/mpiexec --oversubscribe $(if $(filter 0,$(shell id -u)),--allow-run-as-root)
bench-mpi: .venv-mpi/built  ## Time steps of several ranks beside plain collectives and torch's; four minutes.
	@mkdir -p bench/results
	$(if $(TORCH_newest),$(call INSTALL,.venv-mpi) $(TORCH_newest))
	$(MPIEXEC) -n $(RANKS) .venv-mpi/bin/python bench/ranks.py --json bench/results/local-ranks.json
	$(MPIEXEC) -n 2 .venv-mpi/bin/python bench/scaling.py

lint: .venv/linters  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=bench $(BIN)/mypy -m bars -m figures -m gpu_compile -m gpu_host -m gpu_options -m ranks -m scaling -p peers -p hosts
	$(BIN)/clang-format --dry-run --Werror src_c/* tests/*.c

.venv/built: $(SOURCES)
	@echo "Building cyopt into .venv with what the demo and the tests need: about a minute."
	@$(PYTHON) -m venv .venv
	@$(call INSTALL,.venv) --editable ".[test]"
	@touch $@

.venv/linters: .venv/built
	@$(call INSTALL,.venv) --editable ".[lint]"
	@touch $@

# One at a time, because not every platform has all of them; DeepSpeed's set-up imports torch. In a
# separate environment: they are large and choose their own version of NumPy.
PEERS := torch numba numexpr optax thinc

.venv-bench/peers:
	@echo "Installing the peers that this platform has into .venv-bench: some minutes."
	@$(PYTHON) -m venv .venv-bench
	@$(call INSTALL,.venv-bench) setuptools wheel ninja
	@for peer in $(PEERS); do $(call INSTALL,.venv-bench) $$peer || echo "without $$peer"; done
	@$(call INSTALL,.venv-bench) --no-build-isolation deepspeed || echo "without deepspeed"
	@touch $@

.venv-bench/built: .venv-bench/peers $(SOURCES)
	@echo "Building cyopt into .venv-bench."
	@$(call INSTALL,.venv-bench) --editable ".[bench]"
	@touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info cyopt/*.so cyopt/bench/*.so
