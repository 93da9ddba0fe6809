# make reproduce | classifier | plan | rates | test | docs | lab | foundation | check | readme | clean | help
#   PROFILE=profiles/mini.yaml   which study          SEEDS=0,1,2   which seeds
#   ROW='Dream-OOD'   only this row of the study's table
#   TARGET=paper      every table and figure of the paper, not Table 1 alone; TARGET=paper/ablations: one of them
#   GPU=1   faiss for NVIDIA cards in place of faiss-cpu            PYTHON=python3.11   which Python makes .venv

PROFILE ?= profiles/mini.yaml
SEEDS   ?= 0,1,2
RUNS    ?= _runs
ROW     ?=
TARGET  ?= table1
AGAIN   ?=
COMMA   := ,
PYTHON  ?= python3

FAISS := $(if $(GPU),gpu,cpu)
OTHER := $(if $(GPU),faiss-cpu,faiss-gpu-cu12)
READY := .venv/.ready-$(FAISS)
BIN   := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONWARNINGS := ignore:IProgress not found

EMOJI := emoji-datasource-google emoji-datasource-twitter openmoji @lobehub/fluent-emoji-3d \
         @iconify-json/emojione @iconify-json/fxemoji @iconify-json/noto-v1

.PHONY: help reproduce classifier plan rates test docs lab foundation check readme record clean
help:
	@echo "make reproduce   run every stage on PROFILE ($(PROFILE)) for SEEDS ($(SEEDS)), then show Table 1"
	@echo "make reproduce TARGET=paper   every table and figure of the paper, from PROFILE (hours)"
	@echo "make classifier  from a folder of images to a classifier that may refuse: PROFILE=profiles/mine.yaml (its first seed)"
	@echo "make plan        what PROFILE would take: what is missing, the graph, images, disk and hours; computes nothing"
	@echo "make rates       measure on this machine how long the pieces of PROFILE take, for make plan (AGAIN=1: anew; TARGET=paper)"
	@echo "make test        run every notebook and every test"
	@echo "make docs        build the website into _docs/"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make foundation  train the miniature foundation anew (hours)"
	@echo "make check       notebooks, modules and README.md agree with one another"
	@echo "make record      put the results of a finished run into the notebooks, the start page and README.md"
	@echo "make readme      write README.md from nbs/index.ipynb"
	@echo "make clean       remove what was built (never _runs/)"

$(READY): settings.ini setup.py
	@echo "== Setting up .venv with the packages of settings.ini (once; several GB, some minutes)"
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Error: $(PYTHON) is older than 3.10 or lacks venv; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip uninstall --quiet --yes $(OTHER)
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$(FAISS),dev]'
	@! test -d .git || $(BIN)/nbdev_install_hooks
	@rm -f .venv/.ready-*; touch $@

reproduce: $(READY)
	@echo "== Reproducing $(PROFILE), seeds $(SEEDS): finished stages are skipped, an interrupted one goes on"
	@python tools/reproduce.py '$(PROFILE)' '$(SEEDS)' '$(RUNS)' '$(ROW)' '$(TARGET)'

classifier: $(READY)
	@python tools/classifier.py '$(PROFILE)' '$(firstword $(subst $(COMMA), ,$(SEEDS)))' '$(RUNS)'

plan: $(READY)
	@python tools/plan.py '$(PROFILE)' '$(SEEDS)' '$(RUNS)' '$(ROW)' '$(TARGET)'

rates: $(READY)
	@echo "== Measuring the pieces of $(PROFILE) on this machine, with random weights"
	@python tools/rates.py '$(PROFILE)' tools/rates.csv '$(AGAIN)' '$(TARGET)'

test: $(READY)
	@echo "== Testing: every notebook on profiles/smoke.yaml, then the plain tests"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m pytest tests -n 2 --dist loadfile --cov=dream_ood --cov-report=term --durations=15 -ra

docs: $(READY)
	@echo "== Building the website into _docs/"
	@python tools/docs.py site

lab: $(READY)
	@echo "== Opening JupyterLab on nbs/ (Ctrl-C ends it)"
	@jupyter lab nbs

foundation: $(READY)
	@echo "== Training the miniature foundation (nbs/foundation/; hours on two cores; it resumes when interrupted)"
	@for f in /usr/share/datasets/fashion-mnist /usr/share/openclipart/png /usr/share/fonts/truetype/lato; do test -e $$f || \
	  { echo "Error: $$f is missing: install the Debian packages that nbs/foundation/01_pictures.ipynb lists, then go on"; exit 1; }; done
	@test -d _foundation/node_modules || npm install --ignore-scripts --prefix _foundation $(EMOJI)
	@for n in 01_pictures 02_training 03_quality; do \
	  echo "== $$n"; python tools/execute.py nbs/foundation/$$n.ipynb _foundation/$$n.ipynb || exit 1; done

check: $(READY)
	@echo "== Checking that notebooks, modules and README.md agree"
	@sh tools/check.sh

record: $(READY)
	@echo "== Recording the finished runs of profiles/mini.yaml ($(TARGET)) in the notebooks, the start page and README.md"
	@sh tools/record.sh '$(RUNS)' '$(TARGET)'

readme: $(READY)
	@echo "== Writing README.md from nbs/index.ipynb"
	@python tools/docs.py readme

clean:
	@echo "== Removing _docs/, _proc/, build/, caches (.venv and _runs/ stay)"
	@rm -rf _docs _proc build dist .pytest_cache .coverage* .snakemake
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
