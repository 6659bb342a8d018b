# Two commands do everything on a fresh Debian 12 or 13, as root:
#   make run    set up, mount, dump a sample process and read its core with gdb
#   make test   set up, all tests
# While you work:
#   make check  lint and the pure tests: takes a minute, needs no system tool but a compiler
#   make docs   the manual, as HTML and man pages, in build/docs
#   make deb    a package for this Debian, in build/package; make rpm: for a machine with this Python
#   make dist   wheel and sdist, in build/dist
# These take longer:
#   make test-full   all tests, with large processes at their full size
#   make fuzz        FUZZ_RUNS cases for the parsers, guided by the code that they reach
#   make bench       measures: BENCH_ROUNDS rounds with a process of BENCH_SIZE MiB
#   make test-vm     VM_TESTS under Debian's kernel KERNEL, in qemu
#   make test-packages   builds a package in each of RELEASES, and installs it in a fresh Debian
#   make test-debian TARGET (run, test) in a fresh Debian RELEASE, on this kernel
#   make test-kernels   KERNEL_TESTS under each of KERNELS

MOUNT ?= /mnt/gcore
VENV := .venv
PYTHON := /usr/bin/python3
# The kernel loads this object (gcorefs/sources/bpf).  The package has it if it is there when the
# package is built, and is complete without it.  It is not in the repository, because nobody can
# review it there.  It is built here and not by setup.py: an installation with pip must not need
# clang.  One object serves all machines (-target bpfel, CO-RE).
BPF := gcorefs/sources/bpf/mappings.bpf.o gcorefs/sources/bpf/registers.bpf.o
FUZZ_RUNS ?= 1000000
# How many tests run side by side.  With auto they take half the time, but on a busy machine another
# test disturbs one in a thousand.
PYTEST_WORKERS ?= 0
BENCH_ROUNDS ?= 7
BENCH_SIZE ?= 1024
BENCH_OUT ?= build/bench
RELEASE ?= trixie
RELEASES ?= bookworm trixie
TARGET ?= test
# 5.10, 6.1, 6.12 ..., or newest.
KERNEL ?= newest
ARCH ?= amd64
VM_CPU ?=
VM_CPUS ?= 2
# More options of the kernel, for example sysctl.kernel.yama.ptrace_scope=1
VM_APPEND ?=
# v2, or hybrid: versions 1 and 2.
VM_CGROUPS ?= v2
# Seconds for all tests together.
VM_LIMIT ?= 3600
VM_CACHE ?= .cache/vm
# What depends on the kernel most, and on the machine.
VM_TESTS_amd64 := tests/mounted/test_first_core.py \
	$(addprefix tests/live/test_,$(addsuffix .py,access confined copy holes memory stuck_threads unreadable)) \
	$(addprefix tests/readers/test_,$(addsuffix .py,regsets registers32))
VM_TESTS_arm64 := tests/mounted/test_first_core.py \
	$(addprefix tests/live/test_,$(addsuffix .py,tracer interrupted_calls copy holes memory stuck_threads unreadable)) \
	$(addprefix tests/readers/test_,$(addsuffix .py,vectors kernel))
VM_TESTS ?= $(VM_TESTS_$(ARCH))
# Debian 12's kernel and Debian 13's.
KERNELS ?= 6.1 6.12
# In each of these some kernels behave otherwise, or lack something.
KERNEL_TESTS ?= $(addprefix tests/live/test_, \
		access.py copy.py memory.py frozen.py precopy.py fork.py \
		$(addprefix bpf.py::test_, \
			it_is_used_wherever_the_kernel_has_iterators_of_one_process \
			the_rarer_mappings_are_those_of_smaps a_stop_reads_no_smaps) \
		$(addprefix forked_calls.py::test_a_call_in_which_a_thread_waits_goes_on, \
			[eintr-epoll_pwait-4] [eintr-epoll_pwait_mask-4] [eintr-fuse_read-4] \
			[eintr-mq_timedreceive-4] [eintr-futex_wait-4] [eintr-nanosleep-4] \
			[eintr32-ppoll-4] [eintr32-read_pipe-4]) \
		forked_calls.py::test_a_file_of_a_server_is_not_closed_in_a_child \
		confined.py::test_a_filter_is_seen_behind_many_groups \
		interrupted_calls.py::test_no_stop_is_seen_as_eintr[eintr-fuse_execve-200]) \
	$(addprefix tests/readers/test_registers32.py::test_notes_hold_every_, \
		general_register floating_point_and_vector_register) \
	$(addprefix tests/mounted/test_, \
		account.py stuck_execve.py \
		cgroup_memory.py::test_a_process_that_could_be_killed_with_the_command_is_not_stopped \
		denied_reads.py::test_all_kinds_of_memory_are_as_they_are_without_the_filter \
		unshown.py::test_without_a_pagemap_all_is_read[2] \
		stuck_reads.py::test_a_page_whose_handler_is_stopped_is_an_error \
		stuck_reads.py::test_a_page_whose_server_is_dead_is_zeros \
		hold.py::test_what_fails_when_the_note_is_made_is_said_everywhere_else \
		reading.py::test_a_mapping_holds_the_process_after_close \
		reading.py::test_a_shared_mapping_is_refused first_core.py)
# Seconds for each kernel.
KERNEL_LIMIT ?= 1200

CHECK_PACKAGES := python3 python3-venv python3-dev gcc libc6-dev pkg-config fuse3 libfuse3-dev
# clang and libbpf1 are for BPF.  Everything works without them, but a stop of a large process takes
# longer.
RUN_PACKAGES := python3 python3-venv python3-dev gcc binutils libc6-dev pkg-config fuse3 libfuse3-dev gdb \
	clang libbpf1
# For strip, and what a package needs on a machine: dpkg-shlibdeps and rpm's elfdeps.  clang for BPF.
PACKAGE_PACKAGES := $(CHECK_PACKAGES) binutils dpkg-dev rpm clang libbpf1
# chromium shows the page of gcorefs info --html, and with make test-full lives on through a dump.
# podman makes an image of the package, on a Debian from debootstrap.
TEST_PACKAGES := $(RUN_PACKAGES) gcc-multilib lldb elfutils systemd default-jdk-headless nodejs \
	golang-go delve file systemd-coredump redis-server redis-tools postgresql strace attr busybox cpio \
	libarchive-tools rsync rclone zip zstd $(PACKAGE_PACKAGES) rpm2cpio \
	chromium-headless-shell podman debootstrap
# lldb, criu and procdump are rivals: each release of Debian has other versions of them.  gcorefs stacks
# takes native frames from elfutils.
BENCH_PACKAGES := $(RUN_PACKAGES) strace zstd elfutils lldb criu procdump
VM_PACKAGES_amd64 := $(TEST_PACKAGES) qemu-system-x86 kmod e2fsprogs
VM_PACKAGES_arm64 := $(TEST_PACKAGES) qemu-system-arm qemu-user-static debootstrap kmod e2fsprogs

# The time in all that is built: that of the last commit, so that two builds are equal.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)
export SOURCE_DATE_EPOCH

.PHONY: run check test test-full test-vm test-debian test-kernels lint docs fuzz bench clean
.PHONY: dist deb rpm package-root test-packages

run: $(VENV)/run $(BPF)
	examples/first-core "$(MOUNT)"

test: $(VENV)/test $(BPF) lint
	$(VENV)/bin/pytest -n $(PYTEST_WORKERS) $(PYTEST_OPTIONS)

test-full: $(VENV)/test $(BPF) lint
	$(VENV)/bin/pytest -n $(PYTEST_WORKERS) -m 'full or not full' $(PYTEST_OPTIONS)

# An emulated processor takes ten times as long.  So modules are compiled here first.
test-vm: $(VENV)/test $(BPF)
	setup/packages $(VM_PACKAGES_$(ARCH))
	$(VENV)/bin/pytest --collect-only -qq $(VM_TESTS) >/dev/null
	$(VENV)/bin/python -m tests.vm --kernel "$(KERNEL)" --arch "$(ARCH)" --cpu "$(VM_CPU)" \
		--cpus "$(VM_CPUS)" --append "$(VM_APPEND)" --cgroups "$(VM_CGROUPS)" \
		--limit "$(VM_LIMIT)" --cache "$(VM_CACHE)" \
		$(VENV)/bin/pytest -o cache_dir=/vm/scratch/cache --timeout 1200 \
		$(PYTEST_OPTIONS) $(VM_TESTS)

# If tests fail under one kernel, they still run under the others.
test-kernels:
	failed=; for kernel in $(KERNELS); do \
		$(MAKE) test-vm ARCH=amd64 KERNEL=$$kernel VM_LIMIT=$(KERNEL_LIMIT) VM_TESTS="$(KERNEL_TESTS)" \
			PYTEST_OPTIONS="-n $(VM_CPUS) $(PYTEST_OPTIONS)" || failed="$$failed $$kernel"; \
	done; \
	[ -z "$$failed" ] || { echo "failed under:$$failed"; exit 1; }

test-debian:
	setup/packages debootstrap git
	setup/in-debian "$(CURDIR)/.cache" "$(RELEASE)" make "$(TARGET)"

# The installation alone: what it needs comes from Debian then, not from this machine.
test-packages: $(VENV)/test
	setup/packages debootstrap git
	set -e; for release in $(RELEASES); do \
		setup/in-debian "$(CURDIR)/.cache" $$release \
			make deb rpm SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH); \
		setup/debian "$(CURDIR)/.cache/clean-$$release" $$release systemd,ca-certificates; \
		GCOREFS_PACKAGES=.cache/debian-$$release/srv/gcorefs/build/package \
			GCOREFS_CLEAN_ROOT=.cache/clean-$$release \
			$(VENV)/bin/pytest tests/packages $(PYTEST_OPTIONS); \
	done

check: $(VENV)/check lint
	$(VENV)/bin/pytest -n auto tests/pure $(PYTEST_OPTIONS)

lint: $(VENV)/check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The kernel needs no path of ours: -g makes types of it (BTF), and no place where it was built.
$(BPF): %.bpf.o: %.bpf.c Makefile | $(VENV)/run
	clang -O2 -g -target bpfel -fdebug-compilation-dir=. -Wall -Wextra -Werror -c $< -o $@

# A stamp for each set-up, which is repeated if its packages may have changed.
$(VENV)/run: pyproject.toml Makefile setup/constraints.txt
	setup/packages $(RUN_PACKAGES)
	setup/venv "$(VENV)" "$(PYTHON)" .
	touch $@

$(VENV)/check: pyproject.toml Makefile setup/constraints.txt
	setup/packages $(CHECK_PACKAGES)
	setup/venv "$(VENV)" "$(PYTHON)" '.[dev]'
	touch $@

$(VENV)/test: $(VENV)/check $(VENV)/package
	setup/packages $(TEST_PACKAGES)
	touch $@

docs: $(VENV)/docs
	$(VENV)/bin/sphinx-build -W -q -b html docs build/docs/html
	$(VENV)/bin/sphinx-build -W -q -b man docs build/docs/man

$(VENV)/docs: pyproject.toml Makefile setup/constraints.txt
	setup/packages $(CHECK_PACKAGES)
	setup/venv "$(VENV)" "$(PYTHON)" '.[docs]'
	touch $@

# The wheel has the BPF objects, which the sdist has not.  So it is not built from the sdist.
dist: $(VENV)/package $(BPF)
	rm -rf build/dist
	$(VENV)/bin/python -m build --no-isolation --sdist --wheel --outdir build/dist . >/dev/null

package-root: dist docs
	package/stage "$(VENV)" build/dist/gcorefs-*.whl build/docs/man build/package/root

deb rpm: package-root
	package/build "$(VENV)" $@

$(VENV)/package: pyproject.toml Makefile setup/constraints.txt
	setup/packages $(PACKAGE_PACKAGES)
	setup/venv "$(VENV)" "$(PYTHON)" '.[package]'
	touch $@ $(VENV)/docs $(VENV)/run

# By name: make fuzz FUZZ_RUNS=10000000 FUZZ=smaps
fuzz: $(VENV)/test
	$(VENV)/bin/python -m tests.fuzz --runs $(FUZZ_RUNS) $(FUZZ)

# By name: make bench BENCH='reading threads' BENCH_OPTIONS=--full
bench: $(VENV)/bench $(BPF)
	$(VENV)/bin/python -m tests.benchmarks --rounds $(BENCH_ROUNDS) --size $(BENCH_SIZE) \
		--out "$(BENCH_OUT)" $(BENCH_OPTIONS) $(BENCH)

$(VENV)/bench: pyproject.toml Makefile setup/constraints.txt
	setup/packages $(BENCH_PACKAGES)
	setup/venv "$(VENV)" "$(PYTHON)" '.[dev,bench]'
	touch $@ $(VENV)/run

clean:
	rm -rf $(VENV) $(BPF) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
