# Two commands: `make repro` runs the main job, `make test` the tests. Both create the environment first.
.DEFAULT_GOAL := help
.PHONY: help install repro results refetch ui sync champion crown clean guide test test-slow lint format lock

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# Every process of the environment starts its children (DVC's stages and queue workers) in it, activated or not.
HOOK := import os, sys; os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt Makefile
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@printf '%s\n' '$(HOOK)' > "$$($(PYTHON) -c 'import site; print(site.getsitepackages()[0])')/amalgam-path.pth"
	@touch $(STAMP)

install: $(STAMP)  ## create .venv with pinned versions

repro: $(STAMP)  ## run the pipeline: whatever is not up to date
	dvc repro

refetch: $(STAMP)  ## look at the source again (a changed archive or folder), then run what follows
	AMALGAM_REFETCH=1 dvc repro --force --single-item fetch
	dvc repro

results: $(STAMP)  ## print the last evaluation's table
	PYTHONPATH=src python stages/results.py

ui: $(STAMP)  ## show MLflow's pages at http://127.0.0.1:5000
	-PYTHONPATH=src python stages/sync.py --no-restore
	@echo 'In the page, choose "Model training" at the top left once: the browser remembers it.'
	mlflow ui --workers 1  # one reader; more of them, on a busy machine, are taken for dead and started over and over

sync: $(STAMP)  ## send to MLflow what it lacks of the students and evaluations in outputs/
	PYTHONPATH=src python stages/sync.py

champion: $(STAMP)  ## print each task's champion, the best student by validation accuracy
	PYTHONPATH=src python stages/champion.py

crown: $(STAMP)  ## make a run's student champion: make crown TASK=taskA RUN=its id
	$(if $(and $(TASK),$(RUN)),,$(error say which: make crown TASK=taskA RUN=its id, as MLflow's page of the run shows it))
	PYTHONPATH=src python stages/champion.py --crown $(TASK) $(RUN)

clean: $(STAMP)  ## remove half-written files; DAYS=30: also what nothing used so long: teachers, logits, downloads, broken-off trainings
	PYTHONPATH=src python stages/clean.py $(if $(DAYS),--days $(DAYS))

guide: $(STAMP)  ## write docs/parameters.md anew, from the definition of the parameters
	PYTHONPATH=src python -m amalgam.guide > docs/parameters.md

lint: $(STAMP)  ## style and types
	ruff check .
	ruff format --check .
	mypy

format: $(STAMP)  ## put the code into its style
	ruff check --fix .
	ruff format .

test: lint  ## lint, types and tests
	python -m pytest --numprocesses auto -m "not slow"

test-slow: $(STAMP)  ## the tests that take minutes: the shipped main job
	python -m pytest -m slow

lock: $(STAMP)  ## pin what is installed now (torch pins its own GPU libraries)
	pip freeze --exclude-editable | grep -vE '^(nvidia-|cuda-|triton)' > constraints.txt
