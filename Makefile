# Everything a fresh machine needs: `make demo`, then `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE := tests/data/sample.png

.PHONY: help demo test lint eval tables bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

# torch first and pinned: an open-ended requirement may pull gigabytes of CUDA libraries
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/ready ## encode and decode the sample image, print bytes, PSNR and times
	$(BIN)/python tests/demo.py $(BIN)/lic $(SAMPLE) demo

test: $(VENV)/ready ## run the tests
	$(BIN)/python -m pytest -q

lint: $(VENV)/ready ## check style
	$(BIN)/ruff check .

KODAK ?= kodak
eval: $(VENV)/ready-eval ## measure what the README shows: make eval KODAK=folder of the 24 Kodak images
	$(BIN)/lic eval $(KODAK) --models base-global-parallel --qualities 0,15,30,45,60,75,90,100 \
		--against jpeg,jpeg420,webp,avif,jxl --bits --out eval
	$(BIN)/lic compare $(KODAK) --out eval

tables: ## write the figures of weights/measured into the tables of the READMEs
	$(PYTHON) tests/documents.py

bench: $(VENV)/ready-eval ## time and memory over the size of a picture
	$(BIN)/lic bench --out eval

$(VENV)/ready-eval: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[eval]'
	touch $@

clean: ## remove what the other targets made
	rm -rf $(VENV) demo build *.egg-info .pytest_cache
