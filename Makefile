# Two commands: make repro, make test. Both create the environment first.
.DEFAULT_GOAL := repro
.PHONY: install repro results refetch ui test test-slow lint lock clean-store

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# Every process of the environment starts its children (dvc's stages, its queue's workers) in it, activated or not.
HOOK := import os, sys; os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)

$(STAMP): pyproject.toml constraints.txt Makefile
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@printf '%s\n' '$(HOOK)' > "$$($(PYTHON) -c 'import site; print(site.getsitepackages()[0])')/amalgam-path.pth"
	@touch $(STAMP)

install: $(STAMP)

repro: $(STAMP)  ## run whatever is not up to date
	dvc repro
