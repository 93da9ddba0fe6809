# Sets up .venv and calls the command line, `.venv/bin/dream-ood`:
# make reproduce | classifier | plan | rates | slurm | test | docs | lab | foundation | check | faults | readme | record |
#      lock | package | mutants | audit | lowest | clean | help
#   PROFILE=profiles/mini.yaml   which study          SEEDS=0,1,2   which seeds
#   ROW='Dream-OOD'   only this row of the study's table            IMAGES=photos/shop   a folder, for make classifier
#   TARGET=paper      every table and figure of the paper, not Table 1 alone; TARGET=paper/ablations: one of them;
#                     TARGET=paper/claims: what the claims are about and no more, for more SEEDS
#   WORKERS=2   how many processes share out the tests; one more than cores, as some wait for a browser or a lock
#   COV=1   make test says what share of the lines it ran (half as long again)
#   GPU=1   faiss for NVIDIA cards in place of faiss-cpu            PYTHON=python3.11   which Python makes .venv
#   LOCK=   the newest versions that settings.ini allows, not those of requirements/lock.txt (e.g. another torch)

PROFILE ?= profiles/mini.yaml
SEEDS   ?= 0,1,2
RUNS    ?= _runs
ROW     ?=
TARGET  ?= table1
AGAIN   ?=
KILLS   ?= 50
IMAGES  ?=
WORKERS ?= 3
COMMA   := ,
PYTHON  ?= python3
LOCK    ?= requirements/lock.txt

FAISS := $(if $(GPU),gpu,cpu)
OTHER := $(if $(GPU),faiss-cpu,faiss-gpu-cu12)
READY := .venv/.ready-$(FAISS)
BIN   := .venv/bin
PIP   := $(BIN)/python -m pip install --disable-pip-version-check $(if $(LOCK),--constraint '$(LOCK)')
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help reproduce classifier plan rates slurm test docs lab foundation check faults readme record lock package \
        mutants audit lowest clean
help:
	@echo "make reproduce   run every stage on PROFILE ($(PROFILE)) for SEEDS ($(SEEDS)), then show Table 1"
	@echo "make reproduce TARGET=paper   every table and figure of the paper, from PROFILE (hours)"
	@echo "make classifier  from a folder of images to a classifier that may refuse: IMAGES=photos/shop, or PROFILE=profiles/mine.yaml"
	@echo "make plan        what PROFILE would take: what is missing, the graph, images, disk and hours; computes nothing"
	@echo "make rates       measure on this machine how long the pieces of PROFILE take, for make plan (AGAIN=1: anew; TARGET=paper)"
	@echo "make slurm       run PROFILE through a Slurm of this machine, cancel a job, and compare with a run without"
	@echo "make test        run every notebook and every test"
	@echo "make docs        build the website into _docs/"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make foundation  train the miniature foundation anew (hours)"
	@echo "make check       notebooks, modules and README.md agree with one another"
	@echo "make faults      kill, fill, lock and damage runs, and look whether anything is lost (an hour; KILLS=50; it resumes)"
	@echo "make record      put the results of a finished run into the notebooks, the start page and README.md"
	@echo "make readme      write README.md from nbs/index.ipynb, and the schema of profiles"
	@echo "make lock        write requirements/ anew: the versions of .venv, and the lowest that settings.ini allows"
	@echo "make package     build the sdist and the wheel into dist/, and try them"
	@echo "make mutants     change the measures and the sampler in small ways, and see that a test is against each (an hour; ONLY=function)"
	@echo "make audit       ask for known vulnerabilities of the packages of requirements/lock.txt"
	@echo "make lowest      run the tests with the lowest versions, in an environment of their own (GBs, half an hour)"
	@echo "make clean       remove what was built (never _runs/)"

$(READY): settings.ini setup.py pyproject.toml $(LOCK)
	@echo "== Setting up .venv with the packages of settings.ini$(if $(LOCK), in the versions of $(LOCK)) (once; GBs, minutes)"
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Error: $(PYTHON) is older than 3.11 or lacks venv; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip uninstall --quiet --yes $(OTHER)
	@$(PIP) --quiet setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[$(FAISS),dev]'
	@! test -d .git || $(BIN)/nbdev_install_hooks
	@rm -f .venv/.ready-*; touch $@

reproduce: $(READY)
	@echo "== Reproducing $(PROFILE), seeds $(SEEDS): finished stages are skipped, an interrupted one goes on"
	@dream-ood reproduce --profile '$(PROFILE)' --seeds '$(SEEDS)' --runs '$(RUNS)' --row '$(ROW)' --target '$(TARGET)'

classifier: $(READY)
	@dream-ood classifier '$(or $(IMAGES),$(PROFILE))' --seed '$(firstword $(subst $(COMMA), ,$(SEEDS)))' --runs '$(RUNS)'

plan: $(READY)
	@dream-ood plan --profile '$(PROFILE)' --seeds '$(SEEDS)' --runs '$(RUNS)' --row '$(ROW)' --target '$(TARGET)'

rates: $(READY)
	@dream-ood rates --profile '$(PROFILE)' --target '$(TARGET)' $(if $(AGAIN),--again)

slurm: $(READY)
	@echo "== Through a Slurm of this machine: $(PROFILE)"
	@$(PIP) --quiet --no-build-isolation --editable '.[slurm]'
	@dream-ood project slurm --profile '$(PROFILE)'

test: $(READY)
	@echo "== Testing: every notebook on profiles/smoke.yaml, then the plain tests"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 -ra $(if $(COV),--cov=dream_ood --cov-report=term)

lab: $(READY)
	@echo "== Opening JupyterLab on nbs/ (Ctrl-C ends it)"
	@jupyter lab nbs

foundation: $(READY)
	@echo "== Training the miniature foundation (nbs/foundation/; hours on two cores; it resumes when interrupted)"
	@dream-ood foundation

docs: $(READY)
	@echo "== Building the website into _docs/"
	@dream-ood project docs

check: $(READY)
	@echo "== Checking that notebooks, modules and README.md agree"
	@dream-ood project check

faults: $(READY)
	@echo "== Doing to runs what must not harm them; rows and table in _faults/"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 dream-ood project faults _faults --kills '$(KILLS)'

readme: $(READY)
	@echo "== Writing README.md from nbs/index.ipynb, and profiles/profile.schema.json"
	@dream-ood project readme

record: $(READY)
	@echo "== Recording the finished runs of profiles/mini.yaml ($(TARGET)) in the notebooks, the start page and README.md"
	@dream-ood project record --runs '$(RUNS)' --target '$(TARGET)'

lock: $(READY)
	@echo "== Writing requirements/lock.txt from .venv and requirements/lowest.txt from settings.ini"
	@dream-ood project lock
	@touch $(READY)

package: $(READY)
	@echo "== Building the sdist and the wheel into dist/, and trying them"
	@sh .ci/package

mutants: $(READY)
	@echo "== Changing one thing at a time in dream_ood/evaluation.py and sampling.py; tests/mutants.csv says what came of it"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ONLY='$(ONLY)' python .ci/mutants.py

audit:
	@sh .ci/audit

lowest:
	@sh .ci/lowest

clean:
	@echo "== Removing _docs/, _proc/, build/, caches (.venv, _runs/ and .snakemake/, which knows them, stay)"
	@rm -rf _docs _proc build dist .pytest_cache .coverage*
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
