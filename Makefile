# Everything runs in .venv, which the first target that needs it makes. PYTHON=python3.12 make demo picks an interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check docs bench bench-backends bench-gpu clean

demo: .venv/installed-demo       ## train, evaluate, predict and explain on real handwritten digits (5 minutes)
	$(BIN)/python examples/demo.py

test: .venv/installed-dev        ## every test that is not marked slow (about 12 minutes on 2 cores; the aim is 10)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed-dev   ## the tests marked slow: long compiles, open exports, kills, browsers (the aim is under 25 minutes)
	$(BIN)/python -m pytest -n 2 -m slow

check: .venv/installed-dev       ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev        ## the tutorial, English and Chinese: draws its figures and builds site/
	$(BIN)/python docs/site/figures.py
	$(BIN)/mkdocs build --quiet --strict -f docs/site/mkdocs.yml
	$(BIN)/mkdocs build --quiet --strict -f docs/site/zh.yml

bench: .venv/installed-dev       ## how cost grows, and speed and memory beside others; results go to benchmarks/results/
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/resolution.py
	$(BIN)/python benchmarks/speed.py

bench-backends: .venv/installed-dev ## compiled, and exported to OpenVINO and ONNX Runtime, beside others
	$(BIN)/python benchmarks/backends.py

bench-gpu: .venv/installed-dev   ## on an NVIDIA GPU: is the fused kernel right, and how fast is it beside timm
	$(BIN)/python benchmarks/gpu.py --fresh --part proof --part tiles --part speed --part profile --part more

clean:                           ## removes the environment and everything made by a run
	rm -rf .venv runs site docs/site/*/figures .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed-demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "swindow needs Python 3.10 or newer, got " + sys.version.split()[0] + "; try PYTHON=python3.12 make")'
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,explain]'
	touch $@

.venv/installed-dev: .venv/installed-demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,peers,docs,dev]'
	touch $@
