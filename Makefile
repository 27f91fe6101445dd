# make demo    open napari with a sample and reconstruct it (ARGS="stack.tif --slices 6" for your own)
# make test    run the tests
# make lint    style, types, import rules, plugin manifest
# make bench   measure quality, time and memory; writes benchmarks/results/
# make docs    build the documentation into site/
#
# Each target makes .venv and installs what it needs; a stamp in .venv lets later runs start at once.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PACKAGE := src/napari_microdiffusion

# torch's threads spin while they wait: ten times slower as soon as anything else needs a core.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What Qt 6 and OpenGL need on Debian and Ubuntu, and a virtual display.
DEBIAN_PACKAGES := xvfb xauth libegl1 libgl1 libgl1-mesa-dri libglx-mesa0 libxkbcommon-x11-0 libxcb-cursor0 \
	libxcb-icccm4 libxcb-keysyms1 libxcb-image0 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xkb1 \
	libfontconfig1 libdbus-1-3 fonts-dejavu-core

# Tests of the widgets need a display: the user's, or a virtual one.
HEADLESS := $(if $(DISPLAY)$(WAYLAND_DISPLAY),,xvfb-run -a -s "-screen 0 1600x1000x24")

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs clean system

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: .venv/.gui
	$(BIN)/napari-microdiffusion demo $(ARGS)

test: .venv/.dev
	$(HEADLESS) $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -e $(PACKAGE)/napari.yaml ]; then set -x; $(BIN)/npe2 validate --imports napari-microdiffusion; fi

bench: .venv/.dev
	$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# -- installation ------------------------------------------------------------------------------
# torch stays at the version in constraints.txt: on Linux other versions may bring several GB of CUDA.

# pip would compile to bytecode in one process, the tests of all packages too: half of the installation.
# What does not compile here (templates, code for other versions of Python) is not imported either.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib >/dev/null 2>&1 || true

.venv/.gui: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[gui]'
	@$(COMPILE)
	@touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[gui,dev]'
	@$(COMPILE)
	@touch $@ .venv/.gui

.venv/.docs: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[docs]'
	@$(COMPILE)
	@touch $@

.venv/.made: | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# As root on Debian, install the system's packages that are missing; elsewhere say which they are.
system:
	@command -v dpkg-query >/dev/null || exit 0; \
	wanted="$(DEBIAN_PACKAGES)"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || wanted="$$wanted python3-venv"; \
	missing=""; \
	for package in $$wanted; do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	else \
		echo "missing system packages; if the window does not open: sudo apt-get install$$missing"; \
	fi
