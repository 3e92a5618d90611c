# `make demo` and `make test` are all a newcomer needs; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
PHOTO = $$($(BIN)/python -c 'from importlib.resources import files; print(files("sklearn.datasets.images") / "flower.jpg")')
SOAK = $(CURDIR)/tests:$(CURDIR)/tests/support:$(CURDIR)/tests/parity:$(CURDIR)/tests/soak
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint types docs notebooks pictures wheel sweep census signals bench matrix mixers tasks planted recall soak mutations study clean

demo: .venv/demo
	@mkdir -p demo
	@$(BIN)/limelight explain efficientnet_lite0 "$(PHOTO)" --weights imagenet \
	  --method gradcam --method normgrad --method smoothgrad --target top:2 -o demo/report.html

# One process a core, each with one thread.
test: .venv/dev
	$(BIN)/python -m pytest -m "not sweep" -q -n logical --dist worksteal

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev .typing/limelight
	$(BIN)/mypy

sweep: .venv/dev
	$(BIN)/python -m pytest -m sweep -q -s

# Every architecture of torchvision, timm and transformers: some 40 minutes on two cores.
census: .venv/dev
	PYTHONPATH=tests/support $(BIN)/python -m census docs/census.md

# Methods with a formula over series, tables, volumes, words ... beside plain autograd.
signals: .venv/dev
	$(BIN)/python -m pytest tests/methods/test_signals.py -q

# The docs as a site, in site/; stops at a link that leads nowhere.
docs: .venv/docs
	rm -rf .typing  # a link to this folder, in which a walk over the package would not end
	$(BIN)/python tests/support/notebooks.py pages docs/notebooks
	link=$$(mktemp -d) && ln -s $(CURDIR) $$link/limelight \
	  && PYTHONPATH=$$link $(BIN)/zensical build --strict --clean; done=$$?; rm -rf $$link; exit $$done

# What would be released, built, checked, and tried in an environment of its own without the clone.
wheel: .venv/release
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install -q -c constraints.txt "$$(ls dist/*.whl)[demo]"
	cd build && fresh/bin/python -I -c 'import limelight as ll; assert "fresh" in ll.__file__; \
	  ll.explain(ll.load("efficientnet_lite0"), ll.example("flower")).save("flower.html")'
	cd build && fresh/bin/limelight explain convit_digits \
	  "$$(fresh/bin/python -I -c 'import limelight as ll; print(ll.example("china"))')" -o china.html

# The notebooks run anew, and the pictures of the README and the docs.
notebooks: .venv/dev .venv/docs
	$(BIN)/python tests/support/notebooks.py run docs/notebooks

pictures: .venv/dev
	PYTHONPATH=tests/support $(BIN)/python tests/support/pictures.py docs/pictures

bench: .venv/bench
	$(BIN)/python benchmarks/one_pass.py

# What every model can do, checked and written into the docs.
matrix: .venv/dev
	$(BIN)/python tests/support/matrix.py docs/models.md

# The claims of NormGrad and ConViT on real photos: make study DATA=folder
study: .venv/dev
	$(BIN)/python benchmarks/study.py $(DATA) study

# Vision mixers on digits, and what limelight says of them: some five minutes on one core.
mixers: .venv/dev
	$(BIN)/python benchmarks/vision_mixers.py

# Systems with a task, trained small beside controls: some twenty minutes on one core.
tasks: .venv/dev
	$(BIN)/python benchmarks/task_systems.py

# What circuit scores find in models whose circuits were planted among decoys.
planted: .venv/dev
	$(BIN)/python benchmarks/circuits.py planted

# What sequence mixers can look up and where they look: under an hour on two cores; goes on where
# it was stopped.
recall: .venv/dev
	$(BIN)/python benchmarks/recall.py --write docs/recall.md

# Leaks, interrupts, hostile files, killed runs, in numbers: under half an hour.
soak: .venv/dev
	PYTHONPATH=$(SOAK) $(BIN)/python -m soak

# Fifty lines broken by hand, and whether the nearest tests notice: half an hour on one core.
mutations: .venv/dev
	PYTHONPATH=$(SOAK) $(BIN)/python -m soak mutations

clean:
	rm -rf study .venv .typing demo build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "limelight needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip

# One stamp per extra; changed requirements install again.
.venv/%: pyproject.toml constraints.txt | .venv/bin/python
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -c constraints.txt -e '.[$*]'
	@touch $@

.typing/limelight:
	@mkdir -p .typing && ln -sfn .. $@
